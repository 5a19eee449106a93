//! Intervals from text: `1 day 02:03:04`, `@ 1 year ago`, `1-2`, `P1Y2M3DT4H`.
//!
//! Fields are taken from right to left, because a unit stands behind its number.

use super::{
    Failure,
    fields::{Field, Kind, cut, fraction, fraction_micros, leading_int},
    words::{Unit, interval_word},
};
use crate::{
    error::{ValueError, ValueErrorKind},
    value::{
        Datum, Interval,
        calendar::{MICROS_PER_DAY, MICROS_PER_HOUR, MICROS_PER_MINUTE, MICROS_PER_SECOND},
    },
};

const MONTHS_PER_YEAR: i64 = 12;
const DAYS_PER_MONTH: f64 = 30.0;

// Which parts are known, as bits; the clock's parts also come together.
const MICROSECOND: u32 = 1;
const MILLISECOND: u32 = 1 << 1;
const SECOND: u32 = 1 << 2;
const MINUTE: u32 = 1 << 3;
const HOUR: u32 = 1 << 4;
const DAY: u32 = 1 << 5;
const WEEK: u32 = 1 << 6;
const MONTH: u32 = 1 << 7;
const YEAR: u32 = 1 << 8;
const DECADE: u32 = 1 << 9;
const CENTURY: u32 = 1 << 10;
const MILLENNIUM: u32 = 1 << 11;
const ALL_SECONDS: u32 = MICROSECOND | MILLISECOND | SECOND;
const CLOCK: u32 = HOUR | MINUTE | ALL_SECONDS;

/// Sums up the parts; every step is checked.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    months: i64,
    days: i32,
    micros: i64,
}

pub(in super::super) fn parse_interval(text: &str) -> Result<Datum, ValueError> {
    let fail = |failure| {
        let failure = if failure == Failure::Field { Failure::Interval } else { failure };
        failure.into_error("interval", text)
    };
    let sum = match by_fields(text) {
        Err(Failure::Format) => iso_8601(text),
        other => other,
    }
    .map_err(fail)?;
    let months = i32::try_from(sum.months)
        .map_err(|_| ValueError::new(ValueErrorKind::DatetimeOverflow, "interval out of range"))?;
    Ok(Datum::Interval(Interval { months, days: sum.days, micros: sum.micros }))
}

fn by_fields(text: &str) -> Result<Sum, Failure> {
    let mut sum = Sum::default();
    let mut known = 0;
    let mut unit: Option<Unit> = None;
    let mut ago = false;
    for Field { kind, text } in cut(text)?.iter().rev() {
        let new = match kind {
            Kind::Time => {
                sum.set_clock(text, 1)?;
                unit = Some(Unit::Day);
                CLOCK
            }
            Kind::Signed if text.contains(':') => {
                sum.set_clock(&text[1..], if text.starts_with('-') { -1 } else { 1 })?;
                unit = Some(Unit::Day);
                CLOCK
            }
            Kind::Signed | Kind::Date | Kind::Number => sum.add_number(text, &mut unit)?,
            Kind::Word | Kind::SignedWord => {
                match interval_word(text).ok_or(Failure::Format)? {
                    Unit::Ago => {
                        ago = true;
                        // A bare number in front is none.
                        unit = Some(Unit::Ago);
                    }
                    Unit::Quarter => return Err(Failure::Format),
                    word => unit = Some(word),
                }
                0
            }
        };
        if known & new != 0 {
            return Err(Failure::Format);
        }
        known |= new;
    }
    if known == 0 {
        return Err(Failure::Format);
    }
    if ago { sum.negated() } else { Ok(sum) }
}

impl Sum {
    fn negated(self) -> Result<Sum, Failure> {
        Ok(Sum {
            months: -self.months,
            days: self.days.checked_neg().ok_or(Failure::Field)?,
            micros: self.micros.checked_neg().ok_or(Failure::Field)?,
        })
    }

    /// A number with the unit behind it (seconds where there is none); returns which part it was.
    fn add_number(&mut self, text: &str, unit: &mut Option<Unit>) -> Result<u32, Failure> {
        let (value, rest) = leading_int(text)?;
        let negative = text.starts_with('-');
        if let Some(months) = rest.strip_prefix('-') {
            // `years-months`
            let (months, rest) = leading_int(months)?;
            if !(0..MONTHS_PER_YEAR).contains(&months) {
                return Err(Failure::Field);
            }
            if !rest.is_empty() {
                return Err(Failure::Format);
            }
            *unit = Some(Unit::Month);
            let months = if negative { -months } else { months };
            let total = value.checked_mul(MONTHS_PER_YEAR).and_then(|sum| sum.checked_add(months));
            self.add_months(total.ok_or(Failure::Field)?)?;
            return Ok(MONTH);
        }
        let part = match rest {
            "" => 0.0,
            rest => fraction(rest)?,
        };
        self.add(unit.unwrap_or(Unit::Second), value, if negative { -part } else { part }, unit)
    }

