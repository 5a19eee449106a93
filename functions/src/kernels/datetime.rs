//! Dates, times and intervals: arithmetic, truncation, fields. Microseconds from 1970, proleptic Gregorian calendar.

use chrono::{DateTime, MappedLocalTime, Offset, TimeZone};
use cortex_shard_api::{
    Datum, SqlType, ValueError, ValueErrorKind,
    value::{Interval, Numeric},
};

use super::{
    Call, Kernel, Result,
    calendar::{Civil, DAY_MICROS, civil, days_in_month, days_of},
    error, float, int, int4, interval, make_text, micros, text,
};

/// Microseconds since 1970 below which timestamps stay: Postgres allows 30 years more than an i64 counted from 1970.
pub(crate) const TIMESTAMP_END: i64 = i64::MAX;
/// The first timestamp: 4714-11-24 BC.
pub(crate) const TIMESTAMP_MIN: i64 = -210_866_803_200_000_000;
/// The first date (4714-11-24 BC) and the one after the last (5874898-01-01).
const DATE_MIN: i64 = -2_440_588;
const DATE_END: i64 = 2_145_042_541;
const HOUR_MICROS: i64 = 3_600_000_000;
const MINUTE_MICROS: i64 = 60_000_000;
const SECOND_MICROS: i64 = 1_000_000;

pub(super) fn find(name: &str, args: &[Option<SqlType>]) -> Option<Kernel> {
    let second = args.get(1).copied().flatten();
    Some(match name {
        "date_pli" => |_, args| add_days(&args[0], int(&args[1])?),
        "integer_pl_date" => |_, args| add_days(&args[1], int(&args[0])?),
        "date_mii" => |_, args| add_days(&args[0], -int(&args[1])?),
        "date_mi" => date_difference,
        "date_pl_interval" | "timestamp_pl_interval" | "timestamptz_pl_interval" => {
            |call, args| shift(call, &args[0], interval(&args[1])?)
        }
        "interval_pl_date" | "interval_pl_timestamp" | "interval_pl_timestamptz" => {
            |call, args| shift(call, &args[1], interval(&args[0])?)
        }
        "date_mi_interval" | "timestamp_mi_interval" | "timestamptz_mi_interval" => {
            |call, args| shift(call, &args[0], negated(interval(&args[1])?)?)
        }
        "datetime_pl" => |_, args| date_and_time(&args[0], &args[1]),
        "timedate_pl" => |_, args| date_and_time(&args[1], &args[0]),
        "timestamp_mi" | "timestamptz_mi" => timestamp_difference,
        "interval_pl" => {
            |_, args| add_intervals(interval(&args[0])?, interval(&args[1])?).map(Datum::Interval)
        }
        "interval_mi" => |_, args| {
            add_intervals(interval(&args[0])?, negated(interval(&args[1])?)?).map(Datum::Interval)
        },
        "interval_um" => |_, args| negated(interval(&args[0])?).map(Datum::Interval),
        "interval_mul" => {
            |_, args| multiply_interval(interval(&args[0])?, float(&args[1])?).map(Datum::Interval)
        }
        "mul_d_interval" => {
            |_, args| multiply_interval(interval(&args[1])?, float(&args[0])?).map(Datum::Interval)
        }
        "interval_div" => {
            |_, args| divide_interval(interval(&args[0])?, float(&args[1])?).map(Datum::Interval)
        }
        "time_mi_time" => |_, args| {
            let micros = micros(&args[0])? - micros(&args[1])?;
            Ok(Datum::Interval(Interval { months: 0, days: 0, micros }))
        },
        "time_pl_interval" => |_, args| {
            Ok(Datum::Time((micros(&args[0])? + interval(&args[1])?.micros).rem_euclid(DAY_MICROS)))
        },
        "interval_pl_time" => |_, args| {
            Ok(Datum::Time((micros(&args[1])? + interval(&args[0])?.micros).rem_euclid(DAY_MICROS)))
        },
        "time_mi_interval" => |_, args| {
            Ok(Datum::Time((micros(&args[0])? - interval(&args[1])?.micros).rem_euclid(DAY_MICROS)))
        },
        "now" | "transaction_timestamp" => {
            |call, _| Ok(Datum::Timestamptz(call.context.transaction_micros))
        }
        "current_timestamp" => {
            |call, args| rounded(Datum::Timestamptz(call.context.transaction_micros), args)
        }
        "statement_timestamp" => |call, _| Ok(Datum::Timestamptz(call.context.settings.now_micros)),
        "clock_timestamp" => |_, _| Ok(Datum::Timestamptz(chrono::Utc::now().timestamp_micros())),
        "timeofday" => |call, _| {
            let now = chrono::Utc::now().with_timezone(&call.context.settings.time_zone);
            Ok(make_text(now.format("%a %b %d %H:%M:%S%.6f %Y %Z").to_string()))
        },
        "current_date" => |call, _| Ok(Datum::Date(local_now(call).div_euclid(DAY_MICROS) as i32)),
        "localtimestamp" => |call, args| rounded(Datum::Timestamp(local_now(call)), args),
        "localtime" => {
            |call, args| rounded(Datum::Time(local_now(call).rem_euclid(DAY_MICROS)), args)
        }
        "date_trunc" => date_trunc,
        "date_part" => date_part,
        "extract" => extract,
        "age" => age,
        "make_date" => |_, args| {
            make_date(int(&args[0])?, int(&args[1])?, int(&args[2])?)
                .map(|days| Datum::Date(days as i32))
        },
        "make_time" => {
            |_, args| make_time(int(&args[0])?, int(&args[1])?, float(&args[2])?).map(Datum::Time)
        }
        "make_timestamp" => |_, args| make_timestamp(args).map(Datum::Timestamp),
        "make_timestamptz" => |call, args| {
            let local = make_timestamp(args)?;
            let zone = match args.get(6) {
                Some(name) => Zone::parse(text(name)?)?,
                None => Zone::Named(call.context.settings.time_zone),
            };
            Ok(Datum::Timestamptz(zone.to_utc(local)))
        },
        "make_interval" => make_interval,
        "justify_hours" => |_, args| Ok(Datum::Interval(justify_hours(interval(&args[0])?))),
        "justify_days" => |_, args| Ok(Datum::Interval(justify_days(interval(&args[0])?))),
        "justify_interval" => |_, args| Ok(Datum::Interval(justify_interval(interval(&args[0])?))),
        "to_timestamp" if args.len() == 1 => to_timestamp,
        "timezone" if second != Some(SqlType::Time) => timezone,
        "isfinite" => |_, args| {
            Ok(Datum::Bool(match &args[0] {
                Datum::Date(days) => *days != i32::MIN && *days != i32::MAX,
                Datum::Interval(_) => true,
                value => is_finite(micros(value)?),
            }))
        },
        "date_bin" => date_bin,
        _ => return None,
    })
}

