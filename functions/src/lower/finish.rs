//! The last step of aggregates that DataFusion computes in parts: sums as numeric, averages.

use std::hash::Hash;

use arrow::{
    array::{Array, ArrayRef, AsArray},
    datatypes::{DataType, Decimal128Type, Int64Type},
};
use cortex_shard_api::{
    Datum, SqlType,
    value::{
        Numeric,
        arrow::{array_from_datums, arrow_type, datum_at},
    },
};
use datafusion::{
    error::Result,
    logical_expr::{
        ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
    },
};

use super::udf::external;
use crate::kernels::datetime::divide_interval;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    /// Decimal128 of scale 0 → numeric.
    Numeric,
    /// (sum, count) → numeric or interval.
    Average(SqlType),
}

#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct FinishUdf {
    pub step: Step,
    signature: Signature,
}

/// A sum of int8 as numeric.
pub(super) fn decimal_to_numeric(sum: Expr) -> Expr {
    call(Step::Numeric, vec![sum])
}

/// sum / count of integers or numerics (`Int8`, `Numeric`) or intervals; NULL where nothing was counted.
pub(super) fn average(ty: SqlType, sum_and_count: Vec<Expr>) -> Expr {
    call(Step::Average(ty), sum_and_count)
}

fn call(step: Step, args: Vec<Expr>) -> Expr {
    ScalarUDF::from(FinishUdf::new(step)).call(args)
}

impl ScalarUDFImpl for FinishUdf {
    fn name(&self) -> &str {
        match self.step {
            Step::Numeric => "sum_numeric",
            Step::Average(SqlType::Interval) => "average_interval",
            Step::Average(_) => "average_numeric",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(arrow_type(self.result()))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = args
            .args
            .iter()
            .map(|arg| arg.clone().into_array(args.number_rows))
            .collect::<Result<Vec<_>>>()?;
        let values = (0..args.number_rows)
            .map(|row| self.value(&arrays, row))
            .collect::<Result<Vec<_>>>()?;
        Ok(ColumnarValue::Array(array_from_datums(self.result(), &values).map_err(external)?))
    }
}

impl FinishUdf {
    pub fn new(step: Step) -> FinishUdf {
        let n_args = match step {
            Step::Numeric => 1,
            Step::Average(_) => 2,
        };
        FinishUdf { step, signature: Signature::any(n_args, Volatility::Immutable) }
    }

    fn result(&self) -> SqlType {
        match self.step {
            Step::Average(SqlType::Interval) => SqlType::Interval,
            Step::Numeric | Step::Average(_) => SqlType::Numeric,
        }
    }

    fn value(&self, arrays: &[ArrayRef], row: usize) -> Result<Datum> {
        let sum = &arrays[0];
        if sum.is_null(row) {
            return Ok(Datum::Null);
        }
        let count = match arrays.get(1) {
            Some(counts) => match counts.as_primitive::<Int64Type>().value(row) {
                0 => return Ok(Datum::Null),
                count => count,
            },
            None => 1,
        };
        if self.result() == SqlType::Interval {
            let Datum::Interval(sum) = datum_at(sum, row, SqlType::Interval).map_err(external)?
            else {
                return Ok(Datum::Null);
            };
            return divide_interval(sum, count as f64).map(Datum::Interval).map_err(external);
        }
        let sum = match sum.data_type() {
            DataType::Decimal128(..) => {
                Numeric::from_i128(sum.as_primitive::<Decimal128Type>().value(row), 0)
            }
            DataType::Int64 => Numeric::from_i64(sum.as_primitive::<Int64Type>().value(row)),
            _ => match datum_at(sum, row, SqlType::Numeric).map_err(external)? {
                Datum::Numeric(sum) => sum,
                _ => return Ok(Datum::Null),
            },
        };
        match self.step {
            Step::Numeric => Ok(Datum::Numeric(sum)),
            Step::Average(_) => {
                sum.div(&Numeric::from_i64(count)).map(Datum::Numeric).map_err(external)
            }
        }
    }
}
