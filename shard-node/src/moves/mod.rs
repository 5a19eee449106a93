//! Moves, as one shard takes part in them: it gives rows away, takes them in, keeps writers out, or cleans up.
//!
//! Lives here: what the shard knows of moves, durable (`Known`, under `move/` in the state) and not (leases on the log, holds).
//! The source's reading is in `source`, the target's storing in `target`, keeping writers out in `hold`, deleting what is not
//! needed any more in `clean`, comparing both sides in `checksum`. Not here: the order of the steps (the gateway's moves) and who
//! owns what (shard maps and `fences`).
//!
//! ```text
//!   source: read_moving ─► pages, log ─────────► target: apply_moving ─► one entry: rows, index entries, position
//!           hold_ranges ─► the last of the log ─►
//!           drop_ranges ─► entries of deletions, in the background
//! ```

pub(crate) mod checksum;

pub(crate) mod clean;

pub(crate) mod hold;

pub(crate) mod source;

pub(crate) mod target;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{BufMut, Bytes};
use cortex_shard_api::{
    LogIndex, MoveId, ShardError, ShardId, TableDescriptor,
    key::{prefix_end, storage_prefix},
    moves::{MovePosition, TableRanges},
};
use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};

use crate::storage::{KeyRange, Keyspace, Op, StorageError, StorageSnapshot};

/// `Keyspace::Meta`: how far the target of a move is, `[prefix][move u32 BE]`.
const POSITION_PREFIX: &[u8] = b"move/at/";

/// `Keyspace::Meta`: ranges that are being deleted, `[prefix][move u32 BE]`.
const DROP_PREFIX: &[u8] = b"move/drop/";

/// `Keyspace::Meta`: moves that have ended here, `[prefix][move u32 BE]`.
const ENDED_PREFIX: &[u8] = b"move/ended/";

/// `Keyspace::Meta`: the first operation of entries that delete what has moved away. Such deletions are no changes of rows.
const CLEANING_KEY: &[u8] = b"move/cleaning";

/// Version of the values under these keys: postcard behind it.
const VALUE_VERSION: u8 = 1;

/// How long the log is kept for a reader that does not come back. A target that is restarted does within it; one that is gone
/// must not fill the source's disk.
const LEASE: Duration = Duration::from_secs(120);

/// What the state says about moves.
#[derive(Debug, Default)]
struct Known {
    positions: HashMap<MoveId, MovePosition>,
    dropping: BTreeMap<MoveId, Arc<Vec<TableRanges>>>,
    ended: HashSet<MoveId>,
}

/// What a shard knows about moves.
#[derive(Default)]
pub(crate) struct Moves {
    known: Mutex<Known>,
    /// How far the readers of the log are, and when they last came.
    leases: Mutex<HashMap<MoveId, (LogIndex, Instant)>>,
    pub holds: hold::Holds,
}

/// A step of a move on its target: part of a transaction, applied only if the target is at `from`.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub id: MoveId,
    pub from: Option<MovePosition>,
    pub to: MovePosition,
}

/// What an entry changes of what is known about moves.
#[derive(Clone, Debug)]
pub(crate) enum MoveChange {
    Reached(MoveId, MovePosition),
    Ended(MoveId, Arc<Vec<TableRanges>>),
    Cleaned(MoveId),
}

/// Where the target is, in relation to a step.
enum Place {
    Before,
    Behind,
    Elsewhere,
}

impl Step {
    fn place(&self, position: Option<&MovePosition>) -> Place {
        if position == Some(&self.to) {
            Place::Behind
        } else if position == self.from.as_ref() {
            Place::Before
        } else {
            Place::Elsewhere
        }
    }

    /// Sets the position.
    pub(crate) fn op(&self) -> Result<Op, StorageError> {
        Ok(put(POSITION_PREFIX, self.id, encode(&self.to)?))
    }
}

