//! The bytes of one value in a key (docs/format/keys.md).
//!
//! A marker for NULL, then bytes that order as the values do. Equal values have equal bytes, so what does not count
//! in comparisons is lost: a numeric's display scale, the sign of zero, blanks behind `char(n)`, which of several
//! equal intervals it was. The row keeps the value as it was given.

use super::{KeyOrder, jsonb, malformed};
use crate::{
    error::ValueError,
    types::SqlType,
    value::{ArrayValue, Datum, Interval, Numeric, json, numeric},
};

const NULL_FIRST: u8 = 0x00;
const VALUE: u8 = 0x01;
const NULL_LAST: u8 = 0x02;

/// Ends the elements of an array; below the markers, so that a shorter array is less.
const ARRAY_END: u8 = 0x00;

/// A zero byte in a string is followed by this, the end of a string by `STRING_END`.
const ZERO_ESCAPED: u8 = 0xff;
const STRING_END: u8 = 0x01;

const MICROS_PER_DAY: i128 = 86_400_000_000;
const DAYS_PER_MONTH: i128 = 30;

/// Appends one value. Self-delimiting; NULL sorts as `order` says (last by default). Strings in C order; bpchar
/// without trailing blanks; numeric by value; -0 = 0, NaN highest.
///
/// `nulls_first` is where NULLs stand in the key, also in a descending column.
pub fn encode_datum(out: &mut Vec<u8>, value: &Datum, ty: SqlType, order: KeyOrder) {
    if matches!(value, Datum::Null) {
        out.push(if order.nulls_first { NULL_FIRST } else { NULL_LAST });
        return;
    }
    out.push(VALUE);
    let start = out.len();
    encode_value(out, value, ty);
    if order.descending {
        out[start..].iter_mut().for_each(|byte| *byte = !*byte);
    }
}

fn encode_value(out: &mut Vec<u8>, value: &Datum, ty: SqlType) {
    match value {
        Datum::Null => {}
        Datum::Bool(value) => out.push(u8::from(*value)),
        Datum::Int2(value) => out.extend_from_slice(&((*value as u16) ^ 0x8000).to_be_bytes()),
        Datum::Int4(value) | Datum::Date(value) => {
            out.extend_from_slice(&((*value as u32) ^ 0x8000_0000).to_be_bytes());
        }
        Datum::Int8(value)
        | Datum::Time(value)
        | Datum::Timestamp(value)
        | Datum::Timestamptz(value) => {
            out.extend_from_slice(&((*value as u64) ^ (1 << 63)).to_be_bytes());
        }
        Datum::Float4(value) => {
            let bits = (if value.is_nan() { f32::NAN.abs() } else { *value + 0.0 }).to_bits();
            let ordered = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
            out.extend_from_slice(&ordered.to_be_bytes());
        }
        Datum::Float8(value) => {
            let bits = (if value.is_nan() { f64::NAN.abs() } else { *value + 0.0 }).to_bits();
            let ordered = if bits >> 63 == 1 { !bits } else { bits | 1 << 63 };
            out.extend_from_slice(&ordered.to_be_bytes());
        }
        Datum::Numeric(value) => value.write_key(out),
        Datum::Text(text) if ty == SqlType::Bpchar => {
            encode_bytes(out, text.trim_end_matches(' ').as_bytes());
        }
        Datum::Text(text) | Datum::Json(text) => encode_bytes(out, text.as_bytes()),
        Datum::Jsonb(text) => jsonb::encode(out, text),
        Datum::Bytea(bytes) => encode_bytes(out, bytes),
        Datum::Interval(interval) => {
            let total = interval_total(interval);
            out.extend_from_slice(&((total as u128) ^ (1 << 127)).to_be_bytes());
        }
        Datum::Uuid(bytes) => out.extend_from_slice(bytes),
        Datum::Oid(value) => out.extend_from_slice(&value.to_be_bytes()),
        Datum::Array(array) => {
            for element in &array.elements {
                encode_datum(out, element, array.element, KeyOrder::default());
            }
            out.push(ARRAY_END);
            out.extend_from_slice(&((array.lower_bound as u32) ^ 0x8000_0000).to_be_bytes());
        }
    }
}

