//! `numeric`: arbitrary precision decimals with Postgres's scale rules.
//!
//! Lives here: the number, its text, its arithmetic and its order-preserving bytes. An unscaled integer and a display
//! scale; `i128` as long as the integer fits, which is nearly always, and a `BigInt` beyond. Not here: typmods in SQL
//! (`value::text::apply_typmod`), the wire's base-10000 form (`value::binary`).

use std::{
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
};

use num_bigint::{BigInt, Sign};
use num_traits::{Signed, ToPrimitive, Zero};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::error::{ValueError, ValueErrorKind};

/// Addition, subtraction, multiplication, division, rounding.
mod arithmetic;

/// To and from integers and floats.
mod convert;

/// Roots, powers, logarithms.
mod math;

/// Text to numbers.
mod parse;

/// Bytes that order as the numbers do.
mod sortable;

/// The wire's base-10000 form.
mod wire;

pub(crate) use sortable::key_len;
pub(crate) use wire::{from_wire, to_wire};

/// Digits before the decimal point at most; Postgres's bound, which its storage format sets.
pub const INTEGER_DIGITS_MAX: usize = 131_072;

/// Digits behind the decimal point at most; Postgres's bound.
pub const SCALE_MAX: u16 = 16_383;

/// A decimal number of any size with its display scale, or NaN, or an infinity.
/// Equality, order and hash are by value (1.0 = 1.00; NaN equals NaN and is above everything).
#[derive(Clone)]
pub struct Numeric(Repr);

#[derive(Clone)]
enum Repr {
    Small {
        unscaled: i128,
        scale: u16,
    },
    /// Only integers that do not fit an `i128`.
    Big {
        unscaled: Box<BigInt>,
        scale: u16,
    },
    NaN,
    Infinity,
    NegativeInfinity,
}

/// Powers of ten that fit an `i128`.
const POW10: [i128; 39] = {
    let mut table = [1i128; 39];
    let mut i = 1;
    while i < 39 {
        table[i] = table[i - 1] * 10;
        i += 1;
    }
    table
};

fn pow10_i128(exponent: usize) -> Option<i128> {
    POW10.get(exponent).copied()
}

fn pow10(exponent: usize) -> BigInt {
    match pow10_i128(exponent) {
        Some(power) => BigInt::from(power),
        None => BigInt::from(10).pow(exponent as u32),
    }
}

/// Decimal digits of a magnitude; 0 for zero.
fn digits_u128(magnitude: u128) -> usize {
    magnitude.checked_ilog10().map_or(0, |log| log as usize + 1)
}

/// Decimal digits of a big integer; 0 for zero.
fn digits_big(value: &BigInt) -> usize {
    if value.is_zero() {
        return 0;
    }
    // An estimate from the bits is at most one off, so one comparison settles it.
    let estimate = ((value.bits() - 1) as f64 * std::f64::consts::LOG10_2) as usize;
    let mut digits = estimate.max(1);
    while value.abs() >= pow10(digits) {
        digits += 1;
    }
    while digits > 1 && value.abs() < pow10(digits - 1) {
        digits -= 1;
    }
    digits
}

/// 22003 as Postgres words it when a result has too many digits.
fn overflow() -> ValueError {
    ValueError::new(ValueErrorKind::OutOfRange, "value overflows numeric format")
}

impl Numeric {
    pub const NAN: Numeric = Numeric(Repr::NaN);
    pub const INFINITY: Numeric = Numeric(Repr::Infinity);
    pub const NEGATIVE_INFINITY: Numeric = Numeric(Repr::NegativeInfinity);
    pub const ZERO: Numeric = Numeric(Repr::Small { unscaled: 0, scale: 0 });
    pub const ONE: Numeric = Numeric(Repr::Small { unscaled: 1, scale: 0 });

    /// `unscaled` × 10^-`scale`.
    pub fn from_i128(value: i128, scale: u16) -> Numeric {
        Numeric(Repr::Small { unscaled: value, scale })
    }

    /// `unscaled` × 10^-`scale`, of any size.
    pub fn from_bigint(value: BigInt, scale: u16) -> Numeric {
        match value.to_i128() {
            Some(unscaled) => Numeric(Repr::Small { unscaled, scale }),
            None => Numeric(Repr::Big { unscaled: Box::new(value), scale }),
        }
    }

