//! Reference tables on two shards: whatever crashes at whatever moment, the copy becomes what the primary copy is.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use cortex_shard_api::{
    LogIndex, ShardError, ShardId, StorageId, TableDescriptor, TxnId,
    client::{OnConflict, RequestContext, ShardClient, TableLock, WriteOp},
    copies::{Changes, ChangesRequest, CopyCursor},
    descriptor::Placement,
};
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{crash::open_shard, in_txn, index, insert, int_row, key_of, rows, table, write};
use crate::{
    Shard,
    log::crash_files::CrashDisk,
    replication::follow::Following,
    storage::{KeyRange, Keyspace, memory::MemoryStorage},
};

/// Rounds of random work and crashes.
const SEEDS: u64 = 30;

const SOURCE: ShardId = ShardId(1);
const COPY: ShardId = ShardId(2);

/// A reference table with an index, whose primary copy is on the source.
fn reference(oid: u32) -> TableDescriptor {
    let mut t = table(oid);
    t.placement = Placement::Reference(vec![SOURCE, COPY]);
    t.indexes = vec![index(oid + 1, 1, false)];
    t
}

/// A shard that can be crashed and opened again.
pub(super) struct Node {
    pub id: ShardId,
    pub disk: CrashDisk,
    storage: MemoryStorage,
    scratch: tempfile::TempDir,
    pub shard: Arc<Shard>,
}

impl Node {
    pub(super) fn new(id: ShardId) -> Node {
        let (disk, storage) = (CrashDisk::new(), MemoryStorage::default());
        let scratch = tempfile::tempdir().expect("a directory");
        let shard = open_shard(id, &disk, scratch.path(), storage.clone()).expect("opens");
        Node { id, disk, storage, scratch, shard }
    }

    /// Power is gone and comes back.
    pub(super) fn crash(&mut self, rng: &mut StdRng) {
        // In this order: work behind the scenes may go on meanwhile, and a state is never ahead of its log.
        self.storage = self.storage.crash(rng.random());
        self.disk = self.disk.image(rng.random());
        let (scratch, storage) = (self.scratch.path(), self.storage.clone());
        self.shard = open_shard(self.id, &self.disk, scratch, storage).expect("opens again");
    }
}

/// Follows until there is nothing new.
async fn catch_up(copy: &Node, source: &Node) -> Result<(), ShardError> {
    let mut following = Following::new(&copy.shard, &*source.shard);
    while following.step(Duration::ZERO).await? {}
    Ok(())
}

/// Everything stored under a table's storages, with its counts.
type Dump = (BTreeMap<(u8, Bytes), Bytes>, Vec<(u64, u64)>);

async fn dump(shard: &Shard, storages: &[StorageId]) -> Dump {
    let snapshot = shard.core.published.load().snapshot.clone();
    let (mut stored, mut counts) = (BTreeMap::new(), Vec::new());
    for storage in storages {
        for keyspace in [Keyspace::Rows, Keyspace::Index] {
            let range = KeyRange::prefix(&cortex_shard_api::key::storage_prefix(*storage));
            for entry in snapshot.range(keyspace, range, false) {
                let (key, value) = entry.expect("an entry");
                stored.insert((keyspace as u8, key), value);
            }
        }
        let stats = shard.storage_stats(*storage).await.expect("counts");
        counts.push((stats.rows, stats.bytes));
    }
    (stored, counts)
}

fn storages(tables: &[&TableDescriptor]) -> Vec<StorageId> {
    let of = |t: &&TableDescriptor| [t.storage, t.indexes[0].storage];
    tables.iter().flat_map(of).collect()
}

fn own() -> RequestContext {
    RequestContext::default()
}

fn delete(t: &TableDescriptor, id: i32) -> WriteOp {
    WriteOp::DeleteByKey { key: key_of(t, id), predicate: None, parameters: Arc::from([]) }
}

#[tokio::test]
async fn a_copy_gets_rows_versions_and_index_entries_and_nothing_else() {
    let (source, copy) = (Node::new(SOURCE), Node::new(COPY));
    let (t, home) = (Arc::new(reference(100)), Arc::new(table(200)));
    for id in 0..10 {
        write(&source.shard, own(), &t, insert(vec![int_row(id, id)])).await.expect("a row");
        write(&source.shard, own(), &home, insert(vec![int_row(id, id)])).await.expect("a row");
    }
    write(&source.shard, own(), &t, delete(&t, 3)).await.expect("a deletion");
    assert!(rows(&copy.shard, own(), &t).await.is_empty());
    catch_up(&copy, &source).await.expect("catches up");
    let all = storages(&[&t]);
    assert_eq!(dump(&copy.shard, &all).await, dump(&source.shard, &all).await);
    assert_eq!(rows(&copy.shard, own(), &t).await.len(), 9);
    assert!(rows(&copy.shard, own(), &home).await.is_empty());
    // A copy is never written past its primary copy.
    let error = write(&copy.shard, own(), &t, insert(vec![int_row(50, 1)])).await;
    assert!(matches!(error, Err(ShardError::Internal { .. })), "{error:?}");
}

