//! Statements executed: the SQL side of a session.
//!
//! Modules in the order in which a statement meets them. Not here: bytes (`crate::session`), what names and types mean
//! (`cortex_planner`), what happens inside a shard.

/// What all sessions share; opening a session.
pub mod gateway;

/// Statements and plans counted.
pub mod counters;

/// Settings: definitions and a session's values.
pub mod settings;

/// Who is connected.
pub mod activity;

/// One session: the order of things around a statement.
mod session;

/// Prepared statements.
mod plan;

/// Transactions over shards.
mod transaction;

/// How far copies of reference tables must be.
pub mod copies;

/// SELECT by key.
pub mod fast;

/// Statements that met a schema change.
mod rerun;

/// SELECT through DataFusion.
pub(crate) mod query;

/// SELECT without the shards that are down.
mod partial;

/// SELECT ... FOR UPDATE.
mod locking;

/// INSERT, UPDATE, DELETE.
mod write;

/// Defaults and sequences of new rows.
mod defaults;

/// Rows of batches as values.
mod rows;

/// CREATE, ALTER, DROP.
mod ddl;

/// Functions that change the cluster: `cortex.move_slots` and its like.
mod administration;

/// EXPLAIN.
mod explain;

/// COPY.
mod copy;

/// Cursors.
mod cursor;

/// Everything that runs from its AST.
mod utility;

/// What functions may ask of a session.
mod session_functions;

use std::sync::Arc;

use cortex_shard_api::Datum;

use self::{
    plan::{Plan, PreparedPlan},
    session::Session,
};
use crate::{
    error::PgError,
    statement::{Execution, Prepared},
};

/// Runs a bound statement, again if the schema changes under it.
async fn dispatch(
    session: &mut Session,
    prepared: &Arc<Prepared>,
    plan: &PreparedPlan,
    parameters: Arc<[Datum]>,
    autocommit: bool,
) -> Result<Execution, PgError> {
    match dispatch_once(session, prepared, plan, parameters.clone(), autocommit).await {
        Err(error) if error.is_stale && plan.plan.can_run_again() => {
            Box::pin(session.rerun(prepared, parameters, autocommit, error)).await
        }
        done => done,
    }
}

/// Runs a bound statement by its kind.
async fn dispatch_once(
    session: &mut Session,
    prepared: &Arc<Prepared>,
    plan: &PreparedPlan,
    parameters: Arc<[Datum]>,
    autocommit: bool,
) -> Result<Execution, PgError> {
    match &plan.plan {
        Plan::FastSelect(fast) => session.run_fast_select(fast, &parameters).await,
        Plan::Query(query) if !query.bound.locking.is_empty() => {
            session.run_locking_query(query, &plan.parameters, &parameters).await
        }
        Plan::Query(query) => session.run_query(query, &plan.parameters, &parameters).await,
        Plan::Write(write) => {
            session.run_write(write, &plan.parameters, parameters, autocommit).await
        }
        Plan::Ddl(command) => session.run_ddl(command, &plan.parsed.sql).await,
        Plan::Administration(call) => {
            session.run_administration(call, &plan.parameters, &parameters).await
        }
        Plan::Explain(inner) => session.run_explain(&plan.parsed.ast, inner, parameters).await,
        Plan::Utility => session.run_utility(prepared, &plan.parsed, autocommit).await,
    }
}
