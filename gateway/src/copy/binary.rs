//! COPY's binary format: a signature, a header, tuples of counted fields, a trailer.

use std::sync::Arc;

use super::format::{CopyTarget, bad_format};
use crate::error::{PgError, SqlState};

const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";

/// Flags that a reader must understand; none is defined today.
const CRITICAL_FLAGS: u32 = 0xffff_0000;

/// Tuples once began with an OID.
const WITH_OIDS: u32 = 1 << 16;

/// The field count that ends the data.
const TRAILER: i16 = -1;

/// Bytes of a field at most.
const FIELD_BYTES_MAX: i32 = (1 << 30) - 1;

/// The buffer is moved to its front when so much of it is used up, or when it is empty.
const COMPACT_BYTES: usize = 1 << 20;

/// Reads tuples of the binary format.
#[derive(Debug)]
pub struct BinaryReader {
    target: Arc<CopyTarget>,
    buffer: Vec<u8>,
    at: usize,
    header_seen: bool,
    ended: bool,
    finished: bool,
    /// Fields of the current tuple, as ranges of the buffer.
    fields: Vec<Option<(usize, usize)>>,
    /// The tuple under way: its bytes so far are not looked at again.
    tuple_scan: usize,
    tuples: u64,
}

/// A tuple; borrowed from the reader's buffer.
#[derive(Clone, Copy, Debug)]
pub struct BinaryRow<'a> {
    pub(super) target: &'a CopyTarget,
    /// Tuples count from 1.
    pub line: u64,
    buffer: &'a [u8],
    fields: &'a [Option<(usize, usize)>],
}

impl<'a> BinaryRow<'a> {
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// A field's bytes; `None` is NULL.
    pub fn field(&self, column: usize) -> Option<&'a [u8]> {
        let (start, end) = (*self.fields.get(column)?)?;
        self.buffer.get(start..end)
    }
}

impl BinaryReader {
    pub fn new(target: Arc<CopyTarget>) -> BinaryReader {
        BinaryReader {
            target,
            buffer: Vec::new(),
            at: 0,
            header_seen: false,
            ended: false,
            finished: false,
            fields: Vec::new(),
            tuple_scan: 0,
            tuples: 0,
        }
    }

    pub fn push(&mut self, bytes: &[u8]) -> Result<(), PgError> {
        if self.ended && !bytes.is_empty() {
            return Err(bad_format("received copy data after EOF marker"));
        }
        if self.at == self.buffer.len() || self.at >= COMPACT_BYTES {
            self.buffer.drain(..self.at);
            // Fields found of an unfinished tuple move along.
            self.tuple_scan = self.tuple_scan.saturating_sub(self.at);
            for (start, end) in self.fields.iter_mut().flatten() {
                *start -= self.at.min(*start);
                *end -= self.at.min(*end);
            }
            self.at = 0;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    pub fn finish(&mut self) {
        self.finished = true;
    }

    pub fn next_row(&mut self) -> Result<Option<BinaryRow<'_>>, PgError> {
        if self.ended {
            return if self.at < self.buffer.len() {
                Err(bad_format("received copy data after EOF marker"))
            } else {
                Ok(None)
            };
        }
        if !self.header_seen && !self.read_header()? {
            return Ok(None);
        }
        if !self.read_tuple()? {
            return Ok(None);
        }
        Ok(Some(BinaryRow {
            target: &self.target,
            line: self.tuples,
            buffer: &self.buffer,
            fields: &self.fields,
        }))
    }

    fn word<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.buffer.get(at..)?.first_chunk::<N>().copied()
    }

