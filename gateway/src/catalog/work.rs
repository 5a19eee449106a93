//! Work on shards that a schema change needs, inside the session's transaction.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use cortex_functions::{scalar, session::EvalContext};
use cortex_planner::{
    bind::ddl::plan::{Violation, Work, nextval_sequence},
    catalog::Catalog,
};
use cortex_shard_api::{
    Datum, ScalarExpr, ShardError, ShardId, SqlType, StorageId, TableDescriptor, TypeMod,
    client::{
        Access, OnConflict, Row, SCAN_ROWS_MAX, ScanRowsRequest, ScanSpec, TableLock, WriteOp,
        WriteRequest,
    },
    key, row,
};

use super::{CatalogStore, DdlContext};
use crate::error::{PgError, SqlState};

/// Does one item; `catalog` is the version that the command makes. `shards` collects the shards that the transaction reached, `fresh` storage that it may have filled.
pub async fn run(
    work: &Work,
    store: &CatalogStore,
    catalog: &Catalog,
    context: &DdlContext<'_>,
    shards: &mut BTreeSet<ShardId>,
    fresh: &mut BTreeSet<StorageId>,
) -> Result<(), PgError> {
    match work {
        Work::Lock(table) => lock(table, store, context, shards).await,
        Work::BuildIndex { table, index } => {
            fresh.insert(table.indexes[*index].storage);
            for id in written_shards(table) {
                shards.insert(id);
                store.shard(id)?.build_index(&context.request, table.clone(), *index).await?;
            }
            Ok(())
        }
        Work::Rewrite { from, to } => {
            note_storages(to, fresh);
            for id in written_shards(from) {
                shards.insert(id);
                store.shard(id)?.rewrite_table(&context.request, from.clone(), to.clone()).await?;
            }
            Ok(())
        }
        Work::Convert { from, to, columns } => {
            note_storages(to, fresh);
            convert(from, to, columns, store, catalog, context, shards).await
        }
        Work::Verify { catalog, sql, violation } => {
            match context.host.first_row(catalog, sql).await? {
                None => Ok(()),
                Some(row) => Err(violation_error(violation, &row)),
            }
        }
        Work::SetSequence { shard, spec, state } => {
            Ok(store.shard(*shard)?.sequence_set(spec, *state).await?)
        }
    }
}

/// Shards whose rows are read and written: of a reference table the one with the primary copy, which the others follow.
fn written_shards(table: &TableDescriptor) -> Vec<ShardId> {
    table.primary_copy().map_or_else(|| table.shards(), |primary| vec![primary])
}

fn note_storages(table: &TableDescriptor, fresh: &mut BTreeSet<StorageId>) {
    fresh.insert(table.storage);
    fresh.extend(table.indexes.iter().map(|index| index.storage));
}

/// Takes the table from everybody else: in this gateway until the catalog is published, on its shards until they commit.
async fn lock(
    table: &Arc<TableDescriptor>,
    store: &CatalogStore,
    context: &DdlContext<'_>,
    shards: &mut BTreeSet<ShardId>,
) -> Result<(), PgError> {
    let request = &context.request;
    let txn =
        request.txn.ok_or_else(|| PgError::internal("a schema change needs a transaction"))?;
    store.locks().lock(txn, table.oid, TableLock::Exclusive, request.lock_timeout).await?;
    for id in table.shards() {
        shards.insert(id);
        store.shard(id)?.lock_table(request, table.oid, TableLock::Exclusive).await?;
    }
    Ok(())
}

/// Reads rows of `from` in batches, computes those of `to` and writes them to the shards they belong to.
async fn convert(
    from: &Arc<TableDescriptor>,
    to: &Arc<TableDescriptor>,
    columns: &[ScalarExpr],
    store: &CatalogStore,
    catalog: &Catalog,
    context: &DdlContext<'_>,
    shards: &mut BTreeSet<ShardId>,
) -> Result<(), PgError> {
    // Foreign keys hold as they did, and their other tables need not be asked.
    let mut target = TableDescriptor::clone(to);
    target.foreign_keys.clear();
    target.referenced_by.clear();
    let target = Arc::new(target);
    for source in written_shards(from) {
        shards.insert(source);
        let mut start = Bytes::copy_from_slice(&key::storage_prefix(from.storage));
        let end =
            key::prefix_end(&start).ok_or_else(|| PgError::internal("storage ids are used up"))?;
        loop {
            let request = ScanRowsRequest {
                context: context.request.clone(),
                spec: ScanSpec {
                    table: from.clone(),
                    columns: (0..from.columns.len()).collect(),
                    with_identity: false,
                    access: Access::KeyRanges(vec![(start.clone(), end.clone())]),
                    limit: Some(SCAN_ROWS_MAX),
                    batch_rows: SCAN_ROWS_MAX,
                },
                reverse: false,
            };
            let rows = store.shard(source)?.scan_rows(request).await?;
            let Some(last) = rows.last() else { break };
            // The least key above the last one read.
            start = [last.key.as_ref(), &[0]].concat().into();
            let more = rows.len() == SCAN_ROWS_MAX;
            let mut reserved = reserve(columns, rows.len(), store, catalog).await?;
            let mut converted = Vec::with_capacity(rows.len());
            for stored in &rows {
                let old = row::decode(from, &stored.value)?;
                let mut new: Row = Vec::with_capacity(columns.len());
                for (column, reserved) in columns.iter().zip(&mut reserved) {
                    let eval = context.environment.eval;
                    new.push(match reserved {
                        Some(values) => values.next(column.ty(), eval)?,
                        None => scalar::evaluate(column, &old, &[], eval)?,
                    });
                }
                converted.push(new);
            }
            write(&target, converted, store, context, shards).await?;
            if !more {
                break;
            }
        }
    }
    Ok(())
}

