//! SQL values: how one value looks in memory, as text, on the wire, in a key, in a row and in an Arrow column.
//!
//! Lives here: `Datum` and the representations it is turned into and back. Every stage that touches a single
//! value (fast path, COPY, defaults, checks, kernels) uses this one form, so that a value means the same
//! whichever way it took. Not here: what operators and functions do with values (crate `functions`).

use std::cell::Cell;

use serde::{Deserialize, Deserializer, Serialize, de::Error};

use crate::types::SqlType;

/// One SQL value. The type that goes with it is known from the context (`SqlType`), so one variant may serve
/// several types: `Text` holds text, varchar, bpchar (blank-padded), name, "char" and unknown; `Oid` holds oid and reg*.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub enum Datum {
    #[default]
    Null,
    Bool(bool),
    Int2(i16),
    Int4(i32),
    Int8(i64),
    Float4(f32),
    Float8(f64),
    Numeric(Numeric),
    Text(Box<str>),
    Bytea(Box<[u8]>),
    /// Days since 1970-01-01; `i32::MIN` and `i32::MAX` are -infinity and infinity.
    Date(i32),
    /// Microseconds since midnight, 0 ..= 86,400,000,000 (24:00:00 is a value).
    Time(i64),
    /// Microseconds since 1970-01-01 00:00, no zone; `i64::MIN` and `i64::MAX` are the infinities.
    Timestamp(i64),
    /// Microseconds since 1970-01-01 00:00 UTC; `i64::MIN` and `i64::MAX` are the infinities.
    Timestamptz(i64),
    Interval(Interval),
    Uuid([u8; 16]),
    /// The text as it was given (valid JSON).
    Json(Box<str>),
    /// Canonical text: keys sorted by length, then bytes; no duplicates; `{"a": 1, "b": [1, 2]}`.
    Jsonb(Box<str>),
    Oid(u32),
    Array(Box<ArrayValue>),
}

/// `interval`: three fields that do not mix, as in Postgres.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Interval {
    pub months: i32,
    pub days: i32,
    pub micros: i64,
}

/// A one-dimensional array; elements are of `element` type or `Null`. The empty array has no dimensions.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ArrayValue {
    pub element: SqlType,
    /// Subscript of the first element; 1 unless the literal said otherwise.
    pub lower_bound: i32,
    #[serde(deserialize_with = "flat_elements")]
    pub elements: Vec<Datum>,
}

/// Elements that are no arrays: bytes from outside could nest them until the stack ends.
fn flat_elements<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Datum>, D::Error> {
    thread_local!(static INSIDE: Cell<bool> = const { Cell::new(false) });
    if INSIDE.replace(true) {
        return Err(D::Error::custom("arrays have one dimension"));
    }
    struct Left;
    impl Drop for Left {
        fn drop(&mut self) {
            INSIDE.set(false);
        }
    }
    let _left = Left;
    Vec::deserialize(deserializer)
}

/// Values to and from Arrow columns.
pub mod arrow;

/// The binary wire forms.
pub mod binary;

/// Days and their names in the Gregorian calendar.
pub mod calendar;

/// JSON: validation, canonical form, the tree.
pub mod json;

/// Arbitrary-precision decimals.
pub mod numeric;

/// Text input and output of every type.
pub mod text;

/// Time zones.
pub mod zone;

pub use numeric::Numeric;

impl Datum {
    pub const fn is_null(&self) -> bool {
        matches!(self, Datum::Null)
    }

    /// What the value is, for messages about values of the wrong kind.
    pub const fn variant_name(&self) -> &'static str {
        match self {
            Datum::Null => "null",
            Datum::Bool(_) => "bool",
            Datum::Int2(_) => "int2",
            Datum::Int4(_) => "int4",
            Datum::Int8(_) => "int8",
            Datum::Float4(_) => "float4",
            Datum::Float8(_) => "float8",
            Datum::Numeric(_) => "numeric",
            Datum::Text(_) => "text",
            Datum::Bytea(_) => "bytea",
            Datum::Date(_) => "date",
            Datum::Time(_) => "time",
            Datum::Timestamp(_) => "timestamp",
            Datum::Timestamptz(_) => "timestamptz",
            Datum::Interval(_) => "interval",
            Datum::Uuid(_) => "uuid",
            Datum::Json(_) => "json",
            Datum::Jsonb(_) => "jsonb",
            Datum::Oid(_) => "oid",
            Datum::Array(_) => "array",
        }
    }

    /// The same value, bit for bit: NaN is itself, 0 is not -0, 1.0 is not 1.00. For tests; SQL equality is in the
    /// crate `functions`.
    pub fn is_identical(&self, other: &Datum) -> bool {
        match (self, other) {
            (Datum::Float4(a), Datum::Float4(b)) => a.to_bits() == b.to_bits(),
            (Datum::Float8(a), Datum::Float8(b)) => a.to_bits() == b.to_bits(),
            (Datum::Numeric(a), Datum::Numeric(b)) => a == b && a.scale() == b.scale(),
            (Datum::Array(a), Datum::Array(b)) => {
                a.element == b.element
                    && a.lower_bound == b.lower_bound
                    && a.elements.len() == b.elements.len()
                    && a.elements.iter().zip(&b.elements).all(|(a, b)| a.is_identical(b))
            }
            (a, b) => {
                let (mut left, mut right) = (Vec::new(), Vec::new());
                crate::row::write_value(&mut left, a);
                crate::row::write_value(&mut right, b);
                std::mem::discriminant(a) == std::mem::discriminant(b) && left == right
            }
        }
    }
}

/// Session settings that change how values read and print.
#[derive(Clone, Debug)]
pub struct ValueSettings {
    pub time_zone: chrono_tz::Tz,
    /// DateStyle's order of ambiguous dates; output is always ISO.
    pub day_first: bool,
    /// `extra_float_digits`: 1 and above prints the shortest exact form.
    pub extra_float_digits: i32,
    /// `bytea_output`: hex unless `escape`.
    pub bytea_escape: bool,
    /// The statement's now(), for 'now', 'today'; microseconds since 1970-01-01 UTC.
    pub now_micros: i64,
}

impl Default for ValueSettings {
    fn default() -> Self {
        ValueSettings {
            time_zone: chrono_tz::Tz::UTC,
            day_first: false,
            extra_float_digits: 1,
            bytea_escape: false,
            now_micros: 0,
        }
    }
}
