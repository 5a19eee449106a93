//! Schema changes: driven through the session's `CatalogTransaction`.

use std::{collections::BTreeSet, sync::Arc};

use async_trait::async_trait;
use cortex_functions::session::EvalContext;
use cortex_planner::{
    bind::{
        Binder,
        ddl::{
            ColumnDefinition, DdlCommand,
            plan::{DdlEnvironment, DefaultShardBy, SchemaPlacement, table_for_query},
        },
        ddl_binder::StatementBinder,
        write::{BoundConflict, BoundInsert, BoundWrite, InsertSource},
    },
    catalog::{Catalog, Namespace},
    operators::CopyUse,
};
use cortex_shard_api::{Datum, Oid, ScalarExpr, client::RequestContext, value::text};
use futures::StreamExt;
use sqlparser::ast::{Query, Statement};

use super::{
    gateway::Gateway,
    plan::{QueryPlan, WritePlan},
    query::{QueryRun, physical_plan},
    rows::BatchRows,
    session::Session,
    session_functions::SessionHandle,
    settings::Settings,
};
use crate::{
    catalog::{CatalogTransaction, DdlContext, DdlHost, DdlOutcome, SessionInfo},
    error::PgError,
    parse::{self, Ast},
    session::auth::scram_verifier,
    statement::Execution,
};

impl Session {
    pub async fn run_ddl(
        &mut self,
        command: &DdlCommand,
        sql: &Arc<str>,
    ) -> Result<Execution, PgError> {
        self.refuse_in_read_only(command.tag())?;
        let with_columns = self.with_query_columns(command, sql)?;
        let outcome = self.change_schema(with_columns.as_ref().unwrap_or(command)).await?;
        self.notices.extend(outcome.notices);
        if let (DdlCommand::CreateTable(table), Some(created)) = (command, outcome.created)
            && let Some(query) = &table.as_query
            && query.with_data
        {
            return self.fill_table(created, &query.query, sql).await;
        }
        Ok(Execution::Command(outcome.tag.to_owned()))
    }

    /// CREATE TABLE AS with the columns of its query; `None` for other commands.
    fn with_query_columns(
        &self,
        command: &DdlCommand,
        sql: &Arc<str>,
    ) -> Result<Option<DdlCommand>, PgError> {
        let DdlCommand::CreateTable(table) = command else { return Ok(None) };
        let Some(query) = &table.as_query else { return Ok(None) };
        let namespace = self.namespace();
        let settings = self.eval_context().settings;
        let mut binder = Binder::new(&namespace, &settings, sql.clone(), Vec::new());
        let bound = binder.bind_query(&query.query)?;
        let columns = bound.columns.iter();
        let columns = columns.map(|column| ColumnDefinition::plain(&column.name, column.ty));
        let table = table_for_query(table, columns.collect())?;
        Ok(Some(DdlCommand::CreateTable(Box::new(table))))
    }

    /// One command inside the session's transaction.
    pub async fn change_schema(&mut self, command: &DdlCommand) -> Result<DdlOutcome, PgError> {
        let transaction = self.ensure_transaction();
        transaction.next_mark();
        let (txn, mark) = (transaction.id, transaction.mark);
        if self.ddl.is_none() {
            let store = self.gateway.store.clone();
            let begun = CatalogTransaction::begin(store, self.settings.lock_timeout()).await?;
            self.ddl = Some(begun);
        }
        let request = RequestContext { txn: Some(txn), mark, ..self.request_base() };
        let eval = self.eval_context();
        let catalog = self.catalog();
        let namespace = self.namespace_of(&catalog);
        let shards = self.gateway.store.cluster().placeable(&catalog);
        let host = Host {
            gateway: self.gateway.clone(),
            functions: self.functions.clone(),
            settings: self.settings.clone(),
            eval: Arc::new(eval.clone()),
            request: request.clone(),
        };
        let binder = StatementBinder { settings: &eval.settings };
        let setting = |name: &str| self.settings.get(name).unwrap_or_default();
        let role = catalog.role_by_name(&self.user).map_or(Oid::INVALID, |role| role.oid);
        let environment = DdlEnvironment {
            search_path: &namespace.search_path,
            system: &namespace.system,
            binder: &binder,
            eval: &eval,
            current_role: role,
            shards: &shards,
            default_shard_by: match setting("cortex.default_shard_by").as_str() {
                "primary_key" => DefaultShardBy::PrimaryKey,
                _ => DefaultShardBy::Home,
            },
            schema_placement: match setting("cortex.schema_placement").as_str() {
                "round_robin" => SchemaPlacement::RoundRobin,
                _ => SchemaPlacement::Home,
            },
            password_verifier: &scram_verifier,
        };
        let process_id = self.functions.process_id();
        let context = DdlContext { request, process_id, environment, host: &host };
        let Some(ddl) = &mut self.ddl else {
            return Err(PgError::internal("a schema change without its transaction"));
        };
        let outcome = ddl.execute(command, &context).await;
        self.note_changed_shards();
        outcome
    }

