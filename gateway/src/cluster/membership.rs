//! One gateway's place in its cluster: its number, the members it knows, and the locks it takes.
//!
//! What it knows of the others is a copy that a task keeps up to date. While the meta process is away the copy stays as it is:
//! the gateway goes on serving, and what needs the meta process fails with 58000.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use arc_swap::ArcSwap;
use cortex_planner::catalog::Catalog;
use cortex_shard_api::{
    ShardId,
    client::ShardClient,
    cluster::{
        ClusterError, ClusterLock, Identity, Join, Joined, LockId, MemberState, Members,
        MetaClient, Report, Role,
    },
    descriptor::Placement,
};

use super::{MetaService, Shards};
use crate::error::{PgError, SqlState};

/// Low bits of a transaction's number: the counter of one start of a gateway. The rest, without bit 63, is the start's number.
/// At a hundred thousand transactions a second they last for a year.
pub(crate) const TXN_BITS: u32 = 42;

/// How long the meta process holds a question for members that has no news.
const QUESTION_WAIT: Duration = Duration::from_secs(2);

/// Pause after a question that failed.
const PAUSE: Duration = Duration::from_millis(200);

/// See the module.
#[derive(Debug)]
pub struct Cluster {
    pub shards: Shards,
    meta: Arc<dyn MetaClient>,
    identity: Identity,
    number: u32,
    members: ArcSwap<Members>,
}

/// A lock of the cluster, until this is dropped.
#[derive(Debug)]
pub struct ClusterGuard {
    meta: Arc<dyn MetaClient>,
    id: LockId,
}

impl ClusterGuard {
    /// Whether the lock has not been lost meanwhile, with the connection to the meta process.
    pub async fn is_held(&self) -> Result<bool, PgError> {
        Ok(self.meta.holds(self.id).await?)
    }
}

impl Drop for ClusterGuard {
    fn drop(&mut self) {
        self.meta.unlock(self.id);
    }
}

/// A gateway that has just started, reached at this address; empty: in the process of who asks.
pub fn new_gateway(address: String) -> Join {
    Join {
        role: Role::Gateway,
        node: Identity(rand::random()),
        run: rand::random(),
        cluster: None,
        member: None,
        address,
    }
}

impl Cluster {
    /// The cluster of one process: these shards, the meta shard included, and a meta service of its own.
    pub async fn embedded(clients: Vec<Arc<dyn ShardClient>>) -> Result<Arc<Cluster>, PgError> {
        let shards = Shards::new(clients);
        let service = MetaService::open(shards.get(ShardId::META)?).await?;
        service.embed(shards.data());
        Cluster::beside(&service, shards).await
    }

    /// A gateway in the process of the meta service.
    pub async fn beside(
        service: &Arc<MetaService>,
        shards: Shards,
    ) -> Result<Arc<Cluster>, PgError> {
        let meta: Arc<dyn MetaClient> = service.connect();
        let cluster = Cluster::join(meta, shards, new_gateway(String::new())).await?;
        cluster.report(Report::Up).await?;
        Ok(cluster)
    }

    /// Joins as a gateway. The members' clients are the caller's to keep in `shards`.
    pub async fn join(
        meta: Arc<dyn MetaClient>,
        shards: Shards,
        join: Join,
    ) -> Result<Arc<Cluster>, PgError> {
        let joined = meta.join(join).await?;
        Cluster::joined(meta, shards, joined).await
    }

    /// A gateway that has joined.
    pub async fn joined(
        meta: Arc<dyn MetaClient>,
        shards: Shards,
        joined: Joined,
    ) -> Result<Arc<Cluster>, PgError> {
        let members = meta.members(0, Duration::ZERO).await?;
        Ok(Arc::new(Cluster {
            shards,
            meta,
            identity: joined.cluster,
            number: joined.member,
            members: ArcSwap::from_pointee(members),
        }))
    }

    /// Keeps the members up to date, and tells `changed` of them, until the cluster is dropped.
    pub fn follow(self: &Arc<Cluster>, changed: impl Fn(&Cluster, &Members) + Send + 'static) {
        let meta = self.meta.clone();
        let cluster: Weak<Cluster> = Arc::downgrade(self);
        let mut known = self.members().revision;
        tokio::spawn(async move {
            loop {
                let answer = meta.members(known, QUESTION_WAIT).await;
                let Some(cluster) = cluster.upgrade() else { return };
                match answer {
                    Ok(members) => {
                        if members.revision != known {
                            changed(&cluster, &members);
                        }
                        known = members.revision;
                        cluster.members.store(Arc::new(members));
                    }
                    Err(error) => {
                        tracing::debug!(%error, "the members are not known anew");
                        drop(cluster);
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        });
    }

    /// What the members were when the meta process was last asked.
    pub fn members(&self) -> Arc<Members> {
        self.members.load_full()
    }

    /// Asks the meta process now.
    pub async fn fresh_members(&self) -> Result<Arc<Members>, PgError> {
        let members = Arc::new(self.meta.members(0, Duration::ZERO).await?);
        self.members.store(members.clone());
        Ok(members)
    }

    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The number of this start: no other gateway has it, or ever had.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The first number of this gateway's transactions.
    pub(crate) fn first_txn(&self) -> u64 {
        u64::from(self.number) << TXN_BITS
    }

    pub fn meta(&self) -> &Arc<dyn MetaClient> {
        &self.meta
    }

    /// Whether another gateway may be writing.
    pub fn has_other_gateways(&self) -> bool {
        let members = self.members.load();
        let mut others = members.gateways().filter(|it| it.id != self.number);
        others.any(|it| it.state != MemberState::Down)
    }

    /// Data shards that new tables may be placed on: those that are not being emptied and have all reference tables, which
    /// any table may refer to.
    pub fn placeable(&self, catalog: &Catalog) -> Vec<ShardId> {
        let members = self.members.load();
        let is_draining = |id: &ShardId| members.shards().any(|it| it.id == id.0 && it.is_draining);
        let lacks_copies = |id: &ShardId| {
            catalog.tables.values().any(|table| {
                matches!(&table.descriptor.placement, Placement::Reference(copies) if !copies.contains(id))
            })
        };
        let all = self.shards.data();
        all.into_iter().filter(|id| !is_draining(id) && !lacks_copies(id)).collect()
    }

    pub async fn report(&self, report: Report) -> Result<(), PgError> {
        Ok(self.meta.report(report).await?)
    }

    /// Takes a lock of the cluster. `None`: somebody else had it all the time.
    pub async fn lock(
        &self,
        lock: ClusterLock,
        wait: Duration,
    ) -> Result<Option<ClusterGuard>, PgError> {
        match self.meta.lock(lock, wait).await {
            Ok(id) => Ok(Some(ClusterGuard { meta: self.meta.clone(), id })),
            Err(ClusterError::Locked { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl From<ClusterError> for PgError {
    fn from(error: ClusterError) -> PgError {
        match error {
            ClusterError::Shard(error) => error.into(),
            ClusterError::Unavailable { .. } => {
                PgError::new(SqlState::SYSTEM_ERROR, error.to_string()).with_hint(
                    "Reads and writes of rows go on; schema changes, moves and new members wait for it.",
                )
            }
            ClusterError::Refused { message } => {
                PgError::new(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message)
            }
            ClusterError::Locked { holder } => PgError::new(
                SqlState::LOCK_NOT_AVAILABLE,
                format!("{holder} holds the lock of the cluster"),
            ),
        }
    }
}
