//! Whether every shard takes its part of a plan, asked before the first of them gives rows.
//!
//! A shard refuses a fragment that was planned on an older schema or shard map, and the statement is planned anew; but only as long
//! as no row was sent, and one shard's rows may be on their way while another has not been asked yet. So each is asked first,
//! on the statement's snapshot there: what that snapshot takes now it takes until it is closed.

use std::{collections::BTreeMap, sync::Arc};

use cortex_functions::table_scan::TableScanExec;
use cortex_shard_api::{
    Oid, ShardError, ShardId, TableDescriptor,
    client::{GetRequest, RequestContext},
};
use datafusion::physical_plan::ExecutionPlan;
use futures::future::try_join_all;

use super::{ShardFragmentExec, StatementContext};

/// The tables that a plan reads on each shard.
type Tables = BTreeMap<ShardId, BTreeMap<Oid, Arc<TableDescriptor>>>;

/// Asks every shard of the plan, all at a time. A plan with one part is not asked for: its first answer is the only one.
pub async fn check_shards(
    plan: &Arc<dyn ExecutionPlan>,
    statement: &StatementContext,
) -> Result<(), ShardError> {
    let (mut tables, mut parts) = (Tables::new(), 0);
    collect_tables(plan, &mut tables, &mut parts);
    if parts < 2 {
        return Ok(());
    }
    let shards = tables.into_iter();
    try_join_all(shards.map(|(shard, tables)| check(shard, tables, statement))).await?;
    Ok(())
}

async fn check(
    shard: ShardId,
    tables: BTreeMap<Oid, Arc<TableDescriptor>>,
    statement: &StatementContext,
) -> Result<(), ShardError> {
    if statement.is_left_out(shard) {
        return Ok(());
    }
    let client = statement.client(shard)?;
    let context: RequestContext = statement.context(shard).await?;
    let requests = tables.into_values().map(|table| {
        // No key: the answer is whether the table's version is taken.
        let request = GetRequest { context: context.clone(), table, keys: Vec::new() };
        client.get(request)
    });
    try_join_all(requests).await?;
    Ok(())
}

fn collect_tables(plan: &Arc<dyn ExecutionPlan>, tables: &mut Tables, parts: &mut usize) {
    if let Some(fragment) = plan.downcast_ref::<ShardFragmentExec>() {
        *parts += fragment.shards().len();
        scanned(fragment.fragment(), &mut |table| {
            for shard in fragment.shards() {
                let seen = tables.entry(*shard).or_default();
                seen.entry(table.oid).or_insert_with(|| table.clone());
            }
        });
    }
    for child in plan.children() {
        collect_tables(child, tables, parts);
    }
}

fn scanned(plan: &Arc<dyn ExecutionPlan>, found: &mut impl FnMut(&Arc<TableDescriptor>)) {
    if let Some(scan) = plan.downcast_ref::<TableScanExec>() {
        scan.partitions().iter().for_each(|partition| found(&partition.spec.table));
    }
    for child in plan.children() {
        scanned(child, found);
    }
}
