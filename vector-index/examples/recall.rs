//! Recall and CPU time per query of each engine on the shared data: `cargo run --release -p cortex-vector-index --example recall`,
//! with the number of vectors and the name of one engine behind `--` if wanted.
//!
//! CPU time is the thread's own, so other work on the machine moves it little; compare ratios all the same.

#[path = "../tests/it/data.rs"]
mod data;

use std::time::Instant;

use cortex_vector_index::{
    Element, Engine, Filter, Metric, Options, Point, Quantization, Request, VectorIndex, build,
    kernel_name,
};

fn cpu_ns() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0.0)
}

/// CPU seconds of all threads so far.
fn process_cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(13) + ticks(14)) / 100.0
}

fn measure(
    index: &dyn VectorIndex,
    data: &data::Data,
    request: &Request<'_>,
    truth: &[Vec<u64>],
) -> (f64, f64, f64) {
    let (mut recall, mut looked) = (0.0, 0.0);
    let mut best = f64::MAX;
    for round in 0..3 {
        let begin = cpu_ns();
        for (query, truth) in data.queries.iter().zip(truth) {
            let answer = index.search(query, request).expect("searches");
            if round == 0 {
                let keys: Vec<u64> = answer.hits.iter().map(|hit| hit.key).collect();
                recall += data::recall(&keys, truth, request.k);
                looked += (answer.statistics.n_distances + answer.statistics.n_tested) as f64;
            }
        }
        best = best.min((cpu_ns() - begin) / 1e3 / data.queries.len() as f64);
    }
    let n = data.queries.len() as f64;
    (recall / n, best, looked / n)
}

fn main() {
    let n = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(30_000);
    let mut data = data::Data::load(n);
    let n = data.vectors.len();
    let base = Options::new(data::DIM, Metric::Cosine);
    let engines = [
        ("graph int8", base),
        ("graph f32", Options { quantization: Quantization::None, ..base }),
        ("graph int8 halfvec", Options { element: Element::F16, ..base }),
        ("hnsw_rs", Options { engine: Engine::HnswRs, ..base }),
    ];
    println!(
        "{n} vectors of {} dimensions, real: {}, kernels: {}",
        data::DIM,
        data.is_real,
        kernel_name()
    );
    for (name, options) in engines {
        let only = std::env::args().nth(2);
        if only.is_some_and(|only| only != name) {
            continue;
        }
        let (begin, cpu) = (Instant::now(), process_cpu());
        let point = |i: usize| Point { key: i as u64 + 1, from: 1, vector: &data.vectors[i] };
        let index = build(&options, n, &point, None).expect("builds");
        println!(
            "{name}: built in {:.1} s, {:.1} CPU s, {} bytes per vector",
            begin.elapsed().as_secs_f64(),
            process_cpu() - cpu,
            index.memory_bytes() / n
        );
        let exact = Request { exact_below: usize::MAX, ..Request::nearest(100) };
        if data.truth.is_empty() {
            let keys = |query: &Vec<f32>| {
                let answer = index.search(query, &exact).expect("searches");
                answer.hits.iter().map(|hit| hit.key).collect()
            };
            data.truth = data.queries.iter().map(keys).collect();
        }
        let exact = Request { k: 10, ..exact };
        let (recall, us, _) = measure(&*index, &data, &exact, &data.truth);
        println!("  exact scan: recall {recall:.4}, {us:.0} us");
        for ef in [10, 20, 40, 64, 100, 200, 400] {
            let request = Request { ef, exact_below: 0, ..Request::nearest(10) };
            let (recall, us, looked) = measure(&*index, &data, &request, &data.truth);
            println!("  ef {ef:>3}: recall {recall:.4}, {us:.1} us, {looked:.0} distances");
        }
        let missed = data.vectors.iter().enumerate().filter(|(i, vector)| {
            let request = Request { ef: 64, exact_below: 0, ..Request::nearest(1) };
            let hits = index.search(vector, &request).expect("searches").hits;
            hits[0].key != *i as u64 + 1 && hits[0].distance > 1e-6
        });
        println!("  do not find themselves: {}", missed.count());
        for (share, stride) in [(0.5, 2), (0.1, 10), (0.01, 100), (0.001, 1000)] {
            let test = |key: u64| key.is_multiple_of(stride);
            let filter = Filter::Test { test: &test, n_estimated: Some(n / stride as usize) };
            let exact =
                Request { exact_below: usize::MAX, ..Request::nearest(10) }.filtered(filter);
            let keys = |query: &Vec<f32>| -> Vec<u64> {
                index
                    .search(query, &exact)
                    .expect("searches")
                    .hits
                    .iter()
                    .map(|hit| hit.key)
                    .collect()
            };
            let truth: Vec<Vec<u64>> = data.queries.iter().map(keys).collect();
            for n_estimated in [Some(n / stride as usize), None] {
                let filter = Filter::Test { test: &test, n_estimated };
                let request = Request { exact_below: 0, ..Request::nearest(10) }.filtered(filter);
                let (recall, us, looked) = measure(&*index, &data, &request, &truth);
                let spent = index.search(&data.queries[0], &request).expect("searches").statistics;
                println!(
                    "  filter {share}, estimate {n_estimated:?}: recall {recall:.4}, {us:.1} us, {looked:.0} looked at, {}",
                    spent.strategy.name()
                );
            }
        }
    }
}
