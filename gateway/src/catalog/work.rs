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
        Access, OnConflict, Row, SCAN_ROWS_MAX, ScanRowsRequest, ScanSpec, StoredRow, TableLock,
        WriteOp, WriteRequest,
    },
    key, row,
};
use futures::future::try_join_all;

use super::{
    CatalogStore, DdlContext,
    changes::{ChangeHandle, Phase, TableChange, kind_of},
};
use crate::{
    error::{PgError, SqlState},
    exec::gateway::now_micros,
};

/// Rows of the first read from a shard: how large they are is known only then.
const FIRST_READ_ROWS: usize = 64;

/// Bytes of rows in one read: what the gateway holds of a table on its way, a few times over.
const READ_BYTES: usize = 4 << 20;

/// Does one item; `catalog` is the version that the command makes. `shards` collects the shards that the transaction reached, `fresh` storage that it may have filled.
pub async fn run(
    work: &Work,
    store: &CatalogStore,
    catalog: &Catalog,
    context: &DdlContext<'_>,
    shards: &mut BTreeSet<ShardId>,
    fresh: &mut BTreeSet<StorageId>,
    progress: Option<&ChangeHandle>,
) -> Result<(), PgError> {
    match work {
        Work::Lock(table) => lock(table, store, context, shards).await,
        Work::BuildIndex { table, index } => {
            fresh.insert(table.indexes[*index].storage);
            for id in table.written_shards() {
                shards.insert(id);
                store.shard(id)?.build_index(&context.request, table.clone(), *index).await?;
            }
            Ok(())
        }
        Work::Rewrite { from, to } => {
            note_storages(to, fresh);
            for id in from.written_shards() {
                shards.insert(id);
                store.shard(id)?.rewrite_table(&context.request, from.clone(), to.clone()).await?;
            }
            Ok(())
        }
        Work::Convert { from, to, columns } => {
            note_storages(to, fresh);
            // Foreign keys hold as they did, and their other tables need not be asked.
            let mut target = TableDescriptor::clone(to);
            target.foreign_keys.clear();
            target.referenced_by.clear();
            let to = Arc::new(target);
            Conversion { from, to, columns, store, catalog, context, progress }.run(shards).await
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

/// The shards of new tables must answer: a table whose rows have no place yet is worth less than a word on why.
pub async fn expect_new_tables(
    before: &Catalog,
    after: &Catalog,
    store: &CatalogStore,
) -> Result<(), PgError> {
    let is_new = |table: &&Arc<TableDescriptor>| !before.tables.contains_key(&table.oid);
    let tables = after.tables.values().map(|table| &table.descriptor);
    let shards: BTreeSet<ShardId> =
        tables.filter(is_new).flat_map(|table| table.written_shards()).collect();
    let asked = shards.into_iter().map(|id| async move {
        match store.shard(id)?.status().await?.poisoned {
            Some(reason) => Err(PgError::from(ShardError::Poisoned { shard: id, reason })),
            None => Ok(()),
        }
    });
    try_join_all(asked).await.map(drop)
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

/// Notes a change that moves rows, for those who look or wait; `None` for other work.
pub fn announce(
    work: &Work,
    store: &CatalogStore,
    context: &DdlContext<'_>,
) -> Option<ChangeHandle> {
    let (Work::Convert { from, to, .. }, Some(txn)) = (work, context.request.txn) else {
        return None;
    };
    Some(store.locks().changes().begin(TableChange {
        txn,
        process_id: context.process_id,
        schema: to.schema.clone(),
        table: to.name.clone(),
        oid: to.oid,
        from: kind_of(from),
        to: kind_of(to),
        phase: Phase::Waiting,
        rows_done: 0,
        rows_total: None,
        started_micros: now_micros(),
    }))
}

/// Rows of `from` on their way to `to`: read in key order from one shard after the other, held in bounded parts, and written to the
/// shards they belong to, at once to all of them.
struct Conversion<'a> {
    from: &'a Arc<TableDescriptor>,
    to: Arc<TableDescriptor>,
    columns: &'a [ScalarExpr],
    store: &'a CatalogStore,
    catalog: &'a Catalog,
    context: &'a DdlContext<'a>,
    progress: Option<&'a ChangeHandle>,
}

impl Conversion<'_> {
    async fn run(&self, shards: &mut BTreeSet<ShardId>) -> Result<(), PgError> {
        let sources = self.from.written_shards();
        let total = self.expect_all(&sources, shards).await?;
        if let Some(progress) = self.progress {
            progress.copying(total);
        }
        for source in sources {
            shards.insert(source);
            let mut rest = Some(Bytes::copy_from_slice(&key::storage_prefix(self.from.storage)));
            let mut limit = FIRST_READ_ROWS;
            while let Some(start) = rest {
                let rows = self.read(source, start, limit).await?;
                let bytes: usize = rows.iter().map(|row| row.key.len() + row.value.len()).sum();
                // The least key above the last one read.
                rest = (rows.len() == limit)
                    .then(|| rows.last().map(|last| [last.key.as_ref(), &[0]].concat().into()))
                    .flatten();
                limit = (READ_BYTES / (bytes / rows.len().max(1)).max(1)).clamp(1, SCAN_ROWS_MAX);
                let n_rows = rows.len() as u64;
                self.write(self.converted(rows).await?, shards).await?;
                if let Some(progress) = self.progress {
                    progress.copied_rows(n_rows);
                }
                // Shards in this process answer without a pause, in which a cancellation could come.
                tokio::task::yield_now().await;
            }
        }
        if let Some(progress) = self.progress {
            progress.copied();
        }
        Ok(())
    }

    /// Every shard that will be needed must answer, before the first row is written. Returns the number of rows.
    async fn expect_all(
        &self,
        sources: &[ShardId],
        shards: &mut BTreeSet<ShardId>,
    ) -> Result<u64, PgError> {
        let mut total = 0;
        let targets = self.to.written_shards();
        for id in self.to.shards().into_iter().chain(sources.iter().copied()) {
            let client = self.store.shard(id)?;
            if let Some(reason) = client.status().await?.poisoned {
                return Err(ShardError::Poisoned { shard: id, reason }.into());
            }
            if targets.contains(&id) {
                // Nobody else has the table there, so nobody is waited for; and its rows need no locks of their own.
                shards.insert(id);
                let (request, exclusive) = (&self.context.request, TableLock::Exclusive);
                client.lock_table(request, self.to.oid, exclusive).await?;
            }
        }
        for source in sources {
            total += self.store.shard(*source)?.storage_stats(self.from.storage).await?.rows;
        }
        Ok(total)
    }

    async fn read(
        &self,
        source: ShardId,
        start: Bytes,
        limit: usize,
    ) -> Result<Vec<StoredRow>, PgError> {
        let end = key::prefix_end(&key::storage_prefix(self.from.storage))
            .ok_or_else(|| PgError::internal("storage ids are used up"))?;
        let request = ScanRowsRequest {
            context: self.context.request.clone(),
            spec: ScanSpec {
                table: self.from.clone(),
                columns: (0..self.from.columns.len()).collect(),
                with_identity: false,
                access: Access::KeyRanges(vec![(start, end)]),
                limit: Some(limit),
                batch_rows: limit,
            },
            reverse: false,
        };
        Ok(self.store.shard(source)?.scan_rows(request).await?)
    }

    async fn converted(&self, rows: Vec<StoredRow>) -> Result<Vec<Row>, PgError> {
        let mut reserved = reserve(self.columns, rows.len(), self.store, self.catalog).await?;
        let mut converted = Vec::with_capacity(rows.len());
        for stored in &rows {
            let old = row::decode(self.from, &stored.value)?;
            let mut new: Row = Vec::with_capacity(self.columns.len());
            for (column, reserved) in self.columns.iter().zip(&mut reserved) {
                let eval = self.context.environment.eval;
                new.push(match reserved {
                    Some(values) => values.next(column.ty(), eval)?,
                    None => scalar::evaluate(column, &old, &[], eval)?,
                });
            }
            converted.push(new);
        }
        Ok(converted)
    }

    async fn write(&self, rows: Vec<Row>, shards: &mut BTreeSet<ShardId>) -> Result<(), PgError> {
        let mut routed: BTreeMap<ShardId, Vec<Row>> = BTreeMap::new();
        for row in rows {
            routed.entry(key::shard_of_row(&self.to, &row)).or_default().push(row);
        }
        shards.extend(routed.keys().copied());
        let written = routed.into_iter().map(|(shard, rows)| async move {
            let request = WriteRequest {
                context: self.context.request.clone(),
                table: self.to.clone(),
                related: Arc::from([]),
                op: WriteOp::Insert { rows, on_conflict: OnConflict::Fail },
                commit: false,
                returning: false,
                more: false,
            };
            self.store.shard(shard)?.write(request).await.map_err(write_error)
        });
        try_join_all(written).await.map(drop)
    }
}

/// A duplicate is one among the rows that are there.
fn write_error(error: ShardError) -> PgError {
    match error {
        ShardError::UniqueViolation { constraint, detail, .. } => PgError::new(
            SqlState::UNIQUE_VIOLATION,
            format!("could not create unique index \"{constraint}\""),
        )
        .with_detail(detail.replace("already exists", "is duplicated")),
        other => other.into(),
    }
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
