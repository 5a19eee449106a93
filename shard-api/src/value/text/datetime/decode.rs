//! Makes a date and time of the fields of an input.
//!
//! Fields are taken from left to right; what a number means depends on which parts are known already. A part that
//! comes twice is an error.

use super::{
    super::ValueSettings,
    Failure,
    fields::{Field, Kind, cut, fraction_micros, leading_i32, leading_int},
    words::{Word, date_word},
};
use crate::value::{
    calendar::{
        JULIAN_EPOCH, MICROS_PER_DAY, MICROS_PER_HOUR, MICROS_PER_MINUTE, MICROS_PER_SECOND,
        civil_from_days, days_from_civil, days_in_month,
    },
    zone::{self, Zone},
};

/// A local date and time with its offset from UTC in seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    pub(super) days: i64,
    pub(super) micros: i64,
    pub(super) offset: i32,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Decoded {
    At(Clock),
    Infinity,
    NegativeInfinity,
}

/// Hours of a zone's displacement at most.
const OFFSET_HOURS_MAX: i32 = 15;

// Which parts are known, as bits.
const YEAR: u32 = 1;
const MONTH: u32 = 1 << 1;
const DAY: u32 = 1 << 2;
const DAY_OF_YEAR: u32 = 1 << 3;
const TIME: u32 = 1 << 4;
const ZONE: u32 = 1 << 5;
const DAYLIGHT: u32 = 1 << 6;
const HALF_DAY: u32 = 1 << 7;
const ERA: u32 = 1 << 8;
const WEEKDAY: u32 = 1 << 9;
const SPECIAL: u32 = 1 << 10;
const DATE: u32 = YEAR | MONTH | DAY;

/// A label in front of the next field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Label {
    Julian,
    Time,
    Other,
}

#[derive(Debug, Default)]
struct Parts {
    known: u32,
    year: i64,
    month: i64,
    day: i64,
    day_of_year: i64,
    /// Since midnight, up to 24 hours and the second 60.
    micros: i64,
    hour: i64,
    /// Seconds east of UTC.
    offset: i32,
    zone: Option<Zone>,
    two_digit_year: bool,
    text_month: bool,
    julian: bool,
    bc: bool,
    pm: Option<bool>,
    special: Option<Word>,
}

/// A date with or without a time, and a zone (the session's where none is given).
pub(super) fn date_time(text: &str, settings: &ValueSettings) -> Result<Decoded, Failure> {
    let fields = cut(text)?;
    let mut parts = Parts::default();
    parts.take_all(&fields, settings, false)?;
    let days = parts.check_date()?;
    parts.apply_half_day()?;
    match parts.special {
        Some(Word::Infinity) => return Ok(Decoded::Infinity),
        Some(Word::NegativeInfinity) => return Ok(Decoded::NegativeInfinity),
        Some(_) => return Ok(Decoded::At(Clock { days: 0, micros: 0, offset: 0 })),
        None => {}
    }
    if parts.known & DATE != DATE {
        return Err(Failure::Format);
    }
    let local = days.saturating_mul(MICROS_PER_DAY).saturating_add(parts.micros);
    let offset = match parts.zone {
        Some(zone) if parts.known & DAYLIGHT == 0 => zone.offset_of_local(local),
        Some(_) => return Err(Failure::Format),
        None if parts.known & ZONE != 0 => parts.offset,
        None if parts.known & DAYLIGHT != 0 => return Err(Failure::Format),
        None => Zone::Named(settings.time_zone).offset_of_local(local),
    };
    Ok(Decoded::At(Clock { days, micros: parts.micros, offset }))
}

