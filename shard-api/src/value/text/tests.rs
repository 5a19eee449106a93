//! Text in and out as PostgreSQL 15 has it: `testdata/text.txt`, recorded by `testdata/record.py`.
//!
//! `KNOWN` lists what differs on purpose, each with its reason; a line there must differ.

use super::*;
use crate::error::ValueErrorKind;

/// Inputs whose result is another than Postgres's, and why.
const KNOWN: &[(&str, &str, &str)] = &[
    // We have one dimension only, and say so as soon as the second begins.
    (
        "text[]",
        "{{}",
        "!0A000 arrays of more than one dimension are not supported HINT Store nested arrays as jsonb.",
    ),
    // Units as labels of numbers: PostgreSQL 16 dropped them too.
    ("date", "y2024m1d2", "!22007 invalid input syntax for type date: \"y2024m1d2\""),
    // 22009 has no kind of its own.
    (
        "timestamp",
        "2024-01-02 10:15:30 +16",
        "!22008 time zone displacement out of range: \"2024-01-02 10:15:30 +16\"",
    ),
];

fn sqlstate(kind: ValueErrorKind) -> &'static str {
    match kind {
        ValueErrorKind::InvalidText => "22P02",
        ValueErrorKind::OutOfRange => "22003",
        ValueErrorKind::StringTooLong => "22001",
        ValueErrorKind::InvalidDatetime => "22007",
        ValueErrorKind::DatetimeOverflow => "22008",
        ValueErrorKind::IntervalOverflow => "22015",
        ValueErrorKind::InvalidParameter => "22023",
        ValueErrorKind::InvalidCharacter => "22P05",
        ValueErrorKind::ArraySubscript => "2202E",
        ValueErrorKind::Unsupported => "0A000",
        _ => "XX000",
    }
}

fn shown(result: Result<String, ValueError>) -> String {
    match result {
        Ok(text) => text,
        Err(error) => {
            let mut shown = format!("!{} {}", sqlstate(error.kind), error.message);
            if let Some(detail) = error.detail {
                shown += &format!(" DETAIL {detail}");
            }
            if let Some(hint) = error.hint {
                shown += &format!(" HINT {hint}");
            }
            shown
        }
    }
}

fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        out.push(match c {
            '\\' => match chars.next() {
                Some('n') => '\n',
                Some('t') => '\t',
                Some('r') => '\r',
                other => other.unwrap_or('\\'),
            },
            c => c,
        });
    }
    out
}

/// The types as the recording names them.
fn type_by_name(name: &str) -> TypeMod {
    let (name, is_array) = match name.strip_suffix("[]") {
        Some(name) => (name, true),
        None => (name, false),
    };
    let (base, arguments) = match name.split_once('(') {
        Some((base, arguments)) => (base, arguments.trim_end_matches(')')),
        None => (name, ""),
    };
    let n = |at: usize| arguments.split(',').nth(at).and_then(|n| n.parse::<i32>().ok());
    const FULL: i32 = 0xffff;
    let (base, typmod) = match (base, n(0)) {
        ("varchar" | "char", Some(limit)) => (base, limit + 4),
        ("numeric", Some(precision)) => (base, (precision << 16 | n(1).unwrap_or(0) & 0x7ff) + 4),
        ("interval", Some(precision)) => (base, 0x7fff << 16 | precision),
        ("interval year", _) => ("interval", 1 << 18 | FULL),
        ("interval year to month", _) => ("interval", 6 << 16 | FULL),
        ("interval day to minute", _) => ("interval", (1 << 3 | 3 << 10) << 16 | FULL),
        ("interval day to second", _) => ("interval", (1 << 3 | 7 << 10) << 16 | 1),
        (base, precision) => (base, precision.unwrap_or(-1)),
    };
    let base = if base == "char" { "bpchar" } else { base.trim_matches('"') };
    let ty = crate::types::SCALARS
        .iter()
        .copied()
        .find(|ty| ty.catalog_name() == base)
        .unwrap_or_else(|| panic!("no type {base}"));
    TypeMod { ty: if is_array { ty.array().expect("an array type") } else { ty }, typmod }
}

#[test]
fn text_is_read_and_written_as_in_postgres() {
    check_recorded(include_str!("../../../testdata/text.txt"));
}

/// For generated inputs: record them with `testdata/record.py` and name the file in `CORTEX_RECORDED`.
#[test]
#[ignore = "needs a recorded file"]
fn text_of_another_recording() {
    let path = std::env::var("CORTEX_RECORDED").expect("CORTEX_RECORDED names a file");
    check_recorded(&std::fs::read_to_string(path).expect("readable"));
}

fn check_recorded(recorded: &str) {
    let settings =
        ValueSettings { time_zone: chrono_tz::America::New_York, ..ValueSettings::default() };
    let mut wrong = Vec::new();
    for line in recorded.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let [type_name, input, expected] = fields[..] else { continue };
        if type_name == "op" {
            continue;
        }
        let ty = type_by_name(type_name);
        let explicit = true;
        let result = parse(ty.ty, &unescape(input), &settings)
            .and_then(|value| apply_typmod(value, ty, explicit))
            .map(|value| {
                let mut out = String::new();
                format(&value, ty.ty, &settings, &mut out);
                match ty.ty {
                    // The recording casts to text, which cuts these.
                    SqlType::Bpchar => out.trim_end_matches(' ').to_string(),
                    SqlType::Bool => {
                        if out == "t" {
                            "true".into()
                        } else {
                            "false".into()
                        }
                    }
                    _ => out,
                }
            });
        let ours = shown(result).replace('\\', "\\\\").replace('\n', "\\n");
        let known = KNOWN.iter().find(|(ty, given, _)| *ty == type_name && *given == input);
        match known {
            Some((.., expected)) if ours == *expected => {}
            None if ours == expected => {}
            _ => wrong
                .push(format!("{type_name} {input:?}\n  expected {expected}\n  got      {ours}")),
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

proptest::proptest! {
    #[test]
    fn no_text_makes_input_panic(
        text in "([0-9]{1,9}|[-+:./, TZPYMDHS]|jan|bc|am|pm|ago|day|infinity|utc|J|[{}\\\"\\\\]|e|é){0,9}",
    ) {
        let settings = ValueSettings {
            time_zone: chrono_tz::Europe::Dublin,
            ..ValueSettings::default()
        };
        let arrays = crate::types::SCALARS.iter().filter_map(|ty| ty.array());
        for ty in crate::types::SCALARS.iter().copied().chain(arrays) {
            if let Ok(value) = parse(ty, &text, &settings) {
                let mut out = String::new();
                format(&value, ty, &settings, &mut out);
                let again = parse(ty, &out, &settings).expect("what we print, we read");
                if !matches!(ty, SqlType::Name | SqlType::Void) && !value.is_null() {
                    proptest::prop_assert!(again.is_identical(&value), "{text} {out} {value:?}");
                }
            }
        }
    }
}
