//! Roots, powers and logarithms of `numeric`, with the scales Postgres gives their results.
//!
//! Values are computed in fixed point on big integers with spare digits and rounded once, so the last digit is right.
//! Source of the scales: PostgreSQL 15, `numeric.c` (sqrt_var, exp_var, ln_var, log_var, power_var).

use cortex_shard_api::{ValueError, ValueErrorKind, value::Numeric};
use num_bigint::{BigInt, Sign};
use num_traits::{Signed, Zero};

use super::{Result, error};

/// At least so many significant digits in every result.
const SIGNIFICANT_DIGITS_MIN: i64 = 16;
const SCALE_MAX: i64 = 1000;
/// Digits computed beyond those shown.
const GUARD_DIGITS: i64 = 12;
/// Digits before the point at the most: numeric's own bound.
const WEIGHT_DIGITS_MAX: f64 = 131_072.0;

/// A decimal: `digits` / 10^`scale`.
#[derive(Clone, Debug)]
struct Decimal {
    digits: BigInt,
    scale: i64,
}

/// Neither NaN nor an infinity.
pub(crate) fn finite(value: &Numeric) -> bool {
    value.to_string().bytes().any(|byte| byte.is_ascii_digit())
}

fn ten(power: i64) -> BigInt {
    BigInt::from(10).pow(u32::try_from(power.max(0)).unwrap_or(u32::MAX))
}

impl Decimal {
    fn from_numeric(value: &Numeric) -> Option<Decimal> {
        let text = value.to_string();
        let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
        let digits = format!("{whole}{fraction}").parse::<BigInt>().ok()?;
        Some(Decimal { digits, scale: fraction.len() as i64 })
    }

    /// Rounded half away from zero to `scale` digits.
    fn to_numeric(&self, scale: i64) -> Result<Numeric> {
        let digits = self.at_scale(scale);
        let negative = digits.sign() == Sign::Minus;
        let mut text = digits.abs().to_string();
        if scale > 0 {
            let width = scale as usize + 1;
            if text.len() < width {
                text = format!("{}{text}", "0".repeat(width - text.len()));
            }
            text.insert(text.len() - scale as usize, '.');
        }
        if negative {
            text.insert(0, '-');
        }
        Numeric::parse(&text)
    }

    fn at_scale(&self, scale: i64) -> BigInt {
        if scale >= self.scale {
            return &self.digits * ten(scale - self.scale);
        }
        let divisor = ten(self.scale - scale);
        let half = &divisor / 2;
        let magnitude: BigInt = (self.digits.abs() + half) / divisor;
        if self.digits.is_negative() { -magnitude } else { magnitude }
    }

    /// Approximate value; infinite or zero where it does not fit.
    fn to_f64(&self) -> f64 {
        let text = self.digits.abs().to_string();
        let kept = text.len().min(17);
        let mantissa: f64 = text[..kept].parse().unwrap_or(0.0);
        let exponent = (text.len() - kept) as i64 - self.scale;
        let value = mantissa * 10f64.powi(exponent.clamp(-400, 400) as i32);
        if self.digits.is_negative() { -value } else { value }
    }

    /// log10 of the magnitude, roughly.
    fn log10(&self) -> f64 {
        let text = self.digits.abs().to_string();
        let kept = text.len().min(17);
        let mantissa: f64 = text[..kept].parse().unwrap_or(1.0);
        mantissa.log10() + (text.len() - kept) as f64 - self.scale as f64
    }

    /// Position of the first base-10000 digit, as Postgres stores numerics.
    fn weight(&self) -> i64 {
        if self.digits.is_zero() {
            return 0;
        }
        let digits = self.digits.abs().to_string().len() as i64;
        (digits - self.scale - 1).div_euclid(4)
    }

    fn is_integer(&self) -> bool {
        (&self.digits % ten(self.scale)).is_zero()
    }
}

fn clamp_scale(scale: i64, at_least: i64) -> i64 {
    scale.max(at_least).max(0).min(SCALE_MAX)
}

pub(super) fn sqrt(value: &Numeric) -> Result<Numeric> {
    let Some(decimal) = Decimal::from_numeric(value) else {
        return match value.to_string().as_str() {
            "-Infinity" => negative_root(),
            _ => Ok(value.clone()),
        };
    };
    if decimal.digits.is_negative() {
        return negative_root();
    }
    let result_weight = (decimal.weight() + 1) * 4 / 2 - 1;
    let scale = clamp_scale(SIGNIFICANT_DIGITS_MIN - result_weight, decimal.scale);
    let working = scale + GUARD_DIGITS;
    let root = Decimal { digits: decimal.at_scale(2 * working).sqrt(), scale: working };
    root.to_numeric(scale)
}

fn negative_root() -> Result<Numeric> {
    error(ValueErrorKind::InvalidArgument, "cannot take square root of a negative number")
}

