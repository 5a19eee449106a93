//! A search that can be continued: what was met and not given out stays in a heap.
//!
//! When the graph has nothing more, what was never met is scanned: so every entry comes once, whatever happened to the graph
//! between two calls.

use std::{cmp::Reverse, collections::BinaryHeap, sync::atomic::Ordering::*};

use super::{Graph, traverse::packed, visited::Visited};
use crate::{
    error::Result,
    flat::{self, Matcher, Ranked},
    index::{Cursor, Hit, Request, Statistics, Strategy},
    plan,
    quantize::Probe,
    store::slots::{Kind, NONE, Slots},
};

pub(super) struct GraphCursor<'a> {
    graph: &'a Graph,
    probe: Probe,
    matcher: Matcher<'a>,
    ef: usize,
    /// Nodes met and not gone through.
    nearest: BinaryHeap<Reverse<u64>>,
    /// Entries met and not given out, by exact rank.
    found: BinaryHeap<Reverse<Ranked>>,
    visited: Visited,
    /// Slots there were at the beginning; a reader's snapshot knows no later ones.
    n_slots: u32,
    is_begun: bool,
    is_scanned: bool,
    spent: Statistics,
}

impl<'a> GraphCursor<'a> {
    pub(super) fn new(graph: &'a Graph, probe: Probe, request: &Request<'a>) -> Self {
        let slots = graph.store.slots.read();
        graph.n_cursors.fetch_add(1, AcqRel);
        Self {
            graph,
            probe,
            matcher: Matcher::new(request.at, request.filter),
            ef: plan::ef(request),
            nearest: BinaryHeap::new(),
            found: BinaryHeap::new(),
            visited: graph.pool.take(slots.capacity()),
            n_slots: graph.store.n_slots(),
            is_begun: false,
            is_scanned: false,
            spent: Statistics { strategy: Strategy::Traversal, ..Statistics::default() },
        }
    }

    fn meet(&mut self, slots: &Slots, node: u32) {
        if node >= self.n_slots || !self.visited.insert(node) {
            return;
        }
        self.spent.n_candidates += 1;
        self.spent.n_distances += 1;
        self.nearest.push(Reverse(packed(slots.rank(&self.probe, node), node)));
        self.give(slots, node);
        let mut id = slots.twin(node);
        while id != NONE {
            if id < self.n_slots && self.visited.insert(id) {
                self.give(slots, id);
            }
            id = slots.twin(id);
        }
    }

    fn give(&mut self, slots: &Slots, id: u32) {
        if slots.kind(id) != Kind::Empty && self.matcher.passes(slots, id, &mut self.spent) {
            self.spent.n_rescored += 1;
            let rank = slots.exact_rank(&self.probe, id);
            self.found.push(Reverse(Ranked { rank, key: slots.key(id), id }));
        }
    }

    /// Goes on until enough entries are nearer than any node left, or no node is left.
    fn advance(&mut self, slots: &Slots, n: usize) {
        if !self.is_begun {
            self.is_begun = true;
            if let Some((entry, level)) = self.graph.entry()
                && !self.probe.loose
            {
                let spent = &mut self.spent.n_distances;
                let start = self.graph.descend(slots, &self.probe, entry, level, 0, spent);
                self.meet(slots, start);
            }
        }
        let mut n_fresh = 0;
        // As many steps as a search with this ef takes: each step gives out no more than a search would be sure of.
        while self.found.len() < n || n_fresh < self.ef {
            let Some(Reverse(node)) = self.nearest.pop() else { break };
            n_fresh += 1;
            let next: Vec<u32> = slots.neighbours(node as u32, 0).collect();
            next.iter().for_each(|&id| slots.prefetch(id));
            next.into_iter().for_each(|id| self.meet(slots, id));
        }
        if self.found.len() < n && !self.is_scanned {
            self.is_scanned = true;
            for id in 0..self.n_slots {
                if self.visited.insert(id) {
                    self.spent.n_candidates += 1;
                    self.give(slots, id);
                }
            }
        }
    }
}

impl Cursor for GraphCursor<'_> {
    fn next(&mut self, n: usize) -> Result<Vec<Hit>> {
        let graph = self.graph;
        let slots = graph.store.slots.read();
        self.advance(&slots, n);
        let mut ranked = Vec::new();
        while ranked.len() < n
            && let Some(Reverse(entry)) = self.found.pop()
        {
            ranked.push(entry);
        }
        Ok(flat::hits(ranked, graph.store.options.metric))
    }

    fn statistics(&self) -> Statistics {
        self.spent
    }
}

impl Drop for GraphCursor<'_> {
    fn drop(&mut self) {
        self.graph.pool.give(std::mem::take(&mut self.visited));
        self.graph.n_cursors.fetch_sub(1, AcqRel);
    }
}
