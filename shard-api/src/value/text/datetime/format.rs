//! Dates, times and intervals as text: ISO for dates, Postgres's own style for intervals.

use std::fmt::Write;

use crate::value::{
    Interval,
    calendar::{
        MICROS_PER_DAY, MICROS_PER_HOUR, MICROS_PER_MINUTE, MICROS_PER_SECOND, civil_from_days,
    },
    zone::Zone,
};

/// Appends `2024-01-02`, with ` BC` behind years before 1.
pub fn format_date(days: i32, out: &mut String) {
    match days {
        i32::MIN => out.push_str("-infinity"),
        i32::MAX => out.push_str("infinity"),
        days => {
            let is_bc = write_date(days.into(), out);
            if is_bc {
                out.push_str(" BC");
            }
        }
    }
}

/// Appends `10:15:00.5`.
pub fn format_time(micros: i64, out: &mut String) {
    write_time(micros, out);
}

/// Appends `2024-01-02 10:15:00`.
pub fn format_timestamp(micros: i64, out: &mut String) {
    if !write_infinite(micros, out) && write_timestamp(micros, out) {
        out.push_str(" BC");
    }
}

/// Appends `2024-01-02 10:15:00+01` in a zone.
pub fn format_timestamptz(micros: i64, zone: Zone, out: &mut String) {
    if write_infinite(micros, out) {
        return;
    }
    let offset = zone.offset_at(micros);
    let local = micros.saturating_add(i64::from(offset) * MICROS_PER_SECOND);
    let is_bc = write_timestamp(local, out);
    out.push(if offset < 0 { '-' } else { '+' });
    let seconds = offset.unsigned_abs();
    write_two(u64::from(seconds / 3600), out);
    if !seconds.is_multiple_of(3600) {
        out.push(':');
        write_two(u64::from(seconds / 60 % 60), out);
        if !seconds.is_multiple_of(60) {
            out.push(':');
            write_two(u64::from(seconds % 60), out);
        }
    }
    if is_bc {
        out.push_str(" BC");
    }
}

fn write_infinite(micros: i64, out: &mut String) -> bool {
    match micros {
        i64::MIN => out.push_str("-infinity"),
        i64::MAX => out.push_str("infinity"),
        _ => return false,
    }
    true
}

/// Whether the year is before Christ: the caller appends that at the end.
fn write_timestamp(micros: i64, out: &mut String) -> bool {
    let is_bc = write_date(micros.div_euclid(MICROS_PER_DAY), out);
    out.push(' ');
    write_time(micros.rem_euclid(MICROS_PER_DAY), out);
    is_bc
}

fn write_date(days: i64, out: &mut String) -> bool {
    let (year, month, day) = civil_from_days(days);
    let shown = if year > 0 { year } else { 1 - year } as u64;
    if shown < 10_000 {
        write_two(shown / 100, out);
        write_two(shown % 100, out);
    } else {
        _ = write!(out, "{shown}");
    }
    out.push('-');
    write_two(month.into(), out);
    out.push('-');
    write_two(day.into(), out);
    year <= 0
}

fn write_time(micros: i64, out: &mut String) {
    write_two((micros / MICROS_PER_HOUR) as u64, out);
    out.push(':');
    write_two((micros / MICROS_PER_MINUTE % 60) as u64, out);
    out.push(':');
    write_two((micros / MICROS_PER_SECOND % 60) as u64, out);
    write_fraction((micros % MICROS_PER_SECOND) as u64, out);
}

/// Two digits, or more where the number has more.
fn write_two(value: u64, out: &mut String) {
    if value < 100 {
        out.push(char::from(b'0' + (value / 10) as u8));
        out.push(char::from(b'0' + (value % 10) as u8));
    } else {
        _ = write!(out, "{value}");
    }
}

/// Six digits behind a point, zeros at the end cut; nothing for 0.
fn write_fraction(micros: u64, out: &mut String) {
    if micros == 0 {
        return;
    }
    _ = write!(out, ".{micros:06}");
    out.truncate(out.trim_end_matches('0').len());
}

/// Appends `1 year 2 mons -3 days +04:05:06.7`.
pub fn format_interval(interval: &Interval, out: &mut String) {
    let years = interval.months / 12;
    let months = interval.months % 12;
    let mut is_first = true;
    // Behind a negative part a positive one shows its sign.
    let mut after_negative = false;
    for (value, unit) in [(years, "year"), (months, "mon"), (interval.days, "day")] {
        if value == 0 {
            continue;
        }
        let blank = if is_first { "" } else { " " };
        let sign = if after_negative && value > 0 { "+" } else { "" };
        let plural = if value == 1 { "" } else { "s" };
        _ = write!(out, "{blank}{sign}{value} {unit}{plural}");
        is_first = false;
        after_negative = value < 0;
    }
    if interval.micros == 0 && !is_first {
        return;
    }
    if !is_first {
        out.push(' ');
    }
    if interval.micros < 0 {
        out.push('-');
    } else if after_negative {
        out.push('+');
    }
    let micros = interval.micros.unsigned_abs();
    write_two(micros / MICROS_PER_HOUR as u64, out);
    out.push(':');
    write_two(micros / MICROS_PER_MINUTE as u64 % 60, out);
    out.push(':');
    write_two(micros / MICROS_PER_SECOND as u64 % 60, out);
    write_fraction(micros % MICROS_PER_SECOND as u64, out);
}
