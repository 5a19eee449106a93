//! The sequencer: one thread per shard through which everything durable passes.
//!
//! Lives here: the order of commits, their entries in the log, one fdatasync per group, applying, publishing, and the
//! answers. Not here: the bytes of entries (`entry`) and of the log (`log`). Nothing is applied before it is durable, and
//! locks are let go only once the new state is published, so whoever gets a lock sees what its last holder did.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use cortex_shard_api::{
    LogIndex, MoveId, ShardError, ShardId, StorageId, ids::Term, moves::TableRanges,
};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};

use super::{Follows, Txn, locks::LockManager, snapshot::Published, write_set::FinalWrite};
use crate::{
    entry::{self, CHUNK_BYTES, Entry, OpWriter},
    fences::{self, FenceKey, Fences, Raised, Used},
    log::{Entry as LogEntry, LogError, ShardLog},
    moves::{self, MoveChange, Moves, Step},
    recovery::Applier,
    replication::{Links, Positions, position_op},
    stats::{Counters, DeltaSum},
    storage::{FlushToken, Keyspace, Op, Storage, StorageError},
};

/// Requests that wait for the sequencer; beyond it, callers wait. More than sessions that can commit at once.
pub(crate) const QUEUE_REQUESTS_MAX: usize = 4096;

/// Requests of one group: what arrives during one fdatasync.
const GROUP_REQUESTS_MAX: usize = 1024;

/// Replication will count terms; a shard alone has one.
pub(crate) const TERM: Term = Term(1);

type Reply<T> = oneshot::Sender<Result<T, ShardError>>;

/// What can be asked of the sequencer.
pub(crate) enum Request {
    Commit {
        txn: Arc<Txn>,
        reply: Reply<LogIndex>,
    },
    /// Changes outside of transactions: the catalog's rows, sequences, row ids.
    Write {
        guard: Option<Guard>,
        ops: Vec<Op>,
        reply: Option<Reply<LogIndex>>,
    },
    /// Raises fences outside of transactions.
    Fence {
        fences: BTreeMap<FenceKey, u64>,
        reply: Reply<LogIndex>,
    },
    /// Nothing: answered when everything before it is durable and visible.
    Barrier {
        reply: Reply<LogIndex>,
    },
    /// A move has ended here: its position is forgotten, its ranges are deleted later.
    EndMove {
        id: MoveId,
        tables: Arc<Vec<TableRanges>>,
        reply: Reply<LogIndex>,
    },
    /// Deletes rows that have moved away, with their index entries.
    CleanRanges {
        id: MoveId,
        deletes: Vec<FinalWrite>,
        reply: Reply<LogIndex>,
    },
    /// The ranges of a move are deleted.
    Cleaned {
        id: MoveId,
        reply: Reply<LogIndex>,
    },
    /// Forgets storages; their keys are deleted later.
    Drop {
        storages: Vec<StorageId>,
        reply: Reply<LogIndex>,
    },
    /// Deletes keys of a dropped storage. Not logged: replaying `Dropped` deletes them again.
    Clean {
        ops: Vec<Op>,
        reply: Reply<()>,
    },
    /// All keys of a dropped storage are gone.
    Dropped {
        storage: StorageId,
        reply: Reply<LogIndex>,
    },
    /// Starts flushing the state as it is now.
    BeginCheckpoint {
        reply: Reply<CheckpointStart>,
    },
    /// Everything up to here is in a checkpoint.
    Purge {
        index: LogIndex,
        reply: Reply<()>,
    },
    Stop,
}

/// A key of `Keyspace::Kv` and what it must be.
pub(crate) struct Guard {
    pub key: Vec<u8>,
    pub value: Option<Vec<u8>>,
}

/// What a checkpoint will say once the flush is done.
pub(crate) struct CheckpointStart {
    pub index: LogIndex,
    pub counters: Counters,
    pub token: FlushToken,
}

/// What the sequencer shares with everyone else.
pub(crate) struct Core {
    pub id: ShardId,
    pub storage: Box<dyn Storage>,
    pub log: Arc<dyn ShardLog>,
    pub published: ArcSwap<Published>,
    pub locks: LockManager,
    pub counters: Mutex<Counters>,
    pub fences: Fences,
    pub moves: Moves,
    /// The newest entry that is published, for those who wait for one.
    pub applied: watch::Sender<LogIndex>,
    /// How far copies of reference tables are, as published.
    pub copies: watch::Sender<Positions>,
    /// The newest entry that wrote what `meta_write` writes, or a later one.
    pub meta_changed: watch::Sender<LogIndex>,
    /// Why the shard takes no writes any more.
    pub poison: OnceLock<String>,
    /// Bytes logged since the last checkpoint.
    pub log_bytes: AtomicU64,
    /// The shard is shutting down: long work behind the scenes ends early.
    pub is_stopping: AtomicBool,
}

