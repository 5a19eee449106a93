//! Type modifiers: what they do to values, and how a type with one is written.

use crate::{
    error::{ValueError, ValueErrorKind},
    types::{SqlType, TypeMod},
    value::{ArrayValue, Datum, Interval},
};

/// Precision of times at most; a value has microseconds anyway.
const TIME_PRECISION_MAX: i32 = 6;

/// `interval`'s modifier: fields in the high half, precision in the low one; these mean "all" and "none given".
const INTERVAL_FULL_RANGE: i32 = 0x7fff;
const INTERVAL_FULL_PRECISION: i32 = 0xffff;

/// Bits of the fields in an interval's modifier.
const MONTH: i32 = 1 << 1;
const YEAR: i32 = 1 << 2;
const DAY: i32 = 1 << 3;
const HOUR: i32 = 1 << 10;
const MINUTE: i32 = 1 << 11;
const SECOND: i32 = 1 << 12;

const MICROS_PER_MINUTE: i64 = 60_000_000;
const MICROS_PER_HOUR: i64 = 60 * MICROS_PER_MINUTE;

/// Applies a type modifier to a value of that type: length of varchar(n) and char(n) (22001 on overflow unless only
/// blanks are cut or `explicit`), numeric(p,s), precision of times.
pub fn apply_typmod(value: Datum, to: TypeMod, explicit: bool) -> Result<Datum, ValueError> {
    if to.typmod < 0 {
        return Ok(value);
    }
    let value = match value {
        Datum::Array(array) => {
            let ArrayValue { element, lower_bound, elements } = *array;
            let to = TypeMod { ty: element, typmod: to.typmod };
            let elements = elements
                .into_iter()
                .map(|value| apply_typmod(value, to, explicit))
                .collect::<Result<_, _>>()?;
            return Ok(Datum::Array(Box::new(ArrayValue { element, lower_bound, elements })));
        }
        value => value,
    };
    Ok(match (to.ty, value) {
        (SqlType::Varchar, Datum::Text(text)) => Datum::Text(fit_varchar(text, to, explicit)?),
        (SqlType::Bpchar, Datum::Text(text)) => Datum::Text(fit_bpchar(text, to, explicit)?),
        (SqlType::Numeric, Datum::Numeric(number)) => match numeric_limits(to.typmod) {
            Some((precision, scale)) => {
                Datum::Numeric(number.with_signed_limits(precision, scale)?)
            }
            None => Datum::Numeric(number),
        },
        (SqlType::Time, Datum::Time(micros)) => Datum::Time(round_micros(micros, to.typmod)),
        (SqlType::Timestamp, Datum::Timestamp(micros)) => {
            Datum::Timestamp(round_timestamp(micros, to.typmod))
        }
        (SqlType::Timestamptz, Datum::Timestamptz(micros)) => {
            Datum::Timestamptz(round_timestamp(micros, to.typmod))
        }
        (SqlType::Interval, Datum::Interval(interval)) => {
            Datum::Interval(fit_interval(interval, to.typmod))
        }
        (_, value) => value,
    })
}

/// Where the first `limit` characters end; `None` if there are no more than that.
fn cut_at(text: &str, limit: usize) -> Option<usize> {
    if text.len() <= limit {
        return None;
    }
    text.char_indices().nth(limit).map(|(at, _)| at)
}

fn too_long(to: TypeMod) -> ValueError {
    ValueError::new(
        ValueErrorKind::StringTooLong,
        format!("value too long for type {}", type_name(to)),
    )
}

fn fit_varchar(text: Box<str>, to: TypeMod, explicit: bool) -> Result<Box<str>, ValueError> {
    let limit = to.char_limit().unwrap_or(usize::MAX);
    match cut_at(&text, limit) {
        None => Ok(text),
        Some(at) if explicit || text[at..].bytes().all(|byte| byte == b' ') => {
            Ok(text[..at].into())
        }
        Some(_) => Err(too_long(to)),
    }
}

fn fit_bpchar(text: Box<str>, to: TypeMod, explicit: bool) -> Result<Box<str>, ValueError> {
    let Some(limit) = to.char_limit() else {
        return Ok(text);
    };
    match cut_at(&text, limit) {
        None => {
            let n_chars = text.chars().count();
            if n_chars == limit {
                return Ok(text);
            }
            let mut padded = String::with_capacity(text.len() + limit - n_chars);
            padded.push_str(&text);
            padded.extend(std::iter::repeat_n(' ', limit - n_chars));
            Ok(padded.into())
        }
        Some(at) if explicit || text[at..].bytes().all(|byte| byte == b' ') => {
            Ok(text[..at].into())
        }
        Some(_) => Err(too_long(to)),
    }
}

