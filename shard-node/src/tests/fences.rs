//! Fences: what was planned with an older version of a table or of a shard map is refused, and nothing else is.

use std::sync::Arc;

use cortex_shard_api::{
    LogIndex, Oid, ShardError, ShardId, TableDescriptor, TxnId,
    client::{
        Access, GetRequest, LockRowsRequest, RequestContext, RowLock, ScanRowsRequest, ShardClient,
        TableLock, WaitPolicy,
    },
    descriptor::{Fence, SLOTS, SlotMap},
};
use rand::{SeedableRng, rngs::StdRng};

use super::{copies::Node, in_txn, index, insert, int_row, key_of, rows, scan_spec, table, write};
use crate::Shard;

fn own() -> RequestContext {
    RequestContext::default()
}

fn shape(version: u32) -> Vec<Fence> {
    vec![Fence::Shape { table: Oid(100), version }]
}

/// Table 100 in a version of its own.
fn version(version: u32) -> Arc<TableDescriptor> {
    Arc::new(TableDescriptor { version, ..table(100) })
}

/// Table 100 sharded by hash, all on this shard.
fn epoch(epoch: u64) -> Arc<TableDescriptor> {
    let map = SlotMap { group: Oid(7), epoch, owner: vec![ShardId(1); usize::from(SLOTS)] };
    let placement =
        cortex_shard_api::descriptor::Placement::Hash { key: vec![0], map: Arc::new(map) };
    Arc::new(TableDescriptor { placement, ..table(100) })
}

fn is_stale<T>(result: Result<T, ShardError>) -> bool {
    matches!(result, Err(ShardError::StaleEpoch { .. }))
}

/// Whether each way to read or write the table is refused; they must agree.
async fn refuses(shard: &Shard, context: RequestContext, t: &Arc<TableDescriptor>) -> bool {
    let get = GetRequest { context: context.clone(), table: t.clone(), keys: vec![key_of(t, 1)] };
    let get = is_stale(shard.get(get).await);
    let spec = scan_spec(t, Access::Full);
    let scan = ScanRowsRequest { context: context.clone(), spec, reverse: false };
    let scan = is_stale(shard.scan_rows(scan).await);
    assert_eq!(get, scan);
    if context.snapshot.is_none() {
        let written = is_stale(write(shard, own(), t, insert(vec![])).await);
        let lock = LockRowsRequest {
            context: in_txn(999, 1),
            table: t.clone(),
            rows: vec![],
            lock: RowLock::Update,
            wait: WaitPolicy::Wait,
        };
        let locked = is_stale(shard.lock_rows(lock).await);
        let mut indexed = (**t).clone();
        indexed.indexes = vec![index(300, 1, false)];
        let built = is_stale(shard.build_index(&in_txn(999, 1), Arc::new(indexed), 0).await);
        shard.rollback(TxnId(999)).await.expect("a rollback");
        assert_eq!((get, get, get), (written, locked, built));
    }
    get
}

#[tokio::test]
async fn an_older_version_is_refused_from_the_fence_on_and_after_a_crash() {
    let mut node = Node::new(ShardId(1));
    let old = version(1);
    write(&node.shard, own(), &old, insert(vec![int_row(1, 1)])).await.expect("a row");
    assert!(!refuses(&node.shard, own(), &old).await);
    let index = node.shard.fence(&own(), shape(2)).await.expect("a fence");
    assert!(index > LogIndex(1));
    let mut rng = StdRng::seed_from_u64(1);
    for _ in 0..3 {
        assert!(refuses(&node.shard, own(), &old).await);
        assert!(!refuses(&node.shard, own(), &version(2)).await);
        assert!(!refuses(&node.shard, own(), &version(3)).await);
        // An older one changes nothing.
        node.shard.fence(&own(), shape(1)).await.expect("no change");
        node.shard.checkpoint().await.expect("a checkpoint");
        node.crash(&mut rng);
    }
}

