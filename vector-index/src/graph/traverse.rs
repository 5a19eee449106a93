//! Walks over the graph: greedy down the upper layers, then best first in the lowest one, with or without a filter.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::{Graph, visited::Visited};
use crate::{
    flat::{Matcher, ordered},
    index::Statistics,
    quantize::Probe,
    store::slots::{NONE, Slots},
};

/// Neighbours gone through at once: a list, or the lists behind one.
const BATCH: usize = 256;

/// A node and its rank, in one number that orders by rank.
#[inline]
pub(super) fn packed(rank: f32, id: u32) -> u64 {
    u64::from(ordered(rank)) << 32 | u64::from(id)
}

/// An entry that counts; ordered by (rank, key).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Found {
    pub(super) rank: u32,
    pub(super) key: u64,
    pub(super) id: u32,
}

/// The `ef` nearest entries that count.
pub(super) struct Results {
    ef: usize,
    found: BinaryHeap<Found>,
}

impl Results {
    pub(super) fn new(ef: usize) -> Self {
        Self { ef, found: BinaryHeap::with_capacity(ef + 1) }
    }

    /// Above this rank nothing is of use any more.
    #[inline]
    pub(super) fn limit(&self) -> u32 {
        match self.found.peek() {
            Some(worst) if self.found.len() >= self.ef => worst.rank,
            _ => u32::MAX,
        }
    }

    #[inline]
    fn push(&mut self, found: Found) {
        self.found.push(found);
        if self.found.len() > self.ef {
            self.found.pop();
        }
    }

    fn into_ids(self) -> Vec<u32> {
        self.found.into_iter().map(|found| found.id).collect()
    }
}

impl Graph {
    /// The node of layer `to` (or above, if there are no layers between) nearest by greedy steps.
    pub(super) fn descend(
        &self,
        slots: &Slots,
        probe: &Probe,
        mut at: u32,
        from: usize,
        to: usize,
        n_distances: &mut usize,
    ) -> u32 {
        let mut best = slots.rank(probe, at);
        for layer in (to + 1..=from).rev() {
            loop {
                let before = at;
                for id in slots.neighbours(before, layer) {
                    slots.prefetch(id);
                }
                for id in slots.neighbours(before, layer) {
                    let rank = slots.rank(probe, id);
                    *n_distances += 1;
                    if rank < best {
                        (best, at) = (rank, id);
                    }
                }
                if at == before {
                    break;
                }
            }
        }
        at
    }

    /// The `ef` nearest nodes of a layer, nearest first: for linking, so whoever sees them.
    pub(super) fn nearest_nodes(
        &self,
        slots: &Slots,
        probe: &Probe,
        start: u32,
        layer: usize,
        ef: usize,
        visited: &mut Visited,
    ) -> Vec<(f32, u32)> {
        let mut nearest: BinaryHeap<Reverse<u64>> = BinaryHeap::new();
        let mut found: BinaryHeap<u64> = BinaryHeap::new();
        let mut batch = Vec::with_capacity(BATCH);
        visited.insert(start);
        let first = packed(slots.rank(probe, start), start);
        nearest.push(Reverse(first));
        found.push(first);
        while let Some(Reverse(node)) = nearest.pop() {
            if found.len() >= ef && found.peek().is_some_and(|&worst| node > worst) {
                break;
            }
            batch.clear();
            for id in slots.neighbours(node as u32, layer) {
                if visited.insert(id) {
                    slots.prefetch(id);
                    batch.push(id);
                }
            }
            for &id in &batch {
                let node = packed(slots.rank(probe, id), id);
                if found.len() < ef || found.peek().is_some_and(|&worst| node < worst) {
                    nearest.push(Reverse(node));
                    found.push(node);
                    if found.len() > ef {
                        found.pop();
                    }
                }
            }
        }
        let unpack = |node: u64| {
            let bits = (node >> 32) as u32;
            let bits = if bits >> 31 == 1 { bits & !(1 << 31) } else { !bits };
            (f32::from_bits(bits), node as u32)
        };
        found.into_sorted_vec().into_iter().map(unpack).collect()
    }
}

/// One search of the lowest layer.
pub(super) struct Walk<'a> {
    pub(super) slots: &'a Slots,
    pub(super) probe: &'a Probe,
    pub(super) matcher: &'a Matcher<'a>,
    /// Entries kept.
    pub(super) ef: usize,
    pub(super) visited: Visited,
    pub(super) spent: &'a mut Statistics,
}

