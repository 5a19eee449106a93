//! COPY with both of Postgres's option syntaxes.

use sqlparser::{
    ast::Statement,
    tokenizer::{Token, TokenWithSpan},
};

use super::{Ast, cursor::Cursor, parse_tokens, utility::boolean_option};
use crate::error::{PgError, SqlState};

#[derive(Clone, Debug)]
pub struct CopyStatement {
    pub source: CopySource,
    pub direction: CopyDirection,
    pub options: CopyOptions,
}

#[derive(Clone, Debug)]
pub enum CopySource {
    Table { name: Vec<String>, columns: Vec<String> },
    Query(Box<Statement>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyDirection {
    FromStdin,
    ToStdout,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CopyFormat {
    #[default]
    Text,
    Csv,
    Binary,
}

/// Options as given; defaults depend on the format and are filled in by the codec.
#[derive(Clone, Debug, Default)]
pub struct CopyOptions {
    pub format: CopyFormat,
    pub delimiter: Option<String>,
    pub null: Option<String>,
    pub header: bool,
    pub header_match: bool,
    pub quote: Option<String>,
    pub escape: Option<String>,
    /// `Some(vec![])` is `*`.
    pub force_quote: Option<Vec<String>>,
    pub force_not_null: Option<Vec<String>>,
    pub force_null: Option<Vec<String>>,
}

/// The statement if it is a COPY.
pub(super) fn parse(sql: &str, tokens: &[TokenWithSpan]) -> Result<Option<CopyStatement>, PgError> {
    let mut cursor = Cursor::new(sql, tokens);
    if !cursor.take_word("copy") {
        return Ok(None);
    }
    let legacy_binary = cursor.take_word("binary");
    let source = if cursor.take(&Token::LParen) {
        let inner = cursor.parenthesized()?;
        match parse_tokens(sql, inner)? {
            Ast::Sql(statement) => CopySource::Query(statement),
            _ => {
                return Err(PgError::new(
                    SqlState::FEATURE_NOT_SUPPORTED,
                    "COPY takes a query in its parentheses",
                )
                .with_hint("SELECT, VALUES, or INSERT, UPDATE, DELETE with RETURNING."));
            }
        }
    } else {
        let name = cursor.qualified_name()?;
        let columns = if cursor.take(&Token::LParen) { names(&mut cursor)? } else { Vec::new() };
        CopySource::Table { name, columns }
    };
    let direction = direction(&mut cursor)?;
    let mut options = CopyOptions::default();
    if legacy_binary {
        options.format = CopyFormat::Binary;
    }
    cursor.take_word("with");
    if cursor.take(&Token::LParen) {
        loop {
            option(&mut cursor, &mut options)?;
            if !cursor.take(&Token::Comma) {
                break;
            }
        }
        cursor.expect(&Token::RParen)?;
    } else {
        legacy_options(&mut cursor, &mut options)?;
    }
    if cursor.is_word("where") {
        return Err(PgError::new(
            SqlState::FEATURE_NOT_SUPPORTED,
            "COPY FROM ... WHERE is not supported",
        )
        .with_hint("Copy into a staging table and INSERT ... SELECT ... WHERE from it."));
    }
    cursor.expect_end()?;
    if let CopySource::Query(_) = source
        && direction == CopyDirection::FromStdin
    {
        return Err(PgError::new(SqlState::SYNTAX_ERROR, "a query can only be copied TO"));
    }
    Ok(Some(CopyStatement { source, direction, options }))
}

fn direction(cursor: &mut Cursor<'_>) -> Result<CopyDirection, PgError> {
    let direction = if cursor.take_word("from") {
        CopyDirection::FromStdin
    } else if cursor.take_word("to") {
        CopyDirection::ToStdout
    } else {
        return Err(cursor.unexpected());
    };
    if cursor.take_word("stdin") || cursor.take_word("stdout") {
        return Ok(direction);
    }
    if cursor.is_word("program") || cursor.string().is_some() {
        return Err(PgError::new(
            SqlState::INSUFFICIENT_PRIVILEGE,
            "COPY from or to files and programs of the server is not allowed",
        )
        .with_hint(
            "Anyone can COPY to stdout or from stdin. psql's \\copy command also works for anyone.",
        ));
    }
    Err(cursor.unexpected())
}

/// The rest of `(a, b)`.
fn names(cursor: &mut Cursor<'_>) -> Result<Vec<String>, PgError> {
    let mut names = Vec::new();
    loop {
        names.push(cursor.identifier()?);
        if !cursor.take(&Token::Comma) {
            cursor.expect(&Token::RParen)?;
            return Ok(names);
        }
    }
}

/// `*` or `(a, b)`.
fn column_set(cursor: &mut Cursor<'_>) -> Result<Option<Vec<String>>, PgError> {
    if cursor.take(&Token::Mul) {
        return Ok(Some(Vec::new()));
    }
    cursor.expect(&Token::LParen)?;
    names(cursor).map(Some)
}

fn word_or_string(cursor: &mut Cursor<'_>) -> Result<String, PgError> {
    match cursor.string() {
        Some(text) => Ok(text),
        None => cursor.identifier(),
    }
}

fn required_string(cursor: &mut Cursor<'_>) -> Result<Option<String>, PgError> {
    cursor.string().map(Some).ok_or_else(|| cursor.unexpected())
}

fn option(cursor: &mut Cursor<'_>, options: &mut CopyOptions) -> Result<(), PgError> {
    let name = cursor.identifier()?;
    match name.as_str() {
        "format" => options.format = format(&word_or_string(cursor)?)?,
        // Rows are visible to older snapshots only when they are committed either way: FREEZE changes nothing here.
        "freeze" => drop(boolean_option(cursor)?),
        "delimiter" => options.delimiter = required_string(cursor)?,
        "null" => options.null = required_string(cursor)?,
        "header" => {
            if cursor.take_word("match") {
                (options.header, options.header_match) = (true, true);
            } else {
                options.header = boolean_option(cursor)?;
            }
        }
        "quote" => options.quote = required_string(cursor)?,
        "escape" => options.escape = required_string(cursor)?,
        "force_quote" => options.force_quote = column_set(cursor)?,
        "force_not_null" => options.force_not_null = column_set(cursor)?,
        "force_null" => options.force_null = column_set(cursor)?,
        "encoding" => encoding(&word_or_string(cursor)?)?,
        other => {
            return Err(PgError::new(
                SqlState::SYNTAX_ERROR,
                format!("option \"{other}\" not recognized"),
            ));
        }
    }
    Ok(())
}

fn format(name: &str) -> Result<CopyFormat, PgError> {
    match name {
        "text" => Ok(CopyFormat::Text),
        "csv" => Ok(CopyFormat::Csv),
        "binary" => Ok(CopyFormat::Binary),
        other => Err(PgError::new(
            SqlState::INVALID_PARAMETER_VALUE,
            format!("COPY format \"{other}\" not recognized"),
        )),
    }
}

fn encoding(name: &str) -> Result<(), PgError> {
    if name.eq_ignore_ascii_case("utf8") || name.eq_ignore_ascii_case("utf-8") {
        return Ok(());
    }
    Err(PgError::new(
        SqlState::FEATURE_NOT_SUPPORTED,
        format!("encoding \"{name}\" is not supported"),
    )
    .with_hint("Data is UTF-8 throughout."))
}

/// `WITH CSV HEADER DELIMITER ',' NULL AS ''`, as before Postgres 9.0.
fn legacy_options(cursor: &mut Cursor<'_>, options: &mut CopyOptions) -> Result<(), PgError> {
    while !cursor.at_end() && !cursor.is_word("where") {
        if cursor.take_word("binary") {
            options.format = CopyFormat::Binary;
        } else if cursor.take_word("csv") {
            options.format = CopyFormat::Csv;
        } else if cursor.take_word("header") {
            options.header = true;
        } else if cursor.take_word("freeze") {
            // As in `option`.
        } else if cursor.take_words(&["force", "quote"]) {
            options.force_quote = legacy_columns(cursor)?;
        } else if cursor.take_words(&["force", "not", "null"]) {
            options.force_not_null = legacy_columns(cursor)?;
        } else if cursor.take_words(&["force", "null"]) {
            options.force_null = legacy_columns(cursor)?;
        } else {
            let slot = if cursor.take_word("delimiter") || cursor.take_word("delimiters") {
                &mut options.delimiter
            } else if cursor.take_word("null") {
                &mut options.null
            } else if cursor.take_word("quote") {
                &mut options.quote
            } else if cursor.take_word("escape") {
                &mut options.escape
            } else if cursor.take_word("encoding") {
                let name = word_or_string(cursor)?;
                encoding(&name)?;
                continue;
            } else {
                return Err(cursor.unexpected());
            };
            cursor.take_word("as");
            *slot = required_string(cursor)?;
        }
    }
    Ok(())
}

fn legacy_columns(cursor: &mut Cursor<'_>) -> Result<Option<Vec<String>>, PgError> {
    if cursor.take(&Token::Mul) {
        return Ok(Some(Vec::new()));
    }
    let mut names = vec![cursor.identifier()?];
    while cursor.take(&Token::Comma) {
        names.push(cursor.identifier()?);
    }
    Ok(Some(names))
}
