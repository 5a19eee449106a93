//! Roots, powers and logarithms with the result scales of Postgres.
//!
//! Lives here: the choice of scales, which is Postgres's, and fixed-point evaluation with guard digits, which is ours:
//! a `Fixed` is an integer × 10^-w. Results are rounded once, at the end.

use num_bigint::BigInt;
use num_traits::{One, Signed, ToPrimitive, Zero};

use super::{
    INTEGER_DIGITS_MAX, Numeric, Repr,
    arithmetic::{DISPLAY_SCALE_MAX, SIGNIFICANT_MIN},
    overflow, pow10,
};
use crate::error::{ValueError, ValueErrorKind};

/// Beyond this the result of `exp` overflows or is zero: three times `NUMERIC_MAX_RESULT_SCALE`.
const EXP_MAX: f64 = 6000.0;

/// Postgres's bound of an estimated result weight.
const WEIGHT_MAX: f64 = 2000.0;

/// Digits computed beyond those shown.
const GUARD_DIGITS: usize = 12;

const LOG10_E: f64 = std::f64::consts::LOG10_E;

fn invalid_power(message: &str) -> ValueError {
    ValueError::new(ValueErrorKind::InvalidPower, message)
}

fn invalid_logarithm(of: &str) -> ValueError {
    ValueError::new(ValueErrorKind::InvalidArgument, format!("cannot take logarithm of {of}"))
}

/// A scale from the estimated decimal weight of a result, not below the operands' scales.
fn scale_for(weight: i32, operands: &[&Numeric]) -> i32 {
    let shown = operands.iter().map(|operand| i32::from(operand.scale())).max().unwrap_or(0);
    (SIGNIFICANT_MIN - weight).max(shown).clamp(0, DISPLAY_SCALE_MAX)
}

impl Numeric {
    /// 2201F below zero.
    pub fn sqrt(&self) -> Result<Numeric, ValueError> {
        if self.is_nan() {
            return Ok(Numeric::NAN);
        }
        if self.signum() < 0 {
            return Err(invalid_power("cannot take square root of a negative number"));
        }
        if self.is_infinite() {
            return Ok(Numeric::INFINITY);
        }
        let (weight, _) = self.leading_digit();
        self.sqrt_to(scale_for(weight * 2 + 1, &[self]))
    }

    /// Rounded to so many digits behind the point; of a finite number that is not negative.
    pub fn sqrt_to(&self, scale: i32) -> Result<Numeric, ValueError> {
        // Two digits more than shown, so that rounding sees which side of the half it is on.
        let wanted = 2 * (scale + 2) - i32::from(self.scale());
        let unscaled = self.unscaled().unwrap_or_default();
        let radicand = match wanted >= 0 {
            true => unscaled * pow10(wanted as usize),
            false => unscaled / pow10(wanted.unsigned_abs() as usize),
        };
        Ok(Numeric::from_bigint(radicand.sqrt(), (scale + 2) as u16).round(scale))
    }

    /// 2201E unless above zero.
    pub fn ln(&self) -> Result<Numeric, ValueError> {
        if self.is_nan() {
            return Ok(Numeric::NAN);
        }
        check_logarithm(self)?;
        if self.is_infinite() {
            return Ok(Numeric::INFINITY);
        }
        let scale = scale_for(self.ln_weight(), &[self]);
        let digits = scale as usize + GUARD_DIGITS;
        Ok(rounded(fixed_ln(self, digits), digits, scale))
    }

    /// Base 10.
    pub fn log10(&self) -> Result<Numeric, ValueError> {
        self.log(&Numeric::from_i64(10))
    }

    /// The logarithm of this number in a base.
    pub fn log(&self, base: &Numeric) -> Result<Numeric, ValueError> {
        if self.is_nan() || base.is_nan() {
            return Ok(Numeric::NAN);
        }
        if base.signum() < 0 || self.signum() < 0 {
            return Err(invalid_logarithm("a negative number"));
        }
        if base.is_zero() || self.is_zero() {
            return Err(invalid_logarithm("zero"));
        }
        match (base.is_infinite(), self.is_infinite()) {
            (true, true) => return Ok(Numeric::NAN),
            (true, false) => return Ok(Numeric::ZERO),
            (false, true) => return Ok(Numeric::INFINITY),
            (false, false) => {}
        }
        let (base_weight, own_weight) = (base.ln_weight(), self.ln_weight());
        let scale = scale_for(own_weight - base_weight, &[base, self]);
        let span = (base_weight.unsigned_abs() + own_weight.unsigned_abs()) as usize;
        let digits = scale as usize + span + GUARD_DIGITS;
        let divisor = fixed_ln(base, digits);
        if divisor.is_zero() {
            return Err(ValueError::division_by_zero());
        }
        let quotient = fixed_ln(self, digits) * pow10(digits) / divisor;
        Ok(rounded(quotient, digits, scale))
    }

