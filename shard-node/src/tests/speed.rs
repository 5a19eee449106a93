//! Figures for whoever works on speed: `cargo test -p cortex-shard-node --lib speed -- --ignored --nocapture`. They assert
//! nothing; compare before and after a change, with optimization.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use cortex_shard_api::{
    Datum, MoveId, ShardId, SqlType, StorageId, TableDescriptor, TxnId,
    client::{GetRequest, RequestContext, ShardClient},
    copies::CopyCursor,
    key,
    moves::{ApplyMoving, MovePosition, MovingFrom, MovingRequest, MovingRows, TableRanges},
};

use super::{column, in_txn, index, insert, int_row, key_of, table, write};
use crate::{Shard, ShardConfig};

const SHARDS: u32 = 4;
const BATCH_ROWS: i32 = 2000;

fn env(name: &str, default: i32) -> i32 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

#[test]
#[ignore = "prints figures, asserts nothing"]
fn bulk_load_and_point_reads() {
    let n_rows = env("ROWS_PER_SHARD", 317_500);
    let directory = tempfile::tempdir().expect("a directory");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let mut t = table(100);
    t.columns.push(column("text", SqlType::Text, false));
    t.placement = cortex_shard_api::descriptor::Placement::Reference(vec![ShardId(1)]);
    let t = Arc::new(t);
    let shards: Vec<Arc<Shard>> = (1..=SHARDS)
        .map(|id| {
            let config = ShardConfig::new(ShardId(id), directory.path().join(id.to_string()));
            Shard::open(config).expect("opens").0
        })
        .collect();
    let started = Instant::now();
    let tasks: Vec<_> = shards
        .iter()
        .cloned()
        .map(|shard| {
            let t = t.clone();
            runtime.spawn(async move {
                let mut id = 0i32;
                let mut mark = 0;
                while id < n_rows {
                    let end = (id + BATCH_ROWS).min(n_rows);
                    let text = "x".repeat(330);
                    let row = |id: i32| {
                        // Neither sorted nor random: as hashed keys come.
                        let key = (id as u32).wrapping_mul(2_654_435_761) as i32;
                        vec![Datum::Int4(key), Datum::Int4(id), Datum::Text(text.as_str().into())]
                    };
                    let rows = (id..end).map(row).collect();
                    write(&shard, in_txn(1, mark), &t, insert(rows)).await.expect("rows");
                    id = end;
                    mark += 1;
                    if env("SAME_MARK", 1) == 1 {
                        mark = 0;
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        runtime.block_on(task).expect("loaded");
    }
    let written = started.elapsed();
    let commits: Vec<_> = shards
        .iter()
        .cloned()
        .map(|shard| runtime.spawn(async move { shard.commit(TxnId(1)).await }))
        .collect();
    for commit in commits {
        runtime.block_on(commit).expect("task").expect("commit");
    }
    let total = started.elapsed();
    let all = n_rows as u32 * SHARDS;
    eprintln!(
        "{all} rows: {written:?} to write, {:?} to commit, {:.0} rows/s",
        total - written,
        f64::from(all) / total.as_secs_f64()
    );
    let shard = shards[0].clone();
    runtime.block_on(async {
        let n_reads = 20_000i32;
        let started = Instant::now();
        for i in 0..n_reads {
            let id = (i as u32 * 13 % n_rows as u32).wrapping_mul(2_654_435_761) as i32;
            let keys = vec![key_of(&t, id)];
            let context = RequestContext::default();
            let request = GetRequest { context, table: t.clone(), keys };
            assert!(shard.get(request).await.expect("a read")[0].is_some());
        }
        eprintln!("point read: {:?}", started.elapsed() / n_reads as u32);
        for n_clients in [1, 16] {
            let started = Instant::now();
            let per_client = 300;
            let clients: Vec<_> = (0..n_clients)
                .map(|client| {
                    let (shard, t) = (shard.clone(), t.clone());
                    tokio::spawn(async move {
                        for i in 0..per_client {
                            let id = n_clients * 1_000_000 + client * 10_000 + i;
                            let row =
                                vec![Datum::Int4(id), Datum::Int4(1), Datum::Text("x".into())];
                            let auto = RequestContext::default();
                            write(&shard, auto, &t, insert(vec![row])).await.expect("row");
                        }
                    })
                })
                .collect();
            for client in clients {
                client.await.expect("client");
            }
            let rate = f64::from(n_clients * per_client) / started.elapsed().as_secs_f64();
            eprintln!("{n_clients} clients: {rate:.0} commits/s");
        }
        let started = Instant::now();
        for shard in &shards {
            shard.shutdown().await.expect("shutdown");
        }
        eprintln!("shutdown: {:?}", started.elapsed());
    });
    drop((shard, shards));
    let started = Instant::now();
    let config = ShardConfig::new(ShardId(1), directory.path().join("1"));
    let (_shard, report) = Shard::open(config).expect("opens");
    eprintln!("open: {:?}, {} entries replayed", started.elapsed(), report.n_replayed);
}

#[test]
#[ignore = "prints figures, asserts nothing"]
fn moving_rows_are_taken_in() {
    let n_rows = env("ROWS", 200_000);
    let directory = tempfile::tempdir().expect("a directory");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let open = |id| {
        let config = ShardConfig::new(ShardId(id), directory.path().join(id.to_string()));
        Shard::open(config).expect("opens").0
    };
    let (source, target) = (open(1), open(2));
    for indexes in [vec![], vec![index(301, 1, false)]] {
        let id = MoveId(1 + indexes.len() as u32);
        let t = TableDescriptor { indexes, ..table(100 + id.0) };
        let t = Arc::new(TableDescriptor { storage: StorageId(t.oid.0), ..t });
        let prefix = key::storage_prefix(t.storage);
        let end = key::prefix_end(&prefix).expect("an end");
        let ranges = vec![(Bytes::copy_from_slice(&prefix), end)];
        let parts = vec![TableRanges { table: t.clone(), ranges }];
        runtime.block_on(async {
            for from in (0..n_rows).step_by(BATCH_ROWS as usize) {
                let all = (from..from + BATCH_ROWS).map(|id| int_row(id, id));
                let op = insert(all.collect());
                write(&source, in_txn(id.0.into(), 1), &t, op).await.expect("rows");
            }
            source.commit(TxnId(id.0.into())).await.expect("a commit");
            let snapshot =
                source.open_snapshot(&RequestContext::default(), &[]).await.expect("one");
            let (mut from, mut start, mut reading, mut storing) =
                (None, None, Duration::ZERO, Duration::ZERO);
            loop {
                let asked = MovingFrom::Snapshot { snapshot, start };
                let request = MovingRequest { id, tables: parts.clone(), from: asked };
                let began = Instant::now();
                let page = source.read_moving(request).await.expect("a page");
                reading += began.elapsed();
                let MovingRows::Page { start: first, end, rows, next, index } = page else {
                    panic!("not a page");
                };
                let log = CopyCursor { after: index, part: None };
                let to = MovePosition::Copying { next: next.clone(), log };
                let (tables, page) = (parts.clone(), Some((first, end)));
                let request = ApplyMoving { id, tables, page, rows, from, to: to.clone() };
                let began = Instant::now();
                target.apply_moving(request).await.expect("applied");
                storing += began.elapsed();
                (from, start) = (Some(to), next);
                if start.is_none() {
                    break;
                }
            }
            let rate = |time: Duration| f64::from(n_rows) / time.as_secs_f64();
            println!(
                "{} indexes: read {:.0} rows/s, stored {:.0} rows/s",
                t.indexes.len(),
                rate(reading),
                rate(storing)
            );
        });
    }
}
