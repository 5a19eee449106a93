//! `+ - * / %`, signs and bit operators on numbers. Results as Postgres: checked, truncating division.

use cortex_shard_api::{Datum, SqlType, ValueError, ValueErrorKind, value::Numeric};

use super::{Call, Kernel, Result, error, float, int, make_int, numeric};

/// By operator, for functions over numbers only (dates and intervals have their own).
pub(super) fn find(name: &str, operator: Option<(&str, bool)>) -> Option<Kernel> {
    let by_name: Option<Kernel> = match name {
        "mod" => Some(remainder),
        "numeric_mod" => Some(remainder),
        "div" | "numeric_div_trunc" => Some(div_trunc),
        "int2abs" | "int4abs" | "int8abs" | "float4abs" | "float8abs" | "numeric_abs" | "abs" => {
            Some(abs)
        }
        _ => None,
    };
    if by_name.is_some() {
        return by_name;
    }
    let numbers = ["int", "float", "numeric"].iter().any(|prefix| name.starts_with(prefix))
        && !name.contains("interval")
        && !name.contains("date")
        && !name.starts_with("integer");
    if !numbers {
        return None;
    }
    Some(match operator? {
        ("+", false) => add,
        ("-", false) => subtract,
        ("*", false) => multiply,
        ("/", false) => divide,
        ("%", false) => remainder,
        ("+", true) => plus,
        ("-", true) => negate,
        ("&", false) => bit_and,
        ("|", false) => bit_or,
        ("#", false) => bit_xor,
        ("~", true) => bit_not,
        ("<<", false) => shift_left,
        (">>", false) => shift_right,
        ("^", false) => super::math::power,
        _ => return None,
    })
}

fn range_error(ty: SqlType) -> ValueError {
    ValueError::out_of_range(ty.sql_name())
}

/// One operation over the three families of numbers.
fn apply(
    call: &Call<'_>,
    args: &[Datum],
    ints: fn(i64, i64) -> Option<i64>,
    floats: fn(f64, f64) -> f64,
    numerics: fn(&Numeric, &Numeric) -> Result<Numeric>,
) -> Result<Datum> {
    match (&args[0], &args[1]) {
        (Datum::Numeric(left), Datum::Numeric(right)) => numerics(left, right).map(Datum::Numeric),
        (Datum::Float4(left), Datum::Float4(right)) => {
            float4_result(floats(f64::from(*left), f64::from(*right)) as f32, &[*left, *right])
        }
        (Datum::Float4(_) | Datum::Float8(_), _) => {
            let (left, right) = (float(&args[0])?, float(&args[1])?);
            float8_result(floats(left, right), &[left, right])
        }
        (left, right) => {
            let value = ints(int(left)?, int(right)?).ok_or_else(|| range_error(call.returns))?;
            make_int(value, call.returns)
        }
    }
}

/// 22003 where finite operands gave an infinity.
pub(crate) fn float8_result(result: f64, operands: &[f64]) -> Result<Datum> {
    if result.is_infinite() && operands.iter().all(|operand| operand.is_finite()) {
        return error(ValueErrorKind::OutOfRange, "value out of range: overflow");
    }
    Ok(Datum::Float8(result))
}

fn float4_result(result: f32, operands: &[f32]) -> Result<Datum> {
    if result.is_infinite() && operands.iter().all(|operand| operand.is_finite()) {
        return error(ValueErrorKind::OutOfRange, "value out of range: overflow");
    }
    Ok(Datum::Float4(result))
}

pub(crate) fn add(call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    apply(call, args, i64::checked_add, |l, r| l + r, Numeric::add)
}

fn subtract(call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    apply(call, args, i64::checked_sub, |l, r| l - r, Numeric::sub)
}

fn multiply(call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    let result = apply(call, args, i64::checked_mul, |l, r| l * r, Numeric::mul)?;
    let zero = |value: &Datum| float(value).is_ok_and(|value| value == 0.0);
    if zero(&result) && !zero(&args[0]) && !zero(&args[1]) {
        return underflow();
    }
    Ok(result)
}

fn underflow<T>() -> Result<T> {
    error(ValueErrorKind::OutOfRange, "value out of range: underflow")
}

fn divide(call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    let zero = match &args[1] {
        Datum::Numeric(_) => false,
        Datum::Float4(divisor) => *divisor == 0.0 && !float(&args[0])?.is_nan(),
        Datum::Float8(divisor) => *divisor == 0.0 && !float(&args[0])?.is_nan(),
        divisor => int(divisor)? == 0,
    };
    if zero {
        return Err(ValueError::division_by_zero());
    }
    let result = apply(call, args, i64::checked_div, |l, r| l / r, Numeric::div)?;
    if let Datum::Float4(_) | Datum::Float8(_) = result
        && float(&result)? == 0.0
        && float(&args[0])? != 0.0
        && float(&args[1])?.is_finite()
    {
        return underflow();
    }
    Ok(result)
}

fn remainder(call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    if !matches!(args[1], Datum::Numeric(_)) && int(&args[1])? == 0 {
        return Err(ValueError::division_by_zero());
    }
    apply(call, args, |l, r| Some(l.wrapping_rem(r)), |l, r| l % r, Numeric::rem)
}

/// `div(numeric, numeric)`: the quotient truncated towards zero.
fn div_trunc(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    let (left, right) = (numeric(&args[0])?, numeric(&args[1])?);
    let rest = left.rem(right)?;
    Ok(Datum::Numeric(left.sub(&rest)?.div(right)?.round(0)))
}

fn plus(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    Ok(args[0].clone())
}

fn negate(call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    match &args[0] {
        Datum::Numeric(value) => Ok(Datum::Numeric(value.neg())),
        Datum::Float4(value) => Ok(Datum::Float4(-value)),
        Datum::Float8(value) => Ok(Datum::Float8(-value)),
        value => {
            let value = int(value)?.checked_neg().ok_or_else(|| range_error(call.returns))?;
            make_int(value, call.returns)
        }
    }
}

fn abs(call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    match &args[0] {
        Datum::Numeric(value) => Ok(Datum::Numeric(value.abs())),
        Datum::Float4(value) => Ok(Datum::Float4(value.abs())),
        Datum::Float8(value) => Ok(Datum::Float8(value.abs())),
        value => {
            let value = int(value)?.checked_abs().ok_or_else(|| range_error(call.returns))?;
            make_int(value, call.returns)
        }
    }
}

fn bit_and(call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    make_int(int(&args[0])? & int(&args[1])?, call.returns)
}

fn bit_or(call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    make_int(int(&args[0])? | int(&args[1])?, call.returns)
}

fn bit_xor(call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    make_int(int(&args[0])? ^ int(&args[1])?, call.returns)
}

fn bit_not(call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    make_int(!int(&args[0])?, call.returns)
}

/// Shift counts are taken modulo the machine's width (int2 is shifted as an int4), as C on x86 and so Postgres does.
fn shift_left(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    let count = int(&args[1])? as u32;
    Ok(match &args[0] {
        Datum::Int2(value) => Datum::Int2(i32::from(*value).wrapping_shl(count) as i16),
        Datum::Int4(value) => Datum::Int4(value.wrapping_shl(count)),
        value => Datum::Int8(int(value)?.wrapping_shl(count)),
    })
}

fn shift_right(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    let count = int(&args[1])? as u32;
    Ok(match &args[0] {
        Datum::Int2(value) => Datum::Int2(i32::from(*value).wrapping_shr(count) as i16),
        Datum::Int4(value) => Datum::Int4(value.wrapping_shr(count)),
        value => Datum::Int8(int(value)?.wrapping_shr(count)),
    })
}
