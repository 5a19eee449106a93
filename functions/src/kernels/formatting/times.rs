//! Templates of dates and times: `YYYY-MM-DD HH24:MI:SS`.

use cortex_shard_api::{ValueError, ValueErrorKind, value::Interval};

use super::{ordinal, roman};
use crate::kernels::{
    Result,
    calendar::{DAY_MICROS, civil, days_in_month, days_of, iso_week},
    datetime::make_date,
};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// Fields of a template, longest first where one begins another; matched without regard to case.
const FIELDS: &[&str] = &[
    "SSSSS", "SSSS", "Y,YYY", "IYYY", "YYYY", "MONTH", "IDDD", "HH24", "HH12", "A.D.", "B.C.",
    "A.M.", "P.M.", "IYY", "YYY", "DDD", "DAY", "MON", "FF1", "FF2", "FF3", "FF4", "FF5", "FF6",
    "TZH", "TZM", "AD", "BC", "AM", "PM", "CC", "DD", "DY", "HH", "ID", "IW", "IY", "YY", "MI",
    "MM", "MS", "OF", "RM", "SS", "TZ", "US", "WW", "D", "I", "J", "Q", "W", "Y",
];

#[derive(Debug)]
enum Piece<'a> {
    Field {
        name: &'static str,
        written: &'a str,
        fill: bool,
        ordinal: Option<&'a str>,
    },
    /// One character as it is; quoted text comes as several.
    Literal(char),
}

