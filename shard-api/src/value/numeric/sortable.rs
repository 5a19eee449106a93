//! The order-preserving bytes of a `numeric`: what keys, stored rows and Arrow columns hold (docs/format/keys.md).
//!
//! A number is ±0.D₁D₂… × 100^e. The first byte tells sign and, for common sizes, e; then come the base-100 digits,
//! each plus one, and a zero byte. Negative numbers have every byte inverted. The display scale follows where it is
//! wanted; it is not part of the value.

use num_bigint::{BigInt, Sign};

use super::{Numeric, Repr, SCALE_MAX, pow10, pow10_i128};
use crate::error::{ValueError, ValueErrorKind};

const ZERO: u8 = 0x80;
/// e below `EXPONENT_MIN`, in four more bytes.
const TINY: u8 = 0x81;
/// The byte of e = 0; e in `EXPONENT_MIN ..= EXPONENT_MAX` is added to it.
const EXPONENT_BASE: i32 = 0x8a;
const EXPONENT_MIN: i32 = -8;
const EXPONENT_MAX: i32 = 20;
/// e above `EXPONENT_MAX`, in four more bytes.
const HUGE: u8 = 0x9f;
const INFINITY: u8 = 0xa0;
const NAN: u8 = 0xa1;
const NEGATIVE_INFINITY: u8 = !INFINITY;
/// Negative numbers have first bytes below this.
const NEGATIVE_LAST: u8 = !TINY;
const NEGATIVE_FIRST: u8 = !HUGE;

/// Base-100 digits that fit a u64 and a u128 accumulator.
const PAIRS_U64: usize = 9;
const PAIRS_U128: usize = 18;

/// Digits of any `u128`.
const DIGITS_U128: usize = 39;

impl Numeric {
    /// Order-preserving bytes followed by the display scale (u16, big-endian): what Arrow columns and rows hold.
    /// Of two values, bytes order as the values do, and ties by scale.
    pub fn to_sortable(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(12);
        self.write_sortable(&mut out);
        out
    }

    /// Appends what `to_sortable` returns.
    pub fn write_sortable(&self, out: &mut Vec<u8>) {
        self.write_key(out);
        out.extend_from_slice(&self.scale().to_be_bytes());
    }

    /// Appends the value without its display scale: equal values have equal bytes. Self-delimiting.
    pub fn write_key(&self, out: &mut Vec<u8>) {
        match &self.0 {
            Repr::Small { unscaled: 0, .. } => out.push(ZERO),
            Repr::Small { unscaled, scale } => {
                let mut buffer = [0u8; DIGITS_U128];
                let digits = decimal_digits(unscaled.unsigned_abs(), &mut buffer);
                write_digits(out, *unscaled < 0, digits, i32::from(*scale));
            }
            Repr::Big { unscaled, scale } => {
                let mut digits = unscaled.magnitude().to_string().into_bytes();
                digits.iter_mut().for_each(|digit| *digit -= b'0');
                write_digits(out, unscaled.sign() == Sign::Minus, &digits, i32::from(*scale));
            }
            Repr::NaN => out.push(NAN),
            Repr::Infinity => out.push(INFINITY),
            Repr::NegativeInfinity => out.push(NEGATIVE_INFINITY),
        }
    }

    /// Reads what `to_sortable` made.
    pub fn from_sortable(bytes: &[u8]) -> Result<Numeric, ValueError> {
        let Some((value, scale)) = bytes.split_last_chunk::<2>() else {
            return Err(corrupt());
        };
        let scale = u16::from_be_bytes(*scale);
        match read_key(value, Some(scale))? {
            (number, n) if n == value.len() => Ok(number),
            _ => Err(corrupt()),
        }
    }

    /// Reads what `write_key` made, with the least scale that shows the value, and the number of bytes it took.
    pub fn from_key(bytes: &[u8]) -> Result<(Numeric, usize), ValueError> {
        read_key(bytes, None)
    }
}

/// The length of an encoded value at the start of `bytes`.
pub(crate) fn key_len(bytes: &[u8]) -> Result<usize, ValueError> {
    let first = *bytes.first().ok_or_else(corrupt)?;
    let (start, end) = match first {
        ZERO | INFINITY | NAN | NEGATIVE_INFINITY => return Ok(1),
        TINY | HUGE => (5, 0),
        NEGATIVE_FIRST | NEGATIVE_LAST => (5, 0xff),
        _ if first > ZERO => (1, 0),
        _ => (1, 0xff),
    };
    let digits = bytes.get(start..).ok_or_else(corrupt)?;
    let length = digits.iter().position(|byte| *byte == end).ok_or_else(corrupt)?;
    Ok(start + length + 1)
}

fn corrupt() -> ValueError {
    ValueError::new(ValueErrorKind::Internal, "malformed stored numeric")
}

/// The digits (0-9) of a number, most significant first.
fn decimal_digits(mut magnitude: u128, buffer: &mut [u8; DIGITS_U128]) -> &[u8] {
    let mut at = DIGITS_U128;
    // 128-bit division is slow: take 19 digits at a time.
    while magnitude > u128::from(u64::MAX) {
        let mut low = (magnitude % 10u128.pow(19)) as u64;
        magnitude /= 10u128.pow(19);
        for _ in 0..19 {
            at -= 1;
            buffer[at] = (low % 10) as u8;
            low /= 10;
        }
    }
    let mut low = magnitude as u64;
    while low > 0 {
        at -= 1;
        buffer[at] = (low % 10) as u8;
        low /= 10;
    }
    &buffer[at..]
}

