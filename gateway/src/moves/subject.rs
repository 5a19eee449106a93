//! What a move means for a version of the catalog: its tables, their ranges, who owns them, and the maps before and after.
//!
//! Pure: a catalog and a record in, descriptors or the next catalog out.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use bytes::Bytes;
use cortex_planner::catalog::{
    Catalog, Sequence,
    placement::{
        ranges_between, set_placement, set_primary_copy, set_range, set_schema_home,
        set_sequence_home, set_slots, tables_at_home, tables_of_group,
    },
};
use cortex_shard_api::{
    Oid, ShardId, StorageId, TableDescriptor,
    descriptor::{Placement, RangeMap, SLOTS, SlotMap},
    ids::Slot,
    key::{prefix_end, slot_prefix, storage_prefix},
    moves::TableRanges,
};

use super::{
    machine::{Layout, Owner, Side},
    record::{Record, Subject},
};

/// Behind every key: what `prefix_end` gives for a storage id that nothing has.
const LAST_KEY: &[u8] = &[0xff; 8];

impl Subject {
    /// Its tables, by OID.
    pub fn tables(&self, catalog: &Catalog) -> Vec<Arc<TableDescriptor>> {
        let tables = match self {
            Subject::Slots { group, .. } => tables_of_group(catalog, *group),
            Subject::Range { table, .. } => {
                let table = catalog.tables.get(table);
                let is_range = |placement: &Placement| matches!(placement, Placement::Range { .. });
                table.filter(|it| is_range(&it.descriptor.placement)).cloned().into_iter().collect()
            }
            Subject::Schemas { schemas } => tables_at_home(catalog, schemas),
        };
        tables.into_iter().map(|table| table.descriptor.clone()).collect()
    }

    /// Sequences that go along.
    pub fn sequences(&self, catalog: &Catalog) -> Vec<Arc<Sequence>> {
        match self {
            Subject::Slots { .. } | Subject::Range { .. } => Vec::new(),
            Subject::Schemas { schemas } => {
                let moves = |it: &&Arc<Sequence>| schemas.contains(&it.schema);
                catalog.sequences.values().filter(moves).cloned().collect()
            }
        }
    }

    /// Row keys of a table that move, ascending.
    pub fn ranges(&self, table: &TableDescriptor) -> Vec<(Bytes, Bytes)> {
        let first = Bytes::copy_from_slice(&storage_prefix(table.storage));
        let last = prefix_end(&first).unwrap_or_else(|| Bytes::from_static(LAST_KEY));
        match self {
            Subject::Schemas { .. } => vec![(first, last)],
            Subject::Range { start, end, .. } => {
                let bound = |at: &Vec<u8>| Bytes::from([first.as_ref(), at.as_slice()].concat());
                let start = start.as_ref().map_or_else(|| first.clone(), bound);
                vec![(start, end.as_ref().map_or(last, bound))]
            }
            Subject::Slots { runs, .. } => runs
                .iter()
                .map(|(from, to)| {
                    let slot =
                        |slot| Bytes::copy_from_slice(&slot_prefix(table.storage, Slot(slot)));
                    let end = if to + 1 < SLOTS { slot(to + 1) } else { last.clone() };
                    (slot(*from), end)
                })
                .collect(),
        }
    }

    /// Who owns any of it.
    pub fn owners(&self, catalog: &Catalog) -> BTreeSet<ShardId> {
        match self {
            Subject::Slots { group, runs } => {
                let Some(group) = catalog.groups.get(group) else { return BTreeSet::new() };
                let slots = runs.iter().flat_map(|(first, last)| *first..=*last);
                slots.filter_map(|slot| group.map.owner.get(usize::from(slot)).copied()).collect()
            }
            Subject::Range { start, end, .. } => {
                let tables = self.tables(catalog);
                let maps = tables.iter().filter_map(|table| match &table.placement {
                    Placement::Range { map, .. } => Some(map),
                    _ => None,
                });
                maps.flat_map(|map| {
                    let ranges = ranges_between(map, start.as_deref(), end.as_deref());
                    ranges.filter_map(|range| map.owner.get(range).copied()).collect::<Vec<_>>()
                })
                .collect()
            }
            Subject::Schemas { schemas } => {
                let tables = self.tables(catalog);
                let homes = schemas.iter().filter_map(|schema| catalog.schemas.get(schema));
                let homes = homes.map(|schema| schema.home);
                homes.chain(tables.iter().flat_map(|table| table.written_shards())).collect()
            }
        }
    }

