//! Snapshots: bytes that are damaged anywhere are refused, and a log tail may be applied twice.

use cortex_vector_index::{Engine, Error, Metric, Options, Request, VectorIndex, create, open};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::data::Data;

fn filled(options: &Options) -> (Box<dyn VectorIndex>, Vec<Vec<f32>>) {
    let data = Data::generated(400, options.dim, 3);
    let index = create(options).expect("is made");
    for (i, vector) in data.vectors.iter().enumerate() {
        index.insert(i as u64 % 350, i as u64 + 1, vector).expect("inserts");
    }
    index.collect(370).expect("collects");
    (index, data.queries)
}

fn answers(index: &dyn VectorIndex, queries: &[Vec<f32>]) -> Vec<Vec<u64>> {
    let search = |query: &Vec<f32>| {
        let request = Request { exact_below: 0, ..Request::nearest(10) };
        let hits = index.search(query, &request).expect("searches").hits;
        hits.iter().map(|hit| hit.key).collect()
    };
    queries.iter().map(search).collect()
}

#[test]
fn damage_is_found() {
    for engine in [Engine::Graph, Engine::HnswRs] {
        let options = Options { engine, ..Options::new(16, Metric::L2) };
        let (index, queries) = filled(&options);
        let mut bytes = Vec::new();
        index.snapshot(400, &mut bytes).expect("is written");
        let (opened, applied) = open(&options, &bytes).expect("opens");
        assert_eq!(applied, 400);
        if engine == Engine::Graph {
            assert_eq!(answers(&*opened, &queries), answers(&*index, &queries));
        }
        for n in (0..bytes.len()).step_by(41).chain([bytes.len() - 1]) {
            assert!(
                matches!(open(&options, &bytes[..n]), Err(Error::Damaged { .. })),
                "cut at {n}"
            );
        }
        let mut rng = StdRng::seed_from_u64(4);
        for _ in 0..600 {
            let at = rng.random_range(0..bytes.len());
            let bit = 1 << rng.random_range(0..8);
            bytes[at] ^= bit;
            let error = open(&options, &bytes).err().expect("a flipped bit is found");
            assert!(error.is_rebuild_needed());
            bytes[at] ^= bit;
        }
        bytes.push(0);
        assert!(open(&options, &bytes).is_err());
        bytes.pop();
        for other in [
            Options { metric: Metric::Cosine, ..options },
            Options { dim: 17, ..options },
            Options { m: 12, ..options },
        ] {
            assert!(matches!(open(&other, &bytes), Err(Error::Foreign { .. })));
        }
    }
}

/// Bytes whose checksums are right but whose content is not: written by a bug, or by hand. No panic, whatever they say.
#[test]
fn nonsense_with_right_checksums_does_not_panic() {
    let options = Options { m: 4, ..Options::new(4, Metric::L2) };
    let index = create(&options).expect("is made");
    let mut rng = StdRng::seed_from_u64(8);
    for key in 0..200 {
        index
            .insert(key, key + 1, &[rng.random(), rng.random(), rng.random(), 1.0])
            .expect("inserts");
    }
    let mut bytes = Vec::new();
    index.snapshot(200, &mut bytes).expect("is written");
    let n_block = u32::from_le_bytes(bytes[72..76].try_into().expect("four bytes")) as usize;
    assert_eq!(bytes.len(), 76 + n_block + 8 + 8);
    for _ in 0..2_000 {
        let mut bad = bytes.clone();
        for _ in 0..rng.random_range(1..4) {
            let at = if rng.random_range(0..8) == 0 {
                rng.random_range(8..64)
            } else {
                76 + rng.random_range(0..n_block)
            };
            bad[at] = rng.random();
        }
        for (begin, end) in [(0, 64), (76, 76 + n_block)] {
            let sum = xxhash_rust::xxh3::xxh3_64(&bad[begin..end]).to_le_bytes();
            bad[end..end + 8].copy_from_slice(&sum);
        }
        if let Ok((opened, _)) = open(&options, &bad) {
            let request = Request { exact_below: 0, ..Request::nearest(10) };
            opened.search(&[0.5; 4], &request).expect("searches");
            opened.insert(1_000, 1_000, &[0.1; 4]).expect("inserts");
            opened.collect(1_000).expect("collects");
        }
    }
}

#[test]
fn log_tail_may_be_applied_twice() {
    let options = Options::new(16, Metric::Cosine);
    let data = Data::generated(300, 16, 5);
    let whole = create(&options).expect("is made");
    let mut early = Vec::new();
    let events: Vec<(u64, u64, bool)> = (0..300).map(|i| (i * 7 % 90, i + 1, i % 5 == 4)).collect();
    let apply = |index: &dyn VectorIndex, event: &(u64, u64, bool)| {
        let (key, at, is_removal) = *event;
        if is_removal {
            index.remove(key, at).expect("removes");
        } else {
            index.insert(key, at, &data.vectors[at as usize - 1]).expect("inserts");
        }
    };
    for event in &events {
        apply(&*whole, event);
        if event.1 == 250 {
            // The snapshot says 150 but holds all up to 250.
            whole.snapshot(150, &mut early).expect("is written");
        }
    }
    let (opened, applied) = open(&options, &early).expect("opens");
    for event in events.iter().filter(|event| event.1 > applied) {
        apply(&*opened, event);
    }
    assert_eq!(opened.counts().n_open, whole.counts().n_open);
    for at in [150, 200, 250, 299, 300] {
        for query in data.queries.iter().take(20) {
            let request = Request { at, ..Request::nearest(20) };
            let left = opened.search(query, &request).expect("searches").hits;
            assert_eq!(left, whole.search(query, &request).expect("searches").hits);
        }
    }
}
