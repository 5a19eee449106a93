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

use cortex_functions::scalar;
use cortex_shard_api::{Datum, Oid, SqlType, client::Row};

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
        }
    }
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

    /// Of a `regclass`.
    pub fn oid(&self, position: usize) -> Result<Oid, PgError> {
        match self.values.get(position) {
            Some(Datum::Oid(oid)) => Ok(Oid(*oid)),
            _ => Err(self.null(position)),
        }
    }
}