fn is_finite(micros: i64) -> bool {
    micros != i64::MIN && micros != i64::MAX
}

fn local_now(call: &Call<'_>) -> i64 {
    utc_to_local(call.context.transaction_micros, call.context.settings.time_zone)
}

/// A time with the precision that `current_timestamp(p)` asks for.
fn rounded(value: Datum, args: &[Datum]) -> Result<Datum> {
    let Some(precision) = args.first() else { return Ok(value) };
    let precision = int4(precision)?.clamp(0, 6);
    let ty = match value {
        Datum::Time(_) => SqlType::Time,
        Datum::Timestamp(_) => SqlType::Timestamp,
        _ => SqlType::Timestamptz,
    };
    let to = cortex_shard_api::TypeMod { ty, typmod: precision };
    cortex_shard_api::value::text::apply_typmod(value, to, true)
}

fn out_of_range<T>(what: &str) -> Result<T> {
    error(ValueErrorKind::DatetimeOverflow, format!("{what} out of range"))
}

fn check_timestamp(micros: i128) -> Result<i64> {
    match i64::try_from(micros) {
        Ok(micros) if (TIMESTAMP_MIN..TIMESTAMP_END).contains(&micros) => Ok(micros),
        _ => out_of_range("timestamp"),
    }
}

fn add_days(date: &Datum, days: i64) -> Result<Datum> {
    let Datum::Date(date) = date else { return out_of_range("date") };
    if *date == i32::MIN || *date == i32::MAX {
        return Ok(Datum::Date(*date));
    }
    let sum = i64::from(*date) + days;
    if !(DATE_MIN..DATE_END).contains(&sum) {
        return out_of_range("date");
    }
    Ok(Datum::Date(sum as i32))
}

fn date_difference(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    let (left, right) = (int(&args[0])?, int(&args[1])?);
    let infinite = |days: i64| days == i64::from(i32::MIN) || days == i64::from(i32::MAX);
    if infinite(left) || infinite(right) {
        return error(ValueErrorKind::DatetimeOverflow, "cannot subtract infinite dates");
    }
    Ok(Datum::Int4((left - right) as i32))
}

fn date_and_time(date: &Datum, time: &Datum) -> Result<Datum> {
    let Datum::Date(days) = date else { return out_of_range("date") };
    let midnight = crate::scalar::midnight(*days)?;
    if !is_finite(midnight) {
        return Ok(Datum::Timestamp(midnight));
    }
    check_timestamp(i128::from(midnight) + i128::from(micros(time)?)).map(Datum::Timestamp)
}

fn timestamp_difference(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    let (left, right) = (micros(&args[0])?, micros(&args[1])?);
    if !is_finite(left) || !is_finite(right) {
        return error(ValueErrorKind::DatetimeOverflow, "cannot subtract infinite timestamps");
    }
    match left.checked_sub(right) {
        Some(micros) => Ok(Datum::Interval(justify_hours(Interval { months: 0, days: 0, micros }))),
        None => out_of_range("interval"),
    }
}

fn negated(value: Interval) -> Result<Interval> {
    match (value.months.checked_neg(), value.days.checked_neg(), value.micros.checked_neg()) {
        (Some(months), Some(days), Some(micros)) => Ok(Interval { months, days, micros }),
        _ => out_of_range("interval"),
    }
}

pub(crate) fn add_intervals(left: Interval, right: Interval) -> Result<Interval> {
    match (
        left.months.checked_add(right.months),
        left.days.checked_add(right.days),
        left.micros.checked_add(right.micros),
    ) {
        (Some(months), Some(days), Some(micros)) => Ok(Interval { months, days, micros }),
        _ => out_of_range("interval"),
    }
}

