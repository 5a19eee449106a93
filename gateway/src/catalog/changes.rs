//! Tables whose rows a schema change is moving: what `cortex.table_changes` shows to other sessions.
//!
//! An entry lives from the moment the change waits for the table to the end of its transaction, or until the change fails. It is
//! this gateway's knowledge alone and nothing depends on it but the patience of those who wait for the table (`TableLocks`).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cortex_shard_api::{Oid, TableDescriptor, TxnId, descriptor::Placement};

/// What a change does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It waits until those who write the table have ended.
    Waiting,
    /// Rows go to their new places; the old ones stay as they are and are read.
    Copying,
    /// All rows are there; the switch comes with the transaction's commit.
    Copied,
}

impl Phase {
    /// As the view shows it.
    pub const fn name(self) -> &'static str {
        match self {
            Phase::Waiting => "waiting for writers",
            Phase::Copying => "copying rows",
            Phase::Copied => "waiting for commit",
        }
    }
}

/// One table on its way.
#[derive(Clone, Debug)]
pub struct TableChange {
    pub txn: TxnId,
    pub process_id: i32,
    pub schema: String,
    pub table: String,
    pub oid: Oid,
    /// Kinds: `home`, `hash(tenant_id)`, `range(at)`, `reference`.
    pub from: String,
    pub to: String,
    pub phase: Phase,
    pub rows_done: u64,
    /// As counted when the copying began; `None` before.
    pub rows_total: Option<u64>,
    /// Microseconds since 1970-01-01 UTC.
    pub started_micros: i64,
}

/// The changes of this gateway, in the order in which they began.
#[derive(Debug, Default)]
pub struct TableChanges(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    next: u64,
    changes: BTreeMap<u64, TableChange>,
}

impl TableChanges {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the map is one insert, update or remove.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn list(&self) -> Vec<TableChange> {
        self.state().changes.values().cloned().collect()
    }

    /// Whether a transaction moves rows now: who waits for its tables waits for progress, not for ever.
    pub fn is_copying(&self, txn: TxnId) -> bool {
        let copying = |it: &TableChange| it.txn == txn && it.phase == Phase::Copying;
        self.state().changes.values().any(copying)
    }

    pub fn begin(self: &Arc<Self>, change: TableChange) -> ChangeHandle {
        let mut state = self.state();
        let id = state.next;
        state.next += 1;
        state.changes.insert(id, change);
        ChangeHandle { changes: self.clone(), id }
    }
}

/// An entry; it disappears with its handle.
#[derive(Debug)]
pub struct ChangeHandle {
    changes: Arc<TableChanges>,
    id: u64,
}

impl ChangeHandle {
    fn update(&self, change: impl FnOnce(&mut TableChange)) {
        self.changes.state().changes.get_mut(&self.id).map(change);
    }

    pub fn copying(&self, rows_total: u64) {
        self.update(|change| {
            change.phase = Phase::Copying;
            change.rows_total = Some(rows_total);
        });
    }

    pub fn copied_rows(&self, rows: u64) {
        self.update(|change| change.rows_done += rows);
    }

    pub fn copied(&self) {
        self.update(|change| change.phase = Phase::Copied);
    }
}

impl Drop for ChangeHandle {
    fn drop(&mut self) {
        self.changes.state().changes.remove(&self.id);
    }
}

/// A table's kind as `shard_by` says it.
pub fn kind_of(table: &TableDescriptor) -> String {
    let columns = |key: &[usize]| {
        let name = |column: &usize| table.columns.get(*column).map_or("?", |it| it.name.as_str());
        key.iter().map(name).collect::<Vec<_>>().join(", ")
    };
    match &table.placement {
        Placement::Home(_) => "home".to_owned(),
        Placement::Hash { key, .. } => format!("hash({})", columns(key)),
        Placement::Range { key, .. } => format!("range({})", columns(key)),
        Placement::Reference(_) => "reference".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_lives_as_long_as_its_handle() {
        let changes = Arc::new(TableChanges::default());
        let change = TableChange {
            txn: TxnId(7),
            process_id: 1,
            schema: "public".to_owned(),
            table: "t".to_owned(),
            oid: Oid(20_000),
            from: "home".to_owned(),
            to: "hash(a)".to_owned(),
            phase: Phase::Waiting,
            rows_done: 0,
            rows_total: None,
            started_micros: 0,
        };
        let handle = changes.begin(change);
        assert!(!changes.is_copying(TxnId(7)));
        handle.copying(10);
        handle.copied_rows(4);
        handle.copied_rows(6);
        assert!(changes.is_copying(TxnId(7)) && !changes.is_copying(TxnId(8)));
        let listed = changes.list();
        assert_eq!((listed[0].rows_done, listed[0].rows_total), (10, Some(10)));
        handle.copied();
        assert!(!changes.is_copying(TxnId(7)));
        drop(handle);
        assert!(changes.list().is_empty());
    }
}
