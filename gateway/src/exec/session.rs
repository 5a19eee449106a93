//! The SQL side of one connection: its settings, its transaction, and which module runs a statement.
//!
//! Lives here: the order of things around a statement (failed transactions, implicit transactions, commit). Not here: what
//! statements do (`query`, `fast`, `write`, `ddl`, `copy_*`, `utility`), bytes (`crate::session`).

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use cortex_functions::session::{EvalContext, Stop};
use cortex_planner::catalog::{Catalog, Namespace};
use cortex_shard_api::{Datum, SqlType, client::RequestContext, value::ValueSettings};

use super::{
    activity::{Activity, ActivityHandle},
    cursor::Cursors,
    gateway::{Gateway, now_micros},
    plan::{Plan, PreparedPlan},
    session_functions::SessionHandle,
    settings::Settings,
    transaction::{Block, Transaction},
};
use crate::{
    catalog::{CatalogTransaction, transaction::CatalogSavepoint},
    error::{PgError, SqlState},
    parse::{self, Parsed},
    statement::{
        CommitShield, Execution, Notice, ParsedStatement, Prepared, Shielded, SqlSession,
        TransactionStatus,
    },
};

/// One connection's SQL state.
#[derive(Debug)]
pub(crate) struct Session {
    pub gateway: Arc<Gateway>,
    pub settings: Settings,
    pub transaction: Option<Transaction>,
    /// The transaction's own version of the catalog, from its first schema change.
    pub ddl: Option<CatalogTransaction>,
    /// Versions of catalog and settings at each savepoint, by its mark.
    pub saved: BTreeMap<u32, Saved>,
    pub cursors: Cursors,
    pub notices: Vec<Notice>,
    pub deallocated: Vec<Option<String>>,
    /// PREPARE's statements.
    pub named: BTreeMap<String, Arc<Prepared>>,
    pub activity: Arc<ActivityHandle>,
    /// Where a running COPY gives the transaction back.
    pub lent: Option<super::copy::Lent>,
    /// What functions see of this session while a plan runs.
    pub functions: Arc<SessionHandle>,
    pub user: String,
    /// Tells the wire when a statement must not be dropped.
    pub shield: Arc<CommitShield>,
}

/// What ROLLBACK TO SAVEPOINT restores besides rows.
#[derive(Clone, Debug)]
pub(crate) struct Saved {
    pub settings: BTreeMap<String, String>,
    pub ddl: Option<CatalogSavepoint>,
}

impl Session {
    pub fn new(
        gateway: Arc<Gateway>,
        user: &str,
        process_id: i32,
        settings: Settings,
    ) -> Result<Session, PgError> {
        let now = now_micros();
        let activity = Activity {
            process_id,
            user: user.to_owned(),
            application_name: settings.get("application_name").unwrap_or_default(),
            started_micros: now,
            query_started_micros: now,
            state: "idle",
            query: String::new(),
        };
        let functions = SessionHandle::new(gateway.clone(), user, process_id, settings.clone());
        Ok(Session {
            activity: Arc::new(ActivityHandle::new(gateway.activities.clone(), activity)),
            lent: None,
            functions: Arc::new(functions),
            gateway,
            settings,
            transaction: None,
            ddl: None,
            saved: BTreeMap::new(),
            cursors: Cursors::default(),
            notices: Vec::new(),
            deallocated: Vec::new(),
            named: BTreeMap::new(),
            user: user.to_owned(),
            shield: Arc::default(),
        })
    }

    /// A session for a COPY FROM that runs while the wire keeps this one: it takes the transaction along, and `lent`
    /// is where it comes back.
    pub fn lend(&mut self, lent: &super::copy::Lent) -> Session {
        self.lent = Some(lent.clone());
        Session {
            shield: self.shield.clone(),
            gateway: self.gateway.clone(),
            settings: self.settings.clone(),
            transaction: self.transaction.take(),
            ddl: None,
            saved: BTreeMap::new(),
            cursors: Cursors::default(),
            notices: Vec::new(),
            deallocated: Vec::new(),
            named: BTreeMap::new(),
            activity: self.activity.clone(),
            lent: None,
            functions: self.functions.clone(),
            user: self.user.clone(),
        }
    }

