//! The shared lock on a table that every write holds, so that schema changes and writes do not meet.

use std::sync::Arc;

use cortex_shard_api::{Oid, TableDescriptor, TxnId, client::TableLock};

use super::Session;
use crate::{
    catalog::CatalogStore,
    error::{PgError, SqlState},
};

/// Releases the lock of a write that is its own transaction.
pub(super) struct Shared {
    store: Arc<CatalogStore>,
    txn: Option<TxnId>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(txn) = self.txn {
            self.store.locks().release(txn);
        }
    }
}

impl Session {
    /// Locks the table for the session's transaction, or for this one statement when it commits by itself.
    pub(in crate::exec) async fn share_table(
        &mut self,
        table: &Arc<TableDescriptor>,
        autocommit: bool,
    ) -> Result<impl Drop + Send + use<>, PgError> {
        let store = self.gateway.store.clone();
        let timeout = self.settings.lock_timeout();
        let (txn, own) = match &self.transaction {
            Some(transaction) => (transaction.id, None),
            // A multi-request statement begins a transaction later; its own lock is released with the guard, after the
            // statement, and the transaction's lasts until its end.
            None if autocommit => {
                let txn = self.gateway.next_txn();
                (txn, Some(txn))
            }
            None => (self.ensure_transaction().id, None),
        };
        let guard = Shared { store: store.clone(), txn: own };
        if !store.locks().try_lock(txn, table.oid, TableLock::Shared) {
            store.locks().lock(txn, table.oid, TableLock::Shared, timeout).await?;
        }
        // A schema change may have ended while this waited: the statement was bound to a table that is no more.
        let current = self.catalog().tables.get(&table.oid).map(|it| it.descriptor.clone());
        if !current.is_some_and(|it| it.version == table.version && it.storage == table.storage) {
            return Err(PgError::new(
                SqlState::SERIALIZATION_FAILURE,
                format!("table \"{}\" was changed while the statement waited for it", table.name),
            )
            .with_hint("Run the statement again.")
            .stale());
        }
        Ok(guard)
    }

    /// Waits until no schema change of these tables is under way. A transaction keeps the locks.
    pub(in crate::exec) async fn await_tables(&mut self, tables: &[Oid]) -> Result<(), PgError> {
        let store = self.gateway.store.clone();
        let timeout = self.settings.lock_timeout();
        let (txn, own) = match &self.transaction {
            Some(transaction) => (transaction.id, None),
            None => {
                let txn = self.gateway.next_txn();
                (txn, Some(txn))
            }
        };
        let _guard = Shared { store: store.clone(), txn: own };
        for table in tables {
            store.locks().lock(txn, *table, TableLock::Shared, timeout).await?;
        }
        Ok(())
    }
}