/// Values of a sequence for the rows of a batch: the sequence may be as new as the column.
struct Reserved {
    next: i64,
    increment: i64,
}

impl Reserved {
    fn next(&mut self, ty: TypeMod, eval: &EvalContext) -> Result<Datum, PgError> {
        let value = Datum::Int8(self.next);
        self.next = self.next.wrapping_add(self.increment);
        Ok(scalar::cast(value, TypeMod::plain(SqlType::Int8), ty, false, eval)?)
    }
}

/// Reserves `count` values for every column that takes them from a sequence.
async fn reserve(
    columns: &[ScalarExpr],
    count: usize,
    store: &CatalogStore,
    catalog: &Catalog,
) -> Result<Vec<Option<Reserved>>, PgError> {
    let mut reserved = Vec::with_capacity(columns.len());
    for column in columns {
        let sequence = nextval_sequence(column).and_then(|oid| catalog.sequences.get(&oid));
        reserved.push(match sequence {
            None => None,
            Some(sequence) => {
                let shard = store.shard(sequence.home)?;
                let values = shard.sequence_next(&sequence.spec, count as u32).await?;
                Some(Reserved { next: values.first, increment: sequence.spec.increment })
            }
        });
    }
    Ok(reserved)
}

async fn write(
    table: &Arc<TableDescriptor>,
    rows: Vec<Row>,
    store: &CatalogStore,
    context: &DdlContext<'_>,
    shards: &mut BTreeSet<ShardId>,
) -> Result<(), PgError> {
    let mut routed: BTreeMap<ShardId, Vec<Row>> = BTreeMap::new();
    for row in rows {
        routed.entry(key::shard_of_row(table, &row)).or_default().push(row);
    }
    for (shard, rows) in routed {
        shards.insert(shard);
        let request = WriteRequest {
            context: context.request.clone(),
            table: table.clone(),
            related: Arc::from([]),
            op: WriteOp::Insert { rows, on_conflict: OnConflict::Fail },
            commit: false,
            returning: false,
            more: false,
        };
        store.shard(shard)?.write(request).await.map_err(|error| match error {
            ShardError::UniqueViolation { constraint, detail, .. } => PgError::new(
                SqlState::UNIQUE_VIOLATION,
                format!("could not create unique index \"{constraint}\""),
            )
            .with_detail(detail.replace("already exists", "is duplicated")),
            other => other.into(),
        })?;
    }
    Ok(())
}

fn violation_error(violation: &Violation, row: &[Option<String>]) -> PgError {
    match violation {
        Violation::Check { table, constraint } => {
            let mut error = PgError::new(
                SqlState::CHECK_VIOLATION,
                format!(
                    "check constraint \"{constraint}\" of relation \"{table}\" is violated by some row"
                ),
            );
            error.table = Some(table.clone());
            error.constraint = Some(constraint.clone());
            error
        }
        Violation::NotNull { table, column } => {
            let mut error = PgError::new(
                SqlState::NOT_NULL_VIOLATION,
                format!("column \"{column}\" of relation \"{table}\" contains null values"),
            );
            error.table = Some(table.clone());
            error.column = Some(column.clone());
            error
        }
        Violation::ForeignKey { table, constraint, columns, parent } => {
            let values: Vec<&str> =
                row.iter().map(|value| value.as_deref().unwrap_or("null")).collect();
            let mut error = PgError::new(
                SqlState::FOREIGN_KEY_VIOLATION,
                format!(
                    "insert or update on table \"{table}\" violates foreign key constraint \"{constraint}\""
                ),
            )
            .with_detail(format!(
                "Key ({})=({}) is not present in table \"{parent}\".",
                columns.join(", "),
                values.join(", ")
            ));
            error.table = Some(table.clone());
            error.constraint = Some(constraint.clone());
            error
        }
        Violation::TooLong { ty } => PgError::new(
            SqlState::STRING_DATA_RIGHT_TRUNCATION,
            format!("value too long for type {ty}"),
        ),
    }
}
