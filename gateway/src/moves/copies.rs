//! Which shards have copies of reference tables.
//!
//! The rows get there by themselves: a shard follows all others. Lives here: when a copy counts, as part of the placement. No
//! fence is needed, for old maps stay right: a copy that is given up goes on following until its shard goes.

use std::time::Duration;

use cortex_planner::catalog::{Catalog, placement::set_placement};
use cortex_shard_api::{LogIndex, Oid, ShardId, TableDescriptor, descriptor::Placement};

use super::{driver::Timing, machine::Failure};
use crate::catalog::CatalogStore;

/// Reference tables without a copy on a shard, with the shard of their primary copy.
fn lacking(catalog: &Catalog, shard: ShardId) -> Vec<(Oid, ShardId)> {
    let tables = catalog.tables.values().map(|table| &table.descriptor);
    let lacking = tables.filter_map(|table| match &table.placement {
        Placement::Reference(copies) if !copies.contains(&shard) => {
            Some((table.oid, table.primary_copy()?))
        }
        _ => None,
    });
    lacking.collect()
}

/// Gives a shard copies of all reference tables, which any table may refer to.
pub(super) async fn add(
    store: &CatalogStore,
    shard: ShardId,
    timing: Timing,
) -> Result<(), Failure> {
    if lacking(&*store.refresh().await?, shard).is_empty() {
        return Ok(());
    }
    let guard = store.lock_ddl(Some(timing.lock_wait)).await?;
    let base = store.current();
    let mut next = Catalog::clone(&base);
    let shards = &store.cluster().shards;
    for (table, primary) in lacking(&base, shard) {
        let newest = shards.client(primary)?;
        let newest = newest.copy_position(primary, LogIndex(0), Duration::ZERO).await?;
        let copy = shards.client(shard)?;
        let reached = copy.copy_position(primary, newest, timing.copies_wait).await?;
        if reached < newest {
            let message = format!("shard {shard} has not copied the reference tables yet");
            return Err(Failure { message, is_transient: true });
        }
        let found = next.tables.get(&table).map(|table| table.descriptor.clone());
        let Some(descriptor) = found else { continue };
        if let Placement::Reference(copies) = &descriptor.placement {
            let copies = copies.iter().copied().chain([shard]).collect();
            let epoch = descriptor.placement_epoch + 1;
            set_placement(&mut next, table, Some(Placement::Reference(copies)), epoch);
        }
    }
    let published = store.publish_with(&base, &next, Vec::new()).await?;
    drop(guard);
    store.await_gateways(published.version).await;
    Ok(())
}

/// Takes a shard's copies out of the placements; primary copies stay.
pub(super) async fn remove(
    store: &CatalogStore,
    shard: ShardId,
    timing: Timing,
) -> Result<(), Failure> {
    if without(&*store.refresh().await?, shard).is_none() {
        return Ok(());
    }
    let guard = store.lock_ddl(Some(timing.lock_wait)).await?;
    let base = store.current();
    if let Some(next) = without(&base, shard) {
        let published = store.publish_with(&base, &next, Vec::new()).await?;
        drop(guard);
        store.await_gateways(published.version).await;
    }
    Ok(())
}

/// The catalog without a shard's copies of reference tables; `None` if it has none.
fn without(catalog: &Catalog, shard: ShardId) -> Option<Catalog> {
    let mut next = None;
    for (oid, table) in &catalog.tables {
        let Placement::Reference(copies) = &table.descriptor.placement else { continue };
        if !copies.contains(&shard) || copies.first() == Some(&shard) {
            continue;
        }
        let kept = copies.iter().copied().filter(|copy| *copy != shard).collect();
        let epoch = table.descriptor.placement_epoch + 1;
        let next = next.get_or_insert_with(|| catalog.clone());
        set_placement(next, *oid, Some(Placement::Reference(kept)), epoch);
    }
    next
}

/// What of the catalog is on a shard and nowhere else.
pub(crate) fn held_by(catalog: &Catalog, shard: ShardId) -> Option<String> {
    let owns = |table: &TableDescriptor| match &table.placement {
        Placement::Home(home) => *home == shard,
        Placement::Hash { map, .. } => map.owner.contains(&shard),
        Placement::Range { map, .. } => map.owner.contains(&shard),
        Placement::Reference(copies) => copies.first() == Some(&shard),
    };
    if let Some(table) = catalog.tables.values().find(|table| owns(&table.descriptor)) {
        return Some(format!("rows of table {}", table.descriptor.qualified_name()));
    }
    if let Some(sequence) = catalog.sequences.values().find(|it| it.home == shard) {
        return Some(format!("sequence {}", sequence.name));
    }
    let home = catalog.schemas.values().find(|schema| schema.home == shard);
    home.map(|schema| format!("the home of schema {}", schema.name))
}
