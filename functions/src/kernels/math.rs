//! Mathematical functions on integers, floats and numerics.

use cortex_shard_api::{Datum, SqlType, ValueError, ValueErrorKind, value::Numeric};
use rand::Rng;

use super::{
    Call, Kernel, Result, arithmetic::float8_result, error, float, int, int4, make_int, numeric,
};

pub(super) fn find(name: &str, args: &[Option<SqlType>]) -> Option<Kernel> {
    let first_is_numeric = args.first() == Some(&Some(SqlType::Numeric));
    Some(match name {
        "ceil" | "ceiling" => ceil,
        "floor" => floor,
        "round" | "dround" => round,
        "trunc" | "dtrunc" => trunc,
        "sqrt" | "dsqrt" | "numeric_sqrt" => sqrt,
        "cbrt" | "dcbrt" => |_, args| Ok(Datum::Float8(float(&args[0])?.cbrt())),
        "power" | "pow" | "dpow" | "numeric_power" => power,
        "exp" | "dexp" | "numeric_exp" => exp,
        "ln" | "dlog1" | "numeric_ln" => ln,
        "log" | "log10" | "dlog10" | "numeric_log" => log,
        "sign" => sign,
        "pi" => |_, _| Ok(Datum::Float8(std::f64::consts::PI)),
        "degrees" => |_, args| float8_result(float(&args[0])?.to_degrees(), &[float(&args[0])?]),
        "radians" => |_, args| Ok(Datum::Float8(float(&args[0])?.to_radians())),
        "sin" => |_, args| trigonometric(&args[0], f64::sin),
        "cos" => |_, args| trigonometric(&args[0], f64::cos),
        "tan" => |_, args| trigonometric(&args[0], f64::tan),
        "cot" => |_, args| trigonometric(&args[0], |x| 1.0 / x.tan()),
        "asin" => |_, args| arc(&args[0], f64::asin),
        "acos" => |_, args| arc(&args[0], f64::acos),
        "atan" => |_, args| Ok(Datum::Float8(float(&args[0])?.atan())),
        "atan2" => |_, args| Ok(Datum::Float8(float(&args[0])?.atan2(float(&args[1])?))),
        "sinh" => |_, args| Ok(Datum::Float8(float(&args[0])?.sinh())),
        "cosh" => |_, args| Ok(Datum::Float8(float(&args[0])?.cosh())),
        "tanh" => |_, args| Ok(Datum::Float8(float(&args[0])?.tanh())),
        "asinh" => |_, args| Ok(Datum::Float8(float(&args[0])?.asinh())),
        "acosh" => |_, args| arc_checked(float(&args[0])?, |x| x >= 1.0, f64::acosh),
        "atanh" => {
            |_, args| arc_checked(float(&args[0])?, |x| (-1.0..=1.0).contains(&x), f64::atanh)
        }
        "sind" => |_, args| in_degrees(&args[0], sind),
        "cosd" => |_, args| in_degrees(&args[0], |x| sind(90.0 - x.abs())),
        "tand" => |_, args| in_degrees(&args[0], |x| sind(x) / sind(90.0 - x.abs())),
        "random" => |_, _| Ok(Datum::Float8(rand::rng().random::<f64>())),
        "gcd" => gcd,
        "lcm" => lcm,
        "factorial" => factorial,
        "width_bucket" if args.len() == 4 => width_bucket,
        "scale" if first_is_numeric => scale,
        "min_scale" => |_, args| match numeric(&args[0])?.is_finite() {
            true => Ok(Datum::Int4(i32::from(numeric(&args[0])?.normalized().scale()))),
            false => Ok(Datum::Null),
        },
        "trim_scale" => |_, args| Ok(Datum::Numeric(numeric(&args[0])?.normalized())),
        "numeric_inc" => {
            |_, args| Ok(Datum::Numeric(numeric(&args[0])?.add(&Numeric::from_i64(1))?))
        }
        "int8inc" => |_, args| {
            int(&args[0])?
                .checked_add(1)
                .map(Datum::Int8)
                .ok_or_else(|| ValueError::out_of_range("bigint"))
        },
        "bit_count" => |_, args| match &args[0] {
            Datum::Bytea(bytes) => {
                Ok(Datum::Int8(bytes.iter().map(|byte| i64::from(byte.count_ones())).sum()))
            }
            value => Ok(Datum::Int8(i64::from(int(value)?.count_ones()))),
        },
        _ => return None,
    })
}

fn scale(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    let value = numeric(&args[0])?;
    if !value.is_finite() {
        return Ok(Datum::Null);
    }
    Ok(Datum::Int4(i32::from(value.scale())))
}

fn ceil(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    match &args[0] {
        Datum::Numeric(value) => {
            let whole = value.trunc(0);
            Ok(Datum::Numeric(if whole < *value {
                whole.add(&Numeric::from_i64(1))?
            } else {
                whole
            }))
        }
        value => Ok(Datum::Float8(float(value)?.ceil())),
    }
}