fn pieces(template: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = template;
    while let Some(c) = rest.chars().next() {
        let starts = |prefix: &str| {
            rest.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix))
        };
        if c == '"' {
            rest = &rest[1..];
            while let Some(c) = rest.chars().next() {
                rest = &rest[c.len_utf8()..];
                match c {
                    '"' => break,
                    '\\' => {
                        if let Some(next) = rest.chars().next() {
                            pieces.push(Piece::Literal(next));
                            rest = &rest[next.len_utf8()..];
                        }
                    }
                    c => pieces.push(Piece::Literal(c)),
                }
            }
            continue;
        }
        if c == '\\' && rest[1..].starts_with('"') {
            pieces.push(Piece::Literal('"'));
            rest = &rest[2..];
            continue;
        }
        let fill = !starts("FM");
        let prefix = if starts("FM") || starts("FX") || starts("TM") { 2 } else { 0 };
        let after = &rest[prefix..];
        let field = FIELDS.iter().find(|field| {
            after.get(..field.len()).is_some_and(|head| head.eq_ignore_ascii_case(field))
        });
        match field {
            Some(name) => {
                let written = &after[..name.len()];
                let mut tail = &after[name.len()..];
                let suffix = tail.get(..2).filter(|suffix| suffix.eq_ignore_ascii_case("TH"));
                if suffix.is_some() {
                    tail = &tail[2..];
                }
                pieces.push(Piece::Field { name, written, fill, ordinal: suffix });
                rest = tail;
            }
            None if prefix > 0 => rest = after,
            None => {
                pieces.push(Piece::Literal(c));
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    pieces
}

/// Upper, lower or capitalized as the field was written.
fn cased(word: &str, written: &str) -> String {
    let mut letters = written.chars().filter(|c| c.is_ascii_alphabetic());
    let first = letters.next().is_some_and(|c| c.is_ascii_uppercase());
    let second = letters.next().is_some_and(|c| c.is_ascii_uppercase());
    match (first, second) {
        (true, true) => word.to_ascii_uppercase(),
        (true, false) => word.to_owned(),
        _ => word.to_ascii_lowercase(),
    }
}

fn padded(value: i64, width: usize, fill: bool) -> String {
    if !fill {
        return value.to_string();
    }
    if value < 0 {
        return format!("-{:0width$}", value.unsigned_abs());
    }
    format!("{value:0width$}")
}

fn blank_padded(word: String, fill: bool) -> String {
    if fill { format!("{word:<9}") } else { word }
}

/// What the fields read: parts of a wall-clock time or of an interval.
struct Parts {
    year: i64,
    month: i64,
    day: i64,
    /// Days since 1970; `None` for intervals.
    date: Option<i64>,
    hour: i64,
    minute: i64,
    second: i64,
    micros: i64,
    /// Seconds east and the zone's name.
    zone: Option<(i64, String)>,
}

/// A wall-clock time; `zone` has its seconds east of Greenwich and its name.
pub(super) fn format(local: i64, zone: Option<(i64, String)>, template: &str) -> String {
    let days = local.div_euclid(DAY_MICROS);
    let time = local.rem_euclid(DAY_MICROS);
    let date = civil(days);
    show(
        &Parts {
            year: date.year,
            month: date.month,
            day: date.day,
            date: Some(days),
            hour: time / 3_600_000_000,
            minute: time / 60_000_000 % 60,
            second: time / 1_000_000 % 60,
            micros: time % 1_000_000,
            zone,
        },
        template,
    )
}

pub(super) fn format_interval(value: Interval, template: &str) -> String {
    show(
        &Parts {
            year: i64::from(value.months / 12),
            month: i64::from(value.months % 12),
            day: i64::from(value.days),
            date: None,
            hour: value.micros / 3_600_000_000,
            minute: value.micros / 60_000_000 % 60,
            second: value.micros / 1_000_000 % 60,
            micros: value.micros % 1_000_000,
            zone: None,
        },
        template,
    )
}

fn show(parts: &Parts, template: &str) -> String {
    let mut out = String::new();
    for piece in pieces(template) {
        match piece {
            Piece::Literal(c) => out.push(c),
            Piece::Field { name, written, fill, ordinal: suffix } => {
                let shown = field(parts, name, written, fill);
                if let Some(suffix) = suffix {
                    let ending = ordinal(&shown);
                    out.push_str(&shown);
                    if suffix.starts_with('T') {
                        out.push_str(&ending.to_ascii_uppercase());
                    } else {
                        out.push_str(ending);
                    }
                } else {
                    out.push_str(&shown);
                }
            }
        }
    }
    out
}

fn field(parts: &Parts, name: &str, written: &str, fill: bool) -> String {
    let number = |value: i64, width: usize| padded(value, width, fill);
    let days = parts.date.unwrap_or(0);
    let weekday = (days + 4).rem_euclid(7);
    // Years before Christ are shown without a sign; BC says it.
    let shown_year =
        if parts.year > 0 || parts.date.is_none() { parts.year } else { 1 - parts.year };
    let day_of_year = days - days_of(parts.year, 1, 1) + 1;
    let (iso_year, week) = iso_week(days);
    let hour12 = (parts.hour.rem_euclid(12) + 11) % 12 + 1;
    let month_name = |short: bool| {
        let name = MONTHS.get((parts.month - 1).max(0) as usize).copied().unwrap_or("");
        if parts.month < 1 {
            ""
        } else if short {
            &name[..3]
        } else {
            name
        }
    };
    match name {
        "YYYY" => number(shown_year, 4),
        "YYY" => number(shown_year % 1000, 3),
        "YY" => number(shown_year % 100, 2),
        "Y" => number(shown_year % 10, 1),
        "Y,YYY" => format!("{},{:03}", shown_year / 1000, shown_year % 1000),
        "IYYY" => number(iso_year, 4),
        "IYY" => number(iso_year % 1000, 3),
        "IY" => number(iso_year % 100, 2),
        "I" => number(iso_year % 10, 1),
        "MM" => number(parts.month, 2),
        "MONTH" => blank_padded(cased(month_name(false), written), fill),
        "MON" => cased(month_name(true), written),
        "RM" => {
            let numeral = roman(parts.month).unwrap_or_default();
            let numeral =
                if written.starts_with('R') { numeral } else { numeral.to_ascii_lowercase() };
            if fill { format!("{numeral:<4}") } else { numeral }
        }
        "DD" => number(parts.day, 2),
        "DDD" => number(if parts.date.is_some() { day_of_year } else { parts.day }, 3),
        "IDDD" => number((week - 1) * 7 + (weekday + 6) % 7 + 1, 3),
        "D" => number(weekday + 1, 1),
        "ID" => number((weekday + 6) % 7 + 1, 1),
        "DAY" => blank_padded(cased(DAYS[weekday as usize], written), fill),
        "DY" => cased(&DAYS[weekday as usize][..3], written),
        "WW" => number((day_of_year - 1) / 7 + 1, 2),
        "W" => number((parts.day - 1) / 7 + 1, 1),
        "IW" => number(week, 2),
        "Q" => number((parts.month - 1).max(0) / 3 + 1, 1),
        "CC" => number((shown_year + 99) / 100, 2),
        "J" => number(days + 2_440_588, 1),
        "HH24" => number(parts.hour, 2),
        "HH12" | "HH" => number(hour12, 2),
        "MI" => number(parts.minute, 2),
        "SS" => number(parts.second, 2),
        "SSSS" | "SSSSS" => (parts.hour * 3600 + parts.minute * 60 + parts.second).to_string(),
        "MS" | "FF3" => format!("{:03}", parts.micros / 1000),
        "US" | "FF6" => format!("{:06}", parts.micros),
        "FF1" => format!("{:01}", parts.micros / 100_000),
        "FF2" => format!("{:02}", parts.micros / 10_000),
        "FF4" => format!("{:04}", parts.micros / 100),
        "FF5" => format!("{:05}", parts.micros / 10),
        "AM" | "PM" => half_day(parts.hour, "AM", "PM", written),
        "A.M." | "P.M." => half_day(parts.hour, "A.M.", "P.M.", written),
        "AD" | "BC" => era(parts.year, "AD", "BC", written),
        "A.D." | "B.C." => era(parts.year, "A.D.", "B.C.", written),
        "TZ" => {
            let name = parts.zone.as_ref().map(|(_, name)| name.clone()).unwrap_or_default();
            if written.starts_with('T') { name } else { name.to_ascii_lowercase() }
        }
        "OF" => {
            let east = parts.zone.as_ref().map_or(0, |(east, _)| *east);
            let (hours, minutes) = (east.abs() / 3600, east.abs() / 60 % 60);
            let sign = if east < 0 { '-' } else { '+' };
            if minutes == 0 {
                format!("{sign}{hours:02}")
            } else {
                format!("{sign}{hours:02}:{minutes:02}")
            }
        }
        "TZH" => {
            let east = parts.zone.as_ref().map_or(0, |(east, _)| *east);
            format!("{}{:02}", if east < 0 { '-' } else { '+' }, east.abs() / 3600)
        }
        "TZM" => {
            let east = parts.zone.as_ref().map_or(0, |(east, _)| *east);
            format!("{:02}", east.abs() / 60 % 60)
        }
        _ => String::new(),
    }
}

fn half_day(hour: i64, am: &str, pm: &str, written: &str) -> String {
    let word = if hour.rem_euclid(24) < 12 { am } else { pm };
    if written.starts_with(|c: char| c.is_ascii_lowercase()) {
        word.to_ascii_lowercase()
    } else {
        word.to_owned()
    }
}

fn era(year: i64, ad: &str, bc: &str, written: &str) -> String {
    let word = if year > 0 { ad } else { bc };
    if written.starts_with(|c: char| c.is_ascii_lowercase()) {
        word.to_ascii_lowercase()
    } else {
        word.to_owned()
    }
}

/// What a text said, field by field.
#[derive(Default)]
struct Read {
    year: Option<i64>,
    month: Option<i64>,
    day: Option<i64>,
    day_of_year: Option<i64>,
    julian: Option<i64>,
    iso_year: Option<i64>,
    iso_week: Option<i64>,
    iso_day: Option<i64>,
    hour: Option<i64>,
    twelve: bool,
    afternoon: Option<bool>,
    minute: i64,
    second: i64,
    day_seconds: Option<i64>,
    micros: i64,
    before_christ: bool,
}

/// Reads a text by a template: (days since 1970, microseconds of the day).
pub(super) fn parse(input: &str, template: &str) -> Result<(i64, i64)> {
    let pieces = pieces(template);
    let mut read = Read::default();
    let mut rest = input.trim_start();
    for (position, piece) in pieces.iter().enumerate() {
        match piece {
            Piece::Literal(c) if c.is_whitespace() => rest = rest.trim_start(),
            Piece::Literal(c) if !c.is_alphanumeric() => {
                // A separator matches any one separator, or nothing.
                let trimmed = rest.trim_start();
                if let Some(next) = trimmed.chars().next().filter(|c| c.is_ascii_punctuation()) {
                    rest = &trimmed[next.len_utf8()..];
                } else {
                    rest = trimmed;
                }
            }
            Piece::Literal(_) => {
                rest = rest.chars().next().map_or("", |c| &rest[c.len_utf8()..]);
            }
            Piece::Field { name, fill, ordinal, .. } => {
                rest = rest.trim_start();
                if rest.is_empty() {
                    break;
                }
                let next_is_digit = matches!(pieces.get(position + 1), Some(Piece::Field { .. }));
                rest = read_field(&mut read, name, rest, *fill && next_is_digit)?;
                if ordinal.is_some() {
                    rest = rest.get(2..).unwrap_or("");
                }
            }
        }
    }
    finish(&read, input)
}

fn bad_value(text: &str, field: &str, detail: &str) -> ValueError {
    ValueError::new(
        ValueErrorKind::InvalidDatetime,
        format!("invalid value \"{text}\" for \"{field}\""),
    )
    .with_detail(detail)
}

/// Takes a number from the front: exactly `width` characters where another field follows at once, else all digits.
fn take_number<'a>(
    text: &'a str,
    field: &str,
    width: usize,
    fixed: bool,
) -> Result<(i64, &'a str)> {
    let sign = usize::from(text.starts_with(['-', '+']));
    let digits = text[sign..].bytes().take_while(u8::is_ascii_digit).count();
    let end = if fixed { (sign + digits).min(width) } else { sign + digits };
    text[..end].parse::<i64>().map(|value| (value, &text[end..])).map_err(|_| {
        let shown = text.chars().take(width).collect::<String>();
        bad_value(&shown, field, "Value must be an integer.")
    })
}

