//! Placeholder while dependencies build.

/// The shard log: segments, group commit, recovery.
pub mod log;

/// Runs fragments of distributed plans.
pub mod exec;
