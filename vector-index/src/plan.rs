//! How a search goes about it, from numbers alone: how many entries there are, and how many match.

use crate::index::{Cost, EF_MAX, Filter, Request, Strategy};

/// Among this share of matching entries the graph of what matches holds together over two links; measured recall at ef = 40 is 0.98
/// there, and 0.82 at a hundredth.
const IN_FILTER_SHARE_MIN: f64 = 0.1;

/// From this share on most of what a plain walk meets counts.
const POST_FILTER_SHARE: f64 = 0.4;

/// Distances that a traversal computes for each of its `ef` candidates, and to get there; measured on 384 dimensions, m = 16.
const DISTANCES_PER_EF: f64 = 14.0;
const DISTANCES_TO_START: f64 = 200.0;

/// The same for many candidates, whose neighbours are more and more among those already seen.
const DISTANCES_PER_EF_OF_MANY: f64 = 10.0;

/// Costs in cache lines fetched by chance. A distance takes the lines of a record and some time; a scan reads in order, which costs a
/// third; a test takes the line with the key, and whatever the caller does.
const DISTANCE_BASE: f64 = 2.0;
const SCAN_SHARE: f64 = 1.0 / 3.0;
const TEST: f64 = 3.0;
const TEST_IN_SCAN: f64 = 2.0;
const LOOKUP_OF_KEY: f64 = 6.0;

/// Tests inside the filter for each distance computed, at a share of 1.
const TESTS_PER_DISTANCE: f64 = 1.35;

/// A walk may take so many times what was expected before something else is tried.
const PATIENCE: f64 = 3.0;

/// Candidates kept by a search.
pub(crate) fn ef(request: &Request<'_>) -> usize {
    request.ef.max(request.k).clamp(1, EF_MAX)
}

/// The exact strategy for a filter.
pub(crate) fn exact(filter: Filter<'_>) -> Strategy {
    match filter {
        Filter::All => Strategy::ExactAll,
        Filter::Test { .. } | Filter::Keys(_) => Strategy::ExactMatching,
    }
}

/// Distances of a walk that keeps `ef` entries of which this share counts.
fn distances(ef: usize, share: f64) -> f64 {
    let ef = ef as f64;
    DISTANCES_TO_START + (DISTANCES_PER_EF * ef).max(DISTANCES_PER_EF_OF_MANY * ef / share)
}

/// What a search does among `n` entries whose records take so many cache lines.
///
/// Whatever is cheapest, except that few entries are always compared, which is exact.
pub(crate) fn choose(request: &Request<'_>, n: usize, record_lines: usize) -> Cost {
    let ef = ef(request);
    let (n_matching, is_listed, is_filtered) = match request.filter {
        Filter::All => (n, false, false),
        Filter::Test { n_estimated, .. } => (n_estimated.unwrap_or(n).min(n), false, true),
        Filter::Keys(keys) => (keys.len().min(n), true, true),
    };
    let (n, matching) = (n as f64, n_matching as f64);
    let share = (matching / n.max(1.0)).clamp(1.0 / n.max(1.0), 1.0);
    let distance = DISTANCE_BASE + record_lines as f64;

    let scan = Cost {
        strategy: exact(request.filter),
        n_distances: matching,
        n_tests: if !is_filtered || is_listed { 0.0 } else { n },
    };
    let scan_cost = if is_listed {
        matching * (distance + LOOKUP_OF_KEY)
    } else {
        matching * distance * SCAN_SHARE + scan.n_tests * TEST_IN_SCAN
    };

    let met = distances(ef, share);
    let walk = Cost {
        strategy: if is_filtered { Strategy::PostFilter } else { Strategy::Traversal },
        n_distances: met,
        n_tests: if is_filtered { met / 3.0 } else { 0.0 },
    };
    let walk_cost = walk.n_distances * distance + walk.n_tests * TEST;

    let met = distances(ef, 1.0);
    let inside = Cost {
        strategy: Strategy::InFilter,
        n_distances: met,
        n_tests: TESTS_PER_DISTANCE * met / share,
    };
    let inside_cost = inside.n_distances * distance + inside.n_tests * TEST;

    let may_be_exact = request.exact_below > 0 || is_filtered;
    let is_small = n < request.exact_below as f64 || request.k as f64 >= n || request.k > EF_MAX;
    if is_small || (may_be_exact && scan_cost <= walk_cost) {
        return scan;
    }
    // It finds a little less than a plain walk, so it has to be worth it.
    let is_middle = (IN_FILTER_SHARE_MIN..POST_FILTER_SHARE).contains(&share);
    if is_filtered && is_middle && 2.0 * inside_cost < walk_cost { inside } else { walk }
}

/// How many nodes a walk may meet before another way is tried.
pub(crate) fn visits_max(planned: &Cost, filter: Filter<'_>) -> usize {
    match filter {
        Filter::All => usize::MAX,
        Filter::Test { .. } | Filter::Keys(_) => (PATIENCE * planned.n_distances) as usize,
    }
}

/// How many entries may be tested inside a filter before a scan is cheaper.
pub(crate) fn tests_max(planned: &Cost, n: usize) -> usize {
    ((PATIENCE * planned.n_tests) as usize).min(n / 2).max(1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strategy(n: usize, filter: Filter<'_>) -> Strategy {
        choose(&Request::nearest(10).filtered(filter), n, 7).strategy
    }

    fn test(n_estimated: Option<usize>) -> Filter<'static> {
        Filter::Test { test: &|_| true, n_estimated }
    }

    #[test]
    fn number_of_matching_rows_decides() {
        assert_eq!(strategy(4_000, Filter::All), Strategy::ExactAll);
        assert_eq!(strategy(1_000_000, Filter::All), Strategy::Traversal);
        assert_eq!(strategy(1_000_000, test(Some(300))), Strategy::ExactMatching);
        assert_eq!(strategy(1_000_000, test(Some(100_000))), Strategy::PostFilter);
        assert_eq!(strategy(1_000_000, test(Some(900_000))), Strategy::PostFilter);
        assert_eq!(strategy(1_000_000, test(None)), Strategy::PostFilter);
        assert_eq!(strategy(1_000_000, test(Some(0))), Strategy::ExactMatching);
        assert_eq!(strategy(30_000, test(Some(300))), Strategy::ExactMatching);
        assert_eq!(strategy(1_000_000, Filter::Keys(&[1, 2, 3])), Strategy::ExactMatching);
        let large = Request { k: 200_000, ..Request::nearest(1) };
        assert_eq!(choose(&large, 1_000_000, 7).strategy, Strategy::ExactAll);
    }

    #[test]
    fn long_vectors_are_worth_more_tests() {
        let request = Request::nearest(10).filtered(test(Some(100_000)));
        assert_eq!(choose(&request, 1_000_000, 25).strategy, Strategy::InFilter);
    }
}
