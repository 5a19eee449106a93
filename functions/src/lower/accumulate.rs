//! Aggregates that DataFusion lacks or computes otherwise: kept as states over single values.

use std::sync::Arc;

use cortex_shard_api::SqlType;
use datafusion::logical_expr::{AggregateUDF, Expr};

/// One key of ORDER BY inside an aggregate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct OrderedBy {
    pub ascending: bool,
    pub nulls_first: bool,
}

pub(super) fn implemented(_name: &str) -> bool {
    false
}

pub(super) fn prepare(
    _name: &str,
    args: Vec<Expr>,
    types: &[SqlType],
) -> (Vec<Expr>, Vec<SqlType>) {
    (args, types.to_vec())
}

pub(super) fn function(
    _name: &str,
    _args: &[SqlType],
    _returns: SqlType,
    _distinct: bool,
    _order: Vec<OrderedBy>,
) -> Option<Arc<AggregateUDF>> {
    None
}
