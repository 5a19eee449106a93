//! What a COPY statement says about its data, and a reader over all three formats.
//!
//! Lives here: options, the target's columns, errors with `CONTEXT: COPY t, line 3, column a: "..."`. Not here: how an
//! option is written in SQL.

use std::sync::Arc;

use cortex_shard_api::{
    Datum, TypeMod, ValueError,
    value::{self, ValueSettings},
};

use super::{
    binary::{BinaryReader, BinaryRow},
    csv::CsvReader,
    text::TextReader,
};
use crate::error::{PgError, SqlState};

/// Bytes of data that a CONTEXT shows.
const SHOWN_MAX: usize = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyFormat {
    Text,
    Csv,
    Binary,
}

/// The first line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// Data.
    No,
    /// Names: skipped on the way in, written on the way out.
    Yes,
    /// Names that must be those of the columns.
    Match,
}

/// Options of the text and CSV formats. Vectors of flags are by position in the target's columns; empty is none.
#[derive(Clone, Debug)]
pub struct CopyOptions {
    pub delimiter: u8,
    pub null: String,
    pub header: Header,
    pub quote: u8,
    pub escape: u8,
    pub force_quote: Vec<bool>,
    pub force_null: Vec<bool>,
    pub force_not_null: Vec<bool>,
}

impl CopyOptions {
    /// Tabs and `\N`.
    pub fn text() -> CopyOptions {
        CopyOptions { delimiter: b'\t', null: "\\N".into(), ..CopyOptions::csv() }
    }

    /// Commas, double quotes and an empty NULL.
    pub fn csv() -> CopyOptions {
        CopyOptions {
            delimiter: b',',
            null: String::new(),
            header: Header::No,
            quote: b'"',
            escape: b'"',
            force_quote: Vec::new(),
            force_null: Vec::new(),
            force_not_null: Vec::new(),
        }
    }
}

#[derive(Clone, Debug)]
pub struct CopyColumn {
    pub name: String,
    pub ty: TypeMod,
}

/// The columns that the data has, in its order, and the table's name for messages.
#[derive(Clone, Debug)]
pub struct CopyTarget {
    pub table: String,
    pub columns: Vec<CopyColumn>,
}

impl CopyTarget {
    /// The names as a header line has them.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|column| column.name.as_str())
    }

    /// `COPY t, line 3`
    pub(super) fn at_line(&self, line: u64) -> String {
        format!("COPY {}, line {line}", self.table)
    }

    /// `COPY t, line 3: "1,2"`
    pub(super) fn at_data(&self, line: u64, data: &[u8]) -> String {
        format!("{}: \"{}\"", self.at_line(line), shown(data))
    }

    /// `COPY t, line 3, column a: "x"`
    fn at_column(&self, line: u64, column: usize, data: Option<&[u8]>) -> String {
        let name = self.columns.get(column).map_or("", |column| column.name.as_str());
        match data {
            Some(data) => format!("{}, column {name}: \"{}\"", self.at_line(line), shown(data)),
            None => format!("{}, column {name}: null input", self.at_line(line)),
        }
    }

    /// `missing data for column "b"`
    pub(super) fn missing(&self, column: usize, line: u64, data: &[u8]) -> PgError {
        let name = self.columns.get(column).map_or("", |column| column.name.as_str());
        bad_format(format!("missing data for column \"{name}\""))
            .with_context(self.at_data(line, data))
    }

    pub(super) fn extra(&self, line: u64, data: &[u8]) -> PgError {
        bad_format("extra data after last expected column").with_context(self.at_data(line, data))
    }

    /// Compares a header line with the columns' names.
    pub(super) fn check_header(
        &self,
        line: u64,
        data: &[u8],
        fields: &[Option<&str>],
        null: &str,
    ) -> Result<(), PgError> {
        let fail = |message: String| bad_format(message).with_context(self.at_data(line, data));
        if fields.len() != self.columns.len() {
            return Err(fail(format!(
                "wrong number of fields in header line: got {}, expected {}",
                fields.len(),
                self.columns.len()
            )));
        }
        for (i, (field, name)) in fields.iter().zip(self.names()).enumerate() {
            let n = i + 1;
            match field {
                Some(field) if *field == name => {}
                Some(field) => {
                    return Err(fail(format!(
                        "column name mismatch in header line field {n}: got \"{field}\", expected \"{name}\""
                    )));
                }
                None => {
                    return Err(fail(format!(
                        "column name mismatch in header line field {n}: got null value (\"{null}\"), expected \"{name}\""
                    )));
                }
            }
        }
        Ok(())
    }
}

/// The start of some data, for a message.
fn shown(data: &[u8]) -> String {
    if data.len() <= SHOWN_MAX {
        return String::from_utf8_lossy(data).into_owned();
    }
    // Whole characters only.
    let mut end = SHOWN_MAX;
    while end > 0 && data[end] & 0xc0 == 0x80 {
        end -= 1;
    }
    format!("{}...", String::from_utf8_lossy(&data[..end]))
}

/// 22P04
pub(super) fn bad_format(message: impl Into<String>) -> PgError {
    PgError::new(SqlState::BAD_COPY_FILE_FORMAT, message)
}