impl Moves {
    pub(crate) fn load(snapshot: &dyn StorageSnapshot) -> Result<Moves, StorageError> {
        let mut known = Known::default();
        for (id, value) in of_prefix(snapshot, POSITION_PREFIX)? {
            known.positions.insert(id, decode(&value)?);
        }
        for (id, value) in of_prefix(snapshot, DROP_PREFIX)? {
            known.dropping.insert(id, Arc::new(decode(&value)?));
        }
        for (id, _) in of_prefix(snapshot, ENDED_PREFIX)? {
            known.ended.insert(id);
        }
        Ok(Moves { known: Mutex::new(known), ..Moves::default() })
    }

    /// Takes note of an entry that is published.
    pub(crate) fn change(&self, change: MoveChange) {
        let mut known = self.known.lock();
        match change {
            MoveChange::Reached(id, position) => {
                known.positions.insert(id, position);
            }
            MoveChange::Ended(id, tables) => {
                known.positions.remove(&id);
                known.ended.insert(id);
                known.dropping.insert(id, tables);
                self.leases.lock().remove(&id);
            }
            MoveChange::Cleaned(id) => {
                known.dropping.remove(&id);
            }
        }
    }

    pub(crate) fn position(&self, id: MoveId) -> Option<MovePosition> {
        self.known.lock().positions.get(&id).cloned()
    }

    pub(crate) fn is_ended(&self, id: MoveId) -> bool {
        self.known.lock().ended.contains(&id)
    }

    pub(crate) fn is_clean(&self, id: MoveId) -> bool {
        !self.known.lock().dropping.contains_key(&id)
    }

    /// Moves whose ranges are being deleted.
    pub(crate) fn dropping(&self) -> Vec<MoveId> {
        self.known.lock().dropping.keys().copied().collect()
    }

    pub(crate) fn ranges_to_drop(&self, id: MoveId) -> Option<Arc<Vec<TableRanges>>> {
        self.known.lock().dropping.get(&id).cloned()
    }

    /// Whether something in these ranges is still being deleted.
    fn is_being_cleaned(&self, ranges: &Ranges) -> bool {
        let known = self.known.lock();
        let mut dropping = known.dropping.values().flat_map(|tables| tables.iter());
        dropping.any(|table| table.ranges.iter().any(|(start, end)| ranges.overlaps(start, end)))
    }

    /// Keeps the log behind `after` for a reader.
    fn lease(&self, id: MoveId, after: LogIndex) {
        self.leases.lock().insert(id, (after, Instant::now()));
    }

    /// Keeps the log for a reader that will read it from the end of a snapshot on, or from where it was before.
    fn lease_snapshot(&self, id: MoveId, applied: LogIndex) {
        let mut leases = self.leases.lock();
        let after = leases.get(&id).map_or(applied, |(after, _)| applied.min(*after));
        leases.insert(id, (after, Instant::now()));
    }

    /// How far the log may be purged.
    pub(crate) fn purge_limit(&self, index: LogIndex) -> LogIndex {
        let mut leases = self.leases.lock();
        leases.retain(|_, (_, last)| last.elapsed() < LEASE);
        leases.values().map(|(after, _)| *after).min().map_or(index, |least| least.min(index))
    }
}

/// Marks an entry as deleting what has moved away.
pub(crate) fn cleaning_op(id: MoveId) -> Op {
    let value = Some(Bytes::copy_from_slice(&id.0.to_be_bytes()));
    Op { keyspace: Keyspace::Meta, key: Bytes::from_static(CLEANING_KEY), value }
}

fn is_cleaning(op: &Op) -> bool {
    op.keyspace == Keyspace::Meta && op.key == CLEANING_KEY
}

/// Ends a move here: its position is forgotten and its ranges are to be deleted.
pub(crate) fn end_ops(id: MoveId, tables: &[TableRanges]) -> Result<[Op; 3], StorageError> {
    Ok([
        remove(POSITION_PREFIX, id),
        put(DROP_PREFIX, id, encode(&tables)?),
        put(ENDED_PREFIX, id, Bytes::from_static(b"1")),
    ])
}

/// The ranges of a move are deleted.
pub(crate) fn cleaned_op(id: MoveId) -> Op {
    remove(DROP_PREFIX, id)
}

