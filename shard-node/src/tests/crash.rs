//! Crashes at any moment: what was acknowledged is there, what was not is whole or absent, indexes agree with rows.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use cortex_shard_api::{
    LogIndex, ShardError, ShardId, StorageId, TxnId,
    client::{
        Access, GetRequest, RequestContext, ScanRowsRequest, SequenceSpec, ShardClient, TableLock,
        WriteOp,
    },
};
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{in_txn, index, insert, int_row, key_of, scan_spec, table, write};
use crate::{
    Shard, ShardConfig,
    log::{LogOptions, Prefill, crash_files::CrashDisk},
    recovery::Parts,
    storage::memory::MemoryStorage,
};

/// Images of the normal run.
const IMAGES: u64 = 500;

type Model = BTreeMap<i32, i32>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Commit,
    Spill,
    Ddl,
    Checkpoint,
}

fn open(
    disk: &CrashDisk,
    scratch: &std::path::Path,
    storage: MemoryStorage,
) -> Result<Arc<Shard>, String> {
    open_shard(ShardId(1), disk, scratch, storage)
}

/// A shard over what a crash left, with everything that grows cut small.
pub(super) fn open_shard(
    id: ShardId,
    disk: &CrashDisk,
    scratch: &std::path::Path,
    storage: MemoryStorage,
) -> Result<Arc<Shard>, String> {
    let config = ShardConfig { write_set_bytes: 4096, ..ShardConfig::new(id, scratch.to_owned()) };
    let parts = Parts {
        files: disk.directory("shard"),
        log_files: disk.directory("shard/log"),
        log_options: LogOptions {
            segment_bytes: 16 << 10,
            prefill: Prefill::Inline,
            ..LogOptions::default()
        },
        storage: Box::new(move |_| Ok(Box::new(storage))),
    };
    Shard::open_parts(config, parts).map(|(shard, _)| shard).map_err(|error| error.to_string())
}

/// What the shard must have after the crash.
#[derive(Clone, Default)]
struct Expected {
    acknowledged: Model,
    /// The state after the one request whose answer never came.
    perhaps: Option<Model>,
    sequence: i64,
    is_indexed: bool,
}

fn sequence() -> SequenceSpec {
    SequenceSpec {
        storage: StorageId(900),
        start: 1,
        increment: 1,
        min: 1,
        max: i64::MAX,
        cycle: false,
    }
}

/// Random work of one kind until the disk fails.
async fn work(
    shard: &Shard,
    kind: Kind,
    rng: &mut StdRng,
    expected: &mut Expected,
) -> Result<(), ShardError> {
    let plain = Arc::new(table(100));
    let mut indexed = table(100);
    indexed.version = 2;
    indexed.indexes = vec![index(101, 1, false)];
    let indexed = Arc::new(indexed);
    for step in 0..30 {
        let t = if expected.is_indexed { &indexed } else { &plain };
        let mut after = expected.acknowledged.clone();
        let action = rng.random_range(0..10);
        let txn = TxnId(step + 1);
        match (kind, action) {
            (Kind::Checkpoint, 0..=3) => {
                shard.checkpoint().await?;
                continue;
            }
            (Kind::Ddl, 0..=1) if !expected.is_indexed => {
                shard.lock_table(&in_txn(txn.0, 1), indexed.oid, TableLock::Exclusive).await?;
                shard.build_index(&in_txn(txn.0, 1), indexed.clone(), 0).await?;
                shard.commit(txn).await?;
                expected.is_indexed = true;
                continue;
            }
            (Kind::Spill, 0..=3) => {
                let from = rng.random_range(1000..5000);
                let rows: Vec<_> =
                    (from..from + 1500).filter(|id| !after.contains_key(id)).collect();
                after.extend(rows.iter().map(|id| (*id, 7)));
                expected.perhaps = Some(after.clone());
                for (mark, rows) in rows.chunks(300).enumerate() {
                    let rows = rows.iter().map(|id| int_row(*id, 7)).collect();
                    write(shard, in_txn(txn.0, mark as u32), t, insert(rows)).await?;
                }
                shard.commit(txn).await?;
            }
            (_, 4) => {
                let values = shard.sequence_next(&sequence(), 3).await?;
                assert!(values.first > expected.sequence, "a sequence went back");
                expected.sequence = values.first + 2;
                continue;
            }
            (_, 5) => {
                let id = rng.random_range(0..100);
                after.remove(&id);
                expected.perhaps = Some(after.clone());
                let key = key_of(t, id);
                let parameters = Arc::from([]);
                let op = WriteOp::DeleteByKey { key, predicate: None, parameters };
                write(shard, RequestContext::default(), t, op).await?;
            }
            (_, _) => {
                let ids: Vec<i32> = (0..4).map(|_| rng.random_range(0..100)).collect();
                let rows: BTreeMap<i32, i32> = ids
                    .into_iter()
                    .filter(|id| !after.contains_key(id))
                    .map(|id| (id, rng.random_range(0..50)))
                    .collect();
                after.extend(rows.iter().map(|(id, v)| (*id, *v)));
                expected.perhaps = Some(after.clone());
                for (mark, (id, v)) in rows.iter().enumerate() {
                    let row = insert(vec![int_row(*id, *v)]);
                    write(shard, in_txn(txn.0, mark as u32), t, row).await?;
                }
                if !rows.is_empty() {
                    shard.commit(txn).await?;
                }
            }
        }
        expected.acknowledged = after;
        expected.perhaps = None;
    }
    Ok(())
}

