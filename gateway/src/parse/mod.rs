//! Query text → statements with source positions.
//!
//! Lives here: splitting a query text at its semicolons, sqlparser for what it can parse, and in front of it the
//! statements that it cannot (`utility`, `copy`) or that need a few tokens rewritten first (`shim`).
//! Not here: what names and types mean (`cortex_planner::bind`).
//! Bounds: nesting by `NESTING_MAX`, flat operator chains by `CHAIN_MAX`; both are checked on tokens, before any
//! recursive code sees the statement.

mod copy;
mod cursor;
mod lexing;
mod shim;
mod utility;

use std::sync::Arc;

use cortex_planner::{
    CortexDialect,
    bind::ddl::{DdlCommand, is_ddl, parse_ddl},
};
use sqlparser::{
    ast::Statement,
    parser::{Parser, ParserError},
    tokenizer::{Location, Token, TokenWithSpan, Tokenizer},
};

pub use self::{
    copy::{CopyDirection, CopyFormat, CopyOptions, CopySource, CopyStatement},
    utility::{
        DiscardTarget, ExplainFormat, ExplainOptions, FetchCount, IsolationLevel, SetScope,
        SetValue, TransactionStatement,
    },
};
use crate::error::{PgError, SqlState};

/// Parentheses and brackets inside each other. Postgres stops at its stack depth, at some thousands.
const NESTING_MAX: usize = 250;

/// Operators, casts and keywords like AND in one list element: a left-deep tree of that depth must fit the stack
/// of every recursive pass behind the parser.
const CHAIN_MAX: usize = 4_000;

/// sqlparser's own depth counter; two to three levels go with each parenthesis.
const RECURSION_MAX: usize = 1_000;

/// Statements in one simple query.
const STATEMENTS_MAX: usize = 10_000;

/// A parsed statement.
#[derive(Clone, Debug)]
pub enum Ast {
    /// Queries and DML, as sqlparser has them.
    Sql(Box<Statement>),
    /// Schema changes: read by the planner's own parser.
    Ddl(Box<DdlCommand>),
    Transaction(TransactionStatement),
    Set {
        name: String,
        value: SetValue,
        scope: SetScope,
    },
    Show {
        name: Option<String>,
    },
    /// RESET name, or ALL.
    Reset {
        name: Option<String>,
    },
    Discard(DiscardTarget),
    Copy(Box<CopyStatement>),
    Explain {
        options: ExplainOptions,
        statement: Box<Ast>,
    },
    /// `VACUUM [ANALYZE]` and ANALYZE: the tables named, none for all.
    Maintenance {
        command: &'static str,
        tables: Vec<Vec<String>>,
    },
    Checkpoint,
    Prepare {
        name: String,
        types: Vec<String>,
        statement: Box<ParsedText>,
    },
    Execute {
        name: String,
        arguments: Vec<sqlparser::ast::Expr>,
    },
    /// `None`: ALL.
    Deallocate {
        name: Option<String>,
    },
    DeclareCursor {
        name: String,
        hold: bool,
        scroll: bool,
        query: Box<ParsedText>,
    },
    Fetch {
        cursor: String,
        count: FetchCount,
        discard: bool,
    },
    /// `None`: ALL.
    CloseCursor {
        name: Option<String>,
    },
    /// UNLISTEN: harmless, since LISTEN is refused.
    Unlisten,
}

/// A statement inside another one, with its own text.
#[derive(Clone, Debug)]
pub struct ParsedText {
    pub sql: Arc<str>,
    pub ast: Ast,
}

/// One statement of a query text.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// Its own text; spans in the AST are relative to it.
    pub sql: Arc<str>,
    /// Characters of the query text before `sql`.
    pub offset: usize,
    pub ast: Arc<Ast>,
}

/// Parses every statement of a query text; empty for blanks and comments alone.
pub fn parse(sql: &str) -> Result<Vec<Parsed>, PgError> {
    let tokens = tokenize(sql)?;
    let pieces: Vec<&[TokenWithSpan]> = tokens
        .split(|token| token.token == Token::SemiColon)
        .filter(|piece| piece.iter().any(|token| is_significant(&token.token)))
        .collect();
    if pieces.len() > STATEMENTS_MAX {
        return Err(PgError::new(
            SqlState::PROGRAM_LIMIT_EXCEEDED,
            format!("a query text may hold at most {STATEMENTS_MAX} statements"),
        ));
    }
    if let [piece] = pieces[..] {
        let text: Arc<str> = sql.into();
        let ast = parse_tokens(&text, piece.to_vec())?;
        return Ok(vec![Parsed { sql: text, offset: 0, ast: Arc::new(ast) }]);
    }
    pieces.into_iter().map(|piece| parse_piece(sql, piece)).collect()
}

