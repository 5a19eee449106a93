//! Stored rows straight into columns: the hot loop of every scan.
//!
//! A builder for each projected column appends the column's stored bytes; no `Datum` is made. Strings are collected
//! as bytes and checked for UTF-8 once per batch.

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, BinaryArray, BooleanArray, FixedSizeBinaryArray, ListArray, NullArray,
        PrimitiveArray, StringArray,
    },
    buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer},
    datatypes::{
        ArrowPrimitiveType, DataType, Date32Type, Field, Float32Type, Float64Type, Int16Type,
        Int32Type, Int64Type, IntervalMonthDayNano, IntervalMonthDayNanoType, Schema, SchemaRef,
        Time64MicrosecondType, TimestampMicrosecondType, UInt32Type, UInt64Type,
    },
    record_batch::{RecordBatch, RecordBatchOptions},
};
use bytes::Bytes;

use super::{UTC, arrow_type, element_field, field, interval_to_arrow};
use crate::{
    TableDescriptor,
    error::{ValueError, ValueErrorKind},
    ids::LogIndex,
    row::{self, RowLayout, fixed_width},
    types::SqlType,
    value::Datum,
};

/// A batch should be finished when its variable-width columns hold this much: offsets are 32 bits, and batches
/// are held by the dozen.
pub const BATCH_BYTES_MAX: usize = 64 << 20;

/// Validity of a column, made only when the first NULL comes.
#[derive(Debug, Default)]
struct Validity {
    bits: Option<Vec<bool>>,
}

impl Validity {
    /// `len` is the number of rows before this one.
    fn push(&mut self, len: usize, valid: bool) {
        match &mut self.bits {
            Some(bits) => bits.push(valid),
            None if valid => {}
            None => {
                let mut bits = vec![true; len];
                bits.push(false);
                self.bits = Some(bits);
            }
        }
    }

    fn finish(&mut self) -> Option<NullBuffer> {
        self.bits.take().map(|bits| NullBuffer::new(BooleanBuffer::from(bits)))
    }
}

#[derive(Debug)]
enum Values {
    Bool(Vec<bool>),
    Int2(Vec<i16>),
    /// int4, date
    Int4(Vec<i32>),
    /// int8, time and timestamps
    Int8(Vec<i64>),
    Float4(Vec<f32>),
    Float8(Vec<f64>),
    Oid(Vec<u32>),
    Interval(Vec<IntervalMonthDayNano>),
    /// Strings, bytea, numeric.
    Bytes {
        bytes: Vec<u8>,
        ends: Vec<i32>,
    },
    Uuid(Vec<u8>),
    List {
        elements: Box<ColumnBuilder>,
        ends: Vec<i32>,
    },
    Void,
}

/// Builds one column from stored bytes.
#[derive(Debug)]
pub(super) struct ColumnBuilder {
    ty: SqlType,
    len: usize,
    validity: Validity,
    values: Values,
}

impl ColumnBuilder {
    pub(super) fn new(ty: SqlType, capacity: usize) -> ColumnBuilder {
        let ends = |capacity| {
            let mut ends = Vec::with_capacity(capacity + 1);
            ends.push(0);
            ends
        };
        let values = match ty {
            SqlType::Bool => Values::Bool(Vec::with_capacity(capacity)),
            SqlType::Int2 => Values::Int2(Vec::with_capacity(capacity)),
            SqlType::Int4 | SqlType::Date => Values::Int4(Vec::with_capacity(capacity)),
            SqlType::Int8 | SqlType::Time | SqlType::Timestamp | SqlType::Timestamptz => {
                Values::Int8(Vec::with_capacity(capacity))
            }
            SqlType::Float4 => Values::Float4(Vec::with_capacity(capacity)),
            SqlType::Float8 => Values::Float8(Vec::with_capacity(capacity)),
            SqlType::Interval => Values::Interval(Vec::with_capacity(capacity)),
            SqlType::Uuid => Values::Uuid(Vec::with_capacity(capacity * 16)),
            SqlType::Void => Values::Void,
            SqlType::Array(element) => Values::List {
                elements: Box::new(ColumnBuilder::new(*element, capacity)),
                ends: ends(capacity),
            },
            _ if ty.is_oid_like() => Values::Oid(Vec::with_capacity(capacity)),
            _ => Values::Bytes { bytes: Vec::with_capacity(capacity * 8), ends: ends(capacity) },
        };
        ColumnBuilder { ty, len: 0, validity: Validity::default(), values }
    }