impl Core {
    pub(crate) fn storage_error(&self, error: StorageError) -> ShardError {
        storage_error(self.id, error)
    }

    pub(crate) fn check_writable(&self) -> Result<(), ShardError> {
        match self.poison.get() {
            Some(reason) => Err(ShardError::Poisoned { shard: self.id, reason: reason.clone() }),
            None => Ok(()),
        }
    }
}

/// A storage's error as a shard tells it.
pub(crate) fn storage_error(shard: ShardId, error: StorageError) -> ShardError {
    match error {
        StorageError::Corrupt(what) => ShardError::Corrupt { shard, what },
        StorageError::Io(error) => ShardError::Io { shard, context: "storage".to_owned(), error },
    }
}

/// An answer that waits for the group to be durable and visible.
enum Answer {
    Commit { txn: Arc<Txn>, index: LogIndex, reply: Reply<LogIndex> },
    Write { index: LogIndex, reply: Option<Reply<LogIndex>> },
}

/// The thread's state.
pub(crate) struct Sequencer {
    core: Arc<Core>,
    requests: mpsc::Receiver<Request>,
    /// The index of the next entry.
    next: LogIndex,
    links: Links,
}

/// Entries of the group that is being made.
#[derive(Default)]
struct Group {
    /// Not yet in the log.
    unwritten: Vec<LogEntry>,
    /// What to apply once all is durable.
    to_apply: Vec<(LogIndex, Bytes)>,
    answers: Vec<Answer>,
    /// Changes of `Kv` in this group, for the guards of later requests in it.
    kv: Vec<(Bytes, Option<Bytes>)>,
    /// Positions of copies that it reaches.
    copies: Vec<(ShardId, LogIndex)>,
    /// Fences that it raises, in the order of the log.
    fences: Vec<Raised>,
    /// What it changes of what is known about moves.
    moves: Vec<MoveChange>,
    /// Its last write of the meta shard.
    meta: Option<LogIndex>,
}

impl Sequencer {
    pub(crate) fn new(
        core: Arc<Core>,
        requests: mpsc::Receiver<Request>,
        links: Links,
    ) -> Sequencer {
        let next = LogIndex(core.log.last_index().0 + 1);
        Sequencer { core, requests, next, links }
    }

    /// Serves until `Stop`, or until nobody can ask any more.
    pub(crate) fn run(mut self) {
        while let Some(first) = self.requests.blocking_recv() {
            let mut requests = vec![first];
            while requests.len() < GROUP_REQUESTS_MAX
                && let Ok(request) = self.requests.try_recv()
            {
                requests.push(request);
            }
            if !self.serve(requests) {
                return;
            }
        }
    }

    /// Runs one group; false ends the thread.
    fn serve(&mut self, requests: Vec<Request>) -> bool {
        let mut group = Group::default();
        let mut goes_on = true;
        let mut afterwards = Vec::new();
        for request in requests {
            match request {
                Request::Commit { txn, reply } => self.take_commit(&mut group, txn, reply),
                Request::Write { guard, ops, reply } => {
                    self.take_write(&mut group, guard, ops, reply);
                }
                Request::Fence { fences, reply } => self.take_fences(&mut group, fences, reply),
                Request::Barrier { reply } => self.take_barrier(&mut group, reply),
                Request::EndMove { id, tables, reply } => {
                    self.end_move(&mut group, id, tables, reply);
                }
                Request::CleanRanges { id, deletes, reply } => {
                    let payload = self.deletion(id, &deletes);
                    self.take_payload(&mut group, payload, reply);
                }
                Request::Cleaned { id, reply } => {
                    let mut writer = OpWriter::batch(&[]);
                    put_op(&mut writer, &moves::cleaned_op(id));
                    group.moves.push(MoveChange::Cleaned(id));
                    self.take_payload(&mut group, writer.finish(), reply);
                }
                Request::Drop { storages, reply } => {
                    self.take_payload(&mut group, entry::drop_storages(&storages), reply);
                }
                Request::Dropped { storage, reply } => {
                    self.take_payload(&mut group, entry::dropped(storage), reply);
                }
                Request::Stop => goes_on = false,
                other @ (Request::Clean { .. }
                | Request::BeginCheckpoint { .. }
                | Request::Purge { .. }) => afterwards.push(other),
            }
        }
        self.finish(group);
        for request in afterwards {
            self.serve_alone(request);
        }
        goes_on
    }

