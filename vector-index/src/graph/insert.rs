//! Linking a new node: neighbours by diversity, links back with the same pruning, and a parent in the tree.

use std::sync::atomic::Ordering::*;

use super::{Graph, is_linkable};
use crate::{
    error::Result,
    index::Applied,
    quantize::Probe,
    store::slots::{Kind, NONE, Slots},
};

/// Times a node without a parent asks again: far longer than another one takes to be linked.
const ADOPTIONS_MAX: usize = 1_000;

/// A candidate to link to: its rank to the node, and the node.
type Candidate = (f32, u32);

impl Graph {
    pub(super) fn insert_probe(&self, key: u64, at: u64, probe: &Probe) -> Result<Applied> {
        let _write = self.writes.read();
        let Some(id) = self.store.place(key, at, probe, &|id| self.level(id))? else {
            return Ok(Applied::Repeated);
        };
        let slots = self.store.slots.read();
        self.link(&slots, id, probe);
        Ok(Applied::Done)
    }

    /// Makes a placed entry part of the graph.
    pub(super) fn link(&self, slots: &Slots, id: u32, probe: &Probe) {
        if probe.loose {
            slots.set_kind(id, Kind::Loose, NONE);
            self.loose.write().push(id);
            return;
        }
        let level = self.level(id);
        let Some((entry, top)) = self.entry() else {
            if self.link_first(slots, id, level) {
                return;
            }
            return self.link(slots, id, probe);
        };
        let ef = self.store.options.ef_construction;
        let mut start = self.descend(slots, probe, entry, top, level, &mut 0);
        let mut chosen: Vec<Vec<Candidate>> = Vec::new();
        let mut nearest = Vec::new();
        for layer in (0..=level.min(top)).rev() {
            let mut visited = self.pool.take(slots.capacity());
            nearest = self.nearest_nodes(slots, probe, start, layer, ef, &mut visited);
            self.pool.give(visited);
            nearest.retain(|&(_, node)| is_linkable(slots, node));
            if let Some(&(_, node)) = nearest.first() {
                start = node;
            }
            chosen.push(self.choose(slots, &nearest, layer));
        }
        if self.link_twin(slots, id, &nearest) {
            return;
        }
        chosen.reverse();
        self.link_lowest(slots, id, &chosen[0], &nearest);
        for (layer, neighbours) in chosen.iter().enumerate().skip(1) {
            let ids: Vec<u32> = neighbours.iter().map(|&(_, node)| node).collect();
            slots.set_links(id, layer, &ids);
            for &node in &ids {
                self.link_back(slots, node, id, layer);
            }
        }
        if level > top {
            let _lock = self.entry_lock.lock();
            if self.entry().is_none_or(|(_, top)| level > top) {
                self.set_entry(Some((id, level)));
            }
        }
    }

    /// The first node is the root and the entry point. False if another one was first.
    fn link_first(&self, slots: &Slots, id: u32, level: usize) -> bool {
        let _lock = self.entry_lock.lock();
        if self.entry().is_some() {
            return false;
        }
        self.clear_links(slots, id);
        slots.set_kind(id, Kind::Linked, NONE);
        self.root.store(id, Release);
        self.set_entry(Some((id, level)));
        true
    }

    pub(super) fn clear_links(&self, slots: &Slots, id: u32) {
        for layer in 0..=self.level(id) {
            slots.set_links(id, layer, &[]);
        }
    }

    /// Neighbours of a new node: live ones if there are enough, since links to ended ones are lost soon.
    fn choose(&self, slots: &Slots, nearest: &[Candidate], layer: usize) -> Vec<Candidate> {
        let m = self.store.options.m;
        let is_live = |node: u32| slots.is_open(node) || slots.twin(node) != NONE;
        let live: Vec<Candidate> =
            nearest.iter().copied().filter(|&(_, node)| is_live(node)).collect();
        let candidates = if live.len() >= m { &live } else { nearest };
        let limit = if layer == 0 { 2 * m } else { m };
        select(slots, candidates, &[], limit)
    }

    /// Chains an entry to a node that has the very same vector, if there is one.
    fn link_twin(&self, slots: &Slots, id: u32, nearest: &[Candidate]) -> bool {
        let norm2 = slots.norm2(id);
        for &(_, node) in nearest {
            if slots.norm2(node) != norm2 || !slots.is_same_vector(node, id) {
                continue;
            }
            let _lock = self.stripe(node).lock();
            if slots.kind(node) == Kind::Linked {
                self.clear_links(slots, id);
                slots.set_parent(id, node);
                slots.set_kind(id, Kind::Twin, slots.twin(node));
                slots.set_kind(node, Kind::Linked, id);
                return true;
            }
        }
        false
    }

