//! Casts of single values between all types.

use cortex_shard_api::{
    Datum, SqlType, TypeMod, ValueError, ValueErrorKind,
    value::{
        ArrayValue, Interval, Numeric, ValueSettings,
        text::{apply_typmod, parse},
    },
};

use crate::{
    kernels::{self, datetime, system},
    session::EvalContext,
};

/// Microseconds in a day.
const DAY_MICROS: i64 = 86_400_000_000;
/// `name` holds so many bytes.
const NAME_BYTES_MAX: usize = 63;

type Result<T, E = ValueError> = std::result::Result<T, E>;

/// A cast of one value, `explicit` as in `ScalarExpr::Cast`. A literal of type unknown is read by the target's input function.
pub fn cast(
    value: Datum,
    from: TypeMod,
    to: TypeMod,
    explicit: bool,
    context: &EvalContext,
) -> Result<Datum> {
    if matches!(value, Datum::Null) {
        return Ok(Datum::Null);
    }
    let value = cast_value(value, from.ty, to.ty, explicit, context)?;
    if to.typmod < 0 || from == to {
        return Ok(value);
    }
    apply_typmod(value, to, explicit)
}

/// A cast without modifiers.
pub(crate) fn cast_value(
    value: Datum,
    from: SqlType,
    to: SqlType,
    explicit: bool,
    context: &EvalContext,
) -> Result<Datum> {
    if from == to || matches!(value, Datum::Null) {
        return Ok(value);
    }
    if let (SqlType::Array(_), Datum::Array(array)) = (to, &value) {
        return cast_elements(array, to, explicit, context);
    }
    if to.is_string() || to == SqlType::Unknown {
        if let (SqlType::Int4, SqlType::Char, Datum::Int4(code)) = (from, to, &value) {
            return integer_to_char(*code);
        }
        return Ok(string(kernels::to_text(&value, from, context)?, to));
    }
    if from.is_string() || from == SqlType::Unknown {
        let text = kernels::text(&value)?;
        if from == SqlType::Char && to == SqlType::Int4 {
            return Ok(Datum::Int4(text.bytes().next().map_or(0, |byte| i32::from(byte as i8))));
        }
        let text = if from == SqlType::Bpchar { text.trim_end_matches(' ') } else { text };
        return parse_text(text, to, context);
    }
    match &value {
        Datum::Int2(_) | Datum::Int4(_) | Datum::Int8(_) | Datum::Oid(_) => {
            from_integer(kernels::int(&value)?, from, to)
        }
        Datum::Float4(_) | Datum::Float8(_) => from_float(kernels::float(&value)?, from, to),
        Datum::Numeric(number) => from_numeric(number, from, to),
        Datum::Bool(flag) if to == SqlType::Int4 => Ok(Datum::Int4(i32::from(*flag))),
        Datum::Json(text) if to == SqlType::Jsonb => parse(SqlType::Jsonb, text, &context.settings),
        Datum::Jsonb(text) if to == SqlType::Json => Ok(Datum::Json(text.clone())),
        Datum::Jsonb(text) => from_jsonb(text, from, to, context),
        Datum::Date(_)
        | Datum::Time(_)
        | Datum::Timestamp(_)
        | Datum::Timestamptz(_)
        | Datum::Interval(_) => between_times(&value, from, to, context),
        _ => cannot_cast(from, to),
    }
}

fn cannot_cast(from: SqlType, to: SqlType) -> Result<Datum> {
    Err(ValueError::new(
        ValueErrorKind::TypeMismatch,
        format!("cannot cast type {} to {}", from.sql_name(), to.sql_name()),
    ))
}

fn cast_elements(
    array: &ArrayValue,
    to: SqlType,
    explicit: bool,
    context: &EvalContext,
) -> Result<Datum> {
    let element = to.element().unwrap_or(array.element);
    let elements = array
        .elements
        .iter()
        .map(|value| cast_value(value.clone(), array.element, element, explicit, context))
        .collect::<Result<Vec<_>>>()?;
    Ok(Datum::Array(Box::new(ArrayValue { element, lower_bound: array.lower_bound, elements })))
}

