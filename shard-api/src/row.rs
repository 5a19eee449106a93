//! The stored form of a row. Format: docs/format/rows.md.
//!
//! `[format u8][table version u32][null bitmap][fixed-width columns][offsets][variable part]`, little-endian. The place
//! of a fixed-width column does not depend on the row's contents, so a scan reads the columns it wants and nothing
//! else. Lives here: whole rows, and the stored bytes of single values. Not here: keys (`key`), columns of batches
//! (`value::arrow`).

use crate::{
    client::Row,
    descriptor::TableDescriptor,
    error::{ValueError, ValueErrorKind},
    types::SqlType,
    value::{ArrayValue, Datum, Interval, Numeric},
};

/// First byte: offsets of two bytes, for variable parts below 64 KiB.
const FORMAT_NARROW: u8 = 1;

/// First byte: offsets of four bytes.
const FORMAT_WIDE: u8 = 2;

/// Bytes of an offset in the two formats.
const NARROW: usize = 2;
const WIDE: usize = 4;

/// The format byte and the table version.
const HEADER_LEN: usize = 5;

/// Bytes of a stored value of a fixed-width type; `None` for the variable ones.
pub const fn fixed_width(ty: SqlType) -> Option<usize> {
    Some(match ty {
        SqlType::Void => 0,
        SqlType::Bool => 1,
        SqlType::Int2 => 2,
        SqlType::Int4
        | SqlType::Float4
        | SqlType::Date
        | SqlType::Oid
        | SqlType::Regclass
        | SqlType::Regtype
        | SqlType::Regproc
        | SqlType::Regnamespace
        | SqlType::Regrole => 4,
        SqlType::Int8
        | SqlType::Float8
        | SqlType::Time
        | SqlType::Timestamp
        | SqlType::Timestamptz => 8,
        SqlType::Interval | SqlType::Uuid => 16,
        _ => return None,
    })
}

/// Where a column's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// At this offset from the row's start.
    Fixed { offset: usize, width: usize },
    /// The n-th variable column.
    Variable(usize),
}

/// The places of the columns in rows of one table version: columns are only ever added at the end.
#[derive(Clone, Debug)]
pub struct RowLayout {
    pub version: u32,
    slots: Vec<Slot>,
    /// Where the offsets begin.
    offsets_at: usize,
    n_variable: usize,
}

/// A stored row, opened: its columns are slices of its bytes.
#[derive(Clone, Copy, Debug)]
pub struct StoredColumns<'a> {
    bytes: &'a [u8],
    wide: bool,
}

impl RowLayout {
    /// The layout of rows that were written when the table had this version.
    pub fn new(table: &TableDescriptor, version: u32) -> RowLayout {
        let columns = || table.columns.iter().take_while(|column| column.added_in <= version);
        let mut offset = HEADER_LEN + columns().count().div_ceil(8);
        let mut n_variable = 0;
        let slots = columns()
            .map(|column| match fixed_width(column.ty.ty) {
                Some(width) => {
                    offset += width;
                    Slot::Fixed { offset: offset - width, width }
                }
                None => {
                    n_variable += 1;
                    Slot::Variable(n_variable - 1)
                }
            })
            .collect();
        RowLayout { version, slots, offsets_at: offset, n_variable }
    }

    /// Number of columns that rows of this version store.
    pub fn n_columns(&self) -> usize {
        self.slots.len()
    }