fn with_id(prefix: &[u8], id: MoveId) -> Bytes {
    let mut key = prefix.to_vec();
    key.put_u32(id.0);
    Bytes::from(key)
}

fn put(prefix: &[u8], id: MoveId, value: Bytes) -> Op {
    Op { keyspace: Keyspace::Meta, key: with_id(prefix, id), value: Some(value) }
}

fn remove(prefix: &[u8], id: MoveId) -> Op {
    Op { keyspace: Keyspace::Meta, key: with_id(prefix, id), value: None }
}

fn of_prefix(
    snapshot: &dyn StorageSnapshot,
    prefix: &'static [u8],
) -> Result<Vec<(MoveId, Bytes)>, StorageError> {
    let entries = snapshot.range(Keyspace::Meta, KeyRange::prefix(prefix), false);
    let id_of = |entry: Result<(Bytes, Bytes), StorageError>| {
        let (key, value) = entry?;
        let id = key.strip_prefix(prefix).and_then(|id| id.first_chunk::<4>());
        let id = id.ok_or_else(|| StorageError::Corrupt("a move without an id".to_owned()))?;
        Ok((MoveId(u32::from_be_bytes(*id)), value))
    };
    entries.map(id_of).collect()
}

fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Bytes, StorageError> {
    let bytes = postcard::to_extend(value, vec![VALUE_VERSION]);
    bytes.map(Bytes::from).map_err(|error| StorageError::Io(format!("encoding a move: {error}")))
}

fn decode<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, StorageError> {
    let corrupt = |what: String| StorageError::Corrupt(format!("what is noted of a move: {what}"));
    match bytes.split_first() {
        Some((&VALUE_VERSION, rest)) => {
            postcard::from_bytes(rest).map_err(|error| corrupt(error.to_string()))
        }
        Some((version, _)) => Err(corrupt(format!("version {version}"))),
        None => Err(corrupt("it is empty".to_owned())),
    }
}

/// A part of one table.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub start: Bytes,
    pub end: Bytes,
    pub table: Arc<TableDescriptor>,
}

/// The ranges of a request, in key order.
#[derive(Clone, Debug)]
pub(crate) struct Ranges(Vec<Span>);

impl Ranges {
    /// Errors: ranges outside of their table, empty, or overlapping.
    pub(crate) fn new(shard: ShardId, tables: &[TableRanges]) -> Result<Ranges, ShardError> {
        let refuse = |what: &str| ShardError::Internal { shard, what: what.to_owned() };
        let mut spans = Vec::new();
        for TableRanges { table, ranges } in tables {
            let prefix = storage_prefix(table.storage);
            let behind = prefix_end(&prefix);
            for (start, end) in ranges {
                let is_inside =
                    start[..] >= prefix[..] && behind.as_ref().is_none_or(|it| end <= it);
                if !is_inside || start >= end {
                    return Err(refuse("a moving range is empty or not in its table"));
                }
                let (start, end) = (start.clone(), end.clone());
                spans.push(Span { start, end, table: table.clone() });
            }
        }
        spans.sort_by(|a, b| a.start.cmp(&b.start));
        if spans.windows(2).any(|pair| pair[0].end > pair[1].start) {
            return Err(refuse("moving ranges overlap"));
        }
        Ok(Ranges(spans))
    }

    /// The range that a key is in.
    pub(crate) fn find(&self, key: &[u8]) -> Option<&Span> {
        let behind = self.0.partition_point(|span| span.start[..] <= *key);
        let span = self.0.get(behind.checked_sub(1)?)?;
        (span.end[..] > *key).then_some(span)
    }

    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        self.find(key).is_some()
    }

    fn overlaps(&self, start: &[u8], end: &[u8]) -> bool {
        let first = self.0.partition_point(|span| span.end[..] <= *start);
        self.0.get(first).is_some_and(|span| span.start[..] < *end)
    }

    /// The first range that ends behind a key.
    fn from(&self, key: &[u8]) -> impl Iterator<Item = &Span> {
        self.0.iter().skip(self.0.partition_point(|span| span.end[..] <= *key))
    }

    pub(crate) fn spans(&self) -> &[Span] {
        &self.0
    }
}
