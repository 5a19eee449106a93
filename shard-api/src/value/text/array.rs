//! One-dimensional arrays: `{1,2,NULL,"a b"}`, with `[2:3]=` in front where they do not count from 1.

use std::fmt::Write;

use super::{ValueSettings, is_space};
use crate::{
    error::{ValueError, ValueErrorKind},
    types::SqlType,
    value::{ArrayValue, Datum},
};

/// Elements of an array at most: Postgres's bound, from its allocation limit.
pub const ELEMENTS_MAX: usize = 134_217_727;

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

pub(super) fn parse(
    element: SqlType,
    text: &str,
    settings: &ValueSettings,
) -> Result<ArrayValue, ValueError> {
    let mut reader = Reader { text, at: 0 };
    reader.skip_blanks();
    let bounds = reader.bounds()?;
    if reader.peek() != Some(b'{') {
        let detail = match bounds {
            Some(_) => "Array contents must start with \"{\".",
            None => "Array value must start with \"{\" or dimension information.",
        };
        return Err(malformed(text, detail));
    }
    reader.at += 1;
    let texts = reader.elements()?;
    reader.skip_blanks();
    if reader.at < text.len() {
        return Err(malformed(text, "Junk after closing right brace."));
    }
    let mut lower_bound = 1;
    if let Some((lower, upper)) = bounds {
        if i64::from(upper) - i64::from(lower) + 1 != texts.len() as i64 {
            return Err(malformed(text, "Specified array dimensions do not match array contents."));
        }
        lower_bound = lower;
    }
    let elements = texts
        .into_iter()
        .map(|text| match text {
            Some(text) => super::parse(element, &text, settings),
            None => Ok(Datum::Null),
        })
        .collect::<Result<Vec<Datum>, ValueError>>()?;
    Ok(ArrayValue { element, lower_bound, elements })
}

fn malformed(text: &str, detail: &str) -> ValueError {
    ValueError::new(ValueErrorKind::InvalidText, format!("malformed array literal: \"{text}\""))
        .with_detail(detail)
}