    /// Appends a value from its stored bytes.
    #[inline]
    pub(super) fn push(&mut self, stored: &[u8]) -> Result<(), ValueError> {
        match &mut self.values {
            Values::Bool(values) => values.push(fixed::<1>(stored)?[0] != 0),
            Values::Int2(values) => values.push(i16::from_le_bytes(fixed(stored)?)),
            Values::Int4(values) => values.push(i32::from_le_bytes(fixed(stored)?)),
            Values::Int8(values) => values.push(i64::from_le_bytes(fixed(stored)?)),
            Values::Float4(values) => values.push(f32::from_le_bytes(fixed(stored)?)),
            Values::Float8(values) => values.push(f64::from_le_bytes(fixed(stored)?)),
            Values::Oid(values) => values.push(u32::from_le_bytes(fixed(stored)?)),
            Values::Interval(values) => {
                values.push(interval_to_arrow(&row::read_interval(stored)?)?);
            }
            Values::Bytes { bytes, ends } => {
                let end = i32::try_from(bytes.len() + stored.len()).map_err(|_| too_large())?;
                bytes.extend_from_slice(stored);
                ends.push(end);
            }
            Values::Uuid(bytes) => bytes.extend_from_slice(&fixed::<16>(stored)?),
            Values::List { elements, ends } => {
                elements.push_array(stored)?;
                ends.push(i32::try_from(elements.len).map_err(|_| too_large())?);
            }
            Values::Void => {}
        }
        self.validity.push(self.len, true);
        self.len += 1;
        Ok(())
    }

    #[inline]
    pub(super) fn push_null(&mut self) {
        match &mut self.values {
            Values::Bool(values) => values.push(false),
            Values::Int2(values) => values.push(0),
            Values::Int4(values) => values.push(0),
            Values::Int8(values) => values.push(0),
            Values::Float4(values) => values.push(0.0),
            Values::Float8(values) => values.push(0.0),
            Values::Oid(values) => values.push(0),
            Values::Interval(values) => values.push(IntervalMonthDayNano::ZERO),
            Values::Uuid(bytes) => bytes.extend_from_slice(&[0; 16]),
            Values::Bytes { ends, .. } | Values::List { ends, .. } => {
                let end = ends.last().copied().unwrap_or(0);
                ends.push(end);
            }
            Values::Void => {}
        }
        self.validity.push(self.len, false);
        self.len += 1;
    }

    /// Appends the elements of a stored array.
    fn push_array(&mut self, stored: &[u8]) -> Result<(), ValueError> {
        let (_, rest) = stored.split_first_chunk::<4>().ok_or_else(row::malformed)?;
        let (count, rest) = rest.split_first_chunk::<4>().ok_or_else(row::malformed)?;
        let count = u32::from_le_bytes(*count) as usize;
        let (bitmap, mut rest) =
            rest.split_at_checked(count.div_ceil(8)).ok_or_else(row::malformed)?;
        for i in 0..count {
            if bitmap[i / 8] & (1 << (i % 8)) != 0 {
                self.push_null();
                continue;
            }
            let length = match fixed_width(self.ty) {
                Some(width) => width,
                None => {
                    let (length, after) =
                        rest.split_first_chunk::<4>().ok_or_else(row::malformed)?;
                    rest = after;
                    u32::from_le_bytes(*length) as usize
                }
            };
            let (element, after) = rest.split_at_checked(length).ok_or_else(row::malformed)?;
            rest = after;
            self.push(element)?;
        }
        Ok(())
    }

