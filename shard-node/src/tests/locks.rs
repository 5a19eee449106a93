//! Locks: who waits for whom, in which order, and who is told that it is hopeless.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use cortex_shard_api::{ShardError, TxnId, client::WaitPolicy};

use crate::txn::locks::{LockKey, LockManager, LockMode, LockRequest};

fn key(name: &'static str) -> LockKey {
    LockKey::Row(Bytes::from_static(name.as_bytes()))
}

fn wait(txn: u64, mode: LockMode) -> LockRequest {
    LockRequest { txn: TxnId(txn), mode, wait: WaitPolicy::Wait, timeout: None }
}

/// Starts a request and lets it come to rest.
async fn start(
    locks: &Arc<LockManager>,
    on: &'static str,
    request: LockRequest,
) -> tokio::task::JoinHandle<Result<bool, ShardError>> {
    let locks = locks.clone();
    let task = tokio::spawn(async move {
        locks.acquire(key(on), request).await.map(|granted| granted.is_some_and(|g| g.has_waited))
    });
    tokio::time::sleep(Duration::from_millis(5)).await;
    task
}

#[test]
fn modes_conflict_as_in_postgres() {
    use LockMode::{KeyShare, NoKeyUpdate, Share, Update};
    let modes = [KeyShare, Share, NoKeyUpdate, Update];
    let conflicts = [[0, 0, 0, 1], [0, 0, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1]];
    for (a, row) in modes.iter().zip(conflicts) {
        for (b, expected) in modes.iter().zip(row) {
            assert_eq!(a.conflicts_with(*b), expected == 1, "{a:?} {b:?}");
        }
    }
}

#[tokio::test]
async fn waiters_are_served_in_order_and_readers_do_not_starve_a_writer() {
    let locks = Arc::new(LockManager::default());
    let share = start(&locks, "a", wait(1, LockMode::Share)).await;
    let writer = start(&locks, "a", wait(2, LockMode::Update)).await;
    let late_reader = start(&locks, "a", wait(3, LockMode::Share)).await;
    assert!(!share.await.expect("task").expect("granted"));
    assert!(!writer.is_finished() && !late_reader.is_finished());
    locks.release_all(TxnId(1), true);
    assert!(writer.await.expect("task").expect("granted"));
    assert!(!late_reader.is_finished());
    locks.release_all(TxnId(2), true);
    assert!(late_reader.await.expect("task").expect("granted"));
    locks.release_all(TxnId(3), true);
    assert!(locks.is_idle());
}

#[tokio::test]
async fn the_request_that_closes_a_cycle_is_the_victim() {
    let locks = Arc::new(LockManager::default());
    for (txn, on) in [(1, "a"), (2, "b"), (3, "c")] {
        start(&locks, on, wait(txn, LockMode::Update)).await.await.expect("task").expect("free");
    }
    let first = start(&locks, "b", wait(1, LockMode::Update)).await;
    let second = start(&locks, "c", wait(2, LockMode::Update)).await;
    let third = start(&locks, "a", wait(3, LockMode::Update)).await;
    let error = third.await.expect("task").expect_err("a deadlock");
    assert!(matches!(error, ShardError::Deadlock { .. }), "{error}");
    locks.release_all(TxnId(3), false);
    assert!(second.await.expect("task").expect("granted"));
    locks.release_all(TxnId(2), true);
    assert!(first.await.expect("task").expect("granted"));
    locks.release_all(TxnId(1), true);
    assert!(locks.is_idle());
}

#[tokio::test]
async fn two_holders_that_both_upgrade_are_a_deadlock() {
    let locks = Arc::new(LockManager::default());
    for txn in [1, 2] {
        start(&locks, "a", wait(txn, LockMode::KeyShare)).await.await.expect("task").expect("ok");
    }
    let first = start(&locks, "a", wait(1, LockMode::Update)).await;
    let second = start(&locks, "a", wait(2, LockMode::Update)).await;
    assert!(matches!(second.await.expect("task"), Err(ShardError::Deadlock { .. })));
    locks.release_all(TxnId(2), false);
    assert!(first.await.expect("task").expect("granted"));
    locks.release_all(TxnId(1), true);
    assert!(locks.is_idle());
}

#[tokio::test]
async fn a_dropped_or_timed_out_request_leaves_the_queue() {
    let locks = Arc::new(LockManager::default());
    start(&locks, "a", wait(1, LockMode::Share)).await.await.expect("task").expect("free");
    let dropped = start(&locks, "a", wait(2, LockMode::Update)).await;
    let behind = start(&locks, "a", wait(3, LockMode::Share)).await;
    assert_eq!(locks.n_waiting(), 2);
    dropped.abort();
    assert!(behind.await.expect("task").expect("granted"));
    let timeout = Some(Duration::from_millis(10));
    let request = LockRequest { timeout, ..wait(4, LockMode::Update) };
    let error = start(&locks, "a", request).await.await.expect("task").expect_err("a timeout");
    assert!(matches!(error, ShardError::LockNotAvailable { .. }), "{error}");
    let request = LockRequest { wait: WaitPolicy::SkipLocked, ..wait(4, LockMode::Update) };
    assert!(locks.acquire(key("a"), request).await.expect("skipped").is_none());
    locks.release_all(TxnId(1), true);
    locks.release_all(TxnId(3), true);
    assert!(locks.is_idle());
}