    fn link_lowest(&self, slots: &Slots, id: u32, chosen: &[Candidate], nearest: &[Candidate]) {
        let mut ids: Vec<u32> = chosen.iter().map(|&(_, node)| node).collect();
        let parent = self.adopt(slots, id, chosen, nearest);
        if let Some(parent) = parent
            && !ids.contains(&parent)
        {
            ids.truncate(2 * self.store.options.m - 1);
            ids.push(parent);
        }
        slots.set_links(id, 0, &ids);
        // Before it is a node, so that whoever prunes its list knows what to keep.
        slots.set_parent(id, parent.unwrap_or(NONE));
        slots.set_kind(id, Kind::Linked, NONE);
        let Some(parent) = parent else {
            // Every node is on its way out: a new graph begins beside the old one. Should there be one left after all, the next
            // collection joins the two.
            let _lock = self.entry_lock.lock();
            self.root.store(id, Release);
            self.set_entry(Some((id, self.level(id))));
            return;
        };
        self.link_back(slots, parent, id, 0);
        for &node in ids.iter().filter(|&&node| node != parent) {
            self.link_back(slots, node, id, 0);
        }
    }

    /// Counts `id` among the children of a node near it that has room.
    fn adopt(
        &self,
        slots: &Slots,
        id: u32,
        chosen: &[Candidate],
        nearest: &[Candidate],
    ) -> Option<u32> {
        let m = self.store.options.m as u32;
        for _ in 0..ADOPTIONS_MAX {
            // Half of the links are left to what is near: the tree must not crowd it out. Only where nothing else has room it
            // may take all but the one to a node's own parent.
            for children_max in [m, 2 * m - 1] {
                let near = chosen.iter().chain(nearest).map(|&(_, node)| node);
                let anywhere = (0..self.store.n_slots()).filter(|&node| node != id);
                let parent = near
                    .chain(anywhere)
                    .find(|&node| self.reserve_child(slots, node, children_max));
                if parent.is_some() {
                    return parent;
                }
            }
            // The first nodes of a graph may be full of nodes that others are about to link.
            std::thread::yield_now();
        }
        None
    }

    pub(super) fn reserve_child(&self, slots: &Slots, node: u32, children_max: u32) -> bool {
        let _lock = self.stripe(node).lock();
        let n = slots.n_children(node).load(Acquire);
        let has_room = slots.kind(node) == Kind::Linked && n < children_max;
        if has_room {
            slots.n_children(node).fetch_add(1, AcqRel);
        }
        has_room
    }

    /// Makes `node` name `id`, pruning again if its list is full; what is no longer named.
    pub(super) fn link_back(&self, slots: &Slots, node: u32, id: u32, layer: usize) -> Vec<u32> {
        let _lock = self.stripe(node).lock();
        let links = slots.links(node, layer);
        let mut ids: Vec<u32> = slots.neighbours(node, layer).collect();
        if ids.contains(&id) || node == id {
            return Vec::new();
        }
        if ids.len() < links.len() {
            links[ids.len()].store(id, Release);
            return Vec::new();
        }
        ids.push(id);
        let pruned = self.prune(slots, node, layer, &ids);
        slots.set_links(node, layer, &pruned);
        ids.retain(|id| !pruned.contains(id));
        ids
    }

    /// The links `node` keeps of `ids`: those of the tree, and the rest by diversity.
    pub(super) fn prune(&self, slots: &Slots, node: u32, layer: usize, ids: &[u32]) -> Vec<u32> {
        let is_tree =
            |id: u32| layer == 0 && (slots.parent(node) == id || slots.parent(id) == node);
        // What is on its way out has lost its place in the tree, too.
        let (kept, rest): (Vec<u32>, Vec<u32>) =
            ids.iter().filter(|&&id| is_linkable(slots, id)).partition(|&&id| is_tree(id));
        let mut candidates: Vec<Candidate> =
            rest.iter().map(|&id| (slots.rank_between(node, id), id)).collect();
        candidates.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let limit = slots.links(node, layer).len();
        let mut pruned = kept.clone();
        let selected = select(slots, &candidates, &kept, limit.saturating_sub(kept.len()));
        pruned.extend(selected.iter().map(|&(_, id)| id));
        pruned.truncate(limit);
        pruned
    }
}

/// Of candidates, nearest first, at most `limit` that are nearer to the node than to one another: links in many directions.
///
/// Source: Malkov and Yashunin, algorithm 4.
fn select(slots: &Slots, candidates: &[Candidate], kept: &[u32], limit: usize) -> Vec<Candidate> {
    let mut selected: Vec<Candidate> = Vec::with_capacity(limit);
    for &(rank, id) in candidates {
        if selected.len() >= limit {
            break;
        }
        let others = selected.iter().map(|&(_, other)| other).chain(kept.iter().copied());
        let mut others = others;
        if others.all(|other| slots.is_apart(id, other, rank)) {
            selected.push((rank, id));
        }
    }
    selected
}
