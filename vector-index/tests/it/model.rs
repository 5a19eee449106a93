//! Random inserts, updates, removals, collections, snapshots and reopening, compared with a list of what happened.

use std::collections::HashSet;

use cortex_vector_index::{
    Applied, Element, Engine, Error, Filter, LATEST, Metric, Options, Quantization, Request,
    Strategy, VectorIndex, create, open,
};
use rand::{Rng, SeedableRng, rngs::StdRng};

struct Version {
    key: u64,
    from: u64,
    to: u64,
    vector: Vec<f32>,
}

/// What happened, as a list.
#[derive(Default)]
pub struct Model {
    versions: Vec<Version>,
}

impl Model {
    pub fn insert(&mut self, key: u64, at: u64, vector: &[f32]) {
        self.remove(key, at);
        self.versions.push(Version { key, from: at, to: u64::MAX, vector: vector.to_vec() });
    }

    pub fn remove(&mut self, key: u64, at: u64) {
        for version in self.versions.iter_mut().filter(|v| v.key == key && v.to == u64::MAX) {
            version.to = at;
        }
    }

    /// (distance, key) of all matching points, nearest first.
    pub fn nearest(
        &self,
        metric: Metric,
        query: &[f32],
        at: u64,
        matches: &dyn Fn(u64) -> bool,
    ) -> Vec<(f64, u64)> {
        let mut all: Vec<(f64, u64)> = self
            .versions
            .iter()
            .filter(|v| v.from <= at && at < v.to && matches(v.key))
            .map(|v| (distance(metric, &v.vector, query), v.key))
            .collect();
        all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        all
    }
}

pub fn distance(metric: Metric, a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum()
    };
    match metric {
        Metric::L2 => a
            .iter()
            .zip(b)
            .map(|(&x, &y)| (f64::from(x) - f64::from(y)).powi(2))
            .sum::<f64>()
            .sqrt(),
        Metric::InnerProduct => -dot(a, b),
        Metric::Cosine => {
            let lengths = (dot(a, a) * dot(b, b)).sqrt();
            if lengths == 0.0 { f64::NAN } else { 1.0 - dot(a, b) / lengths }
        }
    }
}

fn same(metric: Metric, a: f64, b: f64) -> bool {
    // The square of a small distance is known to within the rounding of the norms.
    let near = if metric == Metric::L2 { 2e-3 } else { 1e-4 };
    (a.is_nan() && b.is_nan()) || (a - b).abs() <= near * (1.0 + a.abs())
}

/// The index's answer is exact: distances as the model's, and every key with its own distance, none twice.
fn assert_exact(
    index: &dyn VectorIndex,
    model: &Model,
    query: &[f32],
    request: &Request<'_>,
    matches: &dyn Fn(u64) -> bool,
) {
    // The library's graph does not reach every point; what it finds must be right.
    let is_exact = index.options().engine == Engine::Graph || request.exact_below > 0;
    let metric = index.metric();
    let truth = model.nearest(metric, query, request.at, matches);
    let hits = index.search(query, request).expect("searches").hits;
    assert_eq!(hits.len(), truth.len().min(request.k), "at {}", request.at);
    let keys: HashSet<u64> = hits.iter().map(|hit| hit.key).collect();
    assert_eq!(keys.len(), hits.len(), "a key came twice");
    for (hit, (distance, _)) in hits.iter().zip(&truth) {
        assert!(
            !is_exact || same(metric, hit.distance, *distance),
            "{hit:?} instead of {distance}"
        );
        let own = index.options();
        let version = model.versions.iter().rfind(|v| v.key == hit.key && v.from <= request.at);
        let alone = cortex_vector_index::distance(own, query, &version.expect("is there").vector);
        assert_eq!(alone.expect("same dimensions").to_bits(), hit.distance.to_bits());
        let own = truth.iter().find(|(_, key)| *key == hit.key).expect("a visible key");
        assert!(same(metric, hit.distance, own.0));
    }
}