fn take_name<'a>(
    text: &'a str,
    field: &str,
    names: &[&str],
    short: bool,
) -> Result<(usize, &'a str)> {
    for (position, name) in names.iter().enumerate() {
        let name = if short { &name[..3] } else { name };
        if text.get(..name.len()).is_some_and(|head| head.eq_ignore_ascii_case(name)) {
            return Ok((position, &text[name.len()..]));
        }
    }
    let shown = text.split_whitespace().next().unwrap_or("");
    Err(bad_value(
        shown,
        field,
        "The given value did not match any of the allowed values for this field.",
    ))
}

fn read_field<'a>(read: &mut Read, name: &str, text: &'a str, fixed: bool) -> Result<&'a str> {
    let number = |width: usize| take_number(text, name, width, fixed);
    let rest = match name {
        "YYYY" | "IYYY" => {
            let (value, rest) = number(4)?;
            if name == "YYYY" {
                read.year = Some(value)
            } else {
                read.iso_year = Some(value)
            }
            rest
        }
        "Y,YYY" => {
            let plain = text.replacen(',', "", 1);
            let digits = plain.bytes().take_while(u8::is_ascii_digit).count();
            read.year = plain[..digits].parse().ok();
            text.get(digits + 1..).unwrap_or("")
        }
        "YYY" | "YY" | "Y" | "IYY" | "IY" | "I" => {
            let (value, rest) = number(name.trim_start_matches('I').len().max(1))?;
            let year = match value {
                0..70 => value + 2000,
                70..100 => value + 1900,
                100..520 => value + 2000,
                520..1000 => value + 1000,
                value => value,
            };
            if name.starts_with('I') {
                read.iso_year = Some(year)
            } else {
                read.year = Some(year)
            }
            rest
        }
        "MM" => {
            let (value, rest) = number(2)?;
            read.month = Some(value);
            rest
        }
        "MONTH" | "MON" => {
            let (month, rest) = match take_name(text, name, &MONTHS, false) {
                Ok(found) if name == "MONTH" => found,
                _ => take_name(text, name, &MONTHS, name == "MON")?,
            };
            read.month = Some(month as i64 + 1);
            rest
        }
        "RM" => {
            let letters = text.bytes().take_while(|b| b"IVXivx".contains(b)).count();
            let wanted = text[..letters].to_ascii_uppercase();
            read.month = (1..=12).find(|month| roman(*month).as_deref() == Some(&wanted));
            &text[letters..]
        }
        "DD" => {
            let (value, rest) = number(2)?;
            read.day = Some(value);
            rest
        }
        "DDD" => {
            let (value, rest) = number(3)?;
            read.day_of_year = Some(value);
            rest
        }
        "J" => {
            let (value, rest) = take_number(text, name, 10, false)?;
            read.julian = Some(value);
            rest
        }
        "IW" => {
            let (value, rest) = number(2)?;
            read.iso_week = Some(value);
            rest
        }
        "ID" => {
            let (value, rest) = number(1)?;
            read.iso_day = Some(value);
            rest
        }
        "D" | "Q" | "W" => number(1)?.1,
        "WW" | "CC" => number(2)?.1,
        "IDDD" => number(3)?.1,
        "DAY" | "DY" => take_name(text, name, &DAYS, name == "DY")?.1,
        "HH24" => {
            let (value, rest) = number(2)?;
            read.hour = Some(value);
            rest
        }
        "HH12" | "HH" => {
            let (value, rest) = number(2)?;
            read.hour = Some(value);
            read.twelve = true;
            rest
        }
        "MI" => {
            let (value, rest) = number(2)?;
            read.minute = value;
            rest
        }
        "SS" => {
            let (value, rest) = number(2)?;
            read.second = value;
            rest
        }
        "SSSS" | "SSSSS" => {
            let (value, rest) = number(5)?;
            read.day_seconds = Some(value);
            rest
        }
        "MS" | "US" | "FF1" | "FF2" | "FF3" | "FF4" | "FF5" | "FF6" => {
            let width = match name {
                "MS" => 3,
                "US" => 6,
                name => usize::from(name.as_bytes()[2] - b'0'),
            };
            let digits = text.bytes().take(width).take_while(u8::is_ascii_digit).count();
            if digits == 0 {
                return Err(bad_value(text, name, "Value must be an integer."));
            }
            // 5 milliseconds after "." are 500: digits count from the point.
            let value = text[..digits].parse::<i64>().unwrap_or(0);
            read.micros = value * 10i64.pow(6 - digits as u32);
            &text[digits..]
        }
        "AM" | "PM" | "A.M." | "P.M." => {
            let length = name.len();
            let half = text.get(..length).unwrap_or("").to_ascii_uppercase();
            read.afternoon = match half.bytes().next() {
                Some(b'A') => Some(false),
                Some(b'P') => Some(true),
                _ => {
                    return Err(bad_value(
                        &half,
                        name,
                        "The given value did not match any of the allowed values for this field.",
                    ));
                }
            };
            text.get(length..).unwrap_or("")
        }
        "AD" | "BC" | "A.D." | "B.C." => {
            read.before_christ = text.starts_with(['B', 'b']);
            text.get(name.len()..).unwrap_or("")
        }
        other => {
            return Err(ValueError::new(
                ValueErrorKind::Unsupported,
                format!("formatting field \"{other}\" is only supported in to_char"),
            ));
        }
    };
    Ok(rest)
}

