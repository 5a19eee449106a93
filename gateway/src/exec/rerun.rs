//! Statements that met a schema change: they wait for it, are bound again, and run again.
//!
//! As in Postgres, which waits for the table's lock and then plans. A stale statement has done nothing: what it had
//! written before it met the change is undone by then (`write`), and its rows go to the client only after its end. The change
//! may be another gateway's: then this one's catalog is old, or that gateway is between its shards' commit and the catalog's,
//! or it died there. Not here: who finds out (the table lock of the gateway, the table versions of the shards).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use cortex_shard_api::{Datum, Oid};
use sqlparser::ast::Statement;

use super::{
    dispatch_once,
    plan::{Plan, PreparedPlan, bind_copy_query},
    session::Session,
    write::related,
};
use crate::{
    error::{PgError, SqlState},
    statement::{Execution, Prepared},
};

/// How often a statement is bound again. Each time another schema change must have ended while it waited, so only a
/// client that changes a table without end gets here; then 40001 tells the others.
pub(super) const RERUNS_MAX: usize = 100;

/// Between the commit of a schema change in the shards and the catalog that everybody sees there are a few milliseconds. Where
/// disks are slow there are more, so each pause is as long as the waiting before it: reruns count changes, not time.
const PAUSE_MIN: Duration = Duration::from_millis(5);

/// When it takes longer than this, whoever made the change may be gone.
const RECOVER_AFTER: Duration = Duration::from_millis(300);

/// How long a schema change under way is waited for, when something may have to be undone behind it.
const RECOVER_WAIT: Duration = Duration::from_secs(10);

/// The same for a transaction that is open: the schema change may be waiting for what it holds, a circle that no table of
/// locks shows. As long as `cortex.cross_shard_lock_timeout` is by default.
const RECOVER_WAIT_HOLDING: Duration = Duration::from_secs(1);

impl Session {
    pub(super) async fn rerun(
        &mut self,
        prepared: &Arc<Prepared>,
        parameters: Arc<[Datum]>,
        autocommit: bool,
        mut error: PgError,
    ) -> Result<Execution, PgError> {
        let mut tables = self.tables_to_await(PreparedPlan::of(prepared)?);
        let mut waiting_since = Instant::now();
        let mut last = self.catalog().version;
        for _ in 0..RERUNS_MAX {
            let before = self.catalog().version;
            self.await_tables(&tables).await?;
            self.next_version(before, &mut waiting_since).await?;
            if self.catalog().version != last {
                last = self.catalog().version;
                waiting_since = Instant::now();
            }
            let fresh = self.refreshed(prepared)?;
            let plan = PreparedPlan::of(&fresh)?;
            tables = self.tables_to_await(plan);
            match dispatch_once(self, &fresh, plan, parameters.clone(), autocommit).await {
                Err(again) if again.is_stale => error = again,
                done => return done,
            }
        }
        Err(error)
    }

    /// COPY (query) TO binds its query itself: does so again as long as the schema changes before its first row.
    pub(super) async fn rerun_copy(
        &mut self,
        sql: &Arc<str>,
        query: &Statement,
        autocommit: bool,
    ) -> Result<Execution, PgError> {
        let mut waiting_since = Instant::now();
        let mut reruns = 0;
        loop {
            let before = self.catalog().version;
            let plan = bind_copy_query(self, sql, query)?;
            match self.run_copied(plan, autocommit).await {
                Err(error) if error.is_stale && reruns < RERUNS_MAX => reruns += 1,
                done => return done,
            }
            self.next_version(before, &mut waiting_since).await?;
            if self.catalog().version != before {
                waiting_since = Instant::now();
            }
        }
    }

    /// Waits for a newer version than `before`; not for ever, for there may be none.
    async fn next_version(&self, before: u64, waiting_since: &mut Instant) -> Result<(), PgError> {
        let store = &self.gateway.store;
        if self.ddl.is_some() || store.version() != before {
            return Ok(());
        }
        store.refresh().await?;
        if store.version() != before {
            return Ok(());
        }
        if waiting_since.elapsed() < RECOVER_AFTER {
            store.changed(before, waiting_since.elapsed().max(PAUSE_MIN)).await;
            return Ok(());
        }
        // Behind whoever changes the schema now. After it there is a newer version, or nothing to undo.
        let is_open = self.transaction.is_some();
        let wait = if is_open { RECOVER_WAIT_HOLDING } else { RECOVER_WAIT };
        match store.recover(wait).await {
            Err(error) if is_open && error.code == SqlState::LOCK_NOT_AVAILABLE => {
                return Err(PgError::new(
                    SqlState::SERIALIZATION_FAILURE,
                    "could not serialize access due to a change of the schema or of the shard map",
                )
                .with_detail("The change waits, and may wait for what this transaction holds.")
                .with_hint("Run the transaction again."));
            }
            done => done?,
        }
        *waiting_since = Instant::now();
        Ok(())
    }

    /// The tables whose schema changes a statement waits for: those that it writes or locks, and those that foreign
    /// keys make it look at.
    fn tables_to_await(&self, plan: &PreparedPlan) -> Vec<Oid> {
        match &plan.plan {
            Plan::Write(write) => {
                let table = write.bound.table();
                let related = related(&self.catalog(), table);
                let related = related.iter().map(|table| table.oid);
                std::iter::once(table.descriptor.oid).chain(related).collect()
            }
            Plan::Query(query) => {
                query.bound.locking.iter().map(|it| it.table.descriptor.oid).collect()
            }
            Plan::FastSelect(fast) => vec![fast.table.descriptor.oid],
            Plan::Explain(inner) => self.tables_to_await(inner),
            Plan::Ddl(_) | Plan::Administration(_) | Plan::Utility => Vec::new(),
        }
    }
}
