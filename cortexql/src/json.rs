//! JSON literals: checked for validity with places inside them, and kept as text, so that numbers keep their digits.
//!
//! The check is a loop over a stack of its own: nesting costs a byte, not a frame.

use crate::{
    error::{JsonProblem, Problem, SyntaxError},
    limits::JSON_DEPTH_MAX,
    token::Span,
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Container {
    Object,
    Array,
}

/// What may come next.
#[derive(Clone, Copy)]
enum State {
    Value,
    /// A value or `]`: behind `[`.
    FirstValue,
    /// A name or `}`: behind `{`.
    FirstName,
    Name,
    /// `,` or the end of the container.
    AfterValue,
}

/// The end of the JSON value that starts at `start`, behind blanks.
pub(crate) fn scan(text: &str, start: usize) -> Result<usize, SyntaxError> {
    let mut scanner = Scanner { text, position: start };
    let mut containers: Vec<Container> = Vec::new();
    let mut state = State::Value;
    loop {
        scanner.skip_blanks();
        let byte = scanner.peek();
        match (state, byte) {
            (State::FirstValue, Some(b']')) | (State::FirstName, Some(b'}')) => {
                scanner.position += 1;
                containers.pop();
                state = State::AfterValue;
            }
            (State::FirstName | State::Name, Some(b'"')) => {
                scanner.string()?;
                scanner.skip_blanks();
                scanner.expect(b':', JsonProblem::Colon)?;
                state = State::Value;
            }
            (State::FirstName, _) => return Err(scanner.error(JsonProblem::NameOrClose)),
            (State::Name, _) => return Err(scanner.error(JsonProblem::Name)),
            (State::Value | State::FirstValue, Some(open @ (b'{' | b'['))) => {
                if containers.len() == JSON_DEPTH_MAX {
                    let (what, max) = ("objects and arrays inside each other", JSON_DEPTH_MAX);
                    return Err(SyntaxError::new(
                        Problem::LimitExceeded { what, max },
                        Span::new(scanner.position, scanner.position + 1),
                    ));
                }
                scanner.position += 1;
                let is_object = open == b'{';
                containers.push(if is_object { Container::Object } else { Container::Array });
                state = if is_object { State::FirstName } else { State::FirstValue };
            }
            (State::Value | State::FirstValue, _) => {
                scanner.scalar()?;
                state = State::AfterValue;
            }
            (State::AfterValue, _) => {
                let (close, problem, next) = match containers.last() {
                    Some(Container::Object) => (b'}', JsonProblem::CommaOrBrace, State::Name),
                    Some(Container::Array) => (b']', JsonProblem::CommaOrBracket, State::Value),
                    None => return Ok(scanner.position),
                };
                if byte == Some(b',') {
                    state = next;
                } else if byte == Some(close) {
                    containers.pop();
                } else {
                    return Err(scanner.error(problem));
                }
                scanner.position += 1;
            }
        }
        if containers.is_empty() && matches!(state, State::AfterValue) {
            return Ok(scanner.position);
        }
    }
}

/// Checks that the whole text is one JSON value.
pub(crate) fn check(text: &str) -> Result<(), SyntaxError> {
    let mut scanner = Scanner { text, position: scan(text, 0)? };
    scanner.skip_blanks();
    if scanner.position < text.len() {
        return Err(scanner.error(JsonProblem::Trailing));
    }
    Ok(())
}

/// The end of the number at `start`: `-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?`. An exponent or fraction that is
/// none does not belong to it.
pub(crate) fn scan_number(text: &str, start: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    let digits = |from: usize| {
        let rest = bytes.get(from..).unwrap_or_default();
        from + rest.iter().take_while(|byte| byte.is_ascii_digit()).count()
    };
    let first = start + usize::from(bytes.get(start) == Some(&b'-'));
    let mut end = match bytes.get(first)? {
        b'0' => first + 1,
        b'1'..=b'9' => digits(first),
        _ => return None,
    };
    if bytes.get(end) == Some(&b'.') && digits(end + 1) > end + 1 {
        end = digits(end + 1);
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let signed = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        let exponent = end + 1 + signed;
        if digits(exponent) > exponent {
            end = digits(exponent);
        }
    }
    Some(end)
}

struct Scanner<'a> {
    text: &'a str,
    position: usize,
}

