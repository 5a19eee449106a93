//! The SQL dialect that sqlparser reads for us: its PostgreSQL one, with PostgreSQL's operator precedence.
//!
//! Lives here: how tightly operators bind, which of them do not chain, and the few infix forms that sqlparser reads otherwise
//! or not at all (COLLATE after any expression, BETWEEN SYMMETRIC, ISNULL, `LIKE ANY (...)`, `type 'literal'` of every type).
//! Everybody who parses SQL here uses this dialect, so that a stored view means what the statement meant.
//!
//! The order is that of PostgreSQL's `gram.y`, loosest first:
//!
//! ```text
//! OR · AND · NOT · IS* · < > = <= >= <>* · BETWEEN IN LIKE SIMILAR* · other operators · + - · * / % · ^ · AT TIME ZONE
//!  · COLLATE · sign · [ ] · :: · .                                     (* does not chain: `1 < 2 < 3` is an error)
//! ```

use std::any::TypeId;

use cortex_functions::registry;
use sqlparser::{
    ast::{
        BinaryOperator, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList,
        FunctionArguments, Ident, ObjectName, TypedString, UnaryOperator,
    },
    dialect::{Dialect, PostgreSqlDialect, Precedence},
    keywords::Keyword,
    parser::{Parser, ParserError},
    tokenizer::{Token, TokenWithSpan},
};

/// Below every operator.
const NONE: u8 = 0;

const NOT: u8 = 30;
const IS: u8 = 40;
const COMPARISON: u8 = 50;
const MEMBERSHIP: u8 = 60;
const OPERATOR: u8 = 70;

/// A sign binds tighter than `^`, AT TIME ZONE and COLLATE, looser than a subscript or a cast.
const SIGN: u8 = 125;

/// PostgreSQL 15's SQL.
#[derive(Clone, Copy, Debug, Default)]
pub struct CortexDialect;

const BASE: PostgreSqlDialect = PostgreSqlDialect {};

macro_rules! as_postgres {
    ($($property:ident),* $(,)?) => {
        $(fn $property(&self) -> bool { BASE.$property() })*
    };
}

impl Dialect for CortexDialect {
    fn dialect(&self) -> TypeId {
        BASE.dialect()
    }

    fn identifier_quote_style(&self, identifier: &str) -> Option<char> {
        BASE.identifier_quote_style(identifier)
    }

    fn is_delimited_identifier_start(&self, ch: char) -> bool {
        BASE.is_delimited_identifier_start(ch)
    }

    fn is_identifier_start(&self, ch: char) -> bool {
        BASE.is_identifier_start(ch)
    }

    fn is_identifier_part(&self, ch: char) -> bool {
        BASE.is_identifier_part(ch)
    }

    fn is_reserved_for_identifier(&self, keyword: Keyword) -> bool {
        BASE.is_reserved_for_identifier(keyword)
    }

    fn is_custom_operator_part(&self, ch: char) -> bool {
        BASE.is_custom_operator_part(ch)
    }

    fn prec_value(&self, precedence: Precedence) -> u8 {
        BASE.prec_value(precedence)
    }

    // Without two of sqlparser's own: `supports_named_fn_args_with_expr_name` reads every argument twice, which is exponential
    // in the depth of calls, and `..._with_colon_operator` is for json_object of PostgreSQL 16.
    as_postgres! {
        supports_unicode_string_literal,
        supports_filter_during_aggregation,
        supports_group_by_expr,
        allow_extract_custom,
        allow_extract_single_quotes,
        supports_create_index_with_clause,
        supports_explain_with_utility_options,
        supports_listen_notify,
        supports_comment_on,
        supports_bitwise_shift_operators,
        supports_load_extension,
        supports_empty_projections,
        supports_nested_comments,
        supports_string_escape_constant,
        supports_numeric_literal_underscores,
        supports_array_typedef_with_brackets,
        supports_geometric_types,
        supports_set_names,
        supports_alter_column_type_using,
        supports_interval_options,
        supports_insert_table_alias,
        supports_create_table_like_parenthesized,
        supports_select_wildcard_with_alias,
        supports_comma_separated_trim,
        supports_xml_expressions,
        supports_comment_optimizer_hint,
    }