fn finish(read: &Read, input: &str) -> Result<(i64, i64)> {
    let out_of_range = || {
        ValueError::new(
            ValueErrorKind::DatetimeOverflow,
            format!("date/time field value out of range: \"{input}\""),
        )
    };
    let mut hour = read.hour.unwrap_or(0);
    if read.twelve || read.afternoon.is_some() {
        if !(1..=12).contains(&hour) {
            return Err(ValueError::new(
                ValueErrorKind::InvalidDatetime,
                format!("hour \"{hour}\" is invalid for the 12-hour clock"),
            )
            .with_hint("Use the 24-hour clock, or give an hour between 1 and 12."));
        }
        hour %= 12;
        if read.afternoon == Some(true) {
            hour += 12;
        }
    }
    let in_day =
        (0..24).contains(&hour) && (0..60).contains(&read.minute) && (0..60).contains(&read.second);
    if !in_day {
        return Err(out_of_range());
    }
    let seconds = read.day_seconds.unwrap_or(hour * 3600 + read.minute * 60 + read.second);
    let time = seconds * 1_000_000 + read.micros;
    if let Some(julian) = read.julian {
        return Ok((julian - 2_440_588, time));
    }
    if let Some(year) = read.iso_year {
        let week = read.iso_week.unwrap_or(1);
        let fourth = days_of(year, 1, 4);
        let monday = fourth - (fourth + 3).rem_euclid(7);
        return Ok((monday + (week - 1) * 7 + read.iso_day.unwrap_or(1) - 1, time));
    }
    let mut year = read.year.unwrap_or(0);
    if read.before_christ && year > 0 {
        year = -year;
    }
    // A missing year is 1 BC, written 0000.
    let calendar = if year < 0 { year + 1 } else { year };
    if let Some(day) = read.day_of_year {
        let length = if days_in_month(calendar, 2) == 29 { 366 } else { 365 };
        if !(1..=length).contains(&day) {
            return Err(out_of_range());
        }
        return Ok((days_of(calendar, 1, 1) + day - 1, time));
    }
    let (month, day) = (read.month.unwrap_or(1), read.day.unwrap_or(1));
    let written = if calendar > 0 { calendar } else { calendar - 1 };
    make_date(written, month, day).map(|days| (days, time)).map_err(|_| out_of_range())
}