/// One of several statements: its text is cut out and read again, so that positions count from its own start.
fn parse_piece(sql: &str, piece: &[TokenWithSpan]) -> Result<Parsed, PgError> {
    let first = piece.iter().find(|token| is_significant(&token.token));
    let start = first.map_or(0, |token| byte_offset(sql, token.span.start));
    let end = piece.last().map_or(sql.len(), |token| byte_offset(sql, token.span.end));
    let text: Arc<str> = sql.get(start..end).unwrap_or_default().into();
    let offset = sql.get(..start).unwrap_or_default().chars().count();
    let ast = tokenize(&text)
        .and_then(|tokens| parse_tokens(&text, tokens))
        .map_err(|error| error.shifted(offset))?;
    Ok(Parsed { sql: text, offset, ast: Arc::new(ast) })
}

fn is_significant(token: &Token) -> bool {
    !matches!(token, Token::Whitespace(_) | Token::EOF)
}

fn tokenize(sql: &str) -> Result<Vec<TokenWithSpan>, PgError> {
    Tokenizer::new(&CortexDialect, sql)
        .with_unescape(true)
        .tokenize_with_location()
        .map(|tokens| lexing::join_strings(lexing::split_signs(tokens)))
        .map_err(|error| {
            PgError::new(SqlState::SYNTAX_ERROR, lexer_message(&error.message))
                .at(char_position(sql, error.location))
        })
}

/// Postgres's words for what the lexer found.
fn lexer_message(message: &str) -> String {
    let unterminated = [
        ("Unterminated string literal", "unterminated quoted string"),
        ("Unterminated dollar-quoted", "unterminated dollar-quoted string"),
        ("Unterminated encoded string literal", "unterminated quoted string"),
        ("Expected close delimiter '\"'", "unterminated quoted identifier"),
        ("Unexpected EOF while in a multi-line comment", "unterminated /* comment"),
    ];
    unterminated
        .iter()
        .find(|(theirs, _)| message.starts_with(theirs))
        .map_or_else(|| format!("syntax error: {message}"), |(_, ours)| (*ours).to_owned())
}

/// Parses the tokens of exactly one statement.
fn parse_tokens(sql: &str, tokens: Vec<TokenWithSpan>) -> Result<Ast, PgError> {
    check_bounds(sql, &tokens)?;
    if let Some(ast) = utility::parse(sql, &tokens)? {
        return Ok(ast);
    }
    if let Some(copy) = copy::parse(sql, &tokens)? {
        return Ok(Ast::Copy(Box::new(copy)));
    }
    let mut words = tokens.iter().filter_map(|token| match &token.token {
        Token::Word(word) => Some(word.value.as_str()),
        _ => None,
    });
    if is_ddl(words.next().unwrap_or_default(), words.next().unwrap_or_default()) {
        return parse_schema_change(sql, tokens);
    }
    let mut tokens = shim::rewrite(tokens);
    let overriding = shim::take_overriding(&mut tokens);
    if let Some(token) = lexing::quoted_alias(&tokens) {
        return Err(near(sql, token));
    }
    let mut statement = parse_sql(sql, tokens)?;
    if let Some(overriding) = overriding
        && !overriding.attach(&mut statement)
    {
        return Err(near(sql, &overriding.token));
    }
    Ok(Ast::Sql(Box::new(statement)))
}

fn parse_schema_change(sql: &str, tokens: Vec<TokenWithSpan>) -> Result<Ast, PgError> {
    let dialect = CortexDialect;
    let mut parser = Parser::new(&dialect)
        .with_recursion_limit(RECURSION_MAX)
        .with_tokens_with_locations(tokens);
    Ok(Ast::Ddl(Box::new(parse_ddl(&mut parser, sql)?)))
}

/// sqlparser over tokens, to the end of the statement.
fn parse_sql(sql: &str, tokens: Vec<TokenWithSpan>) -> Result<Statement, PgError> {
    let dialect = CortexDialect;
    let mut parser = Parser::new(&dialect)
        .with_recursion_limit(RECURSION_MAX)
        .with_tokens_with_locations(tokens);
    let statement = parser.parse_statement().map_err(|error| syntax_error(sql, &error))?;
    let rest = parser.peek_token_ref();
    if rest.token != Token::EOF {
        return Err(near(sql, rest));
    }
    Ok(statement)
}

/// Parses one scalar expression, e.g. an argument of EXECUTE.
fn parse_expression(
    sql: &str,
    tokens: Vec<TokenWithSpan>,
) -> Result<sqlparser::ast::Expr, PgError> {
    let dialect = CortexDialect;
    let mut parser = Parser::new(&dialect)
        .with_recursion_limit(RECURSION_MAX)
        .with_tokens_with_locations(tokens);
    let expression = parser.parse_expr().map_err(|error| syntax_error(sql, &error))?;
    let rest = parser.peek_token_ref();
    if rest.token != Token::EOF {
        return Err(near(sql, rest));
    }
    Ok(expression)
}

