//! Limits inside a fragment: each shard stops after so many rows.

use std::sync::Arc;

use cortex_functions::table_scan::TableScanExec;
use datafusion::physical_plan::{
    ExecutionPlan, execution_plan::replace_children_if_necessary, limit::LocalLimitExec,
    projection::ProjectionExec,
};

/// The plan, at most `limit` rows of each partition. A scan without a filter above it is told, so that it does not read more
/// than it must; the operator above it makes the limit exact whatever the scan does with it.
pub fn limited(plan: &Arc<dyn ExecutionPlan>, limit: usize) -> Option<Arc<dyn ExecutionPlan>> {
    if plan.fetch().is_some_and(|fetch| fetch <= limit) {
        return Some(plan.clone());
    }
    let told = tell_scan(plan, limit).unwrap_or_else(|| plan.clone());
    match told.with_fetch(Some(limit)) {
        Some(limited) => Some(limited),
        None => Some(Arc::new(LocalLimitExec::new(told, limit))),
    }
}

fn tell_scan(plan: &Arc<dyn ExecutionPlan>, limit: usize) -> Option<Arc<dyn ExecutionPlan>> {
    if let Some(scan) = plan.downcast_ref::<TableScanExec>() {
        return Some(Arc::new(scan.with_limit(limit)));
    }
    let input = plan.downcast_ref::<ProjectionExec>()?.input();
    replace_children_if_necessary(plan.clone(), vec![tell_scan(input, limit)?]).ok()
}
