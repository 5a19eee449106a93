//! The binary wire forms, identical to PostgreSQL's send and recv functions.
//!
//! Lives here: one value without its length. Not here: messages and COPY's frame (crate `gateway`). Bytes come from
//! outside, so every read is checked and a bad one is 22P03.

use super::{ArrayValue, Datum, Interval, json, numeric};
use crate::{
    error::{ValueError, ValueErrorKind},
    types::SqlType,
};

/// Postgres counts from 2000-01-01; we count from 1970-01-01.
const EPOCH_2000_DAYS: i32 = 10_957;
const EPOCH_2000_MICROS: i64 = 946_684_800_000_000;

const MICROS_PER_DAY: i64 = 86_400_000_000;

/// The version byte in front of jsonb.
const JSONB_VERSION: u8 = 1;

/// Elements that are believed before they are seen: a forged count must not allocate.
const PREALLOCATE_MAX: usize = 1024;

/// Decodes one value; `bytes` is the whole field.
pub fn decode(ty: SqlType, bytes: &[u8]) -> Result<Datum, ValueError> {
    Ok(match ty {
        SqlType::Bool => Datum::Bool(fixed::<1>(bytes)?[0] != 0),
        SqlType::Int2 => Datum::Int2(i16::from_be_bytes(fixed(bytes)?)),
        SqlType::Int4 => Datum::Int4(i32::from_be_bytes(fixed(bytes)?)),
        SqlType::Int8 => Datum::Int8(i64::from_be_bytes(fixed(bytes)?)),
        SqlType::Float4 => Datum::Float4(f32::from_be_bytes(fixed(bytes)?)),
        SqlType::Float8 => Datum::Float8(f64::from_be_bytes(fixed(bytes)?)),
        SqlType::Numeric => Datum::Numeric(numeric::from_wire(bytes)?),
        SqlType::Bytea => Datum::Bytea(bytes.into()),
        SqlType::Date => match i32::from_be_bytes(fixed(bytes)?) {
            infinite @ (i32::MIN | i32::MAX) => Datum::Date(infinite),
            days => {
                Datum::Date(days.checked_add(EPOCH_2000_DAYS).ok_or_else(|| out_of_range("date"))?)
            }
        },
        SqlType::Time => match i64::from_be_bytes(fixed(bytes)?) {
            micros @ 0..=MICROS_PER_DAY => Datum::Time(micros),
            _ => return Err(out_of_range("time")),
        },
        SqlType::Timestamp => Datum::Timestamp(timestamp(bytes)?),
        SqlType::Timestamptz => Datum::Timestamptz(timestamp(bytes)?),
        SqlType::Interval => {
            let mut reader = Reader(bytes);
            let micros = i64::from_be_bytes(reader.take()?);
            let days = i32::from_be_bytes(reader.take()?);
            let months = i32::from_be_bytes(reader.take()?);
            reader.end()?;
            Datum::Interval(Interval { months, days, micros })
        }
        SqlType::Uuid => Datum::Uuid(fixed(bytes)?),
        SqlType::Json => {
            let text = text(bytes)?;
            json::validate(text)?;
            Datum::Json(text.into())
        }
        SqlType::Jsonb => match bytes {
            [JSONB_VERSION, rest @ ..] => Datum::Jsonb(json::canonical(text(rest)?)?),
            [version, ..] => {
                return Err(invalid(format!("unsupported jsonb version number {version}")));
            }
            [] => return Err(insufficient()),
        },
        SqlType::Array(element) => Datum::Array(Box::new(array(bytes, *element)?)),
        SqlType::Void => Datum::Null,
        SqlType::Record => {
            return Err(ValueError::new(
                ValueErrorKind::Unsupported,
                "input of anonymous composite types is not implemented",
            ));
        }
        SqlType::Char => match fixed::<1>(bytes)? {
            [0] => Datum::Text("".into()),
            byte => Datum::Text(text(&byte)?.into()),
        },
        SqlType::Name => Datum::Text(super::text::clip_name(text(bytes)?).into()),
        SqlType::Text | SqlType::Varchar | SqlType::Bpchar | SqlType::Unknown => {
            Datum::Text(text(bytes)?.into())
        }
        SqlType::Oid
        | SqlType::Regclass
        | SqlType::Regtype
        | SqlType::Regproc
        | SqlType::Regnamespace
        | SqlType::Regrole => Datum::Oid(u32::from_be_bytes(fixed(bytes)?)),
    })
}