    /// Whether the header is whole.
    fn read_header(&mut self) -> Result<bool, PgError> {
        let incomplete = |message: &str| match self.finished {
            true => Err(bad_format(message)),
            false => Ok(false),
        };
        let seen = self.buffer.len().min(SIGNATURE.len());
        if self.buffer[..seen] != SIGNATURE[..seen] || (self.finished && seen < SIGNATURE.len()) {
            return Err(bad_format("COPY file signature not recognized"));
        }
        let flags_at = SIGNATURE.len();
        let Some(flags) = self.word(flags_at).map(u32::from_be_bytes) else {
            return incomplete("invalid COPY file header (missing flags)");
        };
        if flags & WITH_OIDS != 0 {
            return Err(bad_format("invalid COPY file header (WITH OIDS)"));
        }
        if flags & CRITICAL_FLAGS != 0 {
            return Err(bad_format("unrecognized critical flags in COPY file header"));
        }
        let Some(length) = self.word(flags_at + 4).map(i32::from_be_bytes) else {
            return incomplete("invalid COPY file header (missing length)");
        };
        let Ok(length) = usize::try_from(length) else {
            return Err(bad_format("invalid COPY file header (missing length)"));
        };
        let end = flags_at + 8 + length;
        if self.buffer.len() < end {
            return incomplete("invalid COPY file header (wrong length)");
        }
        self.at = end;
        self.tuple_scan = end;
        self.header_seen = true;
        Ok(true)
    }

    fn unexpected_end(&self) -> PgError {
        bad_format("unexpected EOF in COPY data").with_context(self.target.at_line(self.tuples + 1))
    }

    /// Whether a whole tuple is there; its fields are in `fields`.
    fn read_tuple(&mut self) -> Result<bool, PgError> {
        let incomplete = |reader: &Self| match reader.finished {
            true => Err(reader.unexpected_end()),
            false => Ok(false),
        };
        let target = &self.target;
        let context = || target.at_line(self.tuples + 1);
        if self.tuple_scan == self.at {
            let Some(count) = self.word(self.at).map(i16::from_be_bytes) else {
                // Without a trailer the data may end between tuples.
                return if self.at == self.buffer.len() { Ok(false) } else { incomplete(self) };
            };
            if count == TRAILER {
                self.at += 2;
                self.ended = true;
                if self.at < self.buffer.len() {
                    return Err(bad_format("received copy data after EOF marker"));
                }
                return Ok(false);
            }
            let expected = self.target.columns.len();
            if usize::try_from(count) != Ok(expected) {
                let message = format!("row field count is {count}, expected {expected}");
                return Err(bad_format(message).with_context(context()));
            }
            self.fields.clear();
            self.tuple_scan += 2;
        }
        while self.fields.len() < self.target.columns.len() {
            let Some(length) = self.word(self.tuple_scan).map(i32::from_be_bytes) else {
                return incomplete(self);
            };
            let start = self.tuple_scan + 4;
            match usize::try_from(length) {
                Err(_) if length == -1 => {
                    self.fields.push(None);
                    self.tuple_scan = start;
                }
                Err(_) => return Err(bad_format("invalid field size").with_context(context())),
                Ok(_) if length > FIELD_BYTES_MAX => {
                    return Err(PgError::new(
                        SqlState::PROGRAM_LIMIT_EXCEEDED,
                        format!("a COPY field exceeds the limit of {FIELD_BYTES_MAX} bytes"),
                    )
                    .with_context(context()));
                }
                Ok(length) if self.buffer.len() - start < length => return incomplete(self),
                Ok(length) => {
                    self.fields.push(Some((start, start + length)));
                    self.tuple_scan = start + length;
                }
            }
        }
        self.at = self.tuple_scan;
        self.tuples += 1;
        Ok(true)
    }
}

/// Writes tuples of the binary format.
#[derive(Clone, Copy, Debug, Default)]
pub struct BinaryWriter;

impl BinaryWriter {
    /// Appends signature and header.
    pub fn header(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(SIGNATURE);
        out.extend_from_slice(&[0; 8]);
    }

    pub fn begin_row(&self, n_columns: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(&(n_columns as i16).to_be_bytes());
    }

    /// Appends a field that `write` appends; `None` is NULL.
    pub fn field<F: FnOnce(&mut Vec<u8>)>(&self, write: Option<F>, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&(-1i32).to_be_bytes());
        if let Some(write) = write {
            write(out);
            let length = (out.len() - start - 4) as i32;
            out[start..start + 4].copy_from_slice(&length.to_be_bytes());
        }
    }

    /// Appends the trailer.
    pub fn trailer(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&TRAILER.to_be_bytes());
    }
}
