//! Sequences and hidden row ids: counters that never go back, logged ahead of their use.
//!
//! Lives here: the counters in memory and what is logged of them. A sequence's entry names a value some steps ahead, so
//! that most calls log nothing; after a crash the steps in between are a gap, as in Postgres. Values handed out are
//! covered by a durable entry first. A row id is used only in a commit that stands behind its reservation in the log, so
//! its reservation need not be waited for.

use std::{collections::HashMap, sync::Arc};

use bytes::{Buf, BufMut, Bytes};
use cortex_shard_api::{
    ShardError, ShardId, StorageId,
    client::{SequenceSpec, SequenceState, SequenceValues},
};
use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, mpsc, oneshot};

use crate::{
    storage::{Keyspace, Op, StorageSnapshot},
    txn::sequencer::{Request, storage_error},
};

/// Values logged ahead, as many as Postgres.
const LOG_AHEAD: i128 = 32;

/// Row ids reserved by one entry.
const ROW_IDS_AHEAD: u64 = 1 << 16;

/// Bits of a row id below the shard's.
const ROW_ID_SHARD_SHIFT: u32 = 48;

const SEQUENCE_PREFIX: &[u8] = b"seq/";
/// Flags of a stored sequence.
const FLAG_CALLED: u8 = 1;
const FLAG_GONE: u8 = 2;

const ROW_ID_KEY: &[u8] = b"row_id";

/// One sequence.
#[derive(Clone, Copy, Debug, Default)]
struct Counter {
    /// `None`: never used.
    state: Option<SequenceState>,
    /// What the log has.
    logged: Option<SequenceState>,
}

/// All counters of a shard.
#[derive(Default)]
pub(crate) struct Sequences {
    counters: Mutex<HashMap<StorageId, Arc<AsyncMutex<Counter>>>>,
}

/// Where the state keeps a sequence.
pub(crate) fn sequence_key(storage: StorageId) -> Bytes {
    let mut key = SEQUENCE_PREFIX.to_vec();
    key.put_u32(storage.0);
    Bytes::from(key)
}

fn sequence_op(storage: StorageId, state: SequenceState) -> Op {
    let mut value = Vec::with_capacity(17);
    value.put_i64(state.last_value);
    let (called, gone) = (u8::from(state.is_called), u8::from(state.is_gone));
    value.push((FLAG_CALLED * called) | (FLAG_GONE * gone));
    if state.turn > 0 {
        value.put_u64(state.turn);
    }
    Op { keyspace: Keyspace::Meta, key: sequence_key(storage), value: Some(Bytes::from(value)) }
}

impl Sequences {
    /// The counter of a sequence, from memory or the state.
    fn counter(
        &self,
        shard: ShardId,
        storage: StorageId,
        snapshot: &dyn StorageSnapshot,
    ) -> Result<Arc<AsyncMutex<Counter>>, ShardError> {
        let mut counters = self.counters.lock();
        if let Some(counter) = counters.get(&storage) {
            return Ok(counter.clone());
        }
        let stored = snapshot.get(Keyspace::Meta, &sequence_key(storage));
        let stored = stored.map_err(|error| storage_error(shard, error))?;
        let state = stored.and_then(|mut bytes| {
            let last_value = bytes.try_get_i64().ok()?;
            let flags = bytes.try_get_u8().ok()?;
            let (is_called, is_gone) = (flags & FLAG_CALLED != 0, flags & FLAG_GONE != 0);
            let turn = bytes.try_get_u64().unwrap_or_default();
            Some(SequenceState { last_value, is_called, is_gone, turn })
        });
        let counter = Arc::new(AsyncMutex::new(Counter { state, logged: state }));
        counters.insert(storage, counter.clone());
        Ok(counter)
    }

    /// Forgets a sequence that was dropped; its entry goes with `Dropped`.
    pub(crate) fn forget(&self, storage: StorageId) {
        self.counters.lock().remove(&storage);
    }