/// Text as one of the string types.
fn string(text: String, to: SqlType) -> Datum {
    match to {
        SqlType::Name if text.len() > NAME_BYTES_MAX => {
            let mut end = NAME_BYTES_MAX;
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            Datum::Text(text[..end].into())
        }
        SqlType::Char => Datum::Text(text.chars().take(1).collect::<String>().into()),
        _ => Datum::Text(text.into()),
    }
}

fn integer_to_char(code: i32) -> Result<Datum> {
    match u8::try_from(code).ok().filter(u8::is_ascii) {
        Some(0) => Ok(Datum::Text("".into())),
        Some(byte) => Ok(Datum::Text(char::from(byte).to_string().into())),
        None => Err(ValueError::out_of_range("\"char\"")),
    }
}

fn parse_text(text: &str, to: SqlType, context: &EvalContext) -> Result<Datum> {
    if to.is_oid_like() && to != SqlType::Oid {
        return system::object_by_name(text, to, context);
    }
    parse(to, text, &context.settings)
}

fn from_integer(value: i64, from: SqlType, to: SqlType) -> Result<Datum> {
    match to {
        SqlType::Float4 => Ok(Datum::Float4(value as f32)),
        SqlType::Float8 => Ok(Datum::Float8(value as f64)),
        SqlType::Numeric => Ok(Datum::Numeric(Numeric::from_i64(value))),
        SqlType::Bool if from == SqlType::Int4 => Ok(Datum::Bool(value != 0)),
        // int4 and oid are the same four bytes.
        SqlType::Int4 if from.is_oid_like() => Ok(Datum::Int4(value as u32 as i32)),
        to if to.is_oid_like() => match from {
            SqlType::Int2 | SqlType::Int4 => Ok(Datum::Oid(value as i32 as u32)),
            _ => u32::try_from(value).map(Datum::Oid).map_err(|_| ValueError::out_of_range("OID")),
        },
        to if to.is_integer() => kernels::make_int(value, to),
        _ => cannot_cast(from, to),
    }
}

fn from_float(value: f64, from: SqlType, to: SqlType) -> Result<Datum> {
    match to {
        SqlType::Float8 => Ok(Datum::Float8(value)),
        SqlType::Float4 => {
            let narrow = value as f32;
            let lost = if narrow.is_infinite() && value.is_finite() {
                "overflow"
            } else if narrow == 0.0 && value != 0.0 {
                "underflow"
            } else {
                return Ok(Datum::Float4(narrow));
            };
            Err(ValueError::new(ValueErrorKind::OutOfRange, format!("value out of range: {lost}")))
        }
        SqlType::Numeric if from == SqlType::Float4 => {
            Ok(Datum::Numeric(Numeric::from_f32(value as f32)))
        }
        SqlType::Numeric => Ok(Datum::Numeric(Numeric::from_f64(value))),
        to if to.is_integer() => {
            let rounded = value.round_ties_even();
            let limit = match to {
                SqlType::Int2 => 32_768.0,
                SqlType::Int4 => 2_147_483_648.0,
                _ => 9_223_372_036_854_775_808.0,
            };
            if rounded.is_nan() || rounded < -limit || rounded >= limit {
                return Err(ValueError::out_of_range(to.sql_name()));
            }
            kernels::make_int(rounded as i64, to)
        }
        _ => cannot_cast(from, to),
    }
}

fn from_numeric(value: &Numeric, from: SqlType, to: SqlType) -> Result<Datum> {
    match to {
        SqlType::Float8 => match value.to_f64() {
            // Beyond a double's range, or an infinity or zero that it is: the input function tells, as in Postgres.
            float if float.is_infinite() || float == 0.0 => {
                parse(to, &value.to_string(), &ValueSettings::default())
            }
            float => Ok(Datum::Float8(float)),
        },
        SqlType::Float4 => from_float(value.to_f64(), SqlType::Float8, SqlType::Float4),
        to if to.is_integer() => {
            let special = value.to_string();
            match special.as_str() {
                "NaN" => {
                    return Err(ValueError::new(
                        ValueErrorKind::Unsupported,
                        format!("cannot convert NaN to {}", to.sql_name()),
                    ));
                }
                "Infinity" | "-Infinity" => {
                    return Err(ValueError::new(
                        ValueErrorKind::Unsupported,
                        format!("cannot convert infinity to {}", to.sql_name()),
                    ));
                }
                _ => {}
            }
            let whole = value.to_i64().map_err(|_| ValueError::out_of_range(to.sql_name()))?;
            kernels::make_int(whole, to)
        }
        _ => cannot_cast(from, to),
    }
}

