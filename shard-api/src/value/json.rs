//! JSON: validation as `json_in`, the canonical form of `jsonb`, and the tree both are made of.
//!
//! Lives here: the lexer and parser with Postgres's messages, the canonical text, and jsonb's order. Not here: the
//! operators and functions on JSON (crate `functions`), which may use `Json` as their tree.

use std::fmt::Write;

use super::Numeric;
use crate::error::{ValueError, ValueErrorKind};

/// Nesting that the parser follows: a stack overflow would end the process. Postgres stops at `max_stack_depth`.
pub const DEPTH_MAX: usize = 1000;

/// A JSON value as jsonb sees it: objects have sorted, distinct keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Json {
    Null,
    Bool(bool),
    Number(Numeric),
    String(Box<str>),
    Array(Vec<Json>),
    /// Sorted by key length, then bytes.
    Object(Vec<(Box<str>, Json)>),
}

/// Checks a `json` input.
pub fn validate(text: &str) -> Result<(), ValueError> {
    Parser::new(text, false).document().map(|_| ())
}

/// Parses a `jsonb` input: duplicates removed (the last one wins), keys sorted.
pub fn parse(text: &str) -> Result<Json, ValueError> {
    Parser::new(text, true).document()
}

/// The canonical text of a `jsonb` input.
pub fn canonical(text: &str) -> Result<Box<str>, ValueError> {
    Ok(parse(text)?.to_string().into_boxed_str())
}

impl std::fmt::Display for Json {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Json::Null => f.write_str("null"),
            Json::Bool(true) => f.write_str("true"),
            Json::Bool(false) => f.write_str("false"),
            Json::Number(number) => number.fmt(f),
            Json::String(text) => write_string(f, text),
            Json::Array(elements) => {
                f.write_char('[')?;
                for (i, element) in elements.iter().enumerate() {
                    if i > 0 {
                        f.write_str(", ")?;
                    }
                    element.fmt(f)?;
                }
                f.write_char(']')
            }
            Json::Object(members) => {
                f.write_char('{')?;
                for (i, (key, value)) in members.iter().enumerate() {
                    if i > 0 {
                        f.write_str(", ")?;
                    }
                    write_string(f, key)?;
                    f.write_str(": ")?;
                    value.fmt(f)?;
                }
                f.write_char('}')
            }
        }
    }
}

/// Writes a string as a JSON literal, escaped as Postgres does.
pub fn write_string(out: &mut dyn Write, text: &str) -> std::fmt::Result {
    out.write_char('"')?;
    let mut plain = 0;
    for (at, byte) in text.bytes().enumerate() {
        let escape = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0x08 => "\\b",
            0x0c => "\\f",
            0..0x20 => "",
            _ => continue,
        };
        out.write_str(&text[plain..at])?;
        match escape {
            "" => write!(out, "\\u{byte:04x}")?,
            escape => out.write_str(escape)?,
        }
        plain = at + 1;
    }
    out.write_str(&text[plain..])?;
    out.write_char('"')
}

/// Sorts members as jsonb stores them and keeps the last of equal keys.
pub fn sort_members(members: &mut Vec<(Box<str>, Json)>) {
    members.reverse();
    members.sort_by(|(a, _), (b, _)| a.len().cmp(&b.len()).then_with(|| a.cmp(b)));
    members.dedup_by(|later, kept| later.0 == kept.0);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    ObjectStart,
    ObjectEnd,
    ArrayStart,
    ArrayEnd,
    Comma,
    Colon,
    String,
    Number,
    True,
    False,
    Null,
    End,
}

struct Parser<'a> {
    text: &'a str,
    /// Start and end of the current token.
    start: usize,
    end: usize,
    token: Token,
    /// The current string's content, if values are built.
    string: String,
    build: bool,
    depth: usize,
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

