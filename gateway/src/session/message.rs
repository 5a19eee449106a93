//! What clients say: the bodies of messages, decoded.
//!
//! Every decoder reads its whole body: bytes that are missing or left over are a protocol violation that ends the connection,
//! because then client and server do not agree on where messages end. A text that is not UTF-8 is 22021 and ends only
//! the statement.

use bytes::{Buf, Bytes};
use smallvec::SmallVec;

use crate::error::{PgError, SqlState};

/// A body that is being read.
pub(crate) struct Body {
    bytes: Bytes,
    kind: &'static str,
}

impl Body {
    pub(crate) fn new(bytes: Bytes, kind: &'static str) -> Body {
        Body { bytes, kind }
    }

    fn malformed(&self) -> PgError {
        PgError::protocol(format!("invalid message format: {} message ends too early", self.kind))
    }

    pub(crate) fn u8(&mut self) -> Result<u8, PgError> {
        self.bytes.try_get_u8().map_err(|_| self.malformed())
    }

    pub(crate) fn i16(&mut self) -> Result<i16, PgError> {
        self.bytes.try_get_i16().map_err(|_| self.malformed())
    }

    pub(crate) fn i32(&mut self) -> Result<i32, PgError> {
        self.bytes.try_get_i32().map_err(|_| self.malformed())
    }

    /// The number of elements that follow; each takes at least `element_bytes`, so a lie is found before memory is taken.
    fn count(&mut self, element_bytes: usize) -> Result<usize, PgError> {
        // Unsigned, as in Postgres: up to 65,535 parameters.
        let count = usize::from(self.i16()? as u16);
        if count * element_bytes > self.bytes.len() {
            return Err(self.malformed());
        }
        Ok(count)
    }

    pub(crate) fn take(&mut self, length: usize) -> Result<Bytes, PgError> {
        if self.bytes.len() < length {
            return Err(self.malformed());
        }
        Ok(self.bytes.split_to(length))
    }

    /// A text up to its NUL.
    pub(crate) fn text(&mut self) -> Result<Text, PgError> {
        let Some(end) = memchr::memchr(0, &self.bytes) else {
            return Err(PgError::protocol(format!(
                "invalid string in {} message: it has no end",
                self.kind
            )));
        };
        let bytes = self.bytes.split_to(end);
        self.bytes.advance(1);
        Ok(Text(bytes))
    }

    /// The body must be used up.
    pub(crate) fn finish(&self) -> Result<(), PgError> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        Err(PgError::protocol(format!(
            "invalid message format: {} bytes left over in {} message",
            self.bytes.len(),
            self.kind
        )))
    }
}

/// A text as it came, not yet known to be UTF-8.
#[derive(Clone, Debug)]
pub(crate) struct Text(Bytes);

impl Text {
    pub(crate) fn as_str(&self) -> Result<&str, PgError> {
        utf8(&self.0)
    }
}

/// The text in these bytes, or 22021 with the bytes that are wrong, as Postgres words it.
pub(crate) fn utf8(bytes: &[u8]) -> Result<&str, PgError> {
    std::str::from_utf8(bytes).map_err(|error| {
        let wrong = &bytes[error.valid_up_to()..];
        // As many bytes as the first one promises.
        let promised = match wrong.first() {
            Some(0xc0..=0xdf) => 2,
            Some(0xe0..=0xef) => 3,
            Some(0xf0..=0xf7) => 4,
            Some(_) | None => 1,
        };
        invalid_bytes(&wrong[..promised.min(wrong.len())])
    })
}

/// 22021
pub(crate) fn invalid_bytes(wrong: &[u8]) -> PgError {
    let hex: Vec<String> = wrong.iter().map(|byte| format!("0x{byte:02x}")).collect();
    PgError::new(
        SqlState::CHARACTER_NOT_IN_REPERTOIRE,
        format!("invalid byte sequence for encoding \"UTF8\": {}", hex.join(" ")),
    )
}

/// Parse.
pub(crate) struct Parse {
    pub name: Text,
    pub sql: Text,
    pub parameter_oids: SmallVec<[u32; 8]>,
}

impl Parse {
    pub(crate) fn decode(body: Bytes) -> Result<Parse, PgError> {
        let mut body = Body::new(body, "Parse");
        let name = body.text()?;
        let sql = body.text()?;
        let count = body.count(4)?;
        let mut parameter_oids = SmallVec::with_capacity(count);
        for _ in 0..count {
            parameter_oids.push(body.i32()? as u32);
        }
        body.finish()?;
        Ok(Parse { name, sql, parameter_oids })
    }
}

/// Format codes as they stand in Bind: none (all text), one for all, or one each. True is binary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Formats(SmallVec<[bool; 16]>);

impl Formats {
    fn decode(body: &mut Body) -> Result<Formats, PgError> {
        let count = body.count(2)?;
        let mut formats = SmallVec::with_capacity(count);
        for _ in 0..count {
            formats.push(match body.i16()? {
                0 => false,
                1 => true,
                code => {
                    return Err(PgError::new(
                        SqlState::INVALID_PARAMETER_VALUE,
                        format!("unsupported format code: {code}"),
                    ));
                }
            });
        }
        Ok(Formats(formats))
    }

