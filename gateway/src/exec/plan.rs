//! A statement bound to the catalog: what Parse makes, what execution runs.

use std::sync::{Arc, OnceLock};

use cortex_planner::{
    PlanError, PlanErrorKind,
    bind::{
        Binder, OutputColumn,
        ddl::DdlCommand,
        fast::FastSelect,
        write::{BoundWrite, is_write},
    },
    lower::BoundQuery,
};
use cortex_shard_api::{SqlType, TypeMod};
use datafusion::logical_expr::LogicalPlan;
use sqlparser::ast::Statement;

use super::{
    administration::{AdministrationPlan, Call},
    session::Session,
};
use crate::{
    error::{PgError, SqlState},
    parse::{Ast, Parsed, TransactionStatement},
    statement::Prepared,
};

/// How a statement runs.
#[derive(Debug)]
pub(crate) enum Plan {
    FastSelect(FastSelect),
    Query(QueryPlan),
    Write(WritePlan),
    Ddl(DdlCommand),
    /// A function that changes the cluster, and the query over what it returns.
    Administration(Box<AdministrationPlan>),
    /// Run from the AST: transactions, settings, cursors, COPY, EXPLAIN.
    Utility,
    /// EXPLAIN of a statement; its own plan is inside.
    Explain(Box<PreparedPlan>),
}

/// A bound query and, from its first execution, DataFusion's optimized plan with the parameters still open.
#[derive(Debug)]
pub(crate) struct QueryPlan {
    pub bound: BoundQuery,
    pub optimized: OnceLock<LogicalPlan>,
}

impl QueryPlan {
    pub fn new(bound: BoundQuery) -> QueryPlan {
        QueryPlan { bound, optimized: OnceLock::new() }
    }
}

/// A bound write, and the plan of the query that it reads its rows from.
#[derive(Debug)]
pub(crate) struct WritePlan {
    pub bound: BoundWrite,
    read: Option<Box<QueryPlan>>,
}

impl WritePlan {
    pub fn new(bound: BoundWrite) -> WritePlan {
        let read = bound.query().cloned().map(|query| Box::new(QueryPlan::new(query)));
        WritePlan { bound, read }
    }

    /// The query of a write that has one.
    pub fn read(&self) -> Result<&QueryPlan, PgError> {
        self.read.as_deref().ok_or_else(|| PgError::internal("a write without its query"))
    }
}

/// What `Prepared::plan` holds.
#[derive(Debug)]
pub(crate) struct PreparedPlan {
    pub parsed: Parsed,
    pub plan: Plan,
    pub parameters: Vec<SqlType>,
    /// What it was bound against.
    catalog_version: u64,
    in_ddl: bool,
    search_path: Vec<String>,
}

impl Plan {
    /// Whether the statement may run in a failed transaction, because it ends it.
    pub fn ends_failed_transaction(&self) -> bool {
        // Utility statements decide for themselves: only COMMIT, ROLLBACK and ROLLBACK TO pass `utility::run`.
        matches!(self, Plan::Utility)
    }

    /// Whether the statement may be bound and run again when the schema has changed under it.
    pub fn can_run_again(&self) -> bool {
        match self {
            Plan::FastSelect(_) | Plan::Query(_) | Plan::Write(_) => true,
            Plan::Explain(inner) => inner.plan.can_run_again(),
            _ => false,
        }
    }

    /// Whether several statements up to Sync need a transaction around this one.
    pub fn wants_transaction(&self) -> bool {
        match self {
            Plan::Administration(plan) => plan.function.in_block,
            Plan::Utility | Plan::Explain(_) => false,
            Plan::FastSelect(_) | Plan::Query(_) | Plan::Write(_) | Plan::Ddl(_) => true,
        }
    }
}

impl PreparedPlan {
    /// The plan behind a prepared statement.
    pub fn of(prepared: &Prepared) -> Result<&PreparedPlan, PgError> {
        prepared
            .plan
            .downcast_ref::<PreparedPlan>()
            .ok_or_else(|| PgError::internal("a prepared statement of another session kind"))
    }

    /// Whether catalog and search path are still those it was bound against.
    pub fn is_current(&self, session: &Session) -> bool {
        if matches!(self.plan, Plan::Utility | Plan::Ddl(_)) {
            return true;
        }
        self.in_ddl == session.ddl.is_some()
            && session.ddl.is_none()
            && self.catalog_version == session.catalog().version
            && self.search_path == session.settings.search_path()
    }

    /// Binds a statement.
    pub fn bind(
        session: &mut Session,
        parsed: &Parsed,
        parameters: Vec<Option<SqlType>>,
    ) -> Result<Prepared, PgError> {
        let bound = PreparedPlan::bind_plan(session, parsed, &parsed.ast, parameters)?;
        let columns = bound.columns(session)?;
        Ok(Prepared { parameters: bound.parameters.clone(), columns, plan: Arc::new(bound) })
    }

