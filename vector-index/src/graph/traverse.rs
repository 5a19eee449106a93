//! Walks over the graph: greedy down the upper layers, then best first in the lowest one, with or without a filter.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::{Graph, visited::Visited};
use crate::{
    flat::{Matcher, ordered},
    index::Statistics,
    quantize::Probe,
    store::slots::{Kind, NONE, Slots},
};

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
        let mut batch = Vec::with_capacity(256);
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

    /// Puts a node's entry and its twins among the results if they count.
    #[inline]
    pub(super) fn admit(
        &self,
        slots: &Slots,
        node: u32,
        rank: u32,
        matcher: &Matcher<'_>,
        results: &mut Results,
        spent: &mut Statistics,
    ) {
        let mut id = node;
        while id != NONE {
            if matcher.passes(slots, id, spent) {
                results.push(Found { rank, key: slots.key(id), id });
            }
            id = slots.twin(id);
        }
    }

    /// Best first over all nodes, keeping entries that count. Nothing if that takes more than `limit` nodes.
    #[expect(clippy::too_many_arguments, reason = "the state of one search")]
    pub(super) fn traverse_all(
        &self,
        slots: &Slots,
        probe: &Probe,
        start: u32,
        ef: usize,
        matcher: &Matcher<'_>,
        limit: usize,
        visited: &mut Visited,
        spent: &mut Statistics,
    ) -> Option<Vec<u32>> {
        let mut nearest: BinaryHeap<Reverse<u64>> = BinaryHeap::with_capacity(4 * ef);
        let mut results = Results::new(ef);
        let mut batch = Vec::with_capacity(256);
        let mut n_seen = 1;
        visited.insert(start);
        let first = packed(slots.rank(probe, start), start);
        nearest.push(Reverse(first));
        self.admit(slots, start, (first >> 32) as u32, matcher, &mut results, spent);
        while let Some(Reverse(node)) = nearest.pop() {
            if (node >> 32) as u32 > results.limit() {
                break;
            }
            batch.clear();
            for id in slots.neighbours(node as u32, 0) {
                if visited.insert(id) {
                    slots.prefetch(id);
                    batch.push(id);
                }
            }
            n_seen += batch.len();
            for &id in &batch {
                let node = packed(slots.rank(probe, id), id);
                let rank = (node >> 32) as u32;
                if rank <= results.limit() {
                    nearest.push(Reverse(node));
                    self.admit(slots, id, rank, matcher, &mut results, spent);
                }
            }
            if n_seen > limit {
                spent.n_candidates += n_seen;
                spent.n_distances += n_seen;
                return None;
            }
        }
        spent.n_candidates += n_seen;
        spent.n_distances += n_seen;
        Some(results.into_ids())
    }

    /// Best first over nodes that match, stepping over those that do not (ACORN, Patel et al. 2024): their neighbours
    /// stand in for them. Nothing if that takes more than `limit` tests.
    #[expect(clippy::too_many_arguments, reason = "the state of one search")]
    pub(super) fn traverse_matching(
        &self,
        slots: &Slots,
        probe: &Probe,
        start: u32,
        ef: usize,
        matcher: &Matcher<'_>,
        limit: usize,
        visited: &mut Visited,
        spent: &mut Statistics,
    ) -> Option<Vec<u32>> {
        let mut nearest: BinaryHeap<Reverse<u64>> = BinaryHeap::with_capacity(4 * ef);
        let mut results = Results::new(ef);
        let mut batch = Vec::with_capacity(256);
        let mut tests_left = limit;
        visited.insert(start);
        nearest.push(Reverse(packed(slots.rank(probe, start), start)));
        self.admit(
            slots,
            start,
            (packed(slots.rank(probe, start), start) >> 32) as u32,
            matcher,
            &mut results,
            spent,
        );
        while let Some(Reverse(node)) = nearest.pop() {
            if (node >> 32) as u32 > results.limit() {
                break;
            }
            batch.clear();
            self.matching_near(
                slots,
                node as u32,
                matcher,
                visited,
                &mut tests_left,
                &mut batch,
                spent,
            );
            for &id in &batch {
                slots.prefetch(id);
            }
            for &id in &batch {
                let node = packed(slots.rank(probe, id), id);
                spent.n_distances += 1;
                let rank = (node >> 32) as u32;
                if rank <= results.limit() {
                    nearest.push(Reverse(node));
                    self.admit(slots, id, rank, matcher, &mut results, spent);
                }
            }
            if tests_left == 0 {
                return None;
            }
        }
        Some(results.into_ids())
    }

    /// Matching nodes one or two links away that were not seen before.
    #[expect(clippy::too_many_arguments, reason = "the state of one search")]
    fn matching_near(
        &self,
        slots: &Slots,
        node: u32,
        matcher: &Matcher<'_>,
        visited: &mut Visited,
        tests_left: &mut usize,
        batch: &mut Vec<u32>,
        spent: &mut Statistics,
    ) {
        for id in slots.neighbours(node, 0) {
            if visited.contains(id) {
                continue;
            }
            if !visited.is_refused(id) && self.is_match(slots, id, matcher, tests_left, spent) {
                visited.insert(id);
                batch.push(id);
                continue;
            }
            // It does not match and is gone through once.
            visited.insert(id);
            for next in slots.neighbours(id, 0) {
                if visited.contains(next) || visited.is_refused(next) {
                    continue;
                }
                if self.is_match(slots, next, matcher, tests_left, spent) {
                    visited.insert(next);
                    batch.push(next);
                } else {
                    visited.refuse(next);
                }
            }
        }
    }

    /// Whether a node or one of its twins counts.
    fn is_match(
        &self,
        slots: &Slots,
        node: u32,
        matcher: &Matcher<'_>,
        tests_left: &mut usize,
        spent: &mut Statistics,
    ) -> bool {
        *tests_left = tests_left.saturating_sub(1);
        spent.n_candidates += 1;
        let mut id = node;
        while id != NONE {
            if slots.kind(id) != Kind::Empty && matcher.passes(slots, id, spent) {
                return true;
            }
            id = slots.twin(id);
        }
        false
    }
}
