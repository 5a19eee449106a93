//! Text input and output of every type, as Postgres's input and output functions.
//!
//! Lives here: the dispatch by type, and the short ones (bool, strings, uuid). Each longer family has its file. Not
//! here: names behind reg* types (the catalog resolves them; here they are numbers), casts (crate `functions`).

use std::fmt::Write;

use super::{Datum, Numeric, ValueSettings, json, zone::Zone};
use crate::{
    error::{ValueError, ValueErrorKind},
    types::{SqlType, TypeMod},
};

/// `{1,2,NULL,"a b"}`
mod array;

/// `bytea` in hex and escape form.
mod bytea;

/// Dates, times, timestamps, intervals.
pub mod datetime;

/// Shortest float output, float input.
mod float;

/// Integers and OIDs.
mod integer;

/// Type modifiers and type names.
mod typmod;

pub use float::{format_f32, format_f64};
pub use integer::parse_integer;
pub use typmod::{apply_typmod, type_name};

/// Bytes of a `name` at most, without its terminator: `NAMEDATALEN - 1`.
pub const NAME_LEN_MAX: usize = 63;

/// What Postgres's `isspace` takes for a blank.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_ascii() && is_space(c as u8))
}

/// Parses a type's text form, as the type's input function in Postgres does. No modifier is applied.
pub fn parse(ty: SqlType, text: &str, settings: &ValueSettings) -> Result<Datum, ValueError> {
    Ok(match ty {
        SqlType::Bool => Datum::Bool(parse_bool(text)?),
        SqlType::Int2 => Datum::Int2(parse_integer(text, "smallint")?),
        SqlType::Int4 => Datum::Int4(parse_integer(text, "integer")?),
        SqlType::Int8 => Datum::Int8(parse_integer(text, "bigint")?),
        SqlType::Float4 => Datum::Float4(float::parse_f32(text)?),
        SqlType::Float8 => Datum::Float8(float::parse_f64(text)?),
        SqlType::Numeric => Datum::Numeric(Numeric::parse(text)?),
        SqlType::Text | SqlType::Varchar | SqlType::Bpchar | SqlType::Unknown => {
            Datum::Text(text.into())
        }
        SqlType::Name => Datum::Text(clip_name(text).into()),
        SqlType::Char => Datum::Text(text.chars().take(1).collect::<String>().into()),
        SqlType::Bytea => Datum::Bytea(bytea::parse(text)?),
        SqlType::Uuid => Datum::Uuid(parse_uuid(text)?),
        SqlType::Json => {
            json::validate(text)?;
            Datum::Json(text.into())
        }
        SqlType::Jsonb => Datum::Jsonb(json::canonical(text)?),
        SqlType::Array(element) => Datum::Array(Box::new(array::parse(*element, text, settings)?)),
        SqlType::Oid => Datum::Oid(integer::parse_oid(text, "oid")?),
        SqlType::Regclass
        | SqlType::Regtype
        | SqlType::Regproc
        | SqlType::Regnamespace
        | SqlType::Regrole => match text {
            "-" => Datum::Oid(0),
            _ => Datum::Oid(integer::parse_oid(text, ty.sql_name())?),
        },
        SqlType::Void => Datum::Null,
        SqlType::Record => {
            return Err(ValueError::new(
                ValueErrorKind::Unsupported,
                "input of anonymous composite types is not implemented",
            ));
        }
        SqlType::Date => datetime::parse_date(text, settings)?,
        SqlType::Time => datetime::parse_time(text, settings)?,
        SqlType::Timestamp => datetime::parse_timestamp(text, settings)?,
        SqlType::Timestamptz => datetime::parse_timestamptz(text, settings)?,
        SqlType::Interval => datetime::parse_interval(text)?,
    })
}

