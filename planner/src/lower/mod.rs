//! Query AST to DataFusion's logical plan.
//!
//! Lives here: SELECT in all its forms. Expressions come typed from `bind`; here they get a plan around them. DataFusion's own
//! SQL frontend is not used, because types, overloads and names are Postgres's. Modules in the order in which a query goes
//! through them.

/// WITH queries.
pub mod with;

/// FROM: relations, joins, table functions.
pub(crate) mod from;

/// SELECT: from WHERE to the select list, DISTINCT and ORDER BY.
pub(crate) mod select;

/// GROUP BY, aggregates, HAVING.
mod aggregate;

/// Window functions.
mod window;

/// Set-returning functions in the select list.
mod set_returning;

/// UNION, INTERSECT, EXCEPT and VALUES.
mod set_operation;

/// Queries: ORDER BY, LIMIT, locking around a body.
mod query;

/// Subqueries in expressions.
mod subquery;

/// Correlated subqueries that DataFusion cannot decorrelate.
mod correlated;

/// Correlated subqueries of any other shape.
mod dependent;

/// Typed expressions as DataFusion expressions.
pub(crate) mod expr;

/// Names of output columns.
pub(crate) mod output;

/// The read half of UPDATE and DELETE.
pub mod target;

/// LIMIT and OFFSET as numbers.
pub mod row_count;

/// DataFusion's rules that are safe for plans typed by us.
pub mod optimizer;

use std::sync::Arc;

use cortex_shard_api::TypeMod;
use datafusion::{
    common::Column,
    error::DataFusionError,
    logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder},
};

pub use target::TargetQuery;

use crate::{PlanError, PlanErrorKind, bind::OutputColumn, catalog::Table};

/// A SELECT that DataFusion can optimize and run.
#[derive(Clone, Debug)]
pub struct BoundQuery {
    /// Its columns are `columns`, in order; behind them stand the identity columns that `locking` names.
    pub plan: LogicalPlan,
    pub columns: Vec<OutputColumn>,
    /// FOR UPDATE and FOR SHARE: rows to lock, before LIMIT is to be trusted.
    pub locking: Vec<Locking>,
}

/// Rows of one table that the query locks.
#[derive(Clone, Debug)]
pub struct Locking {
    pub table: Arc<Table>,
    /// Positions of the identity columns in the plan's output.
    pub key_column: usize,
    pub version_column: usize,
    pub strength: LockStrength,
    pub wait: LockWait,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockStrength {
    Update,
    Share,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockWait {
    Wait,
    Nowait,
    SkipLocked,
}

/// A column of a plan with what the user knows of it.
#[derive(Clone, Debug)]
pub struct PlanColumn {
    pub name: String,
    pub ty: TypeMod,
    pub column: Column,
    pub source: (u32, i16),
}

/// A plan whose columns are known by name and type.
#[derive(Clone, Debug)]
pub struct Relational {
    pub plan: LogicalPlan,
    pub columns: Vec<PlanColumn>,
}

/// The plan with these expressions as its columns.
fn project(
    plan: LogicalPlan,
    exprs: impl IntoIterator<Item = Expr>,
) -> Result<LogicalPlan, PlanError> {
    LogicalPlanBuilder::from(plan)
        .project(exprs)
        .and_then(|builder| builder.build())
        .map_err(engine_error)
}

/// What DataFusion says about a plan that we built: our bug, unless it carries a value error.
pub(crate) fn engine_error(error: DataFusionError) -> PlanError {
    if let DataFusionError::External(inner) = &error
        && let Some(value) = inner.downcast_ref::<cortex_shard_api::ValueError>()
    {
        return PlanError::from(value.clone());
    }
    if let DataFusionError::External(inner) = &error
        && let Some(error) = inner.downcast_ref::<PlanError>()
    {
        return error.clone();
    }
    match &error {
        DataFusionError::NotImplemented(what) => PlanError::unsupported(
            format!("not supported: {what}"),
            "Rewrite the query with joins or a WITH query.",
        ),
        _ => PlanError::new(PlanErrorKind::Internal, format!("planning failed: {error}")),
    }
}