    fn add(
        &mut self,
        what: Unit,
        value: i64,
        part: f64,
        next: &mut Option<Unit>,
    ) -> Result<u32, Failure> {
        Ok(match what {
            Unit::Microsecond => {
                self.add_micros(value, part, 1)?;
                MICROSECOND
            }
            Unit::Millisecond => {
                self.add_micros(value, part, 1000)?;
                MILLISECOND
            }
            Unit::Second => {
                self.add_micros(value, part, MICROS_PER_SECOND)?;
                if part == 0.0 { SECOND } else { ALL_SECONDS }
            }
            Unit::Minute => {
                self.add_micros(value, part, MICROS_PER_MINUTE)?;
                MINUTE
            }
            Unit::Hour => {
                self.add_micros(value, part, MICROS_PER_HOUR)?;
                *next = Some(Unit::Day);
                HOUR
            }
            Unit::Day => {
                self.add_days(value, 1)?;
                self.add_micros(0, part, MICROS_PER_DAY)?;
                DAY
            }
            Unit::Week => {
                self.add_days(value, 7)?;
                self.add_part_of_days(part * 7.0)?;
                WEEK
            }
            Unit::Month => {
                self.add_months(value)?;
                self.add_part_of_days(part * DAYS_PER_MONTH)?;
                MONTH
            }
            Unit::Year => self.add_years(value, part, 1, YEAR)?,
            Unit::Decade => self.add_years(value, part, 10, DECADE)?,
            Unit::Century => self.add_years(value, part, 100, CENTURY)?,
            Unit::Millennium => self.add_years(value, part, 1000, MILLENNIUM)?,
            Unit::Quarter | Unit::Ago => return Err(Failure::Format),
        })
    }

    fn add_micros(&mut self, value: i64, part: f64, unit: i64) -> Result<(), Failure> {
        let part = part * unit as f64;
        let mut micros = part.trunc() as i64;
        match part - part.trunc() {
            rest if rest > 0.5 => micros += 1,
            rest if rest < -0.5 => micros -= 1,
            _ => {}
        }
        self.micros = value
            .checked_mul(unit)
            .and_then(|sum| sum.checked_add(micros)?.checked_add(self.micros))
            .ok_or(Failure::Field)?;
        Ok(())
    }

    fn add_days(&mut self, value: i64, unit: i64) -> Result<(), Failure> {
        self.days = value
            .checked_mul(unit)
            .and_then(|days| i32::try_from(days).ok()?.checked_add(self.days))
            .ok_or(Failure::Field)?;
        Ok(())
    }

    fn add_part_of_days(&mut self, days: f64) -> Result<(), Failure> {
        self.add_days(days.trunc() as i64, 1)?;
        self.add_micros(0, days - days.trunc(), MICROS_PER_DAY)
    }

    fn add_months(&mut self, value: i64) -> Result<(), Failure> {
        let months = i64::from(i32::try_from(value).map_err(|_| Failure::Field)?);
        self.months += months;
        Ok(())
    }

    fn add_years(&mut self, value: i64, part: f64, unit: i64, bit: u32) -> Result<u32, Failure> {
        let years = value.checked_mul(unit).and_then(|years| i32::try_from(years).ok());
        let years = i64::from(years.ok_or(Failure::Field)?);
        let months = (part * (unit * MONTHS_PER_YEAR) as f64).round_ties_even() as i64;
        self.months += years * MONTHS_PER_YEAR + months;
        Ok(bit)
    }

    /// `h:mm`, `h:mm:ss`, with a fraction; `mm:ss.fff`. Replaces what parts of days to the right of it gave.
    fn set_clock(&mut self, text: &str, sign: i64) -> Result<(), Failure> {
        let (hours, rest) = leading_int(text)?;
        let rest = rest.strip_prefix(':').ok_or(Failure::Format)?;
        let (minutes, rest) = leading_int(rest)?;
        let (hours, minutes, seconds, micros) = match rest {
            "" => (hours, minutes, 0, 0),
            rest if rest.starts_with('.') => (0, hours, minutes, fraction_micros(rest)?),
            rest => {
                let (seconds, rest) = leading_int(rest.strip_prefix(':').ok_or(Failure::Format)?)?;
                let micros = if rest.is_empty() { 0 } else { fraction_micros(rest)? };
                (hours, minutes, seconds, micros)
            }
        };
        let fits = hours >= 0
            && (0..60).contains(&minutes)
            && (0..=60).contains(&seconds)
            && (0..=MICROS_PER_SECOND).contains(&micros);
        if !fits {
            return Err(Failure::Field);
        }
        let small = minutes * MICROS_PER_MINUTE + seconds * MICROS_PER_SECOND + micros;
        self.micros = hours
            .checked_mul(MICROS_PER_HOUR)
            .and_then(|sum| sum.checked_add(small)?.checked_mul(sign))
            .ok_or(Failure::Field)?;
        Ok(())
    }
}