/// Where a field's text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Span {
    Null,
    /// As it stands in the line.
    Line(usize, usize),
    /// Unescaped, in the reader's side buffer.
    Side(usize, usize),
}

/// A row of text or CSV; borrowed from the reader's buffer.
#[derive(Clone, Copy, Debug)]
pub struct TextRow<'a> {
    pub(super) target: &'a CopyTarget,
    /// Counts from 1, the header included.
    pub line: u64,
    pub(super) text: &'a str,
    pub(super) side: &'a str,
    pub(super) spans: &'a [Span],
}

impl<'a> TextRow<'a> {
    /// Number of fields: that of the target's columns.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// A field's text; `None` is NULL.
    #[inline]
    pub fn field(&self, column: usize) -> Option<&'a str> {
        match self.spans.get(column)? {
            Span::Null => None,
            Span::Line(start, end) => self.text.get(*start..*end),
            Span::Side(start, end) => self.side.get(*start..*end),
        }
    }
}

/// A row of any format.
#[derive(Clone, Copy, Debug)]
pub enum CopyRow<'a> {
    Text(TextRow<'a>),
    Binary(BinaryRow<'a>),
}

impl CopyRow<'_> {
    pub fn line(&self) -> u64 {
        match self {
            CopyRow::Text(row) => row.line,
            CopyRow::Binary(row) => row.line,
        }
    }

    /// A field as a value of its column's type; errors name line, column and data.
    pub fn datum(&self, column: usize, settings: &ValueSettings) -> Result<Datum, PgError> {
        match self {
            CopyRow::Text(row) => {
                let Some(text) = row.field(column) else {
                    return Ok(Datum::Null);
                };
                let Some(descriptor) = row.target.columns.get(column) else {
                    return Ok(Datum::Null);
                };
                value::text::parse_with_typmod(descriptor.ty, text, settings).map_err(|error| {
                    let at = row.target.at_column(row.line, column, Some(text.as_bytes()));
                    PgError::from(error).with_context(at)
                })
            }
            CopyRow::Binary(row) => {
                let Some(bytes) = row.field(column) else {
                    return Ok(Datum::Null);
                };
                let Some(descriptor) = row.target.columns.get(column) else {
                    return Ok(Datum::Null);
                };
                value::binary::decode(descriptor.ty.ty, bytes)
                    .and_then(|value| value::text::apply_typmod(value, descriptor.ty, false))
                    .map_err(|error| {
                        let name = &descriptor.name;
                        let at = format!("{}, column {name}", row.target.at_line(row.line));
                        PgError::from(error).with_context(at)
                    })
            }
        }
    }

    /// Adds this row's place to an error that a value of it caused later (a constraint, a default).
    pub fn context(&self) -> String {
        match self {
            CopyRow::Text(row) => row.target.at_data(row.line, row.text.as_bytes()),
            CopyRow::Binary(row) => row.target.at_line(row.line),
        }
    }
}

/// A stream of rows in any format: `push` bytes, take rows until there are none, `finish`, take the last rows.
#[derive(Debug)]
pub enum CopyReader {
    Text(TextReader),
    Csv(CsvReader),
    Binary(BinaryReader),
}

impl CopyReader {
    pub fn new(format: CopyFormat, target: Arc<CopyTarget>, options: CopyOptions) -> CopyReader {
        match format {
            CopyFormat::Text => CopyReader::Text(TextReader::new(target, options)),
            CopyFormat::Csv => CopyReader::Csv(CsvReader::new(target, options)),
            CopyFormat::Binary => CopyReader::Binary(BinaryReader::new(target)),
        }
    }

    /// Adds bytes. Take all rows before the next push: the buffer holds what is not taken.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), PgError> {
        match self {
            CopyReader::Text(reader) => reader.push(bytes),
            CopyReader::Csv(reader) => reader.push(bytes),
            CopyReader::Binary(reader) => reader.push(bytes),
        }
    }

    /// All bytes are here: an unfinished last line counts.
    pub fn finish(&mut self) {
        match self {
            CopyReader::Text(reader) => reader.finish(),
            CopyReader::Csv(reader) => reader.finish(),
            CopyReader::Binary(reader) => reader.finish(),
        }
    }

    /// The next whole row; `None`: push more, or all is read.
    pub fn next_row(&mut self) -> Result<Option<CopyRow<'_>>, PgError> {
        match self {
            CopyReader::Text(reader) => Ok(reader.next_row()?.map(CopyRow::Text)),
            CopyReader::Csv(reader) => Ok(reader.next_row()?.map(CopyRow::Text)),
            CopyReader::Binary(reader) => Ok(reader.next_row()?.map(CopyRow::Binary)),
        }
    }
}

/// 22021 with the line; for bytes that are no text.
pub(super) fn not_text(bytes: &[u8], context: String) -> PgError {
    match value::binary::check_text(bytes) {
        Err(error) => PgError::from(error).with_context(context),
        Ok(_) => PgError::from(ValueError::new(
            cortex_shard_api::ValueErrorKind::InvalidCharacter,
            "invalid byte sequence for encoding \"UTF8\"",
        ))
        .with_context(context),
    }
}
