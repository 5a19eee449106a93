//! Our engine: a hierarchical navigable small world graph (Malkov and Yashunin) in flat arrays.
//!
//! ```text
//! layer 2        o───────────────o           few nodes, m links each
//! layer 1    o───o───────o───────o───o
//! layer 0  o─o─o─o─o─o─o─o─o─o─o─o─o─o─o     every node, 2·m links each
//! ```
//!
//! `insert` links a node, `traverse` searches, `collect` takes ended entries out, `cursor` searches on. What differs from the paper:
//!
//! - **A tree inside the lowest layer.** Each node has a parent that it names and that names it, and pruning never drops these
//!   links. So every node can be reached from every other one, whatever was pruned.
//! - **Twins.** An entry whose vector a node has already is chained to that node and takes no links, so that a thousand equal
//!   vectors do not become a clique, and ties among them are broken by key.
//! - **Levels by slot.** A node's level is a hash of its slot number, so a slot keeps its place in the upper layers for all its lives.
//!
//! Links are atomics: searches read them without locks. Whoever changes a list holds the stripe lock of its node, one at a time.

mod anchor;
mod collect;
mod cursor;
mod insert;
#[cfg(test)]
mod tests;
mod traverse;
mod visited;

use std::{
    io::Write,
    sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::*},
};

use parking_lot::{Mutex, RwLock};

use self::{traverse::Walk, visited::Pool};
use crate::{
    error::Result,
    flat::{self, Matcher, Ranked},
    index::{
        Answer, Applied, Collected, Cost, Counts, Cursor, Filter, Request, Statistics, Strategy,
        VectorIndex,
    },
    make::copy_entries,
    options::{Metric, Options},
    plan,
    quantize::Probe,
    snapshot,
    store::{
        Store,
        slots::{Kind, NONE, Slots},
    },
};

/// Locks for lists of links: enough that writers on all cores seldom meet.
const STRIPES: usize = 1024;

/// Layers above the lowest: with m = 2, 2^12 nodes of the highest one stand for 16 million.
const LEVEL_MAX: usize = 12;

/// No entry point: the graph is empty.
const NO_ENTRY: u64 = u64::MAX;

/// The engine `graph`.
pub(crate) struct Graph {
    pub(crate) store: Store,
    /// Level and id of the node where searches begin.
    entry: AtomicU64,
    /// Held to change `entry`.
    entry_lock: Mutex<()>,
    /// Root of the tree in the lowest layer.
    root: AtomicU32,
    stripes: Box<[Mutex<()>]>,
    pool: Pool,
    /// The shared side is held by whoever inserts; the other one waits for them.
    writes: RwLock<()>,
    /// One collection or snapshot at a time. Holds slots that were taken out while a cursor might know them.
    maintenance: Mutex<Vec<u32>>,
    n_cursors: AtomicUsize,
    /// Where the next collection begins to look whether nodes find themselves.
    next_anchor: AtomicU32,
    /// Entries outside of the graph: see [`Probe::loose`].
    loose: RwLock<Vec<u32>>,
}

impl Graph {
    pub(crate) fn new(options: Options) -> Result<Self> {
        Ok(Self {
            store: Store::new(options, true)?,
            entry: AtomicU64::new(NO_ENTRY),
            entry_lock: Mutex::new(()),
            root: AtomicU32::new(NONE),
            stripes: (0..STRIPES).map(|_| Mutex::new(())).collect(),
            pool: Pool::default(),
            writes: RwLock::new(()),
            maintenance: Mutex::default(),
            n_cursors: AtomicUsize::new(0),
            next_anchor: AtomicU32::new(0),
            loose: RwLock::default(),
        })
    }

    /// The graph of a snapshot, and the log index up to which it is whole.
    pub(crate) fn open(options: Options, bytes: &[u8]) -> Result<(Self, u64)> {
        let graph = Self::new(options)?;
        let opened = snapshot::read(bytes, &graph.store, Some(&|id: u32| level(id, options.m)))?;
        graph.set_entry(opened.entry.map(|id| (id, level(id, options.m))));
        graph.root.store(opened.root, Release);
        {
            let slots = graph.store.slots.read();
            let loose = (0..graph.store.n_slots()).filter(|&id| slots.kind(id) == Kind::Loose);
            *graph.loose.write() = loose.collect();
        }
        Ok((graph, opened.applied))
    }