impl<'a> Parser<'a> {
    fn new(text: &'a str, build: bool) -> Parser<'a> {
        let string = String::new();
        Parser { text, start: 0, end: 0, token: Token::End, string, build, depth: 0 }
    }

    fn invalid(&self, detail: String) -> ValueError {
        ValueError::new(ValueErrorKind::InvalidText, "invalid input syntax for type json")
            .with_detail(detail)
    }

    fn expected(&self, what: &str) -> ValueError {
        match self.token {
            Token::End => self.ended(),
            _ => {
                let found = &self.text[self.start..self.end];
                self.invalid(format!("Expected {what}, but found \"{found}\"."))
            }
        }
    }

    fn ended(&self) -> ValueError {
        self.invalid("The input string ended unexpectedly.".into())
    }

    fn document(mut self) -> Result<Json, ValueError> {
        self.advance()?;
        let value = self.value()?;
        match self.token {
            Token::End => Ok(value),
            _ => Err(self.expected("end of input")),
        }
    }

    fn value(&mut self) -> Result<Json, ValueError> {
        let value = match self.token {
            Token::ObjectStart => return self.nested(Self::object),
            Token::ArrayStart => return self.nested(Self::array),
            Token::String => Json::String(std::mem::take(&mut self.string).into_boxed_str()),
            Token::Number if self.build => {
                Json::Number(Numeric::parse(&self.text[self.start..self.end])?)
            }
            Token::Number | Token::Null => Json::Null,
            Token::True => Json::Bool(true),
            Token::False => Json::Bool(false),
            _ => return Err(self.expected("JSON value")),
        };
        self.advance()?;
        Ok(value)
    }

    fn nested(
        &mut self,
        parse: fn(&mut Self) -> Result<Json, ValueError>,
    ) -> Result<Json, ValueError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(ValueError::new(
                ValueErrorKind::Unsupported,
                format!("JSON nested deeper than {DEPTH_MAX} levels is not supported"),
            ));
        }
        let value = parse(self)?;
        self.depth -= 1;
        Ok(value)
    }

    fn object(&mut self) -> Result<Json, ValueError> {
        let mut members = Vec::new();
        self.advance()?;
        if self.token == Token::ObjectEnd {
            self.advance()?;
            return Ok(Json::Object(members));
        }
        if self.token != Token::String {
            return Err(self.expected("string or \"}\""));
        }
        loop {
            let key = std::mem::take(&mut self.string).into_boxed_str();
            self.advance()?;
            if self.token != Token::Colon {
                return Err(self.expected("\":\""));
            }
            self.advance()?;
            let value = self.value()?;
            if self.build {
                members.push((key, value));
            }
            match self.token {
                Token::Comma => self.advance()?,
                Token::ObjectEnd => break,
                _ => return Err(self.expected("\",\" or \"}\"")),
            }
            if self.token != Token::String {
                return Err(self.expected("string"));
            }
        }
        self.advance()?;
        sort_members(&mut members);
        Ok(Json::Object(members))
    }

    fn array(&mut self) -> Result<Json, ValueError> {
        let mut elements = Vec::new();
        self.advance()?;
        if self.token == Token::ArrayEnd {
            self.advance()?;
            return Ok(Json::Array(elements));
        }
        loop {
            let element = self.value()?;
            if self.build {
                elements.push(element);
            }
            match self.token {
                Token::Comma => self.advance()?,
                Token::ArrayEnd => break,
                _ => return Err(self.expected("\",\" or \"]\"")),
            }
        }
        self.advance()?;
        Ok(Json::Array(elements))
    }

    fn advance(&mut self) -> Result<(), ValueError> {
        let bytes = self.text.as_bytes();
        let mut at = self.end;
        while matches!(bytes.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            at += 1;
        }
        self.start = at;
        self.end = at + 1;
        self.token = match bytes.get(at) {
            None => {
                self.end = at;
                Token::End
            }
            Some(b'{') => Token::ObjectStart,
            Some(b'}') => Token::ObjectEnd,
            Some(b'[') => Token::ArrayStart,
            Some(b']') => Token::ArrayEnd,
            Some(b',') => Token::Comma,
            Some(b':') => Token::Colon,
            Some(b'"') => return self.lex_string(),
            Some(b'-' | b'0'..=b'9') => return self.lex_number(),
            Some(_) => return self.lex_word(),
        };
        Ok(())
    }

    fn invalid_token(&mut self) -> ValueError {
        let mut end = self.end;
        while !self.text.is_char_boundary(end) {
            end += 1;
        }
        self.invalid(format!("Token \"{}\" is invalid.", &self.text[self.start..end]))
    }

    fn lex_word(&mut self) -> Result<(), ValueError> {
        let bytes = self.text.as_bytes();
        let mut end = self.start;
        while bytes.get(end).is_some_and(|byte| is_word(*byte)) {
            end += 1;
        }
        self.end = end.max(self.start + 1);
        self.token = match &bytes[self.start..self.end] {
            b"true" => Token::True,
            b"false" => Token::False,
            b"null" => Token::Null,
            _ => return Err(self.invalid_token()),
        };
        Ok(())
    }

    fn lex_number(&mut self) -> Result<(), ValueError> {
        let bytes = self.text.as_bytes();
        let digits = |at: usize| {
            let n_digits = bytes[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            (at + n_digits, n_digits > 0)
        };
        let mut at = self.start + usize::from(bytes[self.start] == b'-');
        let mut valid = true;
        match bytes.get(at) {
            Some(b'0') => at += 1,
            _ => (at, valid) = digits(at),
        }
        if valid && bytes.get(at) == Some(&b'.') {
            (at, valid) = digits(at + 1);
        }
        if valid && matches!(bytes.get(at), Some(b'e' | b'E')) {
            at += 1 + usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
            (at, valid) = digits(at);
        }
        // What is glued to a number belongs to the bad token.
        while bytes.get(at).is_some_and(|byte| is_word(*byte)) {
            valid = false;
            at += 1;
        }
        self.end = at;
        self.token = Token::Number;
        if valid { Ok(()) } else { Err(self.invalid_token()) }
    }

    fn lex_string(&mut self) -> Result<(), ValueError> {
        self.string.clear();
        self.token = Token::String;
        let bytes = self.text.as_bytes();
        let mut at = self.start + 1;
        let mut plain = at;
        loop {
            match bytes.get(at) {
                None => {
                    self.end = at;
                    return Err(self.invalid_token());
                }
                Some(b'"') => break,
                Some(byte @ 0..0x20) => {
                    let detail = format!("Character with value 0x{byte:02x} must be escaped.");
                    return Err(self.invalid(detail));
                }
                Some(b'\\') => {
                    if self.build {
                        self.string.push_str(&self.text[plain..at]);
                    }
                    at = self.escape(at)?;
                    plain = at;
                }
                Some(_) => at += 1,
            }
        }
        if self.build {
            self.string.push_str(&self.text[plain..at]);
        }
        self.end = at + 1;
        Ok(())
    }

    /// Reads the escape sequence at `at`; returns where it ends.
    fn escape(&mut self, at: usize) -> Result<usize, ValueError> {
        let plain = match self.text.as_bytes().get(at + 1) {
            None => {
                self.end = at + 1;
                return Err(self.invalid_token());
            }
            Some(b'u') => return self.unicode_escape(at),
            Some(byte @ (b'"' | b'\\' | b'/')) => char::from(*byte),
            Some(b'b') => '\x08',
            Some(b'f') => '\x0c',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(_) => {
                let escape: String = self.text[at..].chars().take(2).collect();
                return Err(self.invalid(format!("Escape sequence \"{escape}\" is invalid.")));
            }
        };
        if self.build {
            self.string.push(plain);
        }
        Ok(at + 2)
    }

    fn unicode_escape(&mut self, at: usize) -> Result<usize, ValueError> {
        let unit = self.hex4(at + 2)?;
        if !self.build {
            return Ok(at + 6);
        }
        let low_alone = "Unicode low surrogate must follow a high surrogate.";
        let (code, end) = match unit {
            0 => {
                return Err(ValueError::new(
                    ValueErrorKind::InvalidCharacter,
                    "unsupported Unicode escape sequence",
                )
                .with_detail("\\u0000 cannot be converted to text."));
            }
            0xd800..0xdc00 => {
                if self.text.as_bytes().get(at + 6..at + 8) != Some(b"\\u") {
                    return Err(self.invalid(low_alone.into()));
                }
                match self.hex4(at + 8)? {
                    low @ 0xdc00..0xe000 => {
                        (0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00), at + 12)
                    }
                    0xd800..0xdc00 => {
                        let detail = "Unicode high surrogate must not follow a high surrogate.";
                        return Err(self.invalid(detail.into()));
                    }
                    _ => return Err(self.invalid(low_alone.into())),
                }
            }
            0xdc00..0xe000 => return Err(self.invalid(low_alone.into())),
            unit => (unit, at + 6),
        };
        self.string.extend(char::from_u32(code));
        Ok(end)
    }

    fn hex4(&self, at: usize) -> Result<u32, ValueError> {
        self.text
            .as_bytes()
            .get(at..at + 4)
            .filter(|hex| hex.iter().all(u8::is_ascii_hexdigit))
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u32::from_str_radix(hex, 16).ok())
            .ok_or_else(|| {
                self.invalid("\"\\u\" must be followed by four hexadecimal digits.".into())
            })
    }
}