    fn take_commit(&mut self, group: &mut Group, txn: Arc<Txn>, reply: Reply<LogIndex>) {
        let result = self.core.check_writable().and_then(|()| self.log_commit(group, &txn));
        match result {
            Ok(index) => group.answers.push(Answer::Commit { txn, index, reply }),
            Err(error) => {
                self.core.locks.release_all(txn.id, false);
                // A caller that went away needs no answer.
                let _ = reply.send(Err(error));
            }
        }
    }

    /// Turns a write set into entries: one batch, or chunks and a commit record.
    fn log_commit(&mut self, group: &mut Group, txn: &Txn) -> Result<LogIndex, ShardError> {
        let id = self.core.id;
        self.core.locks.check_doomed(txn.id)?;
        let (copied, follows, fences, versions, moving) = {
            let mut state = txn.state.lock();
            self.check_used(group, &state.used)?;
            let raised = state.fences.drain(..).map(|(_, key, version)| (key, version));
            let mut fences = BTreeMap::new();
            for (key, version) in raised {
                let raised = fences.entry(key).or_insert(version);
                *raised = version.max(*raised);
            }
            let versions = std::mem::take(&mut state.versions);
            let (copied, moving) = (std::mem::take(&mut state.copied), state.moving.take());
            (copied, state.follows, fences, versions, moving)
        };
        let reached = match &moving {
            Some(step) => Some(self.check_step(group, step)?),
            None => None,
        };
        if let Some(follows) = &follows {
            self.check_position(follows)?;
        }
        let first = self.next;
        let links = if copied.is_empty() { Vec::new() } else { self.links.ops(first, &copied) };
        let push = |writer: &mut OpWriter, write: &FinalWrite| match follows {
            Some(_) => writer.push_stored(write.keyspace, &write.key, write.value.as_deref()),
            None => writer.push(write.keyspace, &write.key, write.value.as_deref(), first),
        };
        let count = |sum: &mut DeltaSum, write: &FinalWrite| {
            let size = |value: &Bytes| match follows {
                Some(_) => (write.key.len() + value.len()) as u64,
                None => stored_size(write.keyspace, &write.key, value),
            };
            sum.add(&write.key, write.base, write.value.as_ref().map(size));
        };
        let finish = |writer: &mut OpWriter| {
            fences::ops(&fences).for_each(|op| put_op(writer, &op));
            reached.iter().for_each(|op| put_op(writer, op));
            if let Some(follows) = &follows {
                put_op(writer, &position_op(follows.source, follows.to));
            }
        };
        let writes = txn.writes.read();
        let mut sum = DeltaSum::default();
        let is_small = writes.total_bytes() <= CHUNK_BYTES as u64;
        let final_writes = writes.final_writes().map_err(|error| storage_error(id, error))?;
        let index = if is_small {
            let mut all = Vec::new();
            for write in final_writes {
                let write = write.map_err(|error| storage_error(id, error))?;
                count(&mut sum, &write);
                all.push(write);
            }
            let mut writer = OpWriter::batch(&sum.finish());
            links.iter().for_each(|op| put_op(&mut writer, op));
            all.iter().for_each(|write| push(&mut writer, write));
            finish(&mut writer);
            self.push(group, writer.finish())
        } else {
            // The chunks go straight to the log; what was collected before must come first.
            self.write_out(group)?;
            let mut n_chunks = 0;
            let mut writer = OpWriter::chunk();
            links.iter().for_each(|op| put_op(&mut writer, op));
            for write in final_writes {
                let write = write.map_err(|error| storage_error(id, error))?;
                count(&mut sum, &write);
                push(&mut writer, &write);
                if writer.len() >= CHUNK_BYTES {
                    let full = std::mem::replace(&mut writer, OpWriter::chunk());
                    self.append_chunk(full)?;
                    n_chunks += 1;
                }
            }
            finish(&mut writer);
            if !writer.is_empty() {
                self.append_chunk(writer)?;
                n_chunks += 1;
            }
            self.push(group, entry::commit(first, n_chunks, &sum.finish()))
        };
        if !copied.is_empty() {
            self.links.logged(first, &copied);
            group.copies.push((id, first));
        }
        group.copies.extend(follows.map(|follows| (follows.source, follows.to)));
        group.moves.extend(moving.map(|step| MoveChange::Reached(step.id, step.to)));
        let raised = fences.into_iter().chain(versions);
        let raised = raised.map(|(key, version)| Raised { key, version, index, excused: None });
        group.fences.extend(raised);
        Ok(index)
    }

