//! The shard through its facade: what a gateway can see of it.

mod basics;

mod concurrency;

mod copies;

mod crash;

mod disk;

mod expressions;

mod fences;

mod foreign_keys;

mod holds;

mod locks;

mod model;

mod moves;

mod moving;

mod speed;

use std::sync::Arc;

use bytes::Bytes;
use cortex_shard_api::{
    Datum, Oid, ShardError, ShardId, SqlType, StorageId, TableDescriptor, TxnId, TypeMod,
    client::{
        Access, GetRequest, OnConflict, RequestContext, Row, ScanRowsRequest, ScanSpec,
        ShardClient, StoredRow, WriteOp, WriteOutcome, WriteRequest,
    },
    descriptor::{ColumnDescriptor, IndexColumn, IndexDescriptor, IndexState, Placement},
    key, row,
};

use crate::{Shard, ShardConfig, StorageKind};

/// A home table with an int4 key `id` and an int4 column `v`, and what a test adds.
pub(crate) fn table(oid: u32) -> TableDescriptor {
    TableDescriptor {
        oid: Oid(oid),
        schema: "public".into(),
        name: format!("t{oid}"),
        storage: StorageId(oid),
        version: 1,
        columns: vec![column("id", SqlType::Int4, true), column("v", SqlType::Int4, false)],
        primary_key: vec![0],
        primary_key_name: Some(format!("t{oid}_pkey")),
        placement: Placement::Home(ShardId(1)),
        placement_epoch: 0,
        indexes: Vec::new(),
        checks: Vec::new(),
        foreign_keys: Vec::new(),
        referenced_by: Vec::new(),
    }
}

pub(crate) fn column(name: &str, ty: SqlType, not_null: bool) -> ColumnDescriptor {
    ColumnDescriptor {
        name: name.into(),
        ty: TypeMod::plain(ty),
        not_null,
        dropped: false,
        added_in: 1,
        missing: Datum::Null,
    }
}

pub(crate) fn index(storage: u32, column: usize, unique: bool) -> IndexDescriptor {
    IndexDescriptor {
        oid: Oid(storage),
        name: format!("index_{storage}"),
        storage: StorageId(storage),
        unique,
        constraint: unique,
        columns: vec![IndexColumn { column, descending: false, nulls_first: false }],
        state: IndexState::Public,
    }
}

pub(crate) fn int_row(id: i32, v: i32) -> Row {
    vec![Datum::Int4(id), Datum::Int4(v)]
}

pub(crate) fn key_of(table: &TableDescriptor, id: i32) -> Bytes {
    key::row_key_from_primary_key(table, &[Datum::Int4(id)])
}

pub(crate) fn open(directory: &std::path::Path, storage: StorageKind) -> Arc<Shard> {
    let config = ShardConfig { storage, ..ShardConfig::new(ShardId(1), directory) };
    Shard::open(config).expect("the shard opens").0
}

pub(crate) fn in_txn(txn: u64, mark: u32) -> RequestContext {
    RequestContext { txn: Some(TxnId(txn)), mark, ..RequestContext::default() }
}

pub(crate) fn request(
    context: RequestContext,
    table: &Arc<TableDescriptor>,
    op: WriteOp,
) -> WriteRequest {
    let commit = context.txn.is_none();
    WriteRequest {
        context,
        table: table.clone(),
        related: Arc::from([]),
        op,
        commit,
        returning: false,
        more: false,
    }
}

pub(crate) fn insert(rows: Vec<Row>) -> WriteOp {
    WriteOp::Insert { rows, on_conflict: OnConflict::Fail }
}

pub(crate) async fn write(
    shard: &Shard,
    context: RequestContext,
    table: &Arc<TableDescriptor>,
    op: WriteOp,
) -> Result<u64, ShardError> {
    match shard.write(request(context, table, op)).await? {
        WriteOutcome::Done { affected, .. } => Ok(affected),
        WriteOutcome::Retry => Ok(u64::MAX),
    }
}

pub(crate) fn scan_spec(table: &Arc<TableDescriptor>, access: Access) -> ScanSpec {
    ScanSpec {
        table: table.clone(),
        columns: (0..table.columns.len()).collect(),
        with_identity: false,
        access,
        limit: None,
        batch_rows: 1024,
    }
}

pub(crate) fn decode(table: &TableDescriptor, stored: &StoredRow) -> (i32, Option<i32>) {
    let row = row::decode(table, &stored.value).expect("a row");
    let int = |datum: &Datum| match datum {
        Datum::Int4(value) => Some(*value),
        Datum::Null => None,
        other => panic!("not an int4: {other:?}"),
    };
    (int(&row[0]).expect("the key"), int(&row[1]))
}

pub(crate) async fn rows(
    shard: &Shard,
    context: RequestContext,
    table: &Arc<TableDescriptor>,
) -> Vec<(i32, Option<i32>)> {
    let spec = scan_spec(table, Access::Full);
    let request = ScanRowsRequest { context, spec, reverse: false };
    let stored = shard.scan_rows(request).await.expect("a scan");
    stored.iter().map(|stored| decode(table, stored)).collect()
}

pub(crate) async fn get(
    shard: &Shard,
    context: RequestContext,
    table: &Arc<TableDescriptor>,
    id: i32,
) -> Option<StoredRow> {
    let keys = vec![key_of(table, id)];
    let request = GetRequest { context, table: table.clone(), keys };
    shard.get(request).await.expect("a read").pop().flatten()
}
