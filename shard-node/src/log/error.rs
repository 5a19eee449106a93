//! What can go wrong in a log, by what its owner can do about it.

use std::io;
use std::sync::Arc;

use cortex_shard_api::error::ShardError;
use cortex_shard_api::ids::{LogIndex, ShardId};

use super::format::LogId;

/// Errors of the shard log. `Clone`, because one failed fsync answers every waiter.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LogError {
    /// The caller skipped or repeated an index. Nothing was written.
    #[error("log entry {found} does not continue the log, which expects {expected}")]
    Gap { expected: LogIndex, found: LogIndex },

    /// Nothing was written; cut the payload into several entries.
    #[error("log entry of {bytes} bytes exceeds the limit of {max} bytes")]
    EntryTooLarge { bytes: usize, max: usize },

    /// Keys and values of the metadata are few and small.
    #[error("log metadata of {bytes} bytes exceeds the limit of {max} bytes")]
    MetadataTooLarge { bytes: usize, max: usize },

    /// The entry was purged: take a snapshot instead.
    #[error("log entry {index} was purged; the log begins at {first}")]
    Purged { index: LogIndex, first: LogIndex },

    /// Only what is durable may be purged.
    #[error("log cannot be purged to {index}, the last durable entry is {durable}")]
    PurgeAhead { index: LogIndex, durable: LogIndex },

    /// An earlier write or fsync failed. Restart the shard: it recovers from what is on the disk.
    #[error(
        "log refuses writes since an I/O error ({reason}); check the disk, then restart the shard"
    )]
    Poisoned { reason: Arc<str> },

    /// Bytes that were durable are not what was written.
    #[error("log is corrupt in {file} at byte {offset}: {what}")]
    Corrupt { file: String, offset: u64, what: String },

    /// Written by another version of CortexDB.
    #[error("{file} has log format version {found}, this program reads version {supported}")]
    Version { file: String, found: u16, supported: u16 },

    /// A file of another shard's or another incarnation's log.
    #[error("{file} belongs to log {found}, not to {expected}")]
    Foreign { file: String, found: LogId, expected: LogId },

    /// `create` was off and there is no log.
    #[error("there is no log in {directory}")]
    Missing { directory: String },

    /// Another process has the log open.
    #[error("log in {directory} is in use by another process")]
    Locked { directory: String },

    /// The operating system refused.
    #[error("log: {context}: {source}")]
    Io { context: String, source: Arc<io::Error> },
}

impl LogError {
    pub(super) fn io(context: impl Into<String>, source: io::Error) -> LogError {
        LogError::Io { context: context.into(), source: Arc::new(source) }
    }

    pub(super) fn corrupt(
        file: impl Into<String>,
        offset: u64,
        what: impl Into<String>,
    ) -> LogError {
        LogError::Corrupt { file: file.into(), offset, what: what.into() }
    }

    /// The same error as the shard tells it to a gateway.
    pub fn into_shard_error(self, shard: ShardId) -> ShardError {
        let what = self.to_string();
        match self {
            LogError::Poisoned { reason } => {
                ShardError::Poisoned { shard, reason: reason.to_string() }
            }
            LogError::Corrupt { .. } => ShardError::Corrupt { shard, what },
            LogError::Io { context, source } => {
                ShardError::Io { shard, context, error: source.to_string() }
            }
            LogError::EntryTooLarge { max, .. } => ShardError::LimitExceeded {
                what: "log entry".into(),
                limit: format!("{max} bytes"),
            },
            LogError::Version { .. }
            | LogError::Foreign { .. }
            | LogError::Missing { .. }
            | LogError::Locked { .. } => ShardError::Unavailable { shard, reason: what },
            LogError::Gap { .. }
            | LogError::MetadataTooLarge { .. }
            | LogError::Purged { .. }
            | LogError::PurgeAhead { .. } => ShardError::Internal { shard, what },
        }
    }
}
