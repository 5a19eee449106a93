//! A cursor over tokens with Postgres's names and errors.

use sqlparser::{
    ast::{Expr, Query},
    dialect::{Dialect, Precedence},
    parser::{Parser, ParserError},
    tokenizer::{Location, Token},
};

use super::{QualifiedName, SourceExpr};
use crate::{CortexDialect, PlanError, PlanErrorKind};

/// Bytes of a name at most; longer ones are cut, as Postgres does.
pub const NAME_BYTES_MAX: usize = 63;

/// Cuts a name to what fits, at a character boundary.
pub fn truncate_name(mut name: String) -> String {
    if name.len() > NAME_BYTES_MAX {
        let end = (0..=NAME_BYTES_MAX).rev().find(|end| name.is_char_boundary(*end)).unwrap_or(0);
        name.truncate(end);
    }
    name
}

pub type Parsed<T> = Result<T, PlanError>;

/// Reads tokens of one statement.
pub struct Cursor<'p, 'd> {
    parser: &'p mut Parser<'d>,
    sql: &'p str,
}

impl<'p, 'd> Cursor<'p, 'd> {
    pub fn new(parser: &'p mut Parser<'d>, sql: &'p str) -> Self {
        Cursor { parser, sql }
    }

    /// The unquoted word at the cursor, in lower case.
    pub fn peek_word(&self) -> Option<String> {
        self.nth_word(0)
    }

    /// The unquoted word `n` tokens ahead, in lower case.
    pub fn nth_word(&self, n: usize) -> Option<String> {
        match &self.parser.peek_nth_token_ref(n).token {
            Token::Word(word) if word.quote_style.is_none() => Some(word.value.to_lowercase()),
            _ => None,
        }
    }

    pub fn at(&self, word: &str) -> bool {
        self.at_nth(0, word)
    }

    pub fn at_nth(&self, n: usize, word: &str) -> bool {
        match &self.parser.peek_nth_token_ref(n).token {
            Token::Word(found) => {
                found.quote_style.is_none() && found.value.eq_ignore_ascii_case(word)
            }
            _ => false,
        }
    }

    /// Takes these words if they all come next.
    pub fn eat(&mut self, words: &str) -> bool {
        let count = words.split(' ').count();
        if words.split(' ').enumerate().all(|(n, word)| self.at_nth(n, word)) {
            for _ in 0..count {
                self.parser.next_token();
            }
            return true;
        }
        false
    }

    pub fn expect(&mut self, words: &str) -> Parsed<()> {
        if self.eat(words) { Ok(()) } else { Err(self.unexpected()) }
    }

    /// The token `n` ahead.
    pub fn peek_nth(&self, n: usize) -> &Token {
        &self.parser.peek_nth_token_ref(n).token
    }

    /// An identifier, reserved words included.
    pub fn name_or_word(&mut self) -> Parsed<String> {
        match self.peek_word() {
            Some(word) => {
                self.skip();
                Ok(word)
            }
            None => self.name(),
        }
    }

    pub fn at_token(&self, token: &Token) -> bool {
        self.parser.peek_token_ref().token == *token
    }

    pub fn eat_token(&mut self, token: &Token) -> bool {
        self.parser.consume_token(token)
    }

    pub fn expect_token(&mut self, token: &Token) -> Parsed<()> {
        if self.eat_token(token) { Ok(()) } else { Err(self.unexpected()) }
    }

    pub fn at_end(&self) -> bool {
        matches!(self.parser.peek_token_ref().token, Token::EOF | Token::SemiColon)
    }

    pub fn expect_end(&self) -> Parsed<()> {
        if self.at_end() { Ok(()) } else { Err(self.unexpected()) }
    }

    /// Moves over the token at the cursor.
    pub fn skip(&mut self) {
        self.parser.next_token();
    }

    /// 42601 at the cursor.
    pub fn unexpected(&self) -> PlanError {
        let token = self.parser.peek_token();
        if matches!(token.token, Token::EOF) {
            return PlanError::new(PlanErrorKind::Syntax, "syntax error at end of input")
                .at(Some(self.sql.chars().count() + 1));
        }
        PlanError::new(
            PlanErrorKind::Syntax,
            format!("syntax error at or near \"{}\"", token.token),
        )
        .at(self.position())
    }

