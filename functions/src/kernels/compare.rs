//! Order and equality of values, as Postgres's btree classes define them; strings in C collation.

use std::cmp::Ordering;

use cortex_shard_api::{
    Datum, SqlType, ValueError,
    value::{ArrayValue, Interval, Numeric},
};

use super::{Call, Comparison, Kernel, Result, datetime, json, text};
use crate::session::EvalContext;

pub(super) fn find(name: &str) -> Option<Kernel> {
    Some(match name {
        "int2larger" | "int4larger" | "int8larger" | "float4larger" | "float8larger"
        | "numeric_larger" | "text_larger" | "bpchar_larger" | "date_larger" | "time_larger"
        | "timestamp_larger" | "timestamptz_larger" | "interval_larger" | "oidlarger"
        | "array_larger" => |call, args| pick(call, args, Ordering::Greater),
        "int2smaller"
        | "int4smaller"
        | "int8smaller"
        | "float4smaller"
        | "float8smaller"
        | "numeric_smaller"
        | "text_smaller"
        | "bpchar_smaller"
        | "date_smaller"
        | "time_smaller"
        | "timestamp_smaller"
        | "timestamptz_smaller"
        | "interval_smaller"
        | "oidsmaller"
        | "array_smaller" => |call, args| pick(call, args, Ordering::Less),
        "btint4cmp" | "btint8cmp" | "btint2cmp" | "bttextcmp" | "numeric_cmp" | "date_cmp"
        | "timestamp_cmp" | "timestamptz_cmp" | "interval_cmp" | "uuid_cmp" | "jsonb_cmp"
        | "byteacmp" | "time_cmp" | "btfloat8cmp" => |call, args| {
            Ok(Datum::Int4(
                compare(&args[0], call.args[0], &args[1], call.args[1], call.context) as i32
            ))
        },
        "text_pattern_lt" => |call, args| pattern(call, args, Comparison::Lt),
        "text_pattern_le" => |call, args| pattern(call, args, Comparison::LtEq),
        "text_pattern_gt" => |call, args| pattern(call, args, Comparison::Gt),
        "text_pattern_ge" => |call, args| pattern(call, args, Comparison::GtEq),
        _ => return None,
    })
}

fn pick(call: &Call<'_>, args: &[Datum], wanted: Ordering) -> Result<Datum> {
    let order = compare(&args[0], call.args[0], &args[1], call.args[1], call.context);
    Ok(if order == wanted { args[0].clone() } else { args[1].clone() })
}

fn pattern(call: &Call<'_>, args: &[Datum], comparison: Comparison) -> Result<Datum> {
    Ok(Datum::Bool(holds(call, args, comparison)?))
}

/// Evaluates a comparison of two values that are not NULL.
pub(crate) fn holds(
    call: &Call<'_>,
    args: &[Datum],
    comparison: Comparison,
) -> Result<bool, ValueError> {
    let order = compare(&args[0], call.args[0], &args[1], call.args[1], call.context);
    Ok(comparison.accepts(order))
}

impl Comparison {
    pub(crate) fn accepts(self, order: Ordering) -> bool {
        match self {
            Comparison::Eq => order.is_eq(),
            Comparison::NotEq => order.is_ne(),
            Comparison::Lt => order.is_lt(),
            Comparison::LtEq => order.is_le(),
            Comparison::Gt => order.is_gt(),
            Comparison::GtEq => order.is_ge(),
        }
    }
}

