//! Searches while others insert, remove and collect: never an error, a key twice, or an entry its reader must not see.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::*},
};

use cortex_vector_index::{Filter, Metric, Options, Request, create, open};

use crate::data::Data;

#[test]
fn readers_see_their_snapshot_while_others_write() {
    let options = Options { m: 8, ef_construction: 32, ..Options::new(32, Metric::L2) };
    let data = Data::generated(6_000, 32, 9);
    let index = create(&options).expect("is made");
    // Key = position; in each round the writer puts one in and takes out the one a thousand before.
    let applied = AtomicU64::new(0);
    let oldest = AtomicU64::new(0);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for (i, vector) in data.vectors.iter().enumerate() {
                let (key, at) = (i as u64, i as u64 + 1);
                index.insert(key, at, vector).expect("inserts");
                if key >= 1_000 {
                    index.remove(key - 1_000, at).expect("removes");
                }
                applied.store(at, Release);
            }
            is_over.store(true, Release);
        });
        scope.spawn(|| {
            while !is_over.load(Acquire) {
                // Readers here take no snapshot older than two hundred events.
                let until = applied.load(Acquire).saturating_sub(200);
                oldest.store(until, Release);
                std::thread::sleep(std::time::Duration::from_millis(5));
                index.collect(until.saturating_sub(200)).expect("collects");
                let mut bytes = Vec::new();
                let at = applied.load(Acquire);
                index.snapshot(at, &mut bytes).expect("is written");
                let (opened, _) = open(&options, &bytes).expect("opens");
                // Whatever came since: a reader at that index sees all that was there.
                let all = Request { at, exact_below: usize::MAX, ..Request::nearest(2_000) };
                let hits = opened.search(&data.queries[0], &all).expect("searches").hits;
                assert_eq!(hits.len(), 1_000.min(at as usize));
            }
        });
        for reader in 0..2 {
            let (index, data, applied, is_over) = (&index, &data, &applied, &is_over);
            scope.spawn(move || {
                let mut n = reader;
                while !is_over.load(Acquire) {
                    n += 1;
                    let at = applied.load(Acquire);
                    if at < 50 {
                        continue;
                    }
                    let query = &data.queries[n % data.queries.len()];
                    let test = |key: u64| key.is_multiple_of(3);
                    let filter = match n % 3 {
                        0 => Filter::All,
                        1 => Filter::Test { test: &test, n_estimated: None },
                        _ => Filter::Test { test: &test, n_estimated: Some(at as usize / 3) },
                    };
                    let exact_below = if n % 5 == 0 { usize::MAX } else { 0 };
                    let request =
                        Request { at, exact_below, ..Request::nearest(15) }.filtered(filter);
                    let hits = index.search(query, &request).expect("searches").hits;
                    let keys: HashSet<u64> = hits.iter().map(|hit| hit.key).collect();
                    assert_eq!((hits.len(), keys.len()), (15, 15), "at {at}");
                    // A collection may have overtaken a very slow reader; then it saw what was there.
                    let range = at.saturating_sub(1_000)..at;
                    assert!(keys.iter().all(|key| range.contains(key)), "{keys:?} at {at}");
                }
            });
        }
    });
    assert_eq!(index.counts().n_open, 1_000);
}
