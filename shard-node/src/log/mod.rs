//! The shard log: the one source of truth and order of a shard.
//!
//! Lives here: the segmented, checksummed, group-committed log, its recovery, and the file layer below it. Not here: what
//! an entry means (`txn`, `storage`), and who may write (`replication`). The log is the WAL, the stream that followers
//! pull, and the Raft log, so it knows terms, truncation and a vote, but takes no decision about them.
//!
//! ```text
//!   append ──► encode batch ──► pwrite ──────────► readable, Ticket          (one sequencer thread)
//!                                  │
//!   wait(ticket) ──► first waiter fdatasyncs for everyone ──► durable         (group commit)
//!                                  │
//!                    nothing newer? write the idle mark
//! ```
//!
//! - **Order.** Indexes are contiguous from 1. What is durable is always a prefix of what was appended.
//! - **Truth.** An acknowledged entry is either read back exactly or the log refuses to open (`LogError::Corrupt`). Only
//!   a tail that nothing proves durable is dropped, and `OpenReport` says so. One loss is invisible from inside: the last
//!   batch together with both of its marks; so a shard refuses a state that is ahead of its log.
//! - **Fail-stop.** After a failed write or fsync the page cache and the disk may disagree for ever. The log is then
//!   poisoned: every later append, wait or purge fails, until the process restarts and recovers from the disk.
//!
//! The bytes are described in `docs/format/log.md`.

pub mod crash_files;

mod error;

mod files;

mod format;

mod segment;

mod metadata;

mod recovery;

mod segmented;

mod append;

mod group_commit;

mod read;

mod retire;

mod filler;

#[cfg(test)]
mod tests;

#[cfg(test)]
mod crash_tests;

#[cfg(test)]
mod damage_tests;

use std::ops::Range;

use bytes::Bytes;
use cortex_shard_api::ids::{LogIndex, Term};

pub use error::LogError;
pub use files::{DirLock, DiskFiles, LogFile, LogFiles};
pub use format::{ENTRY_BYTES_MAX, LogId};
pub use recovery::OpenReport;
pub use segmented::SegmentedLog;

/// One entry: what a shard does, in order. The payload belongs to `txn`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub term: Term,
    pub index: LogIndex,
    /// At most [`ENTRY_BYTES_MAX`]. Bigger transactions are cut into several entries by the engine.
    pub payload: Bytes,
}

/// A position with the term in which it was written; what Raft calls a log id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogPoint {
    pub index: LogIndex,
    pub term: Term,
}

/// A promise of [`ShardLog::append`], kept by [`ShardLog::wait`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The last batch that must be synced.
    pub(crate) batch: u64,
    /// The last entry that the ticket covers.
    pub last: LogIndex,
}

/// Raft's vote: fsynced before it is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vote {
    pub term: Term,
    /// For whom; `None` when the term is known but nobody was voted for.
    pub node: Option<u64>,
    /// A quorum granted it (openraft distinguishes the two).
    pub is_committed: bool,
}

/// How to open a log.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// Size of a segment once the log is busy. The first segments are smaller, so that small shards stay small.
    pub segment_bytes: u64,
    /// Who writes the zeros ahead of the log.
    pub prefill: Prefill,
    /// Create the log if the directory holds none. Without it a missing log is an error: a shard that lost its log must
    /// not start as an empty one.
    pub create: bool,
    /// The id that a new log gets and an existing log must have. `None`: random, or whatever is there.
    pub log_id: Option<LogId>,
}

impl Default for LogOptions {
    fn default() -> LogOptions {
        LogOptions {
            segment_bytes: 16 << 20,
            prefill: Prefill::Background,
            create: true,
            log_id: None,
        }
    }
}

/// Overwriting blocks that exist costs one disk write per fsync; growing a file costs a journal commit too. So the next
/// segment is filled with zeros before it is needed (1.4 to 2 times the throughput).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefill {
    /// Files grow as they are written. For tests, and where space matters more than speed.
    Off,
    /// The append that opens a segment fills it. Deterministic, for the crash tests.
    Inline,
    /// A thread fills the next segment when the active one is half full.
    Background,
}

