//! The meta process's part: members, numbers that are given once, locks.
//!
//! Lives here: the state and its rules; each connection is a `MetaSession`. What must last is written to the meta shard before it
//! is answered (`records`); the rest is known again when members have reconnected. Not here: the network.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use cortex_shard_api::{
    ShardId,
    client::ShardClient,
    cluster::{
        ClusterError, ClusterLock, Identity, Join, Joined, LockId, Member, MemberState, Members,
        MetaClient, Report, Role,
    },
};
use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, watch};

use super::records::{Records, ShardRecord};
use crate::exec::gateway::now_micros;

/// How long a process waits for its twin to end: one whose host has vanished is given up by then.
const TWIN_WAIT: Duration = Duration::from_secs(8);

/// Gateways that went away are shown so long.
const GONE_SHOWN: Duration = Duration::from_secs(600);

/// Waiters for one lock; more are refused at once.
const LOCK_QUEUE_MAX: usize = 10_000;

/// Starts of gateways: a number must fit into the high bits of a transaction's (`membership::TXN_BITS`).
pub(crate) const GATEWAYS_MAX: u32 = 1 << 21;

/// Length of an address; a DNS name has 253 characters.
const ADDRESS_MAX: usize = 300;

/// The service of one meta shard.
#[derive(Debug)]
pub struct MetaService {
    meta: Arc<dyn ShardClient>,
    /// Changed by one at a time; the guard is for two processes that both think they are it.
    records: AsyncMutex<Records>,
    state: Mutex<State>,
    /// Counts up with every change that anybody may wait for.
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    revision: u64,
    members: BTreeMap<(Role, u32), Known>,
    locks: BTreeMap<ClusterLock, Holder>,
    queues: BTreeMap<ClusterLock, VecDeque<u64>>,
    next: u64,
}

/// A member as the service knows it.
#[derive(Debug)]
struct Known {
    node: Option<Identity>,
    run: u64,
    address: String,
    is_draining: bool,
    /// What it said last; what is shown also depends on the connection.
    state: MemberState,
    /// Its connection.
    session: Option<u64>,
    /// When that was last there.
    seen: Instant,
    seen_micros: i64,
    catalog_version: u64,
}

impl Known {
    fn is_live(&self) -> bool {
        self.session.is_some()
    }

    fn shown(&self) -> MemberState {
        if self.is_live() { self.state } else { MemberState::Down }
    }
}

#[derive(Debug)]
struct Holder {
    id: LockId,
    session: u64,
    name: String,
}

impl State {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn of_session(&self, session: u64) -> Option<(&(Role, u32), &Known)> {
        self.members.iter().find(|(_, known)| known.session == Some(session))
    }

    /// Ends what a connection holds.
    fn end(&mut self, session: u64) {
        self.locks.retain(|_, holder| holder.session != session);
        for known in self.members.values_mut().filter(|known| known.session == Some(session)) {
            known.session = None;
            known.seen = Instant::now();
            known.seen_micros = now_micros();
            self.revision += 1;
        }
    }
}

impl MetaService {
    /// The service beside a meta shard; makes the cluster if the shard is new.
    pub async fn open(meta: Arc<dyn ShardClient>) -> Result<Arc<MetaService>, ClusterError> {
        let records = Records::open(&*meta).await?;
        let mut state = State::default();
        for (id, record) in records.shards.iter().filter(|(_, record)| !record.is_removed) {
            let known = Known {
                node: Some(record.node),
                run: 0,
                address: record.address.clone(),
                is_draining: record.is_draining,
                state: MemberState::Joining,
                session: None,
                seen: Instant::now(),
                seen_micros: 0,
                catalog_version: 0,
            };
            state.members.insert((Role::Shard, id.0), known);
        }
        // A revision of an earlier process is not mistaken for one of this.
        state.revision = now_micros().unsigned_abs();
        Ok(Arc::new(MetaService {
            meta,
            records: AsyncMutex::new(records),
            state: Mutex::new(state),
            changes: watch::Sender::new(0),
        }))
    }

    /// A connection. It lives until it is dropped: over the network, with the link.
    pub fn connect(self: &Arc<MetaService>) -> Arc<MetaSession> {
        let id = self.state.lock().number();
        Arc::new(MetaSession { service: self.clone(), id })
    }