/// Vectors from a small set of places, so that some are equal, and a few without a direction.
fn vector(rng: &mut StdRng, dim: usize) -> Vec<f32> {
    match rng.random_range(0..40) {
        0 => vec![0.0; dim],
        1..8 => {
            let mut twin = StdRng::seed_from_u64(rng.random_range(0..4));
            (0..dim).map(|_| (twin.random_range(-64i8..64) as f32) / 64.0).collect()
        }
        _ => (0..dim).map(|_| (rng.random_range(-64i8..64) as f32) / 64.0).collect(),
    }
}

fn run(options: Options, seed: u64, n_steps: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut model = Model::default();
    let mut index = create(&options).expect("is made");
    let mut oldest = 0;
    let n_keys = 300;
    for at in 1..=n_steps {
        let key = rng.random_range(0..n_keys);
        if rng.random_range(0..10) < 7 {
            let vector = vector(&mut rng, options.dim);
            model.insert(key, at, &vector);
            assert_eq!(index.insert(key, at, &vector).expect("inserts"), Applied::Done);
            assert_eq!(index.insert(key, at, &vector).expect("inserts"), Applied::Repeated);
        } else {
            model.remove(key, at);
            index.remove(key, at).expect("removes");
        }
        if at % 97 == 0 {
            oldest = rng.random_range(oldest..=at);
            index.collect(oldest).expect("collects");
        }
        if at % 211 == 0 {
            let mut bytes = Vec::new();
            index.snapshot(at, &mut bytes).expect("is written");
            let (opened, applied) = open(&options, &bytes).expect("opens");
            assert_eq!((applied, opened.counts().n_open), (at, index.counts().n_open));
            index = opened;
        }
        if at % 307 == 0 {
            index = index.rebuilt(oldest).expect("is rebuilt");
        }
        if at % 13 == 0 {
            let query = vector(&mut rng, options.dim);
            let as_of = if rng.random() { LATEST } else { rng.random_range(oldest..=at) };
            let modulus = rng.random_range(1..20);
            let test = |key: u64| key.is_multiple_of(modulus);
            let keys: Vec<u64> = (0..n_keys).filter(|&key| test(key)).collect();
            let k = rng.random_range(1..20);
            let exact = Request { at: as_of, ..Request::nearest(k) };
            let estimates = [None, Some(1), Some(n_keys as usize)];
            let n_estimated = estimates[rng.random_range(0..3)];
            assert_exact(&*index, &model, &query, &exact, &|_| true);
            let filter = Filter::Test { test: &test, n_estimated };
            assert_exact(&*index, &model, &query, &exact.filtered(filter), &test);
            assert_exact(&*index, &model, &query, &exact.filtered(Filter::Keys(&keys)), &test);
            // With so many candidates the graph must find everything, too.
            let graph = Request { exact_below: 0, ef: 1_000, ..exact };
            assert_exact(&*index, &model, &query, &graph, &|_| true);
            assert_exact(&*index, &model, &query, &graph.filtered(filter), &test);
            assert_exact(&*index, &model, &query, &graph.filtered(Filter::Keys(&keys)), &test);
            let mut cursor = index.cursor(&query, &graph.filtered(filter)).expect("begins");
            let mut given = Vec::new();
            loop {
                let hits = cursor.next(7).expect("goes on");
                given.extend(hits.iter().map(|hit| hit.key));
                if hits.len() < 7 {
                    break;
                }
            }
            given.sort_unstable();
            let mut all: Vec<u64> = model
                .nearest(options.metric, &query, as_of, &test)
                .iter()
                .map(|(_, key)| *key)
                .collect();
            all.sort_unstable();
            assert_eq!(given, all, "a cursor gives every point once");
        }
    }
}

#[test]
fn graph_agrees_with_a_list_of_what_happened() {
    for (i, metric) in [Metric::L2, Metric::InnerProduct, Metric::Cosine].into_iter().enumerate() {
        for element in [Element::F32, Element::F16] {
            for quantization in [Quantization::Int8, Quantization::None] {
                for (dim, m) in [(3, 4), (40, 16)] {
                    let base = Options::new(dim, metric);
                    let options = Options { element, quantization, m, ..base };
                    run(options, 10 + i as u64, 1_200);
                }
            }
        }
    }
}