/// What intervals are compared by: months of 30 days, days of 24 hours.
fn interval_total(interval: &Interval) -> i128 {
    (i128::from(interval.months) * DAYS_PER_MONTH + i128::from(interval.days)) * MICROS_PER_DAY
        + i128::from(interval.micros)
}

pub(super) fn encode_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let mut rest = bytes;
    while let Some(zero) = rest.iter().position(|byte| *byte == 0) {
        out.extend_from_slice(&rest[..=zero]);
        out.push(ZERO_ESCAPED);
        rest = &rest[zero + 1..];
    }
    out.extend_from_slice(rest);
    out.extend_from_slice(&[0, STRING_END]);
}

/// The length of an encoded string with its end. `flip` is 0xff in descending columns.
fn bytes_len(bytes: &[u8], flip: u8) -> Result<usize, ValueError> {
    let mut at = 0;
    loop {
        let zero = bytes.get(at..).and_then(|rest| rest.iter().position(|byte| *byte == flip));
        at += zero.ok_or_else(malformed)?;
        match bytes.get(at + 1).map(|byte| byte ^ flip) {
            Some(ZERO_ESCAPED) => at += 2,
            Some(STRING_END) => return Ok(at + 2),
            _ => return Err(malformed()),
        }
    }
}

/// Decodes an ascending string and returns how many bytes it took.
pub(super) fn decode_bytes(bytes: &[u8]) -> Result<(Vec<u8>, usize), ValueError> {
    let length = bytes_len(bytes, 0)?;
    let mut decoded = Vec::with_capacity(length);
    let mut rest = &bytes[..length - 2];
    while let Some(zero) = rest.iter().position(|byte| *byte == 0) {
        decoded.extend_from_slice(&rest[..=zero]);
        rest = rest.get(zero + 2..).ok_or_else(malformed)?;
    }
    decoded.extend_from_slice(rest);
    Ok((decoded, length))
}

/// The length of a value encoded at the start of `bytes`.
pub fn datum_len(bytes: &[u8], ty: SqlType, order: KeyOrder) -> Result<usize, ValueError> {
    let length = match bytes.first() {
        Some(&VALUE) => 1 + value_len(&bytes[1..], ty, order.descending)?,
        Some(&NULL_FIRST | &NULL_LAST) => 1,
        _ => return Err(malformed()),
    };
    if length > bytes.len() { Err(malformed()) } else { Ok(length) }
}

fn value_len(bytes: &[u8], ty: SqlType, descending: bool) -> Result<usize, ValueError> {
    let flip = if descending { 0xff } else { 0 };
    Ok(match ty {
        SqlType::Bool => 1,
        SqlType::Int2 => 2,
        SqlType::Int4 | SqlType::Date | SqlType::Float4 => 4,
        SqlType::Int8
        | SqlType::Float8
        | SqlType::Time
        | SqlType::Timestamp
        | SqlType::Timestamptz => 8,
        SqlType::Interval | SqlType::Uuid => 16,
        SqlType::Void => 0,
        _ if ty.is_oid_like() => 4,
        SqlType::Numeric | SqlType::Jsonb | SqlType::Array(_) if descending => {
            // Rare, and their ends are not found by one byte: decode.
            let inverted: Vec<u8> = bytes.iter().map(|byte| !*byte).collect();
            value_len(&inverted, ty, false)?
        }
        SqlType::Numeric => numeric::key_len(bytes)?,
        SqlType::Jsonb => jsonb::decode(bytes)?.1,
        SqlType::Array(element) => {
            let mut at = 0;
            while *bytes.get(at).ok_or_else(malformed)? != ARRAY_END {
                at += datum_len(&bytes[at..], *element, KeyOrder::default())?;
            }
            at + 5
        }
        _ => bytes_len(bytes, flip)?,
    })
}

/// Decodes one value and returns how many bytes it took.
pub fn decode_datum(
    bytes: &[u8],
    ty: SqlType,
    order: KeyOrder,
) -> Result<(Datum, usize), ValueError> {
    let length = datum_len(bytes, ty, order)?;
    if bytes[0] != VALUE {
        return Ok((Datum::Null, length));
    }
    let value = &bytes[1..length];
    if order.descending {
        let inverted: Vec<u8> = value.iter().map(|byte| !*byte).collect();
        return Ok((decode_value(&inverted, ty)?, length));
    }
    Ok((decode_value(value, ty)?, length))
}