    /// The transaction ends on every shard that its schema changes reached, also those of a command that was interrupted.
    pub fn note_changed_shards(&mut self) {
        if let (Some(ddl), Some(transaction)) = (&self.ddl, &mut self.transaction) {
            ddl.shards().for_each(|shard| transaction.touch(shard));
        }
    }

    /// CREATE TABLE ... AS: the rows of the query into the new table.
    async fn fill_table(
        &mut self,
        created: Oid,
        query: &Query,
        sql: &Arc<str>,
    ) -> Result<Execution, PgError> {
        let namespace = self.namespace();
        let settings = self.eval_context().settings;
        let mut binder = Binder::new(&namespace, &settings, sql.clone(), Vec::new());
        let bound = binder.bind_query(query)?;
        let Some(table) = namespace.catalog.tables.get(&created).cloned() else {
            return Err(PgError::internal("the new table is not in the catalog"));
        };
        let row = bound.columns.iter().enumerate();
        let row = row.map(|(position, column)| ScalarExpr::Column { position, ty: column.ty });
        let insert = BoundInsert {
            table,
            source: InsertSource::Query { row: row.collect(), query: Box::new(bound) },
            on_conflict: BoundConflict::Fail,
            returning: None,
        };
        let written = self
            .run_write(
                &WritePlan::new(BoundWrite::Insert(insert)),
                &[],
                Arc::from(Vec::<Datum>::new()),
                false,
            )
            .await?;
        match written {
            Execution::Command(tag) => {
                let rows = tag.rsplit(' ').next().unwrap_or("0").to_owned();
                Ok(Execution::Command(format!("SELECT {rows}")))
            }
            other => Ok(other),
        }
    }
}

/// Runs the queries that check existing rows, inside the session's transaction.
struct Host {
    gateway: Arc<Gateway>,
    functions: Arc<SessionHandle>,
    settings: Settings,
    eval: Arc<EvalContext>,
    request: RequestContext,
}

#[async_trait]
impl DdlHost for Host {
    async fn first_row(
        &self,
        catalog: &Arc<Catalog>,
        sql: &str,
    ) -> Result<Option<Vec<Option<String>>>, PgError> {
        let query = self.bind(catalog, sql)?;
        let run = QueryRun::new(
            &self.gateway,
            &self.settings,
            self.eval.clone(),
            self.request.clone(),
            CopyUse::PrimaryOnly,
            BTreeSet::new(),
        )?;
        let physical = physical_plan(&run, &query, &[], &[]).await?;
        let mut batches = run.stream(physical);
        let types: Vec<_> = query.bound.columns.iter().map(|column| column.ty.ty).collect();
        while let Some(batch) = batches.next().await {
            let batch = batch?;
            if batch.num_rows() == 0 {
                continue;
            }
            let row = BatchRows::new(&batch, &types).row(0)?;
            let printed = row.iter().zip(&types).map(|(value, ty)| {
                let mut shown = String::new();
                text::format(value, *ty, &self.eval.settings, &mut shown);
                (!matches!(value, Datum::Null)).then_some(shown)
            });
            return Ok(Some(printed.collect()));
        }
        Ok(None)
    }
}

impl Host {
    /// The query over a version of the catalog that is not published yet.
    fn bind(&self, catalog: &Arc<Catalog>, sql: &str) -> Result<QueryPlan, PgError> {
        let parsed = parse::parse(sql)?;
        let Some(Ast::Sql(statement)) = parsed.first().map(|parsed| &*parsed.ast) else {
            return Err(PgError::internal("a validation query that is no query"));
        };
        let Statement::Query(query) = &**statement else {
            return Err(PgError::internal("a validation query that is no query"));
        };
        let namespace = Namespace {
            catalog: catalog.clone(),
            search_path: self.settings.search_path(),
            system: self.functions.system_relations(catalog),
        };
        let settings = self.eval.settings.clone();
        let mut binder = Binder::new(&namespace, &settings, sql.into(), Vec::new());
        Ok(QueryPlan::new(binder.bind_query(query)?))
    }
}