    /// Takes a lent transaction back, once its COPY has ended.
    fn reclaim(&mut self) {
        if let Some(lent) = self.lent.take() {
            self.transaction = lent.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    }

    /// The catalog as the next statement sees it.
    pub fn catalog(&self) -> Arc<Catalog> {
        match &self.ddl {
            Some(ddl) => ddl.catalog().clone(),
            None => self.gateway.catalog(),
        }
    }

    pub fn namespace(&self) -> Namespace {
        self.namespace_of(&self.catalog())
    }

    /// Names looked up in one version of the catalog.
    pub fn namespace_of(&self, catalog: &Arc<Catalog>) -> Namespace {
        Namespace {
            catalog: catalog.clone(),
            search_path: self.settings.search_path(),
            system: self.functions.system_relations(catalog),
        }
    }

    /// `now()` of the statement: the transaction's start, or now outside of one.
    pub fn transaction_micros(&self) -> i64 {
        self.transaction.as_ref().map_or_else(now_micros, |transaction| transaction.started_micros)
    }

    /// What expressions may see.
    pub fn eval_context(&self) -> EvalContext {
        let now = self.transaction_micros();
        EvalContext {
            settings: ValueSettings { now_micros: now, ..self.settings.value_settings().clone() },
            transaction_micros: now,
            session: Some(self.functions.clone()),
            stop: Stop::default(),
        }
    }

    /// What requests to shards have in common.
    pub fn request_base(&self) -> RequestContext {
        RequestContext {
            txn: None,
            mark: self.transaction.as_ref().map_or(0, |transaction| transaction.mark),
            snapshot: None,
            now_micros: self.transaction_micros(),
            lock_timeout: self.settings.lock_timeout(),
            timeout: self.settings.statement_timeout(),
        }
    }

    /// The open transaction; begins an implicit one if there is none.
    pub fn ensure_transaction(&mut self) -> &mut Transaction {
        if self.transaction.is_none() {
            self.begin(Block::Implicit);
        }
        let (gateway, settings) = (&self.gateway, &mut self.settings);
        self.transaction.get_or_insert_with(|| {
            settings.begin_transaction();
            Transaction::new(gateway.next_txn(), Block::Implicit, now_micros())
        })
    }

    pub fn begin(&mut self, block: Block) {
        self.settings.begin_transaction();
        let mut transaction = Transaction::new(self.gateway.next_txn(), block, now_micros());
        transaction.read_only = self.settings.is_on("default_transaction_read_only");
        self.transaction = Some(transaction);
    }

    /// Ends the transaction: rows on every shard, then the catalog, which is the commit point of schema changes.
    pub async fn commit(&mut self) -> Result<(), PgError> {
        let Some(mut transaction) = self.transaction.take() else { return Ok(()) };
        self.saved.clear();
        self.cursors.end_transaction();
        if transaction.failed {
            self.abandon(transaction).await;
            return Ok(());
        }
        let mut ddl = self.ddl.take();
        let txn = transaction.id;
        let _shield = self.shield.raise(Shielded::Yes);
        if let Some(ddl) = &mut ddl {
            let mark = transaction.next_mark();
            let request = RequestContext { txn: Some(txn), mark, ..self.request_base() };
            let fenced = ddl.fence(&request).await;
            ddl.shards().for_each(|shard| transaction.touch(shard));
            if let Err(error) = fenced {
                self.abandon(transaction).await;
                return Err(error);
            }
        }
        // A schema change may have filled storage of reference tables wherever it went.
        let changed = if ddl.is_some() { transaction.touched() } else { transaction.references() };
        let changed = changed.clone();
        let committed =
            transaction.commit(&self.gateway.shards, self.settings.statement_timeout()).await;
        // Whatever became of it: who looks for it by way of a copy must find it.
        changed.into_iter().for_each(|shard| self.gateway.copies.changed(shard));
        let result = match (committed, ddl) {
            (Ok(()), Some(ddl)) => ddl.commit().await.map(drop),
            (Err(error), Some(ddl)) => {
                ddl.failed();
                Err(error)
            }
            (committed, None) => committed,
        };
        self.gateway.store.locks().release(txn);
        self.settings.end_transaction(result.is_ok());
        self.sync_settings();
        result
    }

    pub async fn rollback(&mut self) {
        self.note_changed_shards();
        self.saved.clear();
        self.cursors.end_transaction();
        if let Some(transaction) = self.transaction.take() {
            self.abandon(transaction).await;
        }
    }

    async fn abandon(&mut self, transaction: Transaction) {
        self.ddl = None;
        transaction.rollback(&self.gateway.shards).await;
        self.gateway.store.locks().release(transaction.id);
        self.settings.end_transaction(false);
        self.sync_settings();
    }

    /// Functions read settings while the session is busy with a statement: they have a copy.
    pub fn sync_settings(&self) {
        self.functions.set_settings(self.settings.clone());
        let name = self.settings.get("application_name").unwrap_or_default();
        self.activity.update(|activity| activity.application_name = name);
    }

    /// What `set_config` did while a statement ran.
    fn take_setting_changes(&mut self) -> Result<(), PgError> {
        let changes = self.functions.take_changes();
        if changes.is_empty() {
            return Ok(());
        }
        for (name, value, local) in changes {
            self.settings.set(&name, Some(&value), local)?;
        }
        self.sync_settings();
        Ok(())
    }

    /// 25P02 unless the statement ends the failed transaction.
    fn check_not_failed(&self, plan: &Plan) -> Result<(), PgError> {
        let failed = self.transaction.as_ref().is_some_and(|transaction| transaction.failed);
        if !failed || plan.ends_failed_transaction() {
            return Ok(());
        }
        Err(PgError::new(
            SqlState::IN_FAILED_SQL_TRANSACTION,
            "current transaction is aborted, commands ignored until end of transaction block",
        ))
    }

    /// A WARNING, unless the client asked not to see them.
    pub fn warning(&mut self, code: &'static str, message: impl Into<String>) {
        if self.settings.get("client_min_messages").as_deref() != Some("error") {
            let (severity, message) = ("WARNING", message.into());
            self.notices.push(Notice { severity, code, message, detail: None, hint: None });
        }
    }

    /// Binds a statement against the catalog as it is now.
    pub fn prepare_now(
        &mut self,
        parsed: &Parsed,
        parameters: Vec<Option<SqlType>>,
    ) -> Result<Prepared, PgError> {
        PreparedPlan::bind(self, parsed, parameters).map_err(|error| error.shifted(parsed.offset))
    }

    /// A plan made for an older catalog or another search path is made again.
    pub fn refreshed(&mut self, prepared: &Arc<Prepared>) -> Result<Arc<Prepared>, PgError> {
        let plan = PreparedPlan::of(prepared)?;
        if plan.is_current(self) {
            return Ok(prepared.clone());
        }
        let parsed = plan.parsed.clone();
        let types = prepared.parameters.iter().map(|ty| Some(*ty)).collect();
        let fresh = self.prepare_now(&parsed, types)?;
        let shape = |prepared: &Prepared| -> Vec<SqlType> {
            prepared.columns.iter().flat_map(|it| it.iter()).map(|column| column.ty.ty).collect()
        };
        if shape(&fresh) != shape(prepared) {
            return Err(PgError::new(
                SqlState::FEATURE_NOT_SUPPORTED,
                "cached plan must not change result type",
            ));
        }
        Ok(Arc::new(fresh))
    }

    /// Runs a statement with its transaction around it.
    pub async fn run(
        &mut self,
        prepared: &Arc<Prepared>,
        parameters: Vec<Datum>,
        autocommit: bool,
    ) -> Result<Execution, PgError> {
        self.reclaim();
        self.take_setting_changes()?;
        let prepared = self.refreshed(prepared)?;
        let plan = PreparedPlan::of(&prepared)?;
        self.check_not_failed(&plan.plan)?;
        self.activity.begin(&plan.parsed.sql, now_micros());
        if parameters.len() != prepared.parameters.len() {
            return Err(PgError::new(
                SqlState::PROTOCOL_VIOLATION,
                format!(
                    "bind message supplies {} parameters, but prepared statement requires {}",
                    parameters.len(),
                    prepared.parameters.len()
                ),
            ));
        }
        // Outside of a block the statements up to Sync are one transaction.
        if !autocommit && self.transaction.is_none() && plan.plan.wants_transaction() {
            self.begin(Block::Implicit);
        }
        let parameters: Arc<[Datum]> = parameters.into();
        let execution =
            Box::pin(super::dispatch(self, &prepared, plan, parameters, autocommit)).await?;
        let implicit = self.transaction.as_ref().is_some_and(|it| it.block == Block::Implicit);
        if autocommit && implicit {
            self.commit().await?;
        }
        Ok(execution)
    }
}

#[async_trait]
impl SqlSession for Session {
    fn parse(&mut self, sql: &str) -> Result<Vec<ParsedStatement>, PgError> {
        let parsed = parse::parse(sql)?;
        Ok(parsed
            .into_iter()
            .map(|it| ParsedStatement { sql: it.sql.clone(), offset: it.offset, ast: Arc::new(it) })
            .collect())
    }