    /// Reserves up to `count` values, at least one: fewer where the sequence ends or turns around in between.
    pub(crate) async fn next(
        &self,
        shard: ShardId,
        spec: &SequenceSpec,
        count: u32,
        snapshot: &dyn StorageSnapshot,
        requests: &mpsc::Sender<Request>,
    ) -> Result<SequenceValues, ShardError> {
        let counter = self.counter(shard, spec.storage, snapshot)?;
        let mut counter = counter.lock().await;
        if counter.state.is_some_and(|state| state.is_gone) {
            return Err(ShardError::StaleEpoch { shard, current: 0 });
        }
        let step = advance(spec, counter.state, count)?;
        let turn = counter.state.map_or(0, |state| state.turn);
        let used = |last_value| SequenceState { last_value, is_called: true, is_gone: false, turn };
        let state = used(step.last);
        let is_covered = match (step.has_turned, counter.logged) {
            (false, Some(logged)) if logged.is_called => {
                if spec.increment > 0 {
                    step.last <= logged.last_value
                } else {
                    step.last >= logged.last_value
                }
            }
            (true | false, Some(_) | None) => false,
        };
        if !is_covered {
            let ahead = i128::from(step.last) + i128::from(spec.increment) * LOG_AHEAD;
            // Ahead, but on the sequence's own steps: what is left to the bound.
            let ahead = if ahead > i128::from(spec.max) || ahead < i128::from(spec.min) {
                step.last
            } else {
                i64::try_from(ahead).unwrap_or(step.last)
            };
            let logged = used(ahead);
            log(shard, requests, vec![sequence_op(spec.storage, logged)]).await?;
            counter.logged = Some(logged);
        }
        counter.state = Some(state);
        Ok(SequenceValues { first: step.first, count: step.count })
    }

    pub(crate) async fn set(
        &self,
        shard: ShardId,
        spec: &SequenceSpec,
        state: SequenceState,
        snapshot: &dyn StorageSnapshot,
        requests: &mpsc::Sender<Request>,
    ) -> Result<(), ShardError> {
        let storage = spec.storage;
        let counter = self.counter(shard, storage, snapshot)?;
        let mut counter = counter.lock().await;
        let kept = counter.state;
        let turn = kept.map_or(0, |kept| kept.turn);
        let stale = ShardError::StaleEpoch { shard, current: turn };
        let state = if state.turn == 0 {
            if state.is_gone || kept.is_some_and(|kept| kept.is_gone) {
                return Err(stale);
            }
            SequenceState { turn, ..state }
        } else {
            let unused = SequenceState { last_value: spec.start, ..SequenceState::default() };
            let state = if state.is_gone {
                SequenceState { is_gone: true, turn: state.turn, ..kept.unwrap_or(unused) }
            } else {
                state
            };
            if kept == Some(state) {
                // The same request again.
                return Ok(());
            }
            if Some(state.turn) != turn.checked_add(1) {
                return Err(stale);
            }
            state
        };
        log(shard, requests, vec![sequence_op(storage, state)]).await?;
        *counter = Counter { state: Some(state), logged: Some(state) };
        Ok(())
    }

    pub(crate) async fn get(
        &self,
        shard: ShardId,
        storage: StorageId,
        snapshot: &dyn StorageSnapshot,
    ) -> Result<Option<SequenceState>, ShardError> {
        let counter = self.counter(shard, storage, snapshot)?;
        let counter = counter.lock().await;
        Ok(counter.state)
    }

    /// The exact positions, so that a clean restart leaves no gap.
    pub(crate) async fn exact(&self) -> Vec<Op> {
        let counters: Vec<_> =
            self.counters.lock().iter().map(|(id, counter)| (*id, counter.clone())).collect();
        let mut ops = Vec::new();
        for (storage, counter) in counters {
            let counter = counter.lock().await;
            if let Some(state) = counter.state
                && counter.logged != Some(state)
            {
                ops.push(sequence_op(storage, state));
            }
        }
        ops
    }
}