    pub fn exp(&self) -> Result<Numeric, ValueError> {
        match &self.0 {
            Repr::NaN => return Ok(Numeric::NAN),
            Repr::Infinity => return Ok(Numeric::INFINITY),
            Repr::NegativeInfinity => return Ok(Numeric::ZERO),
            Repr::Small { .. } | Repr::Big { .. } => {}
        }
        let value = self.to_f64();
        let weight = (value * LOG10_E).clamp(-WEIGHT_MAX, WEIGHT_MAX);
        let scale = scale_for(weight as i32, &[self]);
        if value.abs() >= EXP_MAX {
            return if value > 0.0 { Err(overflow()) } else { Ok(zero(scale)) };
        }
        let whole = (value * LOG10_E).max(0.0) as usize;
        let digits = scale as usize + whole + 2 * GUARD_DIGITS;
        Ok(rounded(fixed_exp(fixed(self, digits), digits), digits, scale))
    }

    /// 2201F for 0 to a negative power and for a negative number to one that is not whole.
    pub fn power(&self, exponent: &Numeric) -> Result<Numeric, ValueError> {
        if self.is_nan() {
            return Ok(if exponent.is_zero() { Numeric::ONE } else { Numeric::NAN });
        }
        if exponent.is_nan() {
            return Ok(if *self == Numeric::ONE { Numeric::ONE } else { Numeric::NAN });
        }
        let whole = exponent.is_infinite() || exponent.trunc(0) == *exponent;
        if self.is_zero() && exponent.signum() < 0 {
            return Err(invalid_power("zero raised to a negative power is undefined"));
        }
        if self.signum() < 0 && !whole {
            return Err(invalid_power(
                "a negative number raised to a non-integer power yields a complex result",
            ));
        }
        if self.is_infinite() || exponent.is_infinite() {
            return Ok(self.infinite_power(exponent));
        }
        if whole && let Ok(exponent) = exponent.to_integer::<i32>("integer") {
            return self.whole_power(exponent);
        }
        if self.is_zero() {
            return Ok(zero(SIGNIFICANT_MIN));
        }
        let negative = self.signum() < 0 && exponent.is_odd();
        let result = self.abs().real_power(exponent)?;
        Ok(if negative { result.neg() } else { result })
    }

    fn infinite_power(&self, exponent: &Numeric) -> Numeric {
        if *self == Numeric::ONE || exponent.is_zero() {
            return Numeric::ONE;
        }
        if self.is_zero() {
            return Numeric::ZERO;
        }
        let grows = exponent.signum() > 0;
        if exponent.is_infinite() {
            return match self.abs().cmp(&Numeric::ONE) {
                std::cmp::Ordering::Equal => Numeric::ONE,
                order if order.is_gt() == grows => Numeric::INFINITY,
                _ => Numeric::ZERO,
            };
        }
        match (grows, self.signum() < 0 && exponent.is_odd()) {
            (false, _) => Numeric::ZERO,
            (true, true) => Numeric::NEGATIVE_INFINITY,
            (true, false) => Numeric::INFINITY,
        }
    }

    fn is_odd(&self) -> bool {
        self.trunc(0).unscaled().is_some_and(|whole| whole % 2 != BigInt::zero())
    }

