//! What the processes of a cluster ask of the meta process: who is a member, and who may change things now.
//!
//! The meta process owns the meta shard and this service beside it. A member has one connection to it for as long as it lives;
//! what a connection holds (locks, being up) ends with it. Lives here: the vocabulary and the trait. Not here: the service
//! (`gateway::cluster`), the way over the network (`shard_rpc`), the catalog and moves, which are entries of the meta shard.
//! Nothing here makes a change safe: locks keep members from working in vain, guards and fences decide.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{error::ShardError, ids::ShardId};

/// A random identity, shown as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Identity(pub [u8; 16]);

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({self})")
    }
}

impl std::str::FromStr for Identity {
    type Err = String;

    fn from_str(text: &str) -> Result<Identity, String> {
        let wrong = || format!("\"{text}\" is not an identity of 32 hexadecimal digits");
        if text.len() != 32 || !text.is_ascii() {
            return Err(wrong());
        }
        let mut bytes = [0; 16];
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| wrong())?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
        }
        Ok(Identity(bytes))
    }
}

/// What a member does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Role {
    Shard,
    Gateway,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Shard => "shard",
            Role::Gateway => "gateway",
        })
    }
}

/// Asks to be a member, or to be one again after the connection was lost.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Join {
    pub role: Role,
    /// Of the process's data directory: drawn once. A gateway, which has none, draws one when it starts.
    pub node: Identity,
    /// Drawn when the process starts: two processes with one `node` differ in it.
    pub run: u64,
    /// The cluster that the data directory belongs to; `None`: it is new.
    pub cluster: Option<Identity>,
    /// What `Joined::member` said before: to a shard ever, to a gateway in this run.
    pub member: Option<u32>,
    /// Where others reach it, `host:port`.
    pub address: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    pub cluster: Identity,
    /// A shard's id. Of a gateway, the number of this start, which no other start gets: the high bits of its transactions.
    pub member: u32,
}

/// What a member says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// It serves.
    Up,
    /// It ends in an orderly way.
    Leaving,
    /// Gateway: it has loaded this version of the catalog; what it plans from now on is of this version or newer.
    Catalog(u64),
}

/// How a member is, as far as the meta process knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberState {
    /// Registered, and not serving yet.
    Joining,
    Up,
    /// Up, and ending in an orderly way.
    Leaving,
    Down,
}

impl fmt::Display for MemberState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MemberState::Joining => "joining",
            MemberState::Up => "up",
            MemberState::Leaving => "leaving",
            MemberState::Down => "down",
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub role: Role,
    /// `Joined::member`.
    pub id: u32,
    /// Empty: it is embedded in the gateway that asks.
    pub address: String,
    pub state: MemberState,
    /// A shard that is being emptied: it gets nothing new.
    pub is_draining: bool,
    /// When it was last connected to the meta process; microseconds since 1970-01-01 UTC, 0: not since that process started.
    pub seen_micros: i64,
    /// The newest version of the catalog that a gateway reported; 0: none.
    pub catalog_version: u64,
}

/// All members: every shard that is registered, and gateways that are, or lately were, up. By role and id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// Counts up with every change of what follows, times and versions excepted, while the meta process runs.
    pub revision: u64,
    pub members: Vec<Member>,
}

impl Members {
    pub fn shards(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.role == Role::Shard)
    }

    pub fn gateways(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.role == Role::Gateway)
    }
}

/// What one member at a time may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ClusterLock {
    /// Changing the catalog.
    Ddl,
    /// Driving moves.
    Moves,
}

/// A lock that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LockId(pub u64);

/// Why the meta process did not do something.
#[derive(Clone, Debug, thiserror::Error, Serialize, Deserialize)]
pub enum ClusterError {
    /// It cannot be reached, or the connection was lost while it was asked.
    #[error("the meta process is unavailable: {reason}")]
    Unavailable { reason: String },

    /// The process cannot be a member as it is; asking again does not help.
    #[error("{message}")]
    Refused { message: String },

    /// Somebody else held the lock for all the time.
    #[error("{holder} holds the lock")]
    Locked { holder: String },

    /// The meta shard did not do its part.
    #[error(transparent)]
    Shard(#[from] ShardError),
}

/// The meta process, as one connection of one member sees it.
///
/// Everything is answered from memory but what must last: a shard's registration and its draining, numbers that are given once.
#[async_trait]
pub trait MetaClient: Send + Sync + fmt::Debug {
    /// Becomes a member. A connection joins once; an implementation that reconnects joins again by itself.
    async fn join(&self, join: Join) -> Result<Joined, ClusterError>;

    async fn report(&self, report: Report) -> Result<(), ClusterError>;

    /// The members as soon as their revision is not `known`, or after `wait`.
    async fn members(&self, known: u64, wait: Duration) -> Result<Members, ClusterError>;

    /// Takes a lock, waiting for it in line. It ends with `unlock`, or with the connection.
    async fn lock(&self, lock: ClusterLock, wait: Duration) -> Result<LockId, ClusterError>;

    /// Lets a lock go. One that was lost is no error.
    fn unlock(&self, lock: LockId);

    /// Whether the lock has not been lost.
    async fn holds(&self, lock: LockId) -> Result<bool, ClusterError>;

    /// Returns once all other gateways that are up have reported this version of the catalog or a newer one, or after `wait`,
    /// with the numbers of those that have not.
    async fn await_catalog(&self, version: u64, wait: Duration) -> Result<Vec<u32>, ClusterError>;

    /// Marks a shard as one that is being emptied, or no longer; durable.
    async fn set_draining(&self, shard: ShardId, is_draining: bool) -> Result<(), ClusterError>;

    /// Takes a shard out of the cluster for good: its process is refused from now on. The caller knows that it is empty.
    async fn remove_shard(&self, shard: ShardId) -> Result<(), ClusterError>;
}