fn floor(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    match &args[0] {
        Datum::Numeric(value) => {
            let whole = value.trunc(0);
            Ok(Datum::Numeric(if whole > *value {
                whole.sub(&Numeric::from_i64(1))?
            } else {
                whole
            }))
        }
        value => Ok(Datum::Float8(float(value)?.floor())),
    }
}

/// Digits that round and trunc keep: what Postgres clamps its argument to.
fn scale_argument(args: &[Datum]) -> Result<i32> {
    match args.get(1) {
        None => Ok(0),
        Some(scale) => Ok(int4(scale)?.clamp(-2000, 2000)),
    }
}

fn round(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    match &args[0] {
        Datum::Numeric(value) => Ok(Datum::Numeric(value.round(scale_argument(args)?))),
        value => Ok(Datum::Float8(float(value)?.round_ties_even())),
    }
}

fn trunc(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    match &args[0] {
        Datum::Numeric(value) => Ok(Datum::Numeric(value.trunc(scale_argument(args)?))),
        value => Ok(Datum::Float8(float(value)?.trunc())),
    }
}

fn sqrt(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    if let Datum::Numeric(value) = &args[0] {
        return value.sqrt().map(Datum::Numeric);
    }
    let value = float(&args[0])?;
    if value < 0.0 {
        return error(ValueErrorKind::InvalidPower, "cannot take square root of a negative number");
    }
    Ok(Datum::Float8(value.sqrt()))
}

pub(super) fn power(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    if let (Datum::Numeric(base), Datum::Numeric(exponent)) = (&args[0], &args[1]) {
        return base.power(exponent).map(Datum::Numeric);
    }
    let (base, exponent) = (float(&args[0])?, float(&args[1])?);
    if base == 0.0 && exponent < 0.0 {
        return error(ValueErrorKind::InvalidPower, "zero raised to a negative power is undefined");
    }
    if base < 0.0 && exponent.is_finite() && exponent.fract() != 0.0 && base.is_finite() {
        return error(
            ValueErrorKind::InvalidPower,
            "a negative number raised to a non-integer power yields a complex result",
        );
    }
    let result = base.powf(exponent);
    if result == 0.0 && base != 0.0 && base.is_finite() && exponent.is_finite() {
        return error(ValueErrorKind::OutOfRange, "value out of range: underflow");
    }
    float8_result(result, &[base, exponent])
}

fn exp(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    if let Datum::Numeric(value) = &args[0] {
        return value.exp().map(Datum::Numeric);
    }
    let value = float(&args[0])?;
    let result = value.exp();
    if result == 0.0 && value.is_finite() {
        return error(ValueErrorKind::OutOfRange, "value out of range: underflow");
    }
    float8_result(result, &[value])
}

fn logarithm_argument(value: f64) -> Result<f64> {
    if value == 0.0 {
        return error(ValueErrorKind::InvalidArgument, "cannot take logarithm of zero");
    }
    if value < 0.0 {
        return error(
            ValueErrorKind::InvalidArgument,
            "cannot take logarithm of a negative number",
        );
    }
    Ok(value)
}

fn ln(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    match &args[0] {
        Datum::Numeric(value) => value.ln().map(Datum::Numeric),
        value => Ok(Datum::Float8(logarithm_argument(float(value)?)?.ln())),
    }
}

fn log(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    match args {
        [Datum::Numeric(value)] => value.log10().map(Datum::Numeric),
        [Datum::Numeric(base), Datum::Numeric(value)] => value.log(base).map(Datum::Numeric),
        _ => Ok(Datum::Float8(logarithm_argument(float(&args[0])?)?.log10())),
    }
}

fn sign(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    match &args[0] {
        Datum::Numeric(value) => {
            if value.to_f64().is_nan() {
                return Ok(args[0].clone());
            }
            let zero = Numeric::from_i64(0);
            Ok(Datum::Numeric(Numeric::from_i64(value.cmp(&zero) as i64)))
        }
        value => {
            let value = float(value)?;
            Ok(Datum::Float8(if value > 0.0 {
                1.0
            } else if value < 0.0 {
                -1.0
            } else {
                value.abs()
            }))
        }
    }
}

fn trigonometric(value: &Datum, function: fn(f64) -> f64) -> Result<Datum> {
    let value = float(value)?;
    if value.is_infinite() {
        return error(ValueErrorKind::OutOfRange, "input is out of range");
    }
    Ok(Datum::Float8(function(value)))
}

fn in_degrees(value: &Datum, function: fn(f64) -> f64) -> Result<Datum> {
    let value = float(value)?;
    if value.is_infinite() {
        return error(ValueErrorKind::OutOfRange, "input is out of range");
    }
    Ok(Datum::Float8(function(value % 360.0)))
}

/// Sine of degrees, exact at multiples of 30.
fn sind(degrees: f64) -> f64 {
    let mut x = degrees % 360.0;
    let mut sign = 1.0;
    if x < 0.0 {
        x = -x;
        sign = -sign;
    }
    if x > 180.0 {
        x = 360.0 - x;
        sign = -sign;
    }
    if x > 90.0 {
        x = 180.0 - x;
    }
    let value = if x == 30.0 {
        0.5
    } else if x == 90.0 {
        1.0
    } else {
        x.to_radians().sin()
    };
    sign * value
}

