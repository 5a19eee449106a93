//! Casts as DataFusion expressions: nothing where the representation stays, Arrow's widening where it is the same, the kernel
//! elsewhere.

use std::hash::{Hash, Hasher};

use arrow::datatypes::DataType;
use cortex_shard_api::{
    SqlType, TypeMod,
    value::arrow::{array_from_datums, arrow_type},
};
use datafusion::{
    common::ScalarValue,
    error::Result,
    logical_expr::{
        ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
        cast as native_cast,
    },
};

use super::udf::{Columns, external, schema_name};
use crate::{scalar, session};

/// A value of `from` as a value of `to`. A constant of type unknown is read by the target's input function.
pub fn cast(expr: Expr, from: TypeMod, to: TypeMod, explicit: bool) -> Expr {
    if from == to || (from.ty == to.ty && to.typmod < 0) {
        return expr;
    }
    if to.typmod < 0 {
        if relabels(from.ty, to.ty) {
            return expr;
        }
        if widens(from.ty, to.ty) {
            return native_cast(expr, arrow_type(to.ty));
        }
    }
    ScalarUDF::from(CastUdf::new(from, to, explicit)).call(vec![expr])
}

/// The same Arrow value under another name.
fn relabels(from: SqlType, to: SqlType) -> bool {
    match (from, to) {
        (SqlType::Array(from), SqlType::Array(to)) => relabels(*from, *to),
        (
            SqlType::Text | SqlType::Varchar | SqlType::Name | SqlType::Unknown | SqlType::Char,
            SqlType::Text | SqlType::Varchar | SqlType::Bpchar,
        ) => true,
        (SqlType::Json | SqlType::Jsonb, SqlType::Text | SqlType::Varchar) => true,
        (from, to) => from == to || (from.is_oid_like() && to.is_oid_like()),
    }
}

/// Conversions that cannot fail and that Arrow does alike.
fn widens(from: SqlType, to: SqlType) -> bool {
    use SqlType::{Float4, Float8, Int2, Int4, Int8};
    matches!(
        (from, to),
        (Int2, Int4 | Int8 | Float4 | Float8)
            | (Int4, Int8 | Float8)
            | (Int8, Float8)
            | (Float4, Float8)
    )
}

/// A cast by its kernel.
#[derive(Debug)]
pub(crate) struct CastUdf {
    pub from: TypeMod,
    pub to: TypeMod,
    pub explicit: bool,
    name: String,
    signature: Signature,
}

impl PartialEq for CastUdf {
    fn eq(&self, other: &Self) -> bool {
        (self.from, self.to, self.explicit) == (other.from, other.to, other.explicit)
    }
}

impl Eq for CastUdf {}

impl Hash for CastUdf {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.from, self.to, self.explicit).hash(state);
    }
}

impl CastUdf {
    pub fn new(from: TypeMod, to: TypeMod, explicit: bool) -> CastUdf {
        let volatility = if depends_on_session(from.ty) || depends_on_session(to.ty) {
            Volatility::Volatile
        } else {
            Volatility::Immutable
        };
        CastUdf {
            from,
            to,
            explicit,
            name: format!("cast_{}", to.ty.catalog_name()),
            signature: Signature::any(1, volatility),
        }
    }
}

impl CastUdf {
    /// The names behind oids are known to the gateway alone.
    pub fn runs_in_shard(&self) -> bool {
        let is_name = |ty: SqlType| ty.is_oid_like() && ty != SqlType::Oid;
        let element = |ty: SqlType| ty.element().unwrap_or(ty);
        !is_name(element(self.from.ty)) && !is_name(element(self.to.ty))
    }
}

/// Types whose text or conversion depends on settings, the clock or the catalog. Between dates alone nothing does, but a
/// wrong "volatile" costs a little speed and a wrong "immutable" a wrong answer.
pub(crate) fn depends_on_session(ty: SqlType) -> bool {
    match ty {
        SqlType::Array(element) => depends_on_session(*element),
        SqlType::Date
        | SqlType::Time
        | SqlType::Timestamp
        | SqlType::Timestamptz
        | SqlType::Interval => true,
        ty => ty.is_oid_like() && ty != SqlType::Oid,
    }
}

impl ScalarUDFImpl for CastUdf {
    fn name(&self) -> &str {
        &self.name
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let signature = format!(
            "cast_{}_{}_{}_{}{}",
            self.from.ty.catalog_name(),
            self.from.typmod,
            self.to.ty.catalog_name(),
            self.to.typmod,
            if self.explicit { "_explicit" } else { "" }
        );
        schema_name(&signature, args)
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(arrow_type(self.to.ty))
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let context = session::installed(&args.config_options);
        let columns = Columns::new(&args.args, &[self.from.ty])?;
        let n_rows = if columns.is_constant() { 1 } else { args.number_rows };
        let mut row_values = columns.buffer();
        let mut results = Vec::with_capacity(n_rows);
        for row in 0..n_rows {
            columns.read(row, &mut row_values)?;
            let value = std::mem::take(&mut row_values[0]);
            if columns.is_constant() {
                row_values[0] = value.clone();
            }
            results.push(
                scalar::cast(value, self.from, self.to, self.explicit, &context)
                    .map_err(external)?,
            );
        }
        let result = array_from_datums(self.to.ty, &results).map_err(external)?;
        if columns.is_constant() {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?));
        }
        Ok(ColumnarValue::Array(result))
    }
}