    /// A step of a move goes on from where the move is, or somebody else has taken it; returns what sets its position.
    fn check_step(&self, group: &Group, step: &Step) -> Result<Op, ShardError> {
        let of_move = |change: &&MoveChange| match change {
            MoveChange::Reached(id, _) | MoveChange::Ended(id, _) | MoveChange::Cleaned(id) => {
                *id == step.id
            }
        };
        // Two steps in one group: the first decides. The second will find out when it is sent again.
        if group.moves.iter().any(|change| of_move(&change)) || !self.core.moves.is_next(step)? {
            let reason = format!("another step of move {}", step.id);
            return Err(ShardError::Conflict { reason });
        }
        step.op().map_err(|error| self.core.storage_error(error))
    }

    fn take_barrier(&mut self, group: &mut Group, reply: Reply<LogIndex>) {
        if group.to_apply.is_empty() {
            let _ = reply.send(Ok(self.core.published.load().applied));
        } else {
            let index = LogIndex(self.next.0 - 1);
            group.answers.push(Answer::Write { index, reply: Some(reply) });
        }
    }

    fn end_move(
        &mut self,
        group: &mut Group,
        id: MoveId,
        tables: Arc<Vec<TableRanges>>,
        reply: Reply<LogIndex>,
    ) {
        let has_ended =
            |change: &MoveChange| matches!(change, MoveChange::Ended(it, _) if *it == id);
        if self.core.moves.is_ended(id) || group.moves.iter().any(has_ended) {
            self.take_barrier(group, reply);
            return;
        }
        let ops = match moves::end_ops(id, &tables) {
            Ok(ops) => ops,
            Err(error) => {
                let _ = reply.send(Err(self.core.storage_error(error)));
                return;
            }
        };
        let mut writer = OpWriter::batch(&[]);
        ops.iter().for_each(|op| put_op(&mut writer, op));
        group.moves.push(MoveChange::Ended(id, tables));
        self.take_payload(group, writer.finish(), reply);
    }

    /// The entry that deletes what has moved away.
    fn deletion(&self, id: MoveId, deletes: &[FinalWrite]) -> Bytes {
        let mut sum = DeltaSum::default();
        for delete in deletes {
            sum.add(&delete.key, delete.base, None);
        }
        let mut writer = OpWriter::batch(&sum.finish());
        put_op(&mut writer, &moves::cleaning_op(id));
        for delete in deletes {
            writer.push_stored(delete.keyspace, &delete.key, None);
        }
        writer.finish()
    }

    /// Refuses the commit of what was written under a version that a fence has passed since.
    fn check_used(&self, group: &Group, used: &[Used]) -> Result<(), ShardError> {
        self.core.fences.check_used(used)?;
        if group.fences.iter().any(|raised| used.iter().any(|used| raised.forbids(used))) {
            return Err(fences::passed_by());
        }
        Ok(())
    }

    fn take_fences(
        &mut self,
        group: &mut Group,
        mut fences: BTreeMap<FenceKey, u64>,
        reply: Reply<LogIndex>,
    ) {
        if let Err(error) = self.core.check_writable() {
            let _ = reply.send(Err(error));
            return;
        }
        let stands = |key, version| {
            let mut raised = group.fences.iter();
            version <= self.core.fences.current(key)
                || raised.any(|raised| raised.key == key && raised.version >= version)
        };
        fences.retain(|key, version| !stands(*key, *version));
        if fences.is_empty() {
            // They stand already, or will with this group.
            if group.to_apply.is_empty() {
                let _ = reply.send(Ok(self.core.published.load().applied));
            } else {
                let index = LogIndex(self.next.0 - 1);
                group.answers.push(Answer::Write { index, reply: Some(reply) });
            }
            return;
        }
        let mut writer = OpWriter::batch(&[]);
        fences::ops(&fences).for_each(|op| put_op(&mut writer, &op));
        let index = self.push(group, writer.finish());
        for (key, version) in fences {
            // Until the fence stands, the hold does.
            let excused = match key {
                FenceKey::Placement(id) => self.core.moves.holds.seal(id, version),
                FenceKey::Shape(_) => None,
            };
            group.fences.push(Raised { key, version, index, excused });
        }
        group.answers.push(Answer::Write { index, reply: Some(reply) });
    }