#[tokio::test]
async fn a_position_is_waited_for_and_a_follower_brings_it() {
    let (source, copy) = (Node::new(SOURCE), Node::new(COPY));
    let t = Arc::new(reference(100));
    let _follower = copy.shard.follow(source.shard.clone());
    write(&source.shard, in_txn(1, 1), &t, insert(vec![int_row(1, 1)])).await.expect("a row");
    let index = source.shard.commit(TxnId(1)).await.expect("a commit");
    let wait = Duration::from_secs(20);
    let position = copy.shard.copy_position(SOURCE, index, wait).await.expect("a position");
    assert_eq!(position, index);
    assert_eq!(rows(&copy.shard, own(), &t).await, [(1, Some(1))]);
    let newest = source.shard.copy_position(SOURCE, LogIndex(0), Duration::ZERO).await;
    assert_eq!(newest.expect("a position"), index);
    // One that does not come is given up.
    let later = LogIndex(index.0 + 1);
    let position = copy.shard.copy_position(SOURCE, later, Duration::from_millis(10)).await;
    assert_eq!(position.expect("a position"), index);
}

#[tokio::test]
async fn a_big_transaction_appears_at_once() {
    let (source, copy) = (Node::new(SOURCE), Node::new(COPY));
    let t = Arc::new(reference(100));
    for mark in 0..20 {
        let ids = mark * 100..(mark + 1) * 100;
        let all = insert(ids.map(|id| int_row(id, id)).collect());
        write(&source.shard, in_txn(1, mark as u32), &t, all).await.expect("rows");
    }
    source.shard.commit(TxnId(1)).await.expect("a commit");
    write(&source.shard, own(), &t, delete(&t, 7)).await.expect("a deletion");
    let mut following = Following::new(&copy.shard, &*source.shard);
    let mut n_steps = 0;
    while following.step(Duration::ZERO).await.expect("a step") {
        n_steps += 1;
        let n_rows = copy.shard.storage_stats(t.storage).await.expect("counts").rows;
        assert!([0, 2000, 1999].contains(&n_rows), "{n_rows} rows after step {n_steps}");
    }
    assert!(n_steps > 5, "the transaction came in {n_steps} parts");
    let all = storages(&[&t]);
    assert_eq!(dump(&copy.shard, &all).await, dump(&source.shard, &all).await);
}

#[tokio::test]
async fn a_copy_that_the_log_has_left_behind_takes_a_snapshot() {
    let (source, copy) = (Node::new(SOURCE), Node::new(COPY));
    let (t, home) = (Arc::new(reference(100)), Arc::new(table(200)));
    write(&source.shard, own(), &t, insert(vec![int_row(1, 1)])).await.expect("a row");
    catch_up(&copy, &source).await.expect("catches up");
    // What is purged without a change of reference tables is not missed.
    write(&source.shard, own(), &home, insert(vec![int_row(1, 1)])).await.expect("a row");
    source.shard.checkpoint().await.expect("a checkpoint");
    let after = copy.shard.copy_position(SOURCE, LogIndex(0), Duration::ZERO).await;
    let cursor = CopyCursor { after: after.expect("a position"), part: None };
    let ask = || ChangesRequest::Log { cursor, wait: Duration::ZERO };
    write(&source.shard, own(), &t, insert(vec![int_row(2, 2)])).await.expect("a row");
    let changes = source.shard.read_changes(ask()).await.expect("changes");
    assert!(matches!(&changes, Changes::Log { entries, .. } if entries.len() == 2), "{changes:?}");
    // With one it is.
    for id in 10..400 {
        write(&source.shard, own(), &t, insert(vec![int_row(id, id)])).await.expect("a row");
    }
    write(&source.shard, own(), &t, delete(&t, 1)).await.expect("a deletion");
    source.shard.checkpoint().await.expect("a checkpoint");
    let changes = source.shard.read_changes(ask()).await.expect("changes");
    assert!(matches!(changes, Changes::Behind), "{changes:?}");
    catch_up(&copy, &source).await.expect("catches up");
    let all = storages(&[&t]);
    assert_eq!(dump(&copy.shard, &all).await, dump(&source.shard, &all).await);
    // And goes on with the log.
    write(&source.shard, own(), &t, delete(&t, 2)).await.expect("a deletion");
    catch_up(&copy, &source).await.expect("catches up");
    assert_eq!(dump(&copy.shard, &all).await, dump(&source.shard, &all).await);
}

