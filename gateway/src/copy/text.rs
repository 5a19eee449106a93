//! COPY's text format: a delimiter between fields, `\N` for NULL, backslash escapes.

use std::sync::Arc;

use memchr::memchr2;

use super::{
    format::{CopyOptions, CopyTarget, Header, Span, TextRow, bad_format, not_text},
    lines::{Dialect, Lines, Range},
};
use crate::error::PgError;

/// Reads rows of the text format.
#[derive(Debug)]
pub struct TextReader {
    target: Arc<CopyTarget>,
    options: CopyOptions,
    lines: Lines,
    spans: Vec<Span>,
    /// Unescaped fields of the current row.
    side: Vec<u8>,
    header_seen: bool,
}

impl TextReader {
    pub fn new(target: Arc<CopyTarget>, options: CopyOptions) -> TextReader {
        TextReader {
            spans: Vec::with_capacity(target.columns.len() + 1),
            header_seen: options.header == Header::No,
            target,
            options,
            lines: Lines::new(Dialect::Text),
            side: Vec::new(),
        }
    }

    pub fn push(&mut self, bytes: &[u8]) -> Result<(), PgError> {
        self.lines.push(bytes)
    }

    pub fn finish(&mut self) {
        self.lines.finish();
    }

    pub fn next_row(&mut self) -> Result<Option<TextRow<'_>>, PgError> {
        loop {
            let Some(line) = self.lines.next(&self.target)? else {
                return Ok(None);
            };
            let number = self.lines.number;
            if !self.header_seen {
                self.header_seen = true;
                if self.options.header == Header::Match {
                    self.split(&line, usize::MAX)?;
                    let row = self.row(&line, number)?;
                    let fields: Vec<Option<&str>> = (0..row.len()).map(|i| row.field(i)).collect();
                    let data = row.text.as_bytes();
                    self.target.check_header(number, data, &fields, &self.options.null)?;
                }
                continue;
            }
            if self.target.columns.is_empty() && line.is_empty() {
                self.spans.clear();
                return self.row(&line, number).map(Some);
            }
            self.split(&line, self.target.columns.len())?;
            if self.spans.len() < self.target.columns.len() {
                let data = self.lines.bytes(&line);
                return Err(self.target.missing(self.spans.len(), number, data));
            }
            return self.row(&line, number).map(Some);
        }
    }

    /// Finds the fields of a line, at most `limit`.
    fn split(&mut self, line: &Range, limit: usize) -> Result<(), PgError> {
        self.spans.clear();
        self.side.clear();
        let bytes = self.lines.bytes(line);
        let delimiter = self.options.delimiter;
        let null = self.options.null.as_bytes();
        let mut start = 0;
        let mut at = 0;
        let mut has_escape = false;
        loop {
            let found = memchr2(delimiter, b'\\', &bytes[at..]).map(|found| at + found);
            if let Some(found) = found
                && bytes[found] == b'\\'
            {
                if bytes.get(found + 1) == Some(&b'.') {
                    return Err(bad_format("end-of-copy marker corrupt")
                        .with_context(self.target.at_line(self.lines.number)));
                }
                has_escape = true;
                at = (found + 2).min(bytes.len());
                continue;
            }
            let end = found.unwrap_or(bytes.len());
            if self.spans.len() == limit {
                return Err(self.target.extra(self.lines.number, bytes));
            }
            let raw = &bytes[start..end];
            self.spans.push(if raw == null {
                Span::Null
            } else if has_escape {
                let side_start = self.side.len();
                unescape(raw, &mut self.side);
                Span::Side(side_start, self.side.len())
            } else {
                Span::Line(start, end)
            });
            match found {
                Some(found) => {
                    start = found + 1;
                    at = start;
                    has_escape = false;
                }
                None => return Ok(()),
            }
        }
    }

    fn row(&self, line: &Range, number: u64) -> Result<TextRow<'_>, PgError> {
        row(&self.target, self.lines.bytes(line), &self.side, &self.spans, number)
    }
}

