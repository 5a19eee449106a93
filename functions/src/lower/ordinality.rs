//! WITH ORDINALITY: the numbers of a set-returning function's rows.

use std::sync::Arc;

use arrow::{
    array::{Array, AsArray, Int64Builder, ListBuilder},
    datatypes::{DataType, Field},
};
use datafusion::{
    common::{Result, exec_err},
    logical_expr::{
        ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
    },
};

/// `[1, 2, ..., n]` for the longest of some Lists.
pub fn ordinality(lists: Vec<Expr>) -> Expr {
    ScalarUDF::from(Ordinality::new()).call(lists)
}

#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ordinality {
    signature: Signature,
}

impl Ordinality {
    pub fn new() -> Ordinality {
        Ordinality { signature: Signature::variadic_any(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Ordinality {
    fn name(&self) -> &str {
        "ordinality"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(DataType::List(Arc::new(Field::new("item", DataType::Int64, true))))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let rows = arrays.first().map_or(0, |array| array.len());
        let mut lists = Vec::with_capacity(arrays.len());
        for array in &arrays {
            match array.as_list_opt::<i32>() {
                Some(list) => lists.push(list),
                None => return exec_err!("ordinality wants lists, not {}", array.data_type()),
            }
        }
        let mut out = ListBuilder::new(Int64Builder::new());
        for row in 0..rows {
            let longest = lists
                .iter()
                .filter(|list| list.is_valid(row))
                .map(|list| i64::from(list.value_length(row)))
                .max()
                .unwrap_or(0);
            for ordinal in 1..=longest {
                out.values().append_value(ordinal);
            }
            out.append(true);
        }
        Ok(ColumnarValue::Array(Arc::new(out.finish())))
    }
}
