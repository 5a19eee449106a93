//! Every method arrives as it was called, and its answer or error comes back as it was given.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use cortex_shard_api::{
    LogIndex, MoveId, Oid, ShardError, ShardId, SnapshotId, StorageId, TxnId,
    client::{
        Access, Fragment, FragmentRequest, GetRequest, LockRowsRequest, MetaWrite, OnConflict,
        RequestContext, RowLock, ScanRowsRequest, ScanSpec, SequenceSpec, SequenceState,
        ShardClient, TableLock, WaitPolicy, WriteOp, WriteOutcome, WriteRequest,
    },
    copies::{ChangesRequest, CopyCursor, CopyKeyspace},
    descriptor::Fence,
    moves::{
        ApplyMoving, HoldRanges, MovePosition, MovedRow, MovingFrom, MovingRequest, TableRanges,
    },
    report::{FragmentReport, OperatorCounts},
    value::Datum,
};
use futures::{StreamExt, TryStreamExt};

use super::{Served, double::table, eventually};

fn context() -> RequestContext {
    RequestContext {
        txn: None,
        mark: 3,
        snapshot: None,
        now_micros: -5,
        lock_timeout: Some(Duration::from_millis(7)),
        timeout: Some(Duration::from_secs(60)),
    }
}

fn in_txn() -> RequestContext {
    RequestContext { txn: Some(TxnId(99)), ..context() }
}

