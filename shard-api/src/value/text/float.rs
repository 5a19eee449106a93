//! float4 and float8: input as `strtod`, output in the shortest form that reads back equal.

use std::fmt::Write;

use super::trim;
use crate::error::{ValueError, ValueErrorKind};

/// Scientific exponents printed without an exponent: -4 up to these, exclusive.
const FIXED_MAX_F64: i32 = 15;
const FIXED_MAX_F32: i32 = 6;
const FIXED_MIN: i32 = -4;

/// With so many digits the value may lie half-way between two shortest forms: Postgres takes the even one, Rust the
/// upper; with fewer digits the two would read as different floats.
const TIE_DIGITS_F64: usize = 16;
const TIE_DIGITS_F32: usize = 7;

/// Significant digits at `extra_float_digits` = 0.
const DIGITS_F64: i32 = 15;
const DIGITS_F32: i32 = 6;

pub(super) fn parse_f64(text: &str) -> Result<f64, ValueError> {
    let body = number_body(text, "double precision")?;
    let value: f64 =
        body.parse().map_err(|_| ValueError::invalid_text("double precision", text))?;
    check_range(value.is_infinite(), value == 0.0, body, "double precision")?;
    Ok(value)
}

pub(super) fn parse_f32(text: &str) -> Result<f32, ValueError> {
    let body = number_body(text, "real")?;
    let value: f32 = body.parse().map_err(|_| ValueError::invalid_text("real", text))?;
    check_range(value.is_infinite(), value == 0.0, body, "real")?;
    Ok(value)
}

/// Refuses what Rust reads and Postgres does not.
fn number_body<'a>(text: &'a str, type_name: &str) -> Result<&'a str, ValueError> {
    let body = trim(text);
    let unsigned = body.strip_prefix(['+', '-']).unwrap_or(body);
    let known = unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        || ["inf", "infinity", "nan"].iter().any(|word| unsigned.eq_ignore_ascii_case(word));
    if known { Ok(body) } else { Err(ValueError::invalid_text(type_name, text)) }
}

/// 22003 where a finite number became infinite, or one with a digit other than 0 became zero.
fn check_range(infinite: bool, zero: bool, body: &str, type_name: &str) -> Result<(), ValueError> {
    let mantissa = body.split(['e', 'E']).next().unwrap_or(body);
    let lost = (infinite && body.bytes().any(|byte| byte.is_ascii_digit()))
        || (zero && mantissa.bytes().any(|byte| matches!(byte, b'1'..=b'9')));
    if lost {
        return Err(ValueError::new(
            ValueErrorKind::OutOfRange,
            format!("\"{body}\" is out of range for type {type_name}"),
        ));
    }
    Ok(())
}

/// Appends a float8 as Postgres prints it.
pub fn format_f64(value: f64, extra_float_digits: i32, out: &mut String) {
    if special(value, out) {
        return;
    }
    let mut buffer = Digits::default();
    if extra_float_digits >= 1 {
        _ = write!(buffer, "{value:e}");
        if let Some(digits) = exclusive_shortest_f64(value, buffer.as_str()) {
            buffer = digits;
        } else if let n_digits @ TIE_DIGITS_F64.. = significant(buffer.as_str()) {
            let mut even = Digits::default();
            _ = write!(even, "{value:.*e}", n_digits - 1);
            if even.as_str().parse() == Ok(value) {
                buffer = even;
            }
        }
        write_digits(buffer.as_str(), FIXED_MAX_F64, out);
    } else {
        format_g(value, DIGITS_F64 + extra_float_digits, out);
    }
}

/// Appends a float4 as Postgres prints it.
pub fn format_f32(value: f32, extra_float_digits: i32, out: &mut String) {
    if special(f64::from(value), out) {
        return;
    }
    if extra_float_digits >= 1 {
        let mut buffer = Digits::default();
        _ = write!(buffer, "{value:e}");
        if let Some(digits) = exclusive_shortest_f32(value, buffer.as_str()) {
            buffer = digits;
        } else if let n_digits @ TIE_DIGITS_F32.. = significant(buffer.as_str()) {
            let mut even = Digits::default();
            _ = write!(even, "{value:.*e}", n_digits - 1);
            if even.as_str().parse() == Ok(value) {
                buffer = even;
            }
        }
        write_digits(buffer.as_str(), FIXED_MAX_F32, out);
    } else {
        format_g(f64::from(value), DIGITS_F32 + extra_float_digits, out);
    }
}

/// Infinities, NaN and zeros.
fn special(value: f64, out: &mut String) -> bool {
    if value.is_nan() {
        out.push_str("NaN");
    } else if value.is_infinite() {
        out.push_str(if value > 0.0 { "Infinity" } else { "-Infinity" });
    } else if value == 0.0 {
        out.push_str(if value.is_sign_negative() { "-0" } else { "0" });
    } else {
        return false;
    }
    true
}

/// printf's `%.*g`.
fn format_g(value: f64, significant: i32, out: &mut String) {
    let significant = significant.max(1);
    let printed = format!("{value:.*e}", significant as usize - 1);
    let (mantissa, exponent) = printed.split_once('e').unwrap_or((&printed, "0"));
    let mantissa = match mantissa.contains('.') {
        true => mantissa.trim_end_matches('0').trim_end_matches('.'),
        false => mantissa,
    };
    write_digits(&format!("{mantissa}e{exponent}"), significant, out);
}

