//! From an AST and the catalog to something that runs: names and types bound, routed, distributed.
//!
//! No sockets, no disk. Modules in reading order.

/// The catalog as statements see it: an immutable, versioned snapshot.
pub mod catalog;

/// SQL as the parser reads it: precedence and what may chain.
pub mod dialect;

/// Names, types and parameters of statements; what we run ourselves (fast plans, DML).
pub mod bind;

/// Query AST to DataFusion's logical plan.
pub mod lower;

/// Predicates and shard maps to the shards that can hold matching rows.
pub mod route;

/// Rewrites of plans, in order.
pub mod rules;

/// Table providers and operators that reach over shards.
pub mod operators;

/// Plans as EXPLAIN shows them.
pub mod explain;

/// What can be wrong with a statement.
pub mod error;

pub use dialect::CortexDialect;
pub use error::{PlanError, PlanErrorKind};
