//! Reads on one snapshot: the rows of a `ScanSpec`, as stored rows or as record batches.
//!
//! Lives here: how each `Access` finds its rows, and the ownership filter (before any limit). Not here: what a snapshot is
//! (`txn::snapshot`) and what is computed from the rows (`exec`).

use std::{collections::HashMap, sync::Arc};

use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use cortex_shard_api::{
    LogIndex, ShardError, ShardId, StorageId, TableDescriptor,
    client::{Access, BatchStream, ScanSource, ScanSpec, StoredRow},
    descriptor::{IndexState, Placement},
    key::{self, KeyOrder},
    row,
    value::arrow::RowBatchBuilder,
};
use parking_lot::RwLock;

use crate::{
    fences::Fences,
    storage::{KeyRange, after},
    txn::{sequencer::storage_error, snapshot::ReadView},
};

/// Rows per batch when the plan does not say.
const BATCH_ROWS_DEFAULT: usize = 8192;

/// Rows of a scan in the order it promises.
pub(crate) type Rows = Box<dyn Iterator<Item = Result<StoredRow, ShardError>> + Send>;

/// Storages dropped since the shard was opened, with the entry that dropped them. Their keys disappear piece by piece, so
/// only a view from before that entry shows them whole.
#[derive(Clone, Default)]
pub(crate) struct DroppedStorages(Arc<RwLock<HashMap<StorageId, LogIndex>>>);

impl DroppedStorages {
    pub(crate) fn insert(&self, storage: StorageId, index: LogIndex) {
        self.0.write().insert(storage, index);
    }

    pub(crate) fn contains(&self, storage: StorageId) -> bool {
        self.0.read().contains_key(&storage)
    }

