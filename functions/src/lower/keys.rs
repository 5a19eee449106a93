//! Comparison keys: values whose Arrow order and equality are Postgres's.

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
};

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BinaryBuilder, Decimal128Array, Float32Array, Float64Array,
        StringBuilder,
    },
    datatypes::{DataType, Float32Type, Float64Type, IntervalMonthDayNanoType},
};
use cortex_shard_api::{
    SqlType,
    key::{KeyOrder, encode_datum},
    value::{Interval, arrow::datum_at},
};
use datafusion::{
    common::ScalarValue,
    error::Result,
    logical_expr::{
        ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
    },
};

use super::udf::{expected, external, schema_name};
use crate::kernels::compare::interval_key;

/// What equality, grouping, DISTINCT, ORDER BY and join keys compare, so that equal values have equal Arrow values and Arrow's
/// order is Postgres's: numeric without its display scale, bpchar trimmed, +0 for -0, interval as one number, jsonb and arrays
/// as memcomparable bytes. The same expression for types that need nothing. A key need not have the value's type or be
/// readable: carry the value beside it.
pub fn comparison_key(expr: Expr, ty: SqlType) -> Expr {
    if !needs_key(ty) {
        return expr;
    }
    ScalarUDF::from(KeyUdf::new(ty)).call(vec![expr])
}

/// The value inside a comparison key and its type: what pruning must look through.
pub fn comparison_key_argument(expr: &Expr) -> Option<(&Expr, SqlType)> {
    let Expr::ScalarFunction(function) = expr else { return None };
    let udf = (function.func.inner().as_ref() as &dyn std::any::Any).downcast_ref::<KeyUdf>()?;
    Some((function.args.first()?, udf.ty))
}

fn needs_key(ty: SqlType) -> bool {
    matches!(
        ty,
        SqlType::Numeric
            | SqlType::Bpchar
            | SqlType::Float4
            | SqlType::Float8
            | SqlType::Interval
            | SqlType::Jsonb
            | SqlType::Array(_)
    )
}

#[derive(Debug)]
pub(crate) struct KeyUdf {
    pub ty: SqlType,
    name: String,
    signature: Signature,
}

impl PartialEq for KeyUdf {
    fn eq(&self, other: &Self) -> bool {
        self.ty == other.ty
    }
}

impl Eq for KeyUdf {}

impl Hash for KeyUdf {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.ty.hash(state);
    }
}

impl KeyUdf {
    pub fn new(ty: SqlType) -> KeyUdf {
        KeyUdf {
            ty,
            name: format!("key_{}", ty.catalog_name()),
            signature: Signature::any(1, Volatility::Immutable),
        }
    }
}

impl ScalarUDFImpl for KeyUdf {
    fn name(&self) -> &str {
        &self.name
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        schema_name(&self.name, args)
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(match self.ty {
            SqlType::Bpchar => DataType::Utf8,
            SqlType::Float4 => DataType::Float32,
            SqlType::Float8 => DataType::Float64,
            SqlType::Interval => DataType::Decimal128(38, 0),
            _ => DataType::Binary,
        })
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match &args.args[0] {
            ColumnarValue::Scalar(scalar) => {
                let array = expected(scalar.to_array_of_size(1)?, self.ty)?;
                Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&self.keys(&array)?, 0)?))
            }
            ColumnarValue::Array(array) => {
                Ok(ColumnarValue::Array(self.keys(&expected(array.clone(), self.ty)?)?))
            }
        }
    }
}

/// Bytes of the display scale at the end of a numeric's sortable form.
const SCALE_BYTES: usize = 2;

impl KeyUdf {
    fn keys(&self, array: &ArrayRef) -> Result<ArrayRef> {
        Ok(match self.ty {
            SqlType::Float4 => {
                let values = array.as_primitive::<Float32Type>();
                let keys: Float32Array = values.unary(|v| {
                    if v == 0.0 {
                        0.0
                    } else if v.is_nan() {
                        f32::NAN
                    } else {
                        v
                    }
                });
                Arc::new(keys)
            }
            SqlType::Float8 => {
                let values = array.as_primitive::<Float64Type>();
                let keys: Float64Array = values.unary(|v| {
                    if v == 0.0 {
                        0.0
                    } else if v.is_nan() {
                        f64::NAN
                    } else {
                        v
                    }
                });
                Arc::new(keys)
            }
            SqlType::Bpchar => {
                let values = array.as_string::<i32>();
                let mut keys = StringBuilder::with_capacity(values.len(), values.values().len());
                for value in values {
                    keys.append_option(value.map(|value| value.trim_end_matches(' ')));
                }
                Arc::new(keys.finish())
            }
            SqlType::Numeric => {
                let values = array.as_binary::<i32>();
                let mut keys = BinaryBuilder::with_capacity(values.len(), values.values().len());
                for value in values {
                    keys.append_option(
                        value.map(|value| &value[..value.len().saturating_sub(SCALE_BYTES)]),
                    );
                }
                Arc::new(keys.finish())
            }
            SqlType::Interval => {
                let values = array.as_primitive::<IntervalMonthDayNanoType>();
                let keys = values
                    .iter()
                    .map(|value| {
                        value.map(|value| {
                            interval_key(Interval {
                                months: value.months,
                                days: value.days,
                                micros: value.nanoseconds / 1000,
                            })
                        })
                    })
                    .collect::<Decimal128Array>();
                Arc::new(keys.with_precision_and_scale(38, 0)?)
            }
            ty => {
                let mut keys = BinaryBuilder::new();
                let mut buffer = Vec::new();
                for row in 0..array.len() {
                    if array.is_null(row) {
                        keys.append_null();
                        continue;
                    }
                    let value = datum_at(array, row, ty).map_err(external)?;
                    buffer.clear();
                    encode_datum(&mut buffer, &value, ty, KeyOrder::default());
                    keys.append_value(&buffer);
                }
                Arc::new(keys.finish())
            }
        })
    }
}
