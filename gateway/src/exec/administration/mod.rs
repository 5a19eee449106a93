//! Functions that change the cluster, called from SQL.
//!
//! `SELECT cortex.split_range('t', '5')`, or `SELECT * FROM cortex.rebalance_plan()`: one call, by itself. The session
//! evaluates the arguments, runs the function, and then runs the statement as a query over the rows that it returned: so WHERE,
//! ORDER BY, aliases and Describe work as for any relation. Lives here: the order of these steps, and an arm for each function.
//! Not here: which functions there are (`catalog::administration`).

/// From a statement to the call in it.
mod bind;

/// What a call returned, as a relation.
mod result;

/// Functions that change maps alone.
mod ranges;

/// Functions that change a table's kind.
mod kinds;

/// Moves, one by one.
mod moves;

/// Plans of many moves.
mod rebalance;

/// Shards that come and go.
mod shards;

use cortex_functions::scalar;
use cortex_shard_api::{Datum, MoveId, Oid, ShardId, SqlType, client::Row};

pub(super) use self::bind::{AdministrationPlan, Call};
use super::session::Session;
use crate::{
    catalog::administration::{Administration, Function},
    error::{PgError, SqlState},
    statement::Execution,
};

impl Session {
    pub async fn run_administration(
        &mut self,
        plan: &AdministrationPlan,
        types: &[SqlType],
        parameters: &[Datum],
    ) -> Result<Execution, PgError> {
        let function = plan.function;
        self.check_may_administrate(function)?;
        let eval = self.eval_context();
        let mut arguments = Vec::with_capacity(plan.arguments.len());
        for argument in &plan.arguments {
            arguments.push(scalar::evaluate(argument, &[], parameters, &eval)?);
        }
        let arguments = Arguments { function, values: arguments };
        let rows = self.call_administration(&arguments).await?;
        plan.result.set(rows)?;
        self.run_query(&plan.query, types, parameters).await
    }

    fn check_may_administrate(&self, function: &Function) -> Result<(), PgError> {
        let name = function.qualified_name();
        if self.transaction.is_some() && !function.in_block && !function.reads_only {
            return Err(PgError::new(
                SqlState::ACTIVE_SQL_TRANSACTION,
                format!("{name}() cannot run inside a transaction block"),
            )
            .with_hint("What it does could not be rolled back; call it outside of the block."));
        }
        if function.reads_only {
            return Ok(());
        }
        self.refuse_in_read_only(&format!("{name}()"))?;
        if self.catalog().role_by_name(&self.user).is_some_and(|role| role.superuser) {
            return Ok(());
        }
        Err(PgError::new(
            SqlState::INSUFFICIENT_PRIVILEGE,
            format!("permission denied for function {}", function.name),
        )
        .with_hint("Only superusers change the cluster."))
    }

    async fn call_administration(&mut self, arguments: &Arguments) -> Result<Vec<Row>, PgError> {
        match arguments.function.id {
            Administration::SplitRange => self.split_range(arguments).await.map(|()| void()),
            Administration::MergeRanges => self.merge_ranges(arguments).await.map(|()| void()),
            Administration::CreateDistributedTable => {
                self.create_distributed_table(arguments).await.map(|()| void())
            }
            Administration::CreateReferenceTable => {
                self.create_reference_table(arguments).await.map(|()| void())
            }
            Administration::UndistributeTable => {
                self.undistribute_table(arguments).await.map(|()| void())
            }
            Administration::MoveSlots => self.move_slots(arguments).await,
            Administration::MoveRange => self.move_range(arguments).await,
            Administration::MoveSchema => self.move_schema(arguments).await,
            Administration::RebalancePlan => self.rebalance_plan(arguments).await,
            Administration::RebalanceStart => self.rebalance_start(arguments).await,
            Administration::RebalanceStop => self.rebalance_stop().await,
            Administration::RebalanceStatus => self.rebalance_status().await,
            Administration::Retry => self.retry_move(arguments).await.map(|()| void()),
            Administration::Abort => self.abort_move(arguments).await.map(|()| void()),
            Administration::Verify => self.verify_move(arguments).await,
            Administration::AddShard => self.add_shard(arguments).await,
            Administration::DrainShard => self.drain_shard(arguments).await,
            Administration::RemoveShard => self.remove_shard(arguments).await.map(|()| void()),
        }
    }
}

/// 42704
fn no_move(id: impl std::fmt::Display) -> PgError {
    PgError::new(SqlState::UNDEFINED_OBJECT, format!("there is no move {id}"))
        .with_hint("SELECT * FROM cortex.rebalance_status() lists them.")
}

/// The row of a function that returns nothing.
fn void() -> Vec<Row> {
    vec![vec![Datum::Null]]
}

/// Evaluated arguments of a call.
pub(super) struct Arguments {
    function: &'static Function,
    values: Vec<Datum>,
}

impl Arguments {
    /// 22004
    fn null(&self, position: usize) -> PgError {
        let name = self.function.arguments.get(position).map_or("?", |argument| argument.name);
        PgError::new(
            SqlState::NULL_VALUE_NOT_ALLOWED,
            format!("argument \"{name}\" of {}() must not be NULL", self.function.qualified_name()),
        )
    }

    /// `None` for NULL.
    pub fn maybe_text(&self, position: usize) -> Option<&str> {
        match self.values.get(position) {
            Some(Datum::Text(text)) => Some(text),
            _ => None,
        }
    }

    pub fn text(&self, position: usize) -> Result<&str, PgError> {
        self.maybe_text(position).ok_or_else(|| self.null(position))
    }

    pub fn boolean(&self, position: usize) -> Result<bool, PgError> {
        match self.values.get(position) {
            Some(Datum::Bool(value)) => Ok(*value),
            _ => Err(self.null(position)),
        }
    }

    pub fn shard(&self, position: usize) -> Result<ShardId, PgError> {
        match self.values.get(position) {
            Some(Datum::Int4(id)) => u32::try_from(*id).map(ShardId).map_err(|_| {
                PgError::new(SqlState::INVALID_PARAMETER_VALUE, format!("there is no shard {id}"))
            }),
            _ => Err(self.null(position)),
        }
    }

    pub fn move_id(&self, position: usize) -> Result<MoveId, PgError> {
        match self.values.get(position) {
            Some(Datum::Int8(id)) => u32::try_from(*id).map(MoveId).map_err(|_| no_move(*id)),
            _ => Err(self.null(position)),
        }
    }

    /// Of a `regclass`.
    pub fn oid(&self, position: usize) -> Result<Oid, PgError> {
        match self.values.get(position) {
            Some(Datum::Oid(oid)) => Ok(Oid(*oid)),
            _ => Err(self.null(position)),
        }
    }
}
