//! Table providers and operators that reach over shards.
//!
//! Lives here: how tables enter a DataFusion plan (`table`), what a statement holds open on shards (`statement`), and the
//! operator that sends a fragment to each shard (`scatter`). Not here: which shards hold what (`route`) and how far a
//! fragment reaches (`rules`).

/// Tables as DataFusion sees them.
pub mod table;

pub use table::{IDENTITY_KEY, IDENTITY_VERSION, provider};
