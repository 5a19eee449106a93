//! Seeing to it that every node finds itself.
//!
//! A node may be linked only from where a search for it does not pass. Here each is searched for, and one that is not found becomes
//! a child, in the tree, of the nearest node that was: since the links of a child and its parent are never dropped, the next search
//! meets it there. Builds look for all nodes, collections for the next ones in turn.

use std::sync::atomic::Ordering::*;

use parking_lot::Mutex;

use super::{Graph, collect::is_below, is_linkable};
use crate::{
    options::Metric,
    parallel::{cores, in_parallel},
    quantize::Probe,
    store::slots::{NONE, Slots},
};

/// Candidates of the search for a node: fewer than the 64 with which every node shall be found, to leave room for what changes.
const SELF_EF: usize = 40;

/// Nodes looked for in one collection: about a second of one core.
const ANCHORS_MAX: u32 = 20_000;

/// Times those that were not found, and those that lost a link to them, are looked for again.
const ROUNDS: usize = 6;

impl Graph {
    /// Looks for every node. Called when many were linked at once.
    pub(super) fn anchor_all(&self) {
        let _maintenance = self.maintenance.lock();
        self.anchor((0..self.store.n_slots()).collect(), cores());
    }

    /// Looks for the next nodes in turn. The caller holds the maintenance lock.
    pub(super) fn anchor_next(&self) {
        let n = self.store.n_slots();
        let begin = self.next_anchor.load(Acquire).min(n);
        let end = (begin + ANCHORS_MAX).min(n);
        let around = if end == n { begin.min(ANCHORS_MAX - (end - begin)) } else { 0 };
        self.next_anchor.store(if end == n { around } else { end }, Release);
        // In the background: the other cores are for queries.
        self.anchor((begin..end).chain(0..around).collect(), 1);
    }

    fn anchor(&self, mut ids: Vec<u32>, n_threads: usize) {
        if self.store.options.metric == Metric::InnerProduct {
            // The nearest of a vector is not itself there, but a longer one.
            return;
        }
        for _ in 0..ROUNDS {
            let lost = Mutex::new(Vec::new());
            let looked = in_parallel(ids.len(), n_threads, &|i| {
                let slots = self.store.slots.read();
                if !self.finds_itself(&slots, ids[i]) {
                    lost.lock().push(ids[i]);
                }
                Ok(())
            });
            ids = lost.into_inner();
            if looked.is_err() || ids.is_empty() {
                return;
            }
            // One after the other, because the tree is turned.
            ids.sort_unstable();
            for id in ids.clone() {
                let slots = self.store.slots.read();
                ids.extend(self.move_below_nearest(&slots, id));
            }
        }
    }

    fn finds_itself(&self, slots: &Slots, id: u32) -> bool {
        !is_linkable(slots, id) || self.near(slots, id).iter().any(|&(_, node)| node == id)
    }

    /// What a search for a node meets, nearest first.
    fn near(&self, slots: &Slots, id: u32) -> Vec<(f32, u32)> {
        let values = slots.values(id, self.store.options.dim);
        let (Ok(probe), Some((entry, top))) =
            (Probe::new(&self.store.options, &values), self.entry())
        else {
            return Vec::new();
        };
        let start = self.descend(slots, &probe, entry, top, 0, &mut 0);
        let mut visited = self.pool.take(slots.capacity());
        let near = self.nearest_nodes(slots, &probe, start, 0, SELF_EF, &mut visited);
        self.pool.give(visited);
        near
    }

    /// Gives a node another parent; nodes that lost a link by it.
    fn move_below_nearest(&self, slots: &Slots, id: u32) -> Vec<u32> {
        let near = self.near(slots, id);
        if near.iter().any(|&(_, node)| node == id) || slots.parent(id) == NONE {
            return Vec::new();
        }
        let children_max = self.store.options.m as u32;
        let parent = near.iter().map(|&(_, node)| node).find(|&node| {
            !is_below(slots, node, id) && self.reserve_child(slots, node, children_max)
        });
        let Some(parent) = parent else { return Vec::new() };
        slots.n_children(slots.parent(id)).fetch_sub(1, AcqRel);
        slots.set_parent(id, parent);
        let mut unlinked = self.link_back(slots, id, parent, 0);
        unlinked.extend(self.link_back(slots, parent, id, 0));
        unlinked
    }
}