fn arc(value: &Datum, function: fn(f64) -> f64) -> Result<Datum> {
    arc_checked(float(value)?, |x| (-1.0..=1.0).contains(&x), function)
}

fn arc_checked(value: f64, inside: fn(f64) -> bool, function: fn(f64) -> f64) -> Result<Datum> {
    if !value.is_nan() && !inside(value) {
        return error(ValueErrorKind::OutOfRange, "input is out of range");
    }
    Ok(Datum::Float8(function(value)))
}

fn gcd_i128(mut left: i128, mut right: i128) -> i128 {
    while right != 0 {
        (left, right) = (right, left % right);
    }
    left.abs()
}

fn gcd(call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    if let (Datum::Numeric(left), Datum::Numeric(right)) = (&args[0], &args[1]) {
        let (mut left, mut right) = (left.clone(), right.clone());
        let scale = left.scale().max(right.scale());
        let zero = Numeric::from_i64(0);
        while right != zero {
            (left, right) = (right.clone(), left.rem(&right)?);
        }
        return Ok(Datum::Numeric(left.abs().round(i32::from(scale))));
    }
    let value = gcd_i128(int(&args[0])?.into(), int(&args[1])?.into());
    in_range(value, call.returns)
}

fn in_range(value: i128, ty: SqlType) -> Result<Datum> {
    let value = i64::try_from(value).map_err(|_| ValueError::out_of_range(ty.sql_name()))?;
    make_int(value, ty)
}

fn lcm(call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    if let (Datum::Numeric(left), Datum::Numeric(right)) = (&args[0], &args[1]) {
        let zero = Numeric::from_i64(0);
        let scale = left.scale().max(right.scale());
        if *left == zero || *right == zero {
            return Ok(Datum::Numeric(zero.round(i32::from(scale))));
        }
        let divisor = gcd(call, args)?;
        let quotient = left.div(numeric(&divisor)?)?.round(0);
        return Ok(Datum::Numeric(quotient.mul(right)?.abs().round(i32::from(scale))));
    }
    let (left, right) = (i128::from(int(&args[0])?), i128::from(int(&args[1])?));
    if left == 0 || right == 0 {
        return make_int(0, call.returns);
    }
    in_range((left / gcd_i128(left, right) * right).abs(), call.returns)
}

/// Above this Postgres itself would run for hours.
const FACTORIAL_MAX: i64 = 32_177;

fn factorial(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    let n = int(&args[0])?;
    if n < 0 {
        return error(ValueErrorKind::OutOfRange, "factorial of a negative number is undefined");
    }
    if n > FACTORIAL_MAX {
        return error(ValueErrorKind::OutOfRange, "value overflows numeric format");
    }
    let product = (2..=n).fold(num_bigint::BigInt::from(1), |product, factor| product * factor);
    Numeric::parse(&product.to_string()).map(Datum::Numeric)
}

fn width_bucket(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    let count = int(&args[3])?;
    if count <= 0 {
        return error(ValueErrorKind::InvalidBucket, "count must be greater than zero");
    }
    let overflow = || ValueError::out_of_range("integer");
    let bucket = match (&args[0], &args[1], &args[2]) {
        (Datum::Numeric(value), Datum::Numeric(low), Datum::Numeric(high)) => {
            if low == high {
                return error(
                    ValueErrorKind::InvalidBucket,
                    "lower bound cannot equal upper bound",
                );
            }
            let ascending = low < high;
            if (ascending && value < low) || (!ascending && value > low) {
                0
            } else if (ascending && value >= high) || (!ascending && value <= high) {
                count + 1
            } else {
                let scaled = value
                    .sub(low)?
                    .mul(&Numeric::from_i64(count))?
                    .div(&high.sub(low)?)?
                    .trunc(0)
                    .to_i64()?;
                scaled + 1
            }
        }
        _ => {
            let (value, low, high) = (float(&args[0])?, float(&args[1])?, float(&args[2])?);
            if value.is_nan() || low.is_nan() || high.is_nan() {
                return error(
                    ValueErrorKind::InvalidBucket,
                    "operand, lower bound, and upper bound cannot be NaN",
                );
            }
            if low.is_infinite() || high.is_infinite() {
                return error(
                    ValueErrorKind::InvalidBucket,
                    "lower and upper bounds must be finite",
                );
            }
            if low == high {
                return error(
                    ValueErrorKind::InvalidBucket,
                    "lower bound cannot equal upper bound",
                );
            }
            let (from, to, value) =
                if low < high { (low, high, value) } else { (-low, -high, -value) };
            if value < from {
                0
            } else if value >= to {
                count + 1
            } else {
                ((count as f64) * ((value - from) / (to - from))) as i64 + 1
            }
        }
    };
    i32::try_from(bucket).map(Datum::Int4).map_err(|_| overflow())
}