async fn check(shard: &Shard, expected: &Expected, context: &str) -> Model {
    let t = Arc::new(table(100));
    let mut found = Model::new();
    let mut access = Access::Full;
    loop {
        let spec = scan_spec(&t, access.clone());
        let request = ScanRowsRequest { context: RequestContext::default(), spec, reverse: false };
        let stored = shard.scan_rows(request).await.expect("a scan");
        let Some(last) = stored.last() else { break };
        let next = [&last.key[..], &[0]].concat();
        let end = cortex_shard_api::key::prefix_end(&t.storage.0.to_be_bytes()).expect("an end");
        access = Access::KeyRanges(vec![(Bytes::from(next), end)]);
        found.extend(
            stored
                .iter()
                .map(|stored| super::decode(&t, stored))
                .map(|(id, v)| (id, v.expect("no nulls here"))),
        );
    }
    let is_right = found == expected.acknowledged || Some(&found) == expected.perhaps.as_ref();
    assert!(
        is_right,
        "{context}: {} rows found, {} acknowledged",
        found.len(),
        expected.acknowledged.len()
    );
    let stats = shard.storage_stats(t.storage).await.expect("stats");
    assert_eq!(stats.rows, found.len() as u64, "{context}: counts");
    // An index is there as a whole or not at all.
    let entries = shard.storage_stats(StorageId(101)).await.expect("stats").rows;
    if entries > 0 || expected.is_indexed {
        let mut indexed = table(100);
        indexed.indexes = vec![index(101, 1, false)];
        let indexed = Arc::new(indexed);
        assert_eq!(entries, found.len() as u64, "{context}: entries");
        let (start, end) = (
            Bytes::copy_from_slice(&101u32.to_be_bytes()),
            Bytes::copy_from_slice(&102u32.to_be_bytes()),
        );
        let spec =
            scan_spec(&indexed, Access::IndexRanges { index: 0, ranges: vec![(start, end)] });
        let request = ScanRowsRequest { context: RequestContext::default(), spec, reverse: false };
        let through: Model = shard
            .scan_rows(request)
            .await
            .expect("an index scan")
            .iter()
            .map(|stored| super::decode(&indexed, stored))
            .map(|(id, v)| (id, v.expect("no nulls here")))
            .collect();
        assert!(through.len() >= found.len().min(1000), "{context}: index");
        assert!(through.iter().all(|row| found.get(row.0) == Some(row.1)), "{context}: index");
    }
    found
}

fn scratch() -> &'static std::path::Path {
    static SCRATCH: OnceLock<tempfile::TempDir> = OnceLock::new();
    SCRATCH.get_or_init(|| tempfile::tempdir().expect("a directory")).path()
}

