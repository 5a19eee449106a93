//! How much the graph finds, on real data if it is there: at defaults, with filters, and every point itself.

use std::collections::HashSet;

use cortex_vector_index::{
    Element, Engine, Filter, LATEST, Metric, Options, Point, Quantization, Request, VectorIndex,
    build,
};

use crate::data::{DIM, Data, recall};

const N: usize = 6_000;

fn built(options: &Options, data: &Data) -> Box<dyn VectorIndex> {
    let point = |i: usize| Point { key: i as u64 + 1, from: 1, vector: &data.vectors[i] };
    build(options, data.vectors.len(), &point, None).expect("builds")
}

fn keys(index: &dyn VectorIndex, query: &[f32], request: &Request<'_>) -> Vec<u64> {
    index.search(query, request).expect("searches").hits.iter().map(|hit| hit.key).collect()
}

/// Mean recall@10 against the exact answers of the same index.
fn recall_at_10(index: &dyn VectorIndex, queries: &[Vec<f32>], filter: Filter<'_>) -> f64 {
    let mut sum = 0.0;
    for query in queries {
        let request = Request::nearest(10).filtered(filter);
        let truth = keys(index, query, &Request { exact_below: usize::MAX, ..request });
        let found = keys(index, query, &Request { exact_below: 0, ..request });
        assert_eq!(found.len(), truth.len(), "an answer is short");
        sum += recall(&found, &truth, 10);
    }
    sum / queries.len() as f64
}

fn assert_finds_itself(
    index: &dyn VectorIndex,
    vectors: &[Vec<f32>],
    is_there: impl Fn(u64) -> bool,
) {
    let mut missed = Vec::new();
    for (i, vector) in vectors.iter().enumerate() {
        let key = i as u64 + 1;
        let request = Request { ef: 64, exact_below: 0, ..Request::nearest(10) };
        if is_there(key) && !keys(index, vector, &request).contains(&key) {
            missed.push(key);
        }
    }
    assert!(missed.is_empty(), "{} do not find themselves: {missed:?}", missed.len());
}

#[test]
fn graph_finds_95_percent_at_defaults_and_every_point_itself() {
    let data = Data::load(N);
    for (quantization, element) in
        [(Quantization::Int8, Element::F32), (Quantization::None, Element::F16)]
    {
        let options = Options { quantization, element, ..Options::new(DIM, Metric::Cosine) };
        let index = built(&options, &data);
        let found = recall_at_10(&*index, &data.queries, Filter::All);
        assert!(found >= 0.95, "recall is {found}");
        assert_finds_itself(&*index, &data.vectors, |_| true);
    }
}

#[test]
fn graph_finds_products_of_vectors_of_any_length() {
    let mut data = Data::load(N);
    for (i, vector) in data.vectors.iter_mut().enumerate() {
        let length = 0.5 + (i * 37 % 100) as f32 / 100.0;
        vector.iter_mut().for_each(|x| *x *= length);
    }
    for metric in [Metric::InnerProduct, Metric::L2] {
        let index = built(&Options::new(DIM, metric), &data);
        let found = recall_at_10(&*index, &data.queries[..100], Filter::All);
        assert!(found >= 0.95, "{metric:?}: recall is {found}");
    }
}

#[test]
fn given_answers_are_the_exact_ones() {
    let data = Data::load(30_000);
    if data.truth.is_empty() {
        return;
    }
    // Only a few: each compares all vectors, in the store of an engine that is quick to fill.
    let data = Data { vectors: data.vectors, ..data };
    let options = Options { m: 2, ef_construction: 4, ..Options::new(DIM, Metric::Cosine) };
    let index = built(&options, &data);
    for (query, truth) in data.queries.iter().zip(&data.truth).take(10) {
        let request = Request { exact_below: usize::MAX, ..Request::nearest(10) };
        let found = keys(&*index, query, &request);
        assert!(recall(&found, truth, 10) >= 0.9, "{found:?} instead of {truth:?}");
    }
}

#[test]
fn filters_never_leave_an_answer_short() {
    let data = Data::load(N);
    let index = built(&Options::new(DIM, Metric::Cosine), &data);
    let queries = &data.queries[..40];
    // Correlated with the vectors: near one of them, which is not near the queries.
    let centre = Request { exact_below: usize::MAX, ..Request::nearest(N) };
    let by_distance = keys(&*index, &data.vectors[17], &centre);
    for share in [2, 10, 100, 1_000] {
        let n = N / share;
        let near: HashSet<u64> = by_distance[..n].iter().copied().collect();
        let correlated = |key: u64| near.contains(&key);
        let scattered = |key: u64| key.is_multiple_of(share as u64);
        for test in [&correlated as &(dyn Fn(u64) -> bool + Sync), &scattered] {
            for n_estimated in [Some(n), None, Some(N), Some(N / 3), Some(1)] {
                let filter = Filter::Test { test, n_estimated };
                let found = recall_at_10(&*index, queries, filter);
                assert!(found >= 0.95, "1/{share}, estimate {n_estimated:?}: recall is {found}");
            }
        }
    }
}

#[test]
fn every_point_finds_itself_after_changes_and_reopening() {
    let data = Data::load(6_000);
    let options = Options::new(DIM, Metric::Cosine);
    let (first, later) = data.vectors.split_at(4_000);
    let point = |i: usize| Point { key: i as u64 + 1, from: 1, vector: &first[i] };
    let mut index = build(&options, first.len(), &point, None).expect("builds");
    let mut now = data.vectors[..4_000].to_vec();
    let mut gone = HashSet::new();
    for (i, vector) in later.iter().enumerate() {
        let (at, key) = (i as u64 + 2, (i as u64 * 7 % 4_000) + 1);
        if i % 3 == 0 {
            index.remove(key, at).expect("removes");
            gone.insert(key);
        } else {
            index.insert(key, at, vector).expect("inserts");
            now[key as usize - 1] = vector.clone();
            gone.remove(&key);
        }
        if i % 500 == 499 {
            let collected = index.collect(at).expect("collects");
            assert!(collected.n_entries > 0 && !collected.is_rebuild_advised);
            assert_eq!(index.counts().n_ended, 0);
        }
    }
    assert_finds_itself(&*index, &now, |key| !gone.contains(&key));
    let found = recall_at_10(&*index, &data.queries[..100], Filter::All);
    assert!(found >= 0.95, "recall is {found}");
    let mut bytes = Vec::new();
    index.snapshot(3_000, &mut bytes).expect("is written");
    index = cortex_vector_index::open(&options, &bytes).expect("opens").0;
    assert_finds_itself(&*index, &now, |key| !gone.contains(&key));
    let at = LATEST;
    assert_eq!(
        keys(&*index, &now[0], &Request { at, ..Request::nearest(10_000) }).len(),
        4_000 - gone.len()
    );
}

#[test]
fn library_and_graph_find_the_same() {
    let data = Data::load(2_500);
    let options = Options::new(DIM, Metric::Cosine);
    let ours = built(&options, &data);
    let theirs = built(&Options { engine: Engine::HnswRs, ..options }, &data);
    assert_finds_itself(&*theirs, &data.vectors, |_| true);
    let mut sum = 0.0;
    for query in &data.queries[..100] {
        let request = Request { ef: 100, exact_below: 0, ..Request::nearest(10) };
        sum += recall(&keys(&*ours, query, &request), &keys(&*theirs, query, &request), 10);
    }
    assert!(sum / 100.0 >= 0.97, "{}", sum / 100.0);
}
