//! The parts of a move one by one: whole tables, ranges, what the log keeps, what is damaged.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use cortex_shard_api::{
    Datum, LogIndex, MoveId, Oid, ShardError, ShardId, SqlType, StorageId, TableDescriptor, TxnId,
    client::{RequestContext, SequenceSpec, SequenceState, ShardClient, WriteOp},
    copies::CopyCursor,
    descriptor::{Placement, RangeMap},
    key,
    moves::{
        ApplyMoving, MovePosition, MovedRow, MovingFrom, MovingRequest, MovingRows, TableRanges,
    },
};
use rand::{SeedableRng, rngs::StdRng};
use tokio::sync::oneshot;

use super::{column, copies::Node, in_txn, index, insert, rows, table, write};
use crate::{
    Shard,
    storage::{KeyRange, Keyspace, Op},
    txn::sequencer::Request,
};

const ID: MoveId = MoveId(1);
const SOURCE: ShardId = ShardId(1);
const TARGET: ShardId = ShardId(2);

fn own() -> RequestContext {
    RequestContext::default()
}

/// A home table with a unique and another index.
fn home(shard: ShardId) -> TableDescriptor {
    let columns = vec![
        column("id", SqlType::Int4, true),
        column("v", SqlType::Int4, false),
        column("w", SqlType::Int4, false),
    ];
    let indexes = vec![index(101, 1, true), index(102, 2, false)];
    let placement = Placement::Home(shard);
    TableDescriptor { columns, indexes, placement, ..table(100) }
}

/// A range table whose keys from 100 on are `upper`'s.
fn ranged(upper: ShardId) -> TableDescriptor {
    let mut split = Vec::new();
    key::encode_datum(&mut split, &Datum::Int4(100), SqlType::Int4, key::KeyOrder::default());
    let map = RangeMap { group: Oid(7), epoch: 1, splits: vec![split], owner: vec![SOURCE, upper] };
    let placement = Placement::Range { key: vec![0], map: Arc::new(map) };
    TableDescriptor { placement, ..home(SOURCE) }
}

fn whole(t: &TableDescriptor) -> Vec<TableRanges> {
    let prefix = key::storage_prefix(t.storage);
    let end = key::prefix_end(&prefix).expect("an end");
    let ranges = vec![(Bytes::copy_from_slice(&prefix), end)];
    vec![TableRanges { table: Arc::new(t.clone()), ranges }]
}

/// Keys from 100 on.
fn upper(t: &TableDescriptor) -> Vec<TableRanges> {
    let mut part = whole(t);
    part[0].ranges[0].0 = key::row_key_from_primary_key(t, &[Datum::Int4(100)]);
    part
}

async fn fill(shard: &Shard, t: &TableDescriptor, ids: std::ops::Range<i32>) {
    let row = |id| vec![Datum::Int4(id), Datum::Int4(id + 1), Datum::Int4(id % 5)];
    let all = insert(ids.map(row).collect());
    write(shard, own(), &Arc::new(t.clone()), all).await.expect("rows");
}

/// Copies everything, as a coordinator would.
async fn copy(source: &Shard, target: &Shard, parts: &[TableRanges]) {
    let snapshot = source.open_snapshot(&own(), &[]).await.expect("a snapshot");
    let (mut from, mut start) = (None, None);
    loop {
        let asked = MovingFrom::Snapshot { snapshot, start };
        let request = MovingRequest { id: ID, tables: parts.to_vec(), from: asked };
        let page = source.read_moving(request).await.expect("a page");
        let MovingRows::Page { start: first, end, rows, next, index } = page else {
            panic!("not a page");
        };
        let log = CopyCursor { after: index, part: None };
        let to = MovePosition::Copying { next: next.clone(), log };
        let page = Some((first, end));
        let tables = parts.to_vec();
        let request = ApplyMoving { id: ID, tables, page, rows, from, to: to.clone() };
        target.apply_moving(request.clone()).await.expect("applied");
        target.apply_moving(request).await.expect("again");
        from = Some(to);
        start = next;
        if start.is_none() {
            break;
        }
    }
    source.close_snapshot(snapshot);
}

