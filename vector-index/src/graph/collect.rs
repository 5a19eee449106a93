//! Taking ended entries out of the graph: whoever led to them is led around them, and the slots are used again.
//!
//! In four steps, each of which leaves a graph that can be searched: mark nodes as doomed, so that no new link leads there;
//! give their children in the tree new parents; mend every list that names them; when nobody can know them any more, free them.

use std::{collections::HashSet, sync::atomic::Ordering::*};

use super::{Graph, is_linkable};
use crate::{
    index::Collected,
    store::slots::{Kind, NONE, Slots},
};

/// Past this share of nodes taken out at once a rebuild costs less than what mending loses.
const REBUILD_SHARE: f64 = 0.3;

/// Candidates to mend one list with: enough to choose from, few enough to compare.
const MEND_MAX: usize = 128;

impl Graph {
    pub(super) fn collect_entries(&self, oldest: u64) -> Collected {
        let mut limbo = self.maintenance.lock();
        let (gone, doomed, n_nodes) = self.doom(oldest);
        // Insertions that chose a node before it was doomed end here; later ones see the mark.
        drop(self.writes.write());
        let mut collected = Collected {
            n_entries: gone.len() + doomed.len(),
            n_mended: 0,
            is_rebuild_advised: doomed.len() as f64 > REBUILD_SHARE * n_nodes as f64,
        };
        if !doomed.is_empty() {
            let slots = self.store.slots.read();
            self.move_root(&slots);
            for &id in &doomed {
                let parent = slots.parent(id);
                if parent != NONE && is_linkable(&slots, parent) {
                    slots.n_children(parent).fetch_sub(1, AcqRel);
                }
            }
            self.find_parents(&slots);
            collected.n_mended = self.mend(&slots);
            self.move_entry(&slots);
        }
        self.free(gone, doomed, &mut limbo);
        self.anchor_next();
        collected
    }

    /// Ended entries that are no nodes and are out of all chains; nodes that were marked; number of nodes before.
    fn doom(&self, oldest: u64) -> (Vec<u32>, Vec<u32>, usize) {
        let slots = self.store.slots.read();
        let ids = 0..self.store.n_slots();
        let is_over = |id: u32| slots.to(id) <= oldest;
        let mut gone = Vec::new();
        for id in ids.clone().filter(|&id| slots.kind(id) == Kind::Twin && is_over(id)) {
            self.unchain(&slots, id);
            gone.push(id);
        }
        self.loose.write().retain(|&id| {
            if is_over(id) {
                gone.push(id);
            }
            !is_over(id)
        });
        let (mut doomed, mut n_nodes) = (Vec::new(), 0);
        for id in ids.filter(|&id| slots.kind(id) == Kind::Linked) {
            n_nodes += 1;
            if is_over(id) {
                let _lock = self.stripe(id).lock();
                // A node with twins stays: it is where they are found.
                if slots.twin(id) == NONE {
                    slots.set_kind(id, Kind::Doomed, NONE);
                    doomed.push(id);
                }
            }
        }
        (gone, doomed, n_nodes)
    }

    /// Takes a twin out of the chain of its node. It still names the next one, for whoever is on it.
    fn unchain(&self, slots: &Slots, twin: u32) {
        let node = slots.parent(twin);
        let _lock = self.stripe(node).lock();
        let mut before = node;
        while before != NONE && slots.twin(before) != twin {
            before = slots.twin(before);
        }
        if before != NONE {
            slots.set_kind(before, slots.kind(before), slots.twin(twin));
        }
    }

    /// Turns the tree so that its root stays in the graph.
    fn move_root(&self, slots: &Slots) {
        let _lock = self.entry_lock.lock();
        if is_linkable(slots, self.root.load(Acquire)) {
            return;
        }
        let Some(root) = (0..self.store.n_slots()).find(|&id| is_linkable(slots, id)) else {
            self.root.store(NONE, Release);
            self.set_entry(None);
            return;
        };
        let mut path = vec![root];
        let mut id = slots.parent(root);
        while id != NONE {
            path.push(id);
            id = slots.parent(id);
        }
        // From the top down each edge is held by one of its ends at any time, so pruning never drops it.
        for pair in path.windows(2).rev() {
            let (child, parent) = (pair[0], pair[1]);
            slots.set_parent(parent, child);
            slots.n_children(child).fetch_add(1, AcqRel);
            slots.n_children(parent).fetch_sub(1, AcqRel);
        }
        slots.set_parent(root, NONE);
        self.root.store(root, Release);
    }