/// A row whose bytes are text.
pub(super) fn row<'a>(
    target: &'a CopyTarget,
    line: &'a [u8],
    side: &'a [u8],
    spans: &'a [Span],
    number: u64,
) -> Result<TextRow<'a>, PgError> {
    let text = as_text(line).ok_or_else(|| not_text(line, target.at_line(number)))?;
    // Each unescaped field must be text by itself.
    let side_text = as_text(side).filter(|text| {
        spans.iter().all(|span| match span {
            Span::Side(start, end) => text.is_char_boundary(*start) && text.is_char_boundary(*end),
            Span::Null | Span::Line(..) => true,
        })
    });
    let side = side_text.ok_or_else(|| not_text(side, target.at_data(number, line)))?;
    Ok(TextRow { target, line: number, text, side, spans })
}

/// UTF-8 without zero bytes.
fn as_text(bytes: &[u8]) -> Option<&str> {
    if memchr::memchr(0, bytes).is_some() {
        return None;
    }
    std::str::from_utf8(bytes).ok()
}

/// Appends a field with its escapes resolved.
fn unescape(raw: &[u8], out: &mut Vec<u8>) {
    let mut rest = raw;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        out.extend_from_slice(&rest[..at]);
        rest = &rest[at + 1..];
        let Some((first, after)) = rest.split_first() else {
            // A backslash at the end of the line stands for itself.
            out.push(b'\\');
            return;
        };
        rest = after;
        match first {
            b'b' => out.push(0x08),
            b'f' => out.push(0x0c),
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'v' => out.push(0x0b),
            b'0'..=b'7' => {
                let mut value = u32::from(first - b'0');
                for _ in 0..2 {
                    let Some((digit @ b'0'..=b'7', after)) = rest.split_first() else { break };
                    value = value * 8 + u32::from(digit - b'0');
                    rest = after;
                }
                out.push(value as u8);
            }
            b'x' => {
                let mut value = None;
                for _ in 0..2 {
                    let Some((byte, after)) = rest.split_first() else { break };
                    let Some(digit) = char::from(*byte).to_digit(16) else { break };
                    value = Some(value.unwrap_or(0) * 16 + digit);
                    rest = after;
                }
                out.push(value.map_or(b'x', |value| value as u8));
            }
            other => out.push(*other),
        }
    }
    out.extend_from_slice(rest);
}

/// Writes rows of the text format.
#[derive(Clone, Debug)]
pub struct TextWriter {
    delimiter: u8,
    null: String,
    /// Bytes that must be escaped.
    special: [bool; 256],
}

impl TextWriter {
    pub fn new(options: &CopyOptions) -> TextWriter {
        let mut special = [false; 256];
        for byte in [0x08, 0x0c, b'\n', b'\r', b'\t', 0x0b, b'\\', options.delimiter] {
            special[usize::from(byte)] = true;
        }
        TextWriter { delimiter: options.delimiter, null: options.null.clone(), special }
    }

    /// Appends a line of names.
    pub fn header<'a>(&self, names: impl Iterator<Item = &'a str>, out: &mut Vec<u8>) {
        for (i, name) in names.enumerate() {
            self.field(i, Some(name), out);
        }
        self.end_row(out);
    }

    /// Appends the field at a position of its row; `None` is NULL.
    pub fn field(&self, column: usize, text: Option<&str>, out: &mut Vec<u8>) {
        if column > 0 {
            out.push(self.delimiter);
        }
        let Some(text) = text else {
            out.extend_from_slice(self.null.as_bytes());
            return;
        };
        let bytes = text.as_bytes();
        let mut plain = 0;
        for (at, byte) in bytes.iter().enumerate() {
            if !self.special[usize::from(*byte)] {
                continue;
            }
            out.extend_from_slice(&bytes[plain..at]);
            plain = at + 1;
            out.push(b'\\');
            out.push(match byte {
                byte if *byte == self.delimiter => *byte,
                0x08 => b'b',
                0x0c => b'f',
                b'\n' => b'n',
                b'\r' => b'r',
                b'\t' => b't',
                0x0b => b'v',
                byte => *byte,
            });
        }
        out.extend_from_slice(&bytes[plain..]);
    }

    pub fn end_row(&self, out: &mut Vec<u8>) {
        out.push(b'\n');
    }
}
