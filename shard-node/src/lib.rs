//! The engine of a shard: its log, its state, its transactions, and what runs inside it.
//!
//! The gateway sees `Shard` and nothing else, through `cortex_shard_api::client::ShardClient`. Modules in reading order.

/// The facade: requests in, answers out.
mod shard;

/// Opening a shard: formats, the checkpoint, replay.
mod recovery;

/// Reads on one snapshot: by key, by range, by index.
mod scan;

/// Runs fragments of distributed plans.
pub mod exec;

/// Writes, with everything that rows must satisfy.
mod write;

/// Transactions: locks, write sets, snapshots, and the sequencer.
mod txn;

/// Which versions of tables and shard maps are served.
mod fences;

/// Sequences and hidden row ids.
mod sequences;

/// Reference tables: copies follow the log of the shard with the primary copy.
mod replication;

/// Moves: rows that go to another shard, or come from one.
mod moves;

/// Work behind the scenes: checkpoints, deletion of what is dropped or moved away.
mod maintenance;

/// What a shard does, as bytes.
mod entry;

/// The shard log: segments, group commit, recovery.
pub mod log;

/// The state that the log adds up to.
mod storage;

/// Exact counts by storage id.
mod stats;

#[cfg(test)]
mod tests;

pub use recovery::{OpenError, OpenReport, ShardConfig, StorageKind};
pub use replication::follow::Follower;
pub use shard::Shard;
