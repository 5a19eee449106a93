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
    vector_oid,
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
        } else if vector_oid(column).is_some() {
            text::vector(out, column.ty.ty, datum, context);
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
            let mut writer = Writer::new(array.as_ref(), column.ty.ty, formats.is_binary(index));
            writer.is_vector = vector_oid(column).is_some();
            writer
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
    is_vector: bool,
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
        Writer { values: Values::new(array, ty), nullable, ty, binary, is_vector: false }
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
        } else if self.is_vector {
            text::vector(out, self.ty, &datum, context);
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

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use arrow::datatypes::Schema;
    use async_trait::async_trait;
    use cortex_shard_api::{
        TypeMod,
        types::SCALARS,
        value::{ArrayValue, ValueSettings},
    };

    use super::*;
    use crate::statement::{
        CommitShield, Execution, Notice, ParsedStatement, Prepared, SqlSession, TransactionStatus,
    };

    /// A session that only knows the name of one object.
    struct Names;

    #[async_trait]
    impl SqlSession for Names {
        fn parse(&mut self, _: &str) -> Result<Vec<ParsedStatement>, PgError> {
            Ok(Vec::new())
        }

        async fn prepare(
            &mut self,
            _: &ParsedStatement,
            _: &[u32],
        ) -> Result<Arc<Prepared>, PgError> {
            Err(PgError::internal("not here"))
        }

        async fn execute(
            &mut self,
            _: &Arc<Prepared>,
            _: Vec<Datum>,
            _: bool,
        ) -> Result<Execution, PgError> {
            Err(PgError::internal("not here"))
        }

        async fn sync(&mut self) -> Result<(), PgError> {
            Ok(())
        }

        async fn failed(&mut self) {}

        fn transaction_status(&self) -> TransactionStatus {
            TransactionStatus::Idle
        }

        fn value_settings(&self) -> ValueSettings {
            ValueSettings::default()
        }

        fn object_name(&self, _: SqlType, oid: u32) -> Option<String> {
            (oid == 1259).then(|| "pg_class".to_owned())
        }

        fn object_oid(&self, _: SqlType, _: &str) -> Result<u32, PgError> {
            Err(PgError::internal("not here"))
        }

        fn shield(&self) -> Arc<CommitShield> {
            Arc::default()
        }

        fn cursor_columns(&self, _: &str) -> Option<Arc<[OutputColumn]>> {
            None
        }

        fn statement_timeout(&self) -> Option<Duration> {
            None
        }

        fn take_notices(&mut self) -> Vec<Notice> {
            Vec::new()
        }

        fn take_parameter_changes(&mut self) -> Vec<(String, String)> {
            Vec::new()
        }

        fn take_deallocated(&mut self) -> Vec<Option<String>> {
            Vec::new()
        }

        async fn close(&mut self) {}
    }

    fn samples(ty: SqlType) -> Vec<Datum> {
        match ty {
            SqlType::Bool => vec![Datum::Bool(true), Datum::Bool(false)],
            SqlType::Int2 => vec![Datum::Int2(i16::MIN)],
            SqlType::Int4 => vec![Datum::Int4(-7), Datum::Int4(i32::MAX)],
            SqlType::Int8 => vec![Datum::Int8(i64::MIN)],
            SqlType::Float4 => vec![Datum::Float4(1.5), Datum::Float4(f32::NAN)],
            SqlType::Float8 => vec![Datum::Float8(0.1), Datum::Float8(1e300)],
            SqlType::Numeric => {
                vec![Datum::Numeric(Numeric::parse("-12345.6700").expect("a number"))]
            }
            SqlType::Text
            | SqlType::Varchar
            | SqlType::Bpchar
            | SqlType::Name
            | SqlType::Unknown => vec![Datum::Text("läuft  ".into()), Datum::Text("".into())],
            SqlType::Char => vec![Datum::Text("r".into()), Datum::Text("".into())],
            SqlType::Bytea => vec![Datum::Bytea([0u8, 0xab, 0xff].as_slice().into())],
            SqlType::Date => vec![Datum::Date(0), Datum::Date(i32::MAX)],
            SqlType::Time => vec![Datum::Time(86_400_000_000)],
            SqlType::Timestamp => vec![Datum::Timestamp(-1), Datum::Timestamp(i64::MIN)],
            SqlType::Timestamptz => vec![Datum::Timestamptz(1), Datum::Timestamptz(i64::MAX)],
            SqlType::Interval => {
                vec![Datum::Interval(Interval { months: 1, days: -2, micros: 3_000_001 })]
            }
            SqlType::Uuid => vec![Datum::Uuid([7; 16])],
            SqlType::Json => vec![Datum::Json("{\"a\" : 1}".into())],
            SqlType::Jsonb => vec![Datum::Jsonb("{\"a\": 1}".into())],
            SqlType::Oid
            | SqlType::Regclass
            | SqlType::Regtype
            | SqlType::Regproc
            | SqlType::Regnamespace
            | SqlType::Regrole => vec![Datum::Oid(1259), Datum::Oid(0), Datum::Oid(u32::MAX)],
            SqlType::Void | SqlType::Record => vec![],
            SqlType::Array(_) => vec![
                Datum::Array(Box::new(ArrayValue {
                    element: SqlType::Int4,
                    lower_bound: 1,
                    elements: vec![Datum::Int4(1), Datum::Null],
                })),
                Datum::Array(Box::new(ArrayValue {
                    element: SqlType::Int4,
                    lower_bound: 1,
                    elements: vec![],
                })),
            ],
        }
    }

    /// One column of type `ty`, as rows and as a batch.
    fn both_ways(ty: SqlType, binary: bool) -> (Vec<u8>, Vec<u8>) {
        let mut values = samples(ty);
        values.push(Datum::Null);
        let columns = [OutputColumn { name: "c".into(), ty: TypeMod::plain(ty), source: (0, 0) }];
        let formats = if binary { Formats::all_binary() } else { Formats::default() };
        let settings = ValueSettings::default();
        let mut scratch = String::new();
        let mut context =
            TextContext { settings: &settings, session: &Names, scratch: &mut scratch };
        let (mut rows, mut batched) = (Vec::new(), Vec::new());
        for value in &values {
            encode_row(&mut rows, std::slice::from_ref(value), &columns, &formats, &mut context)
                .expect("a row");
        }
        let array = value::arrow::array_from_datums(ty, &values).expect("an array");
        let field = value::arrow::field("c", TypeMod::plain(ty), true);
        let batch =
            RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![array]).expect("a batch");
        let n = encode_batch(&mut batched, &batch, 0, usize::MAX, &columns, &formats, &mut context)
            .expect("encoded");
        assert_eq!(n, values.len());
        (rows, batched)
    }

    #[test]
    fn rows_and_batches_give_the_same_bytes() {
        let arrays = [SqlType::Array(&SqlType::Int4)];
        for ty in SCALARS.iter().copied().chain(arrays) {
            for binary in [false, true] {
                let (rows, batched) = both_ways(ty, binary);
                assert_eq!(rows, batched, "{ty:?}, binary: {binary}");
            }
        }
    }

    #[test]
    fn objects_print_their_names() {
        let (rows, _) = both_ways(SqlType::Regclass, false);
        let text = String::from_utf8_lossy(&rows);
        assert!(text.contains("pg_class") && text.contains("4294967295"), "{text:?}");
        let (rows, _) = both_ways(SqlType::Oid, false);
        assert!(String::from_utf8_lossy(&rows).contains("1259"));
    }

    #[test]
    fn a_bound_on_rows_is_kept() {
        let columns = [OutputColumn { name: "c".into(), ty: SqlType::Int4.into(), source: (0, 0) }];
        let array: arrow::array::ArrayRef = Arc::new(Int32Array::from_iter_values(0..100_000));
        let batch = RecordBatch::try_from_iter([("c", array)]).expect("a batch");
        let settings = ValueSettings::default();
        let mut scratch = String::new();
        let mut context =
            TextContext { settings: &settings, session: &Names, scratch: &mut scratch };
        let formats = Formats::default();
        let mut out = Vec::new();
        let mut encode = |out: &mut Vec<u8>, from, max| {
            encode_batch(out, &batch, from, max, &columns, &formats, &mut context).expect("rows")
        };
        assert_eq!(encode(&mut out, 99_998, 10), 2);
        assert_eq!(encode(&mut out, 5, 3), 3);
        let n = encode(&mut out, 0, usize::MAX);
        assert!(n < 10_000 && (FLUSH_BYTES..FLUSH_BYTES + 100).contains(&out.len()));
    }
}