    /// The unscaled integer, where it fits; with `scale()` the whole value. `None` for NaN and infinities too.
    pub fn unscaled_i128(&self) -> Option<i128> {
        match self.0 {
            Repr::Small { unscaled, .. } => Some(unscaled),
            _ => None,
        }
    }

    /// The unscaled integer; `None` for NaN and infinities.
    pub fn unscaled(&self) -> Option<BigInt> {
        match &self.0 {
            Repr::Small { unscaled, .. } => Some(BigInt::from(*unscaled)),
            Repr::Big { unscaled, .. } => Some((**unscaled).clone()),
            Repr::NaN | Repr::Infinity | Repr::NegativeInfinity => None,
        }
    }

    /// Digits shown behind the point; 0 for NaN and infinities.
    pub fn scale(&self) -> u16 {
        match self.0 {
            Repr::Small { scale, .. } | Repr::Big { scale, .. } => scale,
            Repr::NaN | Repr::Infinity | Repr::NegativeInfinity => 0,
        }
    }

    pub fn is_nan(&self) -> bool {
        matches!(self.0, Repr::NaN)
    }

    pub fn is_infinite(&self) -> bool {
        matches!(self.0, Repr::Infinity | Repr::NegativeInfinity)
    }

    pub fn is_finite(&self) -> bool {
        matches!(self.0, Repr::Small { .. } | Repr::Big { .. })
    }

    pub fn is_zero(&self) -> bool {
        matches!(self.0, Repr::Small { unscaled: 0, .. })
    }

    /// Below zero; false for NaN.
    pub fn is_negative(&self) -> bool {
        self.signum() < 0
    }

    /// -1, 0 or 1; 0 for NaN.
    pub fn signum(&self) -> i32 {
        match &self.0 {
            Repr::Small { unscaled, .. } => unscaled.signum() as i32,
            Repr::Big { unscaled, .. } => match unscaled.sign() {
                Sign::Minus => -1,
                Sign::NoSign => 0,
                Sign::Plus => 1,
            },
            Repr::NaN => 0,
            Repr::Infinity => 1,
            Repr::NegativeInfinity => -1,
        }
    }

    /// Decimal digits of the unscaled integer; 0 for zero, NaN and infinities.
    fn n_digits(&self) -> usize {
        match &self.0 {
            Repr::Small { unscaled, .. } => digits_u128(unscaled.unsigned_abs()),
            Repr::Big { unscaled, .. } => digits_big(unscaled),
            Repr::NaN | Repr::Infinity | Repr::NegativeInfinity => 0,
        }
    }

    /// Refuses what Postgres's format cannot hold.
    fn checked(self) -> Result<Numeric, ValueError> {
        match &self.0 {
            Repr::Big { unscaled, scale } => {
                // Bits first: counting digits of every big number would be dear.
                let at_most = unscaled.bits() as f64 * std::f64::consts::LOG10_2 + 1.0;
                if at_most - f64::from(*scale) > INTEGER_DIGITS_MAX as f64
                    && self.n_digits() > INTEGER_DIGITS_MAX + usize::from(*scale)
                    || *scale > SCALE_MAX
                {
                    return Err(overflow());
                }
                Ok(self)
            }
            Repr::Small { scale, .. } if *scale > SCALE_MAX => Err(overflow()),
            _ => Ok(self),
        }
    }

    /// The same value with the least scale that shows it exactly: equal values have equal sortable bytes.
    pub fn normalized(&self) -> Numeric {
        match &self.0 {
            Repr::Small { unscaled, scale } => {
                let (mut unscaled, mut scale) = (*unscaled, *scale);
                if unscaled == 0 {
                    return Numeric::ZERO;
                }
                while scale > 0 && unscaled % 10 == 0 {
                    unscaled /= 10;
                    scale -= 1;
                }
                Numeric(Repr::Small { unscaled, scale })
            }
            Repr::Big { unscaled, scale } => {
                let digits = unscaled.magnitude().to_string();
                let zeros = digits.len() - digits.trim_end_matches('0').len();
                let cut = zeros.min(usize::from(*scale));
                Numeric::from_bigint(&**unscaled / pow10(cut), *scale - cut as u16)
            }
            Repr::NaN | Repr::Infinity | Repr::NegativeInfinity => self.clone(),
        }
    }