    fn supports_named_fn_args_with_assignment_operator(&self) -> bool {
        true
    }

    /// Words that need AS to name a column; all others may stand alone, as `SELECT 1 value`.
    fn is_column_alias(&self, keyword: &Keyword, _parser: &mut Parser) -> bool {
        !matches!(
            keyword,
            Keyword::ARRAY
                | Keyword::AS
                | Keyword::CHAR
                | Keyword::CHARACTER
                | Keyword::CREATE
                | Keyword::DAY
                | Keyword::EXCEPT
                | Keyword::FETCH
                | Keyword::FILTER
                | Keyword::FOR
                | Keyword::FROM
                | Keyword::GRANT
                | Keyword::GROUP
                | Keyword::HAVING
                | Keyword::HOUR
                | Keyword::INTERSECT
                | Keyword::INTO
                | Keyword::LIMIT
                | Keyword::MINUTE
                | Keyword::MONTH
                | Keyword::NOTNULL
                | Keyword::OFFSET
                | Keyword::ON
                | Keyword::ORDER
                | Keyword::OVER
                | Keyword::OVERLAPS
                | Keyword::PRECISION
                | Keyword::RETURNING
                | Keyword::SECOND
                | Keyword::TO
                | Keyword::UNION
                | Keyword::VARYING
                | Keyword::WHERE
                | Keyword::WINDOW
                | Keyword::WITH
                | Keyword::WITHIN
                | Keyword::WITHOUT
                | Keyword::YEAR
        )
    }

    fn get_next_precedence(&self, parser: &Parser) -> Option<Result<u8, ParserError>> {
        let token = parser.peek_token_ref();
        let precedence = match &token.token {
            // No expression goes on with a string; sqlparser would take it for an alias.
            Token::SingleQuotedString(_)
            | Token::EscapedStringLiteral(_)
            | Token::DollarQuotedString(_)
            | Token::NationalStringLiteral(_)
            | Token::UnicodeStringLiteral(_) => return Some(Err(unexpected(token))),
            Token::Word(word) if word.quote_style.is_some() => NONE,
            Token::Word(word) => match word.keyword {
                Keyword::NOT => match &parser.peek_nth_token_ref(1).token {
                    Token::Word(next) if is_membership(next.keyword) => MEMBERSHIP,
                    _ => NONE,
                },
                Keyword::NOTNULL => IS,
                Keyword::OPERATOR => OPERATOR,
                // Operators of other dialects, names here.
                Keyword::XOR
                | Keyword::DIV
                | Keyword::RLIKE
                | Keyword::REGEXP
                | Keyword::MATCH
                | Keyword::MEMBER => NONE,
                _ if is_word(token, "isnull") => IS,
                _ => return BASE.get_next_precedence(parser),
            },
            Token::Tilde
            | Token::TildeAsterisk
            | Token::ExclamationMarkTilde
            | Token::ExclamationMarkTildeAsterisk
            | Token::DoubleTilde
            | Token::DoubleTildeAsterisk
            | Token::ExclamationMarkDoubleTilde
            | Token::ExclamationMarkDoubleTildeAsterisk
            | Token::DoubleEq
            | Token::Spaceship => OPERATOR,
            // `name := value` and the factorial that PostgreSQL 14 dropped.
            Token::Assignment | Token::ExclamationMark => NONE,
            _ => return BASE.get_next_precedence(parser),
        };
        Some(Ok(precedence))
    }