async fn one_image(seed: u64) {
    let kinds = [Kind::Commit, Kind::Spill, Kind::Ddl, Kind::Checkpoint];
    let kind = kinds[seed as usize % kinds.len()];
    let mut rng = StdRng::seed_from_u64(seed);
    let disk = CrashDisk::new();
    let storage = MemoryStorage::default();
    let scratch = scratch().join(seed.to_string());
    let mut expected = Expected::default();
    let shard = open(&disk, &scratch, storage.clone()).expect("a new shard opens");
    disk.crash_after(rng.random_range(1..200));
    let result = work(&shard, kind, &mut rng, &mut expected).await;
    let crashed = result.is_err();
    let image = disk.image(rng.random());
    let state = storage.crash(rng.random());
    drop(shard);
    let context = format!("seed {seed}, {kind:?}, crashed: {crashed} ({:?})", result.err());
    // A second crash while recovering must change nothing.
    if seed.is_multiple_of(3) {
        image.crash_after(rng.random_range(1..20));
        let again = MemoryStorage::default();
        drop(open(&image, &scratch, if kind == Kind::Checkpoint { state.clone() } else { again }));
        image.heal();
    }
    let image = image.image(rng.random());
    let shard = open(&image, &scratch, state)
        .unwrap_or_else(|error| panic!("{context}: the shard does not open: {error}"));
    let found = check(&shard, &expected, &context).await;
    // It goes on from there.
    let mut after = Expected { acknowledged: found, perhaps: None, ..expected.clone() };
    after.is_indexed |= shard.storage_stats(StorageId(101)).await.expect("stats").rows > 0;
    work(&shard, Kind::Commit, &mut rng, &mut after)
        .await
        .unwrap_or_else(|error| panic!("{context}: {error}"));
    check(&shard, &after, &context).await;
    let _ = std::fs::remove_dir_all(&scratch);
}

#[test]
fn nothing_acknowledged_is_lost_in_500_crash_images() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let tasks: Vec<_> = (0..2)
        .map(|lane| {
            runtime.spawn(async move {
                for seed in (lane..IMAGES).step_by(2) {
                    one_image(seed).await;
                }
            })
        })
        .collect();
    for task in tasks {
        runtime.block_on(task).expect("no image fails");
    }
}

#[tokio::test]
async fn a_state_ahead_of_its_log_is_refused() {
    let disk = CrashDisk::new();
    let storage = MemoryStorage::default();
    let t = Arc::new(table(100));
    let scratch = scratch().join("ahead");
    let shard = open(&disk, &scratch, storage.clone()).expect("opens");
    write(&shard, RequestContext::default(), &t, insert(vec![int_row(1, 1)])).await.expect("row");
    let before = disk.image_after_kill();
    write(&shard, RequestContext::default(), &t, insert(vec![int_row(2, 2)])).await.expect("row");
    shard.checkpoint().await.expect("checkpoint");
    let state = storage.crash(0);
    drop(shard);
    let error = open(&before, &scratch, state).expect_err("the state is ahead");
    assert!(error.contains("the log ends at"), "{error}");
}

#[tokio::test]
async fn a_failed_fsync_poisons_the_shard_and_says_so() {
    let disk = CrashDisk::new();
    let t = Arc::new(table(100));
    let scratch = scratch().join("poison");
    let shard = open(&disk, &scratch, MemoryStorage::default()).expect("opens");
    write(&shard, RequestContext::default(), &t, insert(vec![int_row(1, 1)])).await.expect("row");
    disk.crash_after(0);
    let error = write(&shard, RequestContext::default(), &t, insert(vec![int_row(2, 2)])).await;
    assert!(matches!(error, Err(ShardError::OutcomeUnknown { .. })), "{error:?}");
    let error = write(&shard, RequestContext::default(), &t, insert(vec![int_row(3, 3)])).await;
    assert!(matches!(error, Err(ShardError::Poisoned { .. })), "{error:?}");
    // Reads go on with what is known to be durable.
    let request = GetRequest {
        context: RequestContext::default(),
        table: t.clone(),
        keys: vec![key_of(&t, 1), key_of(&t, 2)],
    };
    let found = shard.get(request).await.expect("a read");
    assert!(found[0].is_some() && found[1].is_none());
    assert!(found[0].as_ref().is_some_and(|row| row.version > LogIndex(0)));
    assert!(shard.core.locks.is_idle());
}