fn more_dimensions() -> ValueError {
    ValueError::new(
        ValueErrorKind::Unsupported,
        "arrays of more than one dimension are not supported",
    )
    .with_hint("Store nested arrays as jsonb.")
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_blanks(&mut self) {
        while self.peek().is_some_and(is_space) {
            self.at += 1;
        }
    }

    fn malformed(&self, detail: &str) -> ValueError {
        malformed(self.text, detail)
    }

    /// `[2:3]=` or `[3]=`
    fn bounds(&mut self) -> Result<Option<(i32, i32)>, ValueError> {
        if self.peek() != Some(b'[') {
            return Ok(None);
        }
        let rest = &self.text[self.at + 1..];
        let (inside, after) = rest
            .split_once(']')
            .ok_or_else(|| self.malformed("Missing \"]\" after array dimensions."))?;
        let number = |text: &str| {
            text.parse::<i32>().map_err(|_| {
                self.malformed("\"[\" must introduce explicitly-specified array dimensions.")
            })
        };
        let (lower, upper) = match inside.split_once(':') {
            Some((lower, upper)) => (number(lower)?, number(upper)?),
            None => (1, number(inside)?),
        };
        if upper < lower {
            return Err(ValueError::new(
                ValueErrorKind::ArraySubscript,
                "upper bound cannot be less than lower bound",
            ));
        }
        if after.trim_start().starts_with('[') {
            return Err(more_dimensions());
        }
        let after = after
            .trim_start()
            .strip_prefix('=')
            .ok_or_else(|| self.malformed("Missing \"=\" after array dimensions."))?;
        self.at = self.text.len() - after.len();
        self.skip_blanks();
        Ok(Some((lower, upper)))
    }

    /// Everything behind the opening brace, through the closing one; `None` is NULL. The elements are read when it is
    /// known that the braces are in order.
    fn elements(&mut self) -> Result<Vec<Option<String>>, ValueError> {
        let mut elements = Vec::new();
        self.skip_blanks();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(elements);
        }
        loop {
            if elements.len() == ELEMENTS_MAX {
                return Err(ValueError::new(
                    ValueErrorKind::OutOfRange,
                    format!("array size exceeds the maximum allowed ({ELEMENTS_MAX})"),
                ));
            }
            self.skip_blanks();
            elements.push(match self.peek() {
                None => return Err(self.malformed("Unexpected end of input.")),
                Some(b'{') => return Err(more_dimensions()),
                Some(b'"') => Some(self.quoted()?),
                Some(_) => match self.plain()? {
                    word if word.eq_ignore_ascii_case("null") => None,
                    word => Some(word.replace('\0', "")),
                },
            });
            self.skip_blanks();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(elements);
                }
                None => return Err(self.malformed("Unexpected end of input.")),
                Some(_) => return Err(self.malformed("Unexpected array element.")),
            }
        }
    }

    /// `"a \"b\" \\ c"`
    fn quoted(&mut self) -> Result<String, ValueError> {
        let mut content = String::new();
        let mut chars = self.text[self.at + 1..].char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.at += 1 + at + 1;
                    return Ok(content);
                }
                '\\' => content.extend(chars.next().map(|(_, c)| c)),
                c => content.push(c),
            }
        }
        Err(self.malformed("Unexpected end of input."))
    }

    /// An element without quotes, blanks around cut.
    fn plain(&mut self) -> Result<String, ValueError> {
        let mut content = String::new();
        // Blanks behind the last character that counts are dropped.
        let mut kept = 0;
        let mut escaped = false;
        let start = self.at;
        let mut chars = self.text[start..].char_indices();
        while let Some((at, c)) = chars.next() {
            self.at = start + at;
            match c {
                ',' | '}' => {
                    content.truncate(kept);
                    if content.is_empty() {
                        return Err(self.malformed(&format!("Unexpected \"{c}\" character.")));
                    }
                    // An escaped word is never NULL: a marker that the caller takes out.
                    if escaped && content.eq_ignore_ascii_case("null") {
                        content.push('\0');
                    }
                    return Ok(content);
                }
                '{' => return Err(self.malformed("Unexpected \"{\" character.")),
                '"' => return Err(self.malformed("Unexpected array element.")),
                '\\' => {
                    escaped = true;
                    content.extend(chars.next().map(|(_, c)| c));
                    kept = content.len();
                }
                c => {
                    content.push(c);
                    if !(c.is_ascii() && is_space(c as u8)) {
                        kept = content.len();
                    }
                }
            }
        }
        self.at = self.text.len();
        Err(self.malformed("Unexpected end of input."))
    }
}

pub(super) fn format(array: &ArrayValue, settings: &ValueSettings, out: &mut String) {
    if array.lower_bound != 1 && !array.elements.is_empty() {
        let upper = i64::from(array.lower_bound) + array.elements.len() as i64 - 1;
        _ = write!(out, "[{}:{upper}]=", array.lower_bound);
    }
    out.push('{');
    let mut text = String::new();
    for (i, element) in array.elements.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        if matches!(element, Datum::Null) {
            out.push_str("NULL");
            continue;
        }
        text.clear();
        super::format(element, array.element, settings, &mut text);
        if needs_quotes(&text) {
            out.push('"');
            for c in text.chars() {
                if matches!(c, '"' | '\\') {
                    out.push('\\');
                }
                out.push(c);
            }
            out.push('"');
        } else {
            out.push_str(&text);
        }
    }
    out.push('}');
}

fn needs_quotes(text: &str) -> bool {
    text.is_empty()
        || text.eq_ignore_ascii_case("null")
        || text
            .bytes()
            .any(|byte| matches!(byte, b'"' | b'\\' | b'{' | b'}' | b',') || is_space(byte))
}
