//! Random transactions against a map: what is committed, what each transaction sees, what fails.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use cortex_shard_api::{
    Datum, ShardError, ShardId, TableDescriptor, TxnId,
    client::{Access, RequestContext, RowUpdate, ScanRowsRequest, ShardClient, WriteOp},
};
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{decode, get, in_txn, index, insert, key_of, scan_spec, table, write};
use crate::{
    Shard, ShardConfig,
    recovery::Parts,
    storage::{Storage, disk::DiskStorage, memory::MemoryStorage, mirror::Mirror},
};

type Model = BTreeMap<i32, i32>;

/// A transaction with what it should see; `None` where it deleted.
#[derive(Clone, Default)]
struct Open {
    mark: u32,
    /// The overlay before each mark.
    history: Vec<(u32, BTreeMap<i32, Option<i32>>)>,
    overlay: BTreeMap<i32, Option<i32>>,
}

impl Open {
    fn sees(&self, committed: &Model) -> Model {
        let mut model = committed.clone();
        for (id, v) in &self.overlay {
            match v {
                Some(v) => model.insert(*id, *v),
                None => model.remove(id),
            };
        }
        model
    }
}

fn open_mirror(directory: &std::path::Path, write_set_bytes: usize) -> Arc<Shard> {
    let config =
        ShardConfig { write_set_bytes, ..ShardConfig::new(ShardId(1), directory.to_owned()) };
    let mut parts = Parts::on_disk(&config).expect("the directory");
    let state = directory.join("state");
    parts.storage = Box::new(move |_| {
        let left: Box<dyn Storage> = Box::new(DiskStorage::open(&state, 1 << 20)?);
        Ok(Box::new(Mirror { left, right: Box::new(MemoryStorage::default()) }))
    });
    Shard::open_parts(config, parts).expect("the shard opens").0
}

async fn scan(
    shard: &Shard,
    context: RequestContext,
    t: &Arc<TableDescriptor>,
    reverse: bool,
) -> Model {
    let request = ScanRowsRequest { context, spec: scan_spec(t, Access::Full), reverse };
    let stored = shard.scan_rows(request).await.expect("a scan");
    let ids: Vec<i32> = stored.iter().map(|stored| decode(t, stored).0).collect();
    let mut sorted = ids.clone();
    sorted.sort_unstable();
    if reverse {
        sorted.reverse();
    }
    assert_eq!(ids, sorted);
    stored
        .iter()
        .map(|stored| decode(t, stored))
        .map(|(id, v)| (id, v.expect("no nulls here")))
        .collect()
}

/// The rows again, through the index on `v`.
async fn scan_index(shard: &Shard, context: RequestContext, t: &Arc<TableDescriptor>) -> Model {
    let prefix = cortex_shard_api::key::storage_prefix(t.indexes[0].storage);
    let end = cortex_shard_api::key::prefix_end(&prefix).expect("an end");
    let ranges = vec![(bytes::Bytes::copy_from_slice(&prefix), end)];
    let spec = scan_spec(t, Access::IndexRanges { index: 0, ranges });
    let request = ScanRowsRequest { context, spec, reverse: false };
    let stored = shard.scan_rows(request).await.expect("an index scan");
    let found: Vec<(i32, i32)> = stored
        .iter()
        .map(|stored| decode(t, stored))
        .map(|(id, v)| (id, v.expect("no nulls here")))
        .collect();
    assert!(found.is_sorted_by_key(|(_, v)| *v));
    found.into_iter().collect()
}

async fn run(seed: u64, unique: bool, write_set_bytes: usize, steps: usize) {
    let directory = tempfile::tempdir().expect("a directory");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut t = table(100);
    t.indexes = vec![index(101, 1, unique)];
    let t = Arc::new(t);
    let shard = open_mirror(directory.path(), write_set_bytes);
    let mut committed = Model::new();
    let mut open: BTreeMap<u64, Open> = BTreeMap::new();
    let mut next_txn = 1;
    for step in 0..steps {
        if open.len() < 3 && rng.random_bool(0.3) {
            open.insert(next_txn, Open::default());
            next_txn += 1;
        }
        let Some(id) = open.keys().copied().nth(rng.random_range(0..open.len().max(1))) else {
            continue;
        };
        let txn = open.get_mut(&id).expect("it is open");
        let action = rng.random_range(0..100);
        if action < 6 {
            shard.commit(TxnId(id)).await.map(|_| ()).or_else(ignore_unknown).expect("commit");
            committed = open.remove(&id).expect("it is open").sees(&committed);
        } else if action < 10 {
            shard.rollback(TxnId(id)).await.expect("rollback");
            open.remove(&id);
        } else if action < 16 && !txn.history.is_empty() {
            let to = rng.random_range(0..txn.history.len());
            let (mark, overlay) = txn.history[to].clone();
            shard.rollback_to(TxnId(id), mark).await.expect("rollback to a mark");
            txn.overlay = overlay;
            txn.history.truncate(to);
        } else if action < 85 {
            txn.mark += 1;
            txn.history.push((txn.mark, txn.overlay.clone()));
            let context = RequestContext {
                lock_timeout: Some(Duration::from_millis(1)),
                ..in_txn(id, txn.mark)
            };
            let before = txn.overlay.clone();
            statement(&shard, &t, context, &mut rng, unique, &committed, txn)
                .await
                .unwrap_or_else(|()| txn.overlay = before);
        }
        if step % 5 == 0 {
            let reverse = rng.random_bool(0.3);
            assert_eq!(scan(&shard, RequestContext::default(), &t, reverse).await, committed);
            for (id, txn) in &open {
                let sees = txn.sees(&committed);
                let context = in_txn(*id, txn.mark + 1);
                assert_eq!(scan(&shard, context.clone(), &t, reverse).await, sees, "seed {seed}");
                assert_eq!(scan_index(&shard, context, &t).await, sees, "seed {seed}");
            }
        }
    }
    for id in open.keys() {
        shard.rollback(TxnId(*id)).await.expect("rollback");
    }
    assert_eq!(scan_index(&shard, RequestContext::default(), &t).await, committed);
    assert!(shard.core.locks.is_idle());
    let stats = shard.storage_stats(t.storage).await.expect("stats");
    assert_eq!(stats.rows, committed.len() as u64);
    let stats = shard.storage_stats(t.indexes[0].storage).await.expect("stats");
    assert_eq!(stats.rows, committed.len() as u64);
    assert!(std::fs::read_dir(directory.path().join("spill")).map_or(0, Iterator::count) == 0);
}

