//! Following: a shard's copies of another shard's reference tables, brought to what that shard has committed.
//!
//! One task for each source. It asks for changes, collects them in a transaction of its own, and commits it together with the
//! position reached. A task that fails starts again from the durable position. Not here: reading them (`changes`).

use std::{collections::HashSet, sync::Arc, time::Duration};

use bytes::Bytes;
use cortex_shard_api::{
    LogIndex, ShardError, ShardId, SnapshotId,
    client::{RequestContext, ShardClient},
    copies::{Changes, ChangesRequest, CopyCursor, CopyEntry, CopyKeyspace},
};
use tokio::{sync::oneshot, task::JoinHandle};

use super::keyspace;
use crate::{
    shard::Shard,
    stats::storage_of,
    storage::KeyRange,
    txn::{Follows, Txn, sequencer::Request},
};

/// How long the source holds a question that it has nothing new for.
const QUESTION_WAIT: Duration = Duration::from_secs(5);

/// Pause after a failure: doubled each time up to the second, so that a source that comes back is found soon.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// A shard that follows another one, until this is dropped.
#[derive(Debug)]
pub struct Follower(JoinHandle<()>);

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Shard {
    /// Keeps this shard's copies of the reference tables of `source` up to date. One follower for each source.
    pub fn follow(self: &Arc<Shard>, source: Arc<dyn ShardClient>) -> Follower {
        let copy = self.clone();
        Follower(tokio::spawn(async move {
            let mut pause = PAUSE_MIN;
            let mut is_told = false;
            loop {
                let mut following = Following::new(&copy, &*source);
                let error = loop {
                    match following.step(QUESTION_WAIT).await {
                        Ok(_) => {
                            pause = PAUSE_MIN;
                            is_told = false;
                        }
                        Err(error) => break error,
                    }
                };
                drop(following);
                if copy.is_closed() {
                    return;
                }
                // Once for each time that the source is away.
                if pause == PAUSE_MAX && !is_told {
                    is_told = true;
                    tracing::warn!(shard = %copy.core.id, source = %source.id(), %error, "copies of reference tables fall behind");
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }))
    }
}

/// One run without a failure.
pub(crate) struct Following<'a> {
    copy: &'a Shard,
    source: &'a dyn ShardClient,
    /// What the copies have, as the log says.
    position: LogIndex,
    /// How far the source's log is read.
    cursor: CopyCursor,
    /// What is read and not committed.
    open: Option<Arc<Txn>>,
}

impl Drop for Following<'_> {
    fn drop(&mut self) {
        if let Some(txn) = self.open.take() {
            self.copy.abandon(&txn);
        }
    }
}

/// A snapshot of the source, closed whatever happens.
struct Pinned<'a>(&'a dyn ShardClient, SnapshotId);

impl Drop for Pinned<'_> {
    fn drop(&mut self) {
        self.0.close_snapshot(self.1);
    }
}

