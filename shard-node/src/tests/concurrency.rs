//! Several sessions at once: nobody's change is lost, nobody reads half a transaction.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use cortex_shard_api::{
    Datum, ShardError, TableDescriptor, TxnId,
    client::{
        LockRowsRequest, LockedRow, RequestContext, RowLock, RowUpdate, ShardClient, TableLock,
        WaitPolicy, WriteOp,
    },
};

use super::{decode, get, in_txn, index, insert, int_row, open, rows, table, write};
use crate::{Shard, StorageKind};

const ACCOUNTS: i32 = 6;

/// Adds to an account as a statement under READ COMMITTED does: read, write, again if it changed.
async fn add(
    shard: &Shard,
    t: &Arc<TableDescriptor>,
    txn: u64,
    mark: u32,
    id: i32,
    amount: i32,
) -> Result<(), ShardError> {
    for _ in 0..100 {
        let old = get(shard, in_txn(txn, mark), t, id).await.expect("the account");
        let (_, balance) = decode(t, &old);
        let row = vec![Datum::Int4(id), Datum::Int4(balance.unwrap_or(0) + amount)];
        let update = RowUpdate { key: old.key, seen: old.version, row };
        let op = WriteOp::Update { rows: vec![update], assigned: vec![1] };
        if write(shard, in_txn(txn, mark), t, op).await? != u64::MAX {
            return Ok(());
        }
    }
    panic!("a statement was restarted 100 times");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transfers_keep_the_sum_and_deadlocks_have_a_victim() {
    let directory = tempfile::tempdir().expect("a directory");
    let shard = open(directory.path(), StorageKind::Memory);
    let mut t = table(100);
    t.indexes = vec![index(101, 1, false)];
    let t = Arc::new(t);
    let accounts = (0..ACCOUNTS).map(|id| int_row(id, 100)).collect();
    write(&shard, RequestContext::default(), &t, insert(accounts)).await.expect("accounts");
    let next = Arc::new(AtomicU64::new(1));
    let mut tasks = Vec::new();
    for worker in 0..6 {
        let (shard, t, next) = (shard.clone(), t.clone(), next.clone());
        tasks.push(tokio::spawn(async move {
            let mut n_victims = 0;
            for round in 0..15 {
                let txn = next.fetch_add(1, Ordering::Relaxed);
                let from = (worker * 7 + round * 3) % ACCOUNTS;
                let to = (worker * 5 + round * 11 + 1) % ACCOUNTS;
                let moved = match add(&shard, &t, txn, 1, from, -1).await {
                    Ok(()) => add(&shard, &t, txn, 2, to, 1).await,
                    Err(error) => Err(error),
                };
                match moved {
                    Ok(()) => {
                        shard.commit(TxnId(txn)).await.expect("commit");
                    }
                    Err(ShardError::Deadlock { .. }) => {
                        n_victims += 1;
                        shard.rollback(TxnId(txn)).await.expect("rollback");
                    }
                    Err(error) => panic!("{error}"),
                }
                let seen = rows(&shard, RequestContext::default(), &t).await;
                let sum: i32 = seen.iter().filter_map(|(_, v)| *v).sum();
                assert_eq!(sum, ACCOUNTS * 100, "half a transaction was seen");
            }
            n_victims
        }));
    }
    for task in tasks {
        task.await.expect("a worker");
    }
    assert!(shard.core.locks.is_idle());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_insert_of_a_key_waits_for_the_first() {
    let directory = tempfile::tempdir().expect("a directory");
    let shard = open(directory.path(), StorageKind::Memory);
    let t = Arc::new(table(100));
    for commits in [true, false] {
        let id = i32::from(commits);
        write(&shard, in_txn(1, 1), &t, insert(vec![int_row(id, 1)])).await.expect("insert");
        let second = {
            let (shard, t) = (shard.clone(), t.clone());
            let op = insert(vec![int_row(id, 2)]);
            tokio::spawn(async move { write(&shard, RequestContext::default(), &t, op).await })
        };
        while shard.core.locks.n_waiting() == 0 {
            tokio::task::yield_now().await;
        }
        if commits {
            shard.commit(TxnId(1)).await.expect("commit");
            let error = second.await.expect("task");
            assert!(matches!(error, Err(ShardError::UniqueViolation { .. })), "{error:?}");
        } else {
            shard.rollback(TxnId(1)).await.expect("rollback");
            assert_eq!(second.await.expect("task").expect("insert"), 1);
        }
    }
    assert!(shard.core.locks.is_idle());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_waited_for_a_schema_change_must_start_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let shard = open(directory.path(), StorageKind::Memory);
    let t = Arc::new(table(100));
    write(&shard, RequestContext::default(), &t, insert(vec![int_row(1, 1)])).await.expect("row");
    let mut changed = table(100);
    changed.version = 2;
    changed.indexes = vec![index(101, 1, true)];
    let changed = Arc::new(changed);
    shard.lock_table(&in_txn(1, 1), t.oid, TableLock::Exclusive).await.expect("lock");
    shard.build_index(&in_txn(1, 1), changed.clone(), 0).await.expect("index");
    let waiting = {
        let (shard, t) = (shard.clone(), t.clone());
        let op = insert(vec![int_row(2, 2)]);
        tokio::spawn(async move { write(&shard, RequestContext::default(), &t, op).await })
    };
    while shard.core.locks.n_waiting() == 0 {
        tokio::task::yield_now().await;
    }
    shard.commit(TxnId(1)).await.expect("commit");
    assert!(matches!(waiting.await.expect("task"), Err(ShardError::StaleEpoch { .. })));
    // Later ones with the old descriptor, too.
    let late = write(&shard, RequestContext::default(), &t, insert(vec![int_row(2, 2)])).await;
    assert!(matches!(late, Err(ShardError::StaleEpoch { .. })), "{late:?}");
    let right = insert(vec![int_row(2, 1)]);
    let error = write(&shard, RequestContext::default(), &changed, right).await;
    assert!(matches!(error, Err(ShardError::UniqueViolation { .. })), "{error:?}");
}

#[tokio::test]
async fn row_locks_wait_refuse_or_skip() {
    let directory = tempfile::tempdir().expect("a directory");
    let shard = open(directory.path(), StorageKind::Memory);
    let t = Arc::new(table(100));
    let two = insert(vec![int_row(1, 1), int_row(2, 2)]);
    write(&shard, RequestContext::default(), &t, two).await.expect("rows");
    let mut stored = Vec::new();
    for id in [1, 2] {
        let row = get(&shard, RequestContext::default(), &t, id).await.expect("the row");
        stored.push((row.key, row.version));
    }
    let lock = |txn, rows: &[_], wait| LockRowsRequest {
        context: in_txn(txn, 1),
        table: t.clone(),
        rows: rows.to_vec(),
        lock: RowLock::Update,
        wait,
    };
    let locked = shard.lock_rows(lock(1, &stored[..1], WaitPolicy::Wait)).await.expect("locked");
    assert!(matches!(locked[..], [LockedRow::Same(_)]));
    let error = shard.lock_rows(lock(2, &stored, WaitPolicy::NoWait)).await;
    assert!(matches!(error, Err(ShardError::LockNotAvailable { .. })), "{error:?}");
    let locked = shard.lock_rows(lock(2, &stored, WaitPolicy::SkipLocked)).await.expect("skipped");
    assert!(matches!(locked[..], [LockedRow::Skipped, LockedRow::Same(_)]), "{locked:?}");
    for txn in [1, 2] {
        shard.rollback(TxnId(txn)).await.expect("rollback");
    }
    assert!(shard.core.locks.is_idle());
}
