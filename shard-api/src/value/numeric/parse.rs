//! Reading a `numeric` from text, as Postgres's `numeric_in`.

use num_bigint::BigInt;

use super::{INTEGER_DIGITS_MAX, Numeric, SCALE_MAX, overflow, pow10, pow10_i128};
use crate::error::ValueError;

/// Exponents beyond this overflow, whatever the digits are.
const EXPONENT_MAX: i64 = (i32::MAX / 2) as i64;

impl Numeric {
    /// `12`, `-1.50`, `.5`, `1e-3`, `NaN`, `Infinity`, with blanks around. The scale is the number of digits behind
    /// the point.
    pub fn parse(text: &str) -> Result<Numeric, ValueError> {
        let invalid = || ValueError::invalid_text("numeric", text);
        let trimmed = text.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\x0b');
        let (negative, body) = match trimmed.as_bytes().first() {
            Some(b'-') => (true, &trimmed[1..]),
            Some(b'+') => (false, &trimmed[1..]),
            _ => (false, trimmed),
        };
        let signed = body.len() != trimmed.len();
        match body.as_bytes().first() {
            Some(b'0'..=b'9' | b'.') => {}
            _ if body.eq_ignore_ascii_case("nan") && !signed => return Ok(Numeric::NAN),
            _ if body.eq_ignore_ascii_case("infinity") || body.eq_ignore_ascii_case("inf") => {
                return Ok(if negative { Numeric::NEGATIVE_INFINITY } else { Numeric::INFINITY });
            }
            _ => return Err(invalid()),
        }
        let (mantissa, exponent) = match body.bytes().position(|b| b == b'e' || b == b'E') {
            Some(at) => {
                let exponent = parse_exponent(&body[at + 1..]).ok_or_else(invalid)?;
                (&body[..at], exponent)
            }
            None => (body, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        if (whole.is_empty() && fraction.is_empty()) || !all_digits(whole) || !all_digits(fraction)
        {
            return Err(invalid());
        }
        from_digits(negative, whole, fraction, exponent)
    }
}

fn parse_exponent(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    // More digits than fit are far beyond the bound on either side.
    let beyond = if text.starts_with('-') { -EXPONENT_MAX } else { EXPONENT_MAX };
    Some(text.parse().unwrap_or(beyond))
}

fn from_digits(
    negative: bool,
    whole: &str,
    fraction: &str,
    exponent: i64,
) -> Result<Numeric, ValueError> {
    if exponent.unsigned_abs() >= EXPONENT_MAX.unsigned_abs() {
        return Err(overflow());
    }
    // The value is the digits × 10^-point.
    let point = fraction.len() as i64 - exponent;
    let scale = point.max(0);
    if scale > i64::from(SCALE_MAX) {
        return Err(overflow());
    }
    let scale = scale as u16;
    let whole = whole.trim_start_matches('0');
    if whole.len() + fraction.len() <= 38 && point >= 0 {
        let mut unscaled = 0i128;
        for digit in whole.bytes().chain(fraction.bytes()) {
            unscaled = unscaled * 10 + i128::from(digit - b'0');
        }
        return Ok(Numeric::from_i128(if negative { -unscaled } else { unscaled }, scale));
    }
    let digits = [whole, fraction].concat();
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return Ok(Numeric::from_i128(0, scale));
    }
    if digits.len() as i64 - point > INTEGER_DIGITS_MAX as i64 {
        return Err(overflow());
    }
    let mut unscaled = BigInt::parse_bytes(digits.as_bytes(), 10).ok_or_else(overflow)?;
    if point < 0 {
        let zeros = (-point) as usize;
        unscaled = match pow10_i128(zeros) {
            Some(power) => unscaled * power,
            None => unscaled * pow10(zeros),
        };
    }
    if negative {
        unscaled = -unscaled;
    }
    Numeric::from_bigint(unscaled, scale).checked()
}