/// A time of day; a date and a zone may stand with it and do not count.
pub(super) fn time_of_day(text: &str, settings: &ValueSettings) -> Result<i64, Failure> {
    let fields = cut(text)?;
    let mut parts = Parts::default();
    parts.take_all(&fields, settings, true)?;
    if parts.special.is_some() {
        return Err(Failure::Format);
    }
    if parts.known & DATE != 0 {
        parts.check_date()?;
    }
    parts.apply_half_day()?;
    if parts.known & TIME == 0 || parts.micros > MICROS_PER_DAY {
        return Err(Failure::Format);
    }
    // Whether a named zone was in summer time depends on the date.
    if parts.zone.is_some() && parts.known & DATE != DATE {
        return Err(Failure::Format);
    }
    Ok(parts.micros)
}

impl Parts {
    fn take_all(
        &mut self,
        fields: &[Field],
        settings: &ValueSettings,
        time_only: bool,
    ) -> Result<(), Failure> {
        let mut label = None;
        for (i, field) in fields.iter().enumerate() {
            let new = match field.kind {
                Kind::Date if time_only => {
                    self.take_date_of_time(&field.text, i, fields, settings)?
                }
                Kind::Date => self.take_date(&field.text, &mut label, settings)?,
                Kind::Time => {
                    match label.take() {
                        None | Some(Label::Time) => {}
                        Some(_) => return Err(Failure::Format),
                    }
                    self.take_time(&field.text)?
                }
                Kind::Signed => {
                    self.offset = offset(&field.text)?;
                    ZONE
                }
                Kind::Number => match label.take() {
                    Some(label) => self.take_labelled(&field.text, label)?,
                    None if time_only => self.take_time_number(&field.text, settings)?,
                    None => self.take_number(&field.text, settings)?,
                },
                Kind::Word | Kind::SignedWord => {
                    let next = fields.get(i + 1).map(|field| field.kind);
                    self.take_word(&field.text, next, &mut label, settings, time_only)?
                }
            };
            if self.known & new != 0 {
                return Err(Failure::Format);
            }
            self.known |= new;
        }
        // A label that labels nothing is passed over, as in Postgres.
        Ok(())
    }

    /// A field with `-`, `/` or `.` in it.
    fn take_date(
        &mut self,
        text: &str,
        label: &mut Option<Label>,
        settings: &ValueSettings,
    ) -> Result<u32, Failure> {
        let first_is_digit = text.starts_with(|c: char| c.is_ascii_digit());
        if *label == Some(Label::Julian) {
            *label = None;
            let (julian, rest) = leading_i32(text)?;
            self.set_julian(julian.into());
            self.offset = offset(rest)?;
            return Ok(DATE | TIME | ZONE);
        }
        if label.is_none() && self.known & (MONTH | DAY) != MONTH | DAY {
            return self.take_date_parts(text, settings);
        }
        if !first_is_digit && label.is_none() {
            let zone = zone::by_name(text);
            self.zone = Some(zone.ok_or_else(|| Failure::UnknownZone(text.to_string()))?);
            return Ok(ZONE);
        }
        if label.take().is_some_and(|label| label != Label::Time) {
            return Err(Failure::Format);
        }
        self.take_time_with_offset(text, self.known)
    }

