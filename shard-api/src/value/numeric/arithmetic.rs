//! The four operations, remainder and rounding, with the result scales of Postgres.

use num_bigint::BigInt;
use num_traits::{Signed, Zero};

use super::{Numeric, Repr, SCALE_MAX, pow10, pow10_i128};
use crate::error::{ValueError, ValueErrorKind};

/// Digits a quotient shows at least: `NUMERIC_MIN_SIG_DIGITS`.
pub(super) const SIGNIFICANT_MIN: i32 = 16;

/// Digits behind the point that a computed result shows at most: `NUMERIC_MAX_DISPLAY_SCALE`.
pub(super) const DISPLAY_SCALE_MAX: i32 = 1000;

/// `round` and `trunc` take scales up to this: `NUMERIC_MAX_RESULT_SCALE`.
const ROUND_SCALE_MAX: i32 = 2000;

/// Which way a cut goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cut {
    HalfAwayFromZero,
    Truncate,
}

impl Numeric {
    /// Scale: the larger of both.
    pub fn add(&self, other: &Numeric) -> Result<Numeric, ValueError> {
        match (&self.0, &other.0) {
            (Repr::Small { unscaled: a, scale: s }, Repr::Small { unscaled: b, scale: t }) => {
                let scale = *s.max(t);
                let sum = rescale_up(*a, scale - s)
                    .zip(rescale_up(*b, scale - t))
                    .and_then(|(a, b)| a.checked_add(b));
                match sum {
                    Some(unscaled) => Ok(Numeric::from_i128(unscaled, scale)),
                    None => self.add_big(other),
                }
            }
            (Repr::NaN, _) | (_, Repr::NaN) => Ok(Numeric::NAN),
            (Repr::Infinity, Repr::NegativeInfinity) | (Repr::NegativeInfinity, Repr::Infinity) => {
                Ok(Numeric::NAN)
            }
            (Repr::Infinity | Repr::NegativeInfinity, _) => Ok(self.clone()),
            (_, Repr::Infinity | Repr::NegativeInfinity) => Ok(other.clone()),
            _ => self.add_big(other),
        }
    }

    fn add_big(&self, other: &Numeric) -> Result<Numeric, ValueError> {
        let scale = self.scale().max(other.scale());
        Numeric::from_bigint(self.unscaled_at(scale) + other.unscaled_at(scale), scale).checked()
    }

    pub fn sub(&self, other: &Numeric) -> Result<Numeric, ValueError> {
        self.add(&other.neg())
    }

    /// Scale: the sum of both, 16383 at most.
    pub fn mul(&self, other: &Numeric) -> Result<Numeric, ValueError> {
        if let (Repr::Small { unscaled: a, scale: s }, Repr::Small { unscaled: b, scale: t }) =
            (&self.0, &other.0)
            && let Some(unscaled) = a.checked_mul(*b)
            && s + t <= SCALE_MAX
        {
            return Ok(Numeric::from_i128(unscaled, s + t));
        }
        if self.is_nan() || other.is_nan() {
            return Ok(Numeric::NAN);
        }
        if self.is_infinite() || other.is_infinite() {
            return Ok(match self.signum() * other.signum() {
                0 => Numeric::NAN,
                sign => infinity(sign),
            });
        }
        let product = self.unscaled_at(self.scale()) * other.unscaled_at(other.scale());
        let scale = u32::from(self.scale()) + u32::from(other.scale());
        if scale > u32::from(SCALE_MAX) {
            let cut = (scale - u32::from(SCALE_MAX)) as usize;
            let rounded = divide_rounded(product, &pow10(cut), Cut::HalfAwayFromZero);
            return Numeric::from_bigint(rounded, SCALE_MAX).checked();
        }
        Numeric::from_bigint(product, scale as u16).checked()
    }

    /// Scale: at least 16 significant digits, at least the scales of both (`select_div_scale`).
    pub fn div(&self, other: &Numeric) -> Result<Numeric, ValueError> {
        if self.is_nan() || other.is_nan() {
            return Ok(Numeric::NAN);
        }
        if other.is_zero() {
            return Err(ValueError::division_by_zero());
        }
        match (self.is_infinite(), other.is_infinite()) {
            (true, true) => return Ok(Numeric::NAN),
            (true, false) => return Ok(infinity(self.signum() * other.signum())),
            (false, true) => return Ok(Numeric::ZERO),
            (false, false) => {}
        }
        self.div_at(other, self.div_scale(other))
    }

    /// The quotient of finite numbers at a scale, rounded.
    pub(super) fn div_at(&self, other: &Numeric, scale: u16) -> Result<Numeric, ValueError> {
        self.quotient(other, scale, Cut::HalfAwayFromZero).checked()
    }

    /// `trunc(self / other)`, scale 0: Postgres's `div(numeric, numeric)`.
    pub fn div_trunc(&self, other: &Numeric) -> Result<Numeric, ValueError> {
        if !self.is_finite() || !other.is_finite() || other.is_zero() {
            return self.div(other);
        }
        self.quotient(other, 0, Cut::Truncate).checked()
    }