async fn clean(shard: &Shard, parts: Vec<TableRanges>) {
    shard.drop_ranges(ID, parts.clone()).await.expect("dropping");
    shard.drop_ranges(ID, parts).await.expect("again");
    wait_until_clean(shard).await;
}

async fn wait_until_clean(shard: &Shard) {
    for _ in 0..1000 {
        if shard.is_range_clean(ID).await.expect("an answer") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("not clean after 5 s");
}

fn n_stored(shard: &Shard, storage: u32) -> usize {
    let snapshot = shard.core.published.load().snapshot.clone();
    let range = KeyRange::prefix(&key::storage_prefix(StorageId(storage)));
    let of = |keyspace| snapshot.range(keyspace, range.clone(), false).count();
    of(Keyspace::Rows) + of(Keyspace::Index)
}

#[tokio::test]
async fn a_home_table_moves_as_a_whole_and_old_snapshots_still_see_it() {
    let (mut source, target) = (Node::new(SOURCE), Node::new(TARGET));
    let (before, after) = (home(SOURCE), home(TARGET));
    fill(&source.shard, &before, 0..500).await;
    copy(&source.shard, &target.shard, &whole(&before)).await;
    let checksum = |shard: Arc<Shard>| async move {
        shard.checksum_ranges(&own(), whole(&home(SOURCE))).await.expect("agrees")
    };
    let sums = checksum(source.shard.clone()).await;
    assert_eq!(sums, checksum(target.shard.clone()).await);
    assert_eq!(sums[0].rows, 500);
    // What the map says is the shard's own is not deleted.
    let refused = source.shard.drop_ranges(ID, whole(&before)).await;
    assert!(matches!(refused, Err(ShardError::Internal { .. })), "{refused:?}");
    let old = source.shard.open_snapshot(&own(), &[]).await.expect("a snapshot");
    clean(&source.shard, whole(&after)).await;
    for storage in 100..103 {
        assert_eq!(n_stored(&source.shard, storage), 0, "storage {storage}");
        let stats = source.shard.storage_stats(StorageId(storage)).await.expect("counts");
        assert_eq!((stats.rows, stats.bytes), (0, 0), "storage {storage}");
    }
    let context = RequestContext { snapshot: Some(old), ..own() };
    let seen = source.shard.checksum_ranges(&context, whole(&before)).await.expect("agrees");
    assert_eq!(seen, sums);
    source.crash(&mut StdRng::seed_from_u64(1));
    assert_eq!(n_stored(&source.shard, 100), 0);
    assert!(source.shard.is_range_clean(ID).await.expect("an answer"));
}

#[tokio::test]
async fn a_range_leaves_its_neighbours_and_their_index_entries() {
    let (mut source, target) = (Node::new(SOURCE), Node::new(TARGET));
    let (before, after) = (ranged(SOURCE), ranged(TARGET));
    fill(&source.shard, &before, 0..300).await;
    copy(&source.shard, &target.shard, &upper(&before)).await;
    assert_eq!(n_stored(&target.shard, 100), 200);
    source.shard.drop_ranges(ID, upper(&after)).await.expect("dropping");
    // Wherever it is, it goes on after a crash.
    source.crash(&mut StdRng::seed_from_u64(2));
    wait_until_clean(&source.shard).await;
    for (node, n_rows) in [(&source, 100), (&target, 200)] {
        for storage in 100..103 {
            assert_eq!(n_stored(&node.shard, storage), n_rows, "storage {storage}");
        }
        node.shard.checksum_ranges(&own(), whole(&after)).await.expect("agrees");
    }
    // An ended move takes nothing any more.
    let to = MovePosition::Following { log: CopyCursor::default() };
    let tables = upper(&after);
    let late = ApplyMoving { id: ID, tables, page: None, rows: vec![], from: None, to };
    let refused = source.shard.apply_moving(late).await;
    assert!(matches!(refused, Err(ShardError::Conflict { .. })), "{refused:?}");
    // And a map by which the range is the source's own cannot have it deleted.
    source.shard.drop_ranges(MoveId(2), whole(&after)).await.expect("begun");
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(n_stored(&source.shard, 100), 100);
}

#[tokio::test]
async fn the_log_is_kept_for_a_reader_and_one_that_comes_late_is_told() {
    let node = Node::new(SOURCE);
    let shard = &node.shard;
    let t = Arc::new(home(SOURCE));
    fill(shard, &t, 0..10).await;
    let after = shard.status().await.expect("a status").applied;
    let read = |id| MovingRequest {
        id: MoveId(id),
        tables: whole(&home(SOURCE)),
        from: MovingFrom::Log { cursor: CopyCursor { after, part: None }, wait: Duration::ZERO },
    };
    shard.read_moving(read(1)).await.expect("nothing yet");
    fill(shard, &t, 10..400).await;
    // A transaction that takes many entries, and others around it.
    for mark in 0..10 {
        let all = (0..60).map(|n| 1000 + mark * 100 + n);
        let row = |id| vec![Datum::Int4(id), Datum::Int4(id + 1), Datum::Int4(0)];
        let op = insert(all.map(row).collect());
        write(shard, in_txn(1, mark as u32), &t, op).await.expect("rows");
    }
    shard.commit(TxnId(1)).await.expect("a commit");
    shard.checkpoint().await.expect("a checkpoint");
    let (mut cursor, mut n_rows) = (CopyCursor { after, part: None }, 0);
    loop {
        let from = MovingFrom::Log { cursor, wait: Duration::ZERO };
        let request = MovingRequest { from, ..read(1) };
        let MovingRows::Log { rows, next, behind_bytes } =
            shard.read_moving(request).await.expect("rows")
        else {
            panic!("the log was not kept");
        };
        n_rows += rows.len();
        if next == cursor {
            assert_eq!(behind_bytes, 0);
            break;
        }
        cursor = next;
    }
    assert_eq!(n_rows, 390 + 600);
    // The reader has all of it: now it goes.
    shard.checkpoint().await.expect("a checkpoint");
    let answer = shard.read_moving(read(2)).await.expect("an answer");
    assert!(matches!(answer, MovingRows::Behind), "{answer:?}");
}

#[tokio::test]
async fn damage_is_said() {
    let (source, target) = (Node::new(SOURCE), Node::new(TARGET));
    let t = home(SOURCE);
    fill(&source.shard, &t, 0..10).await;
    let snapshot = source.shard.open_snapshot(&own(), &[]).await.expect("a snapshot");
    let from = MovingFrom::Snapshot { snapshot, start: None };
    let request = MovingRequest { id: ID, tables: whole(&t), from };
    let Ok(MovingRows::Page { start, end, mut rows, index, .. }) =
        source.shard.read_moving(request).await
    else {
        panic!("not a page");
    };
    // Two rows with one unique value.
    rows[1].value = rows[0].value.clone();
    let log = CopyCursor { after: index, part: None };
    let apply = |rows: Vec<MovedRow>| ApplyMoving {
        id: ID,
        tables: whole(&home(SOURCE)),
        page: Some((start.clone(), end.clone())),
        rows,
        from: None,
        to: MovePosition::Copying { next: None, log },
    };
    let refused = target.shard.apply_moving(apply(rows.clone())).await;
    assert!(matches!(refused, Err(ShardError::Corrupt { .. })), "{refused:?}");
    assert_eq!(target.shard.move_position(ID).await.expect("an answer"), None);
    rows.remove(1);
    target.shard.apply_moving(apply(rows)).await.expect("applied");
    // An entry too few, then one too many.
    let context = own();
    let check = || target.shard.checksum_ranges(&context, whole(&t));
    check().await.expect("agrees");
    let snapshot = target.shard.core.published.load().snapshot.clone();
    let prefix = KeyRange::prefix(&key::storage_prefix(StorageId(102)));
    let entry = snapshot.range(Keyspace::Index, prefix, false).next().expect("one").expect("it");
    let tamper = |key: Bytes, value: Option<Bytes>| {
        let (reply, answer) = oneshot::channel();
        let ops = vec![Op { keyspace: Keyspace::Index, key, value }];
        let requests = target.shard.requests.clone();
        async move {
            requests.send(Request::Clean { ops, reply }).await.expect("sent");
            answer.await.expect("an answer").expect("done");
        }
    };
    tamper(entry.0.clone(), None).await;
    let found = check().await;
    assert!(matches!(&found, Err(ShardError::Corrupt { what, .. }) if what.contains("lacks")));
    tamper(entry.0.clone(), Some(entry.1)).await;
    let mut other = entry.0.to_vec();
    let last = other.len() - 1;
    other[last] ^= 0x40;
    tamper(Bytes::from(other), Some(Bytes::new())).await;
    let found = check().await;
    assert!(matches!(&found, Err(ShardError::Corrupt { what, .. }) if what.contains("without")));
}

#[tokio::test]
async fn a_sequence_that_moves_gives_no_value_twice() {
    let (source, target) = (Node::new(SOURCE), Node::new(TARGET));
    let (storage, max) = (StorageId(900), i64::MAX);
    let spec = SequenceSpec { storage, start: 1, increment: 1, min: 1, max, cycle: false };
    let gone = |turn| SequenceState { is_gone: true, turn, ..SequenceState::default() };
    for n in 0..2 {
        source.shard.sequence_next(&spec, 3).await.expect("values");
        source.shard.sequence_set(&spec, gone(2 * n + 1)).await.expect("gone");
        let refused = source.shard.sequence_next(&spec, 1).await;
        assert!(matches!(refused, Err(ShardError::StaleEpoch { .. })), "{refused:?}");
        let state = source.shard.sequence_get(&spec).await.expect("an answer").expect("used");
        assert!(state.is_gone);
        // Given back, as when a move is aborted.
        let state = SequenceState { is_gone: false, turn: 2 * n + 2, ..state };
        source.shard.sequence_set(&spec, state).await.expect("back");
    }
    source.shard.sequence_set(&spec, gone(5)).await.expect("gone");
    let state = source.shard.sequence_get(&spec).await.expect("an answer").expect("used");
    let state = SequenceState { is_gone: false, turn: 1, ..state };
    target.shard.sequence_set(&spec, state).await.expect("moved");
    assert_eq!(target.shard.sequence_next(&spec, 1).await.expect("a value").first, 7);
    // Nobody has used it: the first value is still to come.
    let fresh = SequenceSpec { storage: StorageId(901), start: 5, ..spec };
    source.shard.sequence_set(&fresh, gone(1)).await.expect("gone");
    let state = source.shard.sequence_get(&fresh).await.expect("an answer").expect("a state");
    let state = SequenceState { is_gone: false, turn: 1, ..state };
    target.shard.sequence_set(&fresh, state).await.expect("moved");
    assert_eq!(target.shard.sequence_next(&fresh, 1).await.expect("a value").first, 5);
}

#[tokio::test]
async fn what_comes_late_changes_no_sequence() {
    let mut node = Node::new(SOURCE);
    let (storage, max) = (StorageId(900), i64::MAX);
    let spec = SequenceSpec { storage, start: 1, increment: 1, min: 1, max, cycle: false };
    let gone = SequenceState { is_gone: true, turn: 1, ..SequenceState::default() };
    let back = SequenceState { last_value: 3, is_called: true, is_gone: false, turn: 2 };
    let setval = SequenceState { last_value: 70, is_called: true, ..SequenceState::default() };
    let stale = |answer| matches!(answer, Err(ShardError::StaleEpoch { .. }));
    node.shard.sequence_next(&spec, 3).await.expect("values");
    // The same request twice is one.
    for _ in 0..2 {
        node.shard.sequence_set(&spec, gone).await.expect("gone");
    }
    // Whoever sets a value has to find the shard where the sequence is.
    assert!(stale(node.shard.sequence_set(&spec, setval).await));
    for _ in 0..2 {
        node.shard.sequence_set(&spec, back).await.expect("back");
    }
    assert!(stale(node.shard.sequence_set(&spec, gone).await), "it was gone before it came back");
    assert_eq!(node.shard.sequence_next(&spec, 1).await.expect("a value").first, 4);
    assert!(stale(node.shard.sequence_set(&spec, back).await), "values were given since");
    node.shard.sequence_set(&spec, setval).await.expect("set");
    node.crash(&mut StdRng::seed_from_u64(7));
    let state = node.shard.sequence_get(&spec).await.expect("an answer").expect("used");
    assert_eq!(state, SequenceState { turn: 2, ..setval });
    assert!(stale(node.shard.sequence_set(&spec, gone).await), "also after a restart");
    node.shard.sequence_set(&spec, SequenceState { turn: 3, ..gone }).await.expect("gone");
}

#[tokio::test]
async fn a_descriptor_that_is_too_old_is_not_copied_with() {
    let (source, target) = (Node::new(SOURCE), Node::new(TARGET));
    let old = home(SOURCE);
    let newer = TableDescriptor { version: 2, ..home(SOURCE) };
    fill(&source.shard, &newer, 0..3).await;
    let from = MovingFrom::Log { cursor: CopyCursor::default(), wait: Duration::ZERO };
    let request = MovingRequest { id: ID, tables: whole(&old), from };
    let Ok(MovingRows::Log { rows, next, .. }) = source.shard.read_moving(request).await else {
        panic!("not the log");
    };
    let to = MovePosition::Following { log: next };
    let apply = |t: &TableDescriptor| {
        let (tables, rows, to) = (whole(t), rows.clone(), to.clone());
        ApplyMoving { id: ID, tables, page: None, rows, from: None, to }
    };
    let refused = target.shard.apply_moving(apply(&old)).await;
    assert!(matches!(refused, Err(ShardError::StaleEpoch { .. })), "{refused:?}");
    target.shard.apply_moving(apply(&newer)).await.expect("applied");
    assert_eq!(rows.len(), 3);
    let plain = Arc::new(TableDescriptor { indexes: vec![], ..newer });
    assert_eq!(self::rows(&target.shard, own(), &plain).await.len(), 3);
    assert!(next.after > LogIndex(0));
}

#[tokio::test]
async fn rows_that_exchange_unique_values_in_parts_of_a_transaction_keep_their_entries() {
    let (source, target) = (Node::new(SOURCE), Node::new(TARGET));
    let t = Arc::new(home(SOURCE));
    fill(&source.shard, &t, 0..200).await;
    copy(&source.shard, &target.shard, &whole(&t)).await;
    for id in 0..200 {
        let key = key::row_key_from_primary_key(&t, &[Datum::Int4(id)]);
        let op = WriteOp::DeleteByKey { key, predicate: None, parameters: Arc::from([]) };
        write(&source.shard, in_txn(1, 1), &t, op).await.expect("deleted");
    }
    let row = |id| vec![Datum::Int4(id), Datum::Int4(200 - id), Datum::Int4(id % 5)];
    let all = insert((0..200).map(row).collect());
    write(&source.shard, in_txn(1, 2), &t, all).await.expect("rows");
    source.shard.commit(TxnId(1)).await.expect("a commit");
    let mut n_parts = 0;
    loop {
        let position = target.shard.move_position(ID).await.expect("an answer");
        let Some(MovePosition::Copying { log, .. } | MovePosition::Following { log }) = position
        else {
            panic!("no position");
        };
        let from = MovingFrom::Log { cursor: log, wait: Duration::ZERO };
        let request = MovingRequest { id: ID, tables: whole(&t), from };
        let Ok(MovingRows::Log { rows, next, .. }) = source.shard.read_moving(request).await else {
            panic!("not the log");
        };
        if next == log {
            break;
        }
        n_parts += usize::from(next.part.is_some());
        let to = MovePosition::Following { log: next };
        let tables = whole(&t);
        let request = ApplyMoving { id: ID, tables, page: None, rows, from: position, to };
        target.shard.apply_moving(request).await.expect("applied");
    }
    assert!(n_parts > 1, "it came in {n_parts} parts");
    let context = own();
    let ours = target.shard.checksum_ranges(&context, whole(&t)).await.expect("agrees");
    let theirs = source.shard.checksum_ranges(&context, whole(&t)).await.expect("agrees");
    assert_eq!(ours, theirs);
}
