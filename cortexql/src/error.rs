//! Syntax errors: what is wrong, where, what could stand there, and what to do about it.
//!
//! Not here: SQLSTATEs. `ErrorClass` is what the gateway needs to choose one.

use std::fmt::{self, Write};

use crate::{limits::EXCERPT_CHARS_MAX, token::Span};

/// Why a text is not a statement. `Display` is the message alone; `render` shows the place as well.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct SyntaxError {
    pub problem: Box<Problem>,
    /// Bytes of the query text; empty at its end.
    pub span: Span,
    /// What to write instead, a whole phrase.
    pub hint: Option<String>,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("expected {}, found {found}", Expected::list(expected))]
    Unexpected { expected: Vec<Expected>, found: String },
    #[error("unterminated text: the closing {quote} is missing")]
    UnterminatedText { quote: char },
    #[error("unterminated comment: the closing */ is missing")]
    UnterminatedComment,
    #[error("\"{found}\" is not an escape")]
    InvalidEscape { found: String },
    #[error("text cannot hold the character U+0000")]
    NulInText,
    #[error("unexpected character \"{}\"", .0.escape_debug())]
    InvalidCharacter(char),
    #[error("\"{found}\" is not a number")]
    InvalidNumber { found: String },
    #[error("{what} must be a whole number from {min} to {max}")]
    OutOfRange { what: &'static str, min: i64, max: i64 },
    #[error("\"{found}\" is not a duration")]
    InvalidDuration { found: String },
    #[error("a duration must be longer than nothing and at most 36500d")]
    DurationOutOfRange,
    #[error("bytes are written as pairs of hexadecimal digits")]
    InvalidBytes,
    #[error("invalid JSON: {0}")]
    InvalidJson(JsonProblem),
    #[error("{0} must be a JSON object")]
    NotAnObject(&'static str),
    #[error("invalid JSON path: {0}")]
    InvalidPath(PathProblem),
    #[error("\"{found}\" does not fit a 32-bit floating point number")]
    ComponentOutOfRange { found: String },
    #[error("a vector of {found} components beside one of {first}")]
    DimMismatch { first: usize, found: usize },
    #[error("{0} is given twice")]
    Duplicate(&'static str),
    #[error("{0} cannot be combined with CURSOR, which points into the order of keys")]
    CursorConflict(&'static str),
    #[error("{what}: at most {max}")]
    LimitExceeded { what: &'static str, max: usize },
}

/// What is wrong with a JSON literal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonProblem {
    #[error("expected a value")]
    Value,
    #[error("expected a name in double quotes")]
    Name,
    #[error("expected a name in double quotes or }}")]
    NameOrClose,
    #[error("expected : after the name")]
    Colon,
    #[error("expected , or }}")]
    CommaOrBrace,
    #[error("expected , or ]")]
    CommaOrBracket,
    #[error("expected nothing after the value")]
    Trailing,
    #[error("the closing \" is missing")]
    UnterminatedString,
    #[error("an escape that JSON does not have")]
    Escape,
    #[error("a control character in a string; write it as an escape")]
    ControlCharacter,
    #[error("an escape that is no character: \\u0000 or half of a surrogate pair")]
    NoCharacter,
    #[error("not a number as JSON writes them")]
    Number,
}

/// What is wrong with a JSON path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathProblem {
    #[error("a path begins with $")]
    Root,
    #[error("expected .name or [index]")]
    Step,
    #[error("expected a name after the dot")]
    Name,
    #[error("expected an index, counted from 0, or a name in double quotes")]
    Index,
    #[error("wildcards are not supported")]
    Wildcard,
    #[error("an index is at most 2147483647")]
    IndexRange,
    #[error("expected ]")]
    Close,
}

/// The kinds of syntax errors between which a caller distinguishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// The words do not make a statement.
    Syntax,
    /// A literal is no value of its kind.
    InvalidLiteral,
    /// A number, a duration or a vector component is well-formed but too big or too small.
    OutOfRange,
    /// A bound of `limits`.
    Limit,
}

/// One thing that could stand at the place of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// A keyword.
    Word(&'static str),
    /// Punctuation.
    Symbol(&'static str),
    /// Something with a name: "a key".
    Thing(&'static str),
}

impl Expected {
    /// "A, B or C".
    fn list(expected: &[Expected]) -> String {
        let mut text = String::new();
        for (position, one) in expected.iter().enumerate() {
            if position > 0 {
                text.push_str(if position + 1 == expected.len() { " or " } else { ", " });
            }
            let _ = write!(text, "{one}");
        }
        text
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expected::Word(text) | Expected::Thing(text) => f.write_str(text),
            Expected::Symbol(text) => write!(f, "\"{text}\""),
        }
    }
}

impl SyntaxError {
    pub(crate) fn new(problem: Problem, span: Span) -> SyntaxError {
        SyntaxError { problem: Box::new(problem), span, hint: None }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> SyntaxError {
        self.hint = Some(hint.into());
        self
    }

    /// The same error elsewhere: for literals inside literals.
    pub(crate) fn moved(mut self, place: impl Fn(usize) -> usize) -> SyntaxError {
        self.span = Span::new(place(self.span.start), place(self.span.end));
        self
    }

    /// What could stand there, if the words are what is wrong.
    pub fn expected(&self) -> &[Expected] {
        match &*self.problem {
            Problem::Unexpected { expected, .. } => expected,
            _ => &[],
        }
    }

    pub fn class(&self) -> ErrorClass {
        match &*self.problem {
            Problem::Unexpected { .. }
            | Problem::UnterminatedText { .. }
            | Problem::UnterminatedComment
            | Problem::InvalidCharacter(_)
            | Problem::InvalidNumber { .. }
            | Problem::Duplicate(_)
            | Problem::CursorConflict(_) => ErrorClass::Syntax,
            Problem::InvalidEscape { .. }
            | Problem::NulInText
            | Problem::InvalidDuration { .. }
            | Problem::InvalidBytes
            | Problem::InvalidJson(_)
            | Problem::NotAnObject(_)
            | Problem::InvalidPath(_)
            | Problem::DimMismatch { .. } => ErrorClass::InvalidLiteral,
            Problem::OutOfRange { .. }
            | Problem::DurationOutOfRange
            | Problem::ComponentOutOfRange { .. } => ErrorClass::OutOfRange,
            Problem::LimitExceeded { .. } => ErrorClass::Limit,
        }
    }

    /// Where it is, in characters counted from one, as the wire protocol wants it.
    pub fn position(&self, source: &str) -> usize {
        source.char_indices().take_while(|(offset, _)| *offset < self.span.start).count() + 1
    }

    /// The message, the line with a caret under the place, and the hint.
    pub fn render(&self, source: &str) -> String {
        let start = floor_char_boundary(source, self.span.start);
        let end = floor_char_boundary(source, self.span.end.max(start));
        let (before, rest) = source.split_at(start);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line_number = before.matches('\n').count() + 1;
        let line_end = rest.find('\n').map_or(source.len(), |newline| start + newline);
        let left = cut_left(source.get(line_start..start).unwrap_or_default());
        let right = cut_right(source.get(start..line_end).unwrap_or_default());
        let prefix = format!("LINE {line_number}: {left}");
        let marked = source.get(start..end.min(line_end)).unwrap_or_default().chars().count();
        let carets = marked.clamp(1, right.chars().count().max(1));
        let mut text = format!("ERROR:  {self}\n{prefix}{right}\n");
        let _ = write!(text, "{}{}", " ".repeat(prefix.chars().count()), "^".repeat(carets));
        if let Some(hint) = &self.hint {
            let _ = write!(text, "\nHINT:  {hint}");
        }
        text
    }
}

fn floor_char_boundary(source: &str, offset: usize) -> usize {
    let mut offset = offset.min(source.len());
    while !source.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}

/// The end of a line's text, without tabs and carriage returns, which would shift the caret.
fn cut_left(text: &str) -> String {
    let characters = text.chars().count();
    let kept = text.chars().skip(characters.saturating_sub(EXCERPT_CHARS_MAX)).map(visible);
    if characters > EXCERPT_CHARS_MAX {
        "...".chars().chain(kept).collect()
    } else {
        kept.collect()
    }
}

fn cut_right(text: &str) -> String {
    let mut shown: String = text.chars().take(EXCERPT_CHARS_MAX).map(visible).collect();
    if text.chars().nth(EXCERPT_CHARS_MAX).is_some() {
        shown.push_str("...");
    }
    shown.truncate(shown.trim_end().len());
    shown
}

fn visible(character: char) -> char {
    if character.is_control() { ' ' } else { character }
}
