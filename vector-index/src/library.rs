//! The engine `hnsw_rs`: the library's graph over our entries.
//!
//! The library finds candidates; what they are, who sees them, the final order and snapshots are ours. What it does that a server
//! cannot have is kept out here:
//!
//! - it has no deletes: entries that ended are not results, and a rebuild takes them out;
//! - it exits the process on a file it cannot read: its files are not used, opening links anew;
//! - it wants distances that are not negative, and vectors of length 1 for cosine: it gets a distance of ours that is so;
//! - some points do not find themselves: each is looked for after it is linked, and those that are not found are scanned;
//! - it does not link and search at one time: a lock sees to that;
//! - it may panic: then every search from there on is exact.

use std::{
    cell::{Cell, RefCell},
    collections::HashSet,
    io::Write,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicBool, Ordering::*},
};

use hnsw_rs::{
    anndists::dist::distances::Distance,
    prelude::{FilterT, Hnsw},
};
use parking_lot::{Mutex, RwLock};

use crate::{
    error::Result,
    flat::{self, Matcher, Ranked},
    index::{
        Answer, Applied, Collected, Cost, Counts, Cursor, Filter, Hit, Request, Statistics,
        Strategy, VectorIndex,
    },
    kernels,
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

/// The library's own bound.
const LAYERS: usize = 16;

/// A hint for its tables; they grow.
const N_EXPECTED: usize = 10_000;

/// A point has to find itself with so many candidates.
const SELF_EF: usize = 64;

/// Past this share of ended entries a rebuild pays.
const REBUILD_SHARE: f64 = 0.3;

/// The distance given to the library: never negative, never NaN.
struct Within {
    metric: Metric,
}

impl Distance<f32> for Within {
    fn eval(&self, a: &[f32], b: &[f32]) -> f32 {
        let kernels = kernels::best();
        match self.metric {
            // Vectors come with length 1 for cosine, where both orders are the same.
            Metric::L2 | Metric::Cosine => kernels.l2_f32(a, b),
            Metric::InnerProduct => {
                let rank = -kernels.dot_f32(a, b);
                if rank >= 0.0 { 1.0 + rank } else { (1.0 - rank).recip() }
            }
        }
    }
}

/// The engine `hnsw_rs`.
pub(crate) struct Library {
    store: Store,
    graph: RwLock<Hnsw<'static, f32, Within>>,
    /// Entries the graph does not find.
    strays: RwLock<Vec<u32>>,
    is_broken: AtomicBool,
    maintenance: Mutex<()>,
}

impl Library {
    pub(crate) fn new(options: Options) -> Result<Self> {
        let store = Store::new(options, false)?;
        let within = Within { metric: options.metric };
        let graph = Hnsw::new(options.m, N_EXPECTED, LAYERS, options.ef_construction, within);
        Ok(Self {
            store,
            graph: RwLock::new(graph),
            strays: RwLock::default(),
            is_broken: AtomicBool::new(false),
            maintenance: Mutex::new(()),
        })
    }

    pub(crate) fn open(options: Options, bytes: &[u8]) -> Result<(Self, u64)> {
        let index = Self::new(options)?;
        let opened = snapshot::read(bytes, &index.store, None)?;
        {
            let slots = index.store.slots.read();
            for id in (0..index.store.n_slots()).filter(|&id| slots.kind(id) != Kind::Empty) {
                let probe = Probe::new(&options, &slots.values(id, options.dim))?;
                index.link(&slots, id, &probe);
            }
        }
        Ok((index, opened.applied))
    }

    /// The vector as the library gets it.
    fn vector(&self, probe: &Probe) -> Vec<f32> {
        let mut values = probe.values.clone();
        if self.metric() == Metric::Cosine {
            let length = probe.norm2.sqrt();
            values.iter_mut().for_each(|x| *x /= length);
        }
        values
    }

    fn link(&self, slots: &Slots, id: u32, probe: &Probe) {
        if probe.loose {
            slots.set_kind(id, Kind::Loose, NONE);
            self.strays.write().push(id);
            return;
        }
        let vector = self.vector(probe);
        let graph = self.graph.write();
        let is_found = self.guarded(|| {
            graph.insert((&vector, id as usize));
            let near = graph.search(&vector, SELF_EF, SELF_EF);
            near.iter().any(|found| found.d_id == id as usize)
        });
        if is_found != Some(true) {
            self.strays.write().push(id);
        }
    }

    /// Calls the library; nothing if it panicked, now or before.
    fn guarded<T>(&self, call: impl FnOnce() -> T) -> Option<T> {
        if self.is_broken.load(Acquire) {
            return None;
        }
        let result = catch_unwind(AssertUnwindSafe(call)).ok();
        if result.is_none() {
            self.is_broken.store(true, Release);
        }
        result
    }

    fn traverse(
        &self,
        slots: &Slots,
        probe: &Probe,
        request: &Request<'_>,
        spent: &mut Statistics,
    ) -> Option<Vec<Hit>> {
        let matcher = Matcher::new(request.at, request.filter);
        let ef = plan::ef(request);
        let vector = self.vector(probe);
        let tested = RefCell::new(&mut *spent);
        let n_asked = Cell::new(0);
        let counts = |id: &usize| {
            n_asked.set(n_asked.get() + 1);
            matcher.passes(slots, *id as u32, &mut tested.borrow_mut())
        };
        let graph = self.graph.read();
        let found =
            self.guarded(|| graph.search_filter(&vector, ef, ef, Some(&counts as &dyn FilterT)))?;
        drop(graph);
        spent.n_candidates += n_asked.get();
        let strays = self.strays.read();
        let mut ids: HashSet<u32> = found.iter().map(|found| found.d_id as u32).collect();
        ids.extend(strays.iter().filter(|&&id| matcher.passes(slots, id, spent)));
        let mut ranked: Vec<Ranked> = ids
            .into_iter()
            .map(|id| Ranked { rank: slots.exact_rank(probe, id), key: slots.key(id), id })
            .collect();
        spent.n_rescored += ranked.len();
        ranked.sort_unstable();
        ranked.truncate(request.k);
        (ranked.len() >= request.k).then(|| flat::hits(ranked, self.metric()))
    }
}

impl VectorIndex for Library {
    fn options(&self) -> &Options {
        &self.store.options
    }

    fn insert(&self, key: u64, at: u64, vector: &[f32]) -> Result<Applied> {
        let probe = Probe::new(self.options(), vector)?;
        let Some(id) = self.store.place(key, at, &probe, &|_| 0)? else {
            return Ok(Applied::Repeated);
        };
        self.link(&self.store.slots.read(), id, &probe);
        Ok(Applied::Done)
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
        let planned = self.cost(request).strategy;
        let is_exact = matches!(planned, Strategy::ExactAll | Strategy::ExactMatching);
        spent.strategy = planned;
        let mut hits = None;
        if !is_exact && !probe.loose {
            hits = self.traverse(&slots, &probe, request, &mut spent);
            spent.gave_up = hits.is_none().then_some(planned);
        }
        let hits = hits.unwrap_or_else(|| {
            spent.strategy = plan::exact(request.filter);
            let Request { k, at, filter, .. } = *request;
            flat::search(&self.store, &slots, &probe, k, at, filter, &mut spent)
        });
        Ok(Answer { hits, statistics: spent })
    }

    fn cursor<'a>(
        &'a self,
        query: &[f32],
        request: &Request<'a>,
    ) -> Result<Box<dyn Cursor + Send + 'a>> {
        request.validate()?;
        Probe::new(self.options(), query)?;
        Ok(Box::new(Again {
            index: self,
            query: query.to_vec(),
            request: *request,
            given: HashSet::new(),
            spent: Statistics::default(),
        }))
    }

    fn cost(&self, request: &Request<'_>) -> Cost {
        let cost = plan::choose(request, self.store.n_open(), self.store.record_lines());
        // The library filters what it meets, which takes long where little matches, or might.
        if matches!(request.filter, Filter::Test { n_estimated: None, .. }) {
            return Cost { strategy: plan::exact(request.filter), ..cost };
        }
        match cost.strategy {
            Strategy::InFilter => Cost { strategy: plan::exact(request.filter), ..cost },
            Strategy::ExactAll
            | Strategy::ExactMatching
            | Strategy::Traversal
            | Strategy::PostFilter => cost,
        }
    }

    fn collect(&self, _oldest: u64) -> Result<Collected> {
        let Counts { n_open, n_ended, .. } = self.store.counts();
        let share = n_ended as f64 / (n_open + n_ended).max(1) as f64;
        Ok(Collected { is_rebuild_advised: share > REBUILD_SHARE, ..Collected::default() })
    }

    fn rebuilt(&self, oldest: u64) -> Result<Box<dyn VectorIndex>> {
        let new = Self::new(*self.options())?;
        copy_entries(&self.store, oldest, &new)?;
        Ok(Box::new(new))
    }

    fn snapshot(&self, applied: u64, to: &mut dyn Write) -> Result<()> {
        let _maintenance = self.maintenance.lock();
        snapshot::write(&self.store, self.store.n_slots(), None, applied, to)
    }

    fn counts(&self) -> Counts {
        self.store.counts()
    }

    /// Ours, and about what the library takes: a copy of each vector and 24 bytes for each link it may have.
    fn memory_bytes(&self) -> usize {
        let node = 4 * self.options().dim + 24 * 3 * self.options().m + 200;
        self.store.memory_bytes() + self.store.n_slots() as usize * node
    }
}

/// A cursor that searches again for more.
struct Again<'a> {
    index: &'a Library,
    query: Vec<f32>,
    request: Request<'a>,
    given: HashSet<u64>,
    spent: Statistics,
}

impl Cursor for Again<'_> {
    fn next(&mut self, n: usize) -> Result<Vec<Hit>> {
        let mut k = self.given.len() + n;
        loop {
            let answer = self.index.search(&self.query, &Request { k, ..self.request })?;
            let is_all = answer.hits.len() < k;
            self.spent = answer.statistics;
            let mut fresh = answer.hits;
            fresh.retain(|hit| !self.given.contains(&hit.key));
            if fresh.len() >= n || is_all {
                fresh.truncate(n);
                self.given.extend(fresh.iter().map(|hit| hit.key));
                return Ok(fresh);
            }
            k += n;
        }
    }

    fn statistics(&self) -> Statistics {
        self.spent
    }
}
