//! A cursor over tokens for the statements we parse ourselves.

use sqlparser::tokenizer::{Token, TokenWithSpan};

use super::{byte_offset, end_of_input, near};
use crate::error::PgError;

/// Walks over significant tokens; blanks and comments are skipped.
pub(super) struct Cursor<'a> {
    pub sql: &'a str,
    tokens: Vec<&'a TokenWithSpan>,
    next: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(sql: &'a str, tokens: &'a [TokenWithSpan]) -> Self {
        let tokens = tokens
            .iter()
            .filter(|token| !matches!(token.token, Token::Whitespace(_) | Token::EOF))
            .collect();
        Cursor { sql, tokens, next: 0 }
    }

    pub fn peek(&self) -> Option<&'a Token> {
        self.tokens.get(self.next).map(|token| &token.token)
    }

    pub fn at_end(&self) -> bool {
        self.next >= self.tokens.len()
    }

    pub fn advance(&mut self) -> Option<&'a Token> {
        let token = self.tokens.get(self.next).map(|token| &token.token);
        self.next += 1;
        token
    }

    /// Whether the next word is this keyword (any case, not quoted).
    pub fn is_word(&self, word: &str) -> bool {
        self.is_word_at(0, word)
    }

    pub fn is_word_at(&self, ahead: usize, word: &str) -> bool {
        matches!(
            self.tokens.get(self.next + ahead).map(|token| &token.token),
            Some(Token::Word(found)) if found.quote_style.is_none() && found.value.eq_ignore_ascii_case(word)
        )
    }

    /// Takes the keyword if it is next.
    pub fn take_word(&mut self, word: &str) -> bool {
        let found = self.is_word(word);
        if found {
            self.next += 1;
        }
        found
    }

    /// Takes all of the keywords if they are next in this order.
    pub fn take_words(&mut self, words: &[&str]) -> bool {
        let found = words.iter().enumerate().all(|(ahead, word)| self.is_word_at(ahead, word));
        if found {
            self.next += words.len();
        }
        found
    }

    pub fn take(&mut self, token: &Token) -> bool {
        let found = self.peek() == Some(token);
        if found {
            self.next += 1;
        }
        found
    }

    pub fn expect(&mut self, token: &Token) -> Result<(), PgError> {
        if self.take(token) { Ok(()) } else { Err(self.unexpected()) }
    }

    pub fn expect_word(&mut self, word: &str) -> Result<(), PgError> {
        if self.take_word(word) { Ok(()) } else { Err(self.unexpected()) }
    }

    pub fn expect_end(&self) -> Result<(), PgError> {
        if self.at_end() { Ok(()) } else { Err(self.unexpected()) }
    }

    /// An identifier: folded to lower case unless quoted.
    pub fn identifier(&mut self) -> Result<String, PgError> {
        match self.peek() {
            Some(Token::Word(word)) => {
                self.next += 1;
                Ok(match word.quote_style {
                    Some(_) => word.value.clone(),
                    None => word.value.to_lowercase(),
                })
            }
            _ => Err(self.unexpected()),
        }
    }

    /// `a`, `a.b`, `a.b.c`
    pub fn qualified_name(&mut self) -> Result<Vec<String>, PgError> {
        let mut parts = vec![self.identifier()?];
        while self.take(&Token::Period) {
            parts.push(self.identifier()?);
        }
        Ok(parts)
    }

    /// A string constant, escapes already resolved.
    pub fn string(&mut self) -> Option<String> {
        let text = match self.peek()? {
            Token::SingleQuotedString(text) | Token::EscapedStringLiteral(text) => text.clone(),
            Token::DollarQuotedString(quoted) => quoted.value.clone(),
            _ => return None,
        };
        self.next += 1;
        Some(text)
    }

    /// An integer with an optional sign.
    pub fn integer(&mut self) -> Option<i64> {
        let (negative, ahead) = match self.peek()? {
            Token::Minus => (true, 1),
            Token::Plus => (false, 1),
            _ => (false, 0),
        };
        let Token::Number(digits, _) = &self.tokens.get(self.next + ahead)?.token else {
            return None;
        };
        let value: i64 = digits.parse().ok()?;
        self.next += ahead + 1;
        Some(if negative { -value } else { value })
    }

    /// Everything from here to the end: its text and its tokens.
    pub fn rest(&self) -> (&'a str, Vec<TokenWithSpan>) {
        let start = self.byte_position();
        let tokens = self.tokens.get(self.next..).unwrap_or_default();
        (self.sql.get(start..).unwrap_or_default(), tokens.iter().map(|t| (*t).clone()).collect())
    }

    /// Tokens up to the parenthesis that closes the one already taken, which is taken too.
    pub fn parenthesized(&mut self) -> Result<Vec<TokenWithSpan>, PgError> {
        let mut depth = 0usize;
        let start = self.next;
        while let Some(token) = self.advance() {
            match token {
                Token::LParen => depth += 1,
                Token::RParen if depth == 0 => {
                    let inner = self.tokens.get(start..self.next - 1).unwrap_or_default();
                    return Ok(inner.iter().map(|token| (*token).clone()).collect());
                }
                Token::RParen => depth -= 1,
                _ => {}
            }
        }
        Err(self.unexpected())
    }

    /// Byte offset of the next token in the text.
    pub fn byte_position(&self) -> usize {
        self.tokens
            .get(self.next)
            .map_or(self.sql.len(), |token| byte_offset(self.sql, token.span.start))
    }

    /// A syntax error at the next token.
    pub fn unexpected(&self) -> PgError {
        match self.tokens.get(self.next) {
            Some(token) => near(self.sql, token),
            None => end_of_input(self.sql),
        }
    }
}