/// Appends a type's text form. `Null` must be handled by the caller (it prints nothing).
pub fn format(value: &Datum, ty: SqlType, settings: &ValueSettings, out: &mut String) {
    let _ = ty;
    // Writing to a String cannot fail, hence the ignored results.
    match value {
        Datum::Null => {}
        Datum::Bool(value) => out.push(if *value { 't' } else { 'f' }),
        Datum::Int2(value) => _ = write!(out, "{value}"),
        Datum::Int4(value) => _ = write!(out, "{value}"),
        Datum::Int8(value) => _ = write!(out, "{value}"),
        Datum::Float4(value) => format_f32(*value, settings.extra_float_digits, out),
        Datum::Float8(value) => format_f64(*value, settings.extra_float_digits, out),
        Datum::Numeric(value) => _ = write!(out, "{value}"),
        Datum::Text(text) | Datum::Json(text) | Datum::Jsonb(text) => out.push_str(text),
        Datum::Bytea(bytes) if settings.bytea_escape => bytea::format_escape(bytes, out),
        Datum::Bytea(bytes) => bytea::format_hex(bytes, out),
        Datum::Uuid(bytes) => {
            let mut buffer = [0; uuid::fmt::Hyphenated::LENGTH];
            out.push_str(uuid::Uuid::from_bytes(*bytes).hyphenated().encode_lower(&mut buffer));
        }
        Datum::Oid(value) => _ = write!(out, "{value}"),
        Datum::Array(array) => array::format(array, settings, out),
        Datum::Date(days) => datetime::format_date(*days, out),
        Datum::Time(micros) => datetime::format_time(*micros, out),
        Datum::Timestamp(micros) => datetime::format_timestamp(*micros, out),
        Datum::Timestamptz(micros) => {
            datetime::format_timestamptz(*micros, Zone::Named(settings.time_zone), out);
        }
        Datum::Interval(interval) => datetime::format_interval(interval, out),
    }
}

/// Any unique beginning of true, false, yes, no, on, off; 1 and 0.
fn parse_bool(text: &str) -> Result<bool, ValueError> {
    let word = trim(text).to_ascii_lowercase();
    let begins = |full: &str, least: usize| word.len() >= least && full.starts_with(&word);
    if begins("true", 1) || begins("yes", 1) || word == "on" || word == "1" {
        Ok(true)
    } else if begins("false", 1) || begins("no", 1) || begins("off", 2) || word == "0" {
        Ok(false)
    } else {
        Err(ValueError::invalid_text("boolean", text))
    }
}

/// 32 hex digits, a hyphen allowed behind every four of them, braces around.
fn parse_uuid(text: &str) -> Result<[u8; 16], ValueError> {
    let invalid = || ValueError::invalid_text("uuid", text);
    let body = match text.strip_prefix('{') {
        Some(rest) => rest.strip_suffix('}').ok_or_else(invalid)?,
        None => text,
    };
    let mut uuid = [0u8; 16];
    let mut rest = body.as_bytes();
    for (i, byte) in uuid.iter_mut().enumerate() {
        let [high, low, after @ ..] = rest else {
            return Err(invalid());
        };
        let digit = |byte: &u8| char::from(*byte).to_digit(16).map(|digit| digit as u8);
        *byte =
            digit(high).zip(digit(low)).map(|(high, low)| high << 4 | low).ok_or_else(invalid)?;
        rest = match after {
            [b'-', after @ ..] if i % 2 == 1 && i < 15 => after,
            _ => after,
        };
    }
    if rest.is_empty() { Ok(uuid) } else { Err(invalid()) }
}

/// A name's first 63 bytes, whole characters.
pub fn clip_name(text: &str) -> &str {
    if text.len() <= NAME_LEN_MAX {
        return text;
    }
    let mut end = NAME_LEN_MAX;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// `parse`, then `apply_typmod` as an assignment: what COPY and literals with a type need.
pub fn parse_with_typmod(
    ty: TypeMod,
    text: &str,
    settings: &ValueSettings,
) -> Result<Datum, ValueError> {
    let value = parse(ty.ty, text, settings)?;
    if ty.typmod < 0 { Ok(value) } else { apply_typmod(value, ty, false) }
}

#[cfg(test)]
mod tests;