    fn parse_prefix(&self, parser: &mut Parser) -> Option<Result<Expr, ParserError>> {
        let token = parser.peek_token_ref();
        let (op, precedence) = match &token.token {
            Token::Minus => (UnaryOperator::Minus, SIGN),
            Token::Plus => (UnaryOperator::Plus, SIGN),
            Token::Tilde => (UnaryOperator::BitwiseNot, OPERATOR),
            Token::AtSign => (UnaryOperator::PGAbs, OPERATOR),
            Token::PGSquareRoot => (UnaryOperator::PGSquareRoot, OPERATOR),
            Token::PGCubeRoot => (UnaryOperator::PGCubeRoot, OPERATOR),
            Token::DoubleExclamationMark => (UnaryOperator::PGPrefixFactorial, OPERATOR),
            Token::Word(word) if word.quote_style.is_none() && word.keyword == Keyword::NOT => {
                (UnaryOperator::Not, NOT)
            }
            Token::Word(word) => {
                let name = match word.quote_style {
                    None => word.value.to_lowercase(),
                    Some(_) => word.value.clone(),
                };
                let next = &parser.peek_nth_token_ref(1).token;
                // INTERVAL '1' DAY has a syntax of its own.
                let is_literal = matches!(next, Token::SingleQuotedString(_))
                    && word.keyword != Keyword::INTERVAL
                    && registry::type_by_name(&name).is_some();
                return is_literal.then(|| typed_literal(parser));
            }
            // sqlparser takes VALUES for a function's name.
            Token::LParen if is_keyword(parser.peek_nth_token_ref(1), Keyword::VALUES) => {
                return Some(parse_values(parser));
            }
            _ => return None,
        };
        parser.advance_token();
        Some(
            parser.parse_subexpr(precedence).map(|expr| Expr::UnaryOp { op, expr: Box::new(expr) }),
        )
    }

    fn parse_infix(
        &self,
        parser: &mut Parser,
        left: &Expr,
        precedence: u8,
    ) -> Option<Result<Expr, ParserError>> {
        if precedence == open_level(left) {
            return Some(Err(unexpected(parser.peek_token_ref())));
        }
        let token = parser.peek_token_ref();
        match &token.token {
            Token::DoubleEq => Some(custom_operator(parser, left, "==")),
            Token::Word(word) if word.quote_style.is_none() => match word.keyword {
                Keyword::IS => parse_is_distinct(parser, left),
                Keyword::COLLATE => Some(parse_collate(parser, left)),
                Keyword::NOT
                | Keyword::BETWEEN
                | Keyword::LIKE
                | Keyword::ILIKE
                | Keyword::SIMILAR => parse_membership(parser, left),
                Keyword::NOTNULL => {
                    parser.advance_token();
                    Some(Ok(Expr::IsNotNull(Box::new(left.clone()))))
                }
                _ if is_word(token, "isnull") => {
                    parser.advance_token();
                    Some(Ok(Expr::IsNull(Box::new(left.clone()))))
                }
                _ => None,
            },
            _ => None,
        }
    }
}

/// The level of an operator that does not chain, if the expression ends with its right side: no second one may follow. What
/// ends with a parenthesis, as `x IN (...)`, or with a keyword, as `x IS NULL`, may go on.
fn open_level(expr: &Expr) -> u8 {
    match expr {
        Expr::BinaryOp {
            op:
                BinaryOperator::Eq
                | BinaryOperator::NotEq
                | BinaryOperator::Lt
                | BinaryOperator::LtEq
                | BinaryOperator::Gt
                | BinaryOperator::GtEq,
            ..
        } => COMPARISON,
        Expr::IsDistinctFrom(..) | Expr::IsNotDistinctFrom(..) => IS,
        Expr::Between { .. } | Expr::Like { .. } | Expr::ILike { .. } | Expr::SimilarTo { .. } => {
            MEMBERSHIP
        }
        // No operator has this level.
        _ => u8::MAX,
    }
}

fn is_membership(keyword: Keyword) -> bool {
    matches!(
        keyword,
        Keyword::IN | Keyword::BETWEEN | Keyword::LIKE | Keyword::ILIKE | Keyword::SIMILAR
    )
}

fn is_keyword(token: &TokenWithSpan, keyword: Keyword) -> bool {
    matches!(&token.token, Token::Word(word) if word.quote_style.is_none() && word.keyword == keyword)
}

/// Whether a token is this word, unquoted, in any case.
pub fn is_word(token: &TokenWithSpan, word: &str) -> bool {
    matches!(&token.token, Token::Word(found) if found.quote_style.is_none() && found.value.eq_ignore_ascii_case(word))
}

/// In the words of sqlparser's own errors, so that positions are found the same way.
fn unexpected(token: &TokenWithSpan) -> ParserError {
    ParserError::ParserError(format!("Unexpected: {token}{}", token.span.start))
}