/// e^x in fixed point with `scale` digits.
fn exp_fixed(value: &Decimal, scale: i64) -> BigInt {
    // x = n·ln 10-ish halvings: divide by 2^k until small, sum the series, square k times.
    let magnitude = value.to_f64().abs();
    let halvings = (magnitude.max(1.0).log2().ceil() as i64 + 8).max(8);
    let working = scale + GUARD_DIGITS + halvings + (magnitude / std::f64::consts::LN_10) as i64;
    let one = ten(working);
    let reduced = value.at_scale(working) >> halvings as usize;
    let mut term = one.clone();
    let mut sum = one.clone();
    let mut n = 1u32;
    while !term.is_zero() {
        term = &term * &reduced / &one / n;
        sum += &term;
        n += 1;
    }
    for _ in 0..halvings {
        sum = &sum * &sum / &one;
    }
    Decimal { digits: sum, scale: working }.at_scale(scale)
}

/// ln x in fixed point with `scale` digits; x > 0.
fn ln_fixed(value: &Decimal, scale: i64) -> BigInt {
    let roots = 10usize;
    let exponent = value.log10().floor() as i64;
    let working = scale + GUARD_DIGITS + 8 + exponent.abs().to_string().len() as i64;
    // x = m·10^e with m near 1; ln x = 2^k·ln(m^(1/2^k)) + e·ln 10.
    let mantissa = Decimal { digits: value.digits.clone(), scale: value.scale + exponent };
    let near_one = ln_series(&mantissa.at_scale(working), working, roots);
    let total = if exponent == 0 {
        near_one
    } else {
        near_one + ln_series(&(ten(working) * 10), working, roots) * exponent
    };
    Decimal { digits: total, scale: working }.at_scale(scale)
}

/// ln of a fixed-point number between 1 and 10: square roots bring it near 1, then atanh's series.
fn ln_series(value: &BigInt, working: i64, roots: usize) -> BigInt {
    let extra = 8;
    let one = ten(working + extra);
    let mut x = value * ten(extra);
    for _ in 0..roots {
        x = (&x * &one).sqrt();
    }
    let y = (&x - &one) * &one / (&x + &one);
    let square = &y * &y / &one;
    let mut term = y;
    let mut sum = BigInt::zero();
    let mut n = 1u32;
    while !term.is_zero() {
        sum += &term / n;
        term = &term * &square / &one;
        n += 2;
    }
    ((sum * 2) << roots) / ten(extra)
}

/// Decimal weight of ln x, as Postgres estimates it to choose a scale.
fn ln_weight(value: &Decimal) -> i64 {
    let approximate = value.to_f64();
    if (0.9..=1.1).contains(&approximate) {
        let one = ten(value.scale);
        let distance = Decimal { digits: &value.digits - one, scale: value.scale };
        if distance.digits.is_zero() {
            return 0;
        }
        return distance.log10().floor() as i64;
    }
    let ln = value.log10() * std::f64::consts::LN_10;
    ln.abs().log10() as i64
}

fn logarithm_argument(value: &Numeric) -> Result<Option<Decimal>> {
    let Some(decimal) = Decimal::from_numeric(value) else {
        if value.to_string() == "-Infinity" {
            return error(
                ValueErrorKind::InvalidArgument,
                "cannot take logarithm of a negative number",
            );
        }
        return Ok(None);
    };
    match decimal.digits.sign() {
        Sign::Minus => {
            error(ValueErrorKind::InvalidArgument, "cannot take logarithm of a negative number")
        }
        Sign::NoSign => error(ValueErrorKind::InvalidArgument, "cannot take logarithm of zero"),
        Sign::Plus => Ok(Some(decimal)),
    }
}

pub(super) fn ln(value: &Numeric) -> Result<Numeric> {
    let Some(decimal) = logarithm_argument(value)? else { return Ok(value.clone()) };
    let scale = clamp_scale(SIGNIFICANT_DIGITS_MIN - ln_weight(&decimal), decimal.scale);
    let working = scale + GUARD_DIGITS;
    Decimal { digits: ln_fixed(&decimal, working), scale: working }.to_numeric(scale)
}

pub(super) fn log(base: &Numeric, value: &Numeric) -> Result<Numeric> {
    let (Some(b), Some(x)) = (logarithm_argument(base)?, logarithm_argument(value)?) else {
        return Numeric::parse(if value.to_f64().is_nan() || base.to_f64().is_nan() {
            "NaN"
        } else if finite(value) {
            "0"
        } else {
            "Infinity"
        });
    };
    let weight = ln_weight(&x) - ln_weight(&b);
    let scale = clamp_scale(SIGNIFICANT_DIGITS_MIN - weight, b.scale.max(x.scale));
    let working = scale + 2 * GUARD_DIGITS + ln_weight(&b).abs() + weight.abs();
    let ln_base = ln_fixed(&b, working);
    if ln_base.is_zero() {
        return Err(ValueError::division_by_zero());
    }
    let quotient = ln_fixed(&x, working) * ten(working) / ln_base;
    Decimal { digits: quotient, scale: working }.to_numeric(scale)
}

