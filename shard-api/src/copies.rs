//! Reference tables: how a copy on another shard follows the primary copy.
//!
//! A shard reads the changes of its neighbour's reference tables from that shard's log, in log order and in bounded parts, and
//! applies them as they are stored: keys and values of rows and index entries, versions included. Lives here: what these
//! requests say. Not here: who asks and applies (`shard_node::replication`), and who waits for it (the gateway).

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    client::Key,
    ids::{LogIndex, SnapshotId},
};

/// Which of a table's keyspaces a key is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum CopyKeyspace {
    Rows,
    Index,
}

/// One key as it is stored; `None` deletes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyEntry {
    pub keyspace: CopyKeyspace,
    pub key: Key,
    pub value: Option<Bytes>,
}

/// How far a reader of changes is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyCursor {
    /// It has all transactions up to this entry of the log.
    pub after: LogIndex,
    /// It is inside a big transaction, the next one with changes.
    pub part: Option<CopyPart>,
}

/// A place in a transaction that takes several entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyPart {
    pub first: LogIndex,
    pub next: LogIndex,
    /// The entry that commits it.
    pub commit: LogIndex,
}

/// Asks for changes of the reference tables whose primary copies are on the shard.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ChangesRequest {
    /// What the log has behind the cursor. Without anything new, waits so long for it.
    Log { cursor: CopyCursor, wait: Duration },
    /// Everything, as of an open snapshot: the page that begins here (`None`: the first).
    Snapshot { snapshot: SnapshotId, start: Option<(CopyKeyspace, Key)> },
}

/// Changes, about `CHANGES_BYTES` at a time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Changes {
    /// In log order. What ends with a cursor inside a transaction must not be seen before the rest has come.
    Log { entries: Vec<CopyEntry>, next: CopyCursor },
    /// The log does not reach back to the cursor: take a snapshot.
    Behind,
    /// All that is in a range of keys; what else a copy has there is to go.
    Page {
        keyspace: CopyKeyspace,
        start: Key,
        /// Exclusive.
        end: Key,
        entries: Vec<CopyEntry>,
        /// Where the next page begins.
        next: Option<(CopyKeyspace, Key)>,
        /// The entry that the snapshot shows last.
        index: LogIndex,
    },
}

/// Bytes of keys and values in one answer (a single row may be larger): as much as a chunk of a big transaction.
pub const CHANGES_BYTES: usize = 1 << 20;
