//! `left op ANY (array)` and `left op ALL (array)` where the array is not a constant.
//!
//! Lives here: a function over a value and a List, evaluated with the scalar kernel of the operator. Constant arrays never
//! come here: they are IN lists.

use std::sync::Arc;

use arrow::{array::BooleanBuilder, datatypes::DataType};
use cortex_shard_api::{Datum, ScalarExpr, SqlType, TypeMod, value::arrow as arrow_values};
use datafusion::{
    common::{Result, exec_err},
    error::DataFusionError,
    logical_expr::{
        ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
    },
};

use crate::{
    registry::ResolvedCall,
    scalar,
    session::{self, EvalContext},
};

/// The call of the function that compares `left` with each element of `array`.
pub fn quantified(
    operator: &ResolvedCall,
    all: bool,
    left: (Expr, TypeMod),
    array: (Expr, TypeMod),
) -> Expr {
    let call = Quantified::new(operator.signature.clone(), all, left.1.ty, array.1.ty);
    ScalarUDF::from(call).call(vec![left.0, array.0])
}

#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Quantified {
    pub operator: String,
    pub all: bool,
    pub left: SqlType,
    pub array: SqlType,
    signature: Signature,
    name: String,
}

impl Quantified {
    pub fn new(operator: String, all: bool, left: SqlType, array: SqlType) -> Quantified {
        let name = format!("{operator}_{}", if all { "all" } else { "any" });
        let signature = Signature::any(2, Volatility::Immutable);
        Quantified { operator, all, left, array, signature, name }
    }
}

impl ScalarUDFImpl for Quantified {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let [left, array] = arrays.as_slice() else {
            return exec_err!("{} wants two arguments", self.name);
        };
        let context = session::installed(&args.config_options);
        let mut out = BooleanBuilder::with_capacity(left.len());
        let fail = |error: cortex_shard_api::ValueError| DataFusionError::External(Box::new(error));
        for row in 0..left.len() {
            let value = arrow_values::datum_at(left, row, self.left).map_err(fail)?;
            let elements = match arrow_values::datum_at(array, row, self.array).map_err(fail)? {
                Datum::Array(array) => array.elements,
                _ => {
                    out.append_null();
                    continue;
                }
            };
            let answer = self.quantify(value, elements, &context).map_err(fail)?;
            out.append_option(answer);
        }
        Ok(ColumnarValue::Array(Arc::new(out.finish())))
    }
}

impl Quantified {
    /// ANY is decided by the first true, ALL by the first false; otherwise a NULL makes NULL.
    fn quantify(
        &self,
        left: Datum,
        elements: Vec<Datum>,
        context: &EvalContext,
    ) -> Result<Option<bool>, cortex_shard_api::ValueError> {
        let element_type = self.array.element().unwrap_or(SqlType::Text);
        let mut answer = Some(self.all);
        for element in elements {
            let comparison = ScalarExpr::Call {
                function: self.operator.clone(),
                args: vec![
                    ScalarExpr::literal(left.clone(), self.left),
                    ScalarExpr::literal(element, element_type),
                ],
                ty: TypeMod::plain(SqlType::Bool),
            };
            match scalar::evaluate(&comparison, &[], &[], context)? {
                Datum::Bool(value) if value != self.all => return Ok(Some(value)),
                Datum::Bool(_) => {}
                _ => answer = None,
            }
        }
        Ok(answer)
    }
}
