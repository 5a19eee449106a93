//! Cuts a stream into lines, whichever way it is cut into pushes.
//!
//! The end of the first line decides what ends all others: `\n`, `\r\n` or `\r`; another one inside a line is an error,
//! because it is mostly a sign of a file that was mangled on its way. In CSV, line ends inside quotes are data. A line
//! `\.` ends the data. The search for an end resumes where it stopped, so a long line in small pushes costs no more.

use memchr::{memchr, memchr2, memchr3};

use super::format::{CopyTarget, bad_format};
use crate::error::{PgError, SqlState};

/// Bytes of a line at most, as in Postgres.
pub(super) const LINE_BYTES_MAX: usize = (1 << 30) - 1;

/// The buffer is moved to its front when so much of it is used up, or when it is empty.
const COMPACT_BYTES: usize = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LineEnd {
    Unknown,
    Newline,
    Return,
    Both,
}

/// How quotes and escapes hide line ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum Dialect {
    /// A backslash in front makes a line end data.
    Text,
    Csv {
        quote: u8,
        escape: u8,
    },
}

#[derive(Debug)]
pub(super) struct Lines {
    dialect: Dialect,
    buffer: Vec<u8>,
    /// The current line begins here.
    start: usize,
    /// Bytes before this were searched.
    scanned: usize,
    /// State of the search in CSV.
    in_quote: bool,
    after_escape: bool,
    line_end: LineEnd,
    finished: bool,
    /// `\.` was seen.
    ended: bool,
    /// Lines begun, from 1.
    pub(super) number: u64,
}

/// A line without its end, as a range of the buffer.
pub(super) type Range = std::ops::Range<usize>;

