//! `numeric` to and from integers and floats.

use num_traits::ToPrimitive;

use super::{Numeric, Repr, pow10_i128};
use crate::error::{ValueError, ValueErrorKind};

/// Integers up to 2^53 and powers up to 10^22 are exact in a float8, so one division rounds correctly.
const EXACT_F64: i128 = 1 << 53;
const EXACT_POWER_MAX: u16 = 22;

impl Numeric {
    pub fn from_i64(value: i64) -> Numeric {
        Numeric::from_i128(i128::from(value), 0)
    }

    /// 15 significant digits for float8 (6 for float4), as Postgres's cast.
    pub fn from_f64(value: f64) -> Numeric {
        from_float(value, 15)
    }

    /// 6 significant digits, as Postgres's cast.
    pub fn from_f32(value: f32) -> Numeric {
        from_float(f64::from(value), 6)
    }

    /// The nearest float8; numbers too large for one become infinite.
    pub fn to_f64(&self) -> f64 {
        match &self.0 {
            Repr::Small { unscaled, scale }
                if unscaled.unsigned_abs() <= EXACT_F64 as u128 && *scale <= EXACT_POWER_MAX =>
            {
                let magnitude = *unscaled as f64;
                match pow10_i128(usize::from(*scale)) {
                    Some(power) => magnitude / power as f64,
                    None => magnitude,
                }
            }
            Repr::Small { .. } | Repr::Big { .. } => self.to_string().parse().unwrap_or(f64::NAN),
            Repr::NaN => f64::NAN,
            Repr::Infinity => f64::INFINITY,
            Repr::NegativeInfinity => f64::NEG_INFINITY,
        }
    }

    /// Rounded half away from zero; 22003 when it does not fit.
    pub fn to_i64(&self) -> Result<i64, ValueError> {
        self.to_integer("bigint")
    }

    /// The same with Postgres's name of the target type in the messages.
    pub fn to_integer<T: TryFrom<i128>>(&self, type_name: &str) -> Result<T, ValueError> {
        match self.0 {
            Repr::NaN => Err(cannot_convert("NaN", type_name)),
            Repr::Infinity | Repr::NegativeInfinity => Err(cannot_convert("infinity", type_name)),
            Repr::Small { .. } | Repr::Big { .. } => self
                .round(0)
                .unscaled_i128()
                .and_then(|value| T::try_from(value).ok())
                .ok_or_else(|| ValueError::out_of_range(type_name)),
        }
    }
}

fn cannot_convert(what: &str, type_name: &str) -> ValueError {
    ValueError::new(ValueErrorKind::Unsupported, format!("cannot convert {what} to {type_name}"))
}

fn from_float(value: f64, significant: usize) -> Numeric {
    if value.is_nan() {
        return Numeric::NAN;
    }
    if value.is_infinite() {
        return if value > 0.0 { Numeric::INFINITY } else { Numeric::NEGATIVE_INFINITY };
    }
    // printf's %.15g: so many significant digits, trailing zeros cut.
    let printed = format!("{value:.*e}", significant - 1);
    let Some((mantissa, exponent)) = printed.split_once('e') else {
        return Numeric::ZERO;
    };
    let exponent = exponent.parse::<i32>().unwrap_or(0);
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let kept = digits.trim_end_matches('0');
    let unscaled = kept.parse::<i128>().unwrap_or(0);
    let unscaled = if value < 0.0 { -unscaled } else { unscaled };
    // The value is 0.kept × 10^(exponent + 1).
    let scale = kept.len() as i32 - 1 - exponent;
    if unscaled == 0 {
        return Numeric::ZERO;
    }
    if scale >= 0 {
        return Numeric::from_i128(unscaled, scale as u16);
    }
    let power = num_bigint::BigInt::from(10).pow(scale.unsigned_abs());
    Numeric::from_bigint(power * unscaled, 0)
}

impl From<i64> for Numeric {
    fn from(value: i64) -> Numeric {
        Numeric::from_i64(value)
    }
}

impl Numeric {
    /// The unscaled integer at another scale, exact or rounded half away from zero; `None` where it does not fit
    /// or the value is not finite. The way to Arrow's Decimal128.
    pub fn to_i128(&self, scale: u16) -> Option<i128> {
        if !self.is_finite() {
            return None;
        }
        match self.round(i32::from(scale)).0 {
            Repr::Small { unscaled, .. } => Some(unscaled),
            Repr::Big { unscaled, .. } => unscaled.to_i128(),
            _ => None,
        }
    }
}