    /// Rank of the kinds: -infinity, finite, infinity, NaN.
    fn class(&self) -> u8 {
        match self.0 {
            Repr::NegativeInfinity => 0,
            Repr::Small { .. } | Repr::Big { .. } => 1,
            Repr::Infinity => 2,
            Repr::NaN => 3,
        }
    }
}

impl fmt::Display for Numeric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Repr::Small { unscaled, scale } => {
                if *unscaled < 0 {
                    f.write_str("-")?;
                }
                match u64::try_from(unscaled.unsigned_abs()) {
                    Ok(magnitude) if *scale == 0 => fmt::Display::fmt(&magnitude, f),
                    Ok(magnitude) if *scale < 19 => {
                        let power = 10u64.pow(u32::from(*scale));
                        let width = usize::from(*scale);
                        write!(f, "{}.{:0width$}", magnitude / power, magnitude % power)
                    }
                    _ => write_scaled(f, &unscaled.unsigned_abs().to_string(), *scale),
                }
            }
            Repr::Big { unscaled, scale } => {
                if unscaled.is_negative() {
                    f.write_str("-")?;
                }
                write_scaled(f, &unscaled.magnitude().to_string(), *scale)
            }
            Repr::NaN => f.write_str("NaN"),
            Repr::Infinity => f.write_str("Infinity"),
            Repr::NegativeInfinity => f.write_str("-Infinity"),
        }
    }
}

/// Writes digits with the point `scale` digits from the right.
fn write_scaled(f: &mut fmt::Formatter<'_>, digits: &str, scale: u16) -> fmt::Result {
    let scale = usize::from(scale);
    if scale == 0 {
        return f.write_str(digits);
    }
    if digits.len() > scale {
        let (whole, fraction) = digits.split_at(digits.len() - scale);
        write!(f, "{whole}.{fraction}")
    } else {
        write!(f, "0.{digits:0>scale$}")
    }
}

impl fmt::Debug for Numeric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Numeric({self})")
    }
}

impl PartialEq for Numeric {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Numeric {}

impl PartialOrd for Numeric {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Numeric {
    fn cmp(&self, other: &Self) -> Ordering {
        if let (Repr::Small { unscaled: a, scale: s }, Repr::Small { unscaled: b, scale: t }) =
            (&self.0, &other.0)
        {
            if s == t {
                return a.cmp(b);
            }
            // Bring both to the larger scale; what overflows there is decided by the sign and the long way.
            let (a2, b2) = if s < t {
                (pow10_i128(usize::from(t - s)).and_then(|p| a.checked_mul(p)), Some(*b))
            } else {
                (Some(*a), pow10_i128(usize::from(s - t)).and_then(|p| b.checked_mul(p)))
            };
            if let (Some(a), Some(b)) = (a2, b2) {
                return a.cmp(&b);
            }
        }
        match self.class().cmp(&other.class()) {
            Ordering::Equal if self.is_finite() => {}
            unequal => return unequal,
        }
        match self.signum().cmp(&other.signum()) {
            Ordering::Equal => {}
            unequal => return unequal,
        }
        let (Some(a), Some(b)) = (self.unscaled(), other.unscaled()) else {
            return Ordering::Equal;
        };
        let (s, t) = (usize::from(self.scale()), usize::from(other.scale()));
        match s.cmp(&t) {
            Ordering::Equal => a.cmp(&b),
            Ordering::Less => (a * pow10(t - s)).cmp(&b),
            Ordering::Greater => a.cmp(&(b * pow10(s - t))),
        }
    }
}

impl Hash for Numeric {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self.normalized().0 {
            Repr::Small { unscaled, scale } => (unscaled, scale).hash(state),
            Repr::Big { unscaled, scale } => (unscaled, scale).hash(state),
            Repr::NaN => 1u8.hash(state),
            Repr::Infinity => 2u8.hash(state),
            Repr::NegativeInfinity => 3u8.hash(state),
        }
    }
}

impl Serialize for Numeric {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Numeric {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Numeric::parse(&text).map_err(|error| D::Error::custom(error.message))
    }
}

#[cfg(test)]
mod tests;