/// A date, timestamp or timestamptz moved by an interval: months first, then days, then time. A timestamptz moves by months
/// and days on the wall clock of the session's zone.
pub(super) fn shift(call: &Call<'_>, value: &Datum, by: Interval) -> Result<Datum> {
    match value {
        Datum::Date(days) => shift_local(crate::scalar::midnight(*days)?, by).map(Datum::Timestamp),
        Datum::Timestamptz(utc) => {
            shift_zoned(*utc, by, Zone::Named(call.context.settings.time_zone))
                .map(Datum::Timestamptz)
        }
        value => shift_local(micros(value)?, by).map(Datum::Timestamp),
    }
}

fn shift_zoned(utc: i64, by: Interval, zone: Zone) -> Result<i64> {
    if !is_finite(utc) {
        return Ok(utc);
    }
    let mut moved = utc;
    if by.months != 0 || by.days != 0 {
        let whole = Interval { micros: 0, ..by };
        moved = zone.to_utc(shift_local(zone.to_local(utc), whole)?);
    }
    check_timestamp(i128::from(moved) + i128::from(by.micros))
}

pub(super) fn shift_local(local: i64, by: Interval) -> Result<i64> {
    if !is_finite(local) {
        return Ok(local);
    }
    let mut days = local.div_euclid(DAY_MICROS);
    let time = local.rem_euclid(DAY_MICROS);
    if by.months != 0 {
        let date = civil(days);
        let month = date.year * 12 + (date.month - 1) + i64::from(by.months);
        let (year, month) = (month.div_euclid(12), month.rem_euclid(12) + 1);
        days = days_of(year, month, date.day.min(days_in_month(year, month)));
    }
    let micros = (i128::from(days) + i128::from(by.days)) * i128::from(DAY_MICROS);
    check_timestamp(micros + i128::from(time) + i128::from(by.micros))
}

pub(super) fn justify_hours(value: Interval) -> Interval {
    let mut days = i64::from(value.days) + value.micros / DAY_MICROS;
    let mut micros = value.micros % DAY_MICROS;
    if days > 0 && micros < 0 {
        micros += DAY_MICROS;
        days -= 1;
    } else if days < 0 && micros > 0 {
        micros -= DAY_MICROS;
        days += 1;
    }
    Interval { months: value.months, days: days as i32, micros }
}

fn justify_days(value: Interval) -> Interval {
    let mut months = value.months + value.days / 30;
    let mut days = value.days % 30;
    if months > 0 && days < 0 {
        days += 30;
        months -= 1;
    } else if months < 0 && days > 0 {
        days -= 30;
        months += 1;
    }
    Interval { months, days, micros: value.micros }
}

fn justify_interval(value: Interval) -> Interval {
    let mut days = i64::from(value.days) + value.micros / DAY_MICROS;
    let mut micros = value.micros % DAY_MICROS;
    let mut months = i64::from(value.months) + days / 30;
    days %= 30;
    if months > 0 && (days < 0 || (days == 0 && micros < 0)) {
        days += 30;
        months -= 1;
    } else if months < 0 && (days > 0 || (days == 0 && micros > 0)) {
        days -= 30;
        months += 1;
    }
    if days > 0 && micros < 0 {
        micros += DAY_MICROS;
        days -= 1;
    } else if days < 0 && micros > 0 {
        micros -= DAY_MICROS;
        days += 1;
    }
    Interval { months: months as i32, days: days as i32, micros }
}

/// A time zone by name, abbreviation or POSIX offset (whose sign counts west).
#[derive(Clone, Copy, Debug)]
pub(crate) enum Zone {
    Named(chrono_tz::Tz),
    /// Seconds east of Greenwich.
    Fixed(i64),
}

/// Abbreviations of Postgres's default set that people write.
const ABBREVIATIONS: &[(&str, i64)] = &[
    ("UTC", 0),
    ("GMT", 0),
    ("Z", 0),
    ("ZULU", 0),
    ("WET", 0),
    ("CET", 1),
    ("MET", 1),
    ("BST", 1),
    ("WEST", 1),
    ("CEST", 2),
    ("EET", 2),
    ("MEST", 2),
    ("EEST", 3),
    ("MSK", 3),
    ("JST", 9),
    ("KST", 9),
    ("AEST", 10),
    ("AEDT", 11),
    ("NZST", 12),
    ("NZDT", 13),
    ("EST", -5),
    ("EDT", -4),
    ("CST", -6),
    ("CDT", -5),
    ("MST", -7),
    ("MDT", -6),
    ("PST", -8),
    ("PDT", -7),
    ("AKST", -9),
    ("AKDT", -8),
    ("HST", -10),
    ("AST", -4),
    ("ADT", -3),
];

impl Zone {
    pub(crate) fn parse(name: &str) -> Result<Zone> {
        let name = name.trim();
        if let Some((_, hours)) =
            ABBREVIATIONS.iter().find(|(short, _)| short.eq_ignore_ascii_case(name))
        {
            return Ok(Zone::Fixed(hours * 3600));
        }
        let exact = name.parse::<chrono_tz::Tz>().ok();
        let any_case =
            || chrono_tz::TZ_VARIANTS.iter().find(|zone| zone.name().eq_ignore_ascii_case(name));
        if let Some(zone) = exact.or_else(|| any_case().copied()) {
            return Ok(Zone::Named(zone));
        }
        // A POSIX zone: letters, then hours west of Greenwich; ISO offsets are read the same way here.
        let offset = name.trim_start_matches(|c: char| c.is_ascii_alphabetic());
        if let Some(west) = posix_offset(offset) {
            return Ok(Zone::Fixed(-west));
        }
        error(ValueErrorKind::InvalidParameter, format!("time zone \"{name}\" not recognized"))
    }

