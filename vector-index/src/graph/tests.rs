//! The shape of the graph: what searches rely on without looking.

use std::collections::HashSet;

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;
use crate::{index::LATEST, parallel::in_parallel, store::slots::Slots};

fn vector(rng: &mut StdRng) -> Vec<f32> {
    // One in ten is the same, and another one in ten far out.
    let far = if rng.random_range(0..10) == 0 { 30.0 } else { 1.0 };
    if rng.random_range(0..10) == 0 {
        return vec![0.25; 6];
    }
    (0..6).map(|_| far * rng.random_range(-1.0f32..1.0)).collect()
}

/// Every node reaches every other, the tree's links are named by both ends, and nothing leads to what is gone.
fn check(graph: &Graph) {
    let slots: &Slots = &graph.store.slots.read();
    let ids = 0..graph.store.n_slots();
    let nodes: Vec<u32> = ids.clone().filter(|&id| slots.kind(id) == Kind::Linked).collect();
    let root = graph.root.load(Acquire);
    let mut n_children = vec![0; ids.len()];
    for &id in &nodes {
        for layer in 0..=graph.level(id) {
            let links: Vec<u32> = slots.neighbours(id, layer).collect();
            let distinct: HashSet<u32> = links.iter().copied().collect();
            assert_eq!(distinct.len(), links.len(), "a link twice");
            assert!(!distinct.contains(&id), "a link to itself");
            for next in links {
                assert_eq!(slots.kind(next), Kind::Linked, "a link to what is gone");
                assert!(graph.level(next) >= layer);
            }
        }
        let parent = slots.parent(id);
        if id == root {
            assert_eq!(parent, NONE);
            continue;
        }
        assert_eq!(slots.kind(parent), Kind::Linked);
        n_children[parent as usize] += 1;
        assert!(slots.neighbours(id, 0).any(|next| next == parent), "{id} does not name {parent}");
        assert!(slots.neighbours(parent, 0).any(|next| next == id), "{parent} does not name {id}");
    }
    for &id in &nodes {
        assert_eq!(n_children[id as usize], slots.n_children(id).load(Acquire), "children of {id}");
    }
    let Some((entry, level)) = graph.entry() else {
        assert!(nodes.is_empty());
        return;
    };
    assert_eq!((slots.kind(entry), graph.level(entry)), (Kind::Linked, level));
    let mut reached = HashSet::from([entry]);
    let mut next = vec![entry];
    while let Some(id) = next.pop() {
        next.extend(slots.neighbours(id, 0).filter(|&other| reached.insert(other)));
    }
    assert_eq!(reached.len(), nodes.len(), "nodes that cannot be reached");
    let twins = ids.filter(|&id| slots.kind(id) == Kind::Twin).count();
    let twin_of = |id: u32| Some(slots.twin(id)).filter(|&twin| twin != NONE);
    let chained =
        nodes.iter().map(|&id| std::iter::successors(twin_of(id), |&twin| twin_of(twin)).count());
    assert_eq!(chained.sum::<usize>(), twins, "a twin outside of all chains");
}

#[test]
fn shape_holds_through_parallel_changes_and_collections() {
    for metric in [Metric::L2, Metric::Cosine, Metric::InnerProduct] {
        for m in [2, 5] {
            let base = Options::new(6, metric);
            let graph = Graph::new(Options { m, ef_construction: 16, ..base }).expect("is made");
            let n = 900;
            for round in 1..6u64 {
                in_parallel(n, 3, &|i| {
                    let mut rng = StdRng::seed_from_u64(round * 10_000 + i as u64);
                    match rng.random_range(0..3) {
                        0 if round > 1 => graph.remove(i as u64, round)?,
                        _ => graph.insert(i as u64, round, &vector(&mut rng))?,
                    };
                    Ok(())
                })
                .expect("changes");
                check(&graph);
                graph.collect(round).expect("collects");
                check(&graph);
                assert_eq!(graph.counts().n_ended, {
                    // Entries that ended but hold twins that have not.
                    let slots = graph.store.slots.read();
                    let ids = 0..graph.store.n_slots();
                    ids.filter(|&id| slots.kind(id) == Kind::Linked && !slots.is_open(id)).count()
                });
            }
            for key in 0..n as u64 {
                graph.remove(key, 10).expect("removes");
            }
            graph.collect(10).expect("collects");
            check(&graph);
            assert_eq!((graph.counts().n_ended, graph.entry()), (0, None));
            graph.insert(1, 11, &[1.0; 6]).expect("inserts");
            check(&graph);
        }
    }
}

#[test]
fn collections_while_others_write_keep_the_shape() {
    let graph = Graph::new(Options { m: 4, ef_construction: 16, ..Options::new(6, Metric::L2) })
        .expect("is made");
    std::thread::scope(|scope| {
        for writer in 0..2u64 {
            let graph = &graph;
            scope.spawn(move || {
                let mut rng = StdRng::seed_from_u64(writer);
                for at in 1..3_000 {
                    let key = 2 * rng.random_range(0..300) + writer;
                    graph.insert(key, at, &vector(&mut rng)).expect("inserts");
                }
            });
        }
        for _ in 0..60 {
            graph.collect(LATEST).expect("collects");
        }
    });
    graph.collect(LATEST).expect("collects");
    check(&graph);
}

#[test]
fn walk_inside_a_filter_returns_only_what_matches() {
    let base = Options::new(6, Metric::L2);
    let graph = Graph::new(base).expect("is made");
    let mut rng = StdRng::seed_from_u64(3);
    for key in 0..30_000 {
        graph.insert(key, 1, &vector(&mut rng)).expect("inserts");
    }
    let test = |key: u64| key.is_multiple_of(5);
    let filter = Filter::Test { test: &test, n_estimated: Some(600) };
    let planned = Cost { strategy: Strategy::InFilter, n_distances: 700.0, n_tests: 5_000.0 };
    let slots = graph.store.slots.read();
    let mut n_same = 0;
    for _ in 0..50 {
        let request = Request { ef: 80, ..Request::nearest(10) }.filtered(filter);
        let probe = Probe::new(&base, &vector(&mut rng)).expect("is a vector");
        let matcher = Matcher::new(request.at, filter);
        let mut spent = Statistics::default();
        let found = graph.find(&slots, &probe, &request, planned, &matcher, &mut spent);
        let mut found = found.expect("is found");
        assert!(found.iter().all(|&id| test(slots.key(id))));
        found.sort_by(|&a, &b| slots.exact_rank(&probe, a).total_cmp(&slots.exact_rank(&probe, b)));
        let truth = flat::search(
            &graph.store,
            &slots,
            &probe,
            10,
            request.at,
            filter,
            &mut Statistics::default(),
        );
        let worst = truth[9].distance;
        let within = |&&id: &&u32| slots.exact_rank(&probe, id).max(0.0).sqrt() <= worst;
        n_same += found.iter().filter(within).count().min(10);
        assert_eq!(spent.strategy, Strategy::InFilter);
    }
    assert!(n_same >= 475, "{n_same} of 500");
}