    async fn prepare(
        &mut self,
        statement: &ParsedStatement,
        parameter_oids: &[u32],
    ) -> Result<Arc<Prepared>, PgError> {
        let Some(parsed) = statement.ast.downcast_ref::<Parsed>() else {
            return Err(PgError::internal("a statement of another parser"));
        };
        let types = parameter_oids
            .iter()
            .map(|oid| match *oid {
                // Unspecified, or `unknown`: found from context.
                0 | 705 => Ok(None),
                oid => SqlType::from_oid(oid).map(Some).ok_or_else(|| {
                    PgError::new(
                        SqlState::UNDEFINED_OBJECT,
                        format!("type with OID {oid} does not exist"),
                    )
                }),
            })
            .collect::<Result<Vec<_>, _>>()?;
        self.prepare_now(parsed, types).map(Arc::new)
    }

    async fn execute(
        &mut self,
        prepared: &Arc<Prepared>,
        parameters: Vec<Datum>,
        autocommit: bool,
    ) -> Result<Execution, PgError> {
        self.run(prepared, parameters, autocommit).await
    }

    async fn sync(&mut self) -> Result<(), PgError> {
        self.reclaim();
        self.take_setting_changes()?;
        let implicit = self.transaction.as_ref().is_some_and(|it| it.block == Block::Implicit);
        let result = if implicit { self.commit().await } else { Ok(()) };
        let state = match self.transaction_status() {
            TransactionStatus::Idle => "idle",
            TransactionStatus::InTransaction => "idle in transaction",
            TransactionStatus::Failed => "idle in transaction (aborted)",
        };
        self.activity.update(|activity| activity.state = state);
        result
    }