    fn append_chunk(&mut self, writer: OpWriter) -> Result<(), ShardError> {
        let index = self.next;
        self.append(vec![LogEntry { term: TERM, index, payload: writer.finish() }])?;
        self.next.0 += 1;
        Ok(())
    }

    /// A copy goes on from where it is, or somebody else has moved it.
    fn check_position(&self, follows: &Follows) -> Result<(), ShardError> {
        let position = self.core.copies.borrow().get(&follows.source).copied().unwrap_or_default();
        if position == follows.from {
            return Ok(());
        }
        let reason = format!("another follower of shard {}", follows.source);
        Err(ShardError::Conflict { reason })
    }

    fn take_write(
        &mut self,
        group: &mut Group,
        guard: Option<Guard>,
        ops: Vec<Op>,
        reply: Option<Reply<LogIndex>>,
    ) {
        let checked = self.core.check_writable().and_then(|()| match &guard {
            Some(guard) => self.check_guard(group, guard),
            None => Ok(()),
        });
        if let Err(error) = checked {
            if let Some(reply) = reply {
                let _ = reply.send(Err(error));
            }
            return;
        }
        let mut writer = OpWriter::batch(&[]);
        for op in &ops {
            writer.push(op.keyspace, &op.key, op.value.as_deref(), self.next);
            if op.keyspace == Keyspace::Kv {
                group.kv.push((op.key.clone(), op.value.clone()));
            }
        }
        let index = self.push(group, writer.finish());
        if guard.is_some() {
            group.meta = Some(index);
        }
        group.answers.push(Answer::Write { index, reply });
    }

    fn check_guard(&self, group: &Group, guard: &Guard) -> Result<(), ShardError> {
        let pending = group.kv.iter().rev().find(|(key, _)| key[..] == guard.key[..]);
        let current = match pending {
            Some((_, value)) => value.clone(),
            None => {
                let snapshot = &self.core.published.load().snapshot;
                let current = snapshot.get(Keyspace::Kv, &guard.key);
                current.map_err(|error| self.core.storage_error(error))?
            }
        };
        if current.as_deref() == guard.value.as_deref() {
            Ok(())
        } else {
            Err(ShardError::MetaConflict)
        }
    }

    fn take_payload(&mut self, group: &mut Group, payload: Bytes, reply: Reply<LogIndex>) {
        if let Err(error) = self.core.check_writable() {
            let _ = reply.send(Err(error));
            return;
        }
        let index = self.push(group, payload);
        group.answers.push(Answer::Write { index, reply: Some(reply) });
    }

    fn push(&mut self, group: &mut Group, payload: Bytes) -> LogIndex {
        let index = self.next;
        self.next.0 += 1;
        group.to_apply.push((index, payload.clone()));
        group.unwritten.push(LogEntry { term: TERM, index, payload });
        index
    }

    fn write_out(&mut self, group: &mut Group) -> Result<(), ShardError> {
        let entries = std::mem::take(&mut group.unwritten);
        if entries.is_empty() { Ok(()) } else { self.append(entries) }
    }

    fn append(&mut self, entries: Vec<LogEntry>) -> Result<(), ShardError> {
        let n_bytes: usize = entries.iter().map(|entry| entry.payload.len()).sum();
        self.core.log_bytes.fetch_add(n_bytes as u64, Ordering::Relaxed);
        match self.core.log.append(entries) {
            Ok(_ticket) => Ok(()),
            Err(error) => Err(self.fail(error)),
        }
    }

    /// After a failed write nobody knows what the disk has: no more writes until a restart.
    fn fail(&self, error: LogError) -> ShardError {
        self.poison(&error.to_string());
        error.into_shard_error(self.core.id)
    }

    fn poison(&self, reason: &str) {
        tracing::error!(shard = %self.core.id, reason, "the shard refuses writes until it is restarted");
        // The first reason is the one to look at.
        let _ = self.core.poison.set(reason.to_owned());
    }

