//! Time zones by name, abbreviation or offset, and their offsets at a moment.
//!
//! Lives here: the only place that asks the zone database. Offsets are seconds east of UTC. Not here: the session's
//! setting (`ValueSettings::time_zone`).

use std::{collections::HashMap, sync::LazyLock};

use chrono::{DateTime, Offset, TimeZone};
use chrono_tz::{TZ_VARIANTS, Tz};

use super::calendar::{
    JULIAN_EPOCH, MICROS_PER_DAY, MICROS_PER_SECOND, civil_from_days, days_from_civil, is_leap,
    weekday,
};

/// A zone of the database, or a fixed offset in seconds east of UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zone {
    Named(Tz),
    Fixed(i32),
}

/// Largest displacement of a zone in hours.
const OFFSET_HOURS_MAX: u32 = 167;

/// The last year whose rules are asked for; later ones are as a like year of the 28 before.
const RULE_YEAR_MAX: i64 = 2065;
const RULE_YEARS: i64 = 28;

static NAMES: LazyLock<HashMap<String, Tz>> =
    LazyLock::new(|| TZ_VARIANTS.iter().map(|tz| (tz.name().to_ascii_lowercase(), *tz)).collect());

/// Abbreviations that Postgres reads by default, with minutes east of UTC.
const ABBREVIATIONS: &[(&str, i32)] = &[
    ("acdt", 630),
    ("acsst", 630),
    ("acst", 570),
    ("act", -300),
    ("acwst", 525),
    ("adt", -180),
    ("aedt", 660),
    ("aesst", 660),
    ("aest", 600),
    ("aft", 270),
    ("akdt", -480),
    ("akst", -540),
    ("almst", 420),
    ("almt", 360),
    ("amst", 240),
    ("amt", -240),
    ("anast", 720),
    ("anat", 720),
    ("arst", -180),
    ("art", -180),
    ("ast", -240),
    ("awsst", 540),
    ("awst", 480),
    ("azost", 0),
    ("azot", -60),
    ("azst", 240),
    ("azt", 240),
    ("bdst", 120),
    ("bdt", 360),
    ("bnt", 480),
    ("bort", 480),
    ("bot", -240),
    ("bra", -180),
    ("brst", -120),
    ("brt", -180),
    ("bst", 60),
    ("btt", 360),
    ("cadt", 630),
    ("cast", 570),
    ("cct", 480),
    ("cdt", -300),
    ("cest", 120),
    ("cet", 60),
    ("cetdst", 120),
    ("chadt", 825),
    ("chast", 765),
    ("chut", 600),
    ("ckt", -600),
    ("clst", -180),
    ("clt", -180),
    ("cot", -300),
    ("cst", -360),
    ("cxt", 420),
    ("davt", 420),
    ("ddut", 600),
    ("easst", -300),
    ("east", -300),
    ("eat", 180),
    ("edt", -240),
    ("eest", 180),
    ("eet", 120),
    ("eetdst", 180),
    ("egst", 0),
    ("egt", -60),
    ("est", -300),
    ("fet", 180),
    ("fjst", 780),
    ("fjt", 720),
    ("fkst", -180),
    ("fkt", -180),
    ("fnst", -60),
    ("fnt", -120),
    ("galt", -360),
    ("gamt", -540),
    ("gest", 240),
    ("get", 240),
    ("gft", -180),
    ("gilt", 720),
    ("gmt", 0),
    ("gyt", -240),
    ("hkt", 480),
    ("hst", -600),
    ("ict", 420),
    ("idt", 180),
    ("iot", 360),
    ("irkst", 480),
    ("irkt", 480),
    ("irt", 210),
    ("ist", 120),
    ("jayt", 540),
    ("jst", 540),
    ("kdt", 600),
    ("kgst", 360),
    ("kgt", 360),
    ("kost", 660),
    ("krast", 420),
    ("krat", 420),
    ("kst", 540),
    ("lhdt", 660),
    ("lhst", 630),
    ("ligt", 600),
    ("lint", 840),
    ("lkt", 330),
    ("magst", 660),
    ("magt", 660),
    ("mart", -570),
    ("mawt", 300),
    ("mdt", -360),
    ("mest", 120),
    ("mesz", 120),
    ("met", 60),
    ("metdst", 120),
    ("mez", 60),
    ("mht", 720),
    ("mmt", 390),
    ("mpt", 600),
    ("msd", 240),
    ("msk", 180),
    ("mst", -420),
    ("must", 300),
    ("mut", 240),
    ("mvt", 300),
    ("myt", 480),
    ("ndt", -150),
    ("nft", -210),
    ("novst", 420),
    ("novt", 420),
    ("npt", 345),
    ("nst", -210),
    ("nut", -660),
    ("nzdt", 780),
    ("nzst", 720),
    ("nzt", 720),
    ("omsst", 360),
    ("omst", 360),
    ("pdt", -420),
    ("pet", -300),
    ("petst", 720),
    ("pett", 720),
    ("pgt", 600),
    ("pht", 480),
    ("pkst", 360),
    ("pkt", 300),
    ("pmdt", -120),
    ("pmst", -180),
    ("pont", 660),
    ("pst", -480),
    ("pwt", 540),
    ("pyst", -180),
    ("pyt", -180),
    ("ret", 240),
    ("sadt", 630),
    ("sast", 120),
    ("sct", 240),
    ("sgt", 480),
    ("taht", -600),
    ("tft", 300),
    ("tjt", 300),
    ("tkt", 780),
    ("tmt", 300),
    ("tot", 780),
    ("trut", 600),
    ("tvt", 720),
    ("uct", 0),
    ("ulast", 540),
    ("ulat", 480),
    ("ut", 0),
    ("utc", 0),
    ("uyst", -120),
    ("uyt", -180),
    ("uzst", 360),
    ("uzt", 300),
    ("vet", -240),
    ("vlast", 600),
    ("vlat", 600),
    ("volt", 180),
    ("vut", 660),
    ("wadt", 480),
    ("wakt", 720),
    ("wast", 420),
    ("wat", 60),
    ("wdt", 540),
    ("wet", 0),
    ("wetdst", 60),
    ("wft", 720),
    ("wgst", -120),
    ("wgt", -180),
    ("xjt", 360),
    ("yakst", 540),
    ("yakt", 540),
    ("yapt", 600),
    ("yekst", 360),
    ("yekt", 300),
    ("z", 0),
    ("zulu", 0),
];