    /// Checks the frame of a row of this version.
    pub fn open<'a>(&self, bytes: &'a [u8]) -> Result<StoredColumns<'a>, ValueError> {
        let wide = match bytes.first() {
            Some(&FORMAT_NARROW) => false,
            Some(&FORMAT_WIDE) => true,
            _ => return Err(malformed()),
        };
        let row = StoredColumns { bytes, wide };
        let start = self.variable_start(wide);
        if bytes.len() < start || self.end_of_variable(&row, self.n_variable) != bytes.len() {
            return Err(malformed());
        }
        Ok(row)
    }

    fn variable_start(&self, wide: bool) -> usize {
        self.offsets_at + self.n_variable * if wide { WIDE } else { NARROW }
    }

    /// Where the first `count` variable columns end.
    fn end_of_variable(&self, row: &StoredColumns<'_>, count: usize) -> usize {
        let start = self.variable_start(row.wide);
        if count == 0 {
            return start;
        }
        let length = if row.wide {
            let at = self.offsets_at + (count - 1) * WIDE;
            row.bytes[at..]
                .first_chunk::<4>()
                .map_or(usize::MAX / 2, |end| u32::from_le_bytes(*end) as usize)
        } else {
            let at = self.offsets_at + (count - 1) * NARROW;
            row.bytes[at..]
                .first_chunk::<2>()
                .map_or(usize::MAX / 2, |end| usize::from(u16::from_le_bytes(*end)))
        };
        start + length
    }

    /// The stored bytes of a column that rows of this version have; `None` is NULL.
    #[inline]
    pub fn column<'a>(
        &self,
        row: &StoredColumns<'a>,
        position: usize,
    ) -> Result<Option<&'a [u8]>, ValueError> {
        let bitmap = row.bytes.get(HEADER_LEN + position / 8).ok_or_else(malformed)?;
        if bitmap & (1 << (position % 8)) != 0 {
            return Ok(None);
        }
        let bytes = match self.slots.get(position) {
            Some(Slot::Fixed { offset, width }) => row.bytes.get(*offset..*offset + *width),
            Some(Slot::Variable(n)) => {
                row.bytes.get(self.end_of_variable(row, *n)..self.end_of_variable(row, *n + 1))
            }
            None => None,
        };
        bytes.map(Some).ok_or_else(malformed)
    }
}

/// The table version that a stored row was written with.
pub fn version_of(bytes: &[u8]) -> Result<u32, ValueError> {
    let version = bytes.get(1..).and_then(|rest| rest.first_chunk::<4>()).ok_or_else(malformed)?;
    Ok(u32::from_le_bytes(*version))
}

/// Encodes all columns by position.
pub fn encode(table: &TableDescriptor, row: &[Datum]) -> Vec<u8> {
    let value = |position: usize, dropped: bool| match row.get(position) {
        Some(value) if !dropped => value,
        _ => &Datum::Null,
    };
    let (mut fixed_len, mut variable_len, mut n_variable) = (0, 0, 0);
    for (position, column) in table.columns.iter().enumerate() {
        match fixed_width(column.ty.ty) {
            Some(width) => fixed_len += width,
            None => {
                n_variable += 1;
                variable_len += estimated_len(value(position, column.dropped));
            }
        }
    }
    let fixed_start = HEADER_LEN + table.columns.len().div_ceil(8);
    let offsets_at = fixed_start + fixed_len;
    let variable_at = offsets_at + n_variable * NARROW;
    let mut out = Vec::with_capacity(variable_at + variable_len);
    out.push(FORMAT_NARROW);
    out.extend_from_slice(&table.version.to_le_bytes());
    out.resize(fixed_start, 0);
    for (position, column) in table.columns.iter().enumerate() {
        let value = value(position, column.dropped);
        if matches!(value, Datum::Null) {
            out[HEADER_LEN + position / 8] |= 1 << (position % 8);
        }
        if let Some(width) = fixed_width(column.ty.ty) {
            let end = out.len() + width;
            write_value(&mut out, value);
            debug_assert!(matches!(value, Datum::Null) || out.len() == end, "wrong variant");
            out.resize(end, 0);
        }
    }
    out.resize(variable_at, 0);
    let mut end_at = offsets_at;
    for (position, column) in table.columns.iter().enumerate() {
        if fixed_width(column.ty.ty).is_some() {
            continue;
        }
        write_value(&mut out, value(position, column.dropped));
        // Overflows are repaired below; the last offset is the largest.
        let end = (out.len() - variable_at) as u16;
        out[end_at..end_at + NARROW].copy_from_slice(&end.to_le_bytes());
        end_at += NARROW;
    }
    if out.len() - variable_at > usize::from(u16::MAX) {
        return widen(table, row, &out[..offsets_at], &out[variable_at..]);
    }
    out
}

/// The same row with offsets of four bytes.
fn widen(table: &TableDescriptor, row: &[Datum], start: &[u8], variable: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(start.len() + variable.len() + table.columns.len() * WIDE);
    out.extend_from_slice(start);
    out[0] = FORMAT_WIDE;
    let mut end = 0;
    let mut measured = Vec::new();
    for (position, column) in table.columns.iter().enumerate() {
        if fixed_width(column.ty.ty).is_some() {
            continue;
        }
        if let Some(value) = row.get(position).filter(|_| !column.dropped) {
            measured.clear();
            write_value(&mut measured, value);
            end += measured.len();
        }
        out.extend_from_slice(&(end as u32).to_le_bytes());
    }
    out.extend_from_slice(variable);
    out
}

