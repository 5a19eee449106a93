//! `to_char`, `to_date`, `to_timestamp` and `to_number`: templates of numbers and times.

use cortex_shard_api::{Datum, SqlType, value::Numeric};

use super::{Call, Kernel, Result, datetime, float, int, interval, make_text, micros, text};
use crate::scalar;

mod numbers;
mod times;

pub(super) fn find(name: &str, args: &[Option<SqlType>]) -> Option<Kernel> {
    Some(match name {
        "to_char" => to_char,
        "to_date" => |_, args| {
            times::parse(text(&args[0])?, text(&args[1])?).map(|(days, _)| Datum::Date(days as i32))
        },
        "to_timestamp" if args.len() == 2 => |call, args| {
            let (days, time) = times::parse(text(&args[0])?, text(&args[1])?)?;
            let zone = call.context.settings.time_zone;
            let local = scalar::midnight(days as i32)?.saturating_add(time);
            Ok(Datum::Timestamptz(datetime::local_to_utc(local, zone)))
        },
        "to_number" => {
            |_, args| numbers::parse(text(&args[0])?, text(&args[1])?).map(Datum::Numeric)
        }
        _ => return None,
    })
}

fn to_char(call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    let template = text(&args[1])?;
    let shown = match &args[0] {
        Datum::Int2(_) | Datum::Int4(_) | Datum::Int8(_) => {
            numbers::format(&Numeric::from_i64(int(&args[0])?), template)?
        }
        Datum::Float4(value) => numbers::format(&Numeric::from_f32(*value), template)?,
        Datum::Float8(_) => numbers::format(&Numeric::from_f64(float(&args[0])?), template)?,
        Datum::Numeric(value) => numbers::format(value, template)?,
        Datum::Interval(_) => times::format_interval(interval(&args[0])?, template),
        value => {
            let utc = micros(value)?;
            if utc == i64::MIN || utc == i64::MAX {
                return Ok(Datum::Null);
            }
            if call.args[0] == SqlType::Timestamptz {
                let zone = call.context.settings.time_zone;
                let local = datetime::utc_to_local(utc, zone);
                let name = datetime::abbreviation(utc, zone);
                times::format(local, Some(((local - utc) / 1_000_000, name)), template)
            } else {
                times::format(utc, None, template)
            }
        }
    };
    Ok(make_text(shown))
}

/// Roman numerals of 1 to 3999.
fn roman(mut n: i64) -> Option<String> {
    if !(1..4000).contains(&n) {
        return None;
    }
    const STEPS: &[(i64, &str)] = &[
        (1000, "M"),
        (900, "CM"),
        (500, "D"),
        (400, "CD"),
        (100, "C"),
        (90, "XC"),
        (50, "L"),
        (40, "XL"),
        (10, "X"),
        (9, "IX"),
        (5, "V"),
        (4, "IV"),
        (1, "I"),
    ];
    let mut out = String::new();
    for (value, letters) in STEPS {
        while n >= *value {
            out.push_str(letters);
            n -= value;
        }
    }
    Some(out)
}

/// st, nd, rd or th for a number's last digits.
fn ordinal(digits: &str) -> &'static str {
    let bytes = digits.as_bytes();
    let tens = bytes.len().checked_sub(2).map(|at| bytes[at]);
    if tens == Some(b'1') {
        return "th";
    }
    match bytes.last() {
        Some(b'1') => "st",
        Some(b'2') => "nd",
        Some(b'3') => "rd",
        _ => "th",
    }
}