    /// By squaring, with as many digits as the result will show and some more.
    fn whole_power(&self, exponent: i32) -> Result<Numeric, ValueError> {
        let scale = scale_for(0, &[self]);
        match exponent {
            0 => return Ok(Numeric::ONE.round(scale)),
            1 => return Ok(self.round(scale)),
            -1 => return Numeric::ONE.div_at(self, scale as u16),
            _ if self.is_zero() => return Ok(zero(scale)),
            _ => {}
        }
        let weight = f64::from(exponent) * self.log10_estimate();
        if weight > 3.0 * f64::from(i16::MAX) * 4.0 {
            return Err(overflow());
        }
        if weight + 1.0 < f64::from(-scale) || weight + 1.0 < f64::from(-DISPLAY_SCALE_MAX) {
            return Ok(zero(scale));
        }
        let magnitude = exponent.unsigned_abs();
        let extra = magnitude.ilog10() as usize + GUARD_DIGITS;
        let significant = (1.0 + f64::from(scale) + weight).max(0.0) as usize + extra;
        let mut result = Float::from(&Numeric::ONE);
        let mut square = Float::from(self);
        let mut bits = magnitude;
        loop {
            if bits & 1 == 1 {
                result = result.mul(&square, significant);
            }
            bits >>= 1;
            if bits == 0 {
                break;
            }
            square = square.mul(&square, significant);
        }
        let result = if exponent < 0 { result.invert(significant) } else { result };
        result.into_numeric(scale)
    }

    /// `exp(exponent * ln(self))` of a positive number.
    fn real_power(&self, exponent: &Numeric) -> Result<Numeric, ValueError> {
        // Eight significant digits, rounded where Postgres rounds: the estimate decides the scale of the result.
        let estimate_scale = (8 - self.ln_weight()).max(0);
        let digits = estimate_scale as usize + GUARD_DIGITS;
        let logarithm = rounded(fixed_ln(self, digits), digits, estimate_scale);
        let product = logarithm.mul(exponent)?.round(estimate_scale).to_f64();
        if product.abs() > EXP_MAX * 1.003_333 {
            return if product > 0.0 { Err(overflow()) } else { Ok(zero(DISPLAY_SCALE_MAX)) };
        }
        let weight = product * LOG10_E;
        let scale = scale_for(weight as i32, &[self, exponent]);
        if product >= EXP_MAX {
            return Err(overflow());
        }
        // The exponent multiplies the logarithm's error.
        let growth = exponent.n_digits().saturating_sub(usize::from(exponent.scale()));
        let digits = scale as usize + weight.max(0.0) as usize + growth + 2 * GUARD_DIGITS;
        let unscaled = exponent.unscaled().unwrap_or_default();
        let logarithm = fixed_ln(self, digits) * unscaled / pow10(usize::from(exponent.scale()));
        Ok(rounded(fixed_exp(logarithm, digits), digits, scale))
    }

    /// The decimal logarithm of the magnitude, to float8's precision.
    fn log10_estimate(&self) -> f64 {
        let digits = self.n_digits();
        let shift = digits.saturating_sub(17);
        let leading = self.unscaled().unwrap_or_default().abs() / pow10(shift);
        leading.to_f64().unwrap_or(1.0).log10() + shift as f64 - f64::from(self.scale())
    }

    /// The decimal weight of the natural logarithm, as Postgres estimates it.
    fn ln_weight(&self) -> i32 {
        let near_one = Numeric::from_i128(9, 1) <= *self && *self <= Numeric::from_i128(11, 1);
        if near_one {
            let excess = self.sub(&Numeric::ONE).unwrap_or(Numeric::ZERO);
            return match excess.n_digits() as i32 {
                0 => 0,
                digits => digits - 1 - i32::from(excess.scale()),
            };
        }
        let ln = self.log10_estimate() / LOG10_E;
        ln.abs().log10() as i32
    }
}

fn check_logarithm(value: &Numeric) -> Result<(), ValueError> {
    match value.signum() {
        0 => Err(invalid_logarithm("zero")),
        1 => Ok(()),
        _ => Err(invalid_logarithm("a negative number")),
    }
}

fn zero(scale: i32) -> Numeric {
    Numeric::from_i128(0, scale as u16)
}

/// A value × 10^digits.
fn fixed(value: &Numeric, digits: usize) -> BigInt {
    let unscaled = value.unscaled().unwrap_or_default();
    let scale = usize::from(value.scale());
    if digits >= scale {
        unscaled * pow10(digits - scale)
    } else {
        unscaled / pow10(scale - digits)
    }
}

fn rounded(fixed: BigInt, digits: usize, scale: i32) -> Numeric {
    Numeric::from_bigint(fixed, digits as u16).round(scale)
}