    /// Where the cursor is, in characters from 1.
    pub fn position(&self) -> Option<usize> {
        Some(self.offset(self.parser.peek_token_ref().span.start)? + 1)
    }

    /// Characters in front of a location.
    fn offset(&self, location: Location) -> Option<usize> {
        if location.line == 0 {
            return None;
        }
        let mut before = 0;
        for (number, line) in self.sql.split('\n').enumerate() {
            if number as u64 + 1 == location.line {
                return Some(before + location.column as usize - 1);
            }
            before += line.chars().count() + 1;
        }
        None
    }

    /// An identifier: quoted as it is, else in lower case.
    pub fn name(&mut self) -> Parsed<String> {
        let token = self.parser.peek_token();
        match token.token {
            Token::Word(word) => {
                if word.quote_style.is_none() && is_reserved(&word.value) {
                    return Err(self.unexpected());
                }
                self.parser.next_token();
                let name =
                    if word.quote_style.is_some() { word.value } else { word.value.to_lowercase() };
                Ok(truncate_name(name))
            }
            _ => Err(self.unexpected()),
        }
    }

    pub fn qualified_name(&mut self) -> Parsed<QualifiedName> {
        let position = self.position();
        let mut parts = vec![self.name()?];
        while self.eat_token(&Token::Period) {
            parts.push(self.name()?);
        }
        let name = parts.pop().unwrap_or_default();
        let schema = parts.pop();
        if let Some(database) = parts.pop()
            && database != "postgres"
        {
            return Err(PlanError::new(
                PlanErrorKind::Unsupported,
                "cross-database references are not implemented",
            )
            .at(position));
        }
        Ok(QualifiedName { schema, name, position })
    }

    pub fn names_in_parentheses(&mut self) -> Parsed<Vec<String>> {
        self.expect_token(&Token::LParen)?;
        let names = self.list(Self::name)?;
        self.expect_token(&Token::RParen)?;
        Ok(names)
    }

