//! Functions that return sets of rows with several columns: `jsonb_each`.
//!
//! Lives here: the call as a List of Structs, which the planner unnests. The rows come from the function's scalar kernel.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, ListArray, StructArray},
    buffer::OffsetBuffer,
    datatypes::{DataType, Field, Fields},
};
use cortex_shard_api::{
    Datum, SqlType, TypeMod, ValueError,
    value::arrow::{array_from_datums, arrow_type, datum_at},
};
use datafusion::{
    common::Result,
    error::DataFusionError,
    logical_expr::{
        ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
    },
};

use crate::{scalar, session};

/// The call of a set-returning function whose rows have these columns.
pub fn record_set(
    signature: &str,
    args: Vec<(Expr, TypeMod)>,
    columns: &[(String, TypeMod)],
) -> Expr {
    let types = args.iter().map(|(_, ty)| ty.ty).collect();
    let columns = columns.iter().map(|(name, ty)| (name.clone(), ty.ty)).collect();
    let function = RecordSet::new(signature.to_owned(), types, columns);
    ScalarUDF::from(function).call(args.into_iter().map(|(arg, _)| arg).collect())
}

#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct RecordSet {
    pub function: String,
    pub args: Vec<SqlType>,
    /// Of each row.
    pub columns: Vec<(String, SqlType)>,
    fields: Fields,
    signature: Signature,
}

impl RecordSet {
    pub fn new(function: String, args: Vec<SqlType>, columns: Vec<(String, SqlType)>) -> RecordSet {
        let field = |(name, ty): &(String, SqlType)| Field::new(name, arrow_type(*ty), true);
        let fields = columns.iter().map(field).collect();
        let signature = Signature::variadic_any(Volatility::Stable);
        RecordSet { function, args, columns, fields, signature }
    }

    fn item(&self) -> Arc<Field> {
        Arc::new(Field::new("item", DataType::Struct(self.fields.clone()), true))
    }
}

impl ScalarUDFImpl for RecordSet {
    fn name(&self) -> &str {
        &self.function
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(DataType::List(self.item()))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let context = session::installed(&args.config_options);
        let fail = |error: ValueError| DataFusionError::External(Box::new(error));
        let arrays = args
            .args
            .iter()
            .map(|arg| arg.to_array(args.number_rows))
            .collect::<Result<Vec<ArrayRef>>>()?;
        let mut columns: Vec<Vec<Datum>> = vec![Vec::new(); self.columns.len()];
        let mut lengths = Vec::with_capacity(args.number_rows);
        for row in 0..args.number_rows {
            let values = arrays
                .iter()
                .zip(&self.args)
                .map(|(array, ty)| datum_at(array, row, *ty))
                .collect::<std::result::Result<Vec<Datum>, ValueError>>()
                .map_err(fail)?;
            let rows = scalar::set_returning(&self.function, &values, &context).map_err(fail)?;
            lengths.push(rows.len());
            for row in rows {
                for (column, value) in columns.iter_mut().zip(row) {
                    column.push(value);
                }
            }
        }
        let arrays = columns
            .iter()
            .zip(&self.columns)
            .map(|(values, (_, ty))| array_from_datums(*ty, values))
            .collect::<std::result::Result<Vec<ArrayRef>, ValueError>>()
            .map_err(fail)?;
        let rows = StructArray::try_new(self.fields.clone(), arrays, None)?;
        let offsets = OffsetBuffer::<i32>::from_lengths(lengths);
        let list = ListArray::try_new(self.item(), offsets, Arc::new(rows), None)?;
        Ok(ColumnarValue::Array(Arc::new(list)))
    }
}