    /// The same where only the time is wanted.
    fn take_date_of_time(
        &mut self,
        text: &str,
        at: usize,
        fields: &[Field],
        settings: &ValueSettings,
    ) -> Result<u32, Failure> {
        let is = |field: Option<&Field>, kind| field.is_some_and(|field| field.kind == kind);
        let has_more = fields.len() >= 2;
        if at == 0 && has_more && (is(fields.last(), Kind::Date) || is(fields.get(1), Kind::Time)) {
            return self.take_date_parts(text, settings);
        }
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            return self.take_time_with_offset(text, self.known | DATE);
        }
        let zone = zone::by_name(text);
        self.zone = Some(zone.ok_or_else(|| Failure::UnknownZone(text.to_string()))?);
        Ok(ZONE)
    }

    /// A time without colons and an offset: `101500-08`.
    fn take_time_with_offset(&mut self, text: &str, known: u32) -> Result<u32, Failure> {
        if self.known & TIME != 0 {
            return Err(Failure::Format);
        }
        let dash = text.find('-').ok_or(Failure::Format)?;
        self.offset = offset(&text[dash..])?;
        Ok(self.take_joined(&text[..dash], known)? | ZONE)
    }

    /// All of a date in one field.
    fn take_date_parts(&mut self, text: &str, settings: &ValueSettings) -> Result<u32, Failure> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            rest = rest.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
            let digits = rest.starts_with(|c: char| c.is_ascii_digit());
            let same = |c: char| {
                if digits { c.is_ascii_digit() } else { c.is_ascii_alphabetic() }
            };
            let end = rest.find(|c| !same(c)).unwrap_or(rest.len());
            if end == 0 {
                return Err(Failure::Format);
            }
            pieces.push(&rest[..end]);
            // The character behind a piece only separates.
            rest = rest.get(end + usize::from(end < rest.len())..).unwrap_or("");
        }
        let mut known = self.known;
        let mut text_month = false;
        for piece in &pieces {
            if !piece.starts_with(|c: char| c.is_ascii_alphabetic()) {
                continue;
            }
            match date_word(piece) {
                Some(Word::Ignored) => continue,
                Some(Word::Month(month)) if known & MONTH == 0 => {
                    self.month = month.into();
                    text_month = true;
                    known |= MONTH;
                }
                _ => return Err(Failure::Format),
            }
        }
        for piece in pieces {
            if piece.starts_with(|c: char| c.is_ascii_digit()) {
                let new = self.take_plain(piece, text_month, known, settings)?;
                if known & new != 0 {
                    return Err(Failure::Format);
                }
                known |= new;
            }
        }
        // A date in one field comes before everything else, but for a zone.
        if known & !(DAY_OF_YEAR | ZONE) != DATE {
            return Err(Failure::Format);
        }
        Ok(known & !self.known)
    }

    /// `hh:mm`, `hh:mm:ss`, with a fraction; `mm:ss.fff`.
    fn take_time(&mut self, text: &str) -> Result<u32, Failure> {
        let (mut hour, rest) = leading_i32(text)?;
        let rest = rest.strip_prefix(':').ok_or(Failure::Format)?;
        let (mut minute, rest) = leading_i32(rest)?;
        let (mut second, mut micros) = (0, 0);
        if rest.starts_with('.') {
            micros = fraction_micros(rest)?;
            (hour, minute, second) = (0, hour, minute);
        } else if let Some(rest) = rest.strip_prefix(':') {
            let rest = {
                let (value, rest) = leading_i32(rest)?;
                second = value;
                rest
            };
            if !rest.is_empty() {
                micros = fraction_micros(rest)?;
            }
        } else if !rest.is_empty() {
            return Err(Failure::Format);
        }
        self.set_time(hour.into(), minute.into(), second.into(), micros)
    }

    fn set_time(
        &mut self,
        hour: i64,
        minute: i64,
        second: i64,
        micros: i64,
    ) -> Result<u32, Failure> {
        if !(0..=24).contains(&hour)
            || !(0..60).contains(&minute)
            || !(0..=60).contains(&second)
            || !(0..=MICROS_PER_SECOND).contains(&micros)
        {
            return Err(Failure::Field);
        }
        self.hour = hour;
        self.micros = hour * MICROS_PER_HOUR
            + minute * MICROS_PER_MINUTE
            + second * MICROS_PER_SECOND
            + micros;
        if self.micros > MICROS_PER_DAY {
            return Err(Failure::Field);
        }
        Ok(TIME)
    }

    fn set_julian(&mut self, julian: i64) {
        let (year, month, day) = civil_from_days(julian - JULIAN_EPOCH);
        (self.year, self.month, self.day) = (year, month.into(), day.into());
        self.julian = true;
    }

    /// A number behind `j` or `t`.
    fn take_labelled(&mut self, text: &str, label: Label) -> Result<u32, Failure> {
        let (value, rest) = leading_i32(text)?;
        if !rest.is_empty() && !rest.starts_with('.') {
            return Err(Failure::Format);
        }
        match label {
            Label::Julian if value < 0 => Err(Failure::Field),
            Label::Julian => {
                self.set_julian(value.into());
                if rest.is_empty() {
                    return Ok(DATE);
                }
                let part: f64 = format!("0{rest}").parse().map_err(|_| Failure::Format)?;
                self.micros = (part * MICROS_PER_DAY as f64) as i64;
                self.hour = self.micros / MICROS_PER_HOUR;
                Ok(DATE | TIME)
            }
            Label::Time => match self.take_joined(text, self.known | DATE)? {
                TIME => Ok(TIME),
                _ => Err(Failure::Format),
            },
            Label::Other => Err(Failure::Format),
        }
    }

    /// A bare number in a date.
    fn take_number(&mut self, text: &str, settings: &ValueSettings) -> Result<u32, Failure> {
        match text.find('.') {
            Some(_) if self.known & DATE == 0 => self.take_date_parts(text, settings),
            Some(point) if point > 2 => self.take_joined(text, self.known),
            None if text.len() >= 6 && (self.known & DATE == 0 || self.known & TIME == 0) => {
                self.take_joined(text, self.known)
            }
            _ => self.take_plain(text, self.text_month, self.known, settings),
        }
    }

    /// A bare number where a time is expected.
    fn take_time_number(&mut self, text: &str, settings: &ValueSettings) -> Result<u32, Failure> {
        match text.find('.') {
            Some(point) if point > 2 => self.take_joined(text, self.known | DATE),
            None if text.len() > 4 => self.take_joined(text, self.known | DATE),
            _ => self.take_plain(text, false, self.known | DATE, settings),
        }
    }

    /// One part of a date, by what is `known` before it.
    fn take_plain(
        &mut self,
        text: &str,
        text_month: bool,
        known: u32,
        settings: &ValueSettings,
    ) -> Result<u32, Failure> {
        let (value, rest) = leading_int(text)?;
        if rest.len() == text.len() {
            return Err(Failure::Format);
        }
        let value = i64::from(i32::try_from(value).map_err(|_| Failure::Field)?);
        if rest.starts_with('.') {
            if text.len() - rest.len() > 2 {
                return self.take_joined(text, known | DATE);
            }
            fraction_micros(rest)?;
        } else if !rest.is_empty() {
            return Err(Failure::Format);
        }
        let length = text.len();
        if length == 3 && known & DATE == YEAR && (1..=366).contains(&value) {
            self.day_of_year = value;
            return Ok(DAY_OF_YEAR | MONTH | DAY);
        }
        let part = match known & DATE {
            0 if length >= 3 => YEAR,
            0 if settings.day_first => DAY,
            0 => MONTH,
            YEAR => MONTH,
            MONTH if text_month && length >= 3 => YEAR,
            MONTH => DAY,
            known if known == YEAR | MONTH => {
                if text_month && length >= 3 && self.two_digit_year {
                    // The number taken for the year was the day.
                    self.day = self.year;
                    self.year = value;
                    self.two_digit_year = false;
                    return Ok(DAY);
                }
                DAY
            }
            DAY => MONTH,
            known if known == MONTH | DAY => YEAR,
            DATE => return self.take_joined(text, known),
            _ => return Err(Failure::Format),
        };
        match part {
            YEAR => {
                self.year = value;
                self.two_digit_year = length <= 2;
            }
            MONTH => self.month = value,
            _ => self.day = value,
        }
        Ok(part)
    }

    /// Digits of a whole date (`20240102`) or time (`101500.5`, `1015`).
    fn take_joined(&mut self, text: &str, known: u32) -> Result<u32, Failure> {
        let (digits, micros) = match text.find('.') {
            Some(point) => (&text[..point], fraction_micros(&text[point..])?),
            None => (text, 0),
        };
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Failure::Format);
        }
        let number = |part: &str| part.parse::<i32>().map(i64::from).map_err(|_| Failure::Field);
        let length = digits.len();
        if digits.len() == text.len() && known & DATE != DATE && length >= 6 {
            self.day = number(&digits[length - 2..])?;
            self.month = number(&digits[length - 4..length - 2])?;
            self.year = number(&digits[..length - 4])?;
            self.two_digit_year |= length == 6;
            return Ok(DATE);
        }
        if known & TIME != 0 {
            return Err(Failure::Format);
        }
        match length {
            6 => self.set_time(
                number(&digits[..2])?,
                number(&digits[2..4])?,
                number(&digits[4..])?,
                micros,
            ),
            4 => self.set_time(number(&digits[..2])?, number(&digits[2..])?, 0, micros),
            _ => Err(Failure::Format),
        }
    }

    fn take_word(
        &mut self,
        text: &str,
        next: Option<Kind>,
        label: &mut Option<Label>,
        settings: &ValueSettings,
        time_only: bool,
    ) -> Result<u32, Failure> {
        // Abbreviations of zones go before other words.
        if let Some(minutes) = zone::abbreviation(text) {
            self.offset = minutes * 60;
            return Ok(ZONE);
        }
        let Some(word) = date_word(text) else {
            self.zone = Some(zone::by_name(text).ok_or(Failure::Format)?);
            return Ok(ZONE);
        };
        let new = match word {
            Word::Ignored => 0,
            Word::Month(_) | Word::Weekday if time_only => return Err(Failure::Format),
            Word::Month(month) => {
                let swaps = self.known & MONTH != 0
                    && !self.text_month
                    && self.known & DAY == 0
                    && (1..=31).contains(&self.month);
                self.text_month = true;
                if swaps {
                    // The number taken for the month was the day.
                    self.day = self.month;
                }
                self.month = month.into();
                if swaps { DAY } else { MONTH }
            }
            Word::Weekday => WEEKDAY,
            Word::Am | Word::Pm => {
                self.pm = Some(word == Word::Pm);
                HALF_DAY
            }
            Word::Ad | Word::Bc => {
                self.bc = word == Word::Bc;
                ERA
            }
            Word::Daylight => {
                self.offset += 3600;
                DAYLIGHT
            }
            Word::Midnight => {
                self.micros = 0;
                TIME | ZONE
            }
            Word::Now => self.take_now(settings, time_only),
            Word::Today if !time_only => self.take_day(settings, 0),
            Word::Tomorrow if !time_only => self.take_day(settings, 1),
            Word::Yesterday if !time_only => self.take_day(settings, -1),
            Word::Epoch | Word::Infinity | Word::NegativeInfinity if !time_only => {
                self.special = Some(word);
                SPECIAL
            }
            Word::IsoTime => {
                let follows = matches!(next, Some(Kind::Number | Kind::Time | Kind::Date));
                if (self.known & DATE != DATE && !time_only) || !follows {
                    return Err(Failure::Format);
                }
                *label = Some(Label::Time);
                0
            }
            Word::Julian => {
                *label = Some(Label::Julian);
                0
            }
            Word::Unit => {
                *label = Some(Label::Other);
                0
            }
            Word::Today
            | Word::Tomorrow
            | Word::Yesterday
            | Word::Epoch
            | Word::Infinity
            | Word::NegativeInfinity => return Err(Failure::Format),
        };
        Ok(new)
    }

    fn take_now(&mut self, settings: &ValueSettings, time_only: bool) -> u32 {
        self.offset = Zone::Named(settings.time_zone).offset_at(settings.now_micros);
        let local = settings.now_micros + i64::from(self.offset) * MICROS_PER_SECOND;
        self.micros = local.rem_euclid(MICROS_PER_DAY);
        self.hour = self.micros / MICROS_PER_HOUR;
        if time_only {
            return TIME;
        }
        self.set_days(local.div_euclid(MICROS_PER_DAY));
        DATE | TIME | ZONE
    }

    fn take_day(&mut self, settings: &ValueSettings, shift: i64) -> u32 {
        let offset = Zone::Named(settings.time_zone).offset_at(settings.now_micros);
        let local = settings.now_micros + i64::from(offset) * MICROS_PER_SECOND;
        self.set_days(local.div_euclid(MICROS_PER_DAY) + shift);
        DATE
    }

    fn set_days(&mut self, days: i64) {
        self.set_julian(days + JULIAN_EPOCH);
    }

    /// Fixes era and century of the year and checks all; returns days since 1970.
    fn check_date(&mut self) -> Result<i64, Failure> {
        if self.known & YEAR != 0 && !self.julian {
            if self.bc {
                if self.year <= 0 {
                    return Err(Failure::Field);
                }
                self.year = 1 - self.year;
            } else if self.two_digit_year {
                self.year += match self.year {
                    0..70 => 2000,
                    70..100 => 1900,
                    _ => 0,
                };
            } else if self.year <= 0 {
                return Err(Failure::Field);
            }
        }
        if self.known & DAY_OF_YEAR != 0 {
            let days = days_from_civil(self.year, 1, 1) + self.day_of_year - 1;
            let (year, month, day) = civil_from_days(days);
            (self.year, self.month, self.day) = (year, month.into(), day.into());
        }
        if self.known & MONTH != 0 && !(1..=12).contains(&self.month)
            || self.known & DAY != 0 && !(1..=31).contains(&self.day)
        {
            return Err(Failure::MonthOrDay);
        }
        if self.known & DATE != DATE {
            return Ok(0);
        }
        let month = self.month as u32;
        if self.day > i64::from(days_in_month(self.year, month)) {
            return Err(Failure::Field);
        }
        Ok(days_from_civil(self.year, month, self.day as u32))
    }

    fn apply_half_day(&mut self) -> Result<(), Failure> {
        let Some(pm) = self.pm else {
            return Ok(());
        };
        if self.hour > 12 {
            return Err(Failure::Field);
        }
        match (pm, self.hour) {
            (false, 12) => self.micros -= 12 * MICROS_PER_HOUR,
            (true, hour) if hour != 12 => self.micros += 12 * MICROS_PER_HOUR,
            _ => {}
        }
        Ok(())
    }
}

