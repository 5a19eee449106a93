//! Bulk work of DDL inside a transaction that holds its table: filling an index, rewriting a table.
//!
//! What they write belongs to the transaction like any other write, on fresh storage ids: a crash or a rollback leaves
//! nothing. They spill like any big write set.

use std::sync::Arc;

use cortex_shard_api::{
    Datum, ShardError, TableDescriptor, client::RequestContext, descriptor::IndexState, key, row,
};

use super::{
    Statement, Undo,
    constraints::{check_row, describe_key, entries, index_columns, unique_violation},
    internal,
};
use crate::{
    moves::hold::Wanted,
    scan::is_owned,
    shard::Shard,
    storage::{KeyRange, Keyspace},
    txn::{Txn, snapshot::ReadView},
};

/// Rows between two chances to spill and to let others run.
const STEP_ROWS: usize = 4096;

/// Fills `table.indexes[position]` from the table's rows.
pub(crate) async fn build_index(
    shard: &Shard,
    context: &RequestContext,
    table: &Arc<TableDescriptor>,
    position: usize,
) -> Result<(), ShardError> {
    let Some(id) = context.txn else {
        return Err(internal(shard, "an index is built outside of a transaction"));
    };
    let Some(index) = table.indexes.get(position) else {
        return Err(internal(shard, "the index to build is not in the descriptor"));
    };
    let txn = shard.transaction(id)?;
    let mut undo = Undo::new(shard, &txn, context.mark, false);
    let statement = Statement::new(shard, &txn, context, table, &[]);
    shard.hold_for_writing(&txn, table, context).await?;
    enter_whole(shard, &txn, table).await?;
    shard.note_copied(&txn, table)?;
    let view = ReadView::pin(shard.core.published.load_full(), Some(&txn));
    let live = statement.view();
    let rows = view.rows(KeyRange::prefix(&key::storage_prefix(table.storage)), false);
    for (n, stored) in rows.enumerate() {
        let stored = statement.storage(stored)?;
        if is_owned(table, &stored.key, shard.core.id) {
            let row = statement.decode(table, &stored)?;
            let (key, value) = key::index_entry(table, index, &row, &stored.key);
            if !value.is_empty() && statement.storage(live.index_entry(&key))?.is_some() {
                let detail = describe_key(table, &index_columns(index), &row);
                let detail = format!("{detail} is duplicated.");
                return Err(unique_violation(table, index.name.clone(), detail));
            }
            statement.put(Keyspace::Index, key, Some(value), None)?;
        }
        step(&statement, n).await?;
    }
    undo.is_armed = false;
    Ok(())
}

/// Writes every row of `from` as a row of `to`.
pub(crate) async fn rewrite_table(
    shard: &Shard,
    context: &RequestContext,
    from: &Arc<TableDescriptor>,
    to: &Arc<TableDescriptor>,
) -> Result<u64, ShardError> {
    let Some(id) = context.txn else {
        return Err(internal(shard, "a table is rewritten outside of a transaction"));
    };
    let txn = shard.transaction(id)?;
    let mut undo = Undo::new(shard, &txn, context.mark, false);
    let statement = Statement::new(shard, &txn, context, to, &[]);
    shard.core.fences.check_now(shard.core.id, from)?;
    shard.hold_for_writing(&txn, to, context).await?;
    enter_whole(shard, &txn, from).await?;
    shard.note_copied(&txn, to)?;
    let view = ReadView::pin(shard.core.published.load_full(), Some(&txn));
    let live = statement.view();
    let mut n_rows = 0;
    let rows = view.rows(KeyRange::prefix(&key::storage_prefix(from.storage)), false);
    for (n, stored) in rows.enumerate() {
        let stored = statement.storage(stored)?;
        if !is_owned(from, &stored.key, shard.core.id) {
            continue;
        }
        let mut row = row::decode(from, &stored.value)?;
        for column in to.columns.iter().skip(row.len()) {
            row.push(column.missing.clone());
        }
        for (value, _) in row.iter_mut().zip(&to.columns).filter(|(_, column)| column.dropped) {
            *value = Datum::Null;
        }
        check_row(to, &row, &statement.eval)?;
        let hidden = if to.primary_key.is_empty() {
            Some(shard.row_ids.take(shard.core.id, 1, &shard.requests).await?)
        } else {
            None
        };
        let key = key::row_key(to, &row, hidden)?;
        statement.check_owner(to, &key)?;
        if hidden.is_none() && statement.read(&live, &key)?.is_some() {
            let name = to.primary_key_name.clone();
            let name = name.unwrap_or_else(|| format!("{}_pkey", to.name));
            let detail = describe_key(to, &to.primary_key, &row);
            return Err(unique_violation(to, name, format!("{detail} is duplicated.")));
        }
        for entry in entries(to, &row, &key, true) {
            let Some(index) = to.indexes.get(entry.index) else { continue };
            let is_taken = entry.is_unique()
                && index.state != IndexState::DeleteOnly
                && statement.storage(live.index_entry(&entry.key))?.is_some();
            if is_taken {
                let detail = describe_key(to, &index_columns(index), &row);
                let detail = format!("{detail} is duplicated.");
                return Err(unique_violation(to, index.name.clone(), detail));
            }
            statement.put(Keyspace::Index, entry.key, Some(entry.value), None)?;
        }
        statement.put_row(to, key, &row, None)?;
        n_rows += 1;
        step(&statement, n).await?;
    }
    undo.is_armed = false;
    Ok(n_rows)
}

/// Waits while a move keeps writers from any part of the table.
async fn enter_whole(shard: &Shard, txn: &Txn, table: &TableDescriptor) -> Result<(), ShardError> {
    let holds = &shard.core.moves.holds;
    while !holds.enter(txn.id, table.oid, Wanted::All) {
        holds.wait(txn.id, table.oid, Wanted::All).await;
    }
    shard.core.locks.check_doomed(txn.id)?;
    shard.core.fences.check_now(shard.core.id, table)
}

async fn step(statement: &Statement<'_>, n: usize) -> Result<(), ShardError> {
    if n % STEP_ROWS == STEP_ROWS - 1 {
        statement.storage(statement.txn.writes.write().maybe_spill())?;
        tokio::task::yield_now().await;
    }
    Ok(())
}