    /// Gives every node below a doomed one another parent, near it if possible. A second root gets one, too.
    fn find_parents(&self, slots: &Slots) {
        let is_orphan = |id: u32| {
            let parent = slots.parent(id);
            let is_child = parent != NONE && is_linkable(slots, parent);
            is_linkable(slots, id) && !is_child && id != self.root.load(Acquire)
        };
        for id in (0..self.store.n_slots()).filter(|&id| is_orphan(id)) {
            let mut near = self.around(slots, id, 0);
            near.sort_by(|&a, &b| slots.rank_between(id, a).total_cmp(&slots.rank_between(id, b)));
            let anywhere = 0..self.store.n_slots();
            let parent = near.into_iter().chain(anywhere).find(|&node| {
                node != id
                    && is_linkable(slots, node)
                    && !is_below(slots, node, id)
                    && self.reserve_child(slots, node, self.store.options.m as u32)
            });
            // The root is never below anything, but may have no room; then the tree has another node that has.
            let parent = parent.unwrap_or_else(|| self.root.load(Acquire));
            slots.set_parent(id, parent);
            self.link_back(slots, id, parent, 0);
            self.link_back(slots, parent, id, 0);
        }
    }

    /// Nodes that stay, one link away or behind doomed ones.
    fn around(&self, slots: &Slots, id: u32, layer: usize) -> Vec<u32> {
        let mut seen = HashSet::from([id]);
        let mut near = Vec::new();
        let mut through = vec![id];
        while let Some(node) = through.pop() {
            for next in slots.neighbours(node, layer) {
                if near.len() >= MEND_MAX || !seen.insert(next) {
                    continue;
                }
                match slots.kind(next) {
                    Kind::Linked => near.push(next),
                    Kind::Doomed if seen.len() < 4 * MEND_MAX => through.push(next),
                    _ => {}
                }
            }
        }
        near
    }

    /// Mends every list that names a node on its way out; how many nodes had one.
    fn mend(&self, slots: &Slots) -> usize {
        let mut n_mended = 0;
        for id in (0..self.store.n_slots()).filter(|&id| is_linkable(slots, id)) {
            let mut is_mended = false;
            for layer in 0..=self.level(id) {
                if slots.neighbours(id, layer).all(|next| is_linkable(slots, next)) {
                    continue;
                }
                let near = self.around(slots, id, layer);
                let _lock = self.stripe(id).lock();
                // What was linked since then counts too.
                let mut ids: Vec<u32> =
                    slots.neighbours(id, layer).filter(|&next| is_linkable(slots, next)).collect();
                for next in near {
                    if !ids.contains(&next) {
                        ids.push(next);
                    }
                }
                let pruned = self.prune(slots, id, layer, &ids);
                slots.set_links(id, layer, &pruned);
                is_mended = true;
            }
            n_mended += usize::from(is_mended);
        }
        n_mended
    }

    fn move_entry(&self, slots: &Slots) {
        let _lock = self.entry_lock.lock();
        if self.entry().is_some_and(|(id, _)| is_linkable(slots, id)) {
            return;
        }
        let highest = (0..self.store.n_slots())
            .filter(|&id| is_linkable(slots, id))
            .max_by_key(|&id| self.level(id));
        self.set_entry(highest.map(|id| (id, self.level(id))));
    }

    fn free(&self, gone: Vec<u32>, doomed: Vec<u32>, limbo: &mut Vec<u32>) {
        let out: Vec<u32> = gone.into_iter().chain(doomed).collect();
        {
            let slots = self.store.slots.read();
            let is_gone: HashSet<u32> = out.iter().copied().collect();
            self.store.forget(&slots, &out, &|id| is_gone.contains(&id));
            for &id in &out {
                // Whoever is on a chain of twins still finds the rest of it.
                slots.set_kind(id, Kind::Empty, slots.twin(id));
            }
        }
        limbo.extend(out);
        let slots = self.store.slots.write();
        // Whoever searches has ended; a cursor may come back and knows ids.
        if self.n_cursors.load(Acquire) == 0 {
            for &id in limbo.iter() {
                self.clear_links(&slots, id);
            }
            drop(slots);
            self.store.release(limbo);
            limbo.clear();
        }
    }
}

/// Whether `node` is in the part of the tree below `above`, or `above` itself.
pub(super) fn is_below(slots: &Slots, node: u32, above: u32) -> bool {
    let mut id = node;
    let mut n_left = slots.capacity();
    while id != NONE && n_left > 0 {
        n_left -= 1;
        if id == above {
            return true;
        }
        id = slots.parent(id);
    }
    false
}