/// Orders two values, possibly of different types of one family. NULLs (inside arrays) are last.
pub(crate) fn compare(
    left: &Datum,
    left_type: SqlType,
    right: &Datum,
    right_type: SqlType,
    context: &EvalContext,
) -> Ordering {
    use Datum as D;
    match (left, right) {
        (D::Null, D::Null) => Ordering::Equal,
        (D::Null, _) => Ordering::Greater,
        (_, D::Null) => Ordering::Less,
        (D::Int4(l), D::Int4(r)) => l.cmp(r),
        (D::Int8(l), D::Int8(r)) => l.cmp(r),
        (D::Text(l), D::Text(r)) => {
            if left_type == SqlType::Bpchar || right_type == SqlType::Bpchar {
                l.trim_end_matches(' ').as_bytes().cmp(r.trim_end_matches(' ').as_bytes())
            } else {
                l.as_bytes().cmp(r.as_bytes())
            }
        }
        (D::Bool(l), D::Bool(r)) => l.cmp(r),
        (D::Float4(_) | D::Float8(_), D::Float4(_) | D::Float8(_)) => {
            compare_floats(number(left), number(right))
        }
        (D::Numeric(l), D::Numeric(r)) => l.cmp(r),
        (D::Numeric(l), r) => l.cmp(&as_numeric(r)),
        (l, D::Numeric(r)) => as_numeric(l).cmp(r),
        (D::Float4(_) | D::Float8(_), _) | (_, D::Float4(_) | D::Float8(_)) => {
            compare_floats(number(left), number(right))
        }
        (D::Bytea(l), D::Bytea(r)) => l.cmp(r),
        (D::Uuid(l), D::Uuid(r)) => l.cmp(r),
        (D::Interval(l), D::Interval(r)) => interval_key(*l).cmp(&interval_key(*r)),
        (D::Date(l), D::Date(r)) => l.cmp(r),
        (D::Time(l), D::Time(r)) | (D::Timestamp(l), D::Timestamp(r)) => l.cmp(r),
        (D::Timestamptz(l), D::Timestamptz(r)) => l.cmp(r),
        (
            D::Date(_) | D::Timestamp(_) | D::Timestamptz(_),
            D::Date(_) | D::Timestamp(_) | D::Timestamptz(_),
        ) => compare_instants(left, right, context),
        (D::Jsonb(l), D::Jsonb(r)) => json::compare(l, r),
        (D::Json(l), D::Json(r)) => l.as_bytes().cmp(r.as_bytes()),
        (D::Array(l), D::Array(r)) => compare_arrays(l, r, context),
        (D::Oid(l), D::Oid(r)) => l.cmp(r),
        (l, r) => whole(l).cmp(&whole(r)),
    }
}

/// An integer-like value; 0 for others, which resolution never lets through.
fn whole(value: &Datum) -> i64 {
    super::int(value).unwrap_or_default()
}

fn number(value: &Datum) -> f64 {
    super::float(value).unwrap_or_else(|_| whole(value) as f64)
}

fn as_numeric(value: &Datum) -> Numeric {
    match value {
        Datum::Float4(value) => Numeric::from_f32(*value),
        Datum::Float8(value) => Numeric::from_f64(*value),
        other => Numeric::from_i64(whole(other)),
    }
}

/// -0 equals 0; NaN equals NaN and is above everything.
pub(crate) fn compare_floats(left: f64, right: f64) -> Ordering {
    left.partial_cmp(&right).unwrap_or_else(|| left.is_nan().cmp(&right.is_nan()))
}

/// Intervals compare as if a month had 30 days and a day 24 hours; the same number means equal.
pub(crate) fn interval_key(interval: Interval) -> i128 {
    let days = i128::from(interval.months) * 30 + i128::from(interval.days);
    days * 86_400_000_000 + i128::from(interval.micros)
}

fn compare_instants(left: &Datum, right: &Datum, context: &EvalContext) -> Ordering {
    let zoned = matches!(left, Datum::Timestamptz(_)) || matches!(right, Datum::Timestamptz(_));
    let instant = |value: &Datum| -> i128 {
        match value {
            Datum::Timestamptz(micros) => i128::from(*micros),
            Datum::Timestamp(micros) => {
                if zoned && *micros != i64::MIN && *micros != i64::MAX {
                    i128::from(datetime::local_to_utc(*micros, context.settings.time_zone))
                } else {
                    i128::from(*micros)
                }
            }
            Datum::Date(i32::MIN) => i128::from(i64::MIN),
            Datum::Date(i32::MAX) => i128::from(i64::MAX),
            Datum::Date(days) => {
                let micros = i128::from(*days) * 86_400_000_000;
                match i64::try_from(micros) {
                    Ok(micros) if zoned => {
                        i128::from(datetime::local_to_utc(micros, context.settings.time_zone))
                    }
                    _ => micros,
                }
            }
            _ => 0,
        }
    };
    instant(left).cmp(&instant(right))
}

fn compare_arrays(left: &ArrayValue, right: &ArrayValue, context: &EvalContext) -> Ordering {
    for (l, r) in left.elements.iter().zip(&right.elements) {
        let order = compare(l, left.element, r, right.element, context);
        if order.is_ne() {
            return order;
        }
    }
    left.elements.len().cmp(&right.elements.len()).then_with(|| {
        if left.elements.is_empty() {
            Ordering::Equal
        } else {
            left.lower_bound.cmp(&right.lower_bound)
        }
    })
}

/// Text without the blanks that do not count.
pub(crate) fn bpchar_significant(value: &Datum) -> Result<&str> {
    Ok(text(value)?.trim_end_matches(' '))
}
