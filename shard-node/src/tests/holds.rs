//! Holds: writers of what moves wait, for a moment; others do not notice.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use cortex_shard_api::{
    Datum, LogIndex, MoveId, ShardError, ShardId, TableDescriptor, TxnId,
    client::{LockRowsRequest, RequestContext, RowLock, ShardClient, WaitPolicy},
    descriptor::Fence,
    key,
    moves::HoldRanges,
};

use super::{
    copies::Node,
    in_txn, insert,
    moves::{GROUP, Map, SHARDS, ranges, tables, three},
    write,
};
use crate::Shard;

const BEFORE: Map = Map { epoch: 1, owner: SHARDS[0] };
const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(30);

fn own() -> RequestContext {
    RequestContext::default()
}

/// A tenant whose rows move, and one whose rows stay.
fn tenants() -> (i32, i32) {
    let [t, _] = tables(Map { epoch: 1, owner: ShardId(2) });
    let moves = |tenant: &i32| key::shard_of_row(&t, &three(*tenant, 0, 0)) == ShardId(2);
    let moving = (0..).find(moves).expect("one that moves");
    (moving, (0..).find(|tenant| !moves(tenant)).expect("one that stays"))
}

fn hold(grace: Duration, limit: Duration) -> HoldRanges {
    HoldRanges { id: MoveId(1), tables: ranges(BEFORE), grace, limit }
}

async fn fence(shard: &Shard) {
    let fences = vec![Fence::Placement { id: GROUP, epoch: 2 }];
    shard.fence(&own(), fences).await.expect("a fence");
}

async fn add(
    shard: &Shard,
    context: RequestContext,
    t: &Arc<TableDescriptor>,
    tenant: i32,
    id: i32,
) -> Result<u64, ShardError> {
    let mut row = three(tenant, id, id);
    if t.primary_key.is_empty() {
        row = vec![Datum::Int4(tenant), Datum::Int4(id)];
    }
    write(shard, context, t, insert(vec![row])).await
}

/// Whether a request is still waiting after a while.
async fn waits<T>(request: impl Future<Output = T> + Unpin) -> bool {
    tokio::time::timeout(SHORT, request).await.is_err()
}

#[tokio::test]
async fn writers_of_what_moves_wait_and_others_do_not() {
    let node = Node::new(SHARDS[0]);
    let shard = &node.shard;
    let (moving, staying) = tenants();
    for t in tables(BEFORE) {
        shard.hold_ranges(hold(SHORT, LONG)).await.expect("a hold");
        add(shard, own(), &t, staying, 1).await.expect("goes on");
        let mut waiting = Box::pin(add(shard, own(), &t, moving, 1));
        assert!(waits(&mut waiting).await);
        // Without a fence they go on as before.
        shard.release_ranges(MoveId(1)).await.expect("released");
        waiting.await.expect("written");
    }
    shard.hold_ranges(hold(SHORT, LONG)).await.expect("a hold");
    let [t, _] = tables(BEFORE);
    let mut waiting = Box::pin(add(shard, own(), &t, moving, 2));
    assert!(waits(&mut waiting).await);
    let lock = LockRowsRequest {
        context: in_txn(5, 1),
        table: t.clone(),
        rows: vec![(key::row_key(&t, &three(moving, 1, 1), None).expect("a key"), LogIndex(0))],
        lock: RowLock::Update,
        wait: WaitPolicy::Wait,
    };
    let mut locking = Box::pin(shard.lock_rows(lock));
    assert!(waits(&mut locking).await);
    fence(shard).await;
    shard.release_ranges(MoveId(1)).await.expect("released");
    assert!(matches!(waiting.await, Err(ShardError::StaleEpoch { .. })));
    assert!(matches!(locking.await, Err(ShardError::StaleEpoch { .. })));
}

#[tokio::test]
async fn a_transaction_inside_may_end_in_its_grace() {
    let node = Node::new(SHARDS[0]);
    let shard = node.shard.clone();
    let (moving, staying) = tenants();
    let [t, keyless] = tables(BEFORE);
    for (txn, t, tenant) in [(1, &t, moving), (2, &keyless, moving), (3, &t, staying)] {
        add(&shard, in_txn(txn, 1), t, tenant, txn as i32).await.expect("written");
    }
    let mut holding = Box::pin(shard.hold_ranges(hold(LONG, LONG)));
    assert!(waits(&mut holding).await);
    // It goes on inside, and the one that is not inside waits there.
    add(&shard, in_txn(1, 2), &t, moving, 10).await.expect("goes on");
    let mut outside = Box::pin(add(&shard, in_txn(3, 2), &t, moving, 30));
    assert!(waits(&mut outside).await);
    let index = shard.commit(TxnId(1)).await.expect("in its grace");
    assert!(waits(&mut holding).await);
    shard.rollback(TxnId(2)).await.expect("a rollback");
    let held = holding.await.expect("a hold");
    assert!(held >= index);
    drop(outside);
    // Who wrote what does not move commits behind the fence.
    fence(&shard).await;
    shard.commit(TxnId(3)).await.expect("nothing of it moved");
    assert!(shard.core.locks.is_idle());
}

#[tokio::test]
async fn who_stays_inside_is_doomed() {
    let node = Node::new(SHARDS[0]);
    let shard = &node.shard;
    let (moving, _) = tenants();
    let [t, _] = tables(BEFORE);
    for txn in [1, 2] {
        add(shard, in_txn(txn, 1), &t, moving, txn as i32).await.expect("written");
    }
    let started = Instant::now();
    shard.hold_ranges(hold(SHORT, LONG)).await.expect("a hold");
    assert!(started.elapsed() >= SHORT && started.elapsed() < LONG / 2);
    let refused = |result: Result<(), ShardError>| {
        assert!(matches!(result, Err(ShardError::Conflict { .. })), "{result:?}");
    };
    refused(add(shard, in_txn(1, 2), &t, moving, 10).await.map(drop));
    refused(shard.validate(TxnId(1)).await);
    refused(shard.commit(TxnId(2)).await.map(drop));
    shard.rollback(TxnId(1)).await.expect("a rollback");
    shard.release_ranges(MoveId(1)).await.expect("released");
    assert!(shard.core.locks.is_idle());
    // Nobody else is.
    add(shard, in_txn(3, 1), &t, moving, 1).await.expect("written");
    shard.commit(TxnId(3)).await.expect("a commit");
}

#[tokio::test]
async fn a_hold_ends_by_itself() {
    let node = Node::new(SHARDS[0]);
    let shard = &node.shard;
    let (moving, _) = tenants();
    let [t, _] = tables(BEFORE);
    add(shard, in_txn(1, 1), &t, moving, 1).await.expect("written");
    shard.rollback(TxnId(1)).await.expect("a rollback");
    shard.hold_ranges(hold(SHORT, SHORT)).await.expect("a hold");
    add(shard, in_txn(2, 1), &t, moving, 1).await.expect("after a while");
    // The fence comes too late to spare it: it may have written what moves.
    fence(shard).await;
    let refused = shard.commit(TxnId(2)).await;
    assert!(matches!(refused, Err(ShardError::Conflict { .. })), "{refused:?}");
}
