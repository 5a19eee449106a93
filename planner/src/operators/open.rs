//! What a plan reads is opened on every shard before the first of them gives rows, all at a time.
//!
//! A shard refuses a fragment that was planned on an older schema or shard map, and the statement is planned anew; but only as long
//! as no row was sent, and one shard's rows may be on their way while another has not been asked yet. So nobody's rows are read
//! before everybody has taken its part. That costs one round trip:
//!
//! ```text
//!   one fragment, run once      execute on each shard: no other request reads there, so none needs to know the snapshot
//!   several, or run again       open_snapshot on each shard, with the tables that will be read there; fragments name it
//! ```

use std::{collections::BTreeMap, sync::Arc};

use cortex_functions::table_scan::TableScanExec;
use cortex_shard_api::{Oid, ShardId, TableDescriptor};
use datafusion::{
    common::internal_datafusion_err,
    error::{DataFusionError, Result},
    execution::TaskContext,
    physical_plan::{
        ExecutionPlan,
        aggregates::AggregateExec,
        coalesce_partitions::CoalescePartitionsExec,
        coop::CooperativeExec,
        filter::FilterExec,
        joins::HashJoinExec,
        limit::{GlobalLimitExec, LocalLimitExec},
        projection::ProjectionExec,
        sorts::{sort::SortExec, sort_preserving_merge::SortPreservingMergeExec},
        union::UnionExec,
        windows::{BoundedWindowAggExec, WindowAggExec},
    },
};
use futures::future::join_all;

use super::{ShardFragmentExec, StatementContext, scatter::external};

/// The tables that a plan reads on each shard.
type Tables = BTreeMap<ShardId, BTreeMap<Oid, Arc<TableDescriptor>>>;

/// Opens what the plan reads; a statement's first plan alone, for there is one. The plan must be run with the same context.
///
/// Errors: one for each shard that is not there or does not take its part.
pub async fn open_shards(
    plan: &Arc<dyn ExecutionPlan>,
    context: &Arc<TaskContext>,
) -> Result<(), Vec<DataFusionError>> {
    let missing = || vec![internal_datafusion_err!("the statement has no shards")];
    let statement =
        context.session_config().get_extension::<StatementContext>().ok_or_else(missing)?;
    if !statement.open_once() {
        return Ok(());
    }
    let mut read = Read::default();
    read.collect(plan);
    let asked = match read.only() {
        Some(fragment) => fragment.start(context, &statement).await,
        None => {
            join_all(read.tables.iter().map(|(shard, tables)| {
                let tables: Vec<_> = tables.values().cloned().collect();
                let statement = &statement;
                async move { statement.open(*shard, &tables).await.map_err(external) }
            }))
            .await
        }
    };
    let failed: Vec<DataFusionError> = asked.into_iter().filter_map(Result::err).collect();
    if failed.is_empty() { Ok(()) } else { Err(failed) }
}

/// What a plan reads.
#[derive(Default)]
struct Read<'a> {
    fragments: Vec<&'a ShardFragmentExec>,
    tables: Tables,
    /// A part of it may be run more than once.
    may_repeat: bool,
}

impl<'a> Read<'a> {
    fn collect(&mut self, plan: &'a Arc<dyn ExecutionPlan>) {
        if let Some(fragment) = plan.downcast_ref::<ShardFragmentExec>() {
            self.fragments.push(fragment);
            for shard in fragment.shards() {
                let tables = self.tables.entry(*shard).or_default();
                scanned(fragment.fragment(), tables);
            }
        } else if !plan.children().is_empty() {
            self.may_repeat |= !runs_inputs_once(plan.as_ref());
        }
        for child in plan.children() {
            self.collect(child);
        }
    }

    /// The fragment that alone reads, once, on all of its shards.
    fn only(&self) -> Option<&'a ShardFragmentExec> {
        let [only] = self.fragments[..] else { return None };
        (!self.may_repeat && only.broadcasts().is_empty()).then_some(only)
    }
}

/// Whether an operator is known to run its inputs at most once. Others are not: recursive queries, and joins that begin anew
/// when their memory does not suffice.
fn runs_inputs_once(plan: &dyn ExecutionPlan) -> bool {
    plan.is::<CoalescePartitionsExec>()
        || plan.is::<SortPreservingMergeExec>()
        || plan.is::<CooperativeExec>()
        || plan.is::<ProjectionExec>()
        || plan.is::<FilterExec>()
        || plan.is::<AggregateExec>()
        || plan.is::<SortExec>()
        || plan.is::<LocalLimitExec>()
        || plan.is::<GlobalLimitExec>()
        || plan.is::<WindowAggExec>()
        || plan.is::<BoundedWindowAggExec>()
        || plan.is::<HashJoinExec>()
        || plan.is::<UnionExec>()
}

fn scanned(plan: &Arc<dyn ExecutionPlan>, tables: &mut BTreeMap<Oid, Arc<TableDescriptor>>) {
    if let Some(scan) = plan.downcast_ref::<TableScanExec>() {
        for partition in scan.partitions() {
            let table = &partition.spec.table;
            tables.entry(table.oid).or_insert_with(|| table.clone());
        }
    }
    for child in plan.children() {
        scanned(child, tables);
    }
}
