//! The state of a shard: what its log adds up to.
//!
//! Lives here: ordered keyspaces with snapshots, behind the small `Storage` trait; `disk` keeps them in fjall, `memory`
//! in a map, and `mirror` runs both and compares every answer. Not here: what keys and values mean (`cortex_shard_api::
//! key` and `row`), durability (the log alone is durable; a storage only promises what `flush` said is on disk) and
//! transactions (`txn`). Only the sequencer's thread writes; any thread reads snapshots.

pub(crate) mod disk;

pub(crate) mod memory;

#[cfg(test)]
pub(crate) mod mirror;

use std::sync::Arc;

use bytes::Bytes;

/// The fixed keyspaces. The numbers are part of the entry format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub(crate) enum Keyspace {
    /// Row key → `[commit index u64 BE][row]`.
    Rows = 1,
    /// Entries of secondary indexes.
    Index = 2,
    /// The catalog's entries (meta shard).
    Kv = 3,
    /// The engine's own: sequences, row id marks, storages being dropped, the applied index.
    Meta = 4,
}

impl Keyspace {
    pub(crate) const ALL: [Keyspace; 4] =
        [Keyspace::Rows, Keyspace::Index, Keyspace::Kv, Keyspace::Meta];

    pub(crate) fn from_byte(byte: u8) -> Option<Keyspace> {
        Keyspace::ALL.into_iter().find(|keyspace| *keyspace as u8 == byte)
    }

    pub(crate) fn position(self) -> usize {
        self as usize - 1
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Keyspace::Rows => "rows",
            Keyspace::Index => "idx",
            Keyspace::Kv => "kv",
            Keyspace::Meta => "meta",
        }
    }
}

/// A change of one key; `None` deletes.
#[derive(Clone, Debug)]
pub(crate) struct Op {
    pub keyspace: Keyspace,
    pub key: Bytes,
    pub value: Option<Bytes>,
}

/// What a storage cannot do, in words for the operator.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum StorageError {
    /// Bytes on disk are not what was written.
    #[error("{0}")]
    Corrupt(String),
    #[error("{0}")]
    Io(String),
}

/// Keys with values, in key order (or reverse).
pub(crate) type Entries = Box<dyn Iterator<Item = Result<(Bytes, Bytes), StorageError>> + Send>;

/// A half-open range of keys. An end of `None` has no upper bound.
#[derive(Clone, Debug)]
pub(crate) struct KeyRange {
    pub start: Bytes,
    pub end: Option<Bytes>,
}

impl KeyRange {
    /// All keys that begin with the prefix.
    pub(crate) fn prefix(prefix: &[u8]) -> KeyRange {
        KeyRange {
            start: Bytes::copy_from_slice(prefix),
            end: cortex_shard_api::key::prefix_end(prefix),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| *end <= self.start)
    }
}

/// The least key above a key.
pub(crate) fn after(key: &[u8]) -> Bytes {
    Bytes::from([key, &[0]].concat())
}

/// Names a moment; everything applied before it is on disk once `is_flushed` says so.
pub(crate) struct FlushToken(pub(crate) Vec<Option<u64>>);

/// Ordered keyspaces with snapshots. One thread writes.
pub(crate) trait Storage: Send + Sync {
    /// Applies changes in order. Visible to snapshots taken afterwards; not durable.
    fn apply(&self, ops: Vec<Op>) -> Result<(), StorageError>;

    /// Applies many changes whose keys ascend within `keyspace`, each once.
    fn ingest(
        &self,
        keyspace: Keyspace,
        ops: &mut dyn Iterator<Item = Result<Op, StorageError>>,
    ) -> Result<(), StorageError>;

    /// The state as it is now.
    fn snapshot(&self) -> Arc<dyn StorageSnapshot>;

    /// Starts writing everything applied so far to disk.
    fn begin_flush(&self) -> Result<FlushToken, StorageError>;

    /// Whether everything before the token is on disk.
    fn is_flushed(&self, token: &FlushToken) -> bool;

    /// Whether the state survives a restart up to what was flushed.
    fn is_persistent(&self) -> bool;
}

/// A consistent, immutable view.
pub(crate) trait StorageSnapshot: Send + Sync {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Bytes>, StorageError>;

    fn range(&self, keyspace: Keyspace, range: KeyRange, reverse: bool) -> Entries;
}