/// Precision and scale of a numeric's modifier; the scale has 11 bits with a sign.
fn numeric_limits(typmod: i32) -> Option<(u16, i32)> {
    let packed = typmod.checked_sub(4).filter(|packed| *packed >= 0)?;
    let scale = packed & 0x7ff;
    Some(((packed >> 16) as u16, (scale ^ 1024) - 1024))
}

/// Rounds half away from zero to so many digits of a second.
fn round_micros(micros: i64, precision: i32) -> i64 {
    if !(0..TIME_PRECISION_MAX).contains(&precision) {
        return micros;
    }
    let unit = 10i64.pow((TIME_PRECISION_MAX - precision) as u32);
    let half = if micros >= 0 { unit / 2 } else { -unit / 2 };
    micros.checked_add(half).map_or(micros, |micros| micros / unit * unit)
}

/// Microseconds from 1970 to 2000: Postgres rounds as seen from there.
const EPOCH_2000: i64 = 946_684_800_000_000;

fn round_timestamp(micros: i64, precision: i32) -> i64 {
    if micros == i64::MIN || micros == i64::MAX {
        return micros;
    }
    match micros.checked_sub(EPOCH_2000) {
        Some(since_2000) => round_micros(since_2000, precision) + EPOCH_2000,
        None => micros,
    }
}

/// Drops the fields right of the last one that the modifier names, then rounds the seconds.
fn fit_interval(interval: Interval, typmod: i32) -> Interval {
    let Interval { mut months, mut days, mut micros } = interval;
    let range = match typmod >> 16 & INTERVAL_FULL_RANGE {
        // A bare precision is read as one too.
        0 => INTERVAL_FULL_RANGE,
        range => range,
    };
    let precision = typmod & 0xffff;
    if range != INTERVAL_FULL_RANGE {
        if range & (MONTH | DAY | HOUR | MINUTE | SECOND) == 0 {
            months = months / 12 * 12;
        }
        if range & (DAY | HOUR | MINUTE | SECOND) == 0 {
            days = 0;
        }
        if range & (HOUR | MINUTE | SECOND) == 0 {
            micros = 0;
        } else if range & (MINUTE | SECOND) == 0 {
            micros = micros / MICROS_PER_HOUR * MICROS_PER_HOUR;
        } else if range & SECOND == 0 {
            micros = micros / MICROS_PER_MINUTE * MICROS_PER_MINUTE;
        }
    }
    if precision != INTERVAL_FULL_PRECISION {
        micros = round_micros(micros, precision);
    }
    Interval { months, days, micros }
}

/// `format_type(oid, typmod)`: `character varying(20)`, `numeric(10,2)`, `integer[]`.
pub fn type_name(ty: TypeMod) -> String {
    if let SqlType::Array(element) = ty.ty {
        return type_name(TypeMod { ty: *element, typmod: ty.typmod }) + "[]";
    }
    let typmod = ty.typmod;
    match ty.ty {
        SqlType::Bpchar if typmod < 0 => "bpchar".into(),
        _ if typmod < 0 => ty.ty.sql_name().into(),
        SqlType::Varchar | SqlType::Bpchar => match ty.char_limit() {
            Some(limit) => format!("{}({limit})", ty.ty.sql_name()),
            None => ty.ty.sql_name().into(),
        },
        SqlType::Numeric => match numeric_limits(typmod) {
            Some((precision, scale)) => format!("numeric({precision},{scale})"),
            None => "numeric".into(),
        },
        SqlType::Time => format!("time({typmod}) without time zone"),
        SqlType::Timestamp => format!("timestamp({typmod}) without time zone"),
        SqlType::Timestamptz => format!("timestamp({typmod}) with time zone"),
        SqlType::Interval => interval_name(typmod),
        _ => ty.ty.sql_name().into(),
    }
}

fn interval_name(typmod: i32) -> String {
    let precision = typmod & 0xffff;
    let fields = match typmod >> 16 & INTERVAL_FULL_RANGE {
        YEAR => " year",
        MONTH => " month",
        DAY => " day",
        HOUR => " hour",
        MINUTE => " minute",
        SECOND => " second",
        range if range == YEAR | MONTH => " year to month",
        range if range == DAY | HOUR => " day to hour",
        range if range == DAY | HOUR | MINUTE => " day to minute",
        range if range == DAY | HOUR | MINUTE | SECOND => " day to second",
        range if range == HOUR | MINUTE => " hour to minute",
        range if range == HOUR | MINUTE | SECOND => " hour to second",
        range if range == MINUTE | SECOND => " minute to second",
        _ => "",
    };
    match precision {
        INTERVAL_FULL_PRECISION => format!("interval{fields}"),
        precision => format!("interval{fields}({precision})"),
    }
}