impl<'a> Following<'a> {
    pub(crate) fn new(copy: &'a Shard, source: &'a dyn ShardClient) -> Following<'a> {
        let position = copy.core.copies.borrow().get(&source.id()).copied().unwrap_or_default();
        let cursor = CopyCursor { after: position, part: None };
        Following { copy, source, position, cursor, open: None }
    }

    /// Asks once and applies the answer; false if there was nothing new for as long as `wait`.
    pub(crate) async fn step(&mut self, wait: Duration) -> Result<bool, ShardError> {
        let request = ChangesRequest::Log { cursor: self.cursor, wait };
        let (entries, next) = match self.source.read_changes(request).await? {
            Changes::Log { entries, next } => (entries, next),
            Changes::Behind => {
                self.rebuild().await?;
                return Ok(true);
            }
            Changes::Page { .. } => return Err(self.unexpected()),
        };
        if entries.is_empty() && next == self.cursor {
            return Ok(false);
        }
        if !entries.is_empty() {
            let txn = self.txn();
            for entry in entries {
                self.put(&txn, entry)?;
            }
            self.maybe_spill(&txn)?;
        }
        self.cursor = next;
        if next.part.is_none() {
            // Also without changes: a transaction that only might have changed something is waited for like any other.
            let txn = self.txn();
            self.open = None;
            self.commit(txn, next.after).await?;
        }
        Ok(true)
    }

    /// Makes the copies what a snapshot of the source shows. Pages that are equal already cost nothing but their reading.
    async fn rebuild(&mut self) -> Result<(), ShardError> {
        tracing::info!(shard = %self.copy.core.id, source = %self.source.id(), position = %self.position, "copies of reference tables are made anew");
        if let Some(txn) = self.open.take() {
            self.copy.abandon(&txn);
        }
        let snapshot = self.source.open_snapshot(&RequestContext::default(), &[]).await?;
        let pinned = Pinned(self.source, snapshot);
        let mut start = None;
        loop {
            let request = ChangesRequest::Snapshot { snapshot, start };
            let changes = self.source.read_changes(request).await?;
            let Changes::Page { keyspace, start: from, end, entries, next, index } = changes else {
                return Err(self.unexpected());
            };
            let txn = self.txn();
            self.put_page(&txn, keyspace, KeyRange { start: from, end: Some(end) }, entries)?;
            self.maybe_spill(&txn)?;
            start = next;
            if start.is_none() {
                self.open = None;
                self.commit(txn, index).await?;
                break;
            }
        }
        drop(pinned);
        Ok(())
    }

    fn unexpected(&self) -> ShardError {
        let what = "changes of reference tables came in another shape than asked for".to_owned();
        ShardError::Internal { shard: self.source.id(), what }
    }

    fn txn(&mut self) -> Arc<Txn> {
        self.open.get_or_insert_with(|| self.copy.own_transaction()).clone()
    }

    fn maybe_spill(&self, txn: &Txn) -> Result<(), ShardError> {
        let spilled = txn.writes.write().maybe_spill();
        spilled.map_err(|error| self.copy.core.storage_error(error))
    }

    /// One key as it is on the source.
    fn put(&self, txn: &Txn, entry: CopyEntry) -> Result<(), ShardError> {
        if self.copy.is_dropped(storage_of(&entry.key)) {
            return Ok(());
        }
        let core = &self.copy.core;
        let snapshot = core.published.load().snapshot.clone();
        let keyspace = keyspace(entry.keyspace);
        let put = snapshot.get(keyspace, &entry.key).and_then(|committed| {
            let committed = committed.map(|value| (entry.key.len() + value.len()) as u64);
            txn.writes.write().put(keyspace, entry.key, entry.value, 0, committed)
        });
        put.map_err(|error| core.storage_error(error))
    }

    /// A range that has these entries and no others.
    fn put_page(
        &self,
        txn: &Txn,
        of: CopyKeyspace,
        range: KeyRange,
        entries: Vec<CopyEntry>,
    ) -> Result<(), ShardError> {
        if range.is_empty() {
            return Ok(());
        }
        let core = &self.copy.core;
        let snapshot = core.published.load().snapshot.clone();
        let wanted: HashSet<Bytes> = entries.iter().map(|entry| entry.key.clone()).collect();
        for stored in snapshot.range(keyspace(of), range, false) {
            let (key, _) = stored.map_err(|error| core.storage_error(error))?;
            if !wanted.contains(&key) {
                self.put(txn, CopyEntry { keyspace: of, key, value: None })?;
            }
        }
        for entry in entries {
            let stored = snapshot.get(keyspace(of), &entry.key);
            if stored.map_err(|error| core.storage_error(error))? != entry.value {
                self.put(txn, entry)?;
            }
        }
        Ok(())
    }

    async fn commit(&mut self, txn: Arc<Txn>, to: LogIndex) -> Result<(), ShardError> {
        let core = &self.copy.core;
        let follows = Follows { source: self.source.id(), from: self.position, to };
        txn.state.lock().follows = Some(follows);
        let (reply, answer) = oneshot::channel();
        let request = Request::Commit { txn, reply };
        self.copy.requests.send(request).await.map_err(|_closed| self.copy.stopped())?;
        let lost = |_closed| ShardError::OutcomeUnknown { shard: core.id };
        answer.await.map_err(lost)??;
        self.position = to;
        self.cursor = CopyCursor { after: to, part: None };
        Ok(())
    }
}

/// Waits until a position is reached, or the time is up; returns it as it is then.
pub(crate) async fn wait_for(
    shard: &Shard,
    source: ShardId,
    at_least: LogIndex,
    wait: Duration,
) -> LogIndex {
    let mut copies = shard.core.copies.subscribe();
    let position = |copies: &super::Positions| copies.get(&source).copied().unwrap_or_default();
    let reached = copies.wait_for(|copies| position(copies) >= at_least);
    match tokio::time::timeout(wait, reached).await {
        Ok(Ok(copies)) => position(&copies),
        // Time is up, or the shard is going away.
        Ok(Err(_)) | Err(_) => position(&shard.core.copies.borrow()),
    }
}
