use chrono::{DateTime, MappedLocalTime, Offset, TimeZone};
use cortex_shard_api::{SqlType, ValueError, ValueErrorKind, value::Interval};

use super::{Kernel, Result};

/// Microseconds since 1970 below which timestamps stay: Postgres allows 30 years more than an i64 counted from 1970.
pub(crate) const TIMESTAMP_END: i64 = i64::MAX;
/// The first timestamp: 4714-11-24 BC.
pub(crate) const TIMESTAMP_MIN: i64 = -210_866_803_200_000_000;

pub(super) fn find(_name: &str, _args: &[Option<SqlType>]) -> Option<Kernel> {
    None
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
