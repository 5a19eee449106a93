//! COPY's CSV format: quoted fields may hold anything, line ends too.

use std::sync::Arc;

use memchr::{memchr, memchr2};

use super::{
    format::{CopyOptions, CopyTarget, Header, Span, TextRow, bad_format},
    lines::{Dialect, Lines, Range},
    text::row,
};
use crate::error::PgError;

/// Reads rows of the CSV format.
#[derive(Debug)]
pub struct CsvReader {
    target: Arc<CopyTarget>,
    options: CopyOptions,
    lines: Lines,
    spans: Vec<Span>,
    /// Unescaped fields of the current row.
    side: Vec<u8>,
    header_seen: bool,
}

impl CsvReader {
    pub fn new(target: Arc<CopyTarget>, options: CopyOptions) -> CsvReader {
        CsvReader {
            spans: Vec::with_capacity(target.columns.len() + 1),
            header_seen: options.header == Header::No,
            lines: Lines::new(Dialect::Csv { quote: options.quote, escape: options.escape }),
            target,
            options,
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
            self.apply_forced_nulls(&line);
            return self.row(&line, number).map(Some);
        }
    }

    /// Finds the fields of a line, at most `limit`.
    fn split(&mut self, line: &Range, limit: usize) -> Result<(), PgError> {
        self.spans.clear();
        self.side.clear();
        let bytes = self.lines.bytes(line);
        let delimiter = self.options.delimiter;
        let quote = self.options.quote;
        let mut start = 0;
        loop {
            if self.spans.len() == limit {
                return Err(self.target.extra(self.lines.number, bytes));
            }
            let (span, end) = if bytes.get(start) == Some(&quote)
                && let Some(simple) = self.simple_quoted(bytes, start)
            {
                simple
            } else {
                match memchr2(delimiter, quote, &bytes[start..]).map(|found| start + found) {
                    Some(found) if bytes[found] == quote => {
                        let mut side = std::mem::take(&mut self.side);
                        let mixed = self.mixed(bytes, start, &mut side);
                        self.side = side;
                        mixed?
                    }
                    found => {
                        let end = found.unwrap_or(bytes.len());
                        let is_null = bytes[start..end] == *self.options.null.as_bytes();
                        (if is_null { Span::Null } else { Span::Line(start, end) }, end)
                    }
                }
            };
            self.spans.push(span);
            if end >= bytes.len() {
                return Ok(());
            }
            start = end + 1;
        }
    }

    /// A field that is wholly in quotes and has no escape: the common case, taken as it stands.
    fn simple_quoted(&self, bytes: &[u8], start: usize) -> Option<(Span, usize)> {
        let (quote, escape) = (self.options.quote, self.options.escape);
        let inside = start + 1;
        let found = if escape == quote {
            memchr(quote, &bytes[inside..])?
        } else {
            memchr2(quote, escape, &bytes[inside..])?
        };
        let end = inside + found;
        let closes = bytes[end] == quote
            && bytes.get(end + 1).is_none_or(|next| *next == self.options.delimiter);
        closes.then_some((Span::Line(inside, end), end + 1))
    }

    /// Any field with quotes; returns where it ends.
    fn mixed(
        &self,
        bytes: &[u8],
        start: usize,
        side: &mut Vec<u8>,
    ) -> Result<(Span, usize), PgError> {
        let (quote, escape) = (self.options.quote, self.options.escape);
        let side_start = side.len();
        let mut at = start;
        let mut in_quote = false;
        while let Some(&byte) = bytes.get(at) {
            if !in_quote && byte == self.options.delimiter {
                break;
            }
            at += 1;
            if !in_quote {
                if byte == quote {
                    in_quote = true;
                } else {
                    side.push(byte);
                }
                continue;
            }
            if byte == escape
                && let Some(&next) = bytes.get(at)
                && (next == escape || next == quote)
            {
                side.push(next);
                at += 1;
            } else if byte == quote {
                in_quote = false;
            } else {
                side.push(byte);
            }
        }
        if in_quote {
            return Err(bad_format("unterminated CSV quoted field")
                .with_context(self.target.at_data(self.lines.number, bytes)));
        }
        Ok((Span::Side(side_start, side.len()), at))
    }

    /// FORCE_NULL makes quoted NULL strings NULL, FORCE_NOT_NULL makes bare ones strings.
    fn apply_forced_nulls(&mut self, line: &Range) {
        if self.options.force_null.is_empty() && self.options.force_not_null.is_empty() {
            return;
        }
        let null = self.options.null.as_bytes();
        let is = |flags: &[bool], i: usize| flags.get(i).copied().unwrap_or(false);
        let bytes = self.lines.bytes(line);
        for (i, span) in self.spans.iter_mut().enumerate() {
            if *span == Span::Null && is(&self.options.force_not_null, i) {
                let start = self.side.len();
                self.side.extend_from_slice(null);
                *span = Span::Side(start, self.side.len());
            } else if is(&self.options.force_null, i) {
                let content = match *span {
                    Span::Null => continue,
                    Span::Line(start, end) => &bytes[start..end],
                    Span::Side(start, end) => &self.side[start..end],
                };
                if content == null {
                    *span = Span::Null;
                }
            }
        }
    }

    fn row(&self, line: &Range, number: u64) -> Result<TextRow<'_>, PgError> {
        row(&self.target, self.lines.bytes(line), &self.side, &self.spans, number)
    }
}

/// Writes rows of the CSV format.
#[derive(Clone, Debug)]
pub struct CsvWriter {
    options: CopyOptions,
    n_columns: usize,
    /// Bytes that make quotes necessary.
    special: [bool; 256],
}

impl CsvWriter {
    pub fn new(options: &CopyOptions, n_columns: usize) -> CsvWriter {
        let mut special = [false; 256];
        for byte in [b'\n', b'\r', options.quote, options.delimiter] {
            special[usize::from(byte)] = true;
        }
        CsvWriter { options: options.clone(), n_columns, special }
    }

    /// Appends a line of names.
    pub fn header<'a>(&self, names: impl Iterator<Item = &'a str>, out: &mut Vec<u8>) {
        for (i, name) in names.enumerate() {
            self.separate(i, out);
            self.text(name, false, out);
        }
        self.end_row(out);
    }

    /// Appends the field at a position of its row; `None` is NULL.
    pub fn field(&self, column: usize, text: Option<&str>, out: &mut Vec<u8>) {
        self.separate(column, out);
        match text {
            None => out.extend_from_slice(self.options.null.as_bytes()),
            Some(text) => {
                let force = self.options.force_quote.get(column).copied().unwrap_or(false);
                self.text(text, force, out);
            }
        }
    }

    fn separate(&self, column: usize, out: &mut Vec<u8>) {
        if column > 0 {
            out.push(self.options.delimiter);
        }
    }

    fn text(&self, text: &str, force: bool, out: &mut Vec<u8>) {
        let quoted = force
            || text == self.options.null
            // Alone on its line it would end the data.
            || (self.n_columns == 1 && text == "\\.")
            || text.bytes().any(|byte| self.special[usize::from(byte)]);
        if !quoted {
            out.extend_from_slice(text.as_bytes());
            return;
        }
        let (quote, escape) = (self.options.quote, self.options.escape);
        out.push(quote);
        for byte in text.bytes() {
            if byte == quote || byte == escape {
                out.push(escape);
            }
            out.push(byte);
        }
        out.push(quote);
    }

    pub fn end_row(&self, out: &mut Vec<u8>) {
        out.push(b'\n');
    }
}
