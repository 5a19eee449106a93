//! What PostgreSQL's functions, operators, casts and aggregates mean, once, for planner and shards alike.
//!
//! One registry of signatures; each has a scalar kernel over `Datum` (the truth, used by the fast path, checks and
//! defaults) and a lowering to DataFusion (vectorized where it pays, the same kernel row by row elsewhere).
//! Modules in reading order.

/// Signatures, overload resolution, casts, common types: Postgres's type system.
pub mod registry;

/// What each function computes over single values.
mod kernels;

/// Evaluates `ScalarExpr` over one row.
pub mod scalar;

/// What functions may ask of the session and the catalog, and how they reach it.
pub mod session;

/// Resolved calls, casts and aggregates as DataFusion expressions.
pub mod lower;

/// Our own errors inside DataFusion's.
pub mod failure;

/// What leaves of plans have in common.
pub mod leaf;

/// The leaf of a fragment: reads a table inside a shard.
pub mod table_scan;

/// Rows sent along with a fragment.
pub mod broadcast_rows;

/// Plans for shards.
pub mod fragment;

/// Plans for shards as bytes.
pub mod codec;

#[cfg(test)]
mod tests;
