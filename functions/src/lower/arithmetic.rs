//! Integer and float arithmetic over whole columns: checked, with Postgres's errors.

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
};

use arrow::{
    array::{ArrayRef, ArrowNativeTypeOp, ArrowPrimitiveType, AsArray, PrimitiveArray},
    compute::{cast as arrow_cast, kernels::arity::try_binary},
    datatypes::{DataType, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type},
    error::ArrowError,
};
use cortex_shard_api::{SqlType, ValueError, ValueErrorKind, value::arrow::arrow_type};
use datafusion::{
    common::ScalarValue,
    error::Result,
    logical_expr::{
        ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
    },
};

use super::udf::{external, schema_name, value_error};
use crate::registry::BoundCall;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Operation {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

/// The vectorized form of an arithmetic function, if it has one.
pub(crate) fn find(call: &Arc<BoundCall>) -> Option<ScalarUDF> {
    let [left, right] = call.args[..] else { return None };
    let integers = left.is_integer() && right.is_integer() && call.returns.is_integer();
    let is_float = |ty| matches!(ty, SqlType::Float4 | SqlType::Float8);
    let floats = is_float(left) && is_float(right) && is_float(call.returns);
    if !integers && !floats {
        return None;
    }
    let stem = call.name.trim_start_matches(|c: char| c.is_ascii_digit());
    let operation = match stem.trim_start_matches("int").trim_start_matches("float") {
        rest if rest.ends_with("pl") => Operation::Add,
        rest if rest.ends_with("mi") => Operation::Subtract,
        rest if rest.ends_with("mul") => Operation::Multiply,
        rest if rest.ends_with("div") => Operation::Divide,
        rest if rest.ends_with("mod") && integers => Operation::Remainder,
        _ => return None,
    };
    Some(ScalarUDF::from(ArithmeticUdf {
        call: call.clone(),
        operation,
        signature: Signature::any(2, Volatility::Immutable),
    }))
}

#[derive(Debug)]
pub(crate) struct ArithmeticUdf {
    pub call: Arc<BoundCall>,
    operation: Operation,
    signature: Signature,
}

impl PartialEq for ArithmeticUdf {
    fn eq(&self, other: &Self) -> bool {
        self.call.signature == other.call.signature
    }
}

impl Eq for ArithmeticUdf {}

impl Hash for ArithmeticUdf {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.call.signature.hash(state);
    }
}

impl ScalarUDFImpl for ArithmeticUdf {
    fn name(&self) -> &str {
        self.call.name
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        schema_name(&self.call.signature, args)
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(arrow_type(self.call.returns))
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let n_rows = if constant { 1 } else { args.number_rows };
        let result_type = arrow_type(self.call.returns);
        let operand = |position: usize| -> Result<ArrayRef> {
            let array = args.args[position].clone().into_array(n_rows)?;
            Ok(if *array.data_type() == result_type {
                array
            } else {
                arrow_cast(&array, &result_type)?
            })
        };
        let (left, right) = (operand(0)?, operand(1)?);
        let result = self.compute(&left, &right).map_err(|error| match value_error(&error) {
            Some(value) => external(value.clone()),
            None => error,
        })?;
        if constant {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?));
        }
        Ok(ColumnarValue::Array(result))
    }
}

fn failure(error: ValueError) -> ArrowError {
    ArrowError::ExternalError(Box::new(error))
}

impl ArithmeticUdf {
    fn compute(&self, left: &ArrayRef, right: &ArrayRef) -> Result<ArrayRef> {
        Ok(match self.call.returns {
            SqlType::Int2 => Arc::new(self.integers::<Int16Type>(left, right)?),
            SqlType::Int4 => Arc::new(self.integers::<Int32Type>(left, right)?),
            SqlType::Int8 => Arc::new(self.integers::<Int64Type>(left, right)?),
            SqlType::Float4 => Arc::new(self.floats::<Float32Type>(left, right)?),
            _ => Arc::new(self.floats::<Float64Type>(left, right)?),
        })
    }

    fn integers<T: ArrowPrimitiveType>(
        &self,
        left: &ArrayRef,
        right: &ArrayRef,
    ) -> Result<PrimitiveArray<T>> {
        let (left, right) = (left.as_primitive::<T>(), right.as_primitive::<T>());
        let ty = self.call.returns;
        let overflow = |_| failure(ValueError::out_of_range(ty.sql_name()));
        let zero = || failure(ValueError::division_by_zero());
        Ok(match self.operation {
            Operation::Add => try_binary(left, right, |l, r| l.add_checked(r).map_err(overflow)),
            Operation::Subtract => {
                try_binary(left, right, |l, r| l.sub_checked(r).map_err(overflow))
            }
            Operation::Multiply => {
                try_binary(left, right, |l, r| l.mul_checked(r).map_err(overflow))
            }
            Operation::Divide => try_binary(left, right, |l: T::Native, r: T::Native| {
                if r.is_zero() { Err(zero()) } else { l.div_checked(r).map_err(overflow) }
            }),
            // The least integer modulo -1 is 0, not an overflow.
            Operation::Remainder => try_binary(left, right, |l: T::Native, r: T::Native| {
                if r.is_zero() { Err(zero()) } else { Ok(l.mod_wrapping(r)) }
            }),
        }?)
    }

    fn floats<T>(&self, left: &ArrayRef, right: &ArrayRef) -> Result<PrimitiveArray<T>>
    where
        T: ArrowPrimitiveType,
        T::Native: Into<f64>,
    {
        let (left, right) = (left.as_primitive::<T>(), right.as_primitive::<T>());
        let out_of_range = |what: &str| {
            failure(ValueError::new(
                ValueErrorKind::OutOfRange,
                format!("value out of range: {what}"),
            ))
        };
        let checked = |l: T::Native, r: T::Native, result: T::Native| {
            let (lf, rf, value): (f64, f64, f64) = (l.into(), r.into(), result.into());
            if value.is_infinite() && lf.is_finite() && rf.is_finite() {
                return Err(out_of_range("overflow"));
            }
            Ok(result)
        };
        let not_lost = |l: T::Native, r: T::Native, result: T::Native| {
            let lf: f64 = l.into();
            let rf: f64 = r.into();
            if result.is_zero() && lf != 0.0 && rf != 0.0 && rf.is_finite() {
                return Err(out_of_range("underflow"));
            }
            checked(l, r, result)
        };
        Ok(match self.operation {
            Operation::Add => try_binary(left, right, |l, r| checked(l, r, l.add_wrapping(r))),
            Operation::Subtract => try_binary(left, right, |l, r| checked(l, r, l.sub_wrapping(r))),
            Operation::Multiply => {
                try_binary(left, right, |l, r| not_lost(l, r, l.mul_wrapping(r)))
            }
            Operation::Divide | Operation::Remainder => {
                try_binary(left, right, |l: T::Native, r: T::Native| {
                    let (lf, rf): (f64, f64) = (l.into(), r.into());
                    if rf == 0.0 && !lf.is_nan() {
                        return Err(failure(ValueError::division_by_zero()));
                    }
                    not_lost(l, r, l.div_wrapping(r))
                })
            }
        }?)
    }
}