    #[cfg(test)]
    pub(crate) fn all_binary() -> Formats {
        Formats(SmallVec::from_slice(&[true]))
    }

    /// How many codes there are: 0, 1, or one for each.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether column or parameter `index` is binary.
    pub(crate) fn is_binary(&self, index: usize) -> bool {
        match self.0.as_slice() {
            [] => false,
            [all] => *all,
            each => each.get(index).copied().unwrap_or(false),
        }
    }
}

/// Bind.
pub(crate) struct Bind {
    pub portal: Text,
    pub statement: Text,
    pub parameter_formats: Formats,
    /// `None` is NULL.
    pub parameters: SmallVec<[Option<Bytes>; 8]>,
    pub result_formats: Formats,
}

impl Bind {
    pub(crate) fn decode(body: Bytes) -> Result<Bind, PgError> {
        let mut body = Body::new(body, "Bind");
        let portal = body.text()?;
        let statement = body.text()?;
        let parameter_formats = Formats::decode(&mut body)?;
        let count = body.count(4)?;
        let mut parameters = SmallVec::with_capacity(count);
        for _ in 0..count {
            parameters.push(match body.i32()? {
                -1 => None,
                length => {
                    let length = usize::try_from(length).map_err(|_| {
                        PgError::protocol("invalid parameter length in Bind message")
                    })?;
                    Some(body.take(length)?)
                }
            });
        }
        let result_formats = Formats::decode(&mut body)?;
        body.finish()?;
        Ok(Bind { portal, statement, parameter_formats, parameters, result_formats })
    }
}

/// What Describe and Close are about.
pub(crate) enum Target {
    Statement(Text),
    Portal(Text),
}

impl Target {
    pub(crate) fn decode(body: Bytes, kind: &'static str) -> Result<Target, PgError> {
        let mut body = Body::new(body, kind);
        let what = body.u8()?;
        let name = body.text()?;
        body.finish()?;
        match what {
            b'S' => Ok(Target::Statement(name)),
            b'P' => Ok(Target::Portal(name)),
            other => Err(PgError::protocol(format!("invalid {kind} message subtype {other}"))),
        }
    }
}

/// Execute.
pub(crate) struct Execute {
    pub portal: Text,
    /// 0 is all rows.
    pub rows_max: u64,
}

impl Execute {
    pub(crate) fn decode(body: Bytes) -> Result<Execute, PgError> {
        let mut body = Body::new(body, "Execute");
        let portal = body.text()?;
        // As in Postgres, a negative limit is none.
        let rows_max = u64::try_from(body.i32()?).unwrap_or(0);
        body.finish()?;
        Ok(Execute { portal, rows_max })
    }
}

/// The one text of Query and CopyFail.
pub(crate) fn decode_text(body: Bytes, kind: &'static str) -> Result<Text, PgError> {
    let mut body = Body::new(body, kind);
    let text = body.text()?;
    body.finish()?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_fatal<T>(result: Result<T, PgError>) -> bool {
        result.is_err_and(|error| error.is_fatal() && error.code == SqlState::PROTOCOL_VIOLATION)
    }

    /// A Bind with one text parameter and one binary result column.
    const BIND: &[u8] = b"p\0s\0\0\0\0\x01\0\0\0\x02hi\0\x01\0\x01";

    #[test]
    fn every_cut_of_a_message_is_refused() {
        assert!(Bind::decode(Bytes::from_static(BIND)).is_ok());
        for end in 0..BIND.len() {
            assert!(is_fatal(Bind::decode(Bytes::from_static(&BIND[..end]))), "cut at {end}");
        }
        let parse = b"s\0SELECT 1\0\0\x01\0\0\0\x17";
        assert!(Parse::decode(Bytes::from_static(parse)).is_ok());
        for end in 0..parse.len() {
            assert!(is_fatal(Parse::decode(Bytes::from_static(&parse[..end]))), "cut at {end}");
        }
    }

    #[test]
    fn bytes_left_over_are_refused() {
        let mut bind = BIND.to_vec();
        bind.push(0);
        assert!(is_fatal(Bind::decode(bind.into())));
        assert!(is_fatal(decode_text(Bytes::from_static(b"SELECT 1\0S\0\0\0\x04"), "Query")));
        assert!(is_fatal(Execute::decode(Bytes::from_static(b"\0\0\0\0\0\0"))));
        assert!(is_fatal(Target::decode(Bytes::from_static(b"Sx\0y"), "Describe")));
    }

    #[test]
    fn a_count_that_lies_takes_no_memory() {
        assert!(is_fatal(Bind::decode(Bytes::from_static(b"\0\0\0\0\xff\xff\0\0"))));
        assert!(is_fatal(Parse::decode(Bytes::from_static(b"\0\0\xff\xff"))));
    }

    #[test]
    fn wrong_utf8_is_named() {
        let error = utf8(b"ab\xc3(").expect_err("not UTF-8");
        assert_eq!(error.message, "invalid byte sequence for encoding \"UTF8\": 0xc3 0x28");
        assert_eq!(error.code, SqlState::CHARACTER_NOT_IN_REPERTOIRE);
    }
}