    pub(crate) fn to_utc(self, local: i64) -> i64 {
        match self {
            Zone::Named(zone) => local_to_utc(local, zone),
            Zone::Fixed(east) => local - east * SECOND_MICROS,
        }
    }

    pub(crate) fn to_local(self, utc: i64) -> i64 {
        match self {
            Zone::Named(zone) => utc_to_local(utc, zone),
            Zone::Fixed(east) => utc + east * SECOND_MICROS,
        }
    }
}

fn posix_offset(text: &str) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let mut seconds = 0;
    for (position, part) in digits.split(':').enumerate() {
        if part.is_empty() || part.len() > 2 || !part.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        seconds += part.parse::<i64>().ok()? * [3600, 60, 1].get(position)?;
    }
    Some(sign * seconds)
}

/// `timezone(zone, x)`: AT TIME ZONE.
fn timezone(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    let zone = match &args[0] {
        Datum::Interval(offset) => {
            if offset.months != 0 || offset.days != 0 {
                return error(
                    ValueErrorKind::InvalidParameter,
                    "interval time zone must not include months or days",
                );
            }
            Zone::Fixed(offset.micros / SECOND_MICROS)
        }
        name => Zone::parse(text(name)?)?,
    };
    Ok(match &args[1] {
        Datum::Timestamptz(utc) if is_finite(*utc) => Datum::Timestamp(zone.to_local(*utc)),
        Datum::Timestamptz(utc) => Datum::Timestamp(*utc),
        Datum::Timestamp(local) if is_finite(*local) => Datum::Timestamptz(zone.to_utc(*local)),
        value => Datum::Timestamptz(micros(value)?),
    })
}

fn unit(value: &Datum) -> Result<String> {
    let unit = text(value)?.trim().to_ascii_lowercase();
    Ok(match unit.as_str() {
        "us" | "usec" | "usecs" | "usecond" | "useconds" | "microsecond" => "microseconds",
        "ms" | "msec" | "msecs" | "msecond" | "mseconds" | "millisecond" | "millisecon" => {
            "milliseconds"
        }
        "s" | "sec" | "secs" | "seconds" => "second",
        "m" | "min" | "mins" | "minutes" => "minute",
        "h" | "hr" | "hrs" | "hours" => "hour",
        "d" | "days" => "day",
        "w" | "weeks" => "week",
        "mon" | "mons" | "months" => "month",
        "qtr" | "quarters" => "quarter",
        "y" | "yr" | "yrs" | "years" => "year",
        "dec" | "decs" | "decades" => "decade",
        "c" | "cent" | "centuries" => "century",
        "mil" | "mils" | "millennia" => "millennium",
        other => other,
    }
    .to_owned())
}

fn unknown_unit<T>(unit: &str, ty: SqlType) -> Result<T> {
    error(
        ValueErrorKind::InvalidParameter,
        format!("unit \"{unit}\" not recognized for type {}", ty.sql_name()),
    )
}

fn unsupported_unit<T>(unit: &str, ty: SqlType) -> Result<T> {
    error(
        ValueErrorKind::Unsupported,
        format!("unit \"{unit}\" not supported for type {}", ty.sql_name()),
    )
}

/// The start of a timestamp's unit, on the wall clock.
fn truncate_local(unit: &str, local: i64, ty: SqlType) -> Result<i64> {
    let floor = |step: i64| local - local.rem_euclid(step);
    let days = local.div_euclid(DAY_MICROS);
    let Civil { year, month, .. } = civil(days);
    let start_of_year = |year: i64| days_of(year, 1, 1) * DAY_MICROS;
    Ok(match unit {
        "microseconds" => local,
        "milliseconds" => floor(1000),
        "second" => floor(SECOND_MICROS),
        "minute" => floor(MINUTE_MICROS),
        "hour" => floor(HOUR_MICROS),
        "day" => days * DAY_MICROS,
        // 1970-01-01 was a Thursday.
        "week" => (days - (days + 3).rem_euclid(7)) * DAY_MICROS,
        "month" => days_of(year, month, 1) * DAY_MICROS,
        "quarter" => days_of(year, (month - 1) / 3 * 3 + 1, 1) * DAY_MICROS,
        "year" => start_of_year(year),
        "decade" => start_of_year(year.div_euclid(10) * 10),
        "century" => start_of_year((year - 1).div_euclid(100) * 100 + 1),
        "millennium" => start_of_year((year - 1).div_euclid(1000) * 1000 + 1),
        other => return unknown_unit(other, ty),
    })
}

