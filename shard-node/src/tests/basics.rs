//! Rows go in, are seen by the right readers, and are there after a restart.

use std::{path::Path, sync::Arc};

use cortex_shard_api::{
    Datum, ShardError, ShardId, StorageId, TxnId,
    client::{
        Access, MetaWrite, OnConflict, RequestContext, ScanRowsRequest, SequenceSpec, ShardClient,
        WriteOp,
    },
};

use super::{get, in_txn, index, insert, int_row, key_of, open, rows, scan_spec, table, write};
use crate::{Shard, ShardConfig, StorageKind};

#[tokio::test]
async fn committed_rows_survive_a_restart_on_disk_and_in_memory() {
    for kind in [StorageKind::Disk, StorageKind::Memory] {
        let directory = tempfile::tempdir().expect("a directory");
        let mut t = table(100);
        t.indexes = vec![index(101, 1, false)];
        let t = Arc::new(t);
        let shard = open(directory.path(), kind);
        let auto = RequestContext::default();
        let new = insert(vec![int_row(2, 20), int_row(1, 10)]);
        assert_eq!(write(&shard, auto.clone(), &t, new).await.expect("insert"), 2);
        let error = write(&shard, auto.clone(), &t, insert(vec![int_row(3, 0), int_row(1, 11)]));
        match error.await {
            Err(ShardError::UniqueViolation { constraint, detail, .. }) => {
                assert_eq!(constraint, "t100_pkey");
                assert_eq!(detail, "Key (id)=(1) already exists.");
            }
            other => panic!("{other:?}"),
        }
        // A transaction sees its own rows, others do not.
        write(&shard, in_txn(5, 1), &t, insert(vec![int_row(4, 40)])).await.expect("insert");
        assert_eq!(rows(&shard, in_txn(5, 2), &t).await.len(), 3);
        assert_eq!(rows(&shard, auto.clone(), &t).await, [(1, Some(10)), (2, Some(20))]);
        shard.commit(TxnId(5)).await.expect("commit");
        let delete =
            WriteOp::DeleteByKey { key: key_of(&t, 2), predicate: None, parameters: Arc::from([]) };
        assert_eq!(write(&shard, auto.clone(), &t, delete).await.expect("delete"), 1);
        shard.shutdown().await.expect("shutdown");
        drop(shard);
        let shard = open(directory.path(), kind);
        assert_eq!(rows(&shard, auto.clone(), &t).await, [(1, Some(10)), (4, Some(40))]);
        assert!(get(&shard, auto.clone(), &t, 2).await.is_none());
        let stats = shard.storage_stats(StorageId(100)).await.expect("stats");
        assert_eq!(stats.rows, 2);
        assert_eq!(shard.storage_stats(StorageId(101)).await.expect("stats").rows, 2);
        let whole = cortex_shard_api::key::storage_prefix(StorageId(101));
        let end = cortex_shard_api::key::prefix_end(&whole).expect("an end");
        let ranges = vec![(bytes::Bytes::copy_from_slice(&whole), end)];
        let spec = scan_spec(&t, Access::IndexRanges { index: 0, ranges });
        let request = ScanRowsRequest { context: auto, spec, reverse: true };
        let found = shard.scan_rows(request).await.expect("an index scan");
        assert_eq!(super::decode(&t, &found[0]), (4, Some(40)));
    }
}

/// A shard in memory whose transactions spill beyond so many bytes.
fn open_with_write_set(directory: &Path, write_set_bytes: usize) -> Arc<Shard> {
    let config = ShardConfig {
        storage: StorageKind::Memory,
        write_set_bytes,
        ..ShardConfig::new(ShardId(1), directory)
    };
    Shard::open(config).expect("opens").0
}

/// INSERT ... SELECT from its own table ran for ever: a snapshot that was opened when nothing had been written since the
/// last one saw what was written after it.
#[tokio::test]
async fn a_snapshot_never_shows_what_is_written_after_it() {
    for write_set_bytes in [500, 1 << 20] {
        let directory = tempfile::tempdir().expect("a directory");
        let t = Arc::new(table(100));
        let shard = open_with_write_set(directory.path(), write_set_bytes);
        let many = |from: i32| insert((from..from + 20).map(|id| int_row(id, 1)).collect());
        write(&shard, in_txn(1, 1), &t, many(0)).await.expect("rows");
        let first = shard.open_snapshot(&in_txn(1, 2), &[]).await.expect("a snapshot");
        let second = shard.open_snapshot(&in_txn(1, 2), &[]).await.expect("another");
        write(&shard, in_txn(1, 2), &t, many(100)).await.expect("rows");
        let third = shard.open_snapshot(&in_txn(1, 3), &[]).await.expect("a third");
        write(&shard, in_txn(1, 3), &t, many(200)).await.expect("rows");
        for (snapshot, n_rows) in [(first, 20), (second, 20), (third, 40)] {
            let context = RequestContext { snapshot: Some(snapshot), ..in_txn(1, 3) };
            assert_eq!(rows(&shard, context, &t).await.len(), n_rows);
            shard.close_snapshot(snapshot);
        }
        assert_eq!(rows(&shard, in_txn(1, 4), &t).await.len(), 60);
    }
}