impl Lines {
    pub(super) fn new(dialect: Dialect) -> Lines {
        Lines {
            dialect,
            buffer: Vec::new(),
            start: 0,
            scanned: 0,
            in_quote: false,
            after_escape: false,
            line_end: LineEnd::Unknown,
            finished: false,
            ended: false,
            number: 0,
        }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), PgError> {
        if self.ended {
            // Postgres too passes over what follows the end marker.
            return Ok(());
        }
        if self.start == self.buffer.len() || self.start >= COMPACT_BYTES {
            self.buffer.drain(..self.start);
            self.scanned -= self.start;
            self.start = 0;
        }
        if self.scanned - self.start > LINE_BYTES_MAX {
            return Err(PgError::new(SqlState::PROGRAM_LIMIT_EXCEEDED, "out of memory")
                .with_detail(format!(
                    "Cannot enlarge string buffer containing {} bytes by {} more bytes.",
                    self.scanned - self.start,
                    bytes.len()
                )));
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    pub(super) fn finish(&mut self) {
        self.finished = true;
    }

    pub(super) fn bytes(&self, range: &Range) -> &[u8] {
        &self.buffer[range.clone()]
    }

    /// The next line; `None`: it is not whole yet, or there is none.
    pub(super) fn next(&mut self, target: &CopyTarget) -> Result<Option<Range>, PgError> {
        if self.ended || self.start >= self.buffer.len() {
            return Ok(None);
        }
        let found = match self.dialect {
            Dialect::Text => self.find_text_end(target)?,
            Dialect::Csv { quote, escape } => self.find_csv_end(quote, escape, target)?,
        };
        let (end, next) = match found {
            Some(found) => found,
            None if self.finished => (self.buffer.len(), self.buffer.len()),
            None => return Ok(None),
        };
        let line = self.start..end;
        self.start = next;
        self.scanned = next;
        (self.in_quote, self.after_escape) = (false, false);
        self.number += 1;
        if self.bytes(&line) == b"\\." {
            self.ended = true;
            self.buffer.clear();
            (self.start, self.scanned) = (0, 0);
            return Ok(None);
        }
        Ok(Some(line))
    }

    /// Whether the byte at `at` has an odd number of backslashes in front.
    fn is_escaped(&self, at: usize) -> bool {
        let before = &self.buffer[self.start..at];
        before.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
    }

    /// End of the line and start of the next.
    fn find_text_end(&mut self, target: &CopyTarget) -> Result<Option<(usize, usize)>, PgError> {
        while self.scanned < self.buffer.len() {
            let rest = &self.buffer[self.scanned..];
            let found = match self.line_end {
                LineEnd::Newline | LineEnd::Both => memchr(b'\n', rest),
                LineEnd::Return => memchr(b'\r', rest),
                LineEnd::Unknown => memchr2(b'\n', b'\r', rest),
            };
            let Some(found) = found else {
                self.scanned = self.buffer.len();
                break;
            };
            let at = self.scanned + found;
            if self.is_escaped(at) {
                self.scanned = at + 1;
                continue;
            }
            match self.end_at(at) {
                Some(end) => {
                    self.check_inside(self.start..end.0, false, target)?;
                    return Ok(Some(end));
                }
                None if self.line_end == LineEnd::Both => {
                    return Err(self.stray(b'\n', false, target));
                }
                None => return Ok(None),
            }
        }
        if self.finished {
            self.check_inside(self.start..self.buffer.len(), false, target)?;
        }
        Ok(None)
    }

    /// The line end that an unhidden `\n` or `\r` is (decides on the first); `None` where more bytes must come, or
    /// where it is the wrong one.
    fn end_at(&mut self, at: usize) -> Option<(usize, usize)> {
        if self.line_end == LineEnd::Unknown {
            self.line_end = match (self.buffer[at], self.buffer.get(at + 1)) {
                (b'\n', _) => LineEnd::Newline,
                (_, Some(b'\n')) => LineEnd::Both,
                (_, None) if !self.finished => {
                    // The next push tells whether `\n` follows.
                    self.scanned = at;
                    return None;
                }
                _ => LineEnd::Return,
            };
            if self.line_end == LineEnd::Both {
                return Some((at, at + 2));
            }
        }
        match self.line_end {
            LineEnd::Both => {
                let has_return = at > self.start && self.buffer[at - 1] == b'\r';
                has_return.then(|| (at - 1, at + 1))
            }
            _ => Some((at, at + 1)),
        }
    }

    /// Refuses the other kind of line end inside a line.
    fn check_inside(&self, line: Range, is_csv: bool, target: &CopyTarget) -> Result<(), PgError> {
        let other = match self.line_end {
            LineEnd::Newline | LineEnd::Both => b'\r',
            LineEnd::Return => b'\n',
            LineEnd::Unknown => return Ok(()),
        };
        let mut at = line.start;
        while let Some(found) = memchr(other, &self.buffer[at..line.end]) {
            at += found;
            if is_csv || !self.is_escaped(at) {
                return Err(self.stray(other, is_csv, target));
            }
            at += 1;
        }
        Ok(())
    }

    fn stray(&self, byte: u8, is_csv: bool, target: &CopyTarget) -> PgError {
        let (name, escape) =
            if byte == b'\n' { ("newline", "\\n") } else { ("carriage return", "\\r") };
        let error = if is_csv {
            bad_format(format!("unquoted {name} found in data"))
                .with_hint(format!("Use quoted CSV field to represent {name}."))
        } else {
            bad_format(format!("literal {name} found in data"))
                .with_hint(format!("Use \"{escape}\" to represent {name}."))
        };
        error.with_context(target.at_line(self.number + 1))
    }

    fn find_csv_end(
        &mut self,
        quote: u8,
        escape: u8,
        target: &CopyTarget,
    ) -> Result<Option<(usize, usize)>, PgError> {
        while self.scanned < self.buffer.len() {
            let rest = &self.buffer[self.scanned..];
            if self.in_quote {
                let found = if self.after_escape {
                    Some(0)
                } else if escape == quote {
                    memchr(quote, rest)
                } else {
                    memchr2(quote, escape, rest)
                };
                let end = found.unwrap_or(rest.len());
                let byte = found.map(|found| rest[found]);
                self.count_lines(end);
                let Some(found) = found else {
                    self.scanned = self.buffer.len();
                    break;
                };
                if self.after_escape {
                    // Whatever it is, it ends nothing.
                    self.after_escape = false;
                } else if byte == Some(quote) {
                    self.in_quote = false;
                } else {
                    self.after_escape = true;
                }
                self.scanned += found + 1;
                continue;
            }
            let Some(found) = memchr3(quote, b'\n', b'\r', rest) else {
                self.scanned = self.buffer.len();
                break;
            };
            let at = self.scanned + found;
            if self.buffer[at] == quote {
                self.in_quote = true;
                self.scanned = at + 1;
                continue;
            }
            match (self.line_end, self.buffer[at]) {
                (LineEnd::Both, b'\r') if at + 1 == self.buffer.len() && !self.finished => {
                    self.scanned = at;
                    return Ok(None);
                }
                (LineEnd::Both, b'\r') if self.buffer.get(at + 1) == Some(&b'\n') => {
                    return Ok(Some((at, at + 2)));
                }
                (LineEnd::Unknown, _) => return Ok(self.end_at(at)),
                (LineEnd::Newline, b'\n') | (LineEnd::Return, b'\r') => {
                    return Ok(Some((at, at + 1)));
                }
                (_, byte) => return Err(self.stray(byte, true, target)),
            }
        }
        Ok(None)
    }

    /// Lines inside quotes count, once it is known what ends a line.
    fn count_lines(&mut self, length: usize) {
        let end = match self.line_end {
            LineEnd::Newline | LineEnd::Both => b'\n',
            LineEnd::Return => b'\r',
            LineEnd::Unknown => return,
        };
        let passed = &self.buffer[self.scanned..self.scanned + length];
        self.number += memchr::memchr_iter(end, passed).count() as u64;
    }
}