fn date_trunc(call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    let unit = unit(&args[0])?;
    match &args[1] {
        Datum::Interval(value) => truncate_interval(&unit, *value).map(Datum::Interval),
        Datum::Timestamptz(utc) if is_finite(*utc) => {
            let zone = match args.get(2) {
                Some(name) => Zone::parse(text(name)?)?,
                None => Zone::Named(call.context.settings.time_zone),
            };
            // Below a day the instant itself is cut, so that an hour repeated in autumn stays itself.
            let local = zone.to_local(*utc);
            let truncated = truncate_local(&unit, local, SqlType::Timestamptz)?;
            if matches!(
                unit.as_str(),
                "microseconds" | "milliseconds" | "second" | "minute" | "hour"
            ) {
                return Ok(Datum::Timestamptz(utc - (local - truncated)));
            }
            Ok(Datum::Timestamptz(zone.to_utc(truncated)))
        }
        Datum::Timestamptz(utc) => Ok(Datum::Timestamptz(*utc)),
        value => {
            let local = micros(value)?;
            if !is_finite(local) {
                return Ok(Datum::Timestamp(local));
            }
            truncate_local(&unit, local, SqlType::Timestamp).map(Datum::Timestamp)
        }
    }
}

fn truncate_interval(unit: &str, value: Interval) -> Result<Interval> {
    let years = |n: i32| Interval { months: value.months / (12 * n) * 12 * n, days: 0, micros: 0 };
    let time = |step: i64| Interval { micros: value.micros / step * step, ..value };
    Ok(match unit {
        "microseconds" => value,
        "milliseconds" => time(1000),
        "second" => time(SECOND_MICROS),
        "minute" => time(MINUTE_MICROS),
        "hour" => time(HOUR_MICROS),
        "day" => Interval { micros: 0, ..value },
        "month" => Interval { days: 0, micros: 0, ..value },
        "quarter" => Interval { months: value.months / 3 * 3, days: 0, micros: 0 },
        "year" => years(1),
        "decade" => years(10),
        "century" => years(100),
        "millennium" => years(1000),
        "week" => {
            return Err(ValueError::new(
                ValueErrorKind::Unsupported,
                "unit \"week\" not supported for type interval",
            )
            .with_detail("Months usually have fractional weeks."));
        }
        other => return unknown_unit(other, SqlType::Interval),
    })
}

/// A field's exact value: a number of 10^-scale, or an infinity (true: positive), or nothing.
enum Field {
    Number(i128, u16),
    Infinite(bool),
    Missing,
}

impl Field {
    fn whole(value: i64) -> Field {
        Field::Number(i128::from(value), 0)
    }
}

fn extract(call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    Ok(match field(call, &args[0], &args[1])? {
        Field::Number(value, scale) => Datum::Numeric(Numeric::from_i128(value, scale)),
        Field::Infinite(positive) => {
            Datum::Numeric(Numeric::parse(if positive { "Infinity" } else { "-Infinity" })?)
        }
        Field::Missing => Datum::Null,
    })
}

/// The older form, in floats. Dates count as timestamps at midnight.
fn date_part(call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    if let Datum::Date(days) = &args[1] {
        let call = Call { args: &[SqlType::Text, SqlType::Timestamp], ..*call };
        let midnight = Datum::Timestamp(crate::scalar::midnight(*days)?);
        return date_part(&call, &[args[0].clone(), midnight]);
    }
    if let (Datum::Interval(value), "epoch") = (&args[1], unit(&args[0])?.as_str()) {
        let seconds = value.micros as f64 / 1_000_000.0
            + 365.25 * SECONDS_PER_DAY * f64::from(value.months / 12)
            + DAYS_PER_MONTH * SECONDS_PER_DAY * f64::from(value.months % 12)
            + SECONDS_PER_DAY * f64::from(value.days);
        return Ok(Datum::Float8(seconds));
    }
    Ok(match field(call, &args[0], &args[1])? {
        Field::Number(value, scale) => Datum::Float8(value as f64 / 10f64.powi(i32::from(scale))),
        Field::Infinite(true) => Datum::Float8(f64::INFINITY),
        Field::Infinite(false) => Datum::Float8(f64::NEG_INFINITY),
        Field::Missing => Datum::Null,
    })
}

fn field(call: &Call<'_>, name: &Datum, value: &Datum) -> Result<Field> {
    let unit = unit(name)?;
    let ty = call.args[1];
    match value {
        Datum::Interval(value) => interval_field(&unit, *value),
        Datum::Time(value) => time_field(&unit, *value).map_or_else(|| time_unsupported(&unit), Ok),
        Datum::Date(days) => {
            if *days == i32::MIN || *days == i32::MAX {
                return infinite_field(&unit, *days > 0, ty);
            }
            if matches!(
                unit.as_str(),
                "microseconds"
                    | "milliseconds"
                    | "second"
                    | "minute"
                    | "hour"
                    | "timezone"
                    | "timezone_hour"
                    | "timezone_minute"
            ) {
                return unsupported_unit(&unit, ty);
            }
            let local = i128::from(*days) * i128::from(DAY_MICROS);
            match unit.as_str() {
                "epoch" => Ok(Field::whole(i64::from(*days) * 86_400)),
                "julian" => Ok(Field::whole(i64::from(*days) + 2_440_588)),
                _ => date_field(&unit, local, ty),
            }
        }
        Datum::Timestamptz(utc) if is_finite(*utc) => {
            let zone = Zone::Named(call.context.settings.time_zone);
            let local = zone.to_local(*utc);
            let east = (local - utc) / SECOND_MICROS;
            match unit.as_str() {
                "epoch" => Ok(Field::Number(i128::from(*utc), 6)),
                "timezone" => Ok(Field::whole(east)),
                "timezone_hour" => Ok(Field::whole(east / 3600)),
                "timezone_minute" => Ok(Field::whole(east / 60 % 60)),
                _ => timestamp_field(&unit, local, ty),
            }
        }
        value => {
            let local = micros(value)?;
            if !is_finite(local) {
                return infinite_field(&unit, local > 0, ty);
            }
            match unit.as_str() {
                "epoch" => Ok(Field::Number(i128::from(local), 6)),
                "timezone" | "timezone_hour" | "timezone_minute" => unsupported_unit(&unit, ty),
                _ => timestamp_field(&unit, local, ty),
            }
        }
    }
}