    /// The cluster's identity.
    pub async fn cluster(&self) -> Identity {
        self.records.lock().await.head.cluster
    }

    /// Makes embedded shards members: they are up for as long as the process is.
    pub fn embed(&self, shards: impl IntoIterator<Item = ShardId>) {
        let mut state = self.state.lock();
        for id in shards {
            let session = state.number();
            let registered = state.members.get(&(Role::Shard, id.0));
            let is_draining = registered.is_some_and(|known| known.is_draining);
            let known = Known {
                node: None,
                run: 0,
                address: String::new(),
                is_draining,
                state: MemberState::Up,
                session: Some(session),
                seen: Instant::now(),
                seen_micros: now_micros(),
                catalog_version: 0,
            };
            state.members.insert((Role::Shard, id.0), known);
        }
        state.revision += 1;
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// Waits for a change.
    async fn wait(changes: &mut watch::Receiver<u64>, limit: Duration) {
        // The sender lives as long as the service, and whoever waits has that.
        let _ = tokio::time::timeout(limit, changes.changed()).await;
    }
}

fn refused(message: String) -> ClusterError {
    ClusterError::Refused { message }
}

/// A member's connection; what it holds ends when this is dropped.
#[derive(Debug)]
pub struct MetaSession {
    service: Arc<MetaService>,
    id: u64,
}

impl Drop for MetaSession {
    fn drop(&mut self) {
        self.service.state.lock().end(self.id);
        self.service.changed();
    }
}

impl MetaSession {
    /// Waits until no other process with the same identity is up: one whose host has vanished is noticed a little later.
    async fn refuse_twins(&self, join: &Join) -> Result<(), ClusterError> {
        let begun = Instant::now();
        let mut changes = self.service.changes.subscribe();
        loop {
            let twin = {
                let state = self.service.state.lock();
                let twin = state.members.iter().find(|((role, _), known)| {
                    *role == join.role
                        && known.node == Some(join.node)
                        && known.run != join.run
                        && known.is_live()
                });
                twin.map(|((_, id), known)| (*id, known.address.clone()))
            };
            let Some((id, address)) = twin else { return Ok(()) };
            let left = TWIN_WAIT.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Err(refused(format!(
                    "{} {id} is running already, at {address}: two processes cannot have one data \
                     directory (or a copy of it)",
                    join.role
                )));
            }
            MetaService::wait(&mut changes, left).await;
        }
    }

    /// The shard's id: known by its node, or the next one.
    async fn register_shard(&self, join: &Join) -> Result<u32, ClusterError> {
        let mut records = self.service.records.lock().await;
        let found = records.shards.iter().find(|(_, record)| record.node == join.node);
        let (id, record) = match found.map(|(id, record)| (*id, record.clone())) {
            Some((id, record)) if record.is_removed => {
                return Err(refused(format!(
                    "shard {id} was removed from the cluster: start with a new data directory to \
                     add a shard"
                )));
            }
            Some((id, _)) if join.member.is_some_and(|member| member != id.0) => {
                return Err(refused(format!(
                    "the data directory says shard {}, but the cluster knows it as shard {id}",
                    join.member.unwrap_or_default()
                )));
            }
            Some((id, record)) if record.address == join.address => return Ok(id.0),
            Some((id, record)) => (id, ShardRecord { address: join.address.clone(), ..record }),
            None if join.member.is_some() => {
                return Err(refused(format!(
                    "the data directory says shard {}, which the cluster does not know: was the \
                     meta data directory replaced?",
                    join.member.unwrap_or_default()
                )));
            }
            None => {
                let record = ShardRecord {
                    node: join.node,
                    address: join.address.clone(),
                    is_draining: false,
                    is_removed: false,
                };
                (ShardId(records.head.next_shard), record)
            }
        };
        let mut head = records.head.clone();
        head.next_shard = head.next_shard.max(id.0 + 1);
        records.change(&*self.service.meta, head, Some((id, record))).await?;
        Ok(id.0)
    }