/// `(VALUES (1))` as a value.
fn parse_values(parser: &mut Parser) -> Result<Expr, ParserError> {
    parser.expect_token(&Token::LParen)?;
    let query = parser.parse_query()?;
    parser.expect_token(&Token::RParen)?;
    Ok(Expr::Subquery(query))
}

/// `type 'literal'`, of types that sqlparser does not know too.
fn typed_literal(parser: &mut Parser) -> Result<Expr, ParserError> {
    let data_type = parser.parse_data_type()?;
    let value = parser.parse_value()?;
    Ok(Expr::TypedString(TypedString { data_type, value, uses_odbc_syntax: false }))
}

fn custom_operator(parser: &mut Parser, left: &Expr, name: &str) -> Result<Expr, ParserError> {
    parser.advance_token();
    let right = parser.parse_subexpr(OPERATOR)?;
    let op = BinaryOperator::Custom(name.to_owned());
    Ok(Expr::BinaryOp { left: Box::new(left.clone()), op, right: Box::new(right) })
}

/// `left IS [NOT] DISTINCT FROM right`; the other forms of IS have no right side and are sqlparser's.
fn parse_is_distinct(parser: &mut Parser, left: &Expr) -> Option<Result<Expr, ParserError>> {
    let negated =
        parser.parse_keywords(&[Keyword::IS, Keyword::NOT, Keyword::DISTINCT, Keyword::FROM]);
    if !negated && !parser.parse_keywords(&[Keyword::IS, Keyword::DISTINCT, Keyword::FROM]) {
        return None;
    }
    let form = if negated { Expr::IsNotDistinctFrom } else { Expr::IsDistinctFrom };
    Some(parser.parse_subexpr(IS).map(|right| form(Box::new(left.clone()), Box::new(right))))
}

fn parse_collate(parser: &mut Parser, left: &Expr) -> Result<Expr, ParserError> {
    parser.advance_token();
    let collation = parser.parse_object_name(false)?;
    Ok(Expr::Collate { expr: Box::new(left.clone()), collation })
}

/// BETWEEN, LIKE, ILIKE and SIMILAR TO; `None` for IN, which sqlparser reads right.
fn parse_membership(parser: &mut Parser, left: &Expr) -> Option<Result<Expr, ParserError>> {
    let word = |n: usize| match &parser.peek_nth_token_ref(n).token {
        Token::Word(word) if word.quote_style.is_none() => word.keyword,
        _ => Keyword::NoKeyword,
    };
    let negated = word(0) == Keyword::NOT;
    let at = usize::from(negated);
    let (kind, next) = (word(at), word(at + 1));
    if !is_membership(kind) || kind == Keyword::IN {
        return None;
    }
    (0..=at).for_each(|_| parser.advance_token());
    let op = match (kind, negated) {
        (Keyword::BETWEEN, _) => return Some(parse_between(parser, left, negated)),
        (Keyword::LIKE, false) => BinaryOperator::PGLikeMatch,
        (Keyword::LIKE, true) => BinaryOperator::PGNotLikeMatch,
        (Keyword::ILIKE, false) => BinaryOperator::PGILikeMatch,
        (Keyword::ILIKE, true) => BinaryOperator::PGNotILikeMatch,
        _ => return Some(parse_like(parser, left, kind, negated)),
    };
    if !matches!(next, Keyword::ANY | Keyword::SOME | Keyword::ALL) {
        return Some(parse_like(parser, left, kind, negated));
    }
    parser.advance_token();
    Some(parse_quantified(parser, left, op, next))
}

/// After LIKE, ILIKE and SIMILAR: the pattern, and what escapes in it, which may be any expression.
fn parse_like(
    parser: &mut Parser,
    left: &Expr,
    kind: Keyword,
    negated: bool,
) -> Result<Expr, ParserError> {
    if kind == Keyword::SIMILAR {
        parser.expect_keyword_is(Keyword::TO)?;
    }
    let mut pattern = Box::new(parser.parse_subexpr(MEMBERSHIP)?);
    let mut escape_char = None;
    if parser.parse_keyword(Keyword::ESCAPE) {
        let start = parser.peek_token_ref().clone();
        match parser.parse_subexpr(MEMBERSHIP)? {
            Expr::Value(value) => escape_char = Some(value),
            // The grammar makes this call of ESCAPE; sqlparser has room for a literal only.
            escape if kind != Keyword::SIMILAR => {
                *pattern = call("like_escape", [*pattern, escape]);
            }
            _ => return Err(unexpected(&start)),
        }
    }
    let expr = Box::new(left.clone());
    Ok(match kind {
        Keyword::LIKE => Expr::Like { negated, any: false, expr, pattern, escape_char },
        Keyword::ILIKE => Expr::ILike { negated, any: false, expr, pattern, escape_char },
        _ => Expr::SimilarTo { negated, expr, pattern, escape_char },
    })
}