fn time_unsupported<T>(unit: &str) -> Result<T> {
    match unit {
        "day" | "week" | "month" | "quarter" | "year" | "decade" | "century" | "millennium"
        | "dow" | "doy" | "isodow" | "isoyear" | "julian" | "timezone" | "timezone_hour"
        | "timezone_minute" => unsupported_unit(unit, SqlType::Time),
        _ => unknown_unit(unit, SqlType::Time),
    }
}

fn infinite_field(unit: &str, positive: bool, ty: SqlType) -> Result<Field> {
    match unit {
        "year" | "decade" | "century" | "millennium" | "julian" | "isoyear" | "epoch" => {
            Ok(Field::Infinite(positive))
        }
        "microseconds" | "milliseconds" | "second" | "minute" | "hour" | "day" | "month"
        | "quarter" | "week" | "dow" | "isodow" | "doy" | "timezone" | "timezone_hour"
        | "timezone_minute" => Ok(Field::Missing),
        other => unknown_unit(other, ty),
    }
}

/// Fields of the time of day.
fn time_field(unit: &str, time: i64) -> Option<Field> {
    Some(match unit {
        "microseconds" => Field::whole(time % MINUTE_MICROS),
        "milliseconds" => Field::Number(i128::from(time % MINUTE_MICROS), 3),
        "second" => Field::Number(i128::from(time % MINUTE_MICROS), 6),
        "minute" => Field::whole(time / MINUTE_MICROS % 60),
        "hour" => Field::whole(time / HOUR_MICROS),
        "epoch" => Field::Number(i128::from(time), 6),
        _ => return None,
    })
}

fn timestamp_field(unit: &str, local: i64, ty: SqlType) -> Result<Field> {
    if unit == "julian" {
        let days = Numeric::from_i64(local.div_euclid(DAY_MICROS) + 2_440_588);
        let time = Numeric::from_i64(local.rem_euclid(DAY_MICROS));
        let value = days.add(&time.div(&Numeric::from_i64(DAY_MICROS))?)?;
        let shown = value.to_string();
        let scale = shown.split_once('.').map_or(0, |(_, fraction)| fraction.len() as u16);
        let digits = shown.replace('.', "").parse::<i128>().unwrap_or_default();
        return Ok(Field::Number(digits, scale));
    }
    match time_field(unit, local.rem_euclid(DAY_MICROS)) {
        Some(field) => Ok(field),
        None => date_field(unit, i128::from(local), ty),
    }
}

fn date_field(unit: &str, local: i128, ty: SqlType) -> Result<Field> {
    let days = local.div_euclid(i128::from(DAY_MICROS)) as i64;
    let Civil { year, month, day } = civil(days);
    // There is no year 0: year 0 of the calendar is 1 BC, which is written -1.
    let shown = |year: i64| if year > 0 { year } else { year - 1 };
    let weekday = (days + 4).rem_euclid(7);
    let (iso_year, iso_week) = super::calendar::iso_week(days);
    Ok(Field::whole(match unit {
        "day" => day,
        "month" => month,
        "quarter" => (month - 1) / 3 + 1,
        "year" => shown(year),
        "week" => iso_week,
        "isoyear" => shown(iso_year),
        "dow" => weekday,
        "isodow" => (weekday + 6) % 7 + 1,
        "doy" => days - days_of(year, 1, 1) + 1,
        "decade" => year.div_euclid(10),
        "century" if year > 0 => (year + 99) / 100,
        "century" => -((99 - (year - 1)) / 100),
        "millennium" if year > 0 => (year + 999) / 1000,
        "millennium" => -((999 - (year - 1)) / 1000),
        other => return unknown_unit(other, ty),
    }))
}

fn interval_field(unit: &str, value: Interval) -> Result<Field> {
    let years = i64::from(value.months / 12);
    Ok(match unit {
        "microseconds" => Field::whole(value.micros % MINUTE_MICROS),
        "milliseconds" => Field::Number(i128::from(value.micros % MINUTE_MICROS), 3),
        "second" => Field::Number(i128::from(value.micros % MINUTE_MICROS), 6),
        "minute" => Field::whole(value.micros / MINUTE_MICROS % 60),
        "hour" => Field::whole(value.micros / HOUR_MICROS),
        "day" => Field::whole(i64::from(value.days)),
        "month" => Field::whole(i64::from(value.months % 12)),
        "quarter" => Field::whole(i64::from(value.months % 12 / 3 + 1)),
        "year" => Field::whole(years),
        "decade" => Field::whole(years / 10),
        "century" => Field::whole(years / 100),
        "millennium" => Field::whole(years / 1000),
        // A year counts 365.25 days, a month beyond whole years 30.
        "epoch" => {
            let days = i128::from(value.months / 12) * 36_525 / 100 * 86_400_000_000;
            let quarter_days = i128::from(value.months / 12) * 36_525 % 100 * 864_000_000;
            let rest = i128::from(value.months % 12) * 30 + i128::from(value.days);
            Field::Number(
                days + quarter_days + rest * i128::from(DAY_MICROS) + i128::from(value.micros),
                6,
            )
        }
        "week" | "dow" | "doy" | "isodow" | "isoyear" | "julian" | "timezone" | "timezone_hour"
        | "timezone_minute" => return unsupported_unit(unit, SqlType::Interval),
        other => return unknown_unit(other, SqlType::Interval),
    })
}