/// Appends one value without its length; `Null` is the caller's.
pub fn encode(value: &Datum, ty: SqlType, out: &mut Vec<u8>) {
    match value {
        Datum::Null => {}
        Datum::Bool(value) => out.push(u8::from(*value)),
        Datum::Int2(value) => out.extend_from_slice(&value.to_be_bytes()),
        Datum::Int4(value) => out.extend_from_slice(&value.to_be_bytes()),
        Datum::Int8(value) | Datum::Time(value) => out.extend_from_slice(&value.to_be_bytes()),
        Datum::Float4(value) => out.extend_from_slice(&value.to_be_bytes()),
        Datum::Float8(value) => out.extend_from_slice(&value.to_be_bytes()),
        Datum::Numeric(value) => numeric::to_wire(value, out),
        Datum::Text(text) if ty == SqlType::Char => {
            out.push(text.as_bytes().first().copied().unwrap_or(0));
        }
        Datum::Text(text) | Datum::Json(text) => out.extend_from_slice(text.as_bytes()),
        Datum::Jsonb(text) => {
            out.push(JSONB_VERSION);
            out.extend_from_slice(text.as_bytes());
        }
        Datum::Bytea(bytes) => out.extend_from_slice(bytes),
        Datum::Date(days) => {
            let days = match *days {
                infinite @ (i32::MIN | i32::MAX) => infinite,
                days => days.saturating_sub(EPOCH_2000_DAYS),
            };
            out.extend_from_slice(&days.to_be_bytes());
        }
        Datum::Timestamp(micros) | Datum::Timestamptz(micros) => {
            let micros = match *micros {
                infinite @ (i64::MIN | i64::MAX) => infinite,
                micros => micros.saturating_sub(EPOCH_2000_MICROS),
            };
            out.extend_from_slice(&micros.to_be_bytes());
        }
        Datum::Interval(interval) => {
            out.extend_from_slice(&interval.micros.to_be_bytes());
            out.extend_from_slice(&interval.days.to_be_bytes());
            out.extend_from_slice(&interval.months.to_be_bytes());
        }
        Datum::Uuid(bytes) => out.extend_from_slice(bytes),
        Datum::Oid(value) => out.extend_from_slice(&value.to_be_bytes()),
        Datum::Array(array) => encode_array(array, out),
    }
}

fn timestamp(bytes: &[u8]) -> Result<i64, ValueError> {
    match i64::from_be_bytes(fixed(bytes)?) {
        infinite @ (i64::MIN | i64::MAX) => Ok(infinite),
        micros => micros.checked_add(EPOCH_2000_MICROS).ok_or_else(|| out_of_range("timestamp")),
    }
}

/// `[dimensions][has nulls][element OID]`, then for the one dimension `[length][lower bound]`, then the elements.
fn array(bytes: &[u8], element: SqlType) -> Result<ArrayValue, ValueError> {
    let mut reader = Reader(bytes);
    let dimensions = i32::from_be_bytes(reader.take()?);
    let flags = i32::from_be_bytes(reader.take()?);
    let oid = u32::from_be_bytes(reader.take()?);
    if !(0..=1).contains(&flags) {
        return Err(invalid("invalid array flags".into()));
    }
    if oid != element.oid() {
        let name = SqlType::from_oid(oid).map_or("???", SqlType::sql_name);
        return Err(ValueError::new(
            ValueErrorKind::TypeMismatch,
            format!(
                "binary data has array element type {oid} ({name}) instead of expected {} ({})",
                element.oid(),
                element.sql_name()
            ),
        ));
    }
    let (count, lower_bound) = match dimensions {
        0 => (0, 1),
        1 => (i32::from_be_bytes(reader.take()?), i32::from_be_bytes(reader.take()?)),
        2..=6 => {
            return Err(ValueError::new(
                ValueErrorKind::Unsupported,
                "arrays of more than one dimension are not supported",
            )
            .with_hint("Store nested arrays as jsonb."));
        }
        _ => return Err(invalid(format!("invalid number of dimensions: {dimensions}"))),
    };
    let count =
        usize::try_from(count).map_err(|_| invalid(format!("invalid array size: {count}")))?;
    let mut elements = Vec::with_capacity(count.min(PREALLOCATE_MAX));
    for _ in 0..count {
        let length = i32::from_be_bytes(reader.take()?);
        elements.push(match usize::try_from(length) {
            Ok(length) => decode(element, reader.slice(length)?)?,
            Err(_) if length == -1 => Datum::Null,
            Err(_) => return Err(insufficient()),
        });
    }
    reader.end()?;
    Ok(ArrayValue { element, lower_bound: if count == 0 { 1 } else { lower_bound }, elements })
}