#[tokio::test]
async fn an_index_and_a_rewrite_reach_the_copy() {
    let (source, copy) = (Node::new(SOURCE), Node::new(COPY));
    let mut plain = reference(100);
    plain.indexes.clear();
    let plain = Arc::new(plain);
    let all = insert((0..300).map(|id| int_row(id, id % 7)).collect());
    write(&source.shard, own(), &plain, all).await.expect("rows");
    catch_up(&copy, &source).await.expect("catches up");
    let indexed = Arc::new(TableDescriptor { version: 2, ..reference(100) });
    let shard = &source.shard;
    shard.lock_table(&in_txn(1, 1), indexed.oid, TableLock::Exclusive).await.expect("a lock");
    shard.build_index(&in_txn(1, 1), indexed.clone(), 0).await.expect("an index");
    shard.commit(TxnId(1)).await.expect("a commit");
    let mut rewritten = TableDescriptor { version: 3, ..reference(100) };
    rewritten.storage = StorageId(110);
    rewritten.indexes[0].storage = StorageId(111);
    let rewritten = Arc::new(rewritten);
    shard.lock_table(&in_txn(2, 1), indexed.oid, TableLock::Exclusive).await.expect("a lock");
    let n_rows = shard.rewrite_table(&in_txn(2, 1), indexed.clone(), rewritten.clone()).await;
    assert_eq!(n_rows.expect("a rewrite"), 300);
    shard.commit(TxnId(2)).await.expect("a commit");
    catch_up(&copy, &source).await.expect("catches up");
    let all = storages(&[&indexed, &rewritten]);
    assert_eq!(dump(&copy.shard, &all).await, dump(&source.shard, &all).await);
    let entries = copy.shard.storage_stats(StorageId(111)).await.expect("counts").rows;
    assert_eq!(entries, 300);
}

/// Random changes of reference and home tables, until the disk fails.
async fn work(source: &Node, rng: &mut StdRng) -> Result<(), ShardError> {
    let tables = [Arc::new(reference(100)), Arc::new(reference(110)), Arc::new(table(200))];
    for step in 0..20 {
        let txn = TxnId(step + 1);
        let mut mark = 0;
        match rng.random_range(0..10) {
            0 => {
                source.shard.checkpoint().await?;
                continue;
            }
            1 => {
                let from = rng.random_range(1000..3000);
                let t = &tables[rng.random_range(0..3)];
                for part in 0..4 {
                    let ids = from + part * 100..from + (part + 1) * 100;
                    let rows = ids.map(|id| int_row(id, rng.random_range(0..50))).collect();
                    let on_conflict = OnConflict::DoNothing { arbiter: None };
                    mark += 1;
                    let op = WriteOp::Insert { rows, on_conflict };
                    write(&source.shard, in_txn(txn.0, mark), t, op).await?;
                }
            }
            _ => {
                for t in &tables {
                    let id = rng.random_range(0..40);
                    let rows = vec![int_row(id, rng.random_range(0..50))];
                    let on_conflict = OnConflict::DoNothing { arbiter: None };
                    let op = if rng.random() {
                        delete(t, id)
                    } else {
                        WriteOp::Insert { rows, on_conflict }
                    };
                    mark += 1;
                    write(&source.shard, in_txn(txn.0, mark), t, op).await?;
                }
            }
        }
        source.shard.commit(txn).await?;
    }
    Ok(())
}

#[tokio::test]
async fn copies_survive_crashes_of_either_side_at_any_moment() {
    let tables = [reference(100), reference(110)];
    let all = storages(&[&tables[0], &tables[1]]);
    for seed in 0..SEEDS {
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut source, mut copy) = (Node::new(SOURCE), Node::new(COPY));
        for _ in 0..4 {
            if rng.random() {
                source.disk.crash_after(rng.random_range(1..200));
            }
            let crashed = work(&source, &mut rng).await.is_err();
            if rng.random() {
                copy.disk.crash_after(rng.random_range(0..30));
            }
            // Some steps, then perhaps none of what is under way.
            let mut following = Following::new(&copy.shard, &*source.shard);
            for _ in 0..rng.random_range(0..12) {
                if following.step(Duration::ZERO).await.is_err() {
                    break;
                }
            }
            drop(following);
            if crashed || rng.random() {
                source.crash(&mut rng);
            }
            copy.disk.heal();
            if rng.random() {
                copy.crash(&mut rng);
            }
            if copy.shard.core.poison.get().is_some() {
                copy.crash(&mut rng);
            }
            let position = copy.shard.copy_position(SOURCE, LogIndex(0), Duration::ZERO).await;
            let applied = source.shard.core.published.load().applied;
            assert!(position.expect("a position") <= applied, "seed {seed}: the copy is ahead");
        }
        source.disk.heal();
        catch_up(&copy, &source).await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let (ours, theirs) = (dump(&copy.shard, &all).await, dump(&source.shard, &all).await);
        assert!(ours == theirs, "seed {seed}: {} keys of {}", ours.0.len(), theirs.0.len());
    }
}
