//! What each function and operator computes, over single values.
//!
//! Lives here: one kernel per function, by family. A kernel gets arguments of exactly the types its signature names; a strict
//! function's kernel never sees a NULL. Not here: which functions exist (`registry::facts`) and how whole columns are
//! computed (`lower`).

use cortex_shard_api::{Datum, SqlType, ValueError, ValueErrorKind, client::Row, value::Interval};

use crate::{registry::ArgType, session::EvalContext};

pub(crate) mod arithmetic;
pub(crate) mod array;
pub(crate) mod calendar;
pub(crate) mod compare;
pub(crate) mod datetime;
pub(crate) mod formatting;
pub(crate) mod json;
pub(crate) mod math;
pub(crate) mod regex;
pub(crate) mod sets;
pub(crate) mod strings;
pub(crate) mod system;

/// What a kernel knows besides its arguments.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    pub context: &'a EvalContext,
    pub args: &'a [SqlType],
    pub returns: SqlType,
}

pub(crate) type Result<T, E = ValueError> = std::result::Result<T, E>;

/// A scalar function's body.
pub(crate) type Kernel = fn(&Call<'_>, &[Datum]) -> Result<Datum>;

/// A set-returning function's body.
pub(crate) type SetKernel = fn(&Call<'_>, &[Datum]) -> Result<Vec<Row>>;

/// Rows that a set-returning function may yield at the most: memory has a bound.
pub(crate) const SET_ROWS_MAX: usize = 50_000_000;

/// Longest string a function may make, as in Postgres.
pub(crate) const STRING_BYTES_MAX: usize = 0x3fff_ffff;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    Eq,
    NotEq,
    Lt,
    LtEq,
    Gt,
    GtEq,
}

/// How a signature is computed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Implementation {
    Scalar(Kernel),
    Compare(Comparison),
    /// Every element of an array against one value.
    ArrayComparison {
        all: bool,
    },
    /// A type's name called like a function.
    Cast,
    Set(SetKernel),
    /// Answered by `SessionFunctions`.
    Session,
    Aggregate,
    Window,
}

/// Finds the implementation of a function by its name and, where it has one, its operator (symbol, is prefix).
pub(crate) fn find(
    name: &str,
    args: &[ArgType],
    returns_set: bool,
    operator: Option<(&str, bool)>,
) -> Option<Implementation> {
    if returns_set {
        return sets::find(name).map(Implementation::Set);
    }
    if let Some(comparison) = operator.and_then(|(symbol, _)| comparison(symbol))
        && !args.contains(&ArgType::Type(SqlType::Record))
    {
        return Some(Implementation::Compare(comparison));
    }
    if system::SESSION_FUNCTIONS.contains(&name) {
        return Some(Implementation::Session);
    }
    let types = args
        .iter()
        .map(|arg| match arg {
            ArgType::Type(ty) => Some(*ty),
            _ => None,
        })
        .collect::<Vec<_>>();
    arithmetic::find(name, operator)
        .or_else(|| math::find(name, &types))
        .or_else(|| strings::find(name, &types))
        .or_else(|| regex::find(name))
        .or_else(|| datetime::find(name, &types))
        .or_else(|| formatting::find(name, &types))
        .or_else(|| json::find(name))
        .or_else(|| array::find(name))
        .or_else(|| compare::find(name))
        .or_else(|| system::find(name, &types))
        .map(Implementation::Scalar)
}

fn comparison(symbol: &str) -> Option<Comparison> {
    Some(match symbol {
        "=" => Comparison::Eq,
        "<>" => Comparison::NotEq,
        "<" => Comparison::Lt,
        "<=" => Comparison::LtEq,
        ">" => Comparison::Gt,
        ">=" => Comparison::GtEq,
        _ => return None,
    })
}

/// `int4,_text`: the argument list of a signature.
pub(crate) fn arguments_text(args: &[SqlType]) -> String {
    args.iter().map(|ty| ty.catalog_name()).collect::<Vec<_>>().join(",")
}

pub(crate) fn error<T>(kind: ValueErrorKind, message: impl Into<String>) -> Result<T> {
    Err(ValueError::new(kind, message))
}

pub(crate) fn invalid_parameter<T>(message: impl Into<String>) -> Result<T> {
    error(ValueErrorKind::InvalidParameter, message)
}

/// A value of another type than the signature says: our bug, not the user's.
fn unexpected(wanted: &str, got: &Datum) -> ValueError {
    ValueError::new(ValueErrorKind::Internal, format!("expected {wanted}, got {got:?}"))
}