fn call(name: &str, args: [Expr; 2]) -> Expr {
    let args = args.map(|arg| FunctionArg::Unnamed(FunctionArgExpr::Expr(arg))).into();
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment: None,
            args,
            clauses: Vec::new(),
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

/// After `left LIKE ANY`: a subquery or an array in parentheses.
fn parse_quantified(
    parser: &mut Parser,
    left: &Expr,
    compare_op: BinaryOperator,
    quantifier: Keyword,
) -> Result<Expr, ParserError> {
    let token = parser.peek_token_ref();
    if token.token != Token::LParen {
        return Err(unexpected(token));
    }
    let right = parser.parse_prefix()?;
    let (left, right) = (Box::new(left.clone()), Box::new(right));
    Ok(match quantifier {
        Keyword::ALL => Expr::AllOp { left, compare_op, right },
        _ => Expr::AnyOp { left, compare_op, right, is_some: quantifier == Keyword::SOME },
    })
}

/// After BETWEEN. The lower bound ends at AND, so comparisons in it need no parentheses; IS NULL, IN and the like do.
fn parse_between(parser: &mut Parser, left: &Expr, negated: bool) -> Result<Expr, ParserError> {
    let symmetric = parser.parse_keyword(Keyword::SYMMETRIC);
    if !symmetric {
        let _ = parser.parse_keyword(Keyword::ASYMMETRIC);
    }
    let start = parser.peek_token_ref().clone();
    let low = parser.parse_subexpr(NOT)?;
    if !is_restricted(&low) {
        return Err(unexpected(&start));
    }
    parser.expect_keyword_is(Keyword::AND)?;
    let high = parser.parse_subexpr(MEMBERSHIP)?;
    let between = |low: &Expr, high: &Expr| Expr::Between {
        expr: Box::new(left.clone()),
        negated,
        low: Box::new(low.clone()),
        high: Box::new(high.clone()),
    };
    if !symmetric {
        return Ok(between(&low, &high));
    }
    let op = if negated { BinaryOperator::And } else { BinaryOperator::Or };
    Ok(Expr::Nested(Box::new(Expr::BinaryOp {
        left: Box::new(between(&low, &high)),
        op,
        right: Box::new(between(&high, &low)),
    })))
}

/// Whether an expression is what the grammar calls `b_expr`, outside of parentheses.
fn is_restricted(expr: &Expr) -> bool {
    match expr {
        Expr::BinaryOp { left, op, right } => {
            !matches!(op, BinaryOperator::And | BinaryOperator::Or)
                && is_restricted(left)
                && is_restricted(right)
        }
        Expr::UnaryOp { op, expr } => *op != UnaryOperator::Not && is_restricted(expr),
        Expr::IsDistinctFrom(left, right) | Expr::IsNotDistinctFrom(left, right) => {
            is_restricted(left) && is_restricted(right)
        }
        Expr::IsNull(_)
        | Expr::IsNotNull(_)
        | Expr::IsTrue(_)
        | Expr::IsNotTrue(_)
        | Expr::IsFalse(_)
        | Expr::IsNotFalse(_)
        | Expr::IsUnknown(_)
        | Expr::IsNotUnknown(_)
        | Expr::InList { .. }
        | Expr::InSubquery { .. }
        | Expr::Between { .. }
        | Expr::Like { .. }
        | Expr::ILike { .. }
        | Expr::SimilarTo { .. }
        | Expr::AnyOp { .. }
        | Expr::AllOp { .. } => false,
        _ => true,
    }
}
