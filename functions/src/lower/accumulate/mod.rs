//! Aggregates that DataFusion lacks or computes otherwise: one state per group over single values, which can be saved and merged, so
//! that shards compute partial states and the gateway merges them.
//!
//! DISTINCT and ORDER BY inside an aggregate are kept here too (`collect`): the state carries the rows with their sort keys, so
//! they do not depend on the order in which partial states arrive.

use std::sync::Arc;

use cortex_shard_api::{SqlType, TypeMod};
use datafusion::logical_expr::{AggregateUDF, Expr};

use crate::registry::resolve_function;

mod collect;
mod lists;
mod moments;
mod ordered_set;
mod saved;
mod simple;
mod udaf;

pub(crate) use udaf::StateUdaf;

/// One key of ORDER BY inside an aggregate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct OrderedBy {
    pub ascending: bool,
    pub nulls_first: bool,
}

/// What an accumulator computes; also the identity of its function in plans.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Spec {
    pub name: String,
    pub args: Vec<SqlType>,
    pub returns: SqlType,
    pub distinct: bool,
    /// Sort keys, which follow the arguments; for ordered-set aggregates the one order of the last argument.
    pub order: Vec<OrderedBy>,
    pub ordered_set: bool,
}

const ORDERED_SET: &[&str] = &["percentile_cont", "percentile_disc", "mode"];

/// Names computed here (some also natively, where that is the same).
pub(super) fn implemented(name: &str) -> bool {
    matches!(
        name,
        "array_agg"
            | "string_agg"
            | "json_agg"
            | "jsonb_agg"
            | "json_object_agg"
            | "jsonb_object_agg"
            | "stddev"
            | "stddev_pop"
            | "stddev_samp"
            | "variance"
            | "var_pop"
            | "var_samp"
            | "corr"
            | "covar_pop"
            | "covar_samp"
            | "regr_avgx"
            | "regr_avgy"
            | "regr_count"
            | "regr_intercept"
            | "regr_r2"
            | "regr_slope"
            | "regr_sxx"
            | "regr_sxy"
            | "regr_syy"
    ) || ORDERED_SET.contains(&name)
}

/// The arguments as the state wants them: values for JSON aggregates become JSON first, where the session's settings are at hand.
pub(super) fn prepare(name: &str, args: Vec<Expr>, types: &[SqlType]) -> (Vec<Expr>, Vec<SqlType>) {
    let convert = match name {
        "json_agg" | "json_object_agg" => "to_json",
        "jsonb_agg" | "jsonb_object_agg" => "to_jsonb",
        _ => return (args, types.to_vec()),
    };
    let last = args.len() - 1;
    args.into_iter()
        .zip(types)
        .enumerate()
        .map(|(position, (arg, ty))| {
            if position < last {
                let text = TypeMod::plain(SqlType::Text);
                return (super::cast(arg, TypeMod::plain(*ty), text, true), SqlType::Text);
            }
            let ty = if *ty == SqlType::Unknown { SqlType::Text } else { *ty };
            match resolve_function(convert, &[ty]) {
                Ok(call) => (super::call(&call, vec![(arg, TypeMod::plain(ty))]), call.returns),
                Err(_) => (arg, ty),
            }
        })
        .unzip()
}

/// The aggregate function for a specification, if there is one.
pub(crate) fn function(
    name: &str,
    args: &[SqlType],
    returns: SqlType,
    distinct: bool,
    order: Vec<OrderedBy>,
) -> Option<Arc<AggregateUDF>> {
    let spec = Spec {
        name: name.to_owned(),
        args: args.to_vec(),
        returns,
        distinct,
        order,
        ordered_set: ORDERED_SET.contains(&name),
    };
    // A state that cannot be made now could never be made.
    collect::state(&spec)?;
    Some(Arc::new(AggregateUDF::from(udaf::StateUdaf::new(spec))))
}