/// The contract between a shard and its log.
///
/// - One thread appends, truncates and resets (the sequencer); any thread may wait, read, purge and ask.
/// - An entry is readable when `append` returns, and durable when `wait` returns. Apply and send only what is durable.
/// - Errors: after an I/O error every mutation fails with [`LogError::Poisoned`].
pub trait ShardLog: Send + Sync {
    /// The id in every file of this log; two histories never share one.
    fn log_id(&self) -> LogId;

    /// Writes entries whose indexes continue the log. A gap is [`LogError::Gap`] and writes nothing.
    fn append(&self, entries: Vec<Entry>) -> Result<Ticket, LogError>;

    /// Blocks until everything the ticket covers is durable. Waiters share one fdatasync.
    fn wait(&self, ticket: Ticket) -> Result<(), LogError>;

    /// Makes everything appended so far durable.
    fn sync(&self) -> Result<(), LogError>;

    /// The oldest entry that can be read; `last_index + 1` when there is none.
    fn first_index(&self) -> LogIndex;

    /// The newest entry, durable or not; the purge point's index when there is none.
    fn last_index(&self) -> LogIndex;

    /// `last_index` with its term.
    fn last_point(&self) -> LogPoint;

    /// The newest entry that survives a crash.
    fn durable_index(&self) -> LogIndex;

    /// Entries from `range`, in order, as many as fit in `max_bytes` of payload but at least one; empty when the range
    /// begins after the end. [`LogError::Purged`] when it begins before `first_index`.
    fn read(&self, range: Range<LogIndex>, max_bytes: usize) -> Result<Vec<Entry>, LogError>;

    /// Removes `index` and everything after it, durably.
    fn truncate_from(&self, index: LogIndex) -> Result<(), LogError>;

    /// Gives up everything up to and including `index`, which must be durable. Whole segments are reused.
    fn purge_to(&self, index: LogIndex) -> Result<(), LogError>;

    /// Where the log was purged: the entry before `first_index`.
    fn purge_point(&self) -> LogPoint;

    /// Forgets every entry and continues after `point`: a follower installed a snapshot.
    fn reset_to(&self, point: LogPoint) -> Result<(), LogError>;

    /// A small durable value.
    fn metadata(&self, key: &str) -> Option<Bytes>;

    /// Sets a small durable value (`None` removes it); durable on return.
    fn set_metadata(&self, key: &str, value: Option<Bytes>) -> Result<(), LogError>;

    /// The last vote that was set.
    fn vote(&self) -> Option<Vote>;

    /// Sets the vote; durable on return.
    fn set_vote(&self, vote: Vote) -> Result<(), LogError>;

    /// Why the log refuses to write, if it does.
    fn poisoned(&self) -> Option<String>;
}

/// How much a replay holds in memory at a time (one entry may be larger).
const REPLAY_BYTES: usize = 4 << 20;

impl dyn ShardLog + '_ {
    /// Streams `range`, holding a few MiB at a time. Ends early only at the end of the log or with an error.
    pub fn replay(&self, range: Range<LogIndex>) -> Replay<'_> {
        Replay { log: self, range, ready: Vec::new().into_iter(), is_done: false }
    }
}

/// Iterator of [`ShardLog::read`], made by `replay`.
pub struct Replay<'a> {
    log: &'a dyn ShardLog,
    range: Range<LogIndex>,
    ready: std::vec::IntoIter<Entry>,
    is_done: bool,
}

impl Iterator for Replay<'_> {
    type Item = Result<Entry, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(entry) = self.ready.next() {
            return Some(Ok(entry));
        }
        if self.is_done || self.range.start >= self.range.end {
            return None;
        }
        match self.log.read(self.range.clone(), REPLAY_BYTES) {
            Ok(entries) => {
                let last = entries.last()?.index;
                self.range.start = LogIndex(last.0 + 1);
                self.ready = entries.into_iter();
                self.ready.next().map(Ok)
            }
            Err(error) => {
                self.is_done = true;
                Some(Err(error))
            }
        }
    }
}