    /// Placements whose epochs the move raises.
    fn placements(&self, catalog: &Catalog) -> Vec<(Oid, u64)> {
        match self {
            Subject::Slots { group, .. } => {
                let map = catalog.groups.get(group).map(|it| &it.map);
                map.map(|map| (map.group, map.epoch)).into_iter().collect()
            }
            Subject::Range { .. } | Subject::Schemas { .. } => self
                .tables(catalog)
                .iter()
                .map(|table| (table.placement_id(), table.epoch()))
                .collect(),
        }
    }
}

/// What a record's move is in a version of the catalog.
pub fn layout(catalog: &Catalog, record: &Record) -> Layout {
    let tables = record.subject.tables(catalog);
    let owners = record.subject.owners(catalog);
    let mut all = owners.iter();
    let owner = match (all.next(), all.next()) {
        (None, _) => Owner::Gone,
        (Some(only), None) if *only == record.from => Owner::Source,
        (Some(only), None) if *only == record.to => Owner::Target,
        (Some(_), _) => Owner::Other,
    };
    Layout {
        tables: tables.iter().map(|table| (table.oid, table.version)).collect(),
        placements: record.subject.placements(catalog),
        storages: storages(&tables),
        fresh: Vec::new(),
        owner,
    }
}

/// Those of reference tables.
fn storages(tables: &[Arc<TableDescriptor>]) -> Vec<StorageId> {
    let references = tables.iter().filter(|table| table.primary_copy().is_some());
    let storages = references.flat_map(|table| {
        let indexes = table.indexes.iter().map(|index| index.storage);
        std::iter::once(table.storage).chain(indexes)
    });
    storages.collect()
}

/// Whether the record says for every reference table what its storages become.
pub fn has_storages(catalog: &Catalog, record: &Record) -> bool {
    let known = record.storages.iter().map(|(old, _)| *old);
    storages(&record.subject.tables(catalog)).into_iter().eq(known)
}

/// Shards with copies of moving reference tables, other than source and target.
pub fn other_copies(catalog: &Catalog, record: &Record) -> BTreeSet<ShardId> {
    let tables = record.subject.tables(catalog);
    let references = tables.iter().filter(|table| table.primary_copy().is_some());
    let copies = references.flat_map(|table| table.shards());
    copies.filter(|copy| *copy != record.from && *copy != record.to).collect()
}

/// Keys of the source's rows as they are on the target.
#[derive(Debug, Default)]
pub struct TargetKeys(HashMap<[u8; 4], [u8; 4]>);

impl TargetKeys {
    pub fn new(record: &Record) -> TargetKeys {
        let prefixes =
            |(old, new): &(StorageId, StorageId)| (old.0.to_be_bytes(), new.0.to_be_bytes());
        TargetKeys(record.storages.iter().map(prefixes).collect())
    }

    /// Keys of other tables stay as they are.
    pub fn of(&self, key: Bytes) -> Bytes {
        let prefix = key.first_chunk::<4>().and_then(|prefix| self.0.get(prefix));
        match prefix {
            Some(prefix) => Bytes::from([&prefix[..], key.get(4..).unwrap_or_default()].concat()),
            None => key,
        }
    }

    /// A page `[start, end)` of one table. Its end may be the beginning of the next storage.
    pub fn of_page(&self, start: Bytes, end: Bytes) -> (Bytes, Bytes) {
        let target = self.of(start.clone());
        let is_moved = target != start;
        let is_inside = end.first_chunk::<4>() == start.first_chunk::<4>();
        let end = match target.first_chunk::<4>() {
            Some(storage) if is_moved && !is_inside => {
                prefix_end(storage).unwrap_or_else(|| Bytes::from_static(LAST_KEY))
            }
            _ => self.of(end),
        };
        (target, end)
    }
}

