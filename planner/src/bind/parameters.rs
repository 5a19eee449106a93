//! `$1` and its type: what the client said, or what the first use wants.

use cortex_shard_api::{Datum, SqlType, value::arrow::array_from_datums};
use datafusion::common::ScalarValue;

use super::{
    Binder,
    typed::{Kind, TypedExpr},
};
use crate::{PlanError, PlanErrorKind};

/// Parameters of a statement at the most: the protocol counts them in 16 bits.
const PARAMETERS_MAX: usize = 65_535;

impl Binder<'_> {
    /// A placeholder as the parser gives it: `$1`.
    pub(crate) fn bind_parameter(
        &mut self,
        name: &str,
        position: Option<usize>,
    ) -> Result<TypedExpr, PlanError> {
        let number = name.strip_prefix('$').and_then(|digits| digits.parse::<usize>().ok());
        let Some(number) = number.filter(|number| (1..=PARAMETERS_MAX).contains(number)) else {
            return Err(PlanError::new(
                PlanErrorKind::UndefinedParameter,
                format!("there is no parameter {name}"),
            )
            .at(position));
        };
        if self.parameters.len() < number {
            self.parameters.resize(number, None);
        }
        let index = number - 1;
        let ty = self.parameters[index].unwrap_or(SqlType::Unknown);
        Ok(TypedExpr::new(Kind::Parameter(index), ty).at(position))
    }

    /// The type of a parameter that has none yet becomes `ty`; returns the type it has now.
    pub(crate) fn infer_parameter(&mut self, index: usize, ty: SqlType) -> SqlType {
        *self.parameters[index].get_or_insert(ty)
    }

    /// Every parameter's type; those nobody used are text.
    pub fn parameter_types(&self) -> Vec<SqlType> {
        self.parameters.iter().map(|ty| ty.unwrap_or(SqlType::Text)).collect()
    }
}

/// Values for `LogicalPlan::replace_params_with_values`, each of its parameter's type.
pub fn param_values(values: &[Datum], types: &[SqlType]) -> Result<Vec<ScalarValue>, PlanError> {
    values
        .iter()
        .zip(types)
        .map(|(value, ty)| {
            let array = array_from_datums(*ty, std::slice::from_ref(value))?;
            ScalarValue::try_from_array(&array, 0).map_err(|error| {
                PlanError::new(PlanErrorKind::Internal, format!("parameter value: {error}"))
            })
        })
        .collect()
}
