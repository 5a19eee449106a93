//! Writes that the shard computes: updates by key, ON CONFLICT, CHECK; and tables cut into slots.

use std::sync::Arc;

use cortex_shard_api::{
    Datum, ScalarExpr, ShardError, ShardId, SqlType, TypeMod,
    client::{
        Arbiter, OnConflict, RequestContext, ShardClient, TableLock, WriteOp, WriteOutcome,
        WriteRequest,
    },
    descriptor::{CheckDescriptor, Placement, SLOTS, SlotMap},
    ids::Oid,
    key,
};

use super::{in_txn, index, insert, int_row, key_of, open, request, rows, table, write};
use crate::StorageKind;

fn column(position: usize) -> ScalarExpr {
    ScalarExpr::Column { position, ty: TypeMod::plain(SqlType::Int4) }
}

fn number(value: i32) -> ScalarExpr {
    ScalarExpr::literal(Datum::Int4(value), SqlType::Int4)
}

fn call(function: &str, left: ScalarExpr, right: ScalarExpr, ty: SqlType) -> ScalarExpr {
    ScalarExpr::Call {
        function: format!("{function}(int4,int4)"),
        args: vec![left, right],
        ty: TypeMod::plain(ty),
    }
}

fn plus(left: ScalarExpr, right: ScalarExpr) -> ScalarExpr {
    call("int4pl", left, right, SqlType::Int4)
}