    /// Bytes of variable width so far.
    fn variable_bytes(&self) -> usize {
        match &self.values {
            Values::Bytes { bytes, .. } => bytes.len(),
            Values::List { elements, .. } => elements.variable_bytes() + elements.len * 8,
            _ => 0,
        }
    }

    /// Yields the column and starts anew.
    pub(super) fn finish(&mut self) -> Result<ArrayRef, ValueError> {
        let nulls = self.validity.finish();
        let len = std::mem::take(&mut self.len);
        Ok(match &mut self.values {
            Values::Bool(values) => {
                let values = BooleanBuffer::from(std::mem::take(values));
                Arc::new(BooleanArray::new(values, nulls))
            }
            Values::Int2(values) => primitive::<Int16Type>(values, nulls),
            Values::Int4(values) if self.ty == SqlType::Date => {
                primitive::<Date32Type>(values, nulls)
            }
            Values::Int4(values) => primitive::<Int32Type>(values, nulls),
            Values::Int8(values) => match self.ty {
                SqlType::Time => primitive::<Time64MicrosecondType>(values, nulls),
                SqlType::Timestamp => primitive::<TimestampMicrosecondType>(values, nulls),
                SqlType::Timestamptz => {
                    let values = ScalarBuffer::from(renew(values));
                    let column = PrimitiveArray::<TimestampMicrosecondType>::new(values, nulls);
                    Arc::new(column.with_timezone(UTC))
                }
                _ => primitive::<Int64Type>(values, nulls),
            },
            Values::Float4(values) => primitive::<Float32Type>(values, nulls),
            Values::Float8(values) => primitive::<Float64Type>(values, nulls),
            Values::Oid(values) => primitive::<UInt32Type>(values, nulls),
            Values::Interval(values) => primitive::<IntervalMonthDayNanoType>(values, nulls),
            Values::Bytes { bytes, ends } => {
                let offsets = renew_ends(ends);
                let bytes = Buffer::from_vec(renew(bytes));
                if arrow_type(self.ty) == DataType::Binary {
                    Arc::new(BinaryArray::try_new(offsets, bytes, nulls).map_err(corrupt)?)
                } else {
                    Arc::new(StringArray::try_new(offsets, bytes, nulls).map_err(corrupt)?)
                }
            }
            Values::Uuid(bytes) => {
                let bytes = Buffer::from_vec(renew(bytes));
                Arc::new(FixedSizeBinaryArray::try_new(16, bytes, nulls).map_err(corrupt)?)
            }
            Values::List { elements, ends } => {
                let offsets = renew_ends(ends);
                let field = element_field(elements.ty);
                let elements = elements.finish()?;
                Arc::new(ListArray::try_new(field, offsets, elements, nulls).map_err(corrupt)?)
            }
            Values::Void => Arc::new(NullArray::new(len)),
        })
    }
}

/// Takes a vector and leaves one of the same capacity.
fn renew<T>(values: &mut Vec<T>) -> Vec<T> {
    let capacity = values.len();
    std::mem::replace(values, Vec::with_capacity(capacity))
}

fn renew_ends(ends: &mut Vec<i32>) -> OffsetBuffer<i32> {
    let taken = renew(ends);
    ends.push(0);
    OffsetBuffer::new(ScalarBuffer::from(taken))
}

fn primitive<T: ArrowPrimitiveType>(
    values: &mut Vec<T::Native>,
    nulls: Option<NullBuffer>,
) -> ArrayRef {
    Arc::new(PrimitiveArray::<T>::new(ScalarBuffer::from(renew(values)), nulls))
}

fn fixed<const N: usize>(bytes: &[u8]) -> Result<[u8; N], ValueError> {
    bytes.try_into().map_err(|_| row::malformed())
}

fn too_large() -> ValueError {
    ValueError::new(ValueErrorKind::Internal, "a batch exceeds 2 GiB in one column")
}

fn corrupt(error: arrow::error::ArrowError) -> ValueError {
    ValueError::new(ValueErrorKind::Internal, format!("malformed stored row: {error}"))
}

