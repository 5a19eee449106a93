//! Dates, times, timestamps and intervals from text and back.
//!
//! Postgres accepts nearly every form that people write; the rules, which field may follow which, are those of its own
//! parser. Lives here: the entry points, and the errors. The fields of an input are cut in `fields`, a date and time
//! is made of them in `decode`, an interval in `interval`; output is in `format`.

use super::ValueSettings;
use crate::{
    error::{ValueError, ValueErrorKind},
    value::{
        Datum,
        calendar::{
            DATE_MAX, DATE_MIN, MICROS_PER_DAY, MICROS_PER_SECOND, TIMESTAMP_MAX, TIMESTAMP_MIN,
        },
        zone::Zone,
    },
};

/// Fields to a date and time.
mod decode;

/// Text to fields.
mod fields;

/// Values to text.
mod format;

/// Text to intervals.
mod interval;

/// The common form, quickly.
mod iso;

/// Words that mean something in dates and intervals.
mod words;

pub use format::{format_date, format_interval, format_time, format_timestamp, format_timestamptz};
pub(super) use interval::parse_interval;

use decode::{Clock, Decoded};

/// Why an input is no date, time or interval.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Failure {
    /// 22007 invalid input syntax
    Format,
    /// 22008 date/time field value out of range
    Field,
    /// 22008 with a hint: day and month may be swapped
    MonthOrDay,
    /// 22015
    Interval,
    /// 22009 in Postgres
    Displacement,
    /// 22023
    UnknownZone(String),
}

impl Failure {
    fn into_error(self, type_name: &str, text: &str) -> ValueError {
        let out_of_range = || {
            ValueError::new(
                ValueErrorKind::DatetimeOverflow,
                format!("date/time field value out of range: \"{text}\""),
            )
        };
        match self {
            Failure::Format => ValueError::new(
                ValueErrorKind::InvalidDatetime,
                format!("invalid input syntax for type {type_name}: \"{text}\""),
            ),
            Failure::Field => out_of_range(),
            Failure::MonthOrDay => {
                out_of_range().with_hint("Perhaps you need a different \"datestyle\" setting.")
            }
            Failure::Interval => ValueError::new(
                ValueErrorKind::IntervalOverflow,
                format!("interval field value out of range: \"{text}\""),
            ),
            Failure::Displacement => ValueError::new(
                ValueErrorKind::DatetimeOverflow,
                format!("time zone displacement out of range: \"{text}\""),
            ),
            Failure::UnknownZone(zone) => ValueError::new(
                ValueErrorKind::InvalidParameter,
                format!("time zone \"{zone}\" not recognized"),
            ),
        }
    }
}

fn overflow(what: &str, text: &str) -> ValueError {
    ValueError::new(ValueErrorKind::DatetimeOverflow, format!("{what} out of range: \"{text}\""))
}

pub(super) fn parse_date(text: &str, settings: &ValueSettings) -> Result<Datum, ValueError> {
    if let Some(iso) = iso::parse(text) {
        return Ok(Datum::Date(iso.clock.days as i32));
    }
    let decoded =
        decode::date_time(text, settings).map_err(|failure| failure.into_error("date", text))?;
    Ok(Datum::Date(match decoded {
        Decoded::Infinity => i32::MAX,
        Decoded::NegativeInfinity => i32::MIN,
        Decoded::At(Clock { days, .. }) => i32::try_from(days)
            .ok()
            .filter(|days| (DATE_MIN..=DATE_MAX).contains(days))
            .ok_or_else(|| overflow("date", text))?,
    }))
}

pub(super) fn parse_time(text: &str, settings: &ValueSettings) -> Result<Datum, ValueError> {
    decode::time_of_day(text, settings)
        .map(Datum::Time)
        .map_err(|failure| failure.into_error("time", text))
}

pub(super) fn parse_timestamp(text: &str, settings: &ValueSettings) -> Result<Datum, ValueError> {
    if let Some(iso) = iso::parse(text) {
        return Ok(Datum::Timestamp(timestamp_of(Decoded::At(iso.clock), false, text)?));
    }
    let decoded = decode::date_time(text, settings)
        .map_err(|failure| failure.into_error("timestamp", text))?;
    Ok(Datum::Timestamp(timestamp_of(decoded, false, text)?))
}

pub(super) fn parse_timestamptz(text: &str, settings: &ValueSettings) -> Result<Datum, ValueError> {
    if let Some(iso) = iso::parse(text) {
        let mut clock = iso.clock;
        if !iso.has_offset {
            let local = clock.days * MICROS_PER_DAY + clock.micros;
            clock.offset = Zone::Named(settings.time_zone).offset_of_local(local);
        }
        return Ok(Datum::Timestamptz(timestamp_of(Decoded::At(clock), true, text)?));
    }
    let decoded = decode::date_time(text, settings)
        .map_err(|failure| failure.into_error("timestamp with time zone", text))?;
    Ok(Datum::Timestamptz(timestamp_of(decoded, true, text)?))
}

fn timestamp_of(decoded: Decoded, with_zone: bool, text: &str) -> Result<i64, ValueError> {
    let clock = match decoded {
        Decoded::Infinity => return Ok(i64::MAX),
        Decoded::NegativeInfinity => return Ok(i64::MIN),
        Decoded::At(clock) => clock,
    };
    let offset = if with_zone { i64::from(clock.offset) * MICROS_PER_SECOND } else { 0 };
    clock
        .days
        .checked_mul(MICROS_PER_DAY)
        .and_then(|micros| micros.checked_add(clock.micros)?.checked_sub(offset))
        .filter(|micros| (TIMESTAMP_MIN..=TIMESTAMP_MAX).contains(micros))
        .ok_or_else(|| overflow("timestamp", text))
}