/// Parses a type's name, e.g. of PREPARE's parameters.
pub fn parse_type(text: &str) -> Result<sqlparser::ast::DataType, PgError> {
    let dialect = CortexDialect;
    let mut parser = Parser::new(&dialect).with_tokens_with_locations(tokenize(text)?);
    let ty = parser.parse_data_type().map_err(|error| syntax_error(text, &error))?;
    let rest = parser.peek_token_ref();
    if rest.token != Token::EOF {
        return Err(near(text, rest));
    }
    Ok(ty)
}

/// Refuses what would overflow a stack later: deep nesting and long operator chains.
fn check_bounds(sql: &str, tokens: &[TokenWithSpan]) -> Result<(), PgError> {
    // One counter of chained operators for each open parenthesis; a comma starts the next element.
    let mut chains = vec![0usize];
    for token in tokens {
        match &token.token {
            Token::LParen | Token::LBracket => chains.push(0),
            Token::RParen | Token::RBracket => {
                if chains.len() > 1 {
                    chains.pop();
                }
            }
            Token::Comma => {
                if let Some(chain) = chains.last_mut() {
                    *chain = 0;
                }
            }
            Token::Word(word) if word.quote_style.is_none() && !is_operator_word(&word.value) => {}
            Token::Whitespace(_)
            | Token::Number(..)
            | Token::SingleQuotedString(_)
            | Token::Period
            | Token::Placeholder(_) => {}
            _ => {
                if let Some(chain) = chains.last_mut() {
                    *chain += 1;
                }
            }
        }
        if chains.len() > NESTING_MAX || chains.last().is_some_and(|chain| *chain > CHAIN_MAX) {
            return Err(PgError::new(
                SqlState::STATEMENT_TOO_COMPLEX,
                "statement is too complex",
            )
            .at(char_position(sql, token.span.start))
            .with_hint(format!(
                "At most {NESTING_MAX} nested parentheses and {CHAIN_MAX} operators in one expression \
                 are planned; use IN (...), ANY (...) or a join against VALUES for long lists."
            )));
        }
    }
    Ok(())
}

fn is_operator_word(word: &str) -> bool {
    const WORDS: [&str; 13] = [
        "and",
        "or",
        "not",
        "is",
        "like",
        "ilike",
        "between",
        "in",
        "when",
        "union",
        "intersect",
        "except",
        "join",
    ];
    WORDS.iter().any(|operator| word.eq_ignore_ascii_case(operator))
}

/// sqlparser says where in its text: `... found: FOO at Line: 1, Column: 8`.
fn syntax_error(sql: &str, error: &ParserError) -> PgError {
    let message = match error {
        ParserError::TokenizerError(message) | ParserError::ParserError(message) => message,
        ParserError::RecursionLimitExceeded => {
            return PgError::new(SqlState::STATEMENT_TOO_COMPLEX, "statement is too complex");
        }
    };
    let location = message.rsplit_once(" at Line: ").and_then(|(_, place)| {
        let (line, column) = place.split_once(", Column: ")?;
        Some(Location { line: line.trim().parse().ok()?, column: column.trim().parse().ok()? })
    });
    match location {
        Some(location) => near_text(sql, location),
        None if message.ends_with("found: EOF") || message.contains("found: EOF") => {
            end_of_input(sql)
        }
        None => PgError::new(SqlState::SYNTAX_ERROR, format!("syntax error: {message}")),
    }
}

/// `syntax error at or near "x"` at a token.
fn near(sql: &str, token: &TokenWithSpan) -> PgError {
    if token.token == Token::EOF {
        return end_of_input(sql);
    }
    near_text(sql, token.span.start)
}

fn near_text(sql: &str, location: Location) -> PgError {
    let start = byte_offset(sql, location);
    let rest = sql.get(start..).unwrap_or_default();
    let word = first_lexeme(rest);
    if word.is_empty() {
        return end_of_input(sql);
    }
    PgError::new(SqlState::SYNTAX_ERROR, format!("syntax error at or near \"{word}\""))
        .at(char_position(sql, location))
}

fn end_of_input(sql: &str) -> PgError {
    PgError::new(SqlState::SYNTAX_ERROR, "syntax error at end of input")
        .at(Some(sql.trim_end().trim_end_matches(';').chars().count() + 1))
}