    fn stripe(&self, id: u32) -> &Mutex<()> {
        &self.stripes[id as usize % STRIPES]
    }

    /// (id, level) of the entry point.
    fn entry(&self) -> Option<(u32, usize)> {
        let entry = self.entry.load(Acquire);
        (entry != NO_ENTRY).then_some((entry as u32, (entry >> 32) as usize))
    }

    fn set_entry(&self, entry: Option<(u32, usize)>) {
        let bits = entry.map_or(NO_ENTRY, |(id, level)| (level as u64) << 32 | u64::from(id));
        self.entry.store(bits, Release);
    }

    /// The top layer of a slot: exponentially distributed, and the same in every life.
    fn level(&self, id: u32) -> usize {
        level(id, self.store.options.m)
    }

    fn answer(
        &self,
        slots: &Slots,
        probe: &Probe,
        request: &Request<'_>,
        spent: &mut Statistics,
    ) -> Answer {
        let exact = |spent: &mut Statistics| {
            flat::search(&self.store, slots, probe, request.k, request.at, request.filter, spent)
        };
        let mut planned = self.cost(request);
        if probe.loose {
            planned.strategy = plan::exact(request.filter);
        }
        let hits = match planned.strategy {
            Strategy::ExactAll | Strategy::ExactMatching => {
                spent.strategy = planned.strategy;
                exact(spent)
            }
            Strategy::Traversal | Strategy::PostFilter | Strategy::InFilter => {
                self.traverse(slots, probe, request, planned, spent).unwrap_or_else(|| {
                    spent.gave_up = Some(spent.strategy);
                    spent.strategy = plan::exact(request.filter);
                    exact(spent)
                })
            }
        };
        Answer { hits, statistics: *spent }
    }

    /// An answer from the graph, or nothing if it found fewer than `k` or would cost more than a scan.
    fn traverse(
        &self,
        slots: &Slots,
        probe: &Probe,
        request: &Request<'_>,
        planned: Cost,
        spent: &mut Statistics,
    ) -> Option<Vec<crate::index::Hit>> {
        let matcher = Matcher::new(request.at, request.filter);
        let found = self.find(slots, probe, request, planned, &matcher, spent);
        let mut ranked: Vec<Ranked> = Vec::new();
        let mut rescore = |id: u32, spent: &mut Statistics| {
            spent.n_rescored += 1;
            let rank = slots.exact_rank(probe, id);
            ranked.push(Ranked { rank, key: slots.key(id), id });
        };
        found?.into_iter().for_each(|id| rescore(id, spent));
        if self.metric() != Metric::Cosine {
            // Norms that overflow. Without a direction under cosine an entry comes last, which only a scan needs to know.
            for &id in self.loose.read().iter() {
                if matcher.passes(slots, id, spent) {
                    rescore(id, spent);
                }
            }
        }
        ranked.sort_unstable();
        ranked.truncate(request.k);
        (ranked.len() >= request.k).then(|| flat::hits(ranked, self.metric()))
    }

