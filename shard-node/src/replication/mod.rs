//! Reference tables across shards: copies that follow the log of the shard with the primary copy.
//!
//! Lives here: what the log and the state say about changes of reference tables (this file), reading them on the shard that
//! made them (`changes`), and applying them on another (`follow`). Not here: who waits for a copy (the gateway).
//!
//! ```text
//!   primary's shard: commit ─► log entry, with a link that names the storages of reference tables that it changes
//!                                  │ read_changes: in log order, in parts, or pages of a snapshot
//!   copy's shard:    follow ─► one transaction: keys and values as stored + the position reached
//! ```
//!
//! - A link names the link before it. So a reader knows that it missed nothing, however much of the log is purged, and takes
//!   pages of a snapshot when it did.
//! - A copy's changes and its position are one entry of its own log: after a crash it goes on where it was.
//! - What comes from one transaction becomes visible at once; changes of several transactions may.

pub(crate) mod changes;

pub(crate) mod follow;

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, BufMut, Bytes};
use cortex_shard_api::{LogIndex, ShardId, StorageId, copies::CopyKeyspace};

use crate::storage::{KeyRange, Keyspace, Op, StorageError, StorageSnapshot};

/// `Keyspace::Meta`: the newest link. The first operation of every transaction that changed reference tables here.
const LINK_KEY: &[u8] = b"copied/link";

/// `Keyspace::Meta`: storages of reference tables whose primary copy is here, `[prefix][storage u32 BE]`.
const STORAGE_PREFIX: &[u8] = b"copied/storage/";

/// `Keyspace::Meta`: how far copies of another shard's tables are, `[prefix][shard u32 BE]` → index u64 BE.
const POSITION_PREFIX: &[u8] = b"position/";

/// How far all copies of a shard are, by the shard that has the primary copies; under its own id, the newest change of the
/// primary copies that it has itself.
pub(crate) type Positions = BTreeMap<ShardId, LogIndex>;

/// What a transaction says in the log about the reference tables that it changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    /// The transaction's first entry.
    pub index: LogIndex,
    /// The index of the link before it; 0 for the first.
    pub previous: LogIndex,
    /// Storages of its reference tables and of their indexes.
    pub storages: BTreeSet<StorageId>,
}

impl Link {
    fn encode(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(16 + 4 * self.storages.len());
        bytes.put_u64(self.index.0);
        bytes.put_u64(self.previous.0);
        self.storages.iter().for_each(|storage| bytes.put_u32(storage.0));
        Bytes::from(bytes)
    }

    fn decode(mut bytes: Bytes) -> Result<Link, StorageError> {
        let cut_off = |_| StorageError::Corrupt("a link of reference tables is cut off".to_owned());
        let index = LogIndex(bytes.try_get_u64().map_err(cut_off)?);
        let previous = LogIndex(bytes.try_get_u64().map_err(cut_off)?);
        let mut storages = BTreeSet::new();
        while bytes.has_remaining() {
            storages.insert(StorageId(bytes.try_get_u32().map_err(cut_off)?));
        }
        Ok(Link { index, previous, storages })
    }

    /// The link that an operation is; it can only be a transaction's first one.
    pub(crate) fn of_op(op: &Op) -> Result<Option<Link>, StorageError> {
        match &op.value {
            Some(value) if op.keyspace == Keyspace::Meta && op.key == LINK_KEY => {
                Link::decode(value.clone()).map(Some)
            }
            Some(_) | None => Ok(None),
        }
    }

    /// The newest one of a state.
    pub(crate) fn newest(snapshot: &dyn StorageSnapshot) -> Result<Option<Link>, StorageError> {
        snapshot.get(Keyspace::Meta, LINK_KEY)?.map(Link::decode).transpose()
    }
}

/// What the sequencer knows of the reference tables whose primary copy is here.
#[derive(Debug, Default)]
pub(crate) struct Links {
    newest: LogIndex,
    storages: BTreeSet<StorageId>,
}

impl Links {
    pub(crate) fn load(snapshot: &dyn StorageSnapshot) -> Result<Links, StorageError> {
        let newest = Link::newest(snapshot)?.map(|link| link.index).unwrap_or_default();
        Ok(Links { newest, storages: storages(snapshot)? })
    }

    /// What the transaction with its first entry at `index` logs in front of its changes, keys ascending.
    pub(crate) fn ops(&self, index: LogIndex, changed: &BTreeSet<StorageId>) -> Vec<Op> {
        let op = |key, value| Op { keyspace: Keyspace::Meta, key, value: Some(value) };
        let link = Link { index, previous: self.newest, storages: changed.clone() };
        let link = op(Bytes::from_static(LINK_KEY), link.encode());
        let new = changed.difference(&self.storages);
        let new = new.map(|storage| op(storage_key(*storage), Bytes::from_static(b"1")));
        std::iter::once(link).chain(new).collect()
    }

    /// The transaction is in the log.
    pub(crate) fn logged(&mut self, index: LogIndex, changed: &BTreeSet<StorageId>) {
        self.newest = index;
        self.storages.extend(changed);
    }
}

/// Where the state keeps that a storage is a reference table's.
pub(crate) fn storage_key(storage: StorageId) -> Bytes {
    with_number(STORAGE_PREFIX, storage.0)
}

/// Sets how far the copies of a shard's tables are.
pub(crate) fn position_op(source: ShardId, position: LogIndex) -> Op {
    let value = Bytes::copy_from_slice(&position.0.to_be_bytes());
    let key = with_number(POSITION_PREFIX, source.0);
    Op { keyspace: Keyspace::Meta, key, value: Some(value) }
}

fn with_number(prefix: &[u8], number: u32) -> Bytes {
    let mut key = prefix.to_vec();
    key.put_u32(number);
    Bytes::from(key)
}

/// Storages of reference tables whose primary copy is here.
fn storages(snapshot: &dyn StorageSnapshot) -> Result<BTreeSet<StorageId>, StorageError> {
    let entries = snapshot.range(Keyspace::Meta, KeyRange::prefix(STORAGE_PREFIX), false);
    let mut storages = BTreeSet::new();
    for entry in entries {
        let (key, _) = entry?;
        storages.extend(key.last_chunk::<4>().map(|bytes| StorageId(u32::from_be_bytes(*bytes))));
    }
    Ok(storages)
}

/// The positions in a state.
pub(crate) fn positions(
    shard: ShardId,
    snapshot: &dyn StorageSnapshot,
) -> Result<Positions, StorageError> {
    let mut positions = Positions::new();
    for entry in snapshot.range(Keyspace::Meta, KeyRange::prefix(POSITION_PREFIX), false) {
        let (key, value) = entry?;
        if let (Some(source), Some(position)) = (key.last_chunk::<4>(), value.first_chunk::<8>()) {
            let position = LogIndex(u64::from_be_bytes(*position));
            positions.insert(ShardId(u32::from_be_bytes(*source)), position);
        }
    }
    if let Some(link) = Link::newest(snapshot)? {
        positions.insert(shard, link.index);
    }
    Ok(positions)
}

/// The keyspace that a copy's key is in.
fn keyspace(of: CopyKeyspace) -> Keyspace {
    match of {
        CopyKeyspace::Rows => Keyspace::Rows,
        CopyKeyspace::Index => Keyspace::Index,
    }
}
