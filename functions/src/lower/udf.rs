//! The row-by-row adapter: any scalar kernel as a DataFusion function.

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
};

use arrow::{
    array::{Array, ArrayRef, ListArray},
    buffer::{NullBuffer, OffsetBuffer},
    datatypes::{DataType, Field},
};
use cortex_shard_api::{
    Datum, SqlType, ValueError, ValueErrorKind,
    value::arrow::{array_from_datums, arrow_type, datum_at},
};
use datafusion::{
    common::ScalarValue,
    error::{DataFusionError, Result},
    logical_expr::{
        ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
        Volatility as NativeVolatility,
    },
};

use crate::{
    kernels::Implementation,
    registry::{BoundCall, Volatility},
    scalar, session,
};

/// A value error as it travels through DataFusion.
pub(crate) fn external(error: ValueError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// The value error inside a DataFusion error, wherever it was wrapped.
pub fn value_error(error: &DataFusionError) -> Option<&ValueError> {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = source {
        if let Some(found) = current.downcast_ref::<ValueError>() {
            return Some(found);
        }
        source = match current.downcast_ref::<DataFusionError>() {
            Some(DataFusionError::External(inner)) => Some(inner.as_ref()),
            Some(DataFusionError::ArrowError(inner, _)) => Some(inner.as_ref()),
            Some(DataFusionError::Context(_, inner)) => Some(inner.as_ref()),
            Some(DataFusionError::Shared(inner)) => Some(inner.as_ref()),
            Some(DataFusionError::Diagnostic(_, inner)) => Some(inner.as_ref()),
            Some(DataFusionError::Collection(errors)) => {
                errors.first().map(|first| first as &(dyn std::error::Error + 'static))
            }
            _ => match current.downcast_ref::<arrow::error::ArrowError>() {
                Some(arrow::error::ArrowError::ExternalError(inner)) => Some(inner.as_ref()),
                _ => current.source(),
            },
        };
    }
    None
}

/// What DataFusion may do with a call at planning time. Plans are cached across executions, so what is stable in Postgres (it
/// depends on the session, the clock or the catalog) must not be folded into them.
pub(super) fn native_volatility(volatility: Volatility) -> NativeVolatility {
    match volatility {
        Volatility::Immutable => NativeVolatility::Immutable,
        Volatility::Stable | Volatility::Volatile => NativeVolatility::Volatile,
    }
}

/// A scalar kernel as a function over columns.
#[derive(Debug)]
pub(crate) struct KernelUdf {
    pub call: Arc<BoundCall>,
    signature: Signature,
    returns: DataType,
}

impl PartialEq for KernelUdf {
    fn eq(&self, other: &Self) -> bool {
        self.call.signature == other.call.signature
    }
}

impl Eq for KernelUdf {}

impl Hash for KernelUdf {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.call.signature.hash(state);
    }
}

impl KernelUdf {
    pub(crate) fn new(call: Arc<BoundCall>) -> KernelUdf {
        let value = arrow_type(call.returns);
        let returns = if call.returns_set {
            DataType::List(Arc::new(Field::new("item", value, true)))
        } else {
            value
        };
        let signature = Signature::any(call.args.len(), native_volatility(call.volatility));
        let signature = if call.args.is_empty() {
            Signature::nullary(native_volatility(call.volatility))
        } else {
            signature
        };
        KernelUdf { call, signature, returns }
    }

    pub fn runs_in_shard(&self) -> bool {
        self.call.volatility != Volatility::Volatile
            && !matches!(self.call.implementation, Implementation::Session)
    }

    fn row(&self, args: &[Datum], context: &session::EvalContext) -> Result<Datum> {
        scalar::dispatch(&self.call, args, context).map_err(external)
    }

    fn set_row(&self, args: &[Datum], context: &session::EvalContext) -> Result<Vec<Datum>> {
        let rows = scalar::set_rows(&self.call, args, context).map_err(external)?;
        rows.into_iter()
            .map(|mut row| match row.len() {
                1 => Ok(row.remove(0)),
                _ => Err(external(
                    ValueError::new(
                        ValueErrorKind::Unsupported,
                        format!("{} yields several columns in a select list", self.call.name),
                    )
                    .with_hint("Call it in FROM."),
                )),
            })
            .collect()
    }
}

impl ScalarUDFImpl for KernelUdf {
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
        Ok(self.returns.clone())
    }

    fn is_strict(&self) -> bool {
        self.call.strict
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let context = session::installed(&args.config_options);
        let columns = Columns::new(&args.args, &self.call.args)?;
        let constant = columns.is_constant() && self.call.volatility != Volatility::Volatile;
        let n_rows = if constant { 1 } else { args.number_rows };
        let mut values = columns.buffer();
        let result: ArrayRef = if matches!(self.call.implementation, Implementation::Set(_)) {
            let mut lists = Vec::with_capacity(n_rows);
            for row in 0..n_rows {
                columns.read(row, &mut values)?;
                lists.push(self.set_row(&values, &context)?);
            }
            list_array(self.call.returns, lists)?
        } else {
            let mut results = Vec::with_capacity(n_rows);
            for row in 0..n_rows {
                columns.read(row, &mut values)?;
                results.push(self.row(&values, &context)?);
            }
            array_from_datums(self.call.returns, &results).map_err(external)?
        };
        if constant {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?));
        }
        Ok(ColumnarValue::Array(result))
    }
}

