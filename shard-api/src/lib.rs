//! The vocabulary between gateway, planner and shards: ids, types, values, table descriptors, requests, errors.
//!
//! No DataFusion, no sockets, no disk. Modules in reading order.

/// Newtypes for identities.
pub mod ids;

/// SQL types by OID.
pub mod types;

/// SQL values and their representations.
pub mod value;

/// What a shard knows about a table.
pub mod descriptor;

/// Scalar expressions that travel to shards.
pub mod expr;

/// Memcomparable keys of rows and index entries.
pub mod key;

/// The stored form of a row.
pub mod row;

/// Requests and the `ShardClient` trait.
pub mod client;

/// What the operators of a fragment did.
pub mod report;

/// How copies of reference tables follow their primary copy.
pub mod copies;

/// How rows move from shard to shard.
pub mod moves;

/// Membership and locks of a cluster.
pub mod cluster;

/// Value and shard errors.
pub mod error;

/// Bounds on what is read from bytes.
mod nesting;

pub use descriptor::TableDescriptor;
pub use error::{ShardError, ValueError, ValueErrorKind};
pub use expr::ScalarExpr;
pub use ids::{LogIndex, MoveId, Oid, ShardId, SnapshotId, StorageId, TxnId};
pub use types::{SqlType, TypeMod};
pub use value::Datum;
