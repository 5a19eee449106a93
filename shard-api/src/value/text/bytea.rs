//! `bytea`: hex (`\x0aff`) and escape (`a\000\\`) forms.

use crate::error::{ValueError, ValueErrorKind};

const HEX: &[u8; 16] = b"0123456789abcdef";

pub(super) fn parse(text: &str) -> Result<Box<[u8]>, ValueError> {
    match text.strip_prefix("\\x") {
        Some(hex) => parse_hex(hex),
        None => parse_escape(text),
    }
}

/// Pairs of digits; blanks between pairs are skipped.
fn parse_hex(hex: &str) -> Result<Box<[u8]>, ValueError> {
    let invalid = |message: String| ValueError::new(ValueErrorKind::InvalidParameter, message);
    let digit = |c: char| {
        c.to_digit(16)
            .map(|digit| digit as u8)
            .ok_or_else(|| invalid(format!("invalid hexadecimal digit: \"{c}\"")))
    };
    let mut bytes = Vec::with_capacity(hex.len() / 2);
    let mut chars = hex.chars();
    while let Some(c) = chars.next() {
        if matches!(c, ' ' | '\n' | '\t' | '\r') {
            continue;
        }
        let high = digit(c)?;
        let low = chars
            .next()
            .ok_or_else(|| invalid("invalid hexadecimal data: odd number of digits".into()))?;
        bytes.push(high << 4 | digit(low)?);
    }
    Ok(bytes.into())
}

fn parse_escape(text: &str) -> Result<Box<[u8]>, ValueError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        if *first != b'\\' {
            bytes.push(*first);
            rest = after;
            continue;
        }
        match after {
            [b'\\', after @ ..] => {
                bytes.push(b'\\');
                rest = after;
            }
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => {
                return Err(ValueError::new(
                    ValueErrorKind::InvalidText,
                    "invalid input syntax for type bytea",
                ));
            }
        }
    }
    Ok(bytes.into())
}

pub(super) fn format_hex(bytes: &[u8], out: &mut String) {
    out.reserve(2 + bytes.len() * 2);
    out.push_str("\\x");
    for byte in bytes {
        out.push(char::from(HEX[usize::from(byte >> 4)]));
        out.push(char::from(HEX[usize::from(byte & 15)]));
    }
}

pub(super) fn format_escape(bytes: &[u8], out: &mut String) {
    for byte in bytes {
        match byte {
            b'\\' => out.push_str("\\\\"),
            0x20..=0x7e => out.push(char::from(*byte)),
            _ => {
                out.push('\\');
                for shift in [6, 3, 0] {
                    out.push(char::from(b'0' + (byte >> shift & 7)));
                }
            }
        }
    }
}
