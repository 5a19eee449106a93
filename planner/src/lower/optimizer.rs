//! DataFusion's rules that are safe for plans typed by us.
//!
//! Plans come fully typed, so no analyzer rule may choose a type. After optimization nothing correlated may be left, because
//! the physical planner could not run it.

use std::sync::Arc;

use datafusion::{
    common::tree_node::{TreeNode, TreeNodeRecursion},
    logical_expr::{Expr, LogicalPlan},
    optimizer::{AnalyzerRule, Optimizer, OptimizerRule},
};

use super::engine_error;
use crate::{PlanError, PlanErrorKind};

/// No analyzer rule runs: types, names and casts are ours.
pub fn analyzer_rules() -> Vec<Arc<dyn AnalyzerRule + Send + Sync>> {
    Vec::new()
}

/// DataFusion's optimizer rules.
pub fn optimizer_rules() -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    Optimizer::new().rules
}

/// What must hold after optimization: the columns are the same, and nothing correlated is left. 0A000 for the latter.
pub fn verify(before: &LogicalPlan, after: &LogicalPlan) -> Result<(), PlanError> {
    let same = before.schema().fields().len() == after.schema().fields().len()
        && before
            .schema()
            .fields()
            .iter()
            .zip(after.schema().fields())
            .all(|(before, after)| before.data_type() == after.data_type());
    if !same {
        return Err(PlanError::new(
            PlanErrorKind::Internal,
            "the optimizer changed the columns of the plan",
        ));
    }
    let mut correlated = false;
    after
        .apply_with_subqueries(|plan| {
            plan.apply_expressions(|expr| {
                expr.apply(|inner| {
                    correlated |= matches!(
                        inner,
                        Expr::OuterReferenceColumn(..) | Expr::Exists(_) | Expr::InSubquery(_)
                    );
                    Ok(TreeNodeRecursion::Continue)
                })
            })
        })
        .map_err(engine_error)?;
    if correlated {
        return Err(PlanError::unsupported(
            "this correlated subquery is not supported",
            "Rewrite it as a join or with a window function.",
        ));
    }
    Ok(())
}