/// A transaction that sent nothing to the shard is not known to it.
fn ignore_unknown(error: ShardError) -> Result<(), ShardError> {
    if matches!(error, ShardError::TransactionLost { .. }) { Ok(()) } else { Err(error) }
}

/// One random statement; an error means that the shard refused it and the model must not know it.
async fn statement(
    shard: &Shard,
    t: &Arc<TableDescriptor>,
    context: RequestContext,
    rng: &mut StdRng,
    unique: bool,
    committed: &Model,
    txn: &mut Open,
) -> Result<(), ()> {
    let sees = txn.sees(committed);
    let n_rows = rng.random_range(1..5);
    let ids: Vec<i32> = (0..n_rows).map(|_| rng.random_range(0..40)).collect();
    let mut after = sees.clone();
    let mut refused = false;
    let op = match rng.random_range(0..3) {
        0 => {
            let rows: Vec<(i32, i32)> =
                ids.iter().map(|id| (*id, rng.random_range(0..200))).collect();
            for (id, v) in &rows {
                refused |= after.contains_key(id) || (unique && after.values().any(|o| o == v));
                after.insert(*id, *v);
            }
            let row = |(id, v): (i32, i32)| vec![Datum::Int4(id), Datum::Int4(v)];
            insert(rows.into_iter().map(row).collect())
        }
        1 => {
            let mut updates = Vec::new();
            let mut targets = std::collections::BTreeSet::new();
            let mut added = Vec::new();
            for id in ids {
                let here = RequestContext { lock_timeout: None, ..context.clone() };
                let Some(old) = get(shard, here, t, id).await else { continue };
                if !targets.insert(id) {
                    continue;
                }
                let v = rng.random_range(0..200);
                let to = if rng.random_bool(0.2) { rng.random_range(0..40) } else { id };
                after.remove(&id);
                added.push((to, v));
                let row = vec![Datum::Int4(to), Datum::Int4(v)];
                updates.push(RowUpdate { key: old.key, seen: old.version, row });
            }
            for (to, v) in added {
                refused |= after.contains_key(&to) || (unique && after.values().any(|o| *o == v));
                after.insert(to, v);
            }
            WriteOp::Update { rows: updates, assigned: vec![0, 1] }
        }
        _ => {
            let id = ids[0];
            after.remove(&id);
            let key = key_of(t, id);
            WriteOp::DeleteByKey { key, predicate: None, parameters: Arc::from([]) }
        }
    };
    match write(shard, context, t, op).await {
        Ok(u64::MAX) => panic!("nothing changes between reading and writing"),
        Ok(_) => {
            assert!(!refused, "accepted what violates a constraint: {sees:?} {after:?}");
            for id in 0..40 {
                if sees.get(&id) != after.get(&id) {
                    txn.overlay.insert(id, after.get(&id).copied());
                }
            }
            Ok(())
        }
        Err(ShardError::UniqueViolation { .. }) => {
            assert!(refused, "refused what violates nothing: {sees:?} {after:?}");
            Err(())
        }
        // Another open transaction has one of the keys.
        Err(ShardError::LockNotAvailable { .. } | ShardError::Deadlock { .. }) => Err(()),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn random_transactions_agree_with_a_map() {
    for seed in 0..6 {
        run(seed, seed % 2 == 0, 1 << 20, 400).await;
    }
}

#[tokio::test]
async fn random_transactions_that_spill_agree_with_a_map() {
    for seed in 10..14 {
        run(seed, seed % 2 == 0, 600, 250).await;
    }
}
