//! Moves: how rows get from one shard to another while both serve.
//!
//! A coordinator reads rows of the moving ranges from the source, first pages of a snapshot and then what the log has behind
//! it, and has the target store them; index entries are made on the target, from the rows. Lives here: what these requests say.
//! Not here: the order of the steps (the gateway's moves) and how a shard answers (`shard_node::moves`).
//!
//! Ranges are of row keys as stored (`[storage][slot?][primary key]`), `[start, end)`, ascending, disjoint.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    client::Key,
    copies::CopyCursor,
    descriptor::TableDescriptor,
    ids::{LogIndex, MoveId, SnapshotId},
};

/// The part of a table that moves.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TableRanges {
    pub table: Arc<TableDescriptor>,
    pub ranges: Vec<(Bytes, Bytes)>,
}

/// A row as it is stored, without its version; `None`: it was deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovedRow {
    pub key: Key,
    pub value: Option<Bytes>,
}

/// How far the target of a move is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MovePosition {
    /// It has the snapshot's rows with keys below `next` (`None`: all of them). What the log says is to be read from `log` on.
    Copying { next: Option<Key>, log: CopyCursor },
    /// It has everything up to this place in the source's log.
    Following { log: CopyCursor },
}

/// Asks the source for rows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MovingRequest {
    pub id: MoveId,
    pub tables: Vec<TableRanges>,
    pub from: MovingFrom,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum MovingFrom {
    /// A page of an open snapshot: rows with keys from `start` on (`None`: the first).
    Snapshot { snapshot: SnapshotId, start: Option<Key> },
    /// What the log has behind the cursor. Keeps the log from being purged behind it for a while. Without anything new, waits
    /// so long for it.
    Log { cursor: CopyCursor, wait: Duration },
}

/// Rows of the moving ranges, about `copies::CHANGES_BYTES` at a time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum MovingRows {
    /// All rows with keys in `[start, end)`, which lies in one table's ranges.
    Page {
        start: Key,
        end: Key,
        rows: Vec<MovedRow>,
        /// Where the next page begins; `None`: this is the last.
        next: Option<Key>,
        /// The entry of the log that the snapshot shows last.
        index: LogIndex,
    },
    /// Changes in log order. What ends with a cursor inside a transaction must not be the last that the target gets.
    /// `behind_bytes`: about how much log is left to read.
    Log { rows: Vec<MovedRow>, next: CopyCursor, behind_bytes: u64 },
    /// The log does not reach back to the cursor: begin again with a snapshot.
    Behind,
}

/// Asks the target to store rows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ApplyMoving {
    pub id: MoveId,
    pub tables: Vec<TableRanges>,
    /// Rows outside of `[start, end)` are refused. `None` for changes of the log.
    pub page: Option<(Key, Key)>,
    pub rows: Vec<MovedRow>,
    /// Where the target must be, or the request is refused (`ShardError::Conflict`): so it can be sent twice.
    pub from: Option<MovePosition>,
    pub to: MovePosition,
}

/// Asks the source to keep writers out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HoldRanges {
    pub id: MoveId,
    pub tables: Vec<TableRanges>,
    pub grace: Duration,
    pub limit: Duration,
}

/// What `checksum_ranges` found in one table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeChecksum {
    pub rows: u64,
    /// The sum, modulo 2^64, of a hash over each row's key behind its storage id and its stored value: the order of rows does not matter.
    pub checksum: u64,
}