/// 2 × artanh(numerator / denominator) × 10^digits, for arguments well below 1.
fn fixed_double_artanh(numerator: &BigInt, denominator: &BigInt, digits: usize) -> BigInt {
    let one = pow10(digits);
    let z = numerator * &one / denominator;
    let square = &z * &z / &one;
    let mut power = z;
    let mut sum = BigInt::zero();
    let mut n = 1u32;
    while !power.is_zero() {
        sum += &power / n;
        power = power * &square / &one;
        n += 2;
    }
    sum * 2
}

/// ln(value) × 10^digits. Divides by a power of two first: ln(y·2^k) = ln(y) + k·ln(2).
fn fixed_ln(value: &Numeric, digits: usize) -> BigInt {
    // The sum of hundreds of truncated terms, and k of them.
    let working = digits + GUARD_DIGITS;
    let numerator = value.unscaled().unwrap_or_default();
    let denominator = pow10(usize::from(value.scale()));
    let mut k = numerator.bits() as i64 - denominator.bits() as i64;
    let scaled = |k: i64| {
        if k >= 0 {
            (numerator.clone(), &denominator << k as usize)
        } else {
            (&numerator << k.unsigned_abs() as usize, denominator.clone())
        }
    };
    let (mut a, mut b) = scaled(k);
    // y is in (1/2, 2); bring it nearer to 1.
    if &a * 3 > &b * 4 {
        k += 1;
        (a, b) = scaled(k);
    }
    if &a * 3 < &b * 2 {
        k -= 1;
        (a, b) = scaled(k);
    }
    let mantissa = fixed_double_artanh(&(&a - &b), &(&a + &b), working);
    let ln2 = match k {
        0 => BigInt::zero(),
        _ => fixed_double_artanh(&BigInt::one(), &BigInt::from(3), working),
    };
    (mantissa + ln2 * k) / pow10(GUARD_DIGITS)
}

/// e^(x × 10^-digits) × 10^digits: Taylor's series of x / 2^j, squared j times.
fn fixed_exp(x: BigInt, digits: usize) -> BigInt {
    let one = pow10(digits);
    // Small enough that each term brings two digits or more.
    let magnitude = (x.abs() / &one).bits() as usize;
    let halvings = magnitude + 7;
    // Each squaring doubles the error.
    let extra = halvings / 3 + 2;
    let working = digits + extra;
    let one = one * pow10(extra);
    let x = (x * pow10(extra)) >> halvings;
    let mut term = one.clone();
    let mut sum = one.clone();
    let mut n = 1u32;
    loop {
        term = term * &x / &one / n;
        if term.is_zero() {
            break;
        }
        sum += &term;
        n += 1;
    }
    for _ in 0..halvings {
        sum = &sum * &sum / &one;
    }
    sum / pow10(working - digits)
}

/// A decimal with a bounded number of digits, for powers whose exact value would be huge.
struct Float {
    digits: BigInt,
    exponent: i64,
}

impl From<&Numeric> for Float {
    fn from(value: &Numeric) -> Float {
        let digits = value.unscaled().unwrap_or_default();
        Float { digits, exponent: -i64::from(value.scale()) }
    }
}

impl Float {
    fn mul(&self, other: &Float, significant: usize) -> Float {
        let product = &self.digits * &other.digits;
        Float { digits: product, exponent: self.exponent + other.exponent }.clipped(significant)
    }

    fn clipped(self, significant: usize) -> Float {
        let excess = super::digits_big(&self.digits).saturating_sub(significant);
        if excess == 0 {
            return self;
        }
        Float { digits: self.digits / pow10(excess), exponent: self.exponent + excess as i64 }
    }

    fn invert(&self, significant: usize) -> Float {
        let shift = super::digits_big(&self.digits) + significant;
        Float { digits: pow10(shift) / &self.digits, exponent: -self.exponent - shift as i64 }
    }

    fn into_numeric(self, scale: i32) -> Result<Numeric, ValueError> {
        let weight = super::digits_big(&self.digits) as i64 + self.exponent;
        if weight > INTEGER_DIGITS_MAX as i64 {
            return Err(overflow());
        }
        if weight < i64::from(-scale) - 1 {
            return Ok(zero(scale));
        }
        // One digit more than shown decides the rounding.
        let wanted = self.exponent + i64::from(scale) + 1;
        let digits = match wanted >= 0 {
            true => self.digits * pow10(wanted as usize),
            false => self.digits / pow10(wanted.unsigned_abs() as usize),
        };
        Numeric::from_bigint(digits, (scale + 1) as u16).round(scale).checked()
    }
}
