//! Functions by name: what finds them again on the other side.
//!
//! A kernel is its signature in the registry; casts, keys and aggregates are what they are made of. DataFusion's own are those
//! that plans of ours hold, by their names there. An unknown name is an error, and so is a function that a shard must not run
//! (`lower::runs_in_shard`).

use std::sync::Arc;

use cortex_shard_api::{SqlType, TypeMod};
use datafusion::{
    functions::core,
    functions_aggregate::{
        array_agg::array_agg_udaf,
        average::avg_udaf,
        bit_and_or_xor::{bit_and_udaf, bit_or_udaf, bit_xor_udaf},
        bool_and_or::{bool_and_udaf, bool_or_udaf},
        count::count_udaf,
        first_last::{first_value_udaf, last_value_udaf},
        min_max::{max_udaf, min_udaf},
        sum::sum_udaf,
    },
    functions_nested::make_array::make_array_udf,
    functions_window::{
        cume_dist::cume_dist_udwf,
        lead_lag::{lag_udwf, lead_udwf},
        nth_value::{first_value_udwf, last_value_udwf, nth_value_udwf},
        ntile::ntile_udwf,
        rank::{dense_rank_udwf, percent_rank_udwf, rank_udwf},
        row_number::row_number_udwf,
    },
    logical_expr::{AggregateUDF, ScalarUDF, WindowUDF},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{CodecError, frame::malformed};
use crate::{
    lower::{
        parts::{
            ArithmeticUdf, CastUdf, FinishUdf, KernelUdf, KeyUdf, OrderedBy, Ordinality,
            Quantified, RecordSet, SingleValue, StateUdaf, Step, arithmetic, state_function,
        },
        runs_in_shard,
    },
    registry::bound_call,
};

#[derive(Debug, Serialize, Deserialize)]
enum Scalar {
    Kernel(String),
    Arithmetic(String),
    Cast { from: TypeMod, to: TypeMod, explicit: bool },
    Key(SqlType),
    SumAsNumeric,
    Average(SqlType),
    Quantified { operator: String, all: bool, left: SqlType, array: SqlType },
    Ordinality,
    RecordSet { function: String, args: Vec<SqlType>, columns: Vec<(String, SqlType)> },
    Native(String),
}

#[derive(Debug, Serialize, Deserialize)]
enum Aggregate {
    State {
        name: String,
        args: Vec<SqlType>,
        returns: SqlType,
        distinct: bool,
        /// Ascending, NULLs first.
        order: Vec<(bool, bool)>,
    },
    SingleValue,
    Native(String),
}

/// Whether the function is one of this crate's.
pub(super) fn is_ours(function: &ScalarUDF) -> bool {
    !matches!(scalar(function), Scalar::Native(_))
}

fn scalar(function: &ScalarUDF) -> Scalar {
    let inner: &dyn std::any::Any = function.inner().as_ref();
    if let Some(udf) = inner.downcast_ref::<KernelUdf>() {
        Scalar::Kernel(udf.call.signature.clone())
    } else if let Some(udf) = inner.downcast_ref::<ArithmeticUdf>() {
        Scalar::Arithmetic(udf.call.signature.clone())
    } else if let Some(udf) = inner.downcast_ref::<CastUdf>() {
        Scalar::Cast { from: udf.from, to: udf.to, explicit: udf.explicit }
    } else if let Some(udf) = inner.downcast_ref::<KeyUdf>() {
        Scalar::Key(udf.ty)
    } else if let Some(udf) = inner.downcast_ref::<FinishUdf>() {
        match udf.step {
            Step::Numeric => Scalar::SumAsNumeric,
            Step::Average(ty) => Scalar::Average(ty),
        }
    } else if let Some(udf) = inner.downcast_ref::<Quantified>() {
        Scalar::Quantified {
            operator: udf.operator.clone(),
            all: udf.all,
            left: udf.left,
            array: udf.array,
        }
    } else if inner.is::<Ordinality>() {
        Scalar::Ordinality
    } else if let Some(udf) = inner.downcast_ref::<RecordSet>() {
        Scalar::RecordSet {
            function: udf.function.clone(),
            args: udf.args.clone(),
            columns: udf.columns.clone(),
        }
    } else {
        Scalar::Native(function.name().to_owned())
    }
}

pub(super) fn encode_scalar(function: &ScalarUDF, out: &mut Vec<u8>) -> Result<(), CodecError> {
    let name = scalar(function);
    if let Scalar::Native(name) = &name {
        native_scalar(name)?;
    }
    allowed(function)?;
    put(&name, out)
}

pub(super) fn decode_scalar(name: &str, bytes: &[u8]) -> Result<Arc<ScalarUDF>, CodecError> {
    let unknown = || CodecError::Function(name.to_owned());
    let kernel = |signature: &str| {
        bound_call(signature).ok_or_else(|| CodecError::Function(signature.to_owned()))
    };
    let function = match get(bytes)? {
        Scalar::Kernel(signature) => ScalarUDF::from(KernelUdf::new(kernel(&signature)?)),
        Scalar::Arithmetic(signature) => {
            arithmetic(&kernel(&signature)?).ok_or(CodecError::Function(signature))?
        }
        Scalar::Cast { from, to, explicit } => ScalarUDF::from(CastUdf::new(from, to, explicit)),
        Scalar::Key(ty) => ScalarUDF::from(KeyUdf::new(ty)),
        Scalar::SumAsNumeric => ScalarUDF::from(FinishUdf::new(Step::Numeric)),
        Scalar::Average(ty) => ScalarUDF::from(FinishUdf::new(Step::Average(ty))),
        Scalar::Quantified { operator, all, left, array } => {
            kernel(&operator)?;
            array.element().ok_or_else(unknown)?;
            ScalarUDF::from(Quantified::new(operator, all, left, array))
        }
        Scalar::Ordinality => ScalarUDF::from(Ordinality::new()),
        Scalar::RecordSet { function, args, columns } => {
            let call = kernel(&function)?;
            if !call.returns_set || call.args.len() != args.len() {
                return Err(unknown());
            }
            ScalarUDF::from(RecordSet::new(function, args, columns))
        }
        Scalar::Native(name) => return native_scalar(&name),
    };
    allowed(&function)?;
    Ok(Arc::new(function))
}

fn allowed(function: &ScalarUDF) -> Result<(), CodecError> {
    match runs_in_shard(function) {
        true => Ok(()),
        false => Err(CodecError::Function(function.name().to_owned())),
    }
}

fn native_scalar(name: &str) -> Result<Arc<ScalarUDF>, CodecError> {
    Ok(match name {
        "coalesce" => core::coalesce(),
        "get_field" => core::get_field(),
        "make_array" => make_array_udf(),
        _ => return Err(CodecError::Function(name.to_owned())),
    })
}

pub(super) fn encode_aggregate(
    function: &AggregateUDF,
    out: &mut Vec<u8>,
) -> Result<(), CodecError> {
    let inner: &dyn std::any::Any = function.inner().as_ref();
    let name = if let Some(udaf) = inner.downcast_ref::<StateUdaf>() {
        let order = udaf.spec.order.iter().map(|order| (order.ascending, order.nulls_first));
        Aggregate::State {
            name: udaf.spec.name.clone(),
            args: udaf.spec.args.clone(),
            returns: udaf.spec.returns,
            distinct: udaf.spec.distinct,
            order: order.collect(),
        }
    } else if inner.is::<SingleValue>() {
        Aggregate::SingleValue
    } else {
        native_aggregate(function.name())?;
        Aggregate::Native(function.name().to_owned())
    };
    put(&name, out)
}

pub(super) fn decode_aggregate(name: &str, bytes: &[u8]) -> Result<Arc<AggregateUDF>, CodecError> {
    match get(bytes)? {
        Aggregate::State { name, args, returns, distinct, order } => {
            let order = order.into_iter();
            let order = order
                .map(|(ascending, nulls_first)| OrderedBy { ascending, nulls_first })
                .collect();
            let function = state_function(&name, &args, returns, distinct, order);
            function.ok_or(CodecError::Function(name))
        }
        Aggregate::SingleValue => Ok(Arc::new(AggregateUDF::from(SingleValue::new()))),
        Aggregate::Native(native) if native == name => native_aggregate(&native),
        Aggregate::Native(_) => Err(CodecError::Function(name.to_owned())),
    }
}

fn native_aggregate(name: &str) -> Result<Arc<AggregateUDF>, CodecError> {
    Ok(match name {
        "count" => count_udaf(),
        "sum" => sum_udaf(),
        "avg" => avg_udaf(),
        "min" => min_udaf(),
        "max" => max_udaf(),
        "bool_and" => bool_and_udaf(),
        "bool_or" => bool_or_udaf(),
        "bit_and" => bit_and_udaf(),
        "bit_or" => bit_or_udaf(),
        "bit_xor" => bit_xor_udaf(),
        "array_agg" => array_agg_udaf(),
        "first_value" => first_value_udaf(),
        "last_value" => last_value_udaf(),
        _ => return Err(CodecError::Function(name.to_owned())),
    })
}

pub(super) fn encode_window(function: &WindowUDF, out: &mut Vec<u8>) -> Result<(), CodecError> {
    native_window(function.name())?;
    put(&function.name(), out)
}

pub(super) fn decode_window(name: &str, bytes: &[u8]) -> Result<Arc<WindowUDF>, CodecError> {
    match get::<String>(bytes)? == name {
        true => native_window(name),
        false => Err(CodecError::Function(name.to_owned())),
    }
}

fn native_window(name: &str) -> Result<Arc<WindowUDF>, CodecError> {
    Ok(match name {
        "row_number" => row_number_udwf(),
        "rank" => rank_udwf(),
        "dense_rank" => dense_rank_udwf(),
        "percent_rank" => percent_rank_udwf(),
        "cume_dist" => cume_dist_udwf(),
        "ntile" => ntile_udwf(),
        "lag" => lag_udwf(),
        "lead" => lead_udwf(),
        "first_value" => first_value_udwf(),
        "last_value" => last_value_udwf(),
        "nth_value" => nth_value_udwf(),
        _ => return Err(CodecError::Function(name.to_owned())),
    })
}

fn put(name: &impl Serialize, out: &mut Vec<u8>) -> Result<(), CodecError> {
    let bytes = postcard::to_stdvec(name).map_err(|error| malformed(error.to_string()))?;
    out.extend_from_slice(&bytes);
    Ok(())
}

fn get<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    postcard::from_bytes(bytes).map_err(|error| malformed(format!("a function's name: {error}")))
}
