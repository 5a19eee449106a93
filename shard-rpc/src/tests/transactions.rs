//! Cancelling, the order inside a transaction, and what a lost connection means for it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use cortex_shard_api::{
    LogIndex, Oid, ShardError, TxnId,
    client::{
        GetRequest, MetaWrite, RequestContext, ShardClient, TableLock, WriteOp, WriteOutcome,
        WriteRequest,
    },
};

use super::{
    Served,
    double::{Double, table},
    eventually,
};
use crate::{LinkState, RemoteShard};

fn in_txn(txn: u64) -> RequestContext {
    RequestContext { txn: Some(TxnId(txn)), ..RequestContext::default() }
}

async fn get(shard: &RemoteShard, context: RequestContext) -> Result<(), ShardError> {
    let request =
        GetRequest { context, table: table(5, 1), keys: vec![Bytes::from_static(b"whole")] };
    shard.get(request).await.map(|_| ())
}

fn write(context: RequestContext, commit: bool) -> WriteRequest {
    WriteRequest {
        context,
        table: table(5, 1),
        related: Arc::new([]),
        op: WriteOp::Delete { rows: vec![(Bytes::from_static(b"whole"), LogIndex(1))] },
        commit,
        returning: false,
        more: false,
    }
}

/// What was asked, by name.
fn names(shard: &Double) -> Vec<String> {
    let first = |asked: String| asked.split("TxnId").next().unwrap_or_default().trim().to_owned();
    shard.asked().into_iter().map(first).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_future_cancels_and_the_rollback_waits_for_it() {
    let served = Served::start().await;
    let shard = served.client().await;
    served.shard.held.lock().insert("lock_table");
    let context = in_txn(1);
    let locking = shard.lock_table(&context, Oid(1), TableLock::Exclusive);
    tokio::time::timeout(Duration::from_millis(50), locking).await.expect_err("it is held");
    shard.rollback(TxnId(1)).await.expect("rolled back");
    let asked = names(&served.shard);
    assert!(asked[0].starts_with("lock_table"), "{asked:?}");
    assert_eq!(asked[1..], ["lock_table dropped", "rollback"]);
    assert!(served.shard.txns.lock().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_has_begun_is_not_cancelled() {
    let served = Served::start().await;
    let shard = served.client().await;
    get(&shard, in_txn(1)).await.expect("an answer");
    served.shard.held.lock().insert("commit");
    let committing = shard.commit(TxnId(1));
    tokio::time::timeout(Duration::from_millis(50), committing).await.expect_err("it is held");
    served.shard.gate.add_permits(1);
    eventually("committed", || served.shard.has_asked("commit done")).await;
    assert!(!served.shard.has_asked("commit dropped"));
    // Nothing is left to roll back.
    shard.rollback(TxnId(1)).await.expect("nothing to do");
    assert!(!served.shard.has_asked("rollback"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_a_transaction_run_in_order_and_others_go_on() {
    let served = Served::start().await;
    let shard = served.client().await;
    served.shard.held.lock().insert("write");
    let first = tokio::spawn({
        let shard = shard.clone();
        async move { shard.write(write(in_txn(1), false)).await }
    });
    eventually("held", || served.shard.has_asked("write")).await;
    let second = tokio::spawn({
        let shard = shard.clone();
        async move { get(&shard, in_txn(1)).await }
    });
    get(&shard, in_txn(2)).await.expect("another transaction");
    get(&shard, RequestContext::default()).await.expect("none");
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!second.is_finished());
    served.shard.gate.add_permits(1);
    first.await.expect("no panic").expect("written");
    second.await.expect("no panic").expect("read");
    let last = served.shard.asked().len() - 1;
    assert_eq!(served.shard.asked()[last - 1], "write done");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_does_not_survive_a_reconnect() {
    let served = Served::start().await;
    let shard = served.client().await;
    let address = served.address.to_string();
    get(&shard, in_txn(1)).await.expect("begun");
    get(&shard, in_txn(2)).await.expect("begun");
    let snapshot = shard.open_snapshot(&in_txn(3), &[]).await.expect("a snapshot");
    let double = served.stop().await;
    // The server has ended what the connection had begun, before it returned.
    assert!(double.txns.lock().is_empty(), "{:?}", double.asked());
    assert!(double.snapshots.lock().is_empty());
    // Before the client has noticed, a commit is one whose answer is lost.
    eventually("noticed", || shard.state() != LinkState::Up).await;
    assert!(matches!(shard.commit(TxnId(1)).await, Err(ShardError::TransactionLost { .. })));
    let _served = Served::start_with(&address, double.clone(), None).await;
    assert!(shard.ready(Duration::from_secs(5)).await);
    let n = double.asked().len();
    let lost = |result: Result<(), ShardError>| {
        assert!(matches!(result, Err(ShardError::TransactionLost { .. })), "{result:?}");
    };
    lost(get(&shard, in_txn(2)).await);
    lost(shard.write(write(in_txn(2), true)).await.map(|_| ()));
    lost(shard.lock_table(&in_txn(2), Oid(1), TableLock::Shared).await);
    lost(shard.rollback_to(TxnId(2), 1).await);
    lost(shard.validate(TxnId(2)).await);
    lost(get(&shard, RequestContext { snapshot: Some(snapshot), ..in_txn(3) }).await);
    shard.close_snapshot(snapshot);
    let outside = RequestContext { snapshot: Some(snapshot), ..RequestContext::default() };
    let error = get(&shard, outside).await.expect_err("lost");
    assert!(matches!(error, ShardError::Unavailable { .. }));
    lost(shard.commit(TxnId(2)).await.map(|_| ()));
    shard.rollback(TxnId(3)).await.expect("rolled back already");
    assert_eq!(double.asked().len(), n, "nothing of it reached the shard");
    get(&shard, in_txn(4)).await.expect("new ones begin");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_of_a_commit_is_an_unknown_outcome() {
    let served = Served::start().await;
    let shard = served.client().await;
    for txn in 1..4 {
        get(&shard, in_txn(txn)).await.expect("begun");
    }
    served.shard.held.lock().extend(["commit", "meta_write", "write", "get"]);
    let spawn = |what: &'static str| {
        let shard = shard.clone();
        tokio::spawn(async move {
            match what {
                "commit" => shard.commit(TxnId(1)).await.map(|_| ()),
                "meta_write" => {
                    let writes = vec![MetaWrite { key: vec![1], value: None }];
                    shard.meta_write((vec![], None), writes).await.map(|_| ())
                }
                "write and commit" => shard.write(write(in_txn(2), true)).await.map(|_| ()),
                "write" => shard.write(write(in_txn(3), false)).await.map(|_| ()),
                _ => get(&shard, RequestContext::default()).await,
            }
        })
    };
    let unknown = ["commit", "meta_write", "write and commit"].map(spawn);
    let unavailable = ["write", "get"].map(spawn);
    eventually("all there", || served.shard.asked().len() == 3 + 5).await;
    let stopping = tokio::spawn(served.stop());
    for task in unknown {
        let error = task.await.expect("no panic").expect_err("lost");
        assert!(matches!(error, ShardError::OutcomeUnknown { .. }), "{error:?}");
    }
    for task in unavailable {
        let error = task.await.expect("no panic").expect_err("lost");
        assert!(matches!(error, ShardError::Unavailable { .. }), "{error:?}");
    }
    // What does not commit was dropped; commits go on to their end.
    let double = stopping.await.expect("stopped");
    eventually("dropped", || {
        double.asked().iter().filter(|asked| *asked == "write dropped").count() == 2
    })
    .await;
    double.gate.add_permits(10);
    eventually("committed", || double.has_asked("commit done")).await;
    eventually("written", || double.has_asked("meta_write done")).await;
    assert!(!double.has_asked("commit dropped"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_commits_ends_its_transaction() {
    let served = Served::start().await;
    let shard = served.client().await;
    get(&shard, in_txn(1)).await.expect("begun");
    let outcome = shard.write(write(in_txn(1), true)).await.expect("written");
    assert!(matches!(outcome, WriteOutcome::Done { .. }));
    let lost = shard.commit(TxnId(1)).await.expect_err("over");
    assert!(matches!(lost, ShardError::TransactionLost { .. }));
    // One that fails does not end it.
    get(&shard, in_txn(2)).await.expect("begun");
    *served.shard.fails.lock() = Some(("write", ShardError::MetaConflict));
    shard.write(write(in_txn(2), true)).await.expect_err("as the test says");
    shard.rollback_to(TxnId(2), 0).await.expect("it is there");
    shard.rollback(TxnId(2)).await.expect("it is there");
    assert!(served.shard.last().starts_with("rollback TxnId(2)"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_ends_by_itself_when_its_time_is_over() {
    let served = Served::start().await;
    let shard = served.client().await;
    served.shard.held.lock().extend(["get", "write"]);
    let timeout = Some(Duration::from_millis(30));
    let error = get(&shard, RequestContext { timeout, ..in_txn(1) }).await.expect_err("too long");
    assert!(matches!(error, ShardError::Unavailable { .. }), "{error:?}");
    assert_eq!(served.shard.last(), "get dropped");
    let context = RequestContext { timeout, ..RequestContext::default() };
    let error = shard.write(write(context, true)).await.expect_err("too long");
    assert!(matches!(error, ShardError::OutcomeUnknown { .. }), "{error:?}");
    shard.rollback(TxnId(1)).await.expect("its turn is free again");
}
