//! Values of settings: what is accepted, and how it is stored.

use super::{Definition, Kind};
use crate::error::{PgError, SqlState};

/// The stored form of a value, or why it is none.
pub(super) fn accept(definition: &Definition, value: &str) -> Result<String, PgError> {
    let invalid = || {
        PgError::new(
            SqlState::INVALID_PARAMETER_VALUE,
            format!("invalid value for parameter \"{}\": \"{value}\"", definition.name),
        )
    };
    match definition.kind {
        Kind::Bool => boolean(value).ok_or_else(|| {
            PgError::new(
                SqlState::INVALID_PARAMETER_VALUE,
                format!("parameter \"{}\" requires a Boolean value", definition.name),
            )
        }),
        Kind::Integer(min, max) => {
            let number: i64 = value.trim().parse().map_err(|_| invalid())?;
            in_range(definition, number, min, max)?;
            Ok(number.to_string())
        }
        Kind::Milliseconds(min, max) => {
            let number = parse_milliseconds(value).ok_or_else(invalid)?;
            in_range(definition, number, min, max)?;
            Ok(print_milliseconds(number))
        }
        Kind::Bytes => parse_bytes(value).map(|_| value.to_owned()).ok_or_else(invalid),
        Kind::Text => Ok(value.to_owned()),
        Kind::Enum(words) => words
            .iter()
            .find(|word| word.eq_ignore_ascii_case(value))
            .map(|word| (*word).to_owned())
            .ok_or_else(|| invalid().with_hint(format!("Available values: {}.", words.join(", ")))),
        Kind::TimeZone => time_zone_of(value).map(|_| value.to_owned()).ok_or_else(invalid),
        Kind::DateStyle => date_style(value).ok_or_else(|| {
            PgError::new(
                SqlState::FEATURE_NOT_SUPPORTED,
                format!("DateStyle \"{value}\" is not supported"),
            )
            .with_hint(
                "Dates print in the ISO style; MDY and DMY choose how ambiguous input is read.",
            )
        }),
        Kind::ReadOnly => Err(PgError::new(
            SqlState::CANT_CHANGE_RUNTIME_PARAM,
            format!("parameter \"{}\" cannot be changed", definition.name),
        )),
        Kind::Only(values, why) => {
            let accepted = values.iter().find(|accepted| accepted.eq_ignore_ascii_case(value));
            accepted.and(values.first()).map(|first| (*first).to_owned()).ok_or_else(|| {
                PgError::new(
                    SqlState::FEATURE_NOT_SUPPORTED,
                    format!("{} = \"{value}\" is not supported", definition.name),
                )
                .with_hint(why)
            })
        }
    }
}

fn boolean(value: &str) -> Option<String> {
    match value.to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" | "1" | "t" | "y" => Some("on".to_owned()),
        "off" | "false" | "no" | "0" | "f" | "n" => Some("off".to_owned()),
        _ => None,
    }
}

fn in_range(definition: &Definition, value: i64, min: i64, max: i64) -> Result<(), PgError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(PgError::new(
        SqlState::INVALID_PARAMETER_VALUE,
        format!(
            "{value} is outside the valid range for parameter \"{}\" ({min} .. {max})",
            definition.name
        ),
    ))
}

/// `250`, `5s`, `1 min`, `2h`, `1d`; a bare number is milliseconds.
pub(super) fn parse_milliseconds(text: &str) -> Option<i64> {
    let (number, unit) = split_unit(text);
    let factor = match unit {
        "" | "ms" => 1.0,
        "us" => 0.001,
        "s" => 1_000.0,
        "min" => 60_000.0,
        "h" => 3_600_000.0,
        "d" => 86_400_000.0,
        _ => return None,
    };
    let value: f64 = number.parse().ok()?;
    Some((value * factor).round() as i64)
}

/// In the largest unit that divides it, as Postgres prints.
fn print_milliseconds(value: i64) -> String {
    const UNITS: [(i64, &str); 4] =
        [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s")];
    if value <= 0 {
        return value.to_string();
    }
    UNITS
        .iter()
        .find(|(size, _)| value % size == 0)
        .map_or_else(|| format!("{value}ms"), |(size, unit)| format!("{}{unit}", value / size))
}

/// `64MB` → bytes; never zero.
pub(super) fn parse_bytes(text: &str) -> Option<usize> {
    let (number, unit) = split_unit(text);
    let factor = match unit {
        "" | "B" => 1,
        "kB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        _ => return None,
    };
    number.parse::<usize>().ok()?.checked_mul(factor).filter(|bytes| *bytes > 0)
}

fn split_unit(text: &str) -> (&str, &str) {
    let text = text.trim();
    let is_digit = |c: char| c.is_ascii_digit() || c == '.' || c == '-';
    let (number, unit) = text.split_at(text.find(|c| !is_digit(c)).unwrap_or(text.len()));
    (number, unit.trim())
}

/// A zone by name, in any case, or a fixed offset in whole hours east of Greenwich.
pub(super) fn time_zone_of(name: &str) -> Option<chrono_tz::Tz> {
    let name = name.trim();
    let named = chrono_tz::TZ_VARIANTS.iter().find(|zone| zone.name().eq_ignore_ascii_case(name));
    if let Some(zone) = named {
        return Some(*zone);
    }
    let hours = name.strip_suffix(":00").unwrap_or(name);
    // Etc/GMT names count the other way round.
    let zone = match hours.trim_start_matches('+').parse::<i32>().ok()? {
        0 => "Etc/GMT".to_owned(),
        hours @ 1..=14 => format!("Etc/GMT-{hours}"),
        hours @ -12..=-1 => format!("Etc/GMT+{}", -hours),
        _ => return None,
    };
    zone.parse().ok()
}

/// `ISO`, `ISO, MDY`, `DMY`, ...
fn date_style(value: &str) -> Option<String> {
    let mut order = "MDY";
    for word in value.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        match word.to_ascii_uppercase().as_str() {
            "ISO" => {}
            "MDY" | "US" | "NONEURO" | "NONEUROPEAN" => order = "MDY",
            "DMY" | "EURO" | "EUROPEAN" => order = "DMY",
            _ => return None,
        }
    }
    Some(format!("ISO, {order}"))
}

/// The items of `a, "B c", d`: folded unless quoted.
pub(super) fn split_list(text: &str) -> Vec<String> {
    let mut items = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (item, tail) = match rest.strip_prefix('"') {
            Some(quoted) => {
                let (item, tail) = quoted.split_once('"').unwrap_or((quoted, ""));
                (item.to_owned(), tail.trim_start().trim_start_matches(','))
            }
            None => {
                let (item, tail) = rest.split_once(',').unwrap_or((rest, ""));
                (item.trim().to_lowercase(), tail)
            }
        };
        if !item.is_empty() {
            items.push(item);
        }
        rest = tail.trim_start();
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_print_in_their_largest_unit() {
        let print = |text| parse_milliseconds(text).map(print_milliseconds);
        assert_eq!(print("60000").as_deref(), Some("1min"));
        assert_eq!(print("1500").as_deref(), Some("1500ms"));
        assert_eq!(print("2 h").as_deref(), Some("2h"));
        assert_eq!(print("0").as_deref(), Some("0"));
        assert_eq!(print("5 parsecs"), None);
    }

    #[test]
    fn lists_keep_quoted_names_and_fold_others() {
        assert_eq!(split_list("\"$user\", Public , \"A b\""), ["$user", "public", "A b"]);
        assert!(split_list("").is_empty());
    }
}
