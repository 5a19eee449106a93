//! Integers and OIDs from text.

use super::trim;
use crate::error::{ValueError, ValueErrorKind};

/// Decimal digits with a sign and blanks around, as `pg_strtoint32`. `type_name` is for messages.
pub fn parse_integer<T: TryFrom<i64>>(text: &str, type_name: &str) -> Result<T, ValueError> {
    let body = trim(text);
    let (negative, digits) = match body.as_bytes() {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(ValueError::invalid_text(type_name, text));
    }
    let mut value = Some(0i64);
    for digit in digits {
        let digit = i64::from(digit - b'0');
        // Counted downwards, because the least number has no positive twin.
        value = value.and_then(|value| value.checked_mul(10)?.checked_sub(digit));
    }
    value
        .and_then(|value| if negative { Some(value) } else { value.checked_neg() })
        .and_then(|value| T::try_from(value).ok())
        .ok_or_else(|| out_of_range(text, type_name))
}

/// An unsigned 32-bit number; negative ones wrap, as `oidin` has it.
pub(super) fn parse_oid(text: &str, type_name: &str) -> Result<u32, ValueError> {
    let value: i64 = parse_integer(text, type_name).map_err(|error| match error.kind {
        ValueErrorKind::OutOfRange => out_of_range(text, type_name),
        _ => ValueError::invalid_text(type_name, text),
    })?;
    match u32::try_from(value) {
        Ok(oid) => Ok(oid),
        Err(_) => i32::try_from(value)
            .map(|value| value as u32)
            .map_err(|_| out_of_range(text, type_name)),
    }
}

fn out_of_range(text: &str, type_name: &str) -> ValueError {
    ValueError::new(
        ValueErrorKind::OutOfRange,
        format!("value \"{text}\" is out of range for type {type_name}"),
    )
}