/// The first token of a text as it is written.
fn first_lexeme(text: &str) -> &str {
    let Ok(tokens) = Tokenizer::new(&CortexDialect, text).tokenize_with_location() else {
        return text.split_whitespace().next().unwrap_or_default();
    };
    tokens
        .first()
        .map_or("", |token| text.get(..byte_offset(text, token.span.end)).unwrap_or_default())
}

/// Byte offset of a location (lines and columns count from 1, in characters).
fn byte_offset(sql: &str, location: Location) -> usize {
    if location.line == 0 {
        return sql.len();
    }
    let mut line_start = 0;
    for _ in 1..location.line {
        match sql.get(line_start..).and_then(|rest| rest.find('\n')) {
            Some(newline) => line_start += newline + 1,
            None => return sql.len(),
        }
    }
    let column = usize::try_from(location.column.saturating_sub(1)).unwrap_or(usize::MAX);
    let line = sql.get(line_start..).unwrap_or_default();
    line.char_indices().nth(column).map_or(sql.len(), |(offset, _)| line_start + offset)
}

/// Character position from 1, as ErrorResponse has it.
fn char_position(sql: &str, location: Location) -> Option<usize> {
    if location.line == 0 {
        return None;
    }
    let bytes = byte_offset(sql, location);
    Some(sql.get(..bytes).unwrap_or_default().chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(sql: &str) -> (String, Option<usize>) {
        let error = parse(sql).expect_err("must not parse");
        (error.message.clone(), error.position)
    }

    #[test]
    fn statements_are_split_with_their_offsets() {
        let parsed = parse("select 1; ; select 'a;b' ;").expect("parses");
        let texts: Vec<(&str, usize)> = parsed.iter().map(|it| (&*it.sql, it.offset)).collect();
        assert_eq!(texts, [("select 1", 0), ("select 'a;b' ", 12)]);
        assert!(parse(" -- nothing\n").expect("parses").is_empty());
    }

    #[test]
    fn syntax_errors_point_at_the_word() {
        assert_eq!(error("selec 1").0, "syntax error at or near \"selec\"");
        assert_eq!(
            error("select 1; select a from t where )"),
            ("syntax error at or near \")\"".to_owned(), Some(33))
        );
        assert_eq!(error("select * from").0, "syntax error at end of input");
        assert_eq!(error("select 'x"), ("unterminated quoted string".to_owned(), Some(8)));
    }

    #[test]
    fn tokens_are_postgresqls() {
        let select = |sql: &str| match &*parse(sql).expect(sql)[0].ast {
            Ast::Sql(statement) => statement.to_string(),
            other => panic!("{other:?}"),
        };
        assert_eq!(select("select a>=-1, b<>-c, 2*-3"), "SELECT a >= -1, b <> -c, 2 * -3");
        assert_eq!(select("select 'a' -- b\n 'c'"), "SELECT 'ac'");
        assert_eq!(error("select a, 'b' 'c'"), (near_message("'c'"), Some(15)));
        assert_eq!(error("select 1 as 'b'"), (near_message("'b'"), Some(13)));
        assert_eq!(error("select 1 < 2 < 3"), (near_message("<"), Some(14)));
    }

    fn near_message(word: &str) -> String {
        format!("syntax error at or near \"{word}\"")
    }

    /// Calls inside calls are read once, not twice for each level.
    #[test]
    fn nested_calls_are_read_in_linear_time() {
        let nested = format!("select {}1{}", "abs(".repeat(200), ")".repeat(200));
        assert!(parse(&nested).is_ok());
    }

    #[test]
    fn hostile_depth_is_refused_before_recursion() {
        let nested = format!("select {}1{}", "(".repeat(5_000), ")".repeat(5_000));
        assert_eq!(error(&nested).0, "statement is too complex");
        let chain = format!("select 1{}", " or 1".repeat(20_000));
        assert_eq!(error(&chain).0, "statement is too complex");
        let list = format!("select 1 in (1{})", ",1".repeat(50_000));
        assert!(parse(&list).is_ok());
    }

    #[test]
    fn copy_takes_both_option_syntaxes() {
        for sql in [
            "copy t (a, b) from stdin with (format csv, header, null 'x')",
            "copy t (a, b) from stdin csv header null as 'x'",
            "COPY public.t(a, b) FROM STDIN WITH CSV HEADER NULL 'x'",
        ] {
            let parsed = parse(sql).expect("parses");
            let Ast::Copy(copy) = &*parsed[0].ast else { panic!("not COPY") };
            assert!(copy.options.header && copy.options.null.as_deref() == Some("x"));
            assert_eq!(copy.options.format, CopyFormat::Csv);
        }
        assert_eq!(
            error("copy t from '/etc/passwd'").0,
            "COPY from or to files and programs of the server is not allowed"
        );
    }
}
