//! Functions on one-dimensional arrays.

use cortex_shard_api::{Datum, SqlType, ValueErrorKind, value::ArrayValue};

use super::{Call, Kernel, Result, array, compare::compare, error, int4, make_text, strings};

pub(super) fn find(name: &str) -> Option<Kernel> {
    Some(match name {
        "array_length" => |_, args| {
            let value = array(&args[0])?;
            Ok(if int4(&args[1])? == 1 && !value.elements.is_empty() {
                Datum::Int4(value.elements.len() as i32)
            } else {
                Datum::Null
            })
        },
        "array_upper" => {
            |_, args| bound(args, |value| value.lower_bound + value.elements.len() as i32 - 1)
        }
        "array_lower" => |_, args| bound(args, |value| value.lower_bound),
        "array_ndims" => |_, args| {
            Ok(if array(&args[0])?.elements.is_empty() { Datum::Null } else { Datum::Int4(1) })
        },
        "array_dims" => |_, args| {
            let value = array(&args[0])?;
            if value.elements.is_empty() {
                return Ok(Datum::Null);
            }
            let upper = value.lower_bound + value.elements.len() as i32 - 1;
            Ok(make_text(format!("[{}:{upper}]", value.lower_bound)))
        },
        "cardinality" => |_, args| Ok(Datum::Int4(array(&args[0])?.elements.len() as i32)),
        "array_append" => |call, args| joined(call, &args[0], std::slice::from_ref(&args[1]), true),
        "array_prepend" => {
            |call, args| joined(call, &args[1], std::slice::from_ref(&args[0]), false)
        }
        "array_cat" => array_cat,
        "array_position" => array_position,
        "array_positions" => array_positions,
        "array_remove" => array_remove,
        "array_replace" => array_replace,
        "array_to_string" => strings::array_to_string,
        "array_subscript" => subscript,
        "array_slice" => slice,
        "arraycontains" => {
            |call, args| contains(call, array(&args[0])?, array(&args[1])?).map(Datum::Bool)
        }
        "arraycontained" => {
            |call, args| contains(call, array(&args[1])?, array(&args[0])?).map(Datum::Bool)
        }
        "arrayoverlap" => overlap,
        "trim_array" => trim_array,
        "array_fill" => array_fill,
        _ => return None,
    })
}

fn with(source: &ArrayValue, elements: Vec<Datum>) -> Datum {
    let lower_bound = if elements.is_empty() { 1 } else { source.lower_bound };
    Datum::Array(Box::new(ArrayValue { element: source.element, lower_bound, elements }))
}

fn element_type(call: &Call<'_>) -> SqlType {
    call.returns.element().unwrap_or(call.returns)
}

fn bound(args: &[Datum], of: fn(&ArrayValue) -> i32) -> Result<Datum> {
    let value = array(&args[0])?;
    if int4(&args[1])? != 1 || value.elements.is_empty() {
        return Ok(Datum::Null);
    }
    Ok(Datum::Int4(of(value)))
}

/// An array (or NULL for an empty one) with elements added behind it or before it.
fn joined(call: &Call<'_>, base: &Datum, added: &[Datum], behind: bool) -> Result<Datum> {
    let empty = ArrayValue { element: element_type(call), lower_bound: 1, elements: Vec::new() };
    let base = if matches!(base, Datum::Null) { &empty } else { array(base)? };
    let elements = if behind {
        [&base.elements[..], added].concat()
    } else {
        [added, &base.elements[..]].concat()
    };
    Ok(with(base, elements))
}

fn array_cat(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    match (&args[0], &args[1]) {
        (Datum::Null, other) | (other, Datum::Null) => Ok(other.clone()),
        (left, right) => {
            let (left, right) = (array(left)?, array(right)?);
            if left.elements.is_empty() {
                return Ok(args[1].clone());
            }
            Ok(with(left, [&left.elements[..], &right.elements[..]].concat()))
        }
    }
}

/// Equality as IS NOT DISTINCT FROM.
fn same(call: &Call<'_>, ty: SqlType, left: &Datum, right: &Datum) -> bool {
    compare(left, ty, right, ty, call.context).is_eq()
}

fn array_position(call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    if matches!(args[0], Datum::Null) {
        return Ok(Datum::Null);
    }
    let value = array(&args[0])?;
    let from = match args.get(2) {
        None => value.lower_bound,
        Some(Datum::Null) => {
            return error(ValueErrorKind::NullNotAllowed, "initial position must not be null");
        }
        Some(from) => int4(from)?,
    };
    let skipped = (from - value.lower_bound).max(0) as usize;
    let found = value
        .elements
        .iter()
        .enumerate()
        .skip(skipped)
        .find(|(_, element)| same(call, value.element, element, &args[1]));
    Ok(found.map_or(Datum::Null, |(at, _)| Datum::Int4(value.lower_bound + at as i32)))
}

