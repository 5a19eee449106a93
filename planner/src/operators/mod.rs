//! Table providers and operators that reach over shards.
//!
//! Lives here: how tables enter a DataFusion plan (`table`), what a statement holds open on shards (`statement`), and the
//! operator that sends a fragment to each shard (`scatter`). Not here: which shards hold what (`route`) and how far a
//! fragment reaches (`rules`).

/// Tables as DataFusion sees them.
pub mod table;

/// What one statement holds open on shards.
pub mod statement;

/// Sends a fragment to each shard.
pub mod scatter;

/// Small sides of joins, sent along with a fragment.
mod broadcast;
/// Answers without the shards that are down.
pub mod partial;

/// What a plan reads, opened on all shards at a time.
mod open;

/// Limits inside a fragment.
mod limit;

/// DataFusion's settings for statements of the gateway.
mod session;

/// What went wrong in a plan, in our own words.
mod failure;

pub use failure::{Failure, find_error};
pub use open::open_shards;
pub use scatter::ShardFragmentExec;
pub use session::{runtime, session_config, session_state, task_context};
pub use statement::{Copies, CopyUse, StatementContext};
pub use table::{IDENTITY_KEY, IDENTITY_VERSION, has_joins, provider};