/// Stored bytes of a variable value, or a guess where counting would be dear.
fn estimated_len(value: &Datum) -> usize {
    match value {
        Datum::Null => 0,
        Datum::Text(text) | Datum::Json(text) | Datum::Jsonb(text) => text.len(),
        Datum::Bytea(bytes) => bytes.len(),
        Datum::Array(array) => 16 + array.elements.len() * 12,
        _ => 16,
    }
}

/// Decodes all columns; those added after the row was written read `missing`, dropped ones `Null`.
pub fn decode(table: &TableDescriptor, bytes: &[u8]) -> Result<Row, ValueError> {
    let layout = RowLayout::new(table, version_of(bytes)?);
    let row = layout.open(bytes)?;
    (0..table.columns.len()).map(|position| column(table, &layout, &row, position)).collect()
}

/// Decodes some columns, in the order asked for.
pub fn decode_columns(
    table: &TableDescriptor,
    bytes: &[u8],
    positions: &[usize],
) -> Result<Vec<Datum>, ValueError> {
    let layout = RowLayout::new(table, version_of(bytes)?);
    let row = layout.open(bytes)?;
    positions.iter().map(|position| column(table, &layout, &row, *position)).collect()
}

fn column(
    table: &TableDescriptor,
    layout: &RowLayout,
    row: &StoredColumns<'_>,
    position: usize,
) -> Result<Datum, ValueError> {
    let column = table.columns.get(position).ok_or_else(malformed)?;
    if column.dropped {
        return Ok(Datum::Null);
    }
    if position >= layout.n_columns() {
        return Ok(column.missing.clone());
    }
    match layout.column(row, position)? {
        Some(bytes) => read_value(bytes, column.ty.ty),
        None => Ok(Datum::Null),
    }
}

/// Appends a value's stored bytes; nothing for `Null`.
pub fn write_value(out: &mut Vec<u8>, value: &Datum) {
    match value {
        Datum::Null => {}
        Datum::Bool(value) => out.push(u8::from(*value)),
        Datum::Int2(value) => out.extend_from_slice(&value.to_le_bytes()),
        Datum::Int4(value) | Datum::Date(value) => out.extend_from_slice(&value.to_le_bytes()),
        Datum::Int8(value)
        | Datum::Time(value)
        | Datum::Timestamp(value)
        | Datum::Timestamptz(value) => out.extend_from_slice(&value.to_le_bytes()),
        Datum::Float4(value) => out.extend_from_slice(&value.to_le_bytes()),
        Datum::Float8(value) => out.extend_from_slice(&value.to_le_bytes()),
        Datum::Numeric(value) => value.write_sortable(out),
        Datum::Text(text) | Datum::Json(text) | Datum::Jsonb(text) => {
            out.extend_from_slice(text.as_bytes());
        }
        Datum::Bytea(bytes) => out.extend_from_slice(bytes),
        Datum::Interval(interval) => {
            out.extend_from_slice(&interval.micros.to_le_bytes());
            out.extend_from_slice(&interval.days.to_le_bytes());
            out.extend_from_slice(&interval.months.to_le_bytes());
        }
        Datum::Uuid(bytes) => out.extend_from_slice(bytes),
        Datum::Oid(value) => out.extend_from_slice(&value.to_le_bytes()),
        Datum::Array(array) => write_array(out, array),
    }
}

/// `[lower bound i32][count u32][null bitmap][elements]`; elements of variable width have their length before them.
fn write_array(out: &mut Vec<u8>, array: &ArrayValue) {
    out.extend_from_slice(&array.lower_bound.to_le_bytes());
    out.extend_from_slice(&(array.elements.len() as u32).to_le_bytes());
    let bitmap = out.len();
    out.resize(bitmap + array.elements.len().div_ceil(8), 0);
    let is_fixed = fixed_width(array.element).is_some();
    for (i, element) in array.elements.iter().enumerate() {
        if matches!(element, Datum::Null) {
            out[bitmap + i / 8] |= 1 << (i % 8);
        } else if is_fixed {
            write_value(out, element);
        } else {
            let start = out.len();
            out.extend_from_slice(&[0; 4]);
            write_value(out, element);
            let length = (out.len() - start - 4) as u32;
            out[start..start + 4].copy_from_slice(&length.to_le_bytes());
        }
    }
}