#[test]
fn library_agrees_with_a_list_of_what_happened() {
    for metric in [Metric::L2, Metric::InnerProduct, Metric::Cosine] {
        let base = Options::new(24, metric);
        run(Options { engine: Engine::HnswRs, ..base }, 5, 700);
    }
}

#[test]
fn equal_vectors_come_by_key() {
    let options = Options::new(8, Metric::Cosine);
    let index = create(&options).expect("is made");
    let mut keys: Vec<u64> = (0..3_000).collect();
    keys.sort_by_key(|key| key.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    for &key in &keys {
        let vector = if key % 3 == 0 { [1.0; 8] } else { [key as f32, 1., 2., 3., 4., 5., 6., 7.] };
        index.insert(key, 1, &vector).expect("inserts");
    }
    for exact_below in [0, usize::MAX] {
        let request = Request { exact_below, ..Request::nearest(10) };
        let hits = index.search(&[2.0; 8], &request).expect("searches").hits;
        let found: Vec<u64> = hits.iter().map(|hit| hit.key).collect();
        assert_eq!(found, (0..10).map(|i| 3 * i).collect::<Vec<u64>>());
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let options = Options::new(3, Metric::L2);
    let index = create(&options).expect("is made");
    let two = index.insert(1, 1, &[1.0, 2.0]);
    assert!(matches!(two, Err(Error::DimMismatch { expected: 3, found: 2 })));
    let nan = index.insert(1, 1, &[1.0, f32::NAN, 2.0]);
    assert!(matches!(nan, Err(Error::NotFinite { position: 1 })));
    assert!(create(&Options { m: 1, ..options }).is_err());
    assert!(create(&Options { dim: 0, ..options }).is_err());
    assert!(create(&Options { ef_construction: 31, ..options }).is_err());
    let half = Options { element: Element::F16, ..options };
    assert!(create(&half).expect("is made").insert(1, 1, &[1e9, 0.0, 0.0]).is_err());
    let mixed = Request::nearest(1).filtered(Filter::Keys(&[2, 1]));
    assert!(matches!(index.search(&[1.0; 3], &mixed), Err(Error::KeysNotAscending)));
    assert!(index.cursor(&[1.0; 3], &mixed).is_err());
    assert_eq!(index.counts().n_open, 0);
    assert!(index.search(&[1.0; 3], &Request::nearest(5)).expect("searches").hits.is_empty());
}

#[test]
fn norms_that_overflow_are_found() {
    for metric in [Metric::L2, Metric::InnerProduct, Metric::Cosine] {
        let index = create(&Options::new(2, metric)).expect("is made");
        for key in 0..50u64 {
            index.insert(key, 1, &[key as f32, 1.0]).expect("inserts");
        }
        index.insert(99, 1, &[3e38, 3e38]).expect("inserts");
        for (exact_below, query) in [(0, [1.0, 1.0]), (0, [3e38, 0.0]), (100, [1.0, 1.0])] {
            let request = Request { exact_below, ..Request::nearest(100) };
            let answer = index.search(&query, &request).expect("searches");
            assert_eq!(answer.hits.len(), 51);
        }
    }
}

#[test]
fn a_few_matching_keys_are_compared_alone() {
    let index = create(&Options::new(4, Metric::L2)).expect("is made");
    let mut rng = StdRng::seed_from_u64(1);
    for key in 0..2_000 {
        index.insert(key, 1, &vector(&mut rng, 4)).expect("inserts");
    }
    let request =
        Request { exact_below: 0, ..Request::nearest(5) }.filtered(Filter::Keys(&[5, 9, 70_000]));
    let answer = index.search(&[0.1; 4], &request).expect("searches");
    assert_eq!(answer.hits.len(), 2);
    assert_eq!(answer.statistics.strategy, Strategy::ExactMatching);
    assert_eq!(answer.statistics.n_candidates, 3);
}