    fn quotient(&self, other: &Numeric, scale: u16, cut: Cut) -> Numeric {
        // a·10^-s / b·10^-t at scale r is a·10^(r+t-s) / b.
        let shift = i32::from(scale) + i32::from(other.scale()) - i32::from(self.scale());
        if let (Some(a), Some(b)) = (self.unscaled_i128(), other.unscaled_i128())
            && let Some(power) = pow10_i128(shift.unsigned_abs() as usize)
        {
            let operands = if shift >= 0 {
                a.checked_mul(power).map(|a| (a, b))
            } else {
                b.checked_mul(power).map(|b| (a, b))
            };
            if let Some((a, b)) = operands
                && let Some(quotient) = divide_rounded_i128(a, b, cut)
            {
                return Numeric::from_i128(quotient, scale);
            }
        }
        let mut a = self.unscaled_at(self.scale());
        let mut b = other.unscaled_at(other.scale());
        if shift >= 0 {
            a *= pow10(shift as usize);
        } else {
            b *= pow10(shift.unsigned_abs() as usize);
        }
        Numeric::from_bigint(divide_rounded(a, &b, cut), scale)
    }

    /// Postgres's choice of a quotient's scale, in its base-10000 terms.
    pub(super) fn div_scale(&self, other: &Numeric) -> u16 {
        let (weight1, first1) = self.leading_digit();
        let (weight2, first2) = other.leading_digit();
        let mut weight = weight1 - weight2;
        if first1 <= first2 {
            weight -= 1;
        }
        (SIGNIFICANT_MIN - weight * 4)
            .max(i32::from(self.scale()))
            .max(i32::from(other.scale()))
            .clamp(0, DISPLAY_SCALE_MAX) as u16
    }

    /// Weight and value of the first base-10000 digit; (0, 0) for zero.
    pub(super) fn leading_digit(&self) -> (i32, i32) {
        let digits = self.n_digits() as i32;
        if digits == 0 {
            return (0, 0);
        }
        let exponent = digits - 1 - i32::from(self.scale());
        let keep = exponent.rem_euclid(4) + 1;
        let first = match &self.0 {
            Repr::Small { unscaled, .. } => {
                let magnitude = unscaled.unsigned_abs();
                if digits >= keep {
                    magnitude / 10u128.pow((digits - keep) as u32)
                } else {
                    magnitude * 10u128.pow((keep - digits) as u32)
                }
            }
            _ => {
                let cut = self.unscaled_at(self.scale()).abs() / pow10((digits - keep) as usize);
                u128::try_from(cut).unwrap_or(0)
            }
        };
        (exponent.div_euclid(4), first as i32)
    }

    /// The sign is the dividend's; scale: the larger of both.
    pub fn rem(&self, other: &Numeric) -> Result<Numeric, ValueError> {
        if self.is_nan() || other.is_nan() {
            return Ok(Numeric::NAN);
        }
        if other.is_zero() {
            return Err(ValueError::division_by_zero());
        }
        if self.is_infinite() {
            return Ok(Numeric::NAN);
        }
        if other.is_infinite() {
            return Ok(self.clone());
        }
        let scale = self.scale().max(other.scale());
        if let (Repr::Small { unscaled: a, scale: s }, Repr::Small { unscaled: b, scale: t }) =
            (&self.0, &other.0)
            && let (Some(a), Some(b)) = (rescale_up(*a, scale - s), rescale_up(*b, scale - t))
        {
            return Ok(Numeric::from_i128(a.checked_rem(b).unwrap_or(0), scale));
        }
        Ok(Numeric::from_bigint(self.unscaled_at(scale) % other.unscaled_at(scale), scale))
    }

    pub fn neg(&self) -> Numeric {
        match &self.0 {
            Repr::Small { unscaled, scale } => match unscaled.checked_neg() {
                Some(unscaled) => Numeric::from_i128(unscaled, *scale),
                None => Numeric::from_bigint(-BigInt::from(*unscaled), *scale),
            },
            Repr::Big { unscaled, scale } => Numeric::from_bigint(-&**unscaled, *scale),
            Repr::NaN => Numeric::NAN,
            Repr::Infinity => Numeric::NEGATIVE_INFINITY,
            Repr::NegativeInfinity => Numeric::INFINITY,
        }
    }

    pub fn abs(&self) -> Numeric {
        if self.signum() < 0 { self.neg() } else { self.clone() }
    }

    /// Rounds half away from zero to `scale` digits behind the point (negative: before it).
    pub fn round(&self, scale: i32) -> Numeric {
        self.cut(scale.clamp(-ROUND_SCALE_MAX, ROUND_SCALE_MAX), Cut::HalfAwayFromZero)
    }

    pub fn trunc(&self, scale: i32) -> Numeric {
        self.cut(scale.clamp(-ROUND_SCALE_MAX, ROUND_SCALE_MAX), Cut::Truncate)
    }

    /// The least integer not below, scale 0.
    pub fn ceil(&self) -> Numeric {
        let whole = self.trunc(0);
        match self.signum() > 0 && *self != whole {
            true => whole.add(&Numeric::ONE).unwrap_or(whole),
            false => whole,
        }
    }