pub(super) fn exp(value: &Numeric) -> Result<Numeric> {
    let Some(decimal) = Decimal::from_numeric(value) else {
        return match value.to_string().as_str() {
            "-Infinity" => Ok(Numeric::from_i64(0)),
            _ => Ok(value.clone()),
        };
    };
    let weight = decimal.to_f64() * std::f64::consts::LOG10_E;
    if weight >= WEIGHT_DIGITS_MAX {
        return error(ValueErrorKind::OutOfRange, "value overflows numeric format");
    }
    let scale =
        clamp_scale(SIGNIFICANT_DIGITS_MIN - (weight.clamp(-2000.0, 2000.0) as i64), decimal.scale);
    if weight < -(scale as f64) - 1.0 {
        return Decimal { digits: BigInt::zero(), scale }.to_numeric(scale);
    }
    let working = scale + GUARD_DIGITS;
    Decimal { digits: exp_fixed(&decimal, working), scale: working }.to_numeric(scale)
}

pub(super) fn power(base: &Numeric, exponent: &Numeric) -> Result<Numeric> {
    let (Some(b), Some(e)) = (Decimal::from_numeric(base), Decimal::from_numeric(exponent)) else {
        let value = base.to_f64().powf(exponent.to_f64());
        return Numeric::parse(&if value.is_finite() {
            format!("{value}")
        } else if value.is_nan() {
            "NaN".to_owned()
        } else if value > 0.0 {
            "Infinity".to_owned()
        } else {
            "-Infinity".to_owned()
        });
    };
    if b.digits.is_zero() && e.digits.is_negative() {
        return error(
            ValueErrorKind::InvalidArgument,
            "zero raised to a negative power is undefined",
        );
    }
    let whole = e.is_integer();
    if b.digits.is_negative() && !whole {
        return error(
            ValueErrorKind::InvalidArgument,
            "a negative number raised to a non-integer power yields a complex result",
        );
    }
    if whole && let Ok(n) = i32::try_from(&e.digits / ten(e.scale)) {
        return integer_power(&b, i64::from(n));
    }
    if b.digits.is_zero() {
        return Decimal { digits: BigInt::zero(), scale: 0 }.to_numeric(SIGNIFICANT_DIGITS_MIN);
    }
    let weight = b.log10() * e.to_f64();
    if weight >= WEIGHT_DIGITS_MAX {
        return error(ValueErrorKind::OutOfRange, "value overflows numeric format");
    }
    let scale = clamp_scale(
        SIGNIFICANT_DIGITS_MIN - (weight.clamp(-2000.0, 2000.0) as i64),
        b.scale.max(e.scale),
    );
    if weight < -(scale as f64) - 1.0 {
        return Decimal { digits: BigInt::zero(), scale }.to_numeric(scale);
    }
    let working = scale + 2 * GUARD_DIGITS + weight.abs() as i64;
    let absolute = Decimal { digits: b.digits.abs(), scale: b.scale };
    let product =
        Decimal { digits: ln_fixed(&absolute, working) * &e.digits, scale: working + e.scale };
    Decimal { digits: exp_fixed(&product, scale + GUARD_DIGITS), scale: scale + GUARD_DIGITS }
        .to_numeric(scale)
}

fn integer_power(base: &Decimal, exponent: i64) -> Result<Numeric> {
    let scale = clamp_scale(SIGNIFICANT_DIGITS_MIN, base.scale);
    if base.digits.is_zero() {
        let value = if exponent == 0 { BigInt::from(1) } else { BigInt::zero() };
        return Decimal { digits: value, scale: 0 }.to_numeric(scale);
    }
    let weight = base.log10() * exponent as f64;
    if weight >= WEIGHT_DIGITS_MAX {
        return error(ValueErrorKind::OutOfRange, "value overflows numeric format");
    }
    if weight + 1.0 < -(scale as f64) {
        return Decimal { digits: BigInt::zero(), scale }.to_numeric(scale);
    }
    // Digits beyond what the result shows are dropped after each step, so that long powers stay cheap.
    let significant = (scale as f64 + weight.max(0.0)) as i64 + 2 * GUARD_DIGITS;
    let mut result = Decimal { digits: BigInt::from(1), scale: 0 };
    let mut square = base.clone();
    let mut n = exponent.unsigned_abs();
    while n > 0 {
        if n & 1 == 1 {
            result = shortened(multiply(&result, &square), significant);
        }
        n >>= 1;
        if n > 0 {
            square = shortened(multiply(&square, &square), significant + GUARD_DIGITS);
        }
    }
    if exponent < 0 {
        let working = scale + GUARD_DIGITS;
        let quotient = ten(working + result.scale) / &result.digits;
        result = Decimal { digits: quotient, scale: working };
    }
    result.to_numeric(scale)
}

fn multiply(left: &Decimal, right: &Decimal) -> Decimal {
    Decimal { digits: &left.digits * &right.digits, scale: left.scale + right.scale }
}

fn shortened(value: Decimal, significant: i64) -> Decimal {
    let digits = value.digits.abs().to_string().len() as i64;
    let excess = (digits - significant).min(value.scale);
    if excess <= 0 {
        return value;
    }
    Decimal { digits: value.digits / ten(excess), scale: value.scale - excess }
}
