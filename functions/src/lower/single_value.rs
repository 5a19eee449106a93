//! The value of a scalar subquery as an aggregate: NULL without rows, an error with more than one.
//!
//! A correlated scalar subquery becomes an outer join, which would repeat the outer row for each row of the subquery. Aggregated
//! this way there is one row for each outer row, or the error that SQL wants (21000).

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, AsArray},
    datatypes::{DataType, Field, FieldRef, Int64Type},
};
use cortex_shard_api::{ValueError, ValueErrorKind};
use datafusion::{
    common::{Result, ScalarValue, exec_err},
    error::DataFusionError,
    logical_expr::{
        Accumulator, AggregateUDF, AggregateUDFImpl, Expr, Signature, Volatility,
        function::{AccumulatorArgs, StateFieldsArgs},
    },
};

/// `single_value(expr)`
pub fn single_value(expr: Expr) -> Expr {
    AggregateUDF::from(SingleValue::new()).call(vec![expr])
}

#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct SingleValue {
    signature: Signature,
}

impl SingleValue {
    pub fn new() -> SingleValue {
        SingleValue { signature: Signature::any(1, Volatility::Immutable) }
    }
}

impl AggregateUDFImpl for SingleValue {
    fn name(&self) -> &str {
        "single_value"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        match arg_types {
            [ty] => Ok(ty.clone()),
            _ => exec_err!("single_value wants one argument"),
        }
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        Ok(vec![
            Arc::new(Field::new("value", args.return_field.data_type().clone(), true)),
            Arc::new(Field::new("rows", DataType::Int64, false)),
        ])
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let value = ScalarValue::try_from(args.return_field.data_type())?;
        Ok(Box::new(SingleValueAccumulator { value, rows: 0 }))
    }
}

#[derive(Debug)]
struct SingleValueAccumulator {
    value: ScalarValue,
    rows: i64,
}

impl SingleValueAccumulator {
    fn take(&mut self, values: &ArrayRef, row: usize, rows: i64) -> Result<()> {
        self.rows += rows;
        if self.rows > 1 {
            let error = ValueError::new(
                ValueErrorKind::Cardinality,
                "more than one row returned by a subquery used as an expression",
            );
            return Err(DataFusionError::External(Box::new(error)));
        }
        self.value = ScalarValue::try_from_array(values, row)?;
        Ok(())
    }
}

impl Accumulator for SingleValueAccumulator {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for row in 0..values[0].len() {
            self.take(&values[0], row, 1)?;
        }
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let rows = states[1].as_primitive::<Int64Type>();
        for row in 0..states[0].len() {
            if rows.value(row) > 0 {
                self.take(&states[0], row, rows.value(row))?;
            }
        }
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(self.value.clone())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.value.clone(), ScalarValue::Int64(Some(self.rows))])
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.value.size()
    }
}