    /// A number that no other start of a gateway gets.
    async fn number_gateway(&self, join: &Join) -> Result<u32, ClusterError> {
        let mut records = self.service.records.lock().await;
        let next = records.head.next_gateway;
        match join.member {
            // It has one from before the connection was lost.
            Some(number) if number < next => return Ok(number),
            Some(number) => {
                return Err(refused(format!("gateway {number} is from another cluster")));
            }
            None => {}
        }
        if next >= GATEWAYS_MAX {
            let limit = format!("gateways were started more than {GATEWAYS_MAX} times");
            return Err(refused(limit));
        }
        let mut head = records.head.clone();
        head.next_gateway += 1;
        records.change(&*self.service.meta, head, None).await?;
        Ok(next)
    }

    /// The first record of a shard in this process, which never registers.
    fn embedded(&self, shard: ShardId) -> Option<ShardRecord> {
        let state = self.service.state.lock();
        let known = state.members.get(&(Role::Shard, shard.0))?;
        (known.node.is_none() && known.address.is_empty()).then(|| ShardRecord {
            node: Identity([0; 16]),
            address: String::new(),
            is_draining: false,
            is_removed: false,
        })
    }

    async fn change_shard(
        &self,
        shard: ShardId,
        change: impl FnOnce(&mut ShardRecord),
    ) -> Result<(), ClusterError> {
        let mut records = self.service.records.lock().await;
        let found = records.shards.get(&shard).filter(|record| !record.is_removed);
        let Some(mut record) = found.cloned().or_else(|| self.embedded(shard)) else {
            return Err(refused(format!("shard {shard} is not registered")));
        };
        change(&mut record);
        let head = records.head.clone();
        records.change(&*self.service.meta, head, Some((shard, record.clone()))).await?;
        drop(records);
        {
            let mut state = self.service.state.lock();
            state.revision += 1;
            let key = (Role::Shard, shard.0);
            if record.is_removed {
                state.members.remove(&key);
            } else if let Some(known) = state.members.get_mut(&key) {
                known.is_draining = record.is_draining;
            }
        }
        self.service.changed();
        Ok(())
    }

    /// Takes its place at the head of the queue, if the lock is free.
    fn try_lock(&self, lock: ClusterLock, ticket: u64, id: LockId) -> Result<LockId, String> {
        let mut state = self.service.state.lock();
        if let Some(holder) = state.locks.get(&lock) {
            return Err(holder.name.clone());
        }
        if state.queues.get(&lock).and_then(|queue| queue.front()).is_some_and(|it| *it != ticket) {
            return Err("another session".to_owned());
        }
        let name = state.of_session(self.id).map_or_else(
            || "a process that is not a member".to_owned(),
            |((role, id), _)| format!("{role} {id}"),
        );
        state.locks.insert(lock, Holder { id, session: self.id, name });
        Ok(id)
    }

    /// Takes a lock by a name that the caller has drawn: it can let go what it does not know to have.
    pub(super) async fn lock_as(
        &self,
        lock: ClusterLock,
        id: LockId,
        wait: Duration,
    ) -> Result<LockId, ClusterError> {
        let until = Instant::now() + wait;
        let mut changes = self.service.changes.subscribe();
        let ticket = {
            let mut state = self.service.state.lock();
            let number = state.number();
            let queue = state.queues.entry(lock).or_default();
            if queue.len() >= LOCK_QUEUE_MAX {
                return Err(ClusterError::Locked { holder: format!("{LOCK_QUEUE_MAX} others") });
            }
            queue.push_back(number);
            Ticket { service: &self.service, lock, number }
        };
        loop {
            changes.mark_unchanged();
            let holder = match self.try_lock(lock, ticket.number, id) {
                Ok(id) => return Ok(id),
                Err(holder) => holder,
            };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ClusterError::Locked { holder });
            }
            MetaService::wait(&mut changes, left).await;
        }
    }
}

/// A place in a lock's queue, until the wait ends, however it ends.
struct Ticket<'a> {
    service: &'a MetaService,
    lock: ClusterLock,
    number: u64,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if let Some(queue) = self.service.state.lock().queues.get_mut(&self.lock) {
            queue.retain(|number| *number != self.number);
        }
        self.service.changed();
    }
}