    /// Entries of the graph that count and are near.
    fn find(
        &self,
        slots: &Slots,
        probe: &Probe,
        request: &Request<'_>,
        planned: Cost,
        matcher: &Matcher<'_>,
        spent: &mut Statistics,
    ) -> Option<Vec<u32>> {
        let (entry, level) = self.entry()?;
        let start = self.descend(slots, probe, entry, level, 0, &mut spent.n_distances);
        let n_open = self.store.n_open();
        let ef = plan::ef(request);
        let walk = |planned: &Cost, spent: &mut Statistics| {
            spent.strategy = planned.strategy;
            let visited = self.pool.take(slots.capacity());
            let mut walk = Walk { slots, probe, matcher, ef, visited, spent };
            let found = if planned.strategy == Strategy::InFilter {
                walk.over_matching(start, plan::tests_max(planned, n_open))
            } else {
                walk.over_all(start, plan::visits_max(planned, request.filter))
            };
            self.pool.give(walk.visited);
            found
        };
        let found = walk(&planned, spent);
        let Filter::Test { test, n_estimated: None } = request.filter else { return found };
        if found.is_some() {
            return found;
        }
        // That was a trial: now something is known of how many match, at least near the query.
        let share = spent.n_passed as f64 / spent.n_tested.max(1) as f64;
        let n_estimated = Some((share * n_open as f64) as usize);
        let again = self.cost(&request.filtered(Filter::Test { test, n_estimated }));
        match again.strategy {
            Strategy::ExactAll | Strategy::ExactMatching => None,
            Strategy::Traversal | Strategy::PostFilter | Strategy::InFilter => {
                let found = walk(&again, spent);
                spent.gave_up = Some(planned.strategy);
                found
            }
        }
    }
}

/// See [`Graph::level`].
fn level(id: u32, m: usize) -> usize {
    let mut x = u64::from(id).wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^= x >> 31;
    let uniform = ((x >> 11) + 1) as f64 / (1u64 << 53) as f64;
    ((-uniform.ln() / (m as f64).ln()) as usize).min(LEVEL_MAX)
}

impl VectorIndex for Graph {
    fn options(&self) -> &Options {
        &self.store.options
    }

    fn insert(&self, key: u64, at: u64, vector: &[f32]) -> Result<Applied> {
        let probe = Probe::new(self.options(), vector)?;
        self.insert_probe(key, at, &probe)
    }

    fn remove(&self, key: u64, at: u64) -> Result<Applied> {
        Ok(self.store.remove(key, at))
    }

    fn search(&self, query: &[f32], request: &Request<'_>) -> Result<Answer> {
        request.validate()?;
        let probe = Probe::new(self.options(), query)?;
        let mut spent = Statistics::default();
        if request.k == 0 {
            return Ok(Answer::default());
        }
        let slots = self.store.slots.read();
        Ok(self.answer(&slots, &probe, request, &mut spent))
    }

    fn cursor<'a>(
        &'a self,
        query: &[f32],
        request: &Request<'a>,
    ) -> Result<Box<dyn Cursor + Send + 'a>> {
        request.validate()?;
        let probe = Probe::new(self.options(), query)?;
        Ok(Box::new(cursor::GraphCursor::new(self, probe, request)))
    }

    fn cost(&self, request: &Request<'_>) -> Cost {
        plan::choose(request, self.store.n_open(), self.store.record_lines())
    }

    fn collect(&self, oldest: u64) -> Result<Collected> {
        Ok(self.collect_entries(oldest))
    }

    fn settle(&self) {
        self.anchor_all();
    }

    fn rebuilt(&self, oldest: u64) -> Result<Box<dyn VectorIndex>> {
        let new = Self::new(*self.options())?;
        copy_entries(&self.store, oldest, &new)?;
        new.settle();
        Ok(Box::new(new))
    }

    fn snapshot(&self, applied: u64, to: &mut dyn Write) -> Result<()> {
        let _maintenance = self.maintenance.lock();
        let n_slots = {
            let _no_inserts = self.writes.write();
            self.store.keep_freed.store(true, Release);
            self.store.n_slots()
        };
        let links = snapshot::Links {
            entry: self.entry().filter(|&(id, _)| id < n_slots),
            root: self.root.load(Acquire),
            level: &|id| self.level(id),
            lock: &|id| self.stripe(id).lock(),
        };
        let written = snapshot::write(&self.store, n_slots, Some(&links), applied, to);
        self.store.keep_freed.store(false, Release);
        written
    }

    fn counts(&self) -> Counts {
        self.store.counts()
    }

    fn memory_bytes(&self) -> usize {
        self.store.memory_bytes() + self.pool.memory_bytes()
    }
}

/// Whether new links may lead to a node.
fn is_linkable(slots: &Slots, id: u32) -> bool {
    slots.kind(id) == Kind::Linked
}