#[tokio::test]
async fn a_failed_statement_leaves_no_trace() {
    let directory = tempfile::tempdir().expect("a directory");
    let t = Arc::new(table(100));
    let shard = open(directory.path(), StorageKind::Memory);
    write(&shard, in_txn(1, 1), &t, insert(vec![int_row(1, 1)])).await.expect("insert");
    let twice = insert(vec![int_row(2, 2), int_row(1, 3)]);
    assert!(write(&shard, in_txn(1, 2), &t, twice).await.is_err());
    assert_eq!(rows(&shard, in_txn(1, 3), &t).await, [(1, Some(1))]);
    let ignoring = WriteOp::Insert {
        rows: vec![int_row(1, 9), int_row(5, 5)],
        on_conflict: OnConflict::DoNothing { arbiter: None },
    };
    assert_eq!(write(&shard, in_txn(1, 3), &t, ignoring).await.expect("insert"), 1);
    shard.rollback_to(TxnId(1), 3).await.expect("rollback");
    shard.commit(TxnId(1)).await.expect("commit");
    assert_eq!(rows(&shard, RequestContext::default(), &t).await, [(1, Some(1))]);
    assert!(matches!(
        write(&shard, RequestContext::default(), &t, insert(vec![vec![Datum::Null; 2]])).await,
        Err(ShardError::NotNullViolation { .. })
    ));
    assert!(matches!(shard.commit(TxnId(1)).await, Err(ShardError::TransactionLost { .. })));
    assert!(shard.core.locks.is_idle());
}

#[tokio::test]
async fn meta_entries_and_sequences_are_durable() {
    let directory = tempfile::tempdir().expect("a directory");
    let shard = open(directory.path(), StorageKind::Disk);
    let version = |value: &[u8]| (b"version".to_vec(), Some(value.to_vec()));
    let set = |key: &[u8], value: &[u8]| MetaWrite { key: key.into(), value: Some(value.into()) };
    let none = (b"version".to_vec(), None);
    shard.meta_write(none.clone(), vec![set(b"version", b"1")]).await.expect("first");
    let error = shard.meta_write(none, vec![set(b"version", b"2")]).await;
    assert!(matches!(error, Err(ShardError::MetaConflict)));
    let writes = vec![set(b"version", b"2"), set(b"table/7", b"x")];
    shard.meta_write(version(b"1"), writes).await.expect("second");
    let spec = SequenceSpec {
        storage: StorageId(9),
        start: 1,
        increment: 1,
        min: 1,
        max: 40,
        cycle: false,
    };
    assert_eq!(shard.sequence_next(&spec, 3).await.expect("values").first, 1);
    assert_eq!(shard.sequence_next(&spec, 1).await.expect("values").first, 4);
    // As after a crash: the values logged ahead are skipped.
    drop(shard);
    let shard = open(directory.path(), StorageKind::Disk);
    assert_eq!(shard.meta_scan(b"table/").await.expect("scan").len(), 1);
    let next = shard.sequence_next(&spec, 1).await.expect("values").first;
    assert!((5..=36).contains(&next), "{next}");
    let rest = shard.sequence_next(&spec, 100).await.expect("values");
    assert_eq!(rest.first + i64::from(rest.count) - 1, 40);
    assert!(matches!(
        shard.sequence_next(&spec, 1).await,
        Err(ShardError::SequenceExhausted { bound, value: 40 }) if bound == "maximum"
    ));
}

/// A big request looks for conflicts by the span of its keys first: whatever hides in the span must still be met, on
/// disk, among the transaction's own rows (in memory and spilled) and inside the request.
#[tokio::test]
async fn big_inserts_meet_every_conflict() {
    for write_set_bytes in [500, 1 << 20] {
        let directory = tempfile::tempdir().expect("a directory");
        let t = Arc::new(table(100));
        let shard = open_with_write_set(directory.path(), write_set_bytes);
        let many = |ids: &[i32]| insert(ids.iter().map(|id| int_row(*id, 1)).collect());
        let up: Vec<i32> = (1000..1030).collect();
        write(&shard, RequestContext::default(), &t, many(&[1015])).await.expect("a row");
        let refused = |result: Result<u64, ShardError>| match result {
            Err(ShardError::UniqueViolation { detail, .. }) => detail,
            other => panic!("{other:?}"),
        };
        let met = write(&shard, in_txn(1, 1), &t, many(&up)).await;
        assert_eq!(refused(met), "Key (id)=(1015) already exists.");
        let delete = |id| WriteOp::DeleteByKey {
            key: key_of(&t, id),
            predicate: None,
            parameters: Arc::from([]),
        };
        write(&shard, in_txn(1, 2), &t, delete(1015)).await.expect("a delete");
        assert_eq!(write(&shard, in_txn(1, 3), &t, many(&up)).await.expect("now free"), 30);
        let down: Vec<i32> = (1029..1060).rev().collect();
        let met = write(&shard, in_txn(1, 4), &t, many(&down)).await;
        assert_eq!(refused(met), "Key (id)=(1029) already exists.");
        let twice: Vec<i32> = (2000..2030).chain([2003]).collect();
        let met = write(&shard, in_txn(1, 5), &t, many(&twice)).await;
        assert_eq!(refused(met), "Key (id)=(2003) already exists.");
        shard.commit(TxnId(1)).await.expect("commit");
        assert_eq!(rows(&shard, RequestContext::default(), &t).await.len(), 30);
    }
}
