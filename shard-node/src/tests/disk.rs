//! The shard on a real disk: checkpoints, fjall's journal, dropped storages, versions of the format.

use std::{fs, sync::Arc, time::Duration};

use cortex_shard_api::{
    ShardError, ShardId, StorageId, TxnId,
    client::{Access, RequestContext, ScanRowsRequest, ShardClient},
};

use super::{in_txn, index, insert, int_row, open, rows, scan_spec, table, write};
use crate::{
    OpenError, Shard, ShardConfig, StorageKind,
    storage::{KeyRange, Keyspace},
};

#[tokio::test]
async fn a_checkpoint_shortens_the_replay_and_purges_the_log() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut t = table(100);
    t.indexes = vec![index(101, 1, false)];
    let t = Arc::new(t);
    let shard = open(directory.path(), StorageKind::Disk);
    let auto = RequestContext::default();
    for id in 0..50 {
        write(&shard, auto.clone(), &t, insert(vec![int_row(id, id)])).await.expect("row");
    }
    // A big one, by way of chunks and tables of its own.
    let big = (1000..9000).map(|id| int_row(id, id)).collect();
    write(&shard, in_txn(1, 1), &t, insert(big)).await.expect("rows");
    shard.commit(TxnId(1)).await.expect("commit");
    shard.checkpoint().await.expect("checkpoint");
    let at = shard.core.published.load().applied;
    assert_eq!(shard.core.log.purge_point().index, at);
    for id in 50..60 {
        write(&shard, auto.clone(), &t, insert(vec![int_row(id, id)])).await.expect("row");
    }
    drop(shard);
    let config = ShardConfig::new(ShardId(1), directory.path());
    let (shard, report) = Shard::open(config).expect("the shard opens");
    assert_eq!((report.checkpoint, report.n_replayed), (at, 10));
    for storage in [100, 101] {
        let stats = shard.storage_stats(StorageId(storage)).await.expect("stats");
        assert_eq!(stats.rows, 8060);
    }
    assert_eq!(rows(&shard, auto, &t).await.len(), 1000);
}

#[tokio::test]
async fn holes_in_fjalls_journal_are_repaired_from_the_log() {
    let directory = tempfile::tempdir().expect("a directory");
    let t = Arc::new(table(100));
    let auto = RequestContext::default();
    let shard = open(directory.path(), StorageKind::Disk);
    for id in 0..10 {
        write(&shard, auto.clone(), &t, insert(vec![int_row(id, id)])).await.expect("row");
    }
    shard.checkpoint().await.expect("checkpoint");
    for id in 10..200 {
        write(&shard, auto.clone(), &t, insert(vec![int_row(id, id)])).await.expect("row");
    }
    drop(shard);
    for damage in 0..3 {
        let mut journals: Vec<_> = fs::read_dir(directory.path().join("state"))
            .expect("the state")
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "jnl"))
            .collect();
        journals.sort();
        let newest = journals.last().expect("a journal");
        let mut bytes = fs::read(newest).expect("its bytes");
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0);
        match damage {
            0 => bytes.iter_mut().skip(used / 2).take(1).for_each(|byte| *byte ^= 0x10),
            1 => bytes.iter_mut().skip(used / 3).take(512).for_each(|byte| *byte = 0),
            _ => bytes.truncate(used / 2),
        }
        fs::write(newest, bytes).expect("the damage");
        let shard = open(directory.path(), StorageKind::Disk);
        assert_eq!(rows(&shard, auto.clone(), &t).await.len(), 200);
        drop(shard);
    }
}

#[tokio::test]
async fn dropped_storages_disappear_also_after_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let (t, other) = (Arc::new(table(100)), Arc::new(table(200)));
    let auto = RequestContext::default();
    let shard = open(directory.path(), StorageKind::Disk);
    let many = |from: i32| insert((from..from + 3000).map(|id| int_row(id, id)).collect());
    for t in [&t, &other] {
        write(&shard, auto.clone(), t, many(0)).await.expect("rows");
    }
    shard.drop_storage(vec![t.storage]).await.expect("drop");
    assert_eq!(shard.storages().await.expect("storages"), [other.storage]);
    let late = write(&shard, auto.clone(), &t, many(5000)).await;
    assert!(matches!(late, Err(ShardError::StaleEpoch { .. })), "{late:?}");
    // A reader that was planned before the drop is told so, and not shown half of the rows.
    let stale = RequestContext::default();
    let request =
        ScanRowsRequest { context: stale, spec: scan_spec(&t, Access::Full), reverse: false };
    let late = shard.scan_rows(request).await;
    assert!(matches!(late, Err(ShardError::StaleEpoch { .. })), "{late:?}");
    drop(shard);
    let shard = open(directory.path(), StorageKind::Disk);
    let snapshot = || shard.core.published.load().snapshot.clone();
    let prefix = KeyRange::prefix(&t.storage.0.to_be_bytes());
    for _ in 0..500 {
        if snapshot().range(Keyspace::Rows, prefix.clone(), false).next().is_none() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(snapshot().range(Keyspace::Rows, prefix, false).next().is_none());
    assert_eq!(rows(&shard, auto.clone(), &other).await.len(), 1000);
    shard.shutdown().await.expect("shutdown");
    drop(shard);
    let shard = open(directory.path(), StorageKind::Disk);
    assert!(rows(&shard, auto.clone(), &t).await.is_empty());
    assert_eq!(shard.storages().await.expect("storages"), [other.storage]);
}

#[tokio::test]
async fn another_format_another_shard_and_a_lost_log_are_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let t = Arc::new(table(100));
    let shard = open(directory.path(), StorageKind::Disk);
    write(&shard, RequestContext::default(), &t, insert(vec![int_row(1, 1)])).await.expect("row");
    shard.shutdown().await.expect("shutdown");
    drop(shard);
    let config = ShardConfig::new(ShardId(1), directory.path());
    let other = ShardConfig::new(ShardId(2), directory.path());
    assert!(matches!(Shard::open(other), Err(OpenError::Foreign { .. })));
    let format = directory.path().join("FORMAT");
    let text = fs::read_to_string(&format).expect("the format");
    fs::write(&format, text.replace("format 1", "format 99")).expect("another");
    match Shard::open(config.clone()) {
        Err(OpenError::Version { found, .. }) => assert_eq!(found, "99"),
        other => panic!("{other:?}"),
    }
    fs::write(&format, text).expect("the right one");
    fs::remove_dir_all(directory.path().join("log")).expect("the log is lost");
    let error = Shard::open(config).expect_err("a lost log");
    assert!(error.to_string().contains("no log"), "{error}");
}