/// A zone by its name in any case (`europe/berlin`), or in POSIX form (`UTC+3` is west, `<+03>-3`).
pub fn by_name(name: &str) -> Option<Zone> {
    let lower = name.to_ascii_lowercase();
    NAMES.get(&lower).map(|tz| Zone::Named(*tz)).or_else(|| posix(&lower))
}

/// Minutes east of UTC of an abbreviation in lower case.
pub fn abbreviation(name: &str) -> Option<i32> {
    let at = ABBREVIATIONS.binary_search_by_key(&name, |(name, _)| name).ok()?;
    Some(ABBREVIATIONS[at].1)
}

/// Three letters or more, then a signed offset that counts westwards.
fn posix(name: &str) -> Option<Zone> {
    let rest = match name.strip_prefix('<') {
        Some(rest) => rest.split_once('>')?.1,
        None => {
            let letters = name.bytes().take_while(u8::is_ascii_alphabetic).count();
            if letters < 3 {
                return None;
            }
            &name[letters..]
        }
    };
    let (sign, digits) = match rest.as_bytes().first()? {
        b'-' => (1, &rest[1..]),
        b'+' => (-1, &rest[1..]),
        _ => (-1, rest),
    };
    let mut parts = digits.split(':');
    let mut number = |max: u32| match parts.next() {
        None => Some(0),
        Some(part) if part.len() <= 3 && part.bytes().all(|byte| byte.is_ascii_digit()) => {
            part.parse::<u32>().ok().filter(|value| *value <= max)
        }
        Some(_) => None,
    };
    let (hours, minutes, seconds) = (number(OFFSET_HOURS_MAX)?, number(59)?, number(59)?);
    if digits.is_empty() || parts.next().is_some() {
        return None;
    }
    Some(Zone::Fixed(sign * (hours * 3600 + minutes * 60 + seconds) as i32))
}

impl Zone {
    /// The offset at a moment in microseconds since 1970 UTC.
    pub fn offset_at(self, utc_micros: i64) -> i32 {
        match self {
            Zone::Fixed(offset) => offset,
            Zone::Named(Tz::UTC | Tz::Etc__UTC) => 0,
            Zone::Named(tz) => {
                let seconds = like_second(utc_micros.div_euclid(MICROS_PER_SECOND));
                match DateTime::from_timestamp(seconds, 0) {
                    Some(moment) => {
                        tz.offset_from_utc_datetime(&moment.naive_utc()).fix().local_minus_utc()
                    }
                    None => 0,
                }
            }
        }
    }

    /// The offset of a local time. One that a forward jump skips is read as before the jump, one that a backward
    /// jump repeats as after it.
    pub fn offset_of_local(self, local_micros: i64) -> i32 {
        let Zone::Named(_) = self else {
            return self.offset_at(0);
        };
        let day = |shift: i64| {
            self.offset_at(local_micros.saturating_add(shift.saturating_mul(MICROS_PER_DAY)))
        };
        // The moment is less than a day from the local time read as UTC, so the offsets a day before and a day
        // after are those on both sides of a change, if there is one.
        let (before, after) = (day(-1), day(1));
        if before == after {
            return before;
        }
        let at = |offset: i32| local_micros.saturating_sub(i64::from(offset) * MICROS_PER_SECOND);
        let holds = |offset: i32| self.offset_at(at(offset)) == offset;
        match (holds(before), holds(after)) {
            (true, false) => before,
            (false, true) => after,
            (true, true) => after,
            (false, false) => before,
        }
    }
}

/// A second of a year whose zone rules are known, at the same place of a like year: the database ends, Postgres's last
/// rules go on.
fn like_second(seconds: i64) -> i64 {
    const SECONDS_PER_DAY: i64 = 86_400;
    let days = seconds.div_euclid(SECONDS_PER_DAY);
    // The database knows nothing before 1800 but the first local mean time.
    if days < -JULIAN_EPOCH / 20 {
        return -JULIAN_EPOCH / 20 * SECONDS_PER_DAY;
    }
    let (year, ..) = civil_from_days(days);
    if year <= RULE_YEAR_MAX {
        return seconds;
    }
    let start = days_from_civil(year, 1, 1);
    let like = (RULE_YEAR_MAX - RULE_YEARS + 1..=RULE_YEAR_MAX)
        .find(|like| {
            is_leap(*like) == is_leap(year)
                && weekday(days_from_civil(*like, 1, 1)) == weekday(start)
        })
        .unwrap_or(RULE_YEAR_MAX);
    seconds - (start - days_from_civil(like, 1, 1)) * SECONDS_PER_DAY
}
