//! Exact search: every entry that counts is compared.
//!
//! Over codes this is exact too. Each code's distance is known up to a bound (`Slots::rank_error`), so what could be among the
//! k nearest is what begins before the k-th smallest end of such an interval; only that is compared by full vectors.

use std::collections::BinaryHeap;

use crate::{
    index::{Filter, Hit, Statistics},
    options::Metric,
    quantize::{self, Probe},
    store::{
        Store,
        slots::{Kind, Slots},
    },
};

/// How far ahead records are asked for: far enough to hide memory, near enough to stay in the first cache.
const PREFETCH_AHEAD: u32 = 4;

/// The same for headers alone, which are gone through faster.
const HEADERS_AHEAD: u32 = 16;

/// A number that orders as the float does, NaN last.
#[inline]
pub(crate) fn ordered(rank: f32) -> u32 {
    let bits = if rank.is_nan() { f32::INFINITY.to_bits() + 1 } else { rank.to_bits() };
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

/// Which entries the answer is made of. Asked once for each entry.
pub(crate) struct Matcher<'a> {
    pub(crate) at: u64,
    filter: Filter<'a>,
}

impl<'a> Matcher<'a> {
    pub(crate) fn new(at: u64, filter: Filter<'a>) -> Self {
        Self { at, filter }
    }

    #[inline]
    pub(crate) fn passes(&self, slots: &Slots, id: u32, spent: &mut Statistics) -> bool {
        if !slots.is_visible(id, self.at) {
            return false;
        }
        let is_match = match self.filter {
            Filter::All => true,
            Filter::Test { test, .. } => {
                spent.n_tested += 1;
                test(slots.key(id))
            }
            Filter::Keys(keys) => {
                spent.n_tested += 1;
                keys.binary_search(&slots.key(id)).is_ok()
            }
        };
        spent.n_passed += usize::from(is_match);
        is_match
    }

    pub(crate) fn is_all(&self) -> bool {
        matches!(self.filter, Filter::All)
    }
}

/// Compares candidates one after the other and keeps what may be among the `k` nearest.
pub(crate) struct Scan<'a> {
    slots: &'a Slots,
    probe: &'a Probe,
    k: usize,
    rounding: f32,
    /// The k smallest upper ends.
    ends: BinaryHeap<u32>,
    /// (lower end, id) of what may be in the answer.
    kept: Vec<(u32, u32)>,
    compact_at: usize,
}

impl<'a> Scan<'a> {
    pub(crate) fn new(store: &Store, slots: &'a Slots, probe: &'a Probe, k: usize) -> Self {
        Self {
            slots,
            probe,
            k,
            rounding: quantize::rounding(store.options.dim),
            ends: BinaryHeap::new(),
            kept: Vec::new(),
            compact_at: 1024,
        }
    }

    #[inline]
    fn limit(&self) -> u32 {
        match self.ends.peek() {
            Some(&end) if self.ends.len() >= self.k => end,
            _ => u32::MAX,
        }
    }

    #[inline]
    pub(crate) fn compare(&mut self, id: u32) {
        if self.probe.loose || self.slots.kind(id) == Kind::Loose {
            // No bound holds where norms overflow or vanish: compared by the full vector at the end.
            self.kept.push((0, id));
            return;
        }
        let rank = self.slots.rank(self.probe, id);
        let error = self.slots.rank_error(self.probe, id, self.rounding);
        let lower = ordered(rank - error);
        if lower > self.limit() {
            return;
        }
        let upper = ordered(rank + error);
        self.ends.push(upper);
        if self.ends.len() > self.k {
            self.ends.pop();
        }
        self.kept.push((lower, id));
        if self.kept.len() >= self.compact_at {
            let limit = self.limit();
            self.kept.retain(|&(lower, _)| lower <= limit);
            self.compact_at = 2 * self.kept.len() + 1024;
        }
    }

    /// The k nearest, by (distance, key).
    pub(crate) fn finish(mut self, metric: Metric, spent: &mut Statistics) -> Vec<Hit> {
        let limit = self.limit();
        self.kept.retain(|&(lower, _)| lower <= limit);
        self.kept.sort_unstable();
        let mut best: BinaryHeap<Ranked> = BinaryHeap::new();
        for &(lower, id) in &self.kept {
            if let Some(worst) = best.peek()
                && best.len() >= self.k
                && lower > ordered(round_up(worst.rank))
            {
                break;
            }
            spent.n_rescored += 1;
            let rank = self.slots.exact_rank(self.probe, id);
            best.push(Ranked { rank, key: self.slots.key(id), id });
            if best.len() > self.k {
                best.pop();
            }
        }
        hits(best.into_sorted_vec(), metric)
    }
}

fn round_up(rank: f64) -> f32 {
    let near = rank as f32;
    if f64::from(near) < rank { near.next_up() } else { near }
}

/// An entry with its exact rank; ordered by (rank, key).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ranked {
    pub(crate) rank: f64,
    pub(crate) key: u64,
    pub(crate) id: u32,
}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // 0.0 and -0.0 are one distance.
        let zeroless = |rank: f64| rank + 0.0;
        zeroless(self.rank)
            .total_cmp(&zeroless(other.rank))
            .then_with(|| self.key.cmp(&other.key))
            .then_with(|| self.id.cmp(&other.id))
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Ranked {}

pub(crate) fn hits(ranked: Vec<Ranked>, metric: Metric) -> Vec<Hit> {
    let hit = |r: &Ranked| Hit { key: r.key, distance: metric.distance(r.rank + 0.0) };
    ranked.iter().map(hit).collect()
}

/// Compares every entry that matches. A list of keys is looked up, anything else tested entry by entry.
pub(crate) fn search(
    store: &Store,
    slots: &Slots,
    probe: &Probe,
    k: usize,
    at: u64,
    filter: Filter<'_>,
    spent: &mut Statistics,
) -> Vec<Hit> {
    if k == 0 {
        return Vec::new();
    }
    let mut scan = Scan::new(store, slots, probe, k);
    if let Filter::Keys(keys) = filter {
        let mut before = None;
        for &key in keys {
            spent.n_candidates += 1;
            if before.replace(key) != Some(key)
                && let Some(id) = store.find(slots, key, at)
            {
                spent.n_passed += 1;
                spent.n_distances += 1;
                scan.compare(id);
            }
        }
        return scan.finish(store.options.metric, spent);
    }
    let matcher = Matcher::new(at, filter);
    let n = store.n_slots();
    for id in 0..n {
        if matcher.is_all() && id + PREFETCH_AHEAD < n {
            slots.prefetch(id + PREFETCH_AHEAD);
        } else if id + HEADERS_AHEAD < n {
            slots.prefetch_header(id + HEADERS_AHEAD);
        }
        if slots.kind(id) == Kind::Empty {
            continue;
        }
        spent.n_candidates += 1;
        if matcher.passes(slots, id, spent) {
            spent.n_distances += 1;
            scan.compare(id);
        }
    }
    scan.finish(store.options.metric, spent)
}
