//! Cuts the text of a date, time or interval into fields.

use super::{super::is_space, Failure, words::date_word};

/// Fields of an input at most.
const FIELDS_MAX: usize = 25;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Digits, perhaps with a point.
    Number,
    /// Several parts with `-`, `/` or `.` between; also zone names with such signs in them.
    Date,
    /// Digits with colons.
    Time,
    /// A sign and digits: a zone's offset, or a signed number of an interval.
    Signed,
    /// Letters.
    Word,
    /// A sign and letters: `-infinity`.
    SignedWord,
}

/// A field in lower case.
#[derive(Clone, Debug)]
pub(super) struct Field {
    pub(super) kind: Kind,
    pub(super) text: String,
}

struct Cutter<'a> {
    bytes: &'a [u8],
    at: usize,
    text: String,
}

impl Cutter<'_> {
    fn peek(&self) -> u8 {
        self.bytes.get(self.at).copied().unwrap_or(0)
    }

    /// Takes one byte in lower case.
    fn take(&mut self) {
        self.text.push(char::from(self.peek().to_ascii_lowercase()));
        self.at += 1;
    }

    fn take_while(&mut self, accept: impl Fn(u8) -> bool) {
        while self.at < self.bytes.len() && accept(self.peek()) {
            self.take();
        }
    }

    fn number_or_date(&mut self) -> Kind {
        self.take_while(|byte| byte.is_ascii_digit());
        match self.peek() {
            b':' => {
                self.take_while(|byte| byte.is_ascii_digit() || matches!(byte, b':' | b'.'));
                Kind::Time
            }
            delimiter @ (b'-' | b'/' | b'.') => {
                self.take();
                if !self.peek().is_ascii_digit() {
                    self.take_while(|byte| byte.is_ascii_alphanumeric() || byte == delimiter);
                    return Kind::Date;
                }
                self.take_while(|byte| byte.is_ascii_digit());
                if self.peek() == delimiter {
                    self.take_while(|byte| byte.is_ascii_digit() || byte == delimiter);
                    return Kind::Date;
                }
                if delimiter == b'.' { Kind::Number } else { Kind::Date }
            }
            _ => Kind::Number,
        }
    }

    fn word_or_date(&mut self) -> Kind {
        self.take_while(|byte| byte.is_ascii_alphabetic());
        let goes_on = match self.peek() {
            b'-' | b'/' | b'.' => true,
            b'+' | b'0'..=b'9' => date_word(&self.text).is_none(),
            _ => false,
        };
        if !goes_on {
            return Kind::Word;
        }
        self.take_while(|byte| {
            byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'/' | b'_' | b'.' | b':')
        });
        Kind::Date
    }

    fn signed(&mut self) -> Result<Kind, Failure> {
        self.take();
        while is_space(self.peek()) {
            self.at += 1;
        }
        match self.peek() {
            b'0'..=b'9' => {
                self.take_while(|byte| byte.is_ascii_digit() || matches!(byte, b':' | b'.' | b'-'));
                Ok(Kind::Signed)
            }
            byte if byte.is_ascii_alphabetic() => {
                self.take_while(|byte| byte.is_ascii_alphabetic());
                Ok(Kind::SignedWord)
            }
            _ => Err(Failure::Format),
        }
    }
}

/// The fields of an input; blanks and other punctuation only separate.
pub(super) fn cut(text: &str) -> Result<Vec<Field>, Failure> {
    let mut cutter = Cutter { bytes: text.as_bytes(), at: 0, text: String::new() };
    let mut fields = Vec::new();
    while cutter.at < cutter.bytes.len() {
        let kind = match cutter.peek() {
            byte if is_space(byte) => {
                cutter.at += 1;
                continue;
            }
            b'0'..=b'9' => cutter.number_or_date(),
            b'.' => {
                cutter.take();
                cutter.take_while(|byte| byte.is_ascii_digit());
                Kind::Number
            }
            b'+' | b'-' => cutter.signed()?,
            byte if byte.is_ascii_alphabetic() => cutter.word_or_date(),
            byte if byte.is_ascii_punctuation() => {
                cutter.at += 1;
                continue;
            }
            _ => return Err(Failure::Format),
        };
        if fields.len() == FIELDS_MAX {
            return Err(Failure::Format);
        }
        fields.push(Field { kind, text: std::mem::take(&mut cutter.text) });
    }
    Ok(fields)
}

/// Reads digits at the start, and returns the rest. Overflow is a range error.
pub(super) fn leading_int(text: &str) -> Result<(i64, &str), Failure> {
    let sign = usize::from(text.starts_with(['+', '-']));
    let digits = text[sign..].bytes().take_while(u8::is_ascii_digit).count();
    if digits == 0 {
        return Ok((0, text));
    }
    let end = sign + digits;
    let value = text[..end].parse().map_err(|_| Failure::Field)?;
    Ok((value, &text[end..]))
}

/// The same, within 32 bits.
pub(super) fn leading_i32(text: &str) -> Result<(i32, &str), Failure> {
    let (value, rest) = leading_int(text)?;
    Ok((i32::try_from(value).map_err(|_| Failure::Field)?, rest))
}

/// Digits behind a point as microseconds; `text` begins with the point.
pub(super) fn fraction_micros(text: &str) -> Result<i64, Failure> {
    Ok((fraction(text)? * 1e6).round_ties_even() as i64)
}

/// A fraction below one; `text` begins with the point.
pub(super) fn fraction(text: &str) -> Result<f64, Failure> {
    match text.strip_prefix('.') {
        Some("") => Ok(0.0),
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            text.parse().map_err(|_| Failure::Format)
        }
        _ => Err(Failure::Format),
    }
}