    /// Refuses a read that was planned before a schema change and came after it.
    pub(crate) fn check(
        &self,
        view: &ReadView,
        table: &TableDescriptor,
        storage: StorageId,
        shard: ShardId,
    ) -> Result<(), ShardError> {
        match self.0.read().get(&storage) {
            Some(index) if view.applied() >= *index => {
                Err(ShardError::StaleEpoch { shard, current: table.epoch() })
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// Whether rows under this key are the shard's. Home and reference tables are whole wherever they are.
pub(crate) fn is_owned(table: &TableDescriptor, key: &[u8], shard: ShardId) -> bool {
    match table.placement {
        Placement::Home(_) | Placement::Reference(_) => true,
        Placement::Hash { .. } | Placement::Range { .. } => key::shard_of_key(table, key) == shard,
    }
}

/// Refuses what was planned with a version that the view does not serve.
fn check(
    view: &ReadView,
    spec: &ScanSpec,
    shard: ShardId,
    fences: &Fences,
    dropped: &DroppedStorages,
) -> Result<(), ShardError> {
    fences.check_view(shard, view.applied(), &spec.table)?;
    dropped.check(view, &spec.table, spec.table.storage, shard)?;
    if let Access::IndexRanges { index, .. } = spec.access
        && let Some(index) = spec.table.indexes.get(index)
    {
        dropped.check(view, &spec.table, index.storage, shard)?;
    }
    Ok(())
}

/// The rows that `spec` names, at most `spec.limit`.
pub(crate) fn rows(
    view: &ReadView,
    spec: &ScanSpec,
    reverse: bool,
    shard: ShardId,
    fences: &Fences,
    dropped: &DroppedStorages,
) -> Result<Rows, ShardError> {
    check(view, spec, shard, fences, dropped)?;
    let found: Rows = match &spec.access {
        Access::Empty => Box::new(std::iter::empty()),
        Access::Full => {
            let range = KeyRange::prefix(&key::storage_prefix(spec.table.storage));
            by_key(view, vec![range], reverse, shard)
        }
        Access::KeySkips { columns, ranges } if !reverse => {
            let all = KeyRange::prefix(&key::storage_prefix(spec.table.storage));
            Box::new(Skips {
                view: view.clone(),
                table: spec.table.clone(),
                shard,
                columns: *columns,
                ranges: ranges.clone(),
                next: Some(all.start),
                end: all.end,
                found: Box::new(std::iter::empty()),
            })
        }
        Access::KeySkips { .. } => {
            let range = KeyRange::prefix(&key::storage_prefix(spec.table.storage));
            by_key(view, vec![range], reverse, shard)
        }
        Access::KeyRanges(ranges) => by_key(view, key_ranges(ranges), reverse, shard),
        Access::IndexRanges { index, ranges } => {
            by_index(view, &spec.table, *index, key_ranges(ranges), reverse, shard)?
        }
    };
    let table = spec.table.clone();
    let owned =
        found.filter(move |row| row.as_ref().map_or(true, |row| is_owned(&table, &row.key, shard)));
    Ok(match spec.limit {
        Some(limit) => Box::new(owned.take(limit)),
        None => Box::new(owned),
    })
}

fn key_ranges(ranges: &[(Bytes, Bytes)]) -> Vec<KeyRange> {
    let range =
        |(start, end): &(Bytes, Bytes)| KeyRange { start: start.clone(), end: Some(end.clone()) };
    ranges.iter().map(range).collect()
}

fn in_order(mut ranges: Vec<KeyRange>, reverse: bool) -> std::vec::IntoIter<KeyRange> {
    if reverse {
        ranges.reverse();
    }
    ranges.into_iter()
}

fn by_key(view: &ReadView, ranges: Vec<KeyRange>, reverse: bool, shard: ShardId) -> Rows {
    let view = view.clone();
    let rows = in_order(ranges, reverse).flat_map(move |range| view.rows(range, reverse));
    Box::new(rows.map(move |row| row.map_err(|error| storage_error(shard, error))))
}

/// Rows of one value of the skipped columns that are read before the rest of them is skipped. Fewer are not worth a search:
/// so a table in which each value is on its own is read about as fast as without skipping.
const GROUP_ROWS: usize = 16;

/// See `Access::KeySkips`.
struct Skips {
    view: ReadView,
    table: Arc<TableDescriptor>,
    shard: ShardId,
    columns: usize,
    ranges: Vec<(Bytes, Bytes)>,
    /// Where the search goes on; `None` at its end.
    next: Option<Bytes>,
    end: Option<Bytes>,
    /// Rows found with the last step.
    found: Rows,
}

impl Skips {
    /// Finds what the next value of the skipped columns has; `false` at the end.
    fn step(&mut self) -> Result<bool, ShardError> {
        let Some(start) = self.next.take() else { return Ok(false) };
        let rest = KeyRange { start, end: self.end.clone() };
        let group: Result<Vec<StoredRow>, _> =
            self.view.rows(rest, false).take(GROUP_ROWS).collect();
        let group = group.map_err(|error| storage_error(self.shard, error))?;
        let (Some(first), Some(last)) = (group.first(), group.last()) else { return Ok(false) };
        let prefix = self.prefix_of(first)?;
        if group.len() == GROUP_ROWS && last.key.starts_with(&prefix) {
            self.next = key::prefix_end(&prefix);
            let behind = |rest: &Bytes| Bytes::from([&prefix[..], &rest[..]].concat());
            let ranges = self
                .ranges
                .iter()
                .map(|(start, end)| KeyRange { start: behind(start), end: Some(behind(end)) });
            self.found = by_key(&self.view, ranges.collect(), false, self.shard);
            return Ok(true);
        }
        if group.len() == GROUP_ROWS {
            self.next = Some(after(&last.key));
        }
        self.found = Box::new(group.into_iter().map(Ok));
        Ok(true)
    }

    /// The beginning of the row's key, up to the last of the skipped columns.
    fn prefix_of(&self, stored: &StoredRow) -> Result<Vec<u8>, ShardError> {
        let columns: Vec<usize> =
            self.table.primary_key.iter().copied().take(self.columns).collect();
        let values = row::decode_columns(&self.table, &stored.value, &columns)?;
        let header = key::row_key_header(&self.table);
        let mut prefix = stored.key.get(..header).unwrap_or_default().to_vec();
        for (position, value) in columns.iter().zip(&values) {
            if let Some(column) = self.table.columns.get(*position) {
                key::encode_datum(&mut prefix, value, column.ty.ty, KeyOrder::default());
            }
        }
        Ok(prefix)
    }
}

impl Iterator for Skips {
    type Item = Result<StoredRow, ShardError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(row) = self.found.next() {
                return Some(row);
            }
            match self.step() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

fn by_index(
    view: &ReadView,
    table: &Arc<TableDescriptor>,
    index: usize,
    ranges: Vec<KeyRange>,
    reverse: bool,
    shard: ShardId,
) -> Result<Rows, ShardError> {
    let usable = table.indexes.get(index).filter(|index| index.state == IndexState::Public);
    if usable.is_none() {
        let what = format!("table {} has no usable index {index}", table.qualified_name());
        return Err(ShardError::Internal { shard, what });
    }
    let entries_view = view.clone();
    let entries =
        in_order(ranges, reverse).flat_map(move |range| entries_view.index_entries(range, reverse));
    let (view, table) = (view.clone(), table.clone());
    Ok(Box::new(entries.map(move |entry| {
        let entry = entry.map_err(|error| storage_error(shard, error))?;
        let Some(index) = table.indexes.get(index) else {
            return Err(ShardError::Internal { shard, what: "index out of range".to_owned() });
        };
        let row_key = key::row_key_of_entry(&table, index, &entry.key, &entry.value)?;
        let row = view.row(&row_key).map_err(|error| storage_error(shard, error))?;
        row.ok_or_else(|| ShardError::Corrupt {
            shard,
            what: format!("index {} has an entry without a row", index.name),
        })
    })))
}

/// The rows of one snapshot, for fragments.
pub(crate) struct ShardScan {
    pub view: ReadView,
    pub shard: ShardId,
    pub fences: Fences,
    pub dropped: DroppedStorages,
}

impl ShardScan {
    /// Whether the view serves what a scan was planned with; if so, it does as long as it lives.
    pub(crate) fn check(&self, spec: &ScanSpec) -> Result<(), ShardError> {
        check(&self.view, spec, self.shard, &self.fences, &self.dropped)
    }
}

impl ScanSource for ShardScan {
    fn scan(&self, spec: &ScanSpec) -> Result<BatchStream, ShardError> {
        let batch_rows = if spec.batch_rows == 0 { BATCH_ROWS_DEFAULT } else { spec.batch_rows };
        let batch_rows = spec.limit.map_or(batch_rows, |limit| batch_rows.min(limit.max(1)));
        let builder =
            RowBatchBuilder::new(&spec.table, &spec.columns, spec.with_identity, batch_rows);
        let rows = rows(&self.view, spec, false, self.shard, &self.fences, &self.dropped)?;
        let batches = Batches { rows, builder, batch_rows, is_done: false };
        Ok(Box::pin(futures::stream::iter(batches)))
    }
}

struct Batches {
    rows: Rows,
    builder: RowBatchBuilder,
    batch_rows: usize,
    is_done: bool,
}

impl Batches {
    fn read_next(&mut self) -> Result<Option<RecordBatch>, ShardError> {
        while self.builder.len() < self.batch_rows {
            let Some(row) = self.rows.next() else {
                self.is_done = true;
                break;
            };
            let row = row?;
            self.builder.push(&row.key, row.version, &row.value)?;
        }
        if self.builder.is_empty() {
            return Ok(None);
        }
        Ok(Some(self.builder.finish()?))
    }
}

impl Iterator for Batches {
    type Item = Result<RecordBatch, ShardError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done {
            return None;
        }
        let next = self.read_next();
        self.is_done |= next.is_err();
        next.transpose()
    }
}