/// Parts of tables for requests to one side, with the epochs of the record's fences where it has some.
pub fn parts(
    catalog: &Catalog,
    record: &Record,
    side: Side,
    with_fences: bool,
) -> Vec<TableRanges> {
    let tables = record.subject.tables(catalog).into_iter();
    tables
        .map(|table| {
            let id = table.placement_id();
            let fence = record.fenced.iter().find(|(placement, _)| *placement == id);
            let table = on_side(table, record, side);
            let ranges = record.subject.ranges(&table);
            let table = match fence {
                Some((_, epoch)) if with_fences => Arc::new(with_epoch(&table, *epoch)),
                _ => table,
            };
            TableRanges { table, ranges }
        })
        .collect()
}

/// A reference table as the shard of one side has or gets it as its primary copy.
fn on_side(table: Arc<TableDescriptor>, record: &Record, side: Side) -> Arc<TableDescriptor> {
    let Placement::Reference(copies) = &table.placement else { return table };
    let shard = match side {
        Side::Source => record.from,
        Side::Target => record.to,
    };
    if copies.first() == Some(&shard) {
        return table;
    }
    let storage_of = |storage: StorageId| {
        let known = |(old, new): &(StorageId, StorageId)| match side {
            Side::Source => (*new == storage).then_some(*old),
            Side::Target => (*old == storage).then_some(*new),
        };
        record.storages.iter().find_map(known).unwrap_or(storage)
    };
    let others = copies.iter().copied().filter(|copy| *copy != shard);
    let mut table = TableDescriptor::clone(&table);
    table.placement = Placement::Reference([shard].into_iter().chain(others).collect());
    table.storage = storage_of(table.storage);
    for index in &mut table.indexes {
        index.storage = storage_of(index.storage);
    }
    Arc::new(table)
}

fn with_epoch(table: &TableDescriptor, epoch: u64) -> TableDescriptor {
    let mut table = table.clone();
    match &mut table.placement {
        Placement::Home(_) | Placement::Reference(_) => table.placement_epoch = epoch,
        Placement::Hash { map, .. } => *map = Arc::new(SlotMap { epoch, ..SlotMap::clone(map) }),
        Placement::Range { map, .. } => *map = Arc::new(RangeMap { epoch, ..RangeMap::clone(map) }),
    }
    table
}

/// The catalog with the same owners and epochs beyond the record's fences.
pub fn with_old_owners(catalog: &Catalog, record: &Record) -> Catalog {
    let mut next = catalog.clone();
    for (placement, epoch) in record.subject.placements(catalog) {
        let fence = record.fenced.iter().find(|(id, _)| *id == placement);
        let epoch = fence.map_or(epoch, |(_, fence)| *fence).max(epoch) + 1;
        match &record.subject {
            Subject::Slots { group, .. } => set_slots(&mut next, *group, None, epoch),
            Subject::Range { table, .. } => set_range(&mut next, *table, None, epoch),
            Subject::Schemas { .. } => set_placement(&mut next, placement, None, epoch),
        }
    }
    next
}

/// The catalog with the new owners and the epochs of the record's fences.
pub fn with_new_owners(catalog: &Catalog, record: &Record) -> Catalog {
    let mut next = catalog.clone();
    for (placement, epoch) in &record.fenced {
        match &record.subject {
            Subject::Slots { group, runs } => {
                set_slots(&mut next, *group, Some((runs, record.to)), *epoch);
            }
            Subject::Range { table, start, end } => {
                let owned = ((start.as_deref(), end.as_deref()), record.to);
                set_range(&mut next, *table, Some(owned), *epoch);
            }
            Subject::Schemas { .. } => {
                let table = catalog.tables.get(placement).map(|table| &table.descriptor);
                if table.is_some_and(|table| table.primary_copy().is_some()) {
                    let storage_of = |storage| {
                        let known = record.storages.iter().find(|(old, _)| *old == storage);
                        known.map_or(storage, |(_, new)| *new)
                    };
                    set_primary_copy(&mut next, *placement, record.to, storage_of, *epoch);
                } else {
                    let home = Placement::Home(record.to);
                    set_placement(&mut next, *placement, Some(home), *epoch);
                }
            }
        }
    }
    if let Subject::Schemas { schemas } = &record.subject {
        schemas.iter().for_each(|schema| set_schema_home(&mut next, *schema, record.to));
        for sequence in record.subject.sequences(catalog) {
            set_sequence_home(&mut next, sequence.oid, record.to);
        }
    }
    next
}