    async fn failed(&mut self) {
        self.reclaim();
        self.note_changed_shards();
        match &mut self.transaction {
            Some(transaction) if transaction.block == Block::Explicit => transaction.failed = true,
            Some(_) => self.rollback().await,
            None => {}
        }
    }

    fn transaction_status(&self) -> TransactionStatus {
        match &self.transaction {
            Some(transaction) if transaction.block == Block::Implicit => TransactionStatus::Idle,
            Some(transaction) if transaction.failed => TransactionStatus::Failed,
            Some(_) => TransactionStatus::InTransaction,
            None => TransactionStatus::Idle,
        }
    }

    fn value_settings(&self) -> ValueSettings {
        let now = self.transaction_micros();
        ValueSettings { now_micros: now, ..self.settings.value_settings().clone() }
    }

    fn object_name(&self, ty: SqlType, oid: u32) -> Option<String> {
        self.functions.object_name(ty, oid)
    }

    fn object_oid(&self, ty: SqlType, name: &str) -> Result<u32, PgError> {
        self.functions.object_oid(ty, name)
    }

    fn shield(&self) -> Arc<CommitShield> {
        self.shield.clone()
    }

    fn cursor_columns(&self, name: &str) -> Option<Arc<[cortex_planner::bind::OutputColumn]>> {
        self.cursors.columns(name).ok()
    }

    fn statement_timeout(&self) -> Option<Duration> {
        self.settings.statement_timeout()
    }

    fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    fn take_parameter_changes(&mut self) -> Vec<(String, String)> {
        self.settings.take_changes()
    }

    fn take_deallocated(&mut self) -> Vec<Option<String>> {
        std::mem::take(&mut self.deallocated)
    }

    async fn close(&mut self) {
        self.reclaim();
        self.rollback().await;
    }
}
