//! How a search goes about it, from numbers alone: how many entries there are, and how many match.

use crate::index::{Cost, EF_MAX, Filter, Request, Strategy};

/// Up to so many matching entries are compared one by one: a traversal among them is no cheaper, and may miss some.
pub(crate) const EXACT_MATCHING_MAX: usize = 4_000;

/// From this share of matching entries on, most of what a plain traversal meets counts.
const POST_FILTER_SHARE: f64 = 0.4;

/// Distances that a traversal computes for each of its `ef` candidates, and to get there; measured on 384 dimensions, m = 16.
const DISTANCES_PER_EF: f64 = 14.0;
const DISTANCES_TO_START: f64 = 200.0;

/// A distance to a node met by chance costs so many of a scan, which reads memory in order.
const CHANCE_COST: f64 = 4.0;

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

/// What a search does among `n` entries.
pub(crate) fn choose(request: &Request<'_>, n: usize) -> Cost {
    let ef = ef(request);
    let (n_matching, is_listed) = match request.filter {
        Filter::All => (Some(n), false),
        Filter::Test { n_estimated, .. } => (n_estimated.map(|matching| matching.min(n)), false),
        Filter::Keys(keys) => (Some(keys.len().min(n)), true),
    };
    let matching = n_matching.unwrap_or(n) as f64;
    let tests = if is_listed { matching } else { n as f64 };
    let scan = Cost {
        strategy: exact(request.filter),
        n_distances: matching,
        n_tests: if matches!(request.filter, Filter::All) { 0.0 } else { tests },
    };
    let traversal = DISTANCES_PER_EF * ef as f64 + DISTANCES_TO_START;
    let is_small = n < request.exact_below;
    let is_cheaper = request.exact_below > 0 && traversal * CHANCE_COST >= matching;
    let is_few = n_matching.is_some_and(|matching| matching <= EXACT_MATCHING_MAX);
    let is_filtered = !matches!(request.filter, Filter::All);
    if request.k >= n || request.k > EF_MAX || is_small || is_cheaper || (is_few && is_filtered) {
        return scan;
    }
    match (request.filter, n_matching) {
        (Filter::All, _) => {
            Cost { strategy: Strategy::Traversal, n_distances: traversal, n_tests: 0.0 }
        }
        (_, Some(matching)) if (matching as f64) < POST_FILTER_SHARE * n as f64 => {
            let share = matching as f64 / n as f64;
            Cost {
                strategy: Strategy::InFilter,
                n_distances: traversal,
                n_tests: (traversal / share).min(n as f64),
            }
        }
        (_, matching) => {
            let share = matching.unwrap_or(n) as f64 / n as f64;
            Cost {
                strategy: Strategy::PostFilter,
                n_distances: traversal / share,
                n_tests: ef as f64 * 4.0 / share,
            }
        }
    }
}

/// How many nodes a traversal may see before it goes on another way.
///
/// With a known share it should not get there. With an unknown one it is a trial: three times what a search without a filter sees.
pub(crate) fn visits_max(strategy: Strategy, filter: Filter<'_>, ef: usize, n: usize) -> usize {
    let traversal = DISTANCES_PER_EF * ef as f64 + DISTANCES_TO_START;
    match (strategy, filter) {
        (Strategy::PostFilter, Filter::Test { n_estimated: None, .. }) => {
            (3.0 * traversal) as usize
        }
        (Strategy::PostFilter, _) => ((6.0 * traversal) as usize).max(n / 4),
        _ => usize::MAX,
    }
}

/// How many entries may be tested inside a traversal before a scan is cheaper.
pub(crate) fn tests_max(n: usize) -> usize {
    (n / 2).max(1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strategy(n: usize, filter: Filter<'_>) -> Strategy {
        choose(&Request::nearest(10).filtered(filter), n).strategy
    }

    fn test(n_estimated: Option<usize>) -> Filter<'static> {
        Filter::Test { test: &|_| true, n_estimated }
    }

    #[test]
    fn number_of_matching_rows_decides() {
        assert_eq!(strategy(4_000, Filter::All), Strategy::ExactAll);
        assert_eq!(strategy(1_000_000, Filter::All), Strategy::Traversal);
        assert_eq!(strategy(1_000_000, test(Some(3_000))), Strategy::ExactMatching);
        assert_eq!(strategy(1_000_000, test(Some(100_000))), Strategy::InFilter);
        assert_eq!(strategy(1_000_000, test(Some(900_000))), Strategy::PostFilter);
        assert_eq!(strategy(1_000_000, test(None)), Strategy::PostFilter);
        assert_eq!(strategy(1_000_000, Filter::Keys(&[1, 2, 3])), Strategy::ExactMatching);
        let large = Request { k: 200_000, ..Request::nearest(1) };
        assert_eq!(choose(&large, 1_000_000).strategy, Strategy::ExactAll);
    }
}