/// `age(later, earlier)`: whole years, months, days and time between two wall-clock times.
fn age(call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    let zone = Zone::Named(call.context.settings.time_zone);
    let local = |value: &Datum| match value {
        Datum::Timestamptz(utc) if is_finite(*utc) => Ok(zone.to_local(*utc)),
        value => micros(value),
    };
    let (later, earlier) = match args {
        [earlier] => (local_now(call).div_euclid(DAY_MICROS) * DAY_MICROS, local(earlier)?),
        _ => (local(&args[0])?, local(&args[1])?),
    };
    if !is_finite(later) || !is_finite(earlier) {
        return out_of_range("timestamp");
    }
    let forwards = later >= earlier;
    let parts = |local: i64| (civil(local.div_euclid(DAY_MICROS)), local.rem_euclid(DAY_MICROS));
    let ((a, a_time), (b, b_time)) =
        if forwards { (parts(later), parts(earlier)) } else { (parts(earlier), parts(later)) };
    let mut time = a_time - b_time;
    let mut days = a.day - b.day;
    let mut months = (a.year - b.year) * 12 + a.month - b.month;
    if time < 0 {
        time += DAY_MICROS;
        days -= 1;
    }
    // Borrowed months are as long as the second argument's month (the first's, when it is the earlier).
    let borrowed = b;
    while days < 0 {
        days += days_in_month(borrowed.year, borrowed.month);
        months -= 1;
    }
    let value = Interval { months: months as i32, days: days as i32, micros: time };
    Ok(Datum::Interval(if forwards { value } else { negated(value)? }))
}

pub(super) fn make_date(year: i64, month: i64, day: i64) -> Result<i64> {
    let calendar_year = if year < 0 { year + 1 } else { year };
    let valid = year != 0
        && (1..=12).contains(&month)
        && day >= 1
        && day <= days_in_month(calendar_year, month);
    if !valid {
        return error(
            ValueErrorKind::DatetimeOverflow,
            format!("date field value out of range: {year}-{month:02}-{day:02}"),
        );
    }
    let days = days_of(calendar_year, month, day);
    if !(DATE_MIN..DATE_END).contains(&days) {
        return error(
            ValueErrorKind::DatetimeOverflow,
            format!("date out of range: {year}-{month:02}-{day:02}"),
        );
    }
    Ok(days)
}

fn make_time(hour: i64, minute: i64, second: f64) -> Result<i64> {
    let valid = (0..=24).contains(&hour)
        && (0..60).contains(&minute)
        && (0.0..=60.0).contains(&second)
        && (hour < 24 || (minute == 0 && second == 0.0));
    if !valid {
        return error(
            ValueErrorKind::DatetimeOverflow,
            format!("time field value out of range: {hour}:{minute:02}:{second:02}"),
        );
    }
    let micros = (second * 1_000_000.0).round_ties_even() as i64;
    Ok(hour * HOUR_MICROS + minute * MINUTE_MICROS + micros)
}

fn make_timestamp(args: &[Datum]) -> Result<i64> {
    let days = make_date(int(&args[0])?, int(&args[1])?, int(&args[2])?)?;
    let time = make_time(int(&args[3])?, int(&args[4])?, float(&args[5])?)?;
    check_timestamp(i128::from(days) * i128::from(DAY_MICROS) + i128::from(time))
}

fn make_interval(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    let whole = |position: usize| args.get(position).map_or(Ok(0), int);
    let seconds = args.get(6).map_or(Ok(0.0), float)?;
    let months = whole(0)? * 12 + whole(1)?;
    let days = whole(2)? * 7 + whole(3)?;
    let time = i128::from(whole(4)?) * i128::from(HOUR_MICROS)
        + i128::from(whole(5)?) * i128::from(MINUTE_MICROS)
        + (seconds * 1_000_000.0).round_ties_even() as i128;
    match (i32::try_from(months), i32::try_from(days), i64::try_from(time)) {
        (Ok(months), Ok(days), Ok(micros)) if seconds.is_finite() => {
            Ok(Datum::Interval(Interval { months, days, micros }))
        }
        _ => out_of_range("interval"),
    }
}

fn to_timestamp(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    let seconds = float(&args[0])?;
    if seconds.is_nan() {
        return error(ValueErrorKind::DatetimeOverflow, "timestamp cannot be NaN");
    }
    if seconds.is_infinite() {
        return Ok(Datum::Timestamptz(if seconds > 0.0 { i64::MAX } else { i64::MIN }));
    }
    let micros = (seconds * 1_000_000.0).round_ties_even();
    if micros < TIMESTAMP_MIN as f64 || micros >= TIMESTAMP_END as f64 {
        return error(
            ValueErrorKind::DatetimeOverflow,
            format!("timestamp out of range: \"{seconds}\""),
        );
    }
    Ok(Datum::Timestamptz(micros as i64))
}

