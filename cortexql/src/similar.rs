//! Near misses: the word that was probably meant.

/// Longer words are not compared.
const WORD_BYTES_MAX: usize = 24;

/// Words of SQL and of other stores, and what they are called here.
const SYNONYMS: &[(&str, &str)] = &[
    ("ORDER", "SORT"),
    ("SELECT", "PROJECT"),
    ("RETURN", "PROJECT"),
    ("HAVING", "WHERE"),
    ("FILTER", "WHERE"),
    ("WHERE", "FILTER"),
    ("TAKE", "LIMIT"),
    ("TOP", "LIMIT"),
    ("SKIP", "OFFSET"),
    ("DEL", "DELETE"),
    ("REMOVE", "DELETE"),
    ("SET", "PUT"),
    ("INSERT", "PUT"),
    ("INCRBY", "INCR"),
    ("KEYS", "SCAN"),
    ("FIND", "SCAN"),
    ("TABLE", "KEYSPACE"),
    ("TABLES", "KEYSPACES"),
    ("COLLECTION", "KEYSPACE"),
    ("EX", "TTL"),
    ("EXPIRES", "TTL"),
    ("NX", "IF"),
    ("K", "TOPK"),
    ("LIMIT", "TOPK"),
    ("DIMENSION", "DIM"),
    ("DIMENSIONS", "DIM"),
    ("EUCLIDEAN", "L2"),
    ("IP", "DOT"),
    ("INNER", "DOT"),
    ("ILIKE", "LIKE"),
    ("SHARDED", "SHARD"),
    ("METADATA", "META"),
    ("AVERAGE", "AVG"),
    ("MEAN", "AVG"),
];

/// The candidate that `word` was probably meant to be.
pub(crate) fn suggest<'a>(
    word: &str,
    candidates: impl Iterator<Item = &'a str> + Clone,
) -> Option<&'a str> {
    let word = word.to_ascii_uppercase();
    let allowed = (word.len() / 3).clamp(1, 2);
    let near = candidates
        .clone()
        .map(|candidate| (distance(&word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= allowed && *distance < candidate.len())
        .min_by_key(|(distance, _)| *distance);
    let synonym = || {
        let (_, meant) = SYNONYMS.iter().find(|(synonym, meant)| {
            *synonym == word && candidates.clone().any(|candidate| candidate == *meant)
        })?;
        candidates.clone().find(|candidate| candidate == meant)
    };
    synonym().or(near.map(|(_, candidate)| candidate))
}

/// Insertions, deletions, replacements and swaps of neighbours that make one word of the other.
pub(crate) fn distance(left: &str, right: &str) -> usize {
    let (left, right) = (left.as_bytes(), right.as_bytes());
    if left.len() > WORD_BYTES_MAX || right.len() > WORD_BYTES_MAX {
        return usize::MAX;
    }
    // The rows for the two bytes of `left` before, and for this one.
    let mut before_last = [0_usize; WORD_BYTES_MAX + 1];
    let mut last: [usize; WORD_BYTES_MAX + 1] = std::array::from_fn(|column| column);
    for i in 1..=left.len() {
        let mut row = [i; WORD_BYTES_MAX + 1];
        for j in 1..=right.len() {
            let replaced = usize::from(left[i - 1] != right[j - 1]);
            row[j] = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + replaced);
            let is_swap =
                i > 1 && j > 1 && left[i - 1] == right[j - 2] && left[i - 2] == right[j - 1];
            if is_swap {
                row[j] = row[j].min(before_last[j - 2] + 1);
            }
        }
        (before_last, last) = (last, row);
    }
    last[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        assert_eq!(distance("WHERE", "WHERE"), 0);
        assert_eq!(distance("WHRE", "WHERE"), 1);
        assert_eq!(distance("WHEER", "WHERE"), 1);
        assert_eq!(distance("", "WHERE"), 5);
        assert_eq!(distance("PREFX", "PROJECT"), 4);
    }

    /// By definition, over all short words of two letters.
    #[test]
    fn distances_are_symmetric_and_bounded() {
        let words: Vec<String> = (0..4_u32)
            .flat_map(|length| {
                (0..2_u32.pow(length)).map(move |bits| {
                    (0..length).map(|at| if bits >> at & 1 == 0 { 'A' } else { 'B' }).collect()
                })
            })
            .collect();
        for left in &words {
            for right in &words {
                let found = distance(left, right);
                assert_eq!(found, distance(right, left), "{left} {right}");
                assert_eq!(found == 0, left == right, "{left} {right}");
                assert!(found >= left.len().abs_diff(right.len()), "{left} {right}");
                assert!(found <= left.len().max(right.len()), "{left} {right}");
            }
        }
    }

    #[test]
    fn suggestions() {
        let stages = ["WHERE", "PROJECT", "SORT", "LIMIT"];
        assert_eq!(suggest("whre", stages.into_iter()), Some("WHERE"));
        assert_eq!(suggest("order", stages.into_iter()), Some("SORT"));
        assert_eq!(suggest("limits", stages.into_iter()), Some("LIMIT"));
        assert_eq!(suggest("banana", stages.into_iter()), None);
        assert_eq!(suggest("b", ["BY"].into_iter()), Some("BY"));
        assert_eq!(suggest("x", ["AS"].into_iter()), None);
    }
}
