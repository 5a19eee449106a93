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

/// Tables whose rows are on their way.
pub mod changes;

/// A session's uncommitted schema changes.
pub mod transaction;

/// Work on shards that a schema change needs.
mod work;

/// What system relations and functions ask of the session they run in.
pub mod session_info;

/// System relations: pg_catalog, information_schema and cortex.
pub mod relations;

/// Which functions change the cluster.
pub mod administration;

/// Functions that ask the catalog.
pub mod functions;

pub use locks::TableLocks;
pub use relations::{MadeRows, SystemCatalog};
pub use session_info::{ActivityRow, SessionInfo, SettingRow};
pub use store::CatalogStore;
pub use transaction::{CatalogSavepoint, CatalogTransaction, DdlContext, DdlHost, DdlOutcome};