#[tokio::test]
async fn a_view_is_judged_by_its_own_time() {
    let node = Node::new(ShardId(1));
    let shard = &node.shard;
    write(shard, own(), &epoch(1), insert(vec![int_row(1, 1)])).await.expect("a row");
    let before = shard.open_snapshot(&own(), &[]).await.expect("a snapshot");
    let in_the_past = RequestContext { snapshot: Some(before), ..own() };
    let fence = vec![Fence::Placement { id: Oid(7), epoch: 2 }];
    shard.fence(&own(), fence).await.expect("a fence");
    assert!(!refuses(shard, in_the_past.clone(), &epoch(1)).await);
    // What a move brought is not in it.
    assert!(refuses(shard, in_the_past.clone(), &epoch(2)).await);
    assert!(refuses(shard, own(), &epoch(1)).await);
    assert!(!refuses(shard, own(), &epoch(2)).await);
    assert_eq!(rows(shard, in_the_past, &epoch(1)).await.len(), 1);
}

#[tokio::test]
async fn a_schema_change_fences_with_its_commit() {
    let node = Node::new(ShardId(1));
    let shard = &node.shard;
    for commits in [false, true] {
        let txn = TxnId(1);
        shard.lock_table(&in_txn(1, 1), Oid(100), TableLock::Exclusive).await.expect("a lock");
        shard.fence(&in_txn(1, 1), shape(2)).await.expect("a fence");
        shard.fence(&in_txn(1, 2), shape(9)).await.expect("a fence");
        shard.rollback_to(txn, 2).await.expect("undone");
        // It goes on with both versions itself, and others with theirs.
        let in_old = write(shard, in_txn(1, 3), &version(1), insert(vec![int_row(1, 1)])).await;
        assert!(in_old.is_ok());
        let in_new = write(shard, in_txn(1, 3), &version(2), insert(vec![int_row(2, 1)])).await;
        assert!(in_new.is_ok());
        assert!(!is_stale(
            shard
                .get(GetRequest {
                    context: own(),
                    table: version(1),
                    keys: vec![key_of(&version(1), 1)],
                })
                .await
        ));
        shard.validate(txn).await.expect("would commit");
        if commits {
            shard.commit(txn).await.expect("a commit");
        } else {
            shard.rollback(txn).await.expect("a rollback");
        }
        assert_eq!(refuses(shard, own(), &version(1)).await, commits);
        assert!(!refuses(shard, own(), &version(2)).await);
    }
    // A fence alone makes a transaction that is committed like any other.
    shard.fence(&in_txn(2, 1), shape(5)).await.expect("a fence");
    let applied = shard.status().await.expect("a status").applied;
    let index = shard.commit(TxnId(2)).await.expect("a commit");
    assert!(index > applied);
    assert!(refuses(shard, own(), &version(4)).await);
}

#[tokio::test]
async fn what_was_written_before_a_fence_is_not_committed_behind_it() {
    let node = Node::new(ShardId(1));
    let shard = &node.shard;
    for (txn, t) in [(1, epoch(1)), (2, epoch(2)), (3, Arc::new(table(200)))] {
        write(shard, in_txn(txn, 1), &t, insert(vec![int_row(txn as i32, 1)]))
            .await
            .expect("a row");
    }
    let fence = vec![Fence::Placement { id: Oid(7), epoch: 2 }];
    shard.fence(&own(), fence).await.expect("a fence");
    let conflict = |result| matches!(result, Err(ShardError::Conflict { .. }));
    assert!(conflict(shard.validate(TxnId(1)).await.map(|()| LogIndex(0))));
    assert!(conflict(shard.commit(TxnId(1)).await));
    shard.commit(TxnId(2)).await.expect("it had the newer map");
    shard.commit(TxnId(3)).await.expect("another placement");
    assert_eq!(rows(shard, own(), &epoch(2)).await.len(), 1);
    assert!(shard.core.locks.is_idle());
}
