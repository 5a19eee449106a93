//! LIMIT and OFFSET that are more than a literal: their value when the statement runs.
//!
//! Before: `LIMIT $1 + 1`, which DataFusion's optimizer would refuse in words of its own, or not run at all. After: a literal;
//! 2201W or 2201X where it is negative.

use std::sync::Arc;

use cortex_shard_api::Datum;
use datafusion::{
    arrow::{
        array::{RecordBatch, RecordBatchOptions},
        datatypes::Schema,
    },
    common::{
        DFSchema, ScalarValue,
        tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion},
    },
    error::DataFusionError,
    execution::context::SessionState,
    logical_expr::{Expr, LogicalPlan, physical_planning_context::PhysicalPlanningContext},
    physical_expr::create_physical_expr,
};

use super::{engine_error, expr::check_count};
use crate::PlanError;

/// Which counts have a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowCounts {
    /// The statement is prepared: those that no parameter and no run can change.
    Constant,
    /// The statement runs, its parameters are in place.
    All,
}

/// The plan with its row counts computed.
pub fn compute_row_counts(
    plan: LogicalPlan,
    which: RowCounts,
    state: &SessionState,
) -> Result<LogicalPlan, PlanError> {
    if !has_open_count(&plan)? {
        return Ok(plan);
    }
    plan.transform_down_with_subqueries(|plan| {
        let LogicalPlan::Limit(mut limit) = plan else { return Ok(Transformed::no(plan)) };
        for (count, clause) in [(&mut limit.fetch, "LIMIT"), (&mut limit.skip, "OFFSET")] {
            let Some(expr) = count else { continue };
            if is_open(expr) && (which == RowCounts::All || is_constant(expr)?) {
                let value = evaluate(expr, clause, state)?;
                **expr = Expr::Literal(value, None);
            }
        }
        Ok(Transformed::yes(LogicalPlan::Limit(limit)))
    })
    .data()
    .map_err(engine_error)
}

/// Not a number yet, or one that is refused.
fn is_open(expr: &Expr) -> bool {
    match expr {
        Expr::Literal(ScalarValue::Int64(Some(count)), _) => *count < 0,
        Expr::Literal(..) => false,
        _ => true,
    }
}

fn has_open_count(plan: &LogicalPlan) -> Result<bool, PlanError> {
    let mut found = false;
    plan.apply_with_subqueries(|plan| {
        if let LogicalPlan::Limit(limit) = plan {
            found |= [&limit.fetch, &limit.skip].into_iter().flatten().any(|expr| is_open(expr));
        }
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })
    .map_err(engine_error)?;
    Ok(found)
}

fn is_constant(expr: &Expr) -> Result<bool, DataFusionError> {
    let open = expr.exists(|inner| Ok(matches!(inner, Expr::Placeholder(_))))?;
    Ok(!open && !expr.is_volatile())
}

/// NULL is none: all rows, from the first.
fn evaluate(
    expr: &Expr,
    clause: &str,
    state: &SessionState,
) -> Result<ScalarValue, DataFusionError> {
    let context = PhysicalPlanningContext::default();
    let physical =
        create_physical_expr(expr, &DFSchema::empty(), state.execution_props(), &context)?;
    let row = RecordBatch::try_new_with_options(
        Arc::new(Schema::empty()),
        Vec::new(),
        &RecordBatchOptions::new().with_row_count(Some(1)),
    )?;
    let value = physical.evaluate(&row)?.into_array(1)?;
    let value = ScalarValue::try_from_array(&value, 0)?;
    match value {
        ScalarValue::Int64(Some(count)) => {
            check_count(&Datum::Int8(count), clause)
                .map_err(|error| DataFusionError::External(Box::new(error)))?;
            Ok(value)
        }
        _ if clause == "OFFSET" => Ok(ScalarValue::Int64(Some(0))),
        _ => Ok(ScalarValue::Int64(None)),
    }
}
