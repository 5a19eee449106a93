//! A few tokens rewritten before sqlparser sees them.
//!
//! | written | parsed as |
//! |---|---|
//! | `CREATE TABLE t (...) SHARD BY HASH (a)` | `... WITH (shard_by = 'hash(a)')` |
//! | `CREATE TABLE t (...) SHARD BY REFERENCE` | `... WITH (shard_by = 'reference')` |
//! | `CREATE UNLOGGED TABLE` | `CREATE TABLE`: every table is durable, which is more than was asked for |
//! | `UPDATE ONLY t`, `DELETE FROM ONLY t`, `FROM ONLY t` | without ONLY: tables have no children |

use sqlparser::{
    keywords::Keyword,
    tokenizer::{Token, TokenWithSpan},
};

use super::{end_of_input, near};
use crate::error::PgError;

pub(super) fn rewrite(
    sql: &str,
    tokens: Vec<TokenWithSpan>,
) -> Result<Vec<TokenWithSpan>, PgError> {
    let mut tokens: Vec<TokenWithSpan> =
        tokens.into_iter().filter(|token| !matches!(token.token, Token::Whitespace(_))).collect();
    let first = |position: usize, words: &[&str]| {
        tokens.get(position).is_some_and(|token| words.iter().any(|word| is_word(token, word)))
    };
    if first(0, &["create"]) && first(1, &["unlogged"]) {
        tokens.remove(1);
    }
    let is_create_table = tokens.first().is_some_and(|token| is_word(token, "create"))
        && tokens.iter().take(5).any(|token| is_word(token, "table"));
    if is_create_table {
        tokens = shard_by(sql, tokens)?;
    }
    drop_only(&mut tokens);
    Ok(tokens)
}

fn is_word(token: &TokenWithSpan, word: &str) -> bool {
    matches!(&token.token, Token::Word(found) if found.quote_style.is_none() && found.value.eq_ignore_ascii_case(word))
}

/// ONLY before a table's name says "without child tables".
fn drop_only(tokens: &mut Vec<TokenWithSpan>) {
    let mut position = 1;
    while position + 1 < tokens.len() {
        let after = ["update", "from", "join", "table", "on"];
        let is_only = tokens.get(position).is_some_and(|token| is_word(token, "only"))
            && tokens.get(position - 1).is_some_and(|token| after.iter().any(|word| is_word(token, word)))
            && tokens.get(position + 1).is_some_and(|token| matches!(token.token, Token::Word(_)));
        if is_only {
            tokens.remove(position);
        }
        position += 1;
    }
}

/// Moves `SHARD BY ...` into the storage parameters.
fn shard_by(sql: &str, mut tokens: Vec<TokenWithSpan>) -> Result<Vec<TokenWithSpan>, PgError> {
    let mut depth = 0usize;
    let found = tokens.iter().position(|token| {
        match token.token {
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0 && is_word(token, "shard")
    });
    let Some(start) = found else { return Ok(tokens) };
    if !tokens.get(start + 1).is_some_and(|token| is_word(token, "by")) {
        return Ok(tokens);
    }
    let kind = tokens.get(start + 2).ok_or_else(|| end_of_input(sql))?.clone();
    let (value, end) = if is_word(&kind, "reference") {
        ("reference".to_owned(), start + 3)
    } else if is_word(&kind, "hash") || is_word(&kind, "range") {
        let (columns, end) = column_list(sql, &tokens, start + 3)?;
        let word = if is_word(&kind, "hash") { "hash" } else { "range" };
        (format!("{word}({})", columns.join(", ")), end)
    } else {
        return Err(near(sql, &kind)
            .with_hint("SHARD BY HASH (column, ...), SHARD BY RANGE (column) or SHARD BY REFERENCE."));
    };
    tokens.drain(start..end);
    let span = kind.span;
    let token = |token: Token| TokenWithSpan::new(token, span);
    let assignment = vec![
        token(Token::make_word("shard_by", None)),
        token(Token::Eq),
        token(Token::SingleQuotedString(value)),
    ];
    match with_clause_end(&tokens) {
        Some(close) => {
            tokens.splice(close..close, [vec![token(Token::Comma)], assignment].concat());
        }
        None => {
            let clause = [
                vec![token(Token::make_keyword("WITH")), token(Token::LParen)],
                assignment,
                vec![token(Token::RParen)],
            ];
            tokens.splice(start..start, clause.concat());
        }
    }
    Ok(tokens)
}

/// `(a, b)` from `start`: the names as written and the position behind the parenthesis.
fn column_list(
    sql: &str,
    tokens: &[TokenWithSpan],
    start: usize,
) -> Result<(Vec<String>, usize), PgError> {
    let mut columns = Vec::new();
    let mut position = start;
    let at = |position: usize| tokens.get(position).ok_or_else(|| end_of_input(sql));
    if at(position)?.token != Token::LParen {
        return Err(near(sql, at(position)?));
    }
    loop {
        position += 1;
        match &at(position)?.token {
            Token::Word(word) => columns.push(word.to_string()),
            _ => return Err(near(sql, at(position)?)),
        }
        position += 1;
        match at(position)?.token {
            Token::Comma => {}
            Token::RParen => return Ok((columns, position + 1)),
            _ => return Err(near(sql, at(position)?)),
        }
    }
}

/// Position of the parenthesis that closes `WITH (...)` outside of the column list.
fn with_clause_end(tokens: &[TokenWithSpan]) -> Option<usize> {
    let mut depth = 0usize;
    let mut inside = None;
    for (position, token) in tokens.iter().enumerate() {
        match &token.token {
            Token::LParen => {
                let opens = depth == 0
                    && position > 0
                    && matches!(&tokens.get(position - 1)?.token, Token::Word(word) if word.keyword == Keyword::WITH);
                depth += 1;
                if opens {
                    inside = Some(depth);
                }
            }
            Token::RParen => {
                if inside == Some(depth) {
                    return Some(position);
                }
                depth = depth.saturating_sub(1);
            }
            _ => {}
        }
    }
    None
}