/// `+hh`, `+hhmm`, `+hh:mm`, `+hh:mm:ss` to seconds east of UTC.
fn offset(text: &str) -> Result<i32, Failure> {
    let negative = match text.as_bytes().first() {
        Some(b'-') => true,
        Some(b'+') => false,
        _ => return Err(Failure::Format),
    };
    let displacement = |_| Failure::Displacement;
    let digits = &text[1..];
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(Failure::Format);
    }
    let (mut hours, mut rest) = leading_i32(digits).map_err(displacement)?;
    let (mut minutes, mut seconds) = (0, 0);
    if let Some(after) = rest.strip_prefix(':') {
        (minutes, rest) = leading_i32(after).map_err(displacement)?;
        if let Some(after) = rest.strip_prefix(':') {
            (seconds, rest) = leading_i32(after).map_err(displacement)?;
        }
    } else if rest.is_empty() && text.len() > 3 {
        (hours, minutes) = (hours / 100, hours % 100);
    }
    if hours > OFFSET_HOURS_MAX || !(0..60).contains(&minutes) || !(0..60).contains(&seconds) {
        return Err(Failure::Displacement);
    }
    if !rest.is_empty() {
        return Err(Failure::Format);
    }
    let total = (hours * 60 + minutes) * 60 + seconds;
    Ok(if negative { -total } else { total })
}