fn array_positions(call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    if matches!(args[0], Datum::Null) {
        return Ok(Datum::Null);
    }
    let value = array(&args[0])?;
    let positions = value
        .elements
        .iter()
        .enumerate()
        .filter(|(_, element)| same(call, value.element, element, &args[1]))
        .map(|(at, _)| Datum::Int4(value.lower_bound + at as i32))
        .collect();
    Ok(super::make_array(SqlType::Int4, positions))
}

fn array_remove(call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    if matches!(args[0], Datum::Null) {
        return Ok(Datum::Null);
    }
    let value = array(&args[0])?;
    let kept = value
        .elements
        .iter()
        .filter(|element| !same(call, value.element, element, &args[1]))
        .cloned()
        .collect();
    Ok(with(value, kept))
}

fn array_replace(call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    if matches!(args[0], Datum::Null) {
        return Ok(Datum::Null);
    }
    let value = array(&args[0])?;
    let replaced = value
        .elements
        .iter()
        .map(|element| {
            if same(call, value.element, element, &args[1]) {
                args[2].clone()
            } else {
                element.clone()
            }
        })
        .collect();
    Ok(with(value, replaced))
}

fn subscript(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    let value = array(&args[0])?;
    let at = i64::from(int4(&args[1])?) - i64::from(value.lower_bound);
    let element = usize::try_from(at).ok().and_then(|at| value.elements.get(at));
    Ok(element.cloned().unwrap_or(Datum::Null))
}

/// `a[i:j]`; NULL bounds stand for an open end.
fn slice(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    if matches!(args[0], Datum::Null) {
        return Ok(Datum::Null);
    }
    let value = array(&args[0])?;
    let n = value.elements.len() as i64;
    let first = i64::from(value.lower_bound);
    let bound = |arg: &Datum, open: i64| match arg {
        Datum::Null => Ok(open),
        arg => int4(arg).map(i64::from),
    };
    let from = (bound(&args[1], first)? - first).clamp(0, n) as usize;
    let to = (bound(&args[2], first + n - 1)? - first + 1).clamp(0, n) as usize;
    let elements = if from < to { value.elements[from..to].to_vec() } else { Vec::new() };
    Ok(Datum::Array(Box::new(ArrayValue { element: value.element, lower_bound: 1, elements })))
}

/// Whether every element of `inner` is in `outer`. NULLs are in nothing.
fn contains(call: &Call<'_>, outer: &ArrayValue, inner: &ArrayValue) -> Result<bool> {
    Ok(inner.elements.iter().all(|wanted| {
        !matches!(wanted, Datum::Null)
            && outer.elements.iter().any(|element| {
                !matches!(element, Datum::Null) && same(call, outer.element, element, wanted)
            })
    }))
}

fn overlap(call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    let (left, right) = (array(&args[0])?, array(&args[1])?);
    Ok(Datum::Bool(left.elements.iter().any(|wanted| {
        !matches!(wanted, Datum::Null)
            && right.elements.iter().any(|element| same(call, left.element, element, wanted))
    })))
}

fn trim_array(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    let value = array(&args[0])?;
    let (n, length) = (int4(&args[1])?, value.elements.len());
    if n < 0 || n as usize > length {
        return error(
            ValueErrorKind::ArraySubscript,
            format!("number of elements to trim must be between 0 and {length}"),
        );
    }
    Ok(with(value, value.elements[..length - n as usize].to_vec()))
}

/// Elements `array_fill` may make.
const FILL_MAX: i32 = 10_000_000;

fn array_fill(call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    let dimensions = array(&args[1])?;
    let n = match &dimensions.elements[..] {
        [] => 0,
        [n] => int4(n)?,
        _ => {
            return error(ValueErrorKind::Unsupported, "multidimensional arrays are not supported");
        }
    };
    if !(0..=FILL_MAX).contains(&n) {
        return error(
            ValueErrorKind::InvalidParameter,
            format!("array size exceeds the maximum allowed ({FILL_MAX})"),
        );
    }
    let lower_bound = match args.get(2) {
        Some(bounds) => match array(bounds)?.elements.first() {
            Some(bound) => int4(bound)?,
            None => 1,
        },
        None => 1,
    };
    Ok(Datum::Array(Box::new(ArrayValue {
        element: element_type(call),
        lower_bound,
        elements: vec![args[0].clone(); n as usize],
    })))
}
