//! Values in text, each behind its length.
//!
//! The common types are written without an allocation; the rest goes through `value::text::format` and a string that is kept.

use cortex_shard_api::{
    Datum, SqlType,
    value::{self, ValueSettings},
};

use crate::statement::SqlSession;

/// What text needs besides the value.
pub(crate) struct TextContext<'a> {
    pub settings: &'a ValueSettings,
    /// Names of objects, for `regclass` and its like.
    pub session: &'a dyn SqlSession,
    /// Reused by every value that is formatted.
    pub scratch: &'a mut String,
}

/// NULL: a length of -1 and nothing else.
#[inline]
pub(crate) fn null(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xff; 4]);
}

/// A function that returns nothing prints an empty string, not NULL.
#[inline]
pub(crate) fn null_of(out: &mut Vec<u8>, ty: SqlType) {
    if ty == SqlType::Void { raw(out, b"") } else { null(out) }
}

/// Bytes as they are.
#[inline]
pub(crate) fn raw(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(bytes);
}

#[inline]
pub(crate) fn integer(out: &mut Vec<u8>, value: impl itoa::Integer) {
    raw(out, itoa::Buffer::new().format(value).as_bytes());
}

#[inline]
pub(crate) fn boolean(out: &mut Vec<u8>, value: bool) {
    raw(out, if value { b"t" } else { b"f" });
}

/// `\x0102`, unless the session wants the escape format.
pub(crate) fn bytea(out: &mut Vec<u8>, bytes: &[u8], context: &mut TextContext<'_>) {
    if context.settings.bytea_escape {
        return formatted(out, SqlType::Bytea, &Datum::Bytea(bytes.into()), context);
    }
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.reserve(bytes.len() * 2 + 6);
    out.extend_from_slice(&(bytes.len() as u32 * 2 + 2).to_be_bytes());
    out.extend_from_slice(b"\\x");
    for byte in bytes {
        let (high, low) = (usize::from(byte >> 4), usize::from(byte & 15));
        out.extend_from_slice(&[DIGITS[high], DIGITS[low]]);
    }
}

/// An OID: a number, or the object's name for the `reg*` types.
pub(crate) fn oid(out: &mut Vec<u8>, ty: SqlType, oid: u32, context: &mut TextContext<'_>) {
    if ty == SqlType::Oid {
        return integer(out, oid);
    }
    if oid == 0 {
        return raw(out, b"-");
    }
    match context.session.object_name(ty, oid) {
        Some(name) => raw(out, name.as_bytes()),
        None => integer(out, oid),
    }
}

/// Any value but NULL, through the value's own formatter.
pub(crate) fn formatted(
    out: &mut Vec<u8>,
    ty: SqlType,
    datum: &Datum,
    context: &mut TextContext<'_>,
) {
    context.scratch.clear();
    value::text::format(datum, ty, context.settings, context.scratch);
    raw(out, context.scratch.as_bytes());
}

/// An int2vector or oidvector: `1 2`.
pub(crate) fn vector(out: &mut Vec<u8>, ty: SqlType, datum: &Datum, context: &mut TextContext<'_>) {
    if matches!(datum, Datum::Null) {
        return null(out);
    }
    context.scratch.clear();
    value::text::format(datum, ty, context.settings, context.scratch);
    let elements = context.scratch.trim_matches(['{', '}']).replace(',', " ");
    raw(out, elements.as_bytes());
}

/// One value in text.
#[inline]
pub(crate) fn datum(out: &mut Vec<u8>, ty: SqlType, datum: &Datum, context: &mut TextContext<'_>) {
    match datum {
        Datum::Null => null_of(out, ty),
        Datum::Int4(value) => integer(out, *value),
        Datum::Int8(value) => integer(out, *value),
        Datum::Int2(value) => integer(out, *value),
        Datum::Bool(value) => boolean(out, *value),
        Datum::Text(text) | Datum::Json(text) | Datum::Jsonb(text) => raw(out, text.as_bytes()),
        Datum::Bytea(bytes) => bytea(out, bytes, context),
        Datum::Oid(value) => oid(out, ty, *value, context),
        Datum::Float4(_)
        | Datum::Float8(_)
        | Datum::Numeric(_)
        | Datum::Date(_)
        | Datum::Time(_)
        | Datum::Timestamp(_)
        | Datum::Timestamptz(_)
        | Datum::Interval(_)
        | Datum::Uuid(_)
        | Datum::Array(_) => formatted(out, ty, datum, context),
    }
}
