//! Window functions with Postgres's result types.

use std::sync::Arc;

use arrow::datatypes::DataType;
use cortex_shard_api::{TypeMod, ValueError, ValueErrorKind};
use datafusion::{
    functions_window::{
        cume_dist::cume_dist_udwf,
        lead_lag::{lag_udwf, lead_udwf},
        nth_value::{first_value_udwf, last_value_udwf, nth_value_udwf},
        ntile::ntile_udwf,
        rank::{dense_rank_udwf, percent_rank_udwf, rank_udwf},
        row_number::row_number_udwf,
    },
    logical_expr::{
        Expr, SortExpr, WindowFrame, WindowFunctionDefinition, cast as native_cast,
        expr::{WindowFunction, WindowFunctionParams},
    },
};

use super::aggregate::{LoweredAggregate, Place, lower};
use crate::registry::ResolvedAggregate;

/// The OVER clause; `order_by` and `partition_by` hold comparison keys.
#[derive(Clone, Debug)]
pub struct WindowSpec {
    pub partition_by: Vec<Expr>,
    pub order_by: Vec<SortExpr>,
    pub frame: WindowFrame,
}

/// A window function, or an aggregate over a window.
pub fn window(
    call: &ResolvedAggregate,
    args: Vec<(Expr, TypeMod)>,
    filter: Option<Expr>,
    spec: WindowSpec,
) -> Result<LoweredAggregate, ValueError> {
    let mut args = args.into_iter().map(|(expr, _)| expr).collect::<Vec<_>>();
    if !call.window_only {
        return lower(call, args, Vec::new(), &Place::Window { filter, spec: Box::new(spec) });
    }
    let name = call.signature.split('(').next().unwrap_or_default();
    let (function, result) = match name {
        "row_number" => (row_number_udwf(), Some(DataType::Int64)),
        "rank" => (rank_udwf(), Some(DataType::Int64)),
        "dense_rank" => (dense_rank_udwf(), Some(DataType::Int64)),
        "percent_rank" => (percent_rank_udwf(), None),
        "cume_dist" => (cume_dist_udwf(), None),
        "ntile" => (ntile_udwf(), Some(DataType::Int32)),
        "lag" | "lead" => {
            if let Some(offset) = args.get_mut(1) {
                *offset = native_cast(offset.clone(), DataType::Int64);
                require_constant(name, offset)?;
            }
            if let Some(default) = args.get(2) {
                require_constant(name, default)?;
            }
            (if name == "lag" { lag_udwf() } else { lead_udwf() }, None)
        }
        "first_value" => (first_value_udwf(), None),
        "last_value" => (last_value_udwf(), None),
        "nth_value" => {
            if let Some(position) = args.get_mut(1) {
                *position = native_cast(position.clone(), DataType::Int64);
                require_constant(name, position)?;
            }
            (nth_value_udwf(), None)
        }
        other => {
            return Err(ValueError::new(
                ValueErrorKind::Unsupported,
                format!("window function {other} is not supported"),
            ));
        }
    };
    let part = Expr::WindowFunction(Box::new(WindowFunction {
        fun: WindowFunctionDefinition::WindowUDF(function),
        params: WindowFunctionParams {
            args,
            partition_by: spec.partition_by,
            order_by: spec.order_by,
            window_frame: spec.frame,
            filter: None,
            null_treatment: None,
            distinct: false,
        },
    }));
    Ok(LoweredAggregate {
        parts: vec![part],
        finish: Arc::new(move |mut parts| {
            let value = parts.swap_remove(0);
            match &result {
                Some(ty) => native_cast(value, ty.clone()),
                None => value,
            }
        }),
    })
}

/// Offsets and defaults are read once per window, so they cannot depend on the row (Postgres lets them).
fn require_constant(name: &str, argument: &Expr) -> Result<(), ValueError> {
    if argument.column_refs().is_empty() {
        return Ok(());
    }
    Err(ValueError::new(
        ValueErrorKind::Unsupported,
        format!("{name} with an offset or default that depends on the row is not supported"),
    )
    .with_hint("Use a constant."))
}