fn above(left: ScalarExpr, right: ScalarExpr) -> ScalarExpr {
    call("int4gt", left, right, SqlType::Bool)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn increments_by_key_wait_and_none_is_lost() {
    let directory = tempfile::tempdir().expect("a directory");
    let shard = open(directory.path(), StorageKind::Memory);
    let mut t = table(100);
    t.indexes = vec![index(101, 1, true)];
    let t = Arc::new(t);
    write(&shard, RequestContext::default(), &t, insert(vec![int_row(1, 0)])).await.expect("row");
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let (shard, t) = (shard.clone(), t.clone());
            tokio::spawn(async move {
                for _ in 0..25 {
                    let op = WriteOp::UpdateByKey {
                        key: key_of(&t, 1),
                        predicate: Some(above(column(1), number(-1))),
                        assignments: vec![(1, plus(column(1), number(1)))],
                        parameters: Arc::from([]),
                    };
                    let auto = RequestContext::default();
                    assert_eq!(write(&shard, auto, &t, op).await.expect("update"), 1);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("a client");
    }
    assert_eq!(rows(&shard, RequestContext::default(), &t).await, [(1, Some(200))]);
    let never = WriteOp::UpdateByKey {
        key: key_of(&t, 1),
        predicate: Some(above(column(1), number(1000))),
        assignments: vec![(1, number(5))],
        parameters: Arc::from([]),
    };
    assert_eq!(write(&shard, RequestContext::default(), &t, never).await.expect("update"), 0);
    assert_eq!(shard.storage_stats(t.indexes[0].storage).await.expect("stats").rows, 1);
    assert!(shard.core.locks.is_idle());
}

#[tokio::test]
async fn on_conflict_updates_once_per_row() {
    let directory = tempfile::tempdir().expect("a directory");
    let shard = open(directory.path(), StorageKind::Memory);
    let mut t = table(100);
    t.indexes = vec![index(101, 1, true)];
    let t = Arc::new(t);
    let auto = RequestContext::default;
    write(&shard, auto(), &t, insert(vec![int_row(1, 10), int_row(2, 20)])).await.expect("rows");
    let upsert = |rows, arbiter| WriteOp::Insert {
        rows,
        on_conflict: OnConflict::DoUpdate {
            arbiter,
            // v = old v + excluded v
            assignments: vec![(1, plus(column(1), column(3)))],
            predicate: None,
            parameters: Arc::from([]),
        },
    };
    let op = upsert(vec![int_row(1, 5), int_row(3, 30)], Arbiter::PrimaryKey);
    let returning = WriteRequest { returning: true, ..request(auto(), &t, op) };
    match shard.write(returning).await.expect("upsert") {
        WriteOutcome::Done { affected, rows } => {
            assert_eq!(affected, 2);
            assert!(matches!(rows[0][1], Datum::Int4(15)), "{rows:?}");
        }
        WriteOutcome::Retry => panic!("nobody else is here"),
    }
    // By the index: 20 is taken by row 2.
    let op = upsert(vec![int_row(9, 20)], Arbiter::Index(0));
    assert_eq!(write(&shard, auto(), &t, op).await.expect("upsert"), 1);
    assert_eq!(rows(&shard, auto(), &t).await, [(1, Some(15)), (2, Some(40)), (3, Some(30))]);
    let twice = upsert(vec![int_row(4, 1), int_row(4, 2)], Arbiter::PrimaryKey);
    let error = write(&shard, auto(), &t, twice).await;
    assert!(matches!(error, Err(ShardError::CardinalityViolation)), "{error:?}");
    // A conflict that is not the arbiter's is an error.
    let other = upsert(vec![int_row(5, 15)], Arbiter::PrimaryKey);
    let error = write(&shard, auto(), &t, other).await;
    assert!(matches!(error, Err(ShardError::UniqueViolation { .. })), "{error:?}");
    assert_eq!(rows(&shard, auto(), &t).await.len(), 3);
    assert!(shard.core.locks.is_idle());
}

#[tokio::test]
async fn checks_hold_unless_they_are_false() {
    let directory = tempfile::tempdir().expect("a directory");
    let shard = open(directory.path(), StorageKind::Memory);
    let mut t = table(100);
    t.checks = vec![CheckDescriptor {
        oid: Oid(500),
        name: "t100_v_check".into(),
        expr: above(column(1), number(0)),
    }];
    let t = Arc::new(t);
    let auto = RequestContext::default;
    let null = vec![Datum::Int4(1), Datum::Null];
    write(&shard, auto(), &t, insert(vec![null])).await.expect("NULL passes");
    match write(&shard, auto(), &t, insert(vec![int_row(2, 0)])).await {
        Err(ShardError::CheckViolation { constraint, detail, .. }) => {
            assert_eq!(constraint, "t100_v_check");
            assert_eq!(detail, "Failing row contains (2, 0).");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_shard_takes_only_the_slots_it_owns() {
    let directory = tempfile::tempdir().expect("a directory");
    let shard = open(directory.path(), StorageKind::Memory);
    let mut t = table(100);
    let owner = (0..SLOTS).map(|slot| ShardId(1 + u32::from(slot % 2))).collect();
    t.placement =
        Placement::Hash { key: vec![0], map: Arc::new(SlotMap { group: Oid(1), epoch: 3, owner }) };
    t.indexes = vec![index(101, 1, false)];
    let t = Arc::new(t);
    let (ours, theirs): (Vec<i32>, Vec<i32>) =
        (0..50).partition(|id| key::shard_of_key(&t, &key_of(&t, *id)) == ShardId(1));
    let auto = RequestContext::default;
    let row = |id: &i32| int_row(*id, 1);
    write(&shard, auto(), &t, insert(ours.iter().map(row).collect())).await.expect("ours");
    let error = write(&shard, auto(), &t, insert(vec![int_row(theirs[0], 1)])).await;
    assert!(matches!(error, Err(ShardError::StaleEpoch { current: 3, .. })), "{error:?}");
    let found = rows(&shard, auto(), &t).await;
    assert_eq!(found.len(), ours.len());
}

#[tokio::test]
async fn a_unique_index_over_duplicates_is_not_built() {
    let directory = tempfile::tempdir().expect("a directory");
    let shard = open(directory.path(), StorageKind::Memory);
    let t = Arc::new(table(100));
    let auto = RequestContext::default;
    write(&shard, auto(), &t, insert(vec![int_row(1, 7), int_row(2, 7)])).await.expect("rows");
    let mut unique = table(100);
    unique.indexes = vec![index(101, 1, true)];
    let unique = Arc::new(unique);
    shard.lock_table(&in_txn(1, 1), t.oid, TableLock::Exclusive).await.expect("lock");
    match shard.build_index(&in_txn(1, 1), unique, 0).await {
        Err(ShardError::UniqueViolation { detail, .. }) => {
            assert_eq!(detail, "Key (v)=(7) is duplicated.");
        }
        other => panic!("{other:?}"),
    }
    shard.rollback(cortex_shard_api::TxnId(1)).await.expect("rollback");
    // The same rows under another key, and without one.
    let mut to = table(100);
    to.storage = cortex_shard_api::StorageId(700);
    to.primary_key = vec![1];
    let error = shard.rewrite_table(&in_txn(2, 1), t.clone(), Arc::new(to.clone())).await;
    assert!(matches!(error, Err(ShardError::UniqueViolation { .. })), "{error:?}");
    to.primary_key = Vec::new();
    to.primary_key_name = None;
    let to = Arc::new(to);
    let n_rows = shard.rewrite_table(&in_txn(2, 2), t.clone(), to.clone()).await.expect("rewrite");
    assert_eq!(n_rows, 2);
    shard.commit(cortex_shard_api::TxnId(2)).await.expect("commit");
    assert_eq!(rows(&shard, auto(), &to).await, [(1, Some(7)), (2, Some(7))]);
}