fn key(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

pub(super) fn fragment(text: &'static str) -> FragmentRequest {
    let fragment = Fragment::Bytes { version: 2, bytes: key(text) };
    FragmentRequest { context: context(), fragment, report: None }
}

/// Calls, and checks that the shard saw what was sent.
macro_rules! arrives {
    ($served:expr, $name:literal, $sent:expr, $call:expr) => {{
        let sent = format!(concat!($name, " {}"), $sent);
        let answer = $call.await.expect($name);
        assert_eq!($served.shard.last(), sent);
        answer
    }};
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_arrives_whole() {
    let served = Served::start().await;
    let shard = served.client().await;
    let t = table(5, 1);
    assert_eq!(shard.id(), ShardId(7));
    let status = arrives!(served, "status", "", shard.status());
    assert_eq!((status.applied, status.rows), (LogIndex(5), 6));
    assert_eq!(status.poisoned.as_deref(), Some("it hurts"));

    let request =
        GetRequest { context: context(), table: t.clone(), keys: vec![key("here "), key("none")] };
    let sent = format!("{request:?}");
    let rows = arrives!(served, "get", sent, shard.get(request));
    assert_eq!(rows.len(), 2);
    assert!(rows[1].is_none());
    let row = rows[0].as_ref().expect("a row");
    assert_eq!((&*row.key, &*row.value, row.version), (&b"here "[..], &b"value"[..], LogIndex(3)));

    let spec = ScanSpec {
        table: t.clone(),
        columns: vec![1, 0],
        with_identity: true,
        access: Access::KeyRanges(vec![(key("a"), key("b"))]),
        limit: Some(4),
        batch_rows: 100,
    };
    let request = ScanRowsRequest { context: context(), spec, reverse: true };
    let sent = format!("{request:?}");
    let rows = arrives!(served, "scan_rows", sent, shard.scan_rows(request));
    assert_eq!(&*rows[0].key, b"scanned");

    let request = LockRowsRequest {
        context: in_txn(),
        table: t.clone(),
        rows: vec![(key("row1"), LogIndex(1))],
        lock: RowLock::Share,
        wait: WaitPolicy::SkipLocked,
    };
    let sent = format!("{request:?}");
    let locked = arrives!(served, "lock_rows", sent, shard.lock_rows(request));
    assert_eq!(locked.len(), 2);
    let sent = format!("{:?} Oid(5) Exclusive", in_txn());
    arrives!(served, "lock_table", sent, shard.lock_table(&in_txn(), Oid(5), TableLock::Exclusive));

    let request = WriteRequest {
        context: in_txn(),
        table: t.clone(),
        related: vec![table(6, 1), t.clone()].into(),
        op: WriteOp::Insert {
            rows: vec![vec![Datum::Int4(1), Datum::Text("x".into())]],
            on_conflict: OnConflict::Fail,
        },
        commit: false,
        returning: true,
        more: true,
    };
    let sent = format!("{request:?}");
    let outcome = arrives!(served, "write", sent, shard.write(request));
    let WriteOutcome::Done { affected: 2, rows } = outcome else { panic!("{outcome:?}") };
    assert!(rows[0][0].is_identical(&Datum::Int4(1)) && rows[0][1].is_null());

    arrives!(served, "rollback_to", "TxnId(99) 4", shard.rollback_to(TxnId(99), 4));
    arrives!(served, "validate", "TxnId(99)", shard.validate(TxnId(99)));
    assert_eq!(arrives!(served, "commit", "TxnId(99)", shard.commit(TxnId(99))), LogIndex(9));

    let fences = vec![
        Fence::Shape { table: Oid(5), version: 2 },
        Fence::Placement { id: Oid(6), epoch: u64::MAX },
    ];
    let sent = format!("{:?} {fences:?}", in_txn());
    assert_eq!(arrives!(served, "fence", sent, shard.fence(&in_txn(), fences)), LogIndex(10));
    let (from, to) = (t.clone(), table(8, 2));
    let sent = format!("{:?} {from:?} {to:?}", in_txn());
    assert_eq!(
        arrives!(served, "rewrite_table", sent, shard.rewrite_table(&in_txn(), from, to)),
        11
    );
    arrives!(served, "rollback", "TxnId(99)", shard.rollback(TxnId(99)));

    arrives!(served, "drop_storage", "[StorageId(1)]", shard.drop_storage(vec![StorageId(1)]));
    let stats =
        arrives!(served, "storage_stats", "StorageId(2)", shard.storage_stats(StorageId(2)));
    assert_eq!((stats.rows, stats.bytes), (12, 13));
    assert_eq!(arrives!(served, "storages", "", shard.storages()), [StorageId(14)]);

    let tables = [t.clone(), table(6, 1)];
    let sent = format!("{:?} {tables:?}", context());
    arrives!(served, "open_snapshot", sent, shard.open_snapshot(&context(), &tables));

    let request = ChangesRequest::Log { cursor: CopyCursor::default(), wait: Duration::ZERO };
    let sent = format!("{request:?}");
    arrives!(served, "read_changes", sent, shard.read_changes(request));
    let wait = Duration::from_nanos(1);
    let call = shard.copy_position(ShardId(1), LogIndex(2), wait);
    arrives!(served, "copy_position", "ShardId(1) LogIndex(2) 1ns", call);

    let ranges = || vec![TableRanges { table: t.clone(), ranges: vec![(key("a"), key("b"))] }];
    let from = MovingFrom::Log { cursor: CopyCursor::default(), wait };
    let request = MovingRequest { id: MoveId(1), tables: ranges(), from };
    let sent = format!("{request:?}");
    arrives!(served, "read_moving", sent, shard.read_moving(request));
    let request = ApplyMoving {
        id: MoveId(1),
        tables: ranges(),
        page: Some((key("a"), key("b"))),
        rows: vec![MovedRow { key: key("aaaaa"), value: None }],
        from: None,
        to: MovePosition::Following { log: CopyCursor::default() },
    };
    let sent = format!("{request:?}");
    arrives!(served, "apply_moving", sent, shard.apply_moving(request));
    assert!(
        arrives!(served, "move_position", "MoveId(2)", shard.move_position(MoveId(2))).is_none()
    );
    let request = HoldRanges { id: MoveId(1), tables: ranges(), grace: wait, limit: wait };
    let sent = format!("{request:?}");
    assert_eq!(arrives!(served, "hold_ranges", sent, shard.hold_ranges(request)), LogIndex(16));
    arrives!(served, "release_ranges", "MoveId(3)", shard.release_ranges(MoveId(3)));
    let sent = format!("MoveId(3) {:?}", ranges());
    arrives!(served, "drop_ranges", sent, shard.drop_ranges(MoveId(3), ranges()));
    assert!(arrives!(served, "is_range_clean", "MoveId(4)", shard.is_range_clean(MoveId(4))));
    let sent = format!("{:?} {:?}", context(), ranges());
    let sums =
        arrives!(served, "checksum_ranges", sent, shard.checksum_ranges(&context(), ranges()));
    assert_eq!((sums[0].rows, sums[0].checksum), (17, u64::MAX));

    let spec = SequenceSpec {
        storage: StorageId(1),
        start: 1,
        increment: -1,
        min: i64::MIN,
        max: i64::MAX,
        cycle: true,
    };
    let values =
        arrives!(served, "sequence_next", format!("{spec:?} 2"), shard.sequence_next(&spec, 2));
    assert_eq!((values.first, values.count), (i64::MIN, 2));
    let state = SequenceState { last_value: 3, is_called: true, is_gone: false, turn: 4 };
    arrives!(
        served,
        "sequence_set",
        format!("{spec:?} {state:?}"),
        shard.sequence_set(&spec, state)
    );
    let call = shard.sequence_get(&spec);
    assert!(arrives!(served, "sequence_get", format!("{spec:?}"), call).is_none());

    let entries = arrives!(served, "meta_scan", "[1, 2]", shard.meta_scan(&[1, 2]));
    assert_eq!(entries[0].1.len(), 3 << 20, "an answer of several HTTP/2 windows");
    let guard = (vec![1], Some(vec![2]));
    let writes = vec![MetaWrite { key: vec![3], value: None }];
    let sent = format!("{guard:?} {writes:?}");
    assert_eq!(arrives!(served, "meta_write", sent, shard.meta_write(guard, writes)), LogIndex(18));
    let call = shard.meta_watch(LogIndex(1), wait);
    assert_eq!(arrives!(served, "meta_watch", "LogIndex(1) 1ns", call), LogIndex(19));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_come_back_as_they_were() {
    let served = Served::start().await;
    let shard = served.client().await;
    let error = ShardError::UniqueViolation {
        schema: "s".to_owned(),
        table: "t".to_owned(),
        constraint: "c".to_owned(),
        detail: "d".to_owned(),
    };
    *served.shard.fails.lock() = Some(("status", error.clone()));
    let answer = shard.status().await.expect_err("the error");
    assert_eq!(format!("{answer:?}"), format!("{error:?}"));
    // A panic is one request's.
    *served.shard.panics.lock() = Some("status");
    let answer = shard.status().await.expect_err("an error");
    assert!(matches!(answer, ShardError::Internal { .. }), "{answer:?}");
    assert!(shard.status().await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_are_named_and_closed() {
    let served = Served::start().await;
    let shard = served.client().await;
    let snapshot = shard.open_snapshot(&context(), &[]).await.expect("a snapshot");
    let remote = *served.shard.snapshots.lock().iter().next().expect("open");
    assert_ne!(snapshot, remote);
    let context = RequestContext { snapshot: Some(snapshot), ..context() };
    let request = GetRequest { context: context.clone(), table: table(5, 1), keys: vec![] };
    shard.get(request).await.expect("an answer");
    assert!(served.shard.last().contains(&format!("snapshot: Some({remote:?})")));
    let start = Some((CopyKeyspace::Index, key("x")));
    let request = ChangesRequest::Snapshot { snapshot, start };
    shard.read_changes(request).await.expect("an answer");
    assert!(served.shard.last().contains(&format!("{remote:?}")));
    shard.close_snapshot(snapshot);
    eventually("closed", || served.shard.snapshots.lock().is_empty()).await;
    let request = GetRequest { context, table: table(5, 1), keys: vec![] };
    let error = shard.get(request).await.expect_err("no such snapshot");
    assert!(matches!(error, ShardError::Unavailable { .. }), "{error:?}");
    // One that nobody waits for any more is closed, too.
    served.shard.held.lock().insert("open_snapshot");
    let plain = self::context();
    let opening = tokio::time::timeout(Duration::from_millis(50), shard.open_snapshot(&plain, &[]));
    opening.await.expect_err("it is held");
    served.shard.gate.add_permits(1);
    eventually("done", || served.shard.has_asked("open_snapshot done")).await;
    eventually("closed", || served.shard.snapshots.lock().is_empty()).await;
    let unknown = SnapshotId(12345);
    shard.close_snapshot(unknown);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_come_in_order_and_end() {
    let served = Served::start().await;
    let shard = served.client().await;
    let batches = shard.execute(fragment("batches 20")).await.expect("batches");
    let batches: Vec<_> = batches.try_collect().await.expect("no error");
    let values: Vec<i64> = batches
        .iter()
        .flat_map(|batch| {
            let column = batch.column(0).as_any().downcast_ref::<arrow::array::Int64Array>();
            column.expect("int64").values().to_vec()
        })
        .collect();
    assert_eq!(values, (0..20_000).collect::<Vec<i64>>());
    let none = shard.execute(fragment("batches 0")).await.expect("batches");
    assert_eq!(none.count().await, 0);
    let rows = shard.execute(fragment("rows 42")).await.expect("batches");
    let rows: Vec<_> = rows.try_collect().await.expect("no error");
    assert_eq!(rows[0].num_rows(), 42, "a batch without columns counts");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_comes_behind_the_batches_for_who_asks() {
    let served = Served::start().await;
    let shard = served.client().await;
    let report = Arc::new(FragmentReport::default());
    let asking = || FragmentRequest { report: Some(report.clone()), ..fragment("batches 3") };
    let mut batches = shard.execute(asking()).await.expect("batches");
    batches.next().await.expect("one").expect("a batch");
    assert!(report.operators().is_none(), "two batches are left");
    drop(batches);
    let batches = shard.execute(asking()).await.expect("batches");
    assert_eq!(batches.try_collect::<Vec<_>>().await.expect("no error").len(), 3);
    assert_eq!(report.operators(), Some(&[OperatorCounts { rows: 3, nanos: 17 }][..]));
    assert!(served.shard.last().contains("report: true"));
    drop(shard.execute(fragment("batches 3")).await.expect("batches"));
    assert!(served.shard.last().contains("report: false"));
    // No rows, and one that fails.
    for (what, is_there) in [("batches 0", true), ("fail 1", false)] {
        let report = Arc::new(FragmentReport::default());
        let request = FragmentRequest { report: Some(report.clone()), ..fragment(what) };
        let batches = shard.execute(request).await.expect("batches");
        let ended = batches.try_collect::<Vec<_>>().await;
        assert_eq!((ended.is_ok(), report.operators().is_some()), (is_there, is_there), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fragment_fails_typed_before_and_between_batches() {
    let served = Served::start().await;
    let shard = served.client().await;
    let error = ShardError::StaleEpoch { shard: ShardId(7), current: 3 };
    *served.shard.fails.lock() = Some(("execute", error));
    let Err(error) = shard.execute(fragment("batches 2")).await else { panic!("no error") };
    assert!(matches!(error, ShardError::StaleEpoch { current: 3, .. }), "{error:?}");
    for (what, is_right) in [
        (
            "fail 2",
            (|error| matches!(error, ShardError::Conflict { .. })) as fn(&ShardError) -> bool,
        ),
        ("panic 2", |error| matches!(error, ShardError::Internal { .. })),
    ] {
        let mut batches = shard.execute(fragment(what)).await.expect("batches");
        assert!(batches.next().await.expect("one").is_ok());
        assert!(batches.next().await.expect("two").is_ok());
        let error = batches.next().await.expect("three").expect_err("an error");
        assert!(is_right(&error), "{error:?}");
        assert!(batches.next().await.is_none());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_wait_for_their_reader() {
    let served = Served::start().await;
    let shard = served.client().await;
    let mut batches = shard.execute(fragment("batches 1000000")).await.expect("batches");
    batches.next().await.expect("one").expect("a batch");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let polled = served.shard.batches_polled.load(Ordering::SeqCst);
    assert!(polled < 20_000, "{polled} batches of 8 kB were made for nobody");
    drop(batches);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let polled = served.shard.batches_polled.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(served.shard.batches_polled.load(Ordering::SeqCst), polled, "it was cancelled");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_descriptor_travels_once_and_again_when_it_changes() {
    let served = Served::start().await;
    let shard = served.client().await;
    let get = |table: Arc<_>| {
        let shard = shard.clone();
        async move {
            let request = GetRequest { context: context(), table, keys: vec![key("k")] };
            // The key is refused: it has no storage id.
            assert!(shard.get(request).await.is_err());
        }
    };
    let (one, two) = (table(5, 1), table(5, 2));
    get(one.clone()).await;
    let get = |table: Arc<_>| {
        let shard = shard.clone();
        async move {
            let request = GetRequest { context: context(), table, keys: vec![key("whole")] };
            shard.get(request).await.expect("an answer");
        }
    };
    get(one.clone()).await;
    get(one.clone()).await;
    get(two.clone()).await;
    get(one.clone()).await;
    let tables = served.shard.tables.lock().clone();
    let versions: Vec<_> = tables.iter().map(|(_, version)| *version).collect();
    assert_eq!(versions, [1, 1, 2, 1]);
    assert_eq!(tables[0].0, tables[1].0, "the same object on the shard");
    assert_eq!(tables[0].0, tables[3].0);
    // More than a connection remembers.
    for version in 0..3 * crate::protocol::TABLES_MAX as u32 {
        let request =
            GetRequest { context: context(), table: table(6, version), keys: vec![key("whole")] };
        shard.get(request).await.expect("an answer");
        assert_eq!(served.shard.tables.lock().last().expect("one").1, version);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_requests_are_under_way_at_once() {
    let served = Served::start().await;
    let shard = served.client().await;
    served.shard.held.lock().insert("validate");
    let asks = (0..500u64).map(|i| {
        let shard = shard.clone();
        async move {
            let key = Bytes::from(format!("row {i:04}"));
            let context = RequestContext { txn: Some(TxnId(i)), ..context() };
            let request = GetRequest { context, table: table(5, 1), keys: vec![key.clone()] };
            let rows = shard.get(request).await.expect("an answer");
            assert_eq!(rows[0].as_ref().expect("a row").key, key);
            shard.validate(TxnId(i)).await.expect("valid");
        }
    });
    let all = futures::future::join_all(asks);
    let opened = async {
        eventually("all there", || {
            let asked = served.shard.asked.lock();
            asked.iter().filter(|asked| asked.starts_with("validate Txn")).count() == 500
        })
        .await;
        served.shard.gate.add_permits(500);
    };
    futures::future::join(all, opened).await;
}
