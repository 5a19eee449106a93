//! Tokens as PostgreSQL's lexer makes them, where sqlparser's are others.
//!
//! String literals with a line break between them are one literal; a sign after an operator stays a sign, as in `a>=-1`; a
//! string is no alias.

use cortex_planner::dialect::is_word;
use sqlparser::tokenizer::{Span, Token, TokenWithSpan, Whitespace};

/// `'a'` and on a later line `'b'` are one literal, as in the standard; on one line they are a syntax error.
pub(super) fn join_strings(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut joined: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    for token in tokens {
        let Token::SingleQuotedString(text) = &token.token else {
            joined.push(token);
            continue;
        };
        match continued(&joined) {
            Some(first) => {
                joined.truncate(first + 1);
                if let Some(TokenWithSpan { token: Token::SingleQuotedString(start), span }) =
                    joined.last_mut()
                {
                    start.push_str(text);
                    span.end = token.span.end;
                }
            }
            None => joined.push(token),
        }
    }
    joined
}

/// An operator ends with a sign only if it holds one of these, as PostgreSQL's lexer has it.
const NOT_OF_SQL: &str = "~!@#%^&|`?";

/// `>=-` is `>=` and a sign.
pub(super) fn split_signs(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let is_signed = |token: &Token| {
        matches!(token, Token::CustomBinaryOperator(text)
            if text.ends_with(['+', '-']) && !text.contains(|c| NOT_OF_SQL.contains(c)))
    };
    if !tokens.iter().any(|token| is_signed(&token.token)) {
        return tokens;
    }
    let mut split = Vec::with_capacity(tokens.len() + 1);
    for token in tokens {
        let Token::CustomBinaryOperator(text) = &token.token else {
            split.push(token);
            continue;
        };
        if !is_signed(&token.token) {
            split.push(token);
            continue;
        }
        let operator = text.trim_end_matches(['+', '-']);
        // `+-` and `--` are signs alone; the first is the operator.
        let operator = text.get(..operator.len().max(1)).unwrap_or(text);
        let mut place = token.span.start;
        let mut push = |token: Token, length: usize| {
            let start = place;
            place.column += length as u64;
            split.push(TokenWithSpan { token, span: Span::new(start, place) });
        };
        push(operator_token(operator), operator.len());
        for sign in text.chars().skip(operator.len()) {
            push(if sign == '+' { Token::Plus } else { Token::Minus }, 1);
        }
    }
    split
}

fn operator_token(text: &str) -> Token {
    match text {
        "<" => Token::Lt,
        ">" => Token::Gt,
        "=" => Token::Eq,
        "<=" => Token::LtEq,
        ">=" => Token::GtEq,
        "<>" => Token::Neq,
        "+" => Token::Plus,
        "-" => Token::Minus,
        "*" => Token::Mul,
        "/" => Token::Div,
        "<<" => Token::ShiftLeft,
        ">>" => Token::ShiftRight,
        other => Token::CustomBinaryOperator(other.to_owned()),
    }
}

/// The string literal that a next one goes on with: nothing but blanks and line ends follow it, at least one line end.
fn continued(tokens: &[TokenWithSpan]) -> Option<usize> {
    let mut line_ends = 0;
    for (index, token) in tokens.iter().enumerate().rev() {
        match &token.token {
            Token::Whitespace(Whitespace::Newline | Whitespace::SingleLineComment { .. }) => {
                line_ends += 1
            }
            Token::Whitespace(Whitespace::Space | Whitespace::Tab) => {}
            Token::SingleQuotedString(_) if line_ends > 0 => return Some(index),
            _ => return None,
        }
    }
    None
}

/// A string where `AS name` wants a name: sqlparser takes it.
pub(super) fn quoted_alias(tokens: &[TokenWithSpan]) -> Option<&TokenWithSpan> {
    tokens.windows(2).find_map(|pair| match pair {
        [before, string] if is_word(before, "as") => {
            matches!(string.token, Token::SingleQuotedString(_)).then_some(string)
        }
        _ => None,
    })
}
