//! Range tables: from what is known of the shard key's first column to the ranges, and their shards.

use std::collections::BTreeSet;

use cortex_shard_api::{
    Datum, ShardId, SqlType,
    descriptor::RangeMap,
    key::{KeyOrder, encode_datum, prefix_end},
};

use super::{
    access::{span_end, span_start},
    domain::Domain,
};

/// The shards that own ranges in which the first shard key column can have a value of the domain.
pub fn owners(map: &RangeMap, ty: SqlType, domain: Option<&Domain>) -> BTreeSet<ShardId> {
    let Some(domain) = domain else { return map.owner.iter().copied().collect() };
    let order = KeyOrder::default();
    let mut intervals: Vec<(Vec<u8>, Option<Vec<u8>>)> = domain
        .spans()
        .iter()
        .map(|span| (span_start(&[], span, ty, order), span_end(&[], span, ty, order)))
        .collect();
    if domain.has_nulls() {
        let mut null = Vec::new();
        encode_datum(&mut null, &Datum::Null, ty, order);
        let end = prefix_end(&null).map(|end| end.to_vec());
        intervals.push((null, end));
    }
    let mut shards = BTreeSet::new();
    for (start, end) in intervals {
        for (number, owner) in map.owner.iter().enumerate() {
            let begins_below = number
                .checked_sub(1)
                .and_then(|previous| map.splits.get(previous))
                .is_none_or(|split| end.as_ref().is_none_or(|end| split < end));
            let ends_above = map.splits.get(number).is_none_or(|split| start < *split);
            if begins_below && ends_above {
                shards.insert(*owner);
            }
        }
    }
    shards
}