/// Numbers and booleans inside jsonb become themselves, everything else is refused.
fn from_jsonb(text: &str, from: SqlType, to: SqlType, context: &EvalContext) -> Result<Datum> {
    let kind = match text.as_bytes().first() {
        Some(b'{') => "object",
        Some(b'[') => "array",
        Some(b'"') => "string",
        Some(b't' | b'f') => "boolean",
        Some(b'n') => "null",
        _ => "numeric",
    };
    match (to, kind) {
        (SqlType::Bool, "boolean") => Ok(Datum::Bool(text == "true")),
        (to, "numeric") if to.is_number() => {
            let number = Datum::Numeric(Numeric::parse(text)?);
            cast_value(number, SqlType::Numeric, to, true, context)
        }
        (to, _) if to.is_number() || to == SqlType::Bool => Err(ValueError::new(
            ValueErrorKind::InvalidParameter,
            format!("cannot cast jsonb {kind} to type {}", to.sql_name()),
        )),
        _ => cannot_cast(from, to),
    }
}

/// Days of a timestamp, infinities kept.
fn day_of(micros: i64) -> i32 {
    match micros {
        i64::MIN => i32::MIN,
        i64::MAX => i32::MAX,
        micros => micros.div_euclid(DAY_MICROS) as i32,
    }
}

/// Midnight of a date, infinities kept.
pub(crate) fn midnight(days: i32) -> Result<i64> {
    match days {
        i32::MIN => Ok(i64::MIN),
        i32::MAX => Ok(i64::MAX),
        days => i64::from(days)
            .checked_mul(DAY_MICROS)
            .filter(|micros| *micros < datetime::TIMESTAMP_END)
            .ok_or_else(|| {
                ValueError::new(ValueErrorKind::DatetimeOverflow, "date out of range for timestamp")
            }),
    }
}

fn finite(micros: i64) -> bool {
    micros != i64::MIN && micros != i64::MAX
}

fn between_times(
    value: &Datum,
    from: SqlType,
    to: SqlType,
    context: &EvalContext,
) -> Result<Datum> {
    let zone = context.settings.time_zone;
    let to_utc =
        |local: i64| if finite(local) { datetime::local_to_utc(local, zone) } else { local };
    let to_local = |utc: i64| if finite(utc) { datetime::utc_to_local(utc, zone) } else { utc };
    Ok(match (value, to) {
        (Datum::Date(days), SqlType::Timestamp) => Datum::Timestamp(midnight(*days)?),
        (Datum::Date(days), SqlType::Timestamptz) => Datum::Timestamptz(to_utc(midnight(*days)?)),
        (Datum::Timestamp(micros), SqlType::Date) => Datum::Date(day_of(*micros)),
        (Datum::Timestamp(micros), SqlType::Timestamptz) => Datum::Timestamptz(to_utc(*micros)),
        (Datum::Timestamptz(micros), SqlType::Timestamp) => Datum::Timestamp(to_local(*micros)),
        (Datum::Timestamptz(micros), SqlType::Date) => Datum::Date(day_of(to_local(*micros))),
        (Datum::Timestamp(micros), SqlType::Time) if finite(*micros) => {
            Datum::Time(micros.rem_euclid(DAY_MICROS))
        }
        (Datum::Timestamptz(micros), SqlType::Time) if finite(*micros) => {
            Datum::Time(to_local(*micros).rem_euclid(DAY_MICROS))
        }
        (Datum::Timestamp(_) | Datum::Timestamptz(_), SqlType::Time) => Datum::Null,
        (Datum::Time(micros), SqlType::Interval) => {
            Datum::Interval(Interval { months: 0, days: 0, micros: *micros })
        }
        (Datum::Interval(interval), SqlType::Time) => {
            Datum::Time(interval.micros.rem_euclid(DAY_MICROS))
        }
        _ => return cannot_cast(from, to),
    })
}