impl Walk<'_> {
    /// Puts a node's entry and its twins among the results if they count.
    #[inline]
    fn admit(&mut self, node: u32, rank: u32, results: &mut Results) {
        let mut id = node;
        while id != NONE {
            if self.matcher.passes(self.slots, id, self.spent) {
                results.push(Found { rank, key: self.slots.key(id), id });
            }
            id = self.slots.twin(id);
        }
    }

    /// Computes the rank of a node, and keeps it as a way on if it may lead to results.
    #[inline]
    fn meet(&mut self, id: u32, nearest: &mut BinaryHeap<Reverse<u64>>, results: &mut Results) {
        let node = packed(self.slots.rank(self.probe, id), id);
        let rank = (node >> 32) as u32;
        self.spent.n_distances += 1;
        if rank <= results.limit() {
            nearest.push(Reverse(node));
            self.admit(id, rank, results);
        }
    }

    /// Best first over all nodes, keeping entries that count. Nothing if that takes more than `limit` nodes.
    pub(super) fn over_all(&mut self, start: u32, limit: usize) -> Option<Vec<u32>> {
        self.best_first(start, limit, |walk, node, n_left, batch| {
            for id in walk.slots.neighbours(node, 0) {
                if walk.visited.insert(id) {
                    walk.slots.prefetch(id);
                    batch.push(id);
                }
            }
            walk.spent.n_candidates += batch.len();
            *n_left = n_left.saturating_sub(batch.len());
        })
    }

    /// Best first over nodes that match, stepping over those that do not (ACORN, Patel et al. 2024): their neighbours
    /// stand in for them. Nothing if that takes more than `limit` tests.
    pub(super) fn over_matching(&mut self, start: u32, limit: usize) -> Option<Vec<u32>> {
        self.best_first(start, limit, |walk, node, n_left, batch| {
            walk.matching_near(node, n_left, batch);
            for &id in batch.iter() {
                walk.slots.prefetch(id);
            }
        })
    }

    /// Goes on from the nearest node not gone on from yet, until it is farther than all results. `near` adds what is met from
    /// a node to the empty batch, and takes from what is left of the limit; nothing if none is left.
    #[inline]
    fn best_first(
        &mut self,
        start: u32,
        limit: usize,
        near: impl Fn(&mut Self, u32, &mut usize, &mut Vec<u32>),
    ) -> Option<Vec<u32>> {
        let mut nearest = BinaryHeap::with_capacity(4 * self.ef);
        let mut results = Results::new(self.ef);
        let mut batch = Vec::with_capacity(BATCH);
        let mut n_left = limit;
        self.visited.insert(start);
        self.meet(start, &mut nearest, &mut results);
        while let Some(Reverse(node)) = nearest.pop() {
            if (node >> 32) as u32 > results.limit() {
                break;
            }
            batch.clear();
            near(self, node as u32, &mut n_left, &mut batch);
            for &id in &batch {
                self.meet(id, &mut nearest, &mut results);
            }
            if n_left == 0 {
                return None;
            }
        }
        Some(results.into_ids())
    }

    /// Matching nodes one or two links away that were not seen before.
    fn matching_near(&mut self, node: u32, n_left: &mut usize, batch: &mut Vec<u32>) {
        let slots = self.slots;
        for id in slots.neighbours(node, 0) {
            if self.visited.contains(id) {
                continue;
            }
            if !self.visited.is_refused(id) && self.is_match(id, n_left) {
                self.visited.insert(id);
                batch.push(id);
                continue;
            }
            // It does not match and is gone through once.
            self.visited.insert(id);
            for next in slots.neighbours(id, 0) {
                if self.visited.contains(next) || self.visited.is_refused(next) {
                    continue;
                }
                if self.is_match(next, n_left) {
                    self.visited.insert(next);
                    batch.push(next);
                } else {
                    self.visited.refuse(next);
                }
            }
        }
    }

    /// Whether a node or one of its twins counts.
    fn is_match(&mut self, node: u32, n_left: &mut usize) -> bool {
        *n_left = n_left.saturating_sub(1);
        self.spent.n_candidates += 1;
        let mut id = node;
        while id != NONE {
            if self.matcher.passes(self.slots, id, self.spent) {
                return true;
            }
            id = self.slots.twin(id);
        }
        false
    }
}