/// A projected column: where it is, and what rows read that are older than it.
#[derive(Debug)]
struct Projected {
    position: usize,
    dropped: bool,
    /// Stored bytes of `missing`; `None` is NULL.
    missing: Option<Vec<u8>>,
    builder: ColumnBuilder,
}

/// Identity columns of a scan that feeds a write.
#[derive(Debug)]
struct Identity {
    keys: ColumnBuilder,
    versions: Vec<u64>,
}

/// Decodes stored rows straight into columns, for scans.
#[derive(Debug)]
pub struct RowBatchBuilder {
    table: TableDescriptor,
    schema: SchemaRef,
    /// Of the last row's version; rows of other versions are rare.
    layout: RowLayout,
    columns: Vec<Projected>,
    identity: Option<Identity>,
    len: usize,
}

impl RowBatchBuilder {
    /// `columns` are positions in the table; with identity two columns follow: `cortex_key` Binary, `cortex_version`
    /// UInt64.
    pub fn new(
        table: &TableDescriptor,
        columns: &[usize],
        with_identity: bool,
        capacity: usize,
    ) -> Self {
        let mut fields = Vec::with_capacity(columns.len() + 2);
        let mut projected = Vec::with_capacity(columns.len());
        for position in columns {
            let Some(column) = table.columns.get(*position) else {
                debug_assert!(false, "column {position} does not exist");
                continue;
            };
            fields.push(field(&column.name, column.ty, !column.not_null || column.dropped));
            let missing = (!matches!(column.missing, Datum::Null)).then(|| {
                let mut stored = Vec::new();
                row::write_value(&mut stored, &column.missing);
                stored
            });
            projected.push(Projected {
                position: *position,
                dropped: column.dropped,
                missing,
                builder: ColumnBuilder::new(column.ty.ty, capacity),
            });
        }
        let identity = with_identity.then(|| {
            fields.push(Field::new("cortex_key", DataType::Binary, false));
            fields.push(Field::new("cortex_version", DataType::UInt64, false));
            Identity {
                keys: ColumnBuilder::new(SqlType::Bytea, capacity),
                versions: Vec::with_capacity(capacity),
            }
        });
        RowBatchBuilder {
            schema: Arc::new(Schema::new(fields)),
            layout: RowLayout::new(table, table.version),
            table: table.clone(),
            columns: projected,
            identity,
            len: 0,
        }
    }

    pub fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    /// Appends a stored row. After an error the builder must be dropped.
    pub fn push(&mut self, key: &Bytes, version: LogIndex, value: &[u8]) -> Result<(), ValueError> {
        let row_version = row::version_of(value)?;
        if row_version != self.layout.version {
            self.layout = RowLayout::new(&self.table, row_version);
        }
        let row = self.layout.open(value)?;
        for column in &mut self.columns {
            let stored = if column.dropped {
                None
            } else if column.position < self.layout.n_columns() {
                self.layout.column(&row, column.position)?
            } else {
                column.missing.as_deref()
            };
            match stored {
                Some(bytes) => column.builder.push(bytes)?,
                None => column.builder.push_null(),
            }
        }
        if let Some(identity) = &mut self.identity {
            identity.keys.push(key)?;
            identity.versions.push(version.0);
        }
        self.len += 1;
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether the batch should be finished before its row limit: wide rows.
    pub fn is_full(&self) -> bool {
        self.columns.iter().map(|column| column.builder.variable_bytes()).sum::<usize>()
            >= BATCH_BYTES_MAX
    }

    /// Yields the rows pushed so far and starts anew. Fails on rows that hold no valid text.
    pub fn finish(&mut self) -> Result<RecordBatch, ValueError> {
        let mut arrays = Vec::with_capacity(self.columns.len() + 2);
        for column in &mut self.columns {
            arrays.push(column.builder.finish()?);
        }
        if let Some(identity) = &mut self.identity {
            arrays.push(identity.keys.finish()?);
            arrays.push(primitive::<UInt64Type>(&mut identity.versions, None));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(std::mem::take(&mut self.len)));
        RecordBatch::try_new_with_options(self.schema.clone(), arrays, &options).map_err(corrupt)
    }
}