fn encode_array(array: &ArrayValue, out: &mut Vec<u8>) {
    let has_null = array.elements.iter().any(Datum::is_null);
    let dimensions = i32::from(!array.elements.is_empty());
    out.extend_from_slice(&dimensions.to_be_bytes());
    out.extend_from_slice(&i32::from(has_null).to_be_bytes());
    out.extend_from_slice(&array.element.oid().to_be_bytes());
    if array.elements.is_empty() {
        return;
    }
    out.extend_from_slice(&(array.elements.len() as i32).to_be_bytes());
    out.extend_from_slice(&array.lower_bound.to_be_bytes());
    for element in &array.elements {
        if element.is_null() {
            out.extend_from_slice(&(-1i32).to_be_bytes());
            continue;
        }
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        encode(element, array.element, out);
        let length = (out.len() - start - 4) as i32;
        out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }
}

/// Takes bytes from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], ValueError> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or_else(insufficient)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn slice(&mut self, length: usize) -> Result<&'a [u8], ValueError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or_else(insufficient)?;
        self.0 = rest;
        Ok(taken)
    }

    fn end(&self) -> Result<(), ValueError> {
        if self.0.is_empty() { Ok(()) } else { Err(incorrect()) }
    }
}

fn fixed<const N: usize>(bytes: &[u8]) -> Result<[u8; N], ValueError> {
    if bytes.len() < N {
        return Err(insufficient());
    }
    bytes.try_into().map_err(|_| incorrect())
}

/// Valid UTF-8 without zero bytes.
fn text(bytes: &[u8]) -> Result<&str, ValueError> {
    let bad = |at: usize, length: usize| {
        let shown: Vec<String> =
            bytes[at..bytes.len().min(at + length)].iter().map(|b| format!("0x{b:02x}")).collect();
        ValueError::new(
            ValueErrorKind::InvalidCharacter,
            format!("invalid byte sequence for encoding \"UTF8\": {}", shown.join(" ")),
        )
    };
    if let Some(zero) = bytes.iter().position(|byte| *byte == 0) {
        return Err(bad(zero, 1));
    }
    std::str::from_utf8(bytes).map_err(|error| {
        let at = error.valid_up_to();
        // Postgres shows as many bytes as the first one promises.
        let length = match bytes[at] {
            0xc0..0xe0 => 2,
            0xe0..0xf0 => 3,
            0xf0..0xf8 => 4,
            _ => 1,
        };
        bad(at, length)
    })
}

/// Text from a client, in any message: UTF-8 or 22021 as Postgres words it.
pub fn check_text(bytes: &[u8]) -> Result<&str, ValueError> {
    text(bytes)
}

fn invalid(message: String) -> ValueError {
    ValueError::new(ValueErrorKind::InvalidBinary, message)
}

fn insufficient() -> ValueError {
    invalid("insufficient data left in message".into())
}

fn incorrect() -> ValueError {
    invalid("incorrect binary data format".into())
}

fn out_of_range(type_name: &str) -> ValueError {
    ValueError::new(ValueErrorKind::DatetimeOverflow, format!("{type_name} out of range"))
}

#[cfg(test)]
mod tests;
