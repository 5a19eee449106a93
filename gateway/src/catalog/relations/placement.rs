//! cortex: which shard holds what.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use cortex_planner::catalog::{Catalog, Table, edit::Grouped};
use cortex_shard_api::{Datum, SqlType, ValueError, descriptor::Placement};

use super::{
    Fill, Source,
    rows::{Rows, array, oid, text, text_array},
    views::{role_name, schema_name},
};
use crate::catalog::CatalogStore;

/// A view does not wait longer for a shard than this.
const SHARD_WAIT_MAX: Duration = Duration::from_secs(1);

pub const RELATIONS: &[(&str, Fill)] = &[("tables", tables), ("slots", slots)];

/// Of cortex, too, but not of a version of the catalog.
pub const LIVE_RELATIONS: &[(&str, Fill)] = &[("table_changes", table_changes)];

fn tables(source: &Source<'_>, rows: &mut Rows) -> Result<(), ValueError> {
    for table in source.catalog.tables.values() {
        let descriptor = &table.descriptor;
        let (placement, key): (&str, &[usize]) = match &descriptor.placement {
            Placement::Home(_) => ("home", &[]),
            Placement::Hash { key, .. } => ("hash", key),
            Placement::Range { key, .. } => ("range", key),
            Placement::Reference(_) => ("reference", &[]),
        };
        let names = key.iter().map(|column| descriptor.columns[*column].name.clone());
        let shards = descriptor.shards().into_iter().map(|shard| Datum::Int4(shard.0 as i32));
        rows.push([
            ("schema_name", text(&descriptor.schema)),
            ("table_name", text(&descriptor.name)),
            ("table_oid", oid(descriptor.oid)),
            ("placement", text(placement)),
            ("shard_key", if key.is_empty() { Datum::Null } else { text_array(names) }),
            ("colocation_group", descriptor.group().map_or(Datum::Null, oid)),
            ("epoch", Datum::Int8(descriptor.epoch() as i64)),
            ("shards", array(SqlType::Int4, shards.collect())),
            ("chosen_by", text(chosen_by(table))),
        ]);
    }
    Ok(())
}

fn chosen_by(table: &Table) -> &'static str {
    match (table.option("shard_by"), &table.descriptor.placement) {
        (Some(_), _) => "user",
        (None, Placement::Home(_)) => "default",
        (None, _) => "cortex.default_shard_by",
    }
}

/// Runs of slots with one owner.
fn slots(source: &Source<'_>, rows: &mut Rows) -> Result<(), ValueError> {
    for (group_oid, group) in &source.catalog.groups {
        let mut first = 0;
        let owners = &group.map.owner;
        for slot in 1..=owners.len() {
            if owners.get(slot) != owners.get(first) {
                rows.push([
                    ("colocation_group", oid(*group_oid)),
                    ("first_slot", Datum::Int4(first as i32)),
                    ("last_slot", Datum::Int4(slot as i32 - 1)),
                    (
                        "shard_id",
                        owners.get(first).map_or(Datum::Null, |s| Datum::Int4(s.0 as i32)),
                    ),
                ]);
                first = slot;
            }
        }
    }
    Ok(())
}

/// Tables whose rows this gateway is moving.
fn table_changes(source: &Source<'_>, rows: &mut Rows) -> Result<(), ValueError> {
    for change in source.session.store().locks().changes().list() {
        rows.push([
            ("pid", Datum::Int4(change.process_id)),
            ("schema_name", text(&change.schema)),
            ("table_name", text(&change.table)),
            ("table_oid", oid(change.oid)),
            ("from_kind", text(&change.from)),
            ("to_kind", text(&change.to)),
            ("phase", text(change.phase.name())),
            ("rows_done", Datum::Int8(change.rows_done as i64)),
            ("rows_total", change.rows_total.map_or(Datum::Null, |n| Datum::Int8(n as i64))),
            ("started_at", Datum::Timestamptz(change.started_micros)),
        ]);
    }
    Ok(())
}

/// pg_sequences, with what each has given last.
pub async fn sequences(
    catalog: &Catalog,
    store: &Arc<CatalogStore>,
    rows: &mut Rows,
) -> Result<(), ValueError> {
    let mut down = BTreeSet::new();
    for sequence in catalog.sequences.values() {
        // Not known while its shard is down, which must not hide the sequence, nor hold up who looks: asked once a shard.
        let state = match store.shard(sequence.home) {
            Ok(client) if !down.contains(&sequence.home) => {
                let asked = client.sequence_get(&sequence.spec);
                match tokio::time::timeout(SHARD_WAIT_MAX, asked).await {
                    Ok(Ok(state)) => state,
                    Ok(Err(_)) | Err(_) => {
                        down.insert(sequence.home);
                        None
                    }
                }
            }
            Ok(_) | Err(_) => None,
        };
        let last = state.filter(|state| state.is_called).map(|state| state.last_value);
        rows.push([
            ("schemaname", schema_name(catalog, sequence.schema)),
            ("sequencename", text(&sequence.name)),
            ("sequenceowner", role_name(catalog, sequence.owner)),
            ("data_type", Datum::Oid(sequence.ty.oid())),
            ("start_value", Datum::Int8(sequence.spec.start)),
            ("min_value", Datum::Int8(sequence.spec.min)),
            ("max_value", Datum::Int8(sequence.spec.max)),
            ("increment_by", Datum::Int8(sequence.spec.increment)),
            ("cycle", Datum::Bool(sequence.spec.cycle)),
            ("cache_size", Datum::Int8(sequence.cache)),
            ("last_value", last.map_or(Datum::Null, Datum::Int8)),
        ]);
    }
    Ok(())
}
