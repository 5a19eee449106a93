//! DataRows from record batches and from rows of datums.
//!
//! A batch is written row by row, because the protocol wants rows, but how a column is written is decided once per batch:
//! each array is downcast once, and a value then costs one predictable match.

use arrow::{
    array::{
        Array, AsArray, BinaryArray, BooleanArray, Date32Array, FixedSizeBinaryArray, Float32Array,
        Float64Array, Int16Array, Int32Array, Int64Array, IntervalMonthDayNanoArray, StringArray,
        StringViewArray, Time64MicrosecondArray, TimestampMicrosecondArray, UInt32Array,
    },
    datatypes::{
        DataType, Date32Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type,
        IntervalMonthDayNanoType, IntervalUnit, Time64MicrosecondType, TimeUnit,
        TimestampMicrosecondType, UInt32Type,
    },
    record_batch::RecordBatch,
};
use cortex_planner::bind::OutputColumn;
use cortex_shard_api::{
    Datum, SqlType,
    value::{self, Interval, Numeric},
};

use super::{
    binary,
    text::{self, TextContext},
};
use crate::{
    error::{PgError, SqlState},
    session::{framing::FLUSH_BYTES, message::Formats},
};

/// A row that does not fit into a message; Postgres's own bound (1 GiB) is kept.
const ROW_BYTES_MAX: usize = 1 << 30;

/// One DataRow from datums.
pub(crate) fn encode_row(
    out: &mut Vec<u8>,
    row: &[Datum],
    columns: &[OutputColumn],
    formats: &Formats,
    context: &mut TextContext<'_>,
) -> Result<(), PgError> {
    if row.len() != columns.len() {
        return Err(width_mismatch(row.len(), columns.len()));
    }
    let start = begin_row(out, columns.len());
    for (index, (datum, column)) in row.iter().zip(columns).enumerate() {
        if formats.is_binary(index) {
            binary::datum(out, column.ty.ty, datum);
        } else {
            text::datum(out, column.ty.ty, datum, context);
        }
    }
    end_row(out, start)
}

/// DataRows from a batch, from row `from` on, at most `rows_max`, and no more than fill the output buffer. Returns how many.
pub(crate) fn encode_batch(
    out: &mut Vec<u8>,
    batch: &RecordBatch,
    from: usize,
    rows_max: usize,
    columns: &[OutputColumn],
    formats: &Formats,
    context: &mut TextContext<'_>,
) -> Result<usize, PgError> {
    if batch.num_columns() != columns.len() {
        return Err(width_mismatch(batch.num_columns(), columns.len()));
    }
    let writers: Vec<Writer<'_>> = batch
        .columns()
        .iter()
        .zip(columns)
        .enumerate()
        .map(|(index, (array, column))| {
            Writer::new(array.as_ref(), column.ty.ty, formats.is_binary(index))
        })
        .collect();
    let end = batch.num_rows().min(from.saturating_add(rows_max));
    let mut row = from;
    while row < end {
        let start = begin_row(out, writers.len());
        for writer in &writers {
            writer.write(out, row, context)?;
        }
        end_row(out, start)?;
        row += 1;
        if out.len() >= FLUSH_BYTES {
            break;
        }
    }
    Ok(row - from)
}

#[inline]
fn begin_row(out: &mut Vec<u8>, n_columns: usize) -> usize {
    let count = (n_columns as u16).to_be_bytes();
    out.extend_from_slice(&[b'D', 0, 0, 0, 0, count[0], count[1]]);
    out.len() - 6
}

#[inline]
fn end_row(out: &mut Vec<u8>, start: usize) -> Result<(), PgError> {
    let length = out.len() - start;
    if length > ROW_BYTES_MAX {
        out.truncate(start - 1);
        return Err(PgError::new(
            SqlState::PROGRAM_LIMIT_EXCEEDED,
            format!("a row of {length} bytes is longer than the limit of {ROW_BYTES_MAX} bytes"),
        ));
    }
    out[start..start + 4].copy_from_slice(&(length as u32).to_be_bytes());
    Ok(())
}

