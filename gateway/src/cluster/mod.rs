//! The cluster around a gateway: who is a member, how shards are reached, who may change the catalog.
//!
//! Lives here: the meta service (`service`, with its durable `records`), the registry of shards (`shards`), and a gateway's own
//! place in it all (`membership`). Not here: the catalog (`crate::catalog`), moves, processes and their flags
//! (`crate::roles`). Embedded, the service is in the gateway's process; everything else is the same.

/// What of the membership is durable.
mod records;

/// The meta process's part: members, numbers, locks.
pub mod service;

/// The meta service over the network.
pub mod remote;

/// Clients of the shards, as they come and go.
pub mod shards;

/// One gateway's place in its cluster.
pub mod membership;

pub use membership::{Cluster, ClusterGuard, new_gateway};
pub use service::MetaService;
pub use shards::Shards;
