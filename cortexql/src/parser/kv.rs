//! Commands on keys: PUT, GET, MGET, DELETE, EXISTS, TTL, EXPIRE, INCR, and ranges of keys.

use super::{ParameterRole, Parser};
use crate::{
    ast::{Input, KeyRange, KeyValue, PutCondition},
    error::{Expected, SyntaxError},
    keyword::Keyword,
    limits::LIST_MAX,
    token::{Span, Spanned, Symbol, TokenKind},
};

impl Parser<'_> {
    /// Behind PUT.
    pub(super) fn put(&mut self) -> Result<KeyValue, SyntaxError> {
        let key = self.key()?;
        let value = self.value()?;
        let (mut ttl, mut condition) = (None, None);
        loop {
            if self.option(Keyword::Ttl, ttl.is_some())? {
                ttl = Some(self.duration_input()?);
            } else if self.option(Keyword::If, condition.is_some())? {
                condition = Some(self.put_condition()?);
            } else {
                return Ok(KeyValue::Put { key, value, ttl, condition });
            }
        }
    }

    fn put_condition(&mut self) -> Result<PutCondition, SyntaxError> {
        if self.eat(Keyword::Absent)? {
            return Ok(PutCondition::Absent);
        }
        self.expect(Keyword::Value)?;
        Ok(PutCondition::Value(self.value()?))
    }

    /// Behind MGET: keys with or without commas between them.
    pub(super) fn mget(&mut self) -> Result<KeyValue, SyntaxError> {
        let mut keys = vec![self.key()?];
        loop {
            let is_comma = self.eat_symbol(Symbol::Comma)?;
            let is_key = matches!(
                self.token.kind,
                TokenKind::DoubleQuoted
                    | TokenKind::SingleQuoted
                    | TokenKind::Bytes
                    | TokenKind::Parameter(_)
            );
            if !is_comma && !is_key {
                self.note(Expected::Thing("a key"));
                return Ok(KeyValue::Mget { keys });
            }
            self.limit("keys of MGET", keys.len() + 1, LIST_MAX)?;
            keys.push(self.key()?);
        }
    }

    /// Behind DELETE: a key, or a range and a filter.
    pub(super) fn delete(&mut self) -> Result<KeyValue, SyntaxError> {
        let range = match self.key_range()? {
            Some(range) => range,
            None if self.at(Keyword::Where) => KeyRange::All,
            None => {
                let is_from =
                    self.token.kind == TokenKind::Word && self.text().eq_ignore_ascii_case("from");
                return match self.key() {
                    Ok(key) => Ok(KeyValue::Delete { key }),
                    Err(error) if is_from => Err(error.hint("DELETE FROM is SQL")),
                    Err(error) => Err(error),
                };
            }
        };
        let has_pipe = self.eat_symbol(Symbol::Pipe)?;
        let filter = if has_pipe {
            self.expect(Keyword::Where)?;
            Some(self.condition()?)
        } else if self.eat(Keyword::Where)? {
            Some(self.condition()?)
        } else {
            None
        };
        Ok(KeyValue::DeleteRange { range, filter })
    }

    /// ALL, PREFIX or RANGE, if one of them stands here.
    pub(super) fn key_range(&mut self) -> Result<Option<KeyRange>, SyntaxError> {
        if self.eat(Keyword::Prefix)? {
            return Ok(Some(KeyRange::Prefix(self.key()?)));
        }
        if self.eat(Keyword::Range)? {
            let from = self.key()?;
            self.eat_symbol(Symbol::Comma)?;
            return Ok(Some(KeyRange::Between(from, self.key()?)));
        }
        Ok(self.eat(Keyword::All)?.then_some(KeyRange::All))
    }

    /// Behind INCR.
    pub(super) fn incr(&mut self) -> Result<KeyValue, SyntaxError> {
        let key = self.key()?;
        if !self.eat(Keyword::By)? {
            return Ok(KeyValue::Incr { key, by: None });
        }
        let start = self.token.span.start;
        let by = match self.parameter(ParameterRole::Integer)? {
            Some(index) => Spanned::new(Input::Parameter(index), Span::new(start, self.end)),
            None => self.integer("an increment", i64::MIN, i64::MAX)?.map(Input::Literal),
        };
        Ok(KeyValue::Incr { key, by: Some(by) })
    }
}
