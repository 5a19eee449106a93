//! Values to and from Arrow columns.
//!
//! | SQL | Arrow |
//! |---|---|
//! | bool, int2, int4, int8, float4, float8 | Boolean, Int16, Int32, Int64, Float32, Float64 |
//! | numeric | Binary: `Numeric::to_sortable` |
//! | text, varchar, bpchar, name, "char", json, jsonb, unknown, record | Utf8 |
//! | bytea | Binary |
//! | date, time, timestamp, timestamptz | Date32, Time64(us), Timestamp(us), Timestamp(us, "UTC") |
//! | interval | IntervalMonthDayNano (nanoseconds a multiple of 1000) |
//! | uuid | FixedSizeBinary(16) |
//! | oid and reg* | UInt32 |
//! | void | Null |
//! | arrays | List of the element, field name "item", nullable |
//!
//! A list has no lower bound: arrays that pass through Arrow count from 1. Lives here: types, fields and single
//! values. Columns of stored rows are built in `arrow::batch`.

use std::{collections::HashMap, sync::Arc};

use arrow::{
    array::{
        Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, FixedSizeBinaryArray,
        Float32Array, Float64Array, Int16Array, Int32Array, Int64Array, IntervalMonthDayNanoArray,
        ListArray, NullArray, StringArray, Time64MicrosecondArray, TimestampMicrosecondArray,
        UInt32Array,
    },
    datatypes::{DataType, Field, IntervalMonthDayNano, IntervalUnit, TimeUnit},
};

use super::{ArrayValue, Datum, Interval, Numeric};
use crate::{
    error::{ValueError, ValueErrorKind},
    row,
    types::{SqlType, TypeMod},
};

/// Stored rows to batches.
mod batch;

pub use batch::{BATCH_BYTES_MAX, RowBatchBuilder};

/// Metadata keys of `field`.
const TYPE_KEY: &str = "cortex.type";
const TYPMOD_KEY: &str = "cortex.typmod";

/// The zone of timestamptz columns.
const UTC: &str = "UTC";

const NANOS_PER_MICRO: i64 = 1000;

/// The name of the element field of lists, as DataFusion has it.
const ELEMENT: &str = "item";

pub fn arrow_type(ty: SqlType) -> DataType {
    match ty {
        SqlType::Bool => DataType::Boolean,
        SqlType::Int2 => DataType::Int16,
        SqlType::Int4 => DataType::Int32,
        SqlType::Int8 => DataType::Int64,
        SqlType::Float4 => DataType::Float32,
        SqlType::Float8 => DataType::Float64,
        SqlType::Numeric | SqlType::Bytea => DataType::Binary,
        SqlType::Text
        | SqlType::Varchar
        | SqlType::Bpchar
        | SqlType::Char
        | SqlType::Name
        | SqlType::Json
        | SqlType::Jsonb
        | SqlType::Unknown
        | SqlType::Record => DataType::Utf8,
        SqlType::Date => DataType::Date32,
        SqlType::Time => DataType::Time64(TimeUnit::Microsecond),
        SqlType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
        SqlType::Timestamptz => DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into())),
        SqlType::Interval => DataType::Interval(IntervalUnit::MonthDayNano),
        SqlType::Uuid => DataType::FixedSizeBinary(16),
        SqlType::Oid
        | SqlType::Regclass
        | SqlType::Regtype
        | SqlType::Regproc
        | SqlType::Regnamespace
        | SqlType::Regrole => DataType::UInt32,
        SqlType::Void => DataType::Null,
        SqlType::Array(element) => DataType::List(element_field(*element)),
    }
}

fn element_field(element: SqlType) -> Arc<Field> {
    Arc::new(Field::new(ELEMENT, arrow_type(element), true))
}

/// A field whose metadata carries the SQL type: `cortex.type` = OID, `cortex.typmod`.
pub fn field(name: &str, ty: TypeMod, nullable: bool) -> Field {
    Field::new(name, arrow_type(ty.ty), nullable).with_metadata(HashMap::from([
        (TYPE_KEY.to_string(), ty.ty.oid().to_string()),
        (TYPMOD_KEY.to_string(), ty.typmod.to_string()),
    ]))
}

/// The SQL type of a field made by `field`; for others the nearest one (Int64 → int8, Utf8 → text).
pub fn field_type(field: &Field) -> TypeMod {
    let number = |key| field.metadata().get(key);
    let ty = number(TYPE_KEY).and_then(|oid| oid.parse().ok()).and_then(SqlType::from_oid);
    match ty {
        Some(ty) => {
            let typmod = number(TYPMOD_KEY).and_then(|typmod| typmod.parse().ok()).unwrap_or(-1);
            TypeMod { ty, typmod }
        }
        None => TypeMod::plain(nearest_type(field.data_type())),
    }
}

