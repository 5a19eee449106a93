//! The durable catalog, schema changes, and the relations that show it.
//!
//! Lives here: how a catalog version is stored and published (`store`, `format`), how a session changes it
//! (`transaction`, `work`, `locks`). Not here: what a version is and what a command does to it
//! (`planner::catalog`, `planner::bind::ddl`).

/// Entries of the meta shard.
mod format;

/// The current version, and how the next one is published.
pub mod store;

/// Table locks of this gateway's transactions.
pub mod locks;

/// A session's uncommitted schema changes.
pub mod transaction;

/// Work on shards that a schema change needs.
mod work;

pub use locks::TableLocks;
pub use store::CatalogStore;
pub use transaction::{CatalogTransaction, DdlContext, DdlHost, DdlOutcome};