fn date_bin(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    let stride = interval(&args[0])?;
    let (source, origin) = (micros(&args[1])?, micros(&args[2])?);
    let wrap = |micros: i64| match args[1] {
        Datum::Timestamptz(_) => Datum::Timestamptz(micros),
        _ => Datum::Timestamp(micros),
    };
    if !is_finite(source) {
        return Ok(wrap(source));
    }
    if !is_finite(origin) {
        return error(ValueErrorKind::DatetimeOverflow, "origin out of range");
    }
    if stride.months != 0 {
        return error(
            ValueErrorKind::Unsupported,
            "timestamps cannot be binned into intervals containing months or years",
        );
    }
    let step = i128::from(stride.days) * i128::from(DAY_MICROS) + i128::from(stride.micros);
    if step <= 0 {
        return error(ValueErrorKind::DatetimeOverflow, "stride must be greater than zero");
    }
    let distance = i128::from(source) - i128::from(origin);
    check_timestamp(i128::from(origin) + distance.div_euclid(step) * step).map(wrap)
}

/// Local wall-clock microseconds in a zone to UTC microseconds. In a gap (spring) the offset before it counts, of two readings (autumn)
/// the standard one, as Postgres.
pub(crate) fn local_to_utc(local: i64, zone: chrono_tz::Tz) -> i64 {
    let Some(naive) = DateTime::from_timestamp_micros(local).map(|instant| instant.naive_utc())
    else {
        return local;
    };
    let offset = match zone.offset_from_local_datetime(&naive) {
        MappedLocalTime::Single(offset) => offset.fix().local_minus_utc(),
        MappedLocalTime::Ambiguous(_, later) => later.fix().local_minus_utc(),
        MappedLocalTime::None => {
            let before = naive - chrono::Duration::hours(3);
            zone.offset_from_local_datetime(&before)
                .earliest()
                .map_or(0, |offset| offset.fix().local_minus_utc())
        }
    };
    local.saturating_sub(i64::from(offset) * 1_000_000)
}

/// UTC microseconds as the wall clock of a zone shows them.
pub(crate) fn utc_to_local(utc: i64, zone: chrono_tz::Tz) -> i64 {
    let Some(instant) = DateTime::from_timestamp_micros(utc) else { return utc };
    let offset = zone.offset_from_utc_datetime(&instant.naive_utc()).fix().local_minus_utc();
    utc.saturating_add(i64::from(offset) * 1_000_000)
}

/// An interval divided by a number: fractions of a month become days (of 30), fractions of a day microseconds.
pub(crate) fn divide_interval(interval: Interval, divisor: f64) -> Result<Interval> {
    if divisor == 0.0 {
        return Err(ValueError::division_by_zero());
    }
    let months = f64::from(interval.months) / divisor;
    let days = f64::from(interval.days) / divisor;
    scaled_interval(months, days, interval.micros as f64 / divisor)
}

/// An interval times a number.
pub(crate) fn multiply_interval(interval: Interval, factor: f64) -> Result<Interval> {
    let months = f64::from(interval.months) * factor;
    let days = f64::from(interval.days) * factor;
    scaled_interval(months, days, interval.micros as f64 * factor)
}

const DAYS_PER_MONTH: f64 = 30.0;
const SECONDS_PER_DAY: f64 = 86_400.0;

/// Whole months and days with their fractions handed down, as `interval_mul` and `interval_div` do.
fn scaled_interval(months: f64, days: f64, micros: f64) -> Result<Interval> {
    let out_of_range =
        || ValueError::new(ValueErrorKind::DatetimeOverflow, "interval out of range");
    let fits = |value: f64| value.is_finite() && value.abs() < 2_147_483_648.0;
    if !fits(months) || !fits(days) {
        return Err(out_of_range());
    }
    let whole_months = months.trunc();
    let whole_days = days.trunc();
    let rounded = |value: f64| (value * 1_000_000.0).round_ties_even() / 1_000_000.0;
    let month_rest = rounded((months - whole_months) * DAYS_PER_MONTH);
    let mut seconds =
        rounded((days - whole_days + month_rest - month_rest.trunc()) * SECONDS_PER_DAY);
    let mut extra_days = month_rest.trunc();
    if seconds.abs() >= SECONDS_PER_DAY {
        let carried = (seconds / SECONDS_PER_DAY).trunc();
        extra_days += carried;
        seconds -= carried * SECONDS_PER_DAY;
    }
    let total = (micros + seconds * 1_000_000.0).round_ties_even();
    if !total.is_finite() || total.abs() >= 9.223_372_036_854_775e18 {
        return Err(out_of_range());
    }
    Ok(Interval {
        months: whole_months as i32,
        days: (whole_days + extra_days) as i32,
        micros: total as i64,
    })
}

/// What a zone calls itself at an instant: CET, EDT, or an offset.
pub(crate) fn abbreviation(utc: i64, zone: chrono_tz::Tz) -> String {
    DateTime::from_timestamp_micros(utc)
        .map(|instant| instant.with_timezone(&zone).format("%Z").to_string())
        .unwrap_or_default()
}