    fn bind_plan(
        session: &mut Session,
        parsed: &Parsed,
        ast: &Ast,
        parameters: Vec<Option<SqlType>>,
    ) -> Result<PreparedPlan, PgError> {
        // Before the names are looked up: a version that comes meanwhile must not pass for the one that they were found in.
        let catalog_version = session.catalog().version;
        let (plan, parameters) = match ast {
            Ast::Sql(statement) => bind_statement(session, &parsed.sql, statement, parameters)?,
            Ast::Ddl(command) => (Plan::Ddl((**command).clone()), Vec::new()),
            Ast::Explain { statement, .. } => {
                let inner = PreparedPlan::bind_plan(session, parsed, statement, parameters)?;
                let parameters = inner.parameters.clone();
                (Plan::Explain(Box::new(inner)), parameters)
            }
            _ => (Plan::Utility, Vec::new()),
        };
        Ok(PreparedPlan {
            parsed: parsed.clone(),
            plan,
            parameters,
            catalog_version,
            in_ddl: session.ddl.is_some(),
            search_path: session.settings.search_path(),
        })
    }

    /// Columns of the answer; `None` for statements without rows.
    fn columns(&self, session: &Session) -> Result<Option<Arc<[OutputColumn]>>, PgError> {
        Ok(match &self.plan {
            Plan::FastSelect(fast) => Some(fast.columns.clone()),
            Plan::Query(query) => Some(query.bound.columns.clone().into()),
            Plan::Write(write) => {
                write.bound.returning().map(|returning| returning.columns.clone())
            }
            Plan::Administration(plan) => Some(plan.query.bound.columns.clone().into()),
            Plan::Ddl(_) => None,
            Plan::Explain(_) => Some(text_columns(&["QUERY PLAN"])),
            Plan::Utility => utility_columns(session, &self.parsed.ast)?,
        })
    }
}

/// Text columns of SHOW and EXPLAIN.
pub(super) fn text_columns(names: &[&str]) -> Arc<[OutputColumn]> {
    names
        .iter()
        .map(|name| OutputColumn {
            name: (*name).to_owned(),
            ty: TypeMod::plain(SqlType::Text),
            source: (0, 0),
        })
        .collect()
}

/// What the utility statements that return rows describe.
fn utility_columns(session: &Session, ast: &Ast) -> Result<Option<Arc<[OutputColumn]>>, PgError> {
    Ok(match ast {
        Ast::Show { name: None } => Some(text_columns(&["name", "setting", "description"])),
        Ast::Show { name: Some(name) } => {
            let shown =
                super::settings::Settings::definition(name).map_or(name.as_str(), |it| it.name);
            Some(text_columns(&[shown]))
        }
        Ast::Fetch { cursor, discard: false, .. } => Some(session.cursors.columns(cursor)?),
        Ast::Execute { name, .. } => {
            let prepared = session.named.get(name).ok_or_else(|| no_statement(name))?;
            prepared.columns.clone()
        }
        _ => None,
    })
}

/// 26000
pub(super) fn no_statement(name: &str) -> PgError {
    PgError::new(
        SqlState::INVALID_SQL_STATEMENT_NAME,
        format!("prepared statement \"{name}\" does not exist"),
    )
}

/// Binds a query or a write, the fast forms first.
fn bind_statement(
    session: &mut Session,
    sql: &Arc<str>,
    statement: &Statement,
    parameters: Vec<Option<SqlType>>,
) -> Result<(Plan, Vec<SqlType>), PgError> {
    let namespace = session.namespace();
    let fast_path = session.settings.fast_path();
    let settings = session.eval_context().settings;
    let mut binder = Binder::new(&namespace, &settings, sql.clone(), parameters);
    let plan = match statement {
        Statement::Query(query) if let Some(call) = Call::find(query) => {
            Plan::Administration(Box::new(AdministrationPlan::bind(call, &mut binder)?))
        }
        Statement::Query(query) if is_write(query) => {
            Plan::Write(WritePlan::new(binder.bind_with_write(query, fast_path)?))
        }
        Statement::Query(query) => {
            let fast = if fast_path { binder.bind_fast_select(query) } else { None };
            match fast {
                Some(fast) => Plan::FastSelect(fast),
                None => Plan::Query(QueryPlan::new(binder.bind_query(query)?)),
            }
        }
        Statement::Insert(_) | Statement::Update(_) | Statement::Delete(_) => {
            Plan::Write(WritePlan::new(binder.bind_write(statement, fast_path)?))
        }
        other => {
            let words: Vec<String> =
                other.to_string().split_whitespace().take(2).map(str::to_uppercase).collect();
            return Err(PlanError::unsupported(
                format!("{} is not supported", words.join(" ")),
                "COMPAT.md lists the statements that are.",
            )
            .into());
        }
    };
    let types = binder.parameter_types();
    Ok((plan, types))
}

/// The COPY statement's query as a plan, for COPY (query) TO.
pub(super) fn bind_copy_query(
    session: &mut Session,
    sql: &Arc<str>,
    statement: &Statement,
) -> Result<Plan, PgError> {
    let (plan, parameters) = bind_statement(session, sql, statement, Vec::new())?;
    if !parameters.is_empty() {
        return Err(
            PlanError::new(PlanErrorKind::UndefinedParameter, "there is no parameter $1").into()
        );
    }
    Ok(plan)
}

/// Whether a utility statement may run in a failed transaction.
pub(super) fn ends_transaction(ast: &Ast) -> bool {
    matches!(
        ast,
        Ast::Transaction(
            TransactionStatement::Commit { .. }
                | TransactionStatement::Rollback { .. }
                | TransactionStatement::RollbackTo(_)
        )
    )
}