#[async_trait]
impl MetaClient for MetaSession {
    async fn join(&self, join: Join) -> Result<Joined, ClusterError> {
        if join.address.len() > ADDRESS_MAX {
            return Err(refused("the address is too long".to_owned()));
        }
        let cluster = self.service.cluster().await;
        if let Some(other) = join.cluster.filter(|other| *other != cluster) {
            return Err(refused(format!(
                "the data directory belongs to cluster {other}, and this is cluster {cluster}"
            )));
        }
        self.refuse_twins(&join).await?;
        let member = match join.role {
            Role::Shard => self.register_shard(&join).await?,
            Role::Gateway => self.number_gateway(&join).await?,
        };
        {
            let mut state = self.service.state.lock();
            state.revision += 1;
            let draining = state.members.get(&(join.role, member)).map(|it| it.is_draining);
            let known = Known {
                node: Some(join.node),
                run: join.run,
                address: join.address,
                is_draining: draining.unwrap_or(false),
                state: MemberState::Joining,
                session: Some(self.id),
                seen: Instant::now(),
                seen_micros: now_micros(),
                catalog_version: 0,
            };
            state.members.insert((join.role, member), known);
        }
        self.service.changed();
        Ok(Joined { cluster, member })
    }

    async fn report(&self, report: Report) -> Result<(), ClusterError> {
        {
            let mut state = self.service.state.lock();
            let mut is_new = false;
            if let Some(known) =
                state.members.values_mut().find(|known| known.session == Some(self.id))
            {
                let said = match report {
                    Report::Up => MemberState::Up,
                    Report::Leaving => MemberState::Leaving,
                    Report::Catalog(version) => {
                        known.catalog_version = known.catalog_version.max(version);
                        known.state
                    }
                };
                is_new = said != known.state;
                known.state = said;
            }
            state.revision += u64::from(is_new);
        }
        self.service.changed();
        Ok(())
    }

    async fn members(&self, known: u64, wait: Duration) -> Result<Members, ClusterError> {
        let until = Instant::now() + wait;
        let mut changes = self.service.changes.subscribe();
        while self.service.state.lock().revision == known && Instant::now() < until {
            let left = until.saturating_duration_since(Instant::now());
            MetaService::wait(&mut changes, left).await;
        }
        let mut state = self.service.state.lock();
        state.members.retain(|(role, _), known| {
            *role == Role::Shard || known.is_live() || known.seen.elapsed() < GONE_SHOWN
        });
        let shown = state.members.iter().map(|((role, id), known)| Member {
            role: *role,
            id: *id,
            address: known.address.clone(),
            state: known.shown(),
            is_draining: known.is_draining,
            seen_micros: if known.is_live() { now_micros() } else { known.seen_micros },
            catalog_version: known.catalog_version,
        });
        Ok(Members { revision: state.revision, members: shown.collect() })
    }

    async fn lock(&self, lock: ClusterLock, wait: Duration) -> Result<LockId, ClusterError> {
        self.lock_as(lock, LockId(rand::random()), wait).await
    }

    fn unlock(&self, lock: LockId) {
        self.service.state.lock().locks.retain(|_, holder| holder.id != lock);
        self.service.changed();
    }

    async fn holds(&self, lock: LockId) -> Result<bool, ClusterError> {
        Ok(self.service.state.lock().locks.values().any(|holder| holder.id == lock))
    }

    async fn await_catalog(&self, version: u64, wait: Duration) -> Result<Vec<u32>, ClusterError> {
        let until = Instant::now() + wait;
        let mut changes = self.service.changes.subscribe();
        loop {
            changes.mark_unchanged();
            let missing: Vec<u32> = {
                let state = self.service.state.lock();
                let missing = state.members.iter().filter(|((role, _), known)| {
                    *role == Role::Gateway
                        && known.session != Some(self.id)
                        && known.shown() == MemberState::Up
                        && known.catalog_version < version
                });
                missing.map(|((_, id), _)| *id).collect()
            };
            let left = until.saturating_duration_since(Instant::now());
            if missing.is_empty() || left.is_zero() {
                return Ok(missing);
            }
            MetaService::wait(&mut changes, left).await;
        }
    }

    async fn set_draining(&self, shard: ShardId, is_draining: bool) -> Result<(), ClusterError> {
        self.change_shard(shard, |record| record.is_draining = is_draining).await
    }

    async fn remove_shard(&self, shard: ShardId) -> Result<(), ClusterError> {
        self.change_shard(shard, |record| record.is_removed = true).await
    }
}
