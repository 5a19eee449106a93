//! cortex.shards, cortex.placements, cortex.gateways: members and what they hold, asked now.
//!
//! Who does not answer in time is shown as down, with NULL for what nobody else knows: a view never waits for a shard that is
//! away, and never fails because of it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use cortex_planner::catalog::{Catalog, Table};
use cortex_shard_api::{
    Datum, ShardId, ValueError,
    client::StorageStats,
    cluster::{Member, MemberState, Members},
    descriptor::Placement,
};
use futures::future::join_all;

use super::rows::{Rows, maybe_text, oid, text};
use crate::catalog::CatalogStore;

/// A shard or the meta process that is up answers at once.
const ANSWER_WAIT: Duration = Duration::from_secs(1);

/// What a table has on a shard.
#[derive(Clone, Copy, Default)]
struct Held {
    rows: u64,
    bytes: u64,
}

/// What a shard said of its tables, in the catalog's order; `None`: nothing.
type Answer = Option<Vec<Held>>;

async fn members(store: &CatalogStore) -> Arc<Members> {
    let cluster = store.cluster();
    match tokio::time::timeout(ANSWER_WAIT, cluster.fresh_members()).await {
        Ok(Ok(members)) => members,
        // The meta process is away: what was known last.
        Ok(Err(_)) | Err(_) => cluster.members(),
    }
}

/// Tables with rows on a shard.
fn tables_on(catalog: &Catalog, shard: ShardId) -> Vec<&Arc<Table>> {
    let tables = catalog.tables.values();
    tables.filter(|table| table.descriptor.shards().contains(&shard)).collect()
}

/// Asks every shard for its tables, all at once.
async fn ask(catalog: &Catalog, store: &CatalogStore) -> BTreeMap<ShardId, Answer> {
    let asked = store.data_shards().into_iter().map(|id| async move {
        let answer = tokio::time::timeout(ANSWER_WAIT, ask_shard(catalog, store, id)).await;
        (id, answer.unwrap_or_default())
    });
    join_all(asked).await.into_iter().collect()
}

async fn ask_shard(catalog: &Catalog, store: &CatalogStore, id: ShardId) -> Answer {
    let client = store.shard(id).ok()?;
    // Also when it has no tables: whether it answers is shown.
    client.status().await.ok()?;
    let held = tables_on(catalog, id).into_iter().map(|table| {
        let (client, rows) = (&client, table.descriptor.storage);
        async move {
            let storages = table.storages();
            let stats = storages.iter().map(|storage| client.storage_stats(*storage));
            let mut held = Held::default();
            for (storage, stats) in storages.iter().zip(join_all(stats).await) {
                let StorageStats { rows: n_rows, bytes } = stats.ok()?;
                held.bytes += bytes;
                held.rows += if *storage == rows { n_rows } else { 0 };
            }
            Some(held)
        }
    });
    join_all(held).await.into_iter().collect()
}

fn count(n: u64) -> Datum {
    Datum::Int8(i64::try_from(n).unwrap_or(i64::MAX))
}

fn seen(member: Option<&Member>) -> Datum {
    let micros = member.map(|member| member.seen_micros).filter(|micros| *micros != 0);
    micros.map_or(Datum::Null, Datum::Timestamptz)
}

fn address(member: Option<&Member>) -> Datum {
    maybe_text(member.map(|member| &member.address).filter(|address| !address.is_empty()))
}

/// cortex.shards
pub async fn shards(
    catalog: &Catalog,
    store: &CatalogStore,
    rows: &mut Rows,
) -> Result<(), ValueError> {
    let (members, answers) = tokio::join!(members(store), ask(catalog, store));
    let placeable = store.cluster().placeable(catalog);
    for (id, answer) in &answers {
        let member = members.shards().find(|member| member.id == id.0);
        let tables = tables_on(catalog, *id);
        let epoch = tables.iter().map(|table| table.descriptor.epoch()).max();
        let is_draining = member.is_some_and(|member| member.is_draining);
        let state = match answer {
            None => "down",
            Some(_) if is_draining => "draining",
            // It lacks copies of reference tables: nothing is placed on it before it has them.
            Some(_) if !placeable.contains(id) => "joining",
            Some(_) => "up",
        };
        let sum = |of: fn(&Held) -> u64| {
            answer.as_ref().map_or(Datum::Null, |held| count(held.iter().map(of).sum()))
        };
        rows.push([
            ("shard_id", Datum::Int4(id.0 as i32)),
            ("address", address(member)),
            ("role", text("leader")),
            ("state", text(state)),
            ("tables", count(tables.len() as u64)),
            ("rows", sum(|held| held.rows)),
            ("bytes", sum(|held| held.bytes)),
            ("map_epoch", epoch.map_or(Datum::Null, count)),
            ("last_seen", seen(member)),
        ]);
    }
    Ok(())
}

/// cortex.placements: a row for each table and each shard that it is on.
pub async fn placements(
    catalog: &Catalog,
    store: &CatalogStore,
    rows: &mut Rows,
) -> Result<(), ValueError> {
    let answers = ask(catalog, store).await;
    let mut positions: BTreeMap<ShardId, usize> = BTreeMap::new();
    for table in catalog.tables.values() {
        let descriptor = &table.descriptor;
        for id in descriptor.shards() {
            let owned = |owners: &[ShardId]| {
                let n = owners.iter().filter(|owner| **owner == id).count();
                Datum::Int4(i32::try_from(n).unwrap_or(i32::MAX))
            };
            let (placement, slots, ranges) = match &descriptor.placement {
                Placement::Home(_) => ("home", Datum::Null, Datum::Null),
                Placement::Hash { map, .. } => ("hash", owned(&map.owner), Datum::Null),
                Placement::Range { map, .. } => ("range", Datum::Null, owned(&map.owner)),
                Placement::Reference(_) => ("reference", Datum::Null, Datum::Null),
            };
            // Answers are in the order in which this meets the tables of a shard.
            let position = positions.entry(id).or_default();
            let held = answers.get(&id).and_then(|answer| answer.as_ref()?.get(*position));
            *position += 1;
            rows.push([
                ("schema_name", text(&descriptor.schema)),
                ("table_name", text(&descriptor.name)),
                ("table_oid", oid(descriptor.oid)),
                ("shard_id", Datum::Int4(id.0 as i32)),
                ("placement", text(placement)),
                ("slots", slots),
                ("ranges", ranges),
                ("is_primary", Datum::Bool(descriptor.primary_copy().is_none_or(|it| it == id))),
                ("rows", held.map_or(Datum::Null, |held| count(held.rows))),
                ("bytes", held.map_or(Datum::Null, |held| count(held.bytes))),
                ("map_epoch", count(descriptor.epoch())),
            ]);
        }
    }
    Ok(())
}

/// cortex.gateways
pub async fn gateways(store: &CatalogStore, rows: &mut Rows) -> Result<(), ValueError> {
    let members = members(store).await;
    let this = store.cluster().number();
    for member in members.gateways() {
        let is_this = member.id == this;
        // This one serves, whatever the meta process knows.
        let state = if is_this { MemberState::Up } else { member.state };
        let version = if is_this { store.version() } else { member.catalog_version };
        rows.push([
            ("gateway_id", Datum::Int4(member.id as i32)),
            ("address", address(Some(member))),
            ("role", text("gateway")),
            ("state", text(state.to_string())),
            ("is_this", Datum::Bool(is_this)),
            ("catalog_version", count(version)),
            ("last_seen", seen(Some(member))),
        ]);
    }
    Ok(())
}