    /// One or more, with commas between them.
    pub fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Parsed<T>) -> Parsed<Vec<T>> {
        let mut items = vec![item(self)?];
        while self.eat_token(&Token::Comma) {
            items.push(item(self)?);
        }
        Ok(items)
    }

    pub fn if_exists(&mut self) -> bool {
        self.eat("if exists")
    }

    pub fn if_not_exists(&mut self) -> bool {
        self.eat("if not exists")
    }

    /// `CASCADE` → true, `RESTRICT` or nothing → false.
    pub fn cascade(&mut self) -> bool {
        if self.eat("cascade") {
            return true;
        }
        self.eat("restrict");
        false
    }

    pub fn string(&mut self) -> Parsed<String> {
        match self.parser.peek_token().token {
            Token::SingleQuotedString(text) | Token::EscapedStringLiteral(text) => {
                self.parser.next_token();
                Ok(text)
            }
            Token::DollarQuotedString(text) => {
                self.parser.next_token();
                Ok(text.value)
            }
            _ => Err(self.unexpected()),
        }
    }

    pub fn integer(&mut self) -> Parsed<i64> {
        let negative = if self.eat_token(&Token::Minus) {
            true
        } else {
            self.eat_token(&Token::Plus);
            false
        };
        match self.parser.peek_token().token {
            Token::Number(text, _) => {
                let text = if negative { format!("-{text}") } else { text };
                let value = text.parse().map_err(|_| self.unexpected())?;
                self.parser.next_token();
                Ok(value)
            }
            _ => Err(self.unexpected()),
        }
    }

    /// The value of a storage parameter: a string, a number, a word.
    pub fn option_value(&mut self) -> Parsed<String> {
        let negative = self.eat_token(&Token::Minus);
        let value = match self.parser.peek_token().token {
            Token::SingleQuotedString(text) | Token::EscapedStringLiteral(text) => text,
            Token::Number(text, _) => text,
            Token::Word(word) if word.quote_style.is_some() => word.value,
            Token::Word(word) => word.value.to_lowercase(),
            _ => return Err(self.unexpected()),
        };
        self.parser.next_token();
        Ok(if negative { format!("-{value}") } else { value })
    }

    /// `(name [= value], ...)`
    pub fn options(&mut self) -> Parsed<Vec<(String, String)>> {
        self.expect_token(&Token::LParen)?;
        let options = self.list(|cursor| {
            let mut name = cursor.name()?;
            while cursor.eat_token(&Token::Period) {
                name = format!("{name}.{}", cursor.name()?);
            }
            let value = if cursor.eat_token(&Token::Eq) {
                cursor.option_value()?
            } else {
                "true".to_owned()
            };
            Ok((name, value))
        })?;
        self.expect_token(&Token::RParen)?;
        Ok(options)
    }

    /// An expression as in CHECK (...).
    pub fn expr(&mut self) -> Parsed<SourceExpr> {
        let start = self.parser.peek_token_ref().span.start;
        let expr = self.parser.parse_expr().map_err(|error| self.parser_error(error))?;
        self.finish_expr(start, expr)
    }

    /// An expression as in DEFAULT: what NOT NULL may follow.
    pub fn default_expr(&mut self) -> Parsed<SourceExpr> {
        let start = self.parser.peek_token_ref().span.start;
        let lowest = CortexDialect.prec_value(Precedence::Is);
        let expr = self.parser.parse_subexpr(lowest).map_err(|error| self.parser_error(error))?;
        self.finish_expr(start, expr)
    }

    fn finish_expr(&self, start: Location, expr: Expr) -> Parsed<SourceExpr> {
        let end = self.parser.peek_token_ref().span.start;
        let sql = self.source(start, end).unwrap_or_else(|| expr.to_string());
        Ok(SourceExpr { expr, sql })
    }

    /// The text between two locations; to the end if the second has none.
    fn source(&self, start: Location, end: Location) -> Option<String> {
        let start = self.offset(start)?;
        let end = self.offset(end).unwrap_or(usize::MAX);
        let text: String = self.sql.chars().skip(start).take(end.checked_sub(start)?).collect();
        Some(text.trim_end_matches(|c: char| c.is_whitespace() || c == ';').to_owned())
    }

    /// A query with its text, up to where it ends.
    pub fn query(&mut self) -> Parsed<(Box<Query>, String)> {
        let start = self.parser.peek_token_ref().span.start;
        let query = self.parser.parse_query().map_err(|error| self.parser_error(error))?;
        let end = self.parser.peek_token_ref().span.start;
        let sql = self.source(start, end).unwrap_or_else(|| query.to_string());
        Ok((query, sql))
    }

    fn parser_error(&self, error: ParserError) -> PlanError {
        match error {
            ParserError::RecursionLimitExceeded => {
                PlanError::new(PlanErrorKind::TooComplex, "stack depth limit exceeded")
            }
            ParserError::ParserError(_) | ParserError::TokenizerError(_) => self.unexpected(),
        }
    }

    /// `((a + b))`-like text up to the parenthesis that closes the one just taken, which is taken too.
    pub fn skip_parentheses(&mut self) -> Parsed<()> {
        let mut depth = 1usize;
        while depth > 0 {
            match self.parser.peek_token_ref().token {
                Token::LParen => depth += 1,
                Token::RParen => depth -= 1,
                Token::EOF => return Err(self.unexpected()),
                _ => {}
            }
            self.parser.next_token();
        }
        Ok(())
    }
}

/// Words that Postgres does not take as a column or table name without quotes.
fn is_reserved(word: &str) -> bool {
    const RESERVED: &[&str] = &[
        "all",
        "analyse",
        "analyze",
        "and",
        "any",
        "array",
        "as",
        "asc",
        "asymmetric",
        "both",
        "case",
        "cast",
        "check",
        "collate",
        "column",
        "constraint",
        "create",
        "current_catalog",
        "current_date",
        "current_role",
        "current_time",
        "current_timestamp",
        "current_user",
        "default",
        "deferrable",
        "desc",
        "distinct",
        "do",
        "else",
        "end",
        "except",
        "false",
        "fetch",
        "for",
        "foreign",
        "from",
        "grant",
        "group",
        "having",
        "in",
        "initially",
        "intersect",
        "into",
        "lateral",
        "leading",
        "limit",
        "localtime",
        "localtimestamp",
        "not",
        "null",
        "offset",
        "on",
        "only",
        "or",
        "order",
        "placing",
        "primary",
        "references",
        "returning",
        "select",
        "session_user",
        "some",
        "symmetric",
        "table",
        "then",
        "to",
        "trailing",
        "true",
        "union",
        "unique",
        "user",
        "using",
        "variadic",
        "when",
        "where",
        "window",
        "with",
    ];
    RESERVED.binary_search(&word.to_ascii_lowercase().as_str()).is_ok()
}