/// Reads what `write_value` wrote; `bytes` is exactly one value, not NULL.
pub fn read_value(bytes: &[u8], ty: SqlType) -> Result<Datum, ValueError> {
    Ok(match ty {
        SqlType::Bool => Datum::Bool(fixed::<1>(bytes)?[0] != 0),
        SqlType::Int2 => Datum::Int2(i16::from_le_bytes(fixed(bytes)?)),
        SqlType::Int4 => Datum::Int4(i32::from_le_bytes(fixed(bytes)?)),
        SqlType::Int8 => Datum::Int8(i64::from_le_bytes(fixed(bytes)?)),
        SqlType::Float4 => Datum::Float4(f32::from_le_bytes(fixed(bytes)?)),
        SqlType::Float8 => Datum::Float8(f64::from_le_bytes(fixed(bytes)?)),
        SqlType::Numeric => Datum::Numeric(Numeric::from_sortable(bytes)?),
        SqlType::Bytea => Datum::Bytea(bytes.into()),
        SqlType::Date => Datum::Date(i32::from_le_bytes(fixed(bytes)?)),
        SqlType::Time => Datum::Time(i64::from_le_bytes(fixed(bytes)?)),
        SqlType::Timestamp => Datum::Timestamp(i64::from_le_bytes(fixed(bytes)?)),
        SqlType::Timestamptz => Datum::Timestamptz(i64::from_le_bytes(fixed(bytes)?)),
        SqlType::Interval => Datum::Interval(read_interval(bytes)?),
        SqlType::Uuid => Datum::Uuid(fixed(bytes)?),
        SqlType::Json => Datum::Json(text(bytes)?.into()),
        SqlType::Jsonb => Datum::Jsonb(text(bytes)?.into()),
        SqlType::Array(element) => Datum::Array(Box::new(read_array(bytes, *element)?)),
        SqlType::Void => Datum::Null,
        _ if ty.is_oid_like() => Datum::Oid(u32::from_le_bytes(fixed(bytes)?)),
        _ => Datum::Text(text(bytes)?.into()),
    })
}

/// The stored bytes of an interval.
pub(crate) fn read_interval(bytes: &[u8]) -> Result<Interval, ValueError> {
    let bytes: [u8; 16] = fixed(bytes)?;
    let (micros, rest) = bytes.split_first_chunk::<8>().ok_or_else(malformed)?;
    let (days, months) = rest.split_first_chunk::<4>().ok_or_else(malformed)?;
    Ok(Interval {
        months: i32::from_le_bytes(fixed(months)?),
        days: i32::from_le_bytes(*days),
        micros: i64::from_le_bytes(*micros),
    })
}

fn read_array(bytes: &[u8], element: SqlType) -> Result<ArrayValue, ValueError> {
    let (lower_bound, rest) = bytes.split_first_chunk::<4>().ok_or_else(malformed)?;
    let (count, rest) = rest.split_first_chunk::<4>().ok_or_else(malformed)?;
    let count = u32::from_le_bytes(*count) as usize;
    let (bitmap, mut rest) = rest.split_at_checked(count.div_ceil(8)).ok_or_else(malformed)?;
    let mut elements = Vec::with_capacity(count);
    for i in 0..count {
        if bitmap[i / 8] & (1 << (i % 8)) != 0 {
            elements.push(Datum::Null);
            continue;
        }
        let length = match fixed_width(element) {
            Some(width) => width,
            None => {
                let (length, after) = rest.split_first_chunk::<4>().ok_or_else(malformed)?;
                rest = after;
                u32::from_le_bytes(*length) as usize
            }
        };
        let (value, after) = rest.split_at_checked(length).ok_or_else(malformed)?;
        rest = after;
        elements.push(read_value(value, element)?);
    }
    if !rest.is_empty() {
        return Err(malformed());
    }
    Ok(ArrayValue { element, lower_bound: i32::from_le_bytes(*lower_bound), elements })
}

fn fixed<const N: usize>(bytes: &[u8]) -> Result<[u8; N], ValueError> {
    bytes.try_into().map_err(|_| malformed())
}

fn text(bytes: &[u8]) -> Result<&str, ValueError> {
    std::str::from_utf8(bytes).map_err(|_| malformed())
}

pub(crate) fn malformed() -> ValueError {
    ValueError::new(ValueErrorKind::Internal, "malformed stored row")
}

#[cfg(test)]
mod tests;
