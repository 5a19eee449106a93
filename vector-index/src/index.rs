//! What every engine offers: the trait, what goes in, and what comes out.

use std::io::Write;

use crate::{
    error::{Error, Result},
    options::{Metric, Options},
};

/// A reader that sees whatever has not ended.
pub const LATEST: u64 = u64::MAX - 1;

/// Most candidates a search keeps. Above pgvector's 1,000, because a batch or a large k may want more.
pub const EF_MAX: usize = 100_000;

/// Which points a search may return.
#[derive(Clone, Copy)]
pub enum Filter<'a> {
    /// All of them.
    All,
    /// Those that pass a test.
    ///
    /// The test is asked while the index is locked against growing: it must not call the index.
    Test {
        /// Whether a point matches.
        test: &'a (dyn Fn(u64) -> bool + Sync),
        /// About how many points match, if somebody knows.
        n_estimated: Option<usize>,
    },
    /// Those with these keys, ascending.
    Keys(&'a [u64]),
}

/// One search.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// How many points are wanted.
    pub k: usize,
    /// Candidates kept on the way: `hnsw.ef_search`. Raised to `k` where it is less.
    pub ef: usize,
    /// The log index as of which the reader sees.
    pub at: u64,
    /// Which points count.
    pub filter: Filter<'a>,
    /// With fewer open entries than this all of them are compared: exact, and faster.
    pub exact_below: usize,
}

impl<'a> Request<'a> {
    /// Whether its filter can be used.
    pub(crate) fn validate(&self) -> Result<()> {
        match self.filter {
            Filter::Keys(keys) if !keys.is_sorted() => Err(Error::KeysNotAscending),
            Filter::All | Filter::Test { .. } | Filter::Keys(_) => Ok(()),
        }
    }

    /// The `k` nearest of all points now, with defaults for the rest.
    #[must_use]
    pub fn nearest(k: usize) -> Self {
        Self {
            k,
            ef: 40,
            at: LATEST,
            filter: Filter::All,
            exact_below: crate::options::EXACT_BELOW_DEFAULT,
        }
    }

    /// The same with a filter.
    #[must_use]
    pub fn filtered(self, filter: Filter<'a>) -> Self {
        Self { filter, ..self }
    }
}

/// A point found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit {
    /// Its key.
    pub key: u64,
    /// Its distance as a user sees it; NaN where the metric has none, which sorts last.
    pub distance: f64,
}

impl Hit {
    /// The order of answers, also of those merged from several indexes: by (distance, key), NaN last.
    #[must_use]
    pub fn order(&self, other: &Self) -> std::cmp::Ordering {
        self.distance.total_cmp(&other.distance).then_with(|| self.key.cmp(&other.key))
    }
}

/// How a search went about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Strategy {
    /// Every entry was compared.
    #[default]
    ExactAll,
    /// Every matching entry was compared.
    ExactMatching,
    /// The graph, without a filter.
    Traversal,
    /// The graph, keeping what matches.
    PostFilter,
    /// The graph of what matches, reached over what does not.
    InFilter,
}

impl Strategy {
    /// The word for EXPLAIN.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ExactAll => "exact",
            Self::ExactMatching => "exact over matching rows",
            Self::Traversal => "graph",
            Self::PostFilter => "graph, then filter",
            Self::InFilter => "filter inside graph",
        }
    }
}

/// What a search cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Statistics {
    /// What gave the answer.
    pub strategy: Strategy,
    /// What was tried before and did not find enough.
    pub gave_up: Option<Strategy>,
    /// Entries looked at.
    pub n_candidates: usize,
    /// Entries that passed the filter.
    pub n_passed: usize,
    /// Times the filter was asked.
    pub n_tested: usize,
    /// Distances computed on the way, from codes if there are some.
    pub n_distances: usize,
    /// Distances computed from full vectors.
    pub n_rescored: usize,
}

/// The nearest points, by (distance, key).
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// At most `k`; fewer only if no more points match.
    pub hits: Vec<Hit>,
    /// What it cost.
    pub statistics: Statistics,
}

/// What an event did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// It changed the index.
    Done,
    /// The index knew it, or knew of something newer.
    Repeated,
}

/// How many entries there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Entries that have not ended.
    pub n_open: usize,
    /// Entries that have ended and were not collected.
    pub n_ended: usize,
    /// Slots free for new entries.
    pub n_free: usize,
}

/// What a collection did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Collected {
    /// Entries taken out.
    pub n_entries: usize,
    /// Nodes whose links were mended.
    pub n_mended: usize,
    /// So much was taken out that a rebuild gives a better graph.
    pub is_rebuild_advised: bool,
}

/// What a search is expected to cost, in distances computed; a planner multiplies with its own constants.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// How the search would go about it.
    pub strategy: Strategy,
    /// Distances.
    pub n_distances: f64,
    /// Filter tests.
    pub n_tests: f64,
}

/// A search that can be continued.
pub trait Cursor {
    /// The next `n` points: by (distance, key) within a call, and nearly so from call to call. Each visible matching
    /// point comes exactly once; fewer than `n` means that there are no more.
    fn next(&mut self, n: usize) -> Result<Vec<Hit>>;

    /// What was spent so far.
    fn statistics(&self) -> Statistics;
}

/// An index over points named by a u64, each with versions that are seen from one log index to another.
///
/// All methods may be called from many threads at once, except that the events of one key (`insert`, `remove`) come one
/// after the other in the order of their log index. A search at log index `s` is whole once all events up to `s`
/// have returned.
pub trait VectorIndex: Send + Sync {
    /// What it was made with.
    fn options(&self) -> &Options;

    /// Makes `vector` the vector of `key` from log index `at` on, and ends what was there before.
    fn insert(&self, key: u64, at: u64, vector: &[f32]) -> Result<Applied>;

    /// Ends the entry of `key` at log index `at`.
    fn remove(&self, key: u64, at: u64) -> Result<Applied>;

    /// The nearest points.
    fn search(&self, query: &[f32], request: &Request<'_>) -> Result<Answer>;

    /// The same bit by bit, for as long as somebody wants more. `k` of the request is not used.
    /// While there is a cursor, slots of collected entries are not used again.
    fn cursor<'a>(
        &'a self,
        query: &[f32],
        request: &Request<'a>,
    ) -> Result<Box<dyn Cursor + Send + 'a>>;

    /// What [`VectorIndex::search`] would cost.
    fn cost(&self, request: &Request<'_>) -> Cost;

    /// Takes out entries that ended at or before `oldest`, the log index of the oldest reader there is or will be.
    /// Searches and inserts go on meanwhile.
    fn collect(&self, oldest: u64) -> Result<Collected>;

    /// To be called when many points were inserted at once: looks whether each finds itself, and helps those that do not.
    fn settle(&self) {}

    /// A new index of the same entries without those that ended at or before `oldest`. Events that come meanwhile
    /// may or may not be in it: apply those since again.
    fn rebuilt(&self, oldest: u64) -> Result<Box<dyn VectorIndex>>;

    /// Writes a snapshot that holds everything up to log index `applied`, and perhaps some of what came later: the log from
    /// there on is to be applied again after opening it (`docs/format/vector-index.md`). Searches and inserts go on meanwhile.
    fn snapshot(&self, applied: u64, to: &mut dyn Write) -> Result<()>;

    /// How many entries there are.
    fn counts(&self) -> Counts;

    /// Bytes held in memory.
    fn memory_bytes(&self) -> usize;

    /// The metric, for who merges answers.
    fn metric(&self) -> Metric {
        self.options().metric
    }
}
