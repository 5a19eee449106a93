//! Work behind the scenes, on one thread per shard: checkpoints, and deleting the keys of dropped storages
//! and of ranges that have moved away (`moves::clean`).
//!
//! Lives here: when these happen and their steps. Every change of state still goes through the sequencer.

use std::{
    sync::{Arc, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use cortex_shard_api::{MoveId, ShardError, StorageId, key::storage_prefix};
use crossbeam_channel::{Receiver, RecvTimeoutError};
use tokio::sync::{mpsc, oneshot};

use crate::{
    log::LogFiles,
    recovery::{APPLY_OPS_MAX, Checkpoint},
    storage::{KeyRange, Keyspace, Op},
    txn::sequencer::{Core, Request},
};

/// How often the thread looks whether a checkpoint is due.
const TICK: Duration = Duration::from_millis(500);

/// A flush that takes longer is given up; the next checkpoint tries again.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(120);

/// Storages that may wait to be deleted; the list is durable, so beyond it the next open continues.
pub(crate) const DROPS_MAX: usize = 1 << 16;

pub(crate) enum Task {
    /// Delete the keys of a storage that the log has dropped.
    Clean(StorageId),
    /// Delete what a move has left behind.
    CleanRanges(MoveId),
    /// Take a checkpoint now.
    Checkpoint(oneshot::Sender<Result<(), ShardError>>),
    Stop,
}

pub(crate) struct Maintenance {
    pub core: Arc<Core>,
    pub requests: mpsc::Sender<Request>,
    pub tasks: Receiver<Task>,
    pub files: Arc<dyn LogFiles>,
    pub checkpoint_log_bytes: u64,
}

impl Maintenance {
    /// Serves until `Stop`, or until nobody can ask any more.
    pub(crate) fn run(self) {
        loop {
            match self.tasks.recv_timeout(TICK) {
                Ok(Task::Clean(storage)) => {
                    if let Err(error) = self.clean(storage) {
                        tracing::warn!(shard = %self.core.id, %storage, %error, "keys of a dropped storage were not deleted; the next open continues");
                    }
                }
                Ok(Task::CleanRanges(id)) => {
                    if let Err(error) = self.clean_ranges(id) {
                        tracing::error!(shard = %self.core.id, %id, %error, "what a move left behind was not deleted; the next open continues");
                    }
                }
                Ok(Task::Checkpoint(reply)) => {
                    let _ = reply.send(self.checkpoint());
                }
                Ok(Task::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
            }
            let is_due = self.core.log_bytes.load(Ordering::Relaxed) >= self.checkpoint_log_bytes;
            if is_due
                && self.core.storage.is_persistent()
                && let Err(error) = self.checkpoint()
            {
                tracing::warn!(shard = %self.core.id, %error, "no checkpoint was taken");
            }
        }
    }

    pub(crate) fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, ShardError>>) -> Request,
    ) -> Result<T, ShardError> {
        let stopped = || ShardError::Unavailable {
            shard: self.core.id,
            reason: "it is shut down".to_owned(),
        };
        let (reply, answer) = oneshot::channel();
        self.requests.blocking_send(request(reply)).map_err(|_closed| stopped())?;
        answer.blocking_recv().map_err(|_closed| stopped())?
    }

    /// Flushes the state, records how far it is, and gives up the log below.
    fn checkpoint(&self) -> Result<(), ShardError> {
        let core = &self.core;
        let bytes_before = core.log_bytes.load(Ordering::Relaxed);
        let start = self.ask(|reply| Request::BeginCheckpoint { reply })?;
        let begun = Instant::now();
        while !core.storage.is_flushed(&start.token) {
            if begun.elapsed() > FLUSH_TIMEOUT {
                return Err(ShardError::Unavailable {
                    shard: core.id,
                    reason: "the state was not flushed in time".to_owned(),
                });
            }
            thread::sleep(Duration::from_millis(2));
        }
        let checkpoint = Checkpoint { index: start.index, counters: start.counters };
        checkpoint.write(&*self.files).map_err(|error| ShardError::Io {
            shard: core.id,
            context: "writing the checkpoint".to_owned(),
            error: error.to_string(),
        })?;
        core.log_bytes.fetch_sub(bytes_before, Ordering::Relaxed);
        if checkpoint.index.0 > 0 {
            self.ask(|reply| Request::Purge { index: checkpoint.index, reply })?;
        }
        Ok(())
    }

    fn clean(&self, storage: StorageId) -> Result<(), ShardError> {
        let core = &self.core;
        for keyspace in [Keyspace::Rows, Keyspace::Index] {
            let snapshot = core.published.load().snapshot.clone();
            let range = KeyRange::prefix(&storage_prefix(storage));
            let mut ops = Vec::new();
            for entry in snapshot.range(keyspace, range, false) {
                let (key, _) = entry.map_err(|error| core.storage_error(error))?;
                if core.is_stopping.load(Ordering::Acquire) {
                    // The list of dropped storages is durable: the next open continues.
                    return Ok(());
                }
                // A key that was read is a slice of its block: kept in a memtable as it is, it would keep the rows too.
                let key = Bytes::copy_from_slice(&key);
                ops.push(Op { keyspace, key, value: None });
                if ops.len() >= APPLY_OPS_MAX {
                    let ops = std::mem::take(&mut ops);
                    self.ask(|reply| Request::Clean { ops, reply })?;
                }
            }
            if !ops.is_empty() {
                self.ask(|reply| Request::Clean { ops, reply })?;
            }
        }
        self.ask(|reply| Request::Dropped { storage, reply })?;
        Ok(())
    }
}