/// Writes digits (0-9, no leading zero, not empty) × 10^-scale.
fn write_digits(out: &mut Vec<u8>, negative: bool, digits: &[u8], scale: i32) {
    let start = out.len();
    // Digits before the decimal point (negative: zeros behind it), then pairs of them.
    let point = digits.len() as i32 - scale;
    let exponent = point.div_euclid(2) + point.rem_euclid(2);
    if exponent < EXPONENT_MIN {
        out.push(TINY);
        out.extend_from_slice(&((exponent as u32) ^ 0x8000_0000).to_be_bytes());
    } else if exponent > EXPONENT_MAX {
        out.push(HUGE);
        out.extend_from_slice(&((exponent as u32) ^ 0x8000_0000).to_be_bytes());
    } else {
        out.push((EXPONENT_BASE + exponent) as u8);
    }
    let significant = digits.iter().rposition(|digit| *digit != 0).map_or(0, |last| last + 1);
    let mut rest = &digits[..significant];
    if point.rem_euclid(2) == 1 {
        out.push(rest[0] + 1);
        rest = &rest[1..];
    }
    for pair in rest.chunks(2) {
        out.push(pair[0] * 10 + pair.get(1).copied().unwrap_or(0) + 1);
    }
    out.push(0);
    if negative {
        out[start..].iter_mut().for_each(|byte| *byte = !*byte);
    }
}

fn read_key(bytes: &[u8], scale: Option<u16>) -> Result<(Numeric, usize), ValueError> {
    let n_bytes = key_len(bytes)?;
    let first = bytes[0];
    match first {
        ZERO => return Ok((Numeric::from_i128(0, scale.unwrap_or(0)), n_bytes)),
        NAN => return Ok((Numeric::NAN, n_bytes)),
        INFINITY => return Ok((Numeric::INFINITY, n_bytes)),
        NEGATIVE_INFINITY => return Ok((Numeric::NEGATIVE_INFINITY, n_bytes)),
        NEGATIVE_FIRST..=NEGATIVE_LAST | TINY..=HUGE => {}
        _ => return Err(corrupt()),
    }
    let negative = first < ZERO;
    let flip = if negative { 0xff } else { 0 };
    let (exponent, pairs) = match first ^ flip {
        TINY | HUGE => {
            let Some((raw, pairs)) = bytes[1..n_bytes].split_first_chunk::<4>() else {
                return Err(corrupt());
            };
            let raw = u32::from_be_bytes(raw.map(|byte| byte ^ flip)) ^ 0x8000_0000;
            (raw as i32, pairs)
        }
        byte => (i32::from(byte) - EXPONENT_BASE, &bytes[1..n_bytes]),
    };
    let pairs = &pairs[..pairs.len() - 1];
    if pairs.is_empty() || exponent.unsigned_abs() > 100_000 {
        return Err(corrupt());
    }
    // Decimal exponent of the last pair.
    let last = 2 * (exponent - pairs.len() as i32);
    let low_zero = {
        let pair = (pairs[pairs.len() - 1] ^ flip).wrapping_sub(1);
        pair.is_multiple_of(10)
    };
    let scale = match scale {
        Some(scale) => scale,
        None => u16::try_from((-last - i32::from(low_zero)).max(0)).map_err(|_| corrupt())?,
    };
    if scale > SCALE_MAX {
        return Err(corrupt());
    }
    let shift = i32::from(scale) + last;
    if pairs.len() <= PAIRS_U128 {
        let magnitude = if pairs.len() <= PAIRS_U64 {
            let mut magnitude = 0u64;
            for byte in pairs {
                magnitude = magnitude * 100 + u64::from(pair(*byte, flip)?);
            }
            i128::from(magnitude)
        } else {
            let mut magnitude = 0i128;
            for byte in pairs {
                magnitude = magnitude * 100 + i128::from(pair(*byte, flip)?);
            }
            magnitude
        };
        let shifted = match shift {
            0 => Some(magnitude),
            1.. => pow10_i128(shift as usize).and_then(|power| magnitude.checked_mul(power)),
            -1 if magnitude % 10 == 0 => Some(magnitude / 10),
            _ => return Err(corrupt()),
        };
        if let Some(unscaled) = shifted {
            let unscaled = if negative { -unscaled } else { unscaled };
            return Ok((Numeric::from_i128(unscaled, scale), n_bytes));
        }
    }
    let mut digits = Vec::with_capacity(pairs.len());
    for byte in pairs {
        digits.push(pair(*byte, flip)?);
    }
    let mut magnitude = BigInt::from_radix_be(Sign::Plus, &digits, 100).ok_or_else(corrupt)?;
    match shift {
        0.. => magnitude *= pow10(shift as usize),
        -1 => magnitude /= 10,
        _ => return Err(corrupt()),
    }
    let unscaled = if negative { -magnitude } else { magnitude };
    Ok((Numeric::from_bigint(unscaled, scale), n_bytes))
}

fn pair(byte: u8, flip: u8) -> Result<u8, ValueError> {
    let digit = (byte ^ flip).wrapping_sub(1);
    if digit < 100 { Ok(digit) } else { Err(corrupt()) }
}