/// The SQL type that an Arrow type holds when nobody said more.
pub fn nearest_type(data_type: &DataType) -> SqlType {
    match data_type {
        DataType::Boolean => SqlType::Bool,
        DataType::Int8 | DataType::UInt8 | DataType::Int16 => SqlType::Int2,
        DataType::UInt16 | DataType::Int32 => SqlType::Int4,
        DataType::Int64 => SqlType::Int8,
        DataType::UInt32 => SqlType::Oid,
        DataType::UInt64 => SqlType::Numeric,
        DataType::Float16 | DataType::Float32 => SqlType::Float4,
        DataType::Float64 => SqlType::Float8,
        DataType::Decimal32(..)
        | DataType::Decimal64(..)
        | DataType::Decimal128(..)
        | DataType::Decimal256(..) => SqlType::Numeric,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => SqlType::Bytea,
        DataType::FixedSizeBinary(16) => SqlType::Uuid,
        DataType::FixedSizeBinary(_) => SqlType::Bytea,
        DataType::Date32 | DataType::Date64 => SqlType::Date,
        DataType::Time32(_) | DataType::Time64(_) => SqlType::Time,
        DataType::Timestamp(_, None) => SqlType::Timestamp,
        DataType::Timestamp(_, Some(_)) => SqlType::Timestamptz,
        DataType::Interval(_) | DataType::Duration(_) => SqlType::Interval,
        DataType::List(element)
        | DataType::LargeList(element)
        | DataType::FixedSizeList(element, _) => {
            field_type(element).ty.array().unwrap_or(SqlType::Text)
        }
        _ => SqlType::Text,
    }
}

/// Reads one value of a column that holds `ty`.
pub fn datum_at(array: &dyn Array, row: usize, ty: SqlType) -> Result<Datum, ValueError> {
    if array.is_null(row) || *array.data_type() == DataType::Null {
        return Ok(Datum::Null);
    }
    macro_rules! value {
        ($array:ty) => {
            downcast::<$array>(array, ty)?.value(row)
        };
    }
    Ok(match ty {
        SqlType::Bool => Datum::Bool(value!(BooleanArray)),
        SqlType::Int2 => Datum::Int2(value!(Int16Array)),
        SqlType::Int4 => Datum::Int4(value!(Int32Array)),
        SqlType::Int8 => Datum::Int8(value!(Int64Array)),
        SqlType::Float4 => Datum::Float4(value!(Float32Array)),
        SqlType::Float8 => Datum::Float8(value!(Float64Array)),
        SqlType::Numeric => Datum::Numeric(Numeric::from_sortable(value!(BinaryArray))?),
        SqlType::Bytea => Datum::Bytea(value!(BinaryArray).into()),
        SqlType::Json => Datum::Json(value!(StringArray).into()),
        SqlType::Jsonb => Datum::Jsonb(value!(StringArray).into()),
        SqlType::Date => Datum::Date(value!(Date32Array)),
        SqlType::Time => Datum::Time(value!(Time64MicrosecondArray)),
        SqlType::Timestamp => Datum::Timestamp(value!(TimestampMicrosecondArray)),
        SqlType::Timestamptz => Datum::Timestamptz(value!(TimestampMicrosecondArray)),
        SqlType::Interval => {
            let value = value!(IntervalMonthDayNanoArray);
            Datum::Interval(Interval {
                months: value.months,
                days: value.days,
                micros: value.nanoseconds / NANOS_PER_MICRO,
            })
        }
        SqlType::Uuid => {
            let bytes = value!(FixedSizeBinaryArray);
            Datum::Uuid(bytes.try_into().map_err(|_| mismatch(array, ty))?)
        }
        SqlType::Void => Datum::Null,
        SqlType::Array(element) => {
            let list = downcast::<ListArray>(array, ty)?.value(row);
            let elements =
                (0..list.len()).map(|i| datum_at(&list, i, *element)).collect::<Result<_, _>>()?;
            Datum::Array(Box::new(ArrayValue { element: *element, lower_bound: 1, elements }))
        }
        _ if ty.is_oid_like() => Datum::Oid(value!(UInt32Array)),
        _ => Datum::Text(value!(StringArray).into()),
    })
}

