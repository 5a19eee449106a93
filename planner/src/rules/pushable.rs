//! What a shard can run: expressions that mean the same there.

use std::sync::Arc;

use cortex_functions::lower::runs_in_shard;
use datafusion::{
    common::tree_node::{TreeNode, TreeNodeRecursion},
    error::Result,
    physical_expr::{PhysicalExpr, ScalarFunctionExpr, scalar_subquery::ScalarSubqueryExpr},
    physical_plan::ExecutionPlan,
};

/// Whether every expression that the operator itself evaluates may be evaluated in a shard.
pub fn is_pushable(node: &dyn ExecutionPlan) -> Result<bool> {
    let mut pushable = true;
    node.apply_expressions(&mut |root| {
        pushable &= is_pushable_expr(root)?;
        Ok(if pushable { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    })?;
    Ok(pushable)
}

fn is_pushable_expr(root: &Arc<dyn PhysicalExpr>) -> Result<bool> {
    let mut pushable = true;
    root.apply(|expr| {
        if let Some(call) = expr.downcast_ref::<ScalarFunctionExpr>() {
            pushable &= runs_in_shard(call.fun());
        }
        // Its value is put in its place by an operator of the gateway while the plan runs.
        if expr.downcast_ref::<ScalarSubqueryExpr>().is_some() {
            pushable = false;
        }
        Ok(if pushable { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    })?;
    Ok(pushable)
}