/// Names of columns in plans are made of these; the signature keeps overloads apart.
pub(super) fn schema_name(signature: &str, args: &[Expr]) -> Result<String> {
    let args = args.iter().map(|arg| arg.schema_name().to_string()).collect::<Vec<_>>();
    Ok(format!("{signature}({})", args.join(",")))
}

fn list_array(element: SqlType, lists: Vec<Vec<Datum>>) -> Result<ArrayRef> {
    let lengths = lists.iter().map(Vec::len).collect::<Vec<_>>();
    let flat = lists.into_iter().flatten().collect::<Vec<_>>();
    let values = array_from_datums(element, &flat).map_err(external)?;
    let field = Arc::new(Field::new("item", values.data_type().clone(), true));
    let offsets = OffsetBuffer::<i32>::from_lengths(lengths);
    Ok(Arc::new(ListArray::try_new(field, offsets, values, None::<NullBuffer>)?))
}

/// The arguments of a call; constants are decoded once.
pub(super) struct Columns {
    columns: Vec<Column>,
}

enum Column {
    Constant(Datum),
    Values(ArrayRef, SqlType),
}

impl Columns {
    pub(super) fn new(args: &[ColumnarValue], types: &[SqlType]) -> Result<Columns> {
        let columns = args
            .iter()
            .zip(types)
            .map(|(arg, ty)| {
                Ok(match arg {
                    ColumnarValue::Scalar(scalar) => {
                        let array = expected(scalar.to_array_of_size(1)?, *ty)?;
                        Column::Constant(datum_at(&array, 0, *ty).map_err(external)?)
                    }
                    ColumnarValue::Array(array) => {
                        Column::Values(expected(array.clone(), *ty)?, *ty)
                    }
                })
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Columns { columns })
    }

    pub(super) fn is_constant(&self) -> bool {
        self.columns.iter().all(|column| matches!(column, Column::Constant(_)))
    }

    /// Room for one row, constants filled in.
    pub(super) fn buffer(&self) -> Vec<Datum> {
        self.columns
            .iter()
            .map(|column| match column {
                Column::Constant(value) => value.clone(),
                Column::Values(..) => Datum::Null,
            })
            .collect()
    }

    pub(super) fn read(&self, row: usize, values: &mut [Datum]) -> Result<()> {
        for (column, value) in self.columns.iter().zip(values) {
            if let Column::Values(array, ty) = column {
                *value = datum_at(array, row, *ty).map_err(external)?;
            }
        }
        Ok(())
    }
}

/// The array in the representation of its SQL type; DataFusion's own functions may yield a sibling (Utf8View, Null).
pub(super) fn expected(array: ArrayRef, ty: SqlType) -> Result<ArrayRef> {
    let wanted = arrow_type(ty);
    if *array.data_type() == wanted
        || matches!(wanted, DataType::List(_)) && matches!(array.data_type(), DataType::List(_))
    {
        return Ok(array);
    }
    Ok(arrow::compute::cast(&array, &wanted)?)
}

/// A call of a signature that nothing implements: an error when it runs.
pub(super) fn missing(signature: &str, returns: DataType) -> Expr {
    let call = BoundCall {
        signature: signature.to_owned(),
        name: "missing",
        args: Vec::new(),
        returns: SqlType::Text,
        strict: false,
        volatility: Volatility::Volatile,
        returns_set: false,
        implementation: Implementation::Session,
        inner: None,
    };
    let udf = KernelUdf {
        call: Arc::new(call),
        signature: Signature::nullary(NativeVolatility::Volatile),
        returns,
    };
    ScalarUDF::from(udf).call(Vec::new())
}