/// Turns `-1.25e-7` into Postgres's form: fixed for exponents in `FIXED_MIN .. fixed_max`.
fn write_digits(scientific: &str, fixed_max: i32, out: &mut String) {
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let (sign, mantissa) = match mantissa.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", mantissa),
    };
    out.push_str(sign);
    if !(FIXED_MIN..fixed_max).contains(&exponent) {
        out.push_str(mantissa);
        let sign = if exponent < 0 { '-' } else { '+' };
        _ = write!(out, "e{sign}{:02}", exponent.unsigned_abs());
        return;
    }
    let (first, rest) = mantissa.split_at(1);
    let rest = rest.trim_start_matches('.');
    if exponent < 0 {
        out.push_str("0.");
        (1..exponent.unsigned_abs()).for_each(|_| out.push('0'));
        out.push_str(first);
        out.push_str(rest);
        return;
    }
    let whole = exponent as usize;
    out.push_str(first);
    if rest.len() <= whole {
        out.push_str(rest);
        (rest.len()..whole).for_each(|_| out.push('0'));
    } else {
        out.push_str(&rest[..whole]);
        out.push('.');
        out.push_str(&rest[whole..]);
    }
}

/// Room for any float in scientific form.
const BUFFER_LEN: usize = 40;

/// A small string on the stack.
#[derive(Clone, Copy)]
struct Digits {
    bytes: [u8; BUFFER_LEN],
    len: usize,
}

impl Default for Digits {
    fn default() -> Self {
        Digits { bytes: [0; BUFFER_LEN], len: 0 }
    }
}

impl Digits {
    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.len]).unwrap_or("0e0")
    }
}

impl Write for Digits {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.len + text.len();
        let room = self.bytes.get_mut(self.len..end).ok_or(std::fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}

/// Postgres's shortest form never uses a decimal that lies exactly half-way between two floats, though reading it would
/// round to this one (1e23 prints as 9.999999999999999e+22). Rust's does; `None` where they agree.
fn exclusive_shortest_f64(value: f64, shortest: &str) -> Option<Digits> {
    let bits = value.to_bits();
    let raw = (bits >> 52) & 0x7ff;
    let fraction = bits & ((1 << 52) - 1);
    let (mantissa, exponent) = match raw {
        0 => (fraction, -1074),
        raw => (fraction | 1 << 52, raw as i32 - 1075),
    };
    if !is_midpoint(mantissa, exponent, shortest) {
        return None;
    }
    (significant(shortest)..=17).find_map(|digits| {
        let mut buffer = Digits::default();
        write!(buffer, "{value:.*e}", digits - 1).ok()?;
        let parsed: f64 = buffer.as_str().parse().ok()?;
        (parsed == value && !is_midpoint(mantissa, exponent, buffer.as_str())).then_some(buffer)
    })
}

fn exclusive_shortest_f32(value: f32, shortest: &str) -> Option<Digits> {
    let bits = value.to_bits();
    let raw = (bits >> 23) & 0xff;
    let fraction = u64::from(bits & ((1 << 23) - 1));
    let (mantissa, exponent) = match raw {
        0 => (fraction, -149),
        raw => (fraction | 1 << 23, raw as i32 - 150),
    };
    if !is_midpoint(mantissa, exponent, shortest) {
        return None;
    }
    (significant(shortest)..=9).find_map(|digits| {
        let mut buffer = Digits::default();
        write!(buffer, "{value:.*e}", digits - 1).ok()?;
        let parsed: f32 = buffer.as_str().parse().ok()?;
        (parsed == value && !is_midpoint(mantissa, exponent, buffer.as_str())).then_some(buffer)
    })
}

fn significant(scientific: &str) -> usize {
    let mantissa = scientific.split('e').next().unwrap_or("");
    mantissa.bytes().filter(u8::is_ascii_digit).count()
}

/// Whether a decimal is exactly (mantissa ± 1/2) × 2^exponent.
fn is_midpoint(mantissa: u64, exponent: i32, scientific: &str) -> bool {
    // Only even mantissas have their midpoints round towards them.
    if mantissa % 2 == 1 {
        return false;
    }
    let Some((text, power)) = scientific.split_once('e') else {
        return false;
    };
    let fraction = text.split_once('.').map_or(0, |(_, fraction)| fraction.len() as i32);
    let mut digits = 0u128;
    for digit in text.bytes().filter(u8::is_ascii_digit) {
        digits = digits * 10 + u128::from(digit - b'0');
    }
    // decimal = digits × 10^k, midpoint = odd × 2^(exponent - 1).
    let k = power.parse::<i32>().unwrap_or(0) - fraction;
    // Beyond these a midpoint has more digits than are ever printed.
    if !(-25..=23).contains(&k) || digits == 0 {
        return false;
    }
    // digits × 5^k × 2^k = odd × 2^(exponent-1): the powers of two and the odd parts must both agree.
    let two = digits.trailing_zeros() as i32;
    if two + k != exponent - 1 {
        return false;
    }
    let odd_part = digits >> two;
    let five = 5u128.pow(k.unsigned_abs());
    [2 * u128::from(mantissa) - 1, 2 * u128::from(mantissa) + 1].iter().any(|odd| {
        if k >= 0 {
            odd_part.checked_mul(five) == Some(*odd)
        } else {
            odd.checked_mul(five) == Some(odd_part)
        }
    })
}