fn downcast<T: 'static>(array: &dyn Array, ty: SqlType) -> Result<&T, ValueError> {
    array.as_any().downcast_ref::<T>().ok_or_else(|| mismatch(array, ty))
}

fn mismatch(array: &dyn Array, ty: SqlType) -> ValueError {
    ValueError::new(
        ValueErrorKind::Internal,
        format!("a column of {} was read as {}", array.data_type(), ty.sql_name()),
    )
}

/// Makes a column from values of one type (`Null`s allowed).
pub fn array_from_datums(ty: SqlType, values: &[Datum]) -> Result<ArrayRef, ValueError> {
    macro_rules! column {
        ($array:ty, $($variant:pat => $value:expr),+) => {{
            let column = values
                .iter()
                .map(|value| match value {
                    Datum::Null => Ok(None),
                    $($variant => Ok(Some($value)),)+
                    other => Err(wrong_variant(other, ty)),
                })
                .collect::<Result<$array, ValueError>>()?;
            Arc::new(column) as ArrayRef
        }};
    }
    Ok(match ty {
        SqlType::Bool => column!(BooleanArray, Datum::Bool(value) => *value),
        SqlType::Int2 => column!(Int16Array, Datum::Int2(value) => *value),
        SqlType::Int4 => column!(Int32Array, Datum::Int4(value) => *value),
        SqlType::Int8 => column!(Int64Array, Datum::Int8(value) => *value),
        SqlType::Float4 => column!(Float32Array, Datum::Float4(value) => *value),
        SqlType::Float8 => column!(Float64Array, Datum::Float8(value) => *value),
        SqlType::Numeric => column!(BinaryArray, Datum::Numeric(value) => value.to_sortable()),
        SqlType::Bytea => column!(BinaryArray, Datum::Bytea(value) => value),
        SqlType::Date => column!(Date32Array, Datum::Date(value) => *value),
        SqlType::Time => column!(Time64MicrosecondArray, Datum::Time(value) => *value),
        SqlType::Timestamp => {
            column!(TimestampMicrosecondArray, Datum::Timestamp(value) => *value)
        }
        SqlType::Timestamptz => {
            let column = values
                .iter()
                .map(|value| match value {
                    Datum::Null => Ok(None),
                    Datum::Timestamptz(value) => Ok(Some(*value)),
                    other => Err(wrong_variant(other, ty)),
                })
                .collect::<Result<TimestampMicrosecondArray, ValueError>>()?;
            Arc::new(column.with_timezone(UTC))
        }
        SqlType::Interval => {
            let column = values
                .iter()
                .map(|value| match value {
                    Datum::Null => Ok(None),
                    Datum::Interval(value) => interval_to_arrow(value).map(Some),
                    other => Err(wrong_variant(other, ty)),
                })
                .collect::<Result<IntervalMonthDayNanoArray, ValueError>>()?;
            Arc::new(column)
        }
        SqlType::Void => Arc::new(NullArray::new(values.len())),
        SqlType::Uuid | SqlType::Array(_) => {
            let mut builder = batch::ColumnBuilder::new(ty, values.len());
            let mut stored = Vec::new();
            for value in values {
                match (value, ty) {
                    (Datum::Null, _) => builder.push_null(),
                    (Datum::Uuid(_), SqlType::Uuid) | (Datum::Array(_), SqlType::Array(_)) => {
                        stored.clear();
                        row::write_value(&mut stored, value);
                        builder.push(&stored)?;
                    }
                    (other, _) => return Err(wrong_variant(other, ty)),
                }
            }
            builder.finish()?
        }
        _ if ty.is_oid_like() => column!(UInt32Array, Datum::Oid(value) => *value),
        _ => column!(
            StringArray,
            Datum::Text(value) | Datum::Json(value) | Datum::Jsonb(value) => value.as_ref()
        ),
    })
}

/// Refuses what nanoseconds cannot hold: 292 years of hours and less.
fn interval_to_arrow(interval: &Interval) -> Result<IntervalMonthDayNano, ValueError> {
    let nanoseconds = interval.micros.checked_mul(NANOS_PER_MICRO).ok_or_else(|| {
        ValueError::new(ValueErrorKind::DatetimeOverflow, "interval out of range")
    })?;
    Ok(IntervalMonthDayNano { months: interval.months, days: interval.days, nanoseconds })
}

fn wrong_variant(value: &Datum, ty: SqlType) -> ValueError {
    let name = value.variant_name();
    ValueError::new(
        ValueErrorKind::Internal,
        format!("a value of kind {name} cannot be in a column of {}", ty.sql_name()),
    )
}