impl Scanner<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.position).copied()
    }

    fn skip_blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.position += 1;
        }
    }

    fn expect(&mut self, byte: u8, problem: JsonProblem) -> Result<(), SyntaxError> {
        if self.peek() != Some(byte) {
            return Err(self.error(problem));
        }
        self.position += 1;
        Ok(())
    }

    /// The character at the position is wrong.
    fn error(&self, problem: JsonProblem) -> SyntaxError {
        let rest = self.text.get(self.position..).unwrap_or_default();
        let length = rest.chars().next().map_or(0, char::len_utf8);
        self.error_to(problem, self.position + length)
    }

    fn error_to(&self, problem: JsonProblem, end: usize) -> SyntaxError {
        SyntaxError::new(Problem::InvalidJson(problem), Span::new(self.position, end))
    }

    fn scalar(&mut self) -> Result<(), SyntaxError> {
        match self.peek() {
            Some(b'"') => self.string(),
            Some(b'-' | b'0'..=b'9') => {
                let end = scan_number(self.text, self.position).filter(|end| {
                    let next = self.text.as_bytes().get(*end);
                    !next.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'.')
                });
                self.position = end.ok_or_else(|| self.error(JsonProblem::Number))?;
                Ok(())
            }
            _ => {
                let rest = self.text.get(self.position..).unwrap_or_default();
                let length = rest.bytes().take_while(u8::is_ascii_alphanumeric).count();
                if matches!(rest.get(..length), Some("true" | "false" | "null")) {
                    self.position += length;
                    return Ok(());
                }
                if length == 0 {
                    return Err(self.error(JsonProblem::Value));
                }
                Err(self.error_to(JsonProblem::Value, self.position + length))
            }
        }
    }

    fn string(&mut self) -> Result<(), SyntaxError> {
        let start = self.position;
        self.position += 1;
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.position += 1;
                    return Ok(());
                }
                Some(b'\\') => self.escape(start)?,
                Some(0..=31) => return Err(self.error(JsonProblem::ControlCharacter)),
                Some(_) => self.position += 1,
                None => {
                    self.position = start;
                    return Err(self.error_to(JsonProblem::UnterminatedString, self.text.len()));
                }
            }
        }
    }

    fn escape(&mut self, string: usize) -> Result<(), SyntaxError> {
        match self.text.as_bytes().get(self.position + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.position += 2;
                Ok(())
            }
            Some(b'u') => self.unicode_escape(),
            Some(_) => {
                let rest = self.text.get(self.position + 1..).unwrap_or_default();
                let length = rest.chars().next().map_or(0, char::len_utf8);
                Err(self.error_to(JsonProblem::Escape, self.position + 1 + length))
            }
            None => {
                self.position = string;
                Err(self.error_to(JsonProblem::UnterminatedString, self.text.len()))
            }
        }
    }

    /// `\uXXXX`, and its other half. What is no character cannot be kept in `jsonb`.
    fn unicode_escape(&mut self) -> Result<(), SyntaxError> {
        let unit = |at: usize| {
            let digits = self.text.get(at..at + 6)?.strip_prefix("\\u")?;
            let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            if is_hex { u16::from_str_radix(digits, 16).ok() } else { None }
        };
        let Some(first) = unit(self.position) else {
            return Err(self.error_to(JsonProblem::Escape, self.position + 2));
        };
        let pair = [first].into_iter().chain(unit(self.position + 6));
        match char::decode_utf16(pair).next() {
            Some(Ok(character)) if character != '\0' => {
                self.position += 6 * character.len_utf16();
                Ok(())
            }
            _ => Err(self.error_to(JsonProblem::NoCharacter, self.position + 6)),
        }
    }
}
