//! Keys, values, numbers, durations, JSON literals, parameters: what stands at the leaves of every production.

use super::{ParameterRole, ParameterUse, Parser};
use crate::{
    ast::{Duration, Input, Json, JsonPath, Key, ParameterIndex, Value, ValueKind},
    duration,
    error::{Problem, SyntaxError},
    json,
    keyword::Keyword,
    lexer, path,
    token::{Span, Spanned, Symbol, TokenKind},
};

impl Parser<'_> {
    pub(super) fn parameter(
        &mut self,
        role: ParameterRole,
    ) -> Result<Option<ParameterIndex>, SyntaxError> {
        let TokenKind::Parameter(index) = self.token.kind else { return Ok(None) };
        let span = self.advance()?.span;
        self.parameters.push(ParameterUse { index, span, role });
        Ok(Some(index))
    }

    /// The text of the quoted token that stands here.
    pub(super) fn quoted_text(&mut self) -> Result<Option<String>, SyntaxError> {
        match self.token.kind {
            TokenKind::DoubleQuoted | TokenKind::SingleQuoted => {
                let text = lexer::unquote(self.source, self.token.span);
                self.advance()?;
                Ok(Some(text))
            }
            _ => Ok(None),
        }
    }

    /// The bytes of the token that stands here.
    pub(super) fn bytes(&mut self) -> Result<Option<Vec<u8>>, SyntaxError> {
        if self.token.kind != TokenKind::Bytes {
            return Ok(None);
        }
        let bytes = lexer::bytes(self.source, self.token.span);
        let bytes = bytes.ok_or_else(|| self.problem(Problem::InvalidBytes))?;
        self.advance()?;
        Ok(Some(bytes))
    }

    pub(super) fn key(&mut self) -> Result<Spanned<Key>, SyntaxError> {
        self.spanned(|parser| {
            if let Some(text) = parser.quoted_text()? {
                return Ok(Key::Text(text));
            }
            if let Some(bytes) = parser.bytes()? {
                return Ok(Key::Bytes(bytes));
            }
            if let Some(index) = parser.parameter(ParameterRole::Key)? {
                return Ok(Key::Parameter(index));
            }
            Err(parser.missing("a key"))
        })
    }

    /// Text, bytes or JSON. Single quotes with `{` or `[` first hold JSON: psql would end a bare literal at its own
    /// rules. Double quotes and `TEXT '...'` always hold text.
    pub(super) fn value(&mut self) -> Result<Spanned<Value>, SyntaxError> {
        let marker = self.keyword().and_then(|keyword| match keyword {
            Keyword::Json => Some(ValueKind::Json),
            Keyword::Text => Some(ValueKind::Text),
            Keyword::Bytes => Some(ValueKind::Bytes),
            _ => None,
        });
        self.spanned(|parser| match marker {
            Some(kind) => parser.marked_value(kind),
            None => parser.unmarked_value(),
        })
    }

    fn marked_value(&mut self, kind: ValueKind) -> Result<Value, SyntaxError> {
        self.advance()?;
        if let Some(index) = self.parameter(ParameterRole::Value(Some(kind)))? {
            return Ok(Value::Parameter { index, kind: Some(kind) });
        }
        match kind {
            ValueKind::Json => match self.json_literal()? {
                Some(json) => Ok(Value::Json(json)),
                None => Err(self.missing("a JSON literal")),
            },
            ValueKind::Text => match self.quoted_text()? {
                Some(text) => Ok(Value::Text(text)),
                None => Err(self.missing("text")),
            },
            ValueKind::Bytes => match self.bytes()? {
                Some(bytes) => Ok(Value::Bytes(bytes)),
                None => Err(self.missing("bytes").hint("for example X'0AFF'")),
            },
        }
    }

    fn unmarked_value(&mut self) -> Result<Value, SyntaxError> {
        if self.token.kind == TokenKind::SingleQuoted {
            let text = lexer::unquote(self.source, self.token.span);
            if text.trim_start().starts_with(['{', '[']) {
                let json = self.quoted_json(&text).map_err(|error| {
                    error.hint(
                        "single quotes with { or [ first hold JSON; write TEXT '...' for text",
                    )
                })?;
                return Ok(Value::Json(json));
            }
        }
        let is_quoted =
            matches!(self.token.kind, TokenKind::DoubleQuoted | TokenKind::SingleQuoted);
        if !is_quoted && let Some(json) = self.json_literal()? {
            return Ok(Value::Json(json));
        }
        if let Some(text) = self.quoted_text()? {
            return Ok(Value::Text(text));
        }
        if let Some(bytes) = self.bytes()? {
            return Ok(Value::Bytes(bytes));
        }
        if let Some(index) = self.parameter(ParameterRole::Value(None))? {
            return Ok(Value::Parameter { index, kind: None });
        }
        Err(self.missing("a value"))
    }

    /// JSON as it is, or in quotes.
    fn json_literal(&mut self) -> Result<Option<Json>, SyntaxError> {
        let span = self.token.span;
        match self.token.kind {
            TokenKind::Symbol(Symbol::LeftBrace | Symbol::LeftBracket) => {
                let end = json::scan(self.source, span.start)?;
                let text = Span::new(span.start, end).of(self.source).to_owned();
                self.continue_at(end)?;
                Ok(Some(Json { text }))
            }
            TokenKind::Number => {
                let text = self.text().to_owned();
                self.advance()?;
                Ok(Some(Json { text }))
            }
            TokenKind::Word => match self.keyword() {
                Some(keyword @ (Keyword::True | Keyword::False | Keyword::Null)) => {
                    self.advance()?;
                    Ok(Some(Json { text: keyword.as_str().to_ascii_lowercase() }))
                }
                _ => Ok(None),
            },
            TokenKind::DoubleQuoted | TokenKind::SingleQuoted => {
                let text = lexer::unquote(self.source, span);
                self.quoted_json(&text).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// JSON whose text is inside the quoted token that stands here.
    fn quoted_json(&mut self, text: &str) -> Result<Json, SyntaxError> {
        let (source, span) = (self.source, self.token.span);
        json::check(text)
            .map_err(|error| error.moved(|offset| lexer::place_in_quotes(source, span, offset)))?;
        self.advance()?;
        Ok(Json { text: text.trim_matches([' ', '\t', '\n', '\r']).to_owned() })
    }

    /// An object as it is, in quotes, or marked: META and SCHEMA.
    pub(super) fn json_object(
        &mut self,
        what: &'static str,
    ) -> Result<Option<Spanned<Json>>, SyntaxError> {
        let start = self.token.span;
        let is_marked = self.keyword() == Some(Keyword::Json);
        if is_marked {
            self.advance()?;
        }
        let place = if is_marked { start } else { self.token.span };
        let Some(json) = self.json_literal()? else { return Ok(None) };
        if !json.text.starts_with('{') {
            let span = Span::new(place.start, self.end);
            return Err(SyntaxError::new(Problem::NotAnObject(what), span));
        }
        Ok(Some(Spanned::new(json, Span::new(start.start, self.end))))
    }

    /// The same, or a parameter.
    pub(super) fn json_input(
        &mut self,
        what: &'static str,
    ) -> Result<Spanned<Input<Json>>, SyntaxError> {
        let start = self.token.span.start;
        if let Some(json) = self.json_object(what)? {
            return Ok(json.map(Input::Literal));
        }
        match self.parameter(ParameterRole::Json)? {
            Some(index) => Ok(Spanned::new(Input::Parameter(index), Span::new(start, self.end))),
            None => Err(self.missing("a JSON object")),
        }
    }

    pub(super) fn duration(&mut self) -> Result<Spanned<Duration>, SyntaxError> {
        let span = self.token.span;
        match self.token.kind {
            TokenKind::Measure => {
                let duration = duration::parse(self.text(), span)?;
                self.advance()?;
                Ok(Spanned::new(duration, span))
            }
            TokenKind::Number => {
                let error = self.missing("a duration");
                Err(error.hint(format!("add a unit: {0}ms, {0}s, {0}m, {0}h or {0}d", self.text())))
            }
            _ => Err(self.missing("a duration").hint("for example 500ms, 30s, 5m, 1h, 1d")),
        }
    }

    pub(super) fn duration_input(&mut self) -> Result<Spanned<Input<Duration>>, SyntaxError> {
        let start = self.token.span.start;
        if let Some(index) = self.parameter(ParameterRole::Duration)? {
            return Ok(Spanned::new(Input::Parameter(index), Span::new(start, self.end)));
        }
        Ok(self.duration()?.map(Input::Literal))
    }

    /// A whole number between bounds.
    pub(super) fn integer(
        &mut self,
        what: &'static str,
        min: i64,
        max: i64,
    ) -> Result<Spanned<i64>, SyntaxError> {
        if self.token.kind != TokenKind::Number {
            return Err(self.missing(what));
        }
        let number = self.text().parse::<i64>().ok().filter(|n| (min..=max).contains(n));
        let number = number.ok_or_else(|| self.problem(Problem::OutOfRange { what, min, max }))?;
        Ok(Spanned::new(number, self.advance()?.span))
    }

    /// A whole number that is not negative, or a parameter.
    pub(super) fn count(
        &mut self,
        what: &'static str,
        min: i64,
    ) -> Result<Spanned<Input<u64>>, SyntaxError> {
        let start = self.token.span.start;
        if let Some(index) = self.parameter(ParameterRole::Count)? {
            return Ok(Spanned::new(Input::Parameter(index), Span::new(start, self.end)));
        }
        let number = self.integer(what, min, i64::MAX)?;
        Ok(number.map(|number| Input::Literal(number.unsigned_abs())))
    }

    pub(super) fn text_input(
        &mut self,
        thing: &'static str,
    ) -> Result<Spanned<Input<String>>, SyntaxError> {
        self.spanned(|parser| {
            if let Some(text) = parser.quoted_text()? {
                return Ok(Input::Literal(text));
            }
            match parser.parameter(ParameterRole::Text)? {
                Some(index) => Ok(Input::Parameter(index)),
                None => Err(parser.missing(thing)),
            }
        })
    }

    /// `("$.a.b[0]")` behind JSON.
    pub(super) fn json_path(&mut self) -> Result<JsonPath, SyntaxError> {
        self.expect_symbol(Symbol::LeftParen)?;
        let (source, span) = (self.source, self.token.span);
        let text = match self.token.kind {
            TokenKind::DoubleQuoted | TokenKind::SingleQuoted => lexer::unquote(source, span),
            TokenKind::Parameter(_) => {
                let error = self.missing("a path in quotes");
                return Err(error.hint("a path is part of the plan and cannot be a parameter"));
            }
            _ => return Err(self.missing("a path in quotes").hint("for example JSON(\"$.name\")")),
        };
        let path = path::parse(&text)
            .map_err(|error| error.moved(|offset| lexer::place_in_quotes(source, span, offset)))?;
        self.advance()?;
        self.expect_symbol(Symbol::RightParen)?;
        Ok(path)
    }
}