fn width_mismatch(found: usize, expected: usize) -> PgError {
    PgError::internal(format!("a row has {found} columns where {expected} were described"))
}

/// How one column of one batch is written.
struct Writer<'a> {
    values: Values<'a>,
    /// For NULLs; `None` if there are none.
    nullable: Option<&'a dyn Array>,
    ty: SqlType,
    binary: bool,
}

/// A column, downcast. `Other` is read value by value through `value::arrow`.
enum Values<'a> {
    Bool(&'a BooleanArray),
    Int2(&'a Int16Array),
    Int4(&'a Int32Array),
    Int8(&'a Int64Array),
    Float4(&'a Float32Array),
    Float8(&'a Float64Array),
    Text(&'a StringArray),
    TextView(&'a StringViewArray),
    Jsonb(&'a StringArray),
    Bytea(&'a BinaryArray),
    Numeric(&'a BinaryArray),
    Date(&'a Date32Array),
    Time(&'a Time64MicrosecondArray),
    Timestamp(&'a TimestampMicrosecondArray),
    Timestamptz(&'a TimestampMicrosecondArray),
    Interval(&'a IntervalMonthDayNanoArray),
    Uuid(&'a FixedSizeBinaryArray),
    Oid(&'a UInt32Array),
    /// No value at all: functions that return nothing print an empty string.
    Void,
    /// NULLs without a type of their own.
    Nulls,
    Other(&'a dyn Array),
}

impl<'a> Writer<'a> {
    fn new(array: &'a dyn Array, ty: SqlType, binary: bool) -> Writer<'a> {
        let nullable = (array.null_count() > 0).then_some(array);
        Writer { values: Values::new(array, ty), nullable, ty, binary }
    }

    #[inline]
    fn write(
        &self,
        out: &mut Vec<u8>,
        row: usize,
        context: &mut TextContext<'_>,
    ) -> Result<(), PgError> {
        if self.nullable.is_some_and(|array| array.is_null(row)) {
            text::null(out);
            return Ok(());
        }
        match &self.values {
            Values::Int4(array) if self.binary => {
                binary::fixed(out, array.value(row).to_be_bytes());
            }
            Values::Int4(array) => text::integer(out, array.value(row)),
            Values::Int8(array) if self.binary => {
                binary::fixed(out, array.value(row).to_be_bytes());
            }
            Values::Int8(array) => text::integer(out, array.value(row)),
            Values::Int2(array) if self.binary => {
                binary::fixed(out, array.value(row).to_be_bytes());
            }
            Values::Int2(array) => text::integer(out, array.value(row)),
            Values::Bool(array) if self.binary => binary::fixed(out, [array.value(row).into()]),
            Values::Bool(array) => text::boolean(out, array.value(row)),
            Values::Text(array) => text::raw(out, array.value(row).as_bytes()),
            Values::TextView(array) => text::raw(out, array.value(row).as_bytes()),
            Values::Jsonb(array) if self.binary => binary::jsonb(out, array.value(row)),
            Values::Jsonb(array) => text::raw(out, array.value(row).as_bytes()),
            Values::Bytea(array) if self.binary => text::raw(out, array.value(row)),
            Values::Bytea(array) => text::bytea(out, array.value(row), context),
            Values::Oid(array) if self.binary => binary::fixed(out, array.value(row).to_be_bytes()),
            Values::Oid(array) => text::oid(out, self.ty, array.value(row), context),
            Values::Void => text::raw(out, b""),
            Values::Nulls => text::null(out),
            Values::Float4(array) => self.put(out, Datum::Float4(array.value(row)), context),
            Values::Float8(array) => self.put(out, Datum::Float8(array.value(row)), context),
            Values::Numeric(array) => {
                let number = Numeric::from_sortable(array.value(row))?;
                self.put(out, Datum::Numeric(number), context);
            }
            Values::Date(array) => self.put(out, Datum::Date(array.value(row)), context),
            Values::Time(array) => self.put(out, Datum::Time(array.value(row)), context),
            Values::Timestamp(array) => self.put(out, Datum::Timestamp(array.value(row)), context),
            Values::Timestamptz(array) => {
                self.put(out, Datum::Timestamptz(array.value(row)), context);
            }
            Values::Interval(array) => {
                let value = array.value(row);
                let (months, days) = (value.months, value.days);
                let micros = value.nanoseconds / 1000;
                self.put(out, Datum::Interval(Interval { months, days, micros }), context);
            }
            Values::Uuid(array) => {
                let bytes = array.value(row).try_into().unwrap_or_default();
                self.put(out, Datum::Uuid(bytes), context);
            }
            Values::Other(array) => {
                let datum = value::arrow::datum_at(*array, row, self.ty)?;
                self.put(out, datum, context);
            }
        }
        Ok(())
    }

    fn put(&self, out: &mut Vec<u8>, datum: Datum, context: &mut TextContext<'_>) {
        if self.binary {
            binary::datum(out, self.ty, &datum);
        } else {
            text::datum(out, self.ty, &datum, context);
        }
    }
}

impl<'a> Values<'a> {
    fn new(array: &'a dyn Array, ty: SqlType) -> Values<'a> {
        match (ty, array.data_type()) {
            (SqlType::Void, _) => Values::Void,
            (_, DataType::Null) => Values::Nulls,
            (SqlType::Bool, DataType::Boolean) => Values::Bool(array.as_boolean()),
            (SqlType::Int2, DataType::Int16) => Values::Int2(array.as_primitive::<Int16Type>()),
            (SqlType::Int4, DataType::Int32) => Values::Int4(array.as_primitive::<Int32Type>()),
            (SqlType::Int8, DataType::Int64) => Values::Int8(array.as_primitive::<Int64Type>()),
            (SqlType::Float4, DataType::Float32) => {
                Values::Float4(array.as_primitive::<Float32Type>())
            }
            (SqlType::Float8, DataType::Float64) => {
                Values::Float8(array.as_primitive::<Float64Type>())
            }
            (SqlType::Numeric, DataType::Binary) => Values::Numeric(array.as_binary::<i32>()),
            (SqlType::Bytea, DataType::Binary) => Values::Bytea(array.as_binary::<i32>()),
            (SqlType::Jsonb, DataType::Utf8) => Values::Jsonb(array.as_string::<i32>()),
            // "char" is one byte in binary even when it is empty, so it is read as a value.
            (SqlType::Char | SqlType::Record, _) => Values::Other(array),
            (_, DataType::Utf8) => Values::Text(array.as_string::<i32>()),
            (
                SqlType::Text | SqlType::Varchar | SqlType::Bpchar | SqlType::Name | SqlType::Json,
                DataType::Utf8View,
            ) => Values::TextView(array.as_string_view()),
            (SqlType::Date, DataType::Date32) => Values::Date(array.as_primitive::<Date32Type>()),
            (SqlType::Time, DataType::Time64(TimeUnit::Microsecond)) => {
                Values::Time(array.as_primitive::<Time64MicrosecondType>())
            }
            (SqlType::Timestamp, DataType::Timestamp(TimeUnit::Microsecond, _)) => {
                Values::Timestamp(array.as_primitive::<TimestampMicrosecondType>())
            }
            (SqlType::Timestamptz, DataType::Timestamp(TimeUnit::Microsecond, _)) => {
                Values::Timestamptz(array.as_primitive::<TimestampMicrosecondType>())
            }
            (SqlType::Interval, DataType::Interval(IntervalUnit::MonthDayNano)) => {
                Values::Interval(array.as_primitive::<IntervalMonthDayNanoType>())
            }
            (SqlType::Uuid, DataType::FixedSizeBinary(16)) => {
                Values::Uuid(array.as_fixed_size_binary())
            }
            (ty, DataType::UInt32) if ty.is_oid_like() => {
                Values::Oid(array.as_primitive::<UInt32Type>())
            }
            (_, _) => Values::Other(array),
        }
    }
}