    /// The greatest integer not above, scale 0.
    pub fn floor(&self) -> Numeric {
        self.neg().ceil().neg()
    }

    fn cut(&self, scale: i32, cut: Cut) -> Numeric {
        let shown = scale.max(0) as u16;
        let drop = i32::from(self.scale()) - scale;
        match &self.0 {
            Repr::Small { unscaled, .. } if drop <= 0 => {
                match rescale_up(*unscaled, drop.unsigned_abs() as u16) {
                    Some(unscaled) => Numeric::from_i128(unscaled, shown),
                    None => Numeric::from_bigint(self.unscaled_at(shown), shown),
                }
            }
            Repr::Small { unscaled, .. } => {
                let quotient = match pow10_i128(drop as usize) {
                    Some(power) => divide_rounded_i128(*unscaled, power, cut).unwrap_or(0),
                    None => 0,
                };
                restore_zeros(quotient, scale)
            }
            Repr::Big { .. } if drop <= 0 => Numeric::from_bigint(self.unscaled_at(shown), shown),
            Repr::Big { unscaled, .. } => {
                let quotient = divide_rounded((**unscaled).clone(), &pow10(drop as usize), cut);
                match scale < 0 {
                    true => {
                        Numeric::from_bigint(quotient * pow10(scale.unsigned_abs() as usize), 0)
                    }
                    false => Numeric::from_bigint(quotient, shown),
                }
            }
            Repr::NaN | Repr::Infinity | Repr::NegativeInfinity => self.clone(),
        }
    }

    /// Rounds to numeric(p, s); 22003 "numeric field overflow" with Postgres's DETAIL.
    pub fn with_limits(&self, precision: u16, scale: u16) -> Result<Numeric, ValueError> {
        self.with_signed_limits(precision, i32::from(scale))
    }

    /// numeric(p, s) with s below zero or above p, which Postgres 15 allows.
    pub fn with_signed_limits(&self, precision: u16, scale: i32) -> Result<Numeric, ValueError> {
        let field_overflow = |what: &str| {
            ValueError::new(ValueErrorKind::OutOfRange, "numeric field overflow")
                .with_detail(format!("A field with precision {precision}, scale {scale} {what}"))
        };
        if self.is_nan() {
            return Ok(Numeric::NAN);
        }
        if self.is_infinite() {
            return Err(field_overflow("cannot hold an infinite value."));
        }
        let rounded = self.round(scale);
        let whole_max = i32::from(precision) - scale;
        let whole = rounded.n_digits() as i32 - i32::from(rounded.scale());
        if !rounded.is_zero() && whole > whole_max {
            let power = if whole_max == 0 { "1".to_string() } else { format!("10^{whole_max}") };
            return Err(field_overflow(&format!(
                "must round to an absolute value less than {power}."
            )));
        }
        Ok(rounded)
    }

    /// The unscaled integer at a scale not below its own.
    pub(super) fn unscaled_at(&self, scale: u16) -> BigInt {
        let unscaled = self.unscaled().unwrap_or_default();
        match scale.checked_sub(self.scale()) {
            None | Some(0) => unscaled,
            Some(_) if unscaled.is_zero() => unscaled,
            Some(more) => unscaled * pow10(usize::from(more)),
        }
    }
}

fn infinity(sign: i32) -> Numeric {
    if sign < 0 { Numeric::NEGATIVE_INFINITY } else { Numeric::INFINITY }
}

fn rescale_up(unscaled: i128, zeros: u16) -> Option<i128> {
    match zeros {
        0 => Some(unscaled),
        _ if unscaled == 0 => Some(0),
        _ => unscaled.checked_mul(pow10_i128(usize::from(zeros))?),
    }
}

fn restore_zeros(quotient: i128, scale: i32) -> Numeric {
    if scale >= 0 || quotient == 0 {
        return Numeric::from_i128(quotient, scale.max(0) as u16);
    }
    let zeros = scale.unsigned_abs() as usize;
    match pow10_i128(zeros).and_then(|power| quotient.checked_mul(power)) {
        Some(unscaled) => Numeric::from_i128(unscaled, 0),
        None => Numeric::from_bigint(pow10(zeros) * quotient, 0),
    }
}

/// `None` only for `i128::MIN / -1`.
fn divide_rounded_i128(a: i128, b: i128, cut: Cut) -> Option<i128> {
    let quotient = a.checked_div(b)?;
    let remainder = (a % b).unsigned_abs();
    if cut == Cut::HalfAwayFromZero && remainder >= b.unsigned_abs() - remainder && remainder != 0 {
        return quotient.checked_add(if (a < 0) == (b < 0) { 1 } else { -1 });
    }
    Some(quotient)
}

fn divide_rounded(a: BigInt, b: &BigInt, cut: Cut) -> BigInt {
    let negative = a.is_negative() != b.is_negative();
    let quotient = &a / b;
    if cut == Cut::Truncate {
        return quotient;
    }
    let remainder = (a - &quotient * b).abs();
    if remainder * 2 >= b.abs() {
        return if negative { quotient - 1 } else { quotient + 1 };
    }
    quotient
}
