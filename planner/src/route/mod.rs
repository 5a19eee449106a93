//! Routing: from predicates and shard maps to the shards that can hold matching rows, and how each finds them.
//!
//! Lives here: what a predicate says about columns (`domain`, `predicate`, `scalar`), hash and range lookup, the choice
//! between row keys and indexes (`access`), and the `Route` they yield. Not here: connections (`operators::scatter`),
//! plan rewriting (`rules`). Everything is pure. Invariant: a route may name too many shards and rows, never too few;
//! whoever uses it applies the whole predicate to what it reads.

use std::fmt;

use cortex_functions::session::EvalContext;
use cortex_shard_api::{Datum, ScalarExpr, ShardId, TableDescriptor, client::Access};
use datafusion::logical_expr::Expr;

/// How the rows are found: by row key or by an index.
mod access;

/// What a predicate says about one column, and about all of them.
pub mod domain;

/// Slots of hash tables.
mod hash;

/// DataFusion's expressions as constraints.
mod predicate;

/// Constraint and placement to a route.
mod prune;

/// Ranges of range tables.
mod range;

/// Scalar expressions as constraints.
mod scalar;

pub use access::Path;
pub use domain::Constraint;

/// Where a table is read, and how.
#[derive(Clone, Debug)]
pub struct Route {
    /// The shards that can hold matching rows, ascending, each with what it must visit. Empty: no row can match.
    pub scans: Vec<ShardScan>,
    /// Shards that hold the table at all; 1 for a reference table, of which any copy will do.
    pub n_shards: usize,
    /// Shards with a whole copy of a reference table; empty for others.
    pub replicas: Vec<ShardId>,
    /// The same way on every shard.
    pub path: Path,
}

/// What one shard visits.
#[derive(Clone, Debug)]
pub struct ShardScan {
    pub shard: ShardId,
    pub access: Access,
}

/// Routes a read by the filters of a scan, all of which must hold. Columns are found by name.
pub fn for_filters(table: &TableDescriptor, filters: &[Expr]) -> Route {
    let mut constraint = Constraint::everything();
    for filter in filters {
        constraint = constraint.and(predicate::constraint(table, filter));
    }
    prune::route(table, &constraint)
}

/// Routes a statement of our own by its predicate over whole rows; `None` is every row. Constant parts are evaluated with
/// the parameters; what cannot be evaluated narrows nothing, and its error surfaces where the predicate is applied.
pub fn for_scalar(
    table: &TableDescriptor,
    predicate: Option<&ScalarExpr>,
    parameters: &[Datum],
    context: &EvalContext,
) -> Route {
    let constraint = match predicate {
        Some(predicate) => scalar::constraint(table, predicate, parameters, context),
        None => Constraint::everything(),
    };
    prune::route(table, &constraint)
}

/// Whether a filter can narrow a scan of this table.
pub fn understands(table: &TableDescriptor, filter: &Expr) -> bool {
    !predicate::constraint(table, filter).is_everything()
}

impl Route {
    /// The one shard, if there is just one.
    pub fn single(&self) -> Option<&ShardScan> {
        match self.scans.as_slice() {
            [scan] => Some(scan),
            _ => None,
        }
    }
}

/// `One(shard 2)`, `Some(2 of 4, pruned 2)`, `All(4)`, `AnyCopy(4)` of a reference table, `None`.
impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scans.as_slice() {
            [] => write!(f, "None"),
            [_] if !self.replicas.is_empty() => write!(f, "AnyCopy({})", self.replicas.len()),
            [one] if self.n_shards > 1 => {
                write!(f, "One(shard {}, pruned {})", one.shard, self.n_shards - 1)
            }
            [one] => write!(f, "One(shard {})", one.shard),
            some if some.len() < self.n_shards => {
                let (hit, all) = (some.len(), self.n_shards);
                write!(f, "Some({hit} of {all}, pruned {})", all - hit)
            }
            all => write!(f, "All({})", all.len()),
        }
    }
}