/// A number with its fraction at the start of an ISO 8601 part, and the rest.
fn iso_number(text: &str) -> Result<(i64, f64, &str), Failure> {
    let negative = text.starts_with('-');
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return Err(Failure::Format);
    }
    let end = digits.bytes().take_while(u8::is_ascii_digit).count();
    let value: i64 = match &digits[..end] {
        "" => 0,
        digits => digits.parse().map_err(|_| Failure::Field)?,
    };
    let mut rest = &digits[end..];
    let mut part = 0.0;
    if rest.starts_with('.') {
        let length = 1 + rest[1..].bytes().take_while(u8::is_ascii_digit).count();
        part = fraction(&rest[..length])?;
        rest = &rest[length..];
    }
    Ok(if negative { (-value, -part, rest) } else { (value, part, rest) })
}

/// `P1Y2M3W4DT5H6M7.8S`, `P0001-02-03T04:05:06`, and the same without signs between.
fn iso_8601(text: &str) -> Result<Sum, Failure> {
    let mut rest = text.strip_prefix('P').ok_or(Failure::Format)?;
    if rest.is_empty() {
        return Err(Failure::Format);
    }
    let mut sum = Sum::default();
    let mut in_date = true;
    let mut has_field = false;
    let mut next = None;
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('T') {
            in_date = false;
            has_field = false;
            rest = after;
            continue;
        }
        let start = rest;
        let (value, part, after) = iso_number(rest)?;
        let designator = after.chars().next().unwrap_or('\0');
        rest = after.get(designator.len_utf8()..).unwrap_or("");
        let unit = match (in_date, designator) {
            (true, 'Y') => Unit::Year,
            (true, 'M') => Unit::Month,
            (true, 'W') => Unit::Week,
            (true, 'D') => Unit::Day,
            (true, 'T' | '-' | '\0') if !has_field => {
                let digits = start.trim_start_matches('-').bytes();
                if designator != '-' && digits.take_while(u8::is_ascii_digit).count() == 8 {
                    // Basic form: yyyymmdd.
                    sum.add(Unit::Year, value / 10_000, 0.0, &mut next)?;
                    sum.add(Unit::Month, value / 100 % 100, 0.0, &mut next)?;
                    sum.add(Unit::Day, value % 100, part, &mut next)?;
                } else {
                    sum.add(Unit::Year, value, part, &mut next)?;
                    if designator == '-' {
                        rest = iso_date_rest(&mut sum, rest)?;
                    }
                }
                if designator != 'T' && !rest.starts_with('T') {
                    return if rest.is_empty() { Ok(sum) } else { Err(Failure::Format) };
                }
                rest = rest.strip_prefix('T').unwrap_or(rest);
                in_date = false;
                continue;
            }
            (false, 'H') => Unit::Hour,
            (false, 'M') => Unit::Minute,
            (false, 'S') => Unit::Second,
            (false, ':' | '\0') if !has_field => {
                let digits = start.trim_start_matches('-').bytes();
                if designator == '\0' && digits.take_while(u8::is_ascii_digit).count() == 6 {
                    // Basic form: hhmmss.
                    sum.add(Unit::Hour, value / 10_000, 0.0, &mut next)?;
                    sum.add(Unit::Minute, value / 100 % 100, 0.0, &mut next)?;
                    sum.add(Unit::Second, value % 100, part, &mut next)?;
                    return Ok(sum);
                }
                sum.add(Unit::Hour, value, part, &mut next)?;
                if designator == ':' {
                    iso_clock_rest(&mut sum, rest)?;
                }
                return Ok(sum);
            }
            _ => return Err(Failure::Format),
        };
        sum.add(unit, value, part, &mut next)?;
        has_field = true;
    }
    Ok(sum)
}

/// `mm[-dd]` behind the year.
fn iso_date_rest<'a>(sum: &mut Sum, text: &'a str) -> Result<&'a str, Failure> {
    let mut next = None;
    let (value, part, rest) = iso_number(text)?;
    sum.add(Unit::Month, value, part, &mut next)?;
    let Some(rest) = rest.strip_prefix('-') else {
        return Ok(rest);
    };
    let (value, part, rest) = iso_number(rest)?;
    sum.add(Unit::Day, value, part, &mut next)?;
    Ok(rest)
}

/// `mm[:ss]` behind the hour.
fn iso_clock_rest(sum: &mut Sum, text: &str) -> Result<(), Failure> {
    let mut next = None;
    let (value, part, rest) = iso_number(text)?;
    sum.add(Unit::Minute, value, part, &mut next)?;
    let rest = match rest.strip_prefix(':') {
        Some(rest) => {
            let (value, part, rest) = iso_number(rest)?;
            sum.add(Unit::Second, value, part, &mut next)?;
            rest
        }
        None => rest,
    };
    if rest.is_empty() { Ok(()) } else { Err(Failure::Format) }
}
