//! The wire's form of a `numeric`: `[digits u16][weight i16][sign u16][display scale u16]`, then base-10000 digits.

use num_bigint::{BigInt, Sign};
use num_traits::Zero;

use super::{Numeric, SCALE_MAX, pow10, pow10_i128};
use crate::error::{ValueError, ValueErrorKind};

const POSITIVE: u16 = 0x0000;
const NEGATIVE: u16 = 0x4000;
const NAN: u16 = 0xc000;
const INFINITY: u16 = 0xd000;
const NEGATIVE_INFINITY: u16 = 0xf000;

/// What Postgres sends as the scale of an infinity: bits of its storage format shine through.
const INFINITE_SCALE: u16 = 0x20;

const BASE: u32 = 10_000;
const DIGITS_PER_GROUP: i32 = 4;

/// Groups whose value surely fits an `i128` accumulator.
const GROUPS_I128: usize = 9;

/// Appends the wire's form.
pub(crate) fn to_wire(value: &Numeric, out: &mut Vec<u8>) {
    let (groups, weight, sign) = match value {
        _ if value.is_nan() => (Vec::new(), 0, NAN),
        _ if value.is_infinite() && value.is_negative() => (Vec::new(), 0, NEGATIVE_INFINITY),
        _ if value.is_infinite() => (Vec::new(), 0, INFINITY),
        _ => {
            let (groups, weight) = groups(value);
            (groups, weight, if value.is_negative() { NEGATIVE } else { POSITIVE })
        }
    };
    out.extend_from_slice(&(groups.len() as u16).to_be_bytes());
    out.extend_from_slice(&(weight as i16).to_be_bytes());
    out.extend_from_slice(&sign.to_be_bytes());
    let scale = if value.is_infinite() { INFINITE_SCALE } else { value.scale() };
    out.extend_from_slice(&scale.to_be_bytes());
    groups.iter().for_each(|group| out.extend_from_slice(&group.to_be_bytes()));
}

/// Base-10000 digits without zeros at either end, and the weight of the first.
fn groups(value: &Numeric) -> (Vec<u16>, i32) {
    if value.is_zero() {
        return (Vec::new(), 0);
    }
    let scale = i32::from(value.scale());
    // Zeros that bring the decimal point to a group's edge.
    let padding = (DIGITS_PER_GROUP - scale % DIGITS_PER_GROUP) % DIGITS_PER_GROUP;
    let fraction_groups = (scale + padding) / DIGITS_PER_GROUP;
    let padded = value
        .unscaled_i128()
        .and_then(|unscaled| unscaled.unsigned_abs().checked_mul(10u128.pow(padding as u32)));
    // Least significant first.
    let mut groups = Vec::with_capacity(GROUPS_I128);
    match padded {
        Some(mut rest) => {
            while rest > 0 {
                groups.push((rest % u128::from(BASE)) as u16);
                rest /= u128::from(BASE);
            }
        }
        None => {
            let unscaled = value.unscaled().unwrap_or_default() * pow10(padding as usize);
            let digits = unscaled.magnitude().to_string();
            for chunk in digits.as_bytes().rchunks(DIGITS_PER_GROUP as usize) {
                groups.push(
                    chunk.iter().fold(0, |group, digit| group * 10 + u16::from(digit - b'0')),
                );
            }
        }
    }
    let weight = groups.len() as i32 - 1 - fraction_groups;
    let zeros = groups.iter().take_while(|group| **group == 0).count();
    groups.drain(..zeros);
    groups.reverse();
    (groups, weight)
}

/// Reads the wire's form.
pub(crate) fn from_wire(bytes: &[u8]) -> Result<Numeric, ValueError> {
    let mut words = bytes.chunks_exact(2).map(|word| u16::from_be_bytes([word[0], word[1]]));
    let mut next = || words.next().ok_or_else(|| invalid("insufficient data left in message"));
    let (count, weight, sign, scale) = (next()?, next()? as i16, next()?, next()?);
    if bytes.len() != 8 + usize::from(count) * 2 {
        return Err(invalid("incorrect binary data format"));
    }
    match sign {
        POSITIVE | NEGATIVE => {}
        NAN => return Ok(Numeric::NAN),
        INFINITY => return Ok(Numeric::INFINITY),
        NEGATIVE_INFINITY => return Ok(Numeric::NEGATIVE_INFINITY),
        _ => return Err(invalid("invalid sign in external \"numeric\" value")),
    }
    if scale > SCALE_MAX {
        return Err(invalid("invalid scale in external \"numeric\" value"));
    }
    let groups: Vec<u16> = words.collect();
    if groups.iter().any(|group| u32::from(*group) >= BASE) {
        return Err(invalid("invalid digit in external \"numeric\" value"));
    }
    // Decimal exponent of the last group, then what lies between it and the display scale.
    let last = DIGITS_PER_GROUP * (i32::from(weight) - groups.len() as i32 + 1);
    let shift = last + i32::from(scale);
    let negative = sign == NEGATIVE;
    if groups.len() <= GROUPS_I128 {
        let magnitude =
            groups.iter().fold(0i128, |sum, group| sum * i128::from(BASE) + i128::from(*group));
        if magnitude == 0 {
            return Ok(Numeric::from_i128(0, scale));
        }
        let power = pow10_i128(shift.unsigned_abs() as usize);
        // Digits beyond the display scale are cut, as numeric_recv does.
        let unscaled = match (shift >= 0, power) {
            (true, Some(power)) => magnitude.checked_mul(power),
            (false, Some(power)) => Some(magnitude / power),
            (false, None) => Some(0),
            (true, None) => None,
        };
        if let Some(unscaled) = unscaled {
            return Ok(Numeric::from_i128(if negative { -unscaled } else { unscaled }, scale));
        }
    }
    let mut digits = Vec::with_capacity(groups.len() * 2);
    for group in &groups {
        digits.extend_from_slice(&[(group / 100) as u8, (group % 100) as u8]);
    }
    let sign = if negative { Sign::Minus } else { Sign::Plus };
    let unscaled = BigInt::from_radix_be(sign, &digits, 100)
        .ok_or_else(|| invalid("incorrect binary data format"))?;
    if unscaled.is_zero() {
        return Ok(Numeric::from_i128(0, scale));
    }
    let power = pow10(shift.unsigned_abs() as usize);
    let unscaled = if shift >= 0 { unscaled * power } else { unscaled / power };
    Numeric::from_bigint(unscaled, scale).checked()
}

fn invalid(message: &str) -> ValueError {
    ValueError::new(ValueErrorKind::InvalidBinary, message)
}