/// `bytes` is exactly one ascending value.
fn decode_value(bytes: &[u8], ty: SqlType) -> Result<Datum, ValueError> {
    Ok(match ty {
        SqlType::Bool => Datum::Bool(fixed::<1>(bytes)?[0] != 0),
        SqlType::Int2 => Datum::Int2((u16::from_be_bytes(fixed(bytes)?) ^ 0x8000) as i16),
        SqlType::Int4 => Datum::Int4(int4(bytes)?),
        SqlType::Date => Datum::Date(int4(bytes)?),
        SqlType::Int8 => Datum::Int8(int8(bytes)?),
        SqlType::Time => Datum::Time(int8(bytes)?),
        SqlType::Timestamp => Datum::Timestamp(int8(bytes)?),
        SqlType::Timestamptz => Datum::Timestamptz(int8(bytes)?),
        SqlType::Float4 => {
            let ordered = u32::from_be_bytes(fixed(bytes)?);
            let bits = if ordered >> 31 == 1 { ordered & !(1 << 31) } else { !ordered };
            Datum::Float4(f32::from_bits(bits))
        }
        SqlType::Float8 => {
            let ordered = u64::from_be_bytes(fixed(bytes)?);
            let bits = if ordered >> 63 == 1 { ordered & !(1 << 63) } else { !ordered };
            Datum::Float8(f64::from_bits(bits))
        }
        SqlType::Numeric => Datum::Numeric(Numeric::from_key(bytes)?.0),
        SqlType::Interval => Datum::Interval(interval_of_total(
            (u128::from_be_bytes(fixed(bytes)?) ^ (1 << 127)) as i128,
        )),
        SqlType::Uuid => Datum::Uuid(fixed(bytes)?),
        SqlType::Void => Datum::Null,
        _ if ty.is_oid_like() => Datum::Oid(u32::from_be_bytes(fixed(bytes)?)),
        SqlType::Bytea => Datum::Bytea(decode_bytes(bytes)?.0.into_boxed_slice()),
        SqlType::Jsonb => Datum::Jsonb(jsonb::decode(bytes)?.0.to_string().into_boxed_str()),
        SqlType::Json => {
            let text = text(bytes)?;
            json::validate(&text)?;
            Datum::Json(text)
        }
        SqlType::Array(element) => {
            let mut elements = Vec::new();
            let mut at = 0;
            while *bytes.get(at).ok_or_else(malformed)? != ARRAY_END {
                let (value, n_bytes) = decode_datum(&bytes[at..], *element, KeyOrder::default())?;
                elements.push(value);
                at += n_bytes;
            }
            let lower_bound = int4(&bytes[at + 1..])?;
            Datum::Array(Box::new(ArrayValue { element: *element, lower_bound, elements }))
        }
        _ => Datum::Text(text(bytes)?),
    })
}

fn text(bytes: &[u8]) -> Result<Box<str>, ValueError> {
    String::from_utf8(decode_bytes(bytes)?.0).map(String::into_boxed_str).map_err(|_| malformed())
}

fn fixed<const N: usize>(bytes: &[u8]) -> Result<[u8; N], ValueError> {
    bytes.try_into().map_err(|_| malformed())
}

fn int4(bytes: &[u8]) -> Result<i32, ValueError> {
    Ok((u32::from_be_bytes(fixed(bytes)?) ^ 0x8000_0000) as i32)
}

fn int8(bytes: &[u8]) -> Result<i64, ValueError> {
    Ok((u64::from_be_bytes(fixed(bytes)?) ^ (1 << 63)) as i64)
}

/// An interval equal to the one encoded: days and microseconds, months only where the days do not fit.
fn interval_of_total(total: i128) -> Interval {
    let micros = (total % MICROS_PER_DAY) as i64;
    let days = total / MICROS_PER_DAY;
    match i32::try_from(days) {
        Ok(days) => Interval { months: 0, days, micros },
        Err(_) => Interval {
            months: (days / DAYS_PER_MONTH).clamp(i32::MIN.into(), i32::MAX.into()) as i32,
            days: (days
                - (days / DAYS_PER_MONTH).clamp(i32::MIN.into(), i32::MAX.into()) * DAYS_PER_MONTH)
                .clamp(i32::MIN.into(), i32::MAX.into()) as i32,
            micros,
        },
    }
}