struct Step {
    first: i64,
    last: i64,
    count: u32,
    has_turned: bool,
}

/// Postgres's nextval, several at once.
fn advance(
    spec: &SequenceSpec,
    state: Option<SequenceState>,
    count: u32,
) -> Result<Step, ShardError> {
    let (min, max) = (i128::from(spec.min), i128::from(spec.max));
    let increment = i128::from(if spec.increment == 0 { 1 } else { spec.increment });
    let mut has_turned = false;
    let mut first = match state {
        None => i128::from(spec.start),
        Some(state) if !state.is_called => i128::from(state.last_value),
        Some(state) => i128::from(state.last_value) + increment,
    };
    if first > max || first < min {
        let is_above = increment > 0;
        if !spec.cycle {
            let (bound, value) =
                if is_above { ("maximum", spec.max) } else { ("minimum", spec.min) };
            return Err(ShardError::SequenceExhausted { bound: bound.to_owned(), value });
        }
        first = if is_above { min } else { max };
        has_turned = true;
    }
    let room = if increment > 0 { max - first } else { first - min };
    let n_fitting = room / increment.abs() + 1;
    let count = n_fitting.min(i128::from(count.max(1)));
    let last = first + increment * (count - 1);
    let narrow = |value: i128| i64::try_from(value).unwrap_or(spec.max);
    Ok(Step {
        first: narrow(first),
        last: narrow(last),
        count: u32::try_from(count).unwrap_or(1),
        has_turned,
    })
}

/// Writes outside of any transaction; returns once durable and visible.
pub(crate) async fn log(
    shard: ShardId,
    requests: &mpsc::Sender<Request>,
    ops: Vec<Op>,
) -> Result<(), ShardError> {
    let (reply, answer) = oneshot::channel();
    let request = Request::Write { guard: None, ops, reply: Some(reply) };
    let stopped = || ShardError::Unavailable { shard, reason: "it is shut down".to_owned() };
    requests.send(request).await.map_err(|_closed| stopped())?;
    answer.await.map_err(|_closed| ShardError::OutcomeUnknown { shard })?.map(|_index| ())
}

/// Row ids of tables without a primary key: `[shard u16][counter u48]`, unique in the cluster.
pub(crate) struct RowIds {
    range: AsyncMutex<std::ops::Range<u64>>,
}

impl RowIds {
    pub(crate) fn load(
        shard: ShardId,
        snapshot: &dyn StorageSnapshot,
    ) -> Result<RowIds, ShardError> {
        let stored = snapshot.get(Keyspace::Meta, ROW_ID_KEY);
        let stored = stored.map_err(|error| storage_error(shard, error))?;
        let next = stored.and_then(|mut bytes| bytes.try_get_u64().ok()).unwrap_or(1);
        Ok(RowIds { range: AsyncMutex::new(next..next) })
    }

    /// The first of `count` ids in a row.
    pub(crate) async fn take(
        &self,
        shard: ShardId,
        count: u64,
        requests: &mpsc::Sender<Request>,
    ) -> Result<u64, ShardError> {
        // Held while the reservation is queued: nobody may use an id whose reservation could stand behind his commit.
        let mut range = self.range.lock().await;
        if range.start + count > range.end {
            let end = range.start + count + ROW_IDS_AHEAD;
            let value = Some(Bytes::copy_from_slice(&end.to_be_bytes()));
            let key = Bytes::from_static(ROW_ID_KEY);
            let ops = vec![Op { keyspace: Keyspace::Meta, key, value }];
            let sent = requests.send(Request::Write { guard: None, ops, reply: None }).await;
            sent.map_err(|_closed| ShardError::Unavailable {
                shard,
                reason: "it is shut down".to_owned(),
            })?;
            range.end = end;
        }
        let first = range.start;
        range.start += count;
        Ok((u64::from(shard.0 as u16) << ROW_ID_SHARD_SHIFT) | first)
    }
}
