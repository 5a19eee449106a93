//! The form that programs write, without the general parser: `2024-01-02`, `2024-01-02 10:15:30.5+01`.
//!
//! Whatever is not exactly that goes the long way, errors included.

use super::decode::Clock;
use crate::value::calendar::{
    MICROS_PER_HOUR, MICROS_PER_MINUTE, MICROS_PER_SECOND, days_from_civil, days_in_month,
};

/// Digits of a second's fraction that are exact.
const FRACTION_MAX: usize = 6;

/// A date, perhaps a time, perhaps whole hours (and minutes) of offset.
#[derive(Clone, Copy, Debug)]
pub(super) struct Iso {
    pub(super) clock: Clock,
    pub(super) has_offset: bool,
}

pub(super) fn parse(text: &str) -> Option<Iso> {
    let bytes = text.as_bytes();
    let (date, rest) = bytes.split_first_chunk::<10>()?;
    if date[4] != b'-' || date[7] != b'-' {
        return None;
    }
    let year = i64::from(two(date[0], date[1])? * 100 + two(date[2], date[3])?);
    let (month, day) = (two(date[5], date[6])?, two(date[8], date[9])?);
    if year == 0 || !(1..=12).contains(&month) || !(1..=days_in_month(year, month)).contains(&day) {
        return None;
    }
    let days = days_from_civil(year, month, day);
    if rest.is_empty() {
        return Some(Iso { clock: Clock { days, micros: 0, offset: 0 }, has_offset: false });
    }
    let (time, mut rest) = rest.split_first_chunk::<9>()?;
    if !matches!(time[0], b' ' | b'T') || time[3] != b':' || time[6] != b':' {
        return None;
    }
    let (hour, minute, second) =
        (two(time[1], time[2])?, two(time[4], time[5])?, two(time[7], time[8])?);
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let mut micros = i64::from(hour) * MICROS_PER_HOUR
        + i64::from(minute) * MICROS_PER_MINUTE
        + i64::from(second) * MICROS_PER_SECOND;
    if let Some(fraction) = rest.strip_prefix(b".") {
        let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if !(1..=FRACTION_MAX).contains(&digits) {
            return None;
        }
        let value =
            fraction[..digits].iter().fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'));
        micros += value * 10i64.pow((FRACTION_MAX - digits) as u32);
        rest = &fraction[digits..];
    }
    let (has_offset, offset) = offset(rest)?;
    Some(Iso { clock: Clock { days, micros, offset }, has_offset })
}

/// Nothing, `Z`, `+hh` or `+hh:mm`, in seconds east of UTC.
fn offset(text: &[u8]) -> Option<(bool, i32)> {
    let (sign, hours, minutes) = match text {
        [] => return Some((false, 0)),
        [b'Z'] => return Some((true, 0)),
        [sign, a, b] => (sign, two(*a, *b)?, 0),
        [sign, a, b, b':', c, d] => (sign, two(*a, *b)?, two(*c, *d)?),
        _ => return None,
    };
    if hours > 14 || minutes > 59 {
        return None;
    }
    let seconds = (hours * 3600 + minutes * 60) as i32;
    match sign {
        b'+' => Some((true, seconds)),
        b'-' => Some((true, -seconds)),
        _ => None,
    }
}

fn two(tens: u8, ones: u8) -> Option<u32> {
    let digit = |byte: u8| byte.is_ascii_digit().then(|| u32::from(byte - b'0'));
    Some(digit(tens)? * 10 + digit(ones)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::decode, *};
    use crate::value::ValueSettings;

    proptest! {
        #[test]
        fn agrees_with_the_general_parser(
            text in "[0-9]{3}[1-9]-[01][0-9]-[0-3][0-9]([ T][0-2][0-9]:[0-6][0-9]:[0-6][0-9](\\.[0-9]{1,7})?(Z|[+-][01][0-9](:[0-6][0-9])?)?)?",
        ) {
            if let Some(iso) = parse(&text) {
                let decoded = decode::date_time(&text, &ValueSettings::default());
                let Ok(decode::Decoded::At(clock)) = decoded else {
                    return Err(TestCaseError::fail(format!("{text}: {decoded:?}")));
                };
                prop_assert_eq!(clock.days, iso.clock.days);
                prop_assert_eq!(clock.micros, iso.clock.micros);
                prop_assert_eq!(clock.offset, iso.clock.offset);
            }
        }
    }
}