    /// Makes the group durable and visible, then answers.
    fn finish(&mut self, mut group: Group) {
        if group.to_apply.is_empty() {
            return;
        }
        let entries = std::mem::take(&mut group.unwritten);
        let written = if self.core.poison.get().is_some() {
            self.core.check_writable()
        } else if entries.is_empty() {
            Ok(())
        } else {
            self.append(entries)
        };
        let done = written
            .and_then(|()| self.core.log.sync().map_err(|error| self.fail(error)))
            .and_then(|()| {
                self.apply(&group).map_err(|error| {
                    self.poison(&error.to_string());
                    self.core.storage_error(error)
                })
            });
        if group.fences.iter().any(|raised| raised.excused.is_some()) {
            self.core.moves.holds.unseal();
        }
        if done.is_err() {
            // Whatever failed, some of it may have reached the disk, and a restart would find it there.
            self.refuse(group, &ShardError::OutcomeUnknown { shard: self.core.id });
            return;
        }
        for change in group.moves {
            self.core.moves.change(change);
        }
        self.core.applied.send_replace(self.core.published.load().applied);
        if !group.copies.is_empty() {
            self.core.copies.send_modify(|copies| copies.extend(group.copies));
        }
        if let Some(index) = group.meta {
            self.core.meta_changed.send_replace(index);
        }
        for answer in group.answers {
            match answer {
                Answer::Commit { txn, index, reply } => {
                    self.core.locks.release_all(txn.id, true);
                    let _ = reply.send(Ok(index));
                }
                Answer::Write { index, reply } => {
                    if let Some(reply) = reply {
                        let _ = reply.send(Ok(index));
                    }
                }
            }
        }
    }

    fn apply(&self, group: &Group) -> Result<(), StorageError> {
        let mut applier = Applier::new(&*self.core.storage, &*self.core.log);
        let mut applied = LogIndex(0);
        for (index, payload) in &group.to_apply {
            applier.apply(*index, Entry::decode(payload)?)?;
            applied = *index;
        }
        let changes = applier.finish(applied)?;
        let mut counters = self.core.counters.lock();
        changes.iter().for_each(|change| counters.change(change));
        drop(counters);
        for raised in &group.fences {
            self.core.fences.raise(raised.clone());
        }
        let snapshot = self.core.storage.snapshot();
        self.core.published.store(Arc::new(Published { snapshot, applied }));
        Ok(())
    }

    fn refuse(&self, group: Group, error: &ShardError) {
        for answer in group.answers {
            match answer {
                Answer::Commit { txn, reply, .. } => {
                    self.core.locks.release_all(txn.id, false);
                    let _ = reply.send(Err(error.clone()));
                }
                Answer::Write { reply, .. } => {
                    if let Some(reply) = reply {
                        let _ = reply.send(Err(error.clone()));
                    }
                }
            }
        }
    }

    /// Requests that touch the state or the log but write no entry.
    fn serve_alone(&self, request: Request) {
        let core = &self.core;
        match request {
            Request::Clean { ops, reply } => {
                let result = core.check_writable().and_then(|()| {
                    core.storage.apply(ops).map_err(|error| core.storage_error(error))?;
                    // Readers go on with the old state; new ones see the keys gone.
                    let applied = core.published.load().applied;
                    let snapshot = core.storage.snapshot();
                    core.published.store(Arc::new(Published { snapshot, applied }));
                    Ok(())
                });
                let _ = reply.send(result);
            }
            Request::BeginCheckpoint { reply } => {
                let begun = core.storage.begin_flush().map(|token| CheckpointStart {
                    index: core.published.load().applied,
                    counters: core.counters.lock().clone(),
                    token,
                });
                let _ = reply.send(begun.map_err(|error| core.storage_error(error)));
            }
            Request::Purge { index, reply } => {
                // Not what a move still reads.
                let purged = core.log.purge_to(core.moves.purge_limit(index));
                let _ = reply.send(purged.map_err(|error| error.into_shard_error(core.id)));
            }
            Request::Commit { .. }
            | Request::Write { .. }
            | Request::Fence { .. }
            | Request::Barrier { .. }
            | Request::EndMove { .. }
            | Request::CleanRanges { .. }
            | Request::Cleaned { .. }
            | Request::Drop { .. }
            | Request::Dropped { .. }
            | Request::Stop => {}
        }
    }
}

fn put_op(writer: &mut OpWriter, op: &Op) {
    writer.push_stored(op.keyspace, &op.key, op.value.as_deref());
}

/// What a key and its value take in the state.
pub(crate) fn stored_size(keyspace: Keyspace, key: &[u8], value: &[u8]) -> u64 {
    let prefix = if keyspace == Keyspace::Rows { 8 } else { 0 };
    (key.len() + value.len() + prefix) as u64
}