/// int2, int4, int8 or an OID as an i64.
pub(crate) fn int(value: &Datum) -> Result<i64> {
    match value {
        Datum::Int2(value) => Ok(i64::from(*value)),
        Datum::Int4(value) => Ok(i64::from(*value)),
        Datum::Int8(value) => Ok(*value),
        Datum::Oid(value) => Ok(i64::from(*value)),
        Datum::Date(value) => Ok(i64::from(*value)),
        other => Err(unexpected("an integer", other)),
    }
}

pub(crate) fn int4(value: &Datum) -> Result<i32> {
    i32::try_from(int(value)?).map_err(|_| ValueError::out_of_range("integer"))
}

pub(crate) fn float(value: &Datum) -> Result<f64> {
    match value {
        Datum::Float4(value) => Ok(f64::from(*value)),
        Datum::Float8(value) => Ok(*value),
        other => Err(unexpected("a float", other)),
    }
}

pub(crate) fn numeric(value: &Datum) -> Result<&cortex_shard_api::value::Numeric> {
    match value {
        Datum::Numeric(value) => Ok(value),
        other => Err(unexpected("a numeric", other)),
    }
}

pub(crate) fn text(value: &Datum) -> Result<&str> {
    match value {
        Datum::Text(value) | Datum::Json(value) | Datum::Jsonb(value) => Ok(value),
        other => Err(unexpected("text", other)),
    }
}

pub(crate) fn bytes(value: &Datum) -> Result<&[u8]> {
    match value {
        Datum::Bytea(value) => Ok(value),
        other => Err(unexpected("bytea", other)),
    }
}

pub(crate) fn boolean(value: &Datum) -> Result<bool> {
    match value {
        Datum::Bool(value) => Ok(*value),
        other => Err(unexpected("boolean", other)),
    }
}

pub(crate) fn interval(value: &Datum) -> Result<Interval> {
    match value {
        Datum::Interval(value) => Ok(*value),
        other => Err(unexpected("an interval", other)),
    }
}

/// Microseconds of a time, timestamp or timestamptz.
pub(crate) fn micros(value: &Datum) -> Result<i64> {
    match value {
        Datum::Time(value) | Datum::Timestamp(value) | Datum::Timestamptz(value) => Ok(*value),
        other => Err(unexpected("a time", other)),
    }
}

pub(crate) fn array(value: &Datum) -> Result<&cortex_shard_api::value::ArrayValue> {
    match value {
        Datum::Array(value) => Ok(value),
        other => Err(unexpected("an array", other)),
    }
}

pub(crate) fn make_text(text: impl Into<Box<str>>) -> Datum {
    Datum::Text(text.into())
}

/// An array of a scalar type, its first subscript 1.
pub(crate) fn make_array(element: SqlType, elements: Vec<Datum>) -> Datum {
    Datum::Array(Box::new(cortex_shard_api::value::ArrayValue {
        element,
        lower_bound: 1,
        elements,
    }))
}

/// An integer as the type the signature returns, or its "out of range".
pub(crate) fn make_int(value: i64, ty: SqlType) -> Result<Datum> {
    match ty {
        SqlType::Int2 => {
            i16::try_from(value).map(Datum::Int2).map_err(|_| ValueError::out_of_range("smallint"))
        }
        SqlType::Int4 => {
            i32::try_from(value).map(Datum::Int4).map_err(|_| ValueError::out_of_range("integer"))
        }
        SqlType::Int8 => Ok(Datum::Int8(value)),
        SqlType::Oid => {
            u32::try_from(value).map(Datum::Oid).map_err(|_| ValueError::out_of_range("OID"))
        }
        other => error(ValueErrorKind::Internal, format!("{} is not an integer", other.sql_name())),
    }
}

/// What a value's type prints (its output function).
pub(crate) fn output(value: &Datum, ty: SqlType, call: &Call<'_>) -> Result<String> {
    output_in(value, ty, call.context)
}

fn output_in(value: &Datum, ty: SqlType, context: &EvalContext) -> Result<String> {
    if ty.is_oid_like() && ty != SqlType::Oid {
        return system::object_name(value, ty, context);
    }
    let mut out = String::new();
    cortex_shard_api::value::text::format(value, ty, &context.settings, &mut out);
    Ok(out)
}

/// A value cast to text: the output function's form, but true for t, and char(n) without its padding.
pub(crate) fn to_text(value: &Datum, ty: SqlType, context: &EvalContext) -> Result<String> {
    match (value, ty) {
        (Datum::Bool(value), _) => Ok(if *value { "true" } else { "false" }.to_owned()),
        (Datum::Text(value), SqlType::Bpchar) => Ok(value.trim_end_matches(' ').to_owned()),
        _ => output_in(value, ty, context),
    }
}
