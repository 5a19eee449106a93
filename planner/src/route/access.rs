//! How the rows are found inside a shard: by ranges of row keys, by ranges of an index, or by reading everything.
//!
//! Lives here: the choice, and the encoded ranges. A path's columns are followed from the first: as long as a column's values
//! can be listed they extend the prefix, the first column that has only a range ends it.

use std::collections::BTreeMap;

use bytes::Bytes;
use cortex_shard_api::{
    Datum, ShardId, SqlType, StorageId, TableDescriptor,
    client::Access,
    descriptor::{IndexState, Placement},
    key::{self, KeyOrder, encode_datum, prefix_end},
};

use super::{
    domain::{Constraint, Cut, Span},
    hash,
    prune::ShardSlots,
};

/// Encoded ranges that one shard is given at the most. Enough for one in each slot; beyond, a scan is no slower.
const RANGES_MAX: usize = 4096;

/// Ranges looked at behind each value of the columns that are skipped, at the most: each is a search of its own.
const SKIP_RANGES_MAX: usize = 16;

/// Combinations of listed values that make prefixes, at the most.
const PREFIXES_MAX: usize = 1000;

/// The way the rows are found, for EXPLAIN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Path {
    /// No row can match.
    Empty,
    /// Everything the shards own.
    Full,
    /// So many slots of a hash table.
    Slots(usize),
    /// So many single rows, each by its whole primary key.
    KeyPoints(usize),
    /// Rows whose key begins with listed values or lies in a range.
    KeyRanges,
    /// Rows by primary key columns behind the first ones, which have any value.
    KeySkips,
    /// Entries of an index (position in the descriptor), then their rows.
    Index { index: usize, name: String },
}

impl std::fmt::Display for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Path::Empty => write!(f, "nothing"),
            Path::Full => write!(f, "full scan"),
            Path::Slots(1) => write!(f, "1 slot"),
            Path::Slots(n) => write!(f, "{n} slots"),
            Path::KeyPoints(1) => write!(f, "1 key"),
            Path::KeyPoints(n) => write!(f, "{n} keys"),
            Path::KeyRanges => write!(f, "key range"),
            Path::KeySkips => write!(f, "key, skipping its first columns"),
            Path::Index { name, .. } => write!(f, "index {name}"),
        }
    }
}

/// A key whose columns can be followed.
struct KeyShape {
    storage: StorageId,
    /// Column position, type, order in the key.
    columns: Vec<(usize, SqlType, KeyOrder)>,
    /// Position in the descriptor; `None` for the row key.
    index: Option<usize>,
    unique: bool,
}

/// How far a constraint reaches into a key: values of the leading columns that can be listed, in all combinations, and a
/// range on the next.
struct Reach {
    prefixes: Vec<Vec<Datum>>,
    /// Leading columns with listed values.
    n_listed: usize,
    /// The next column is constrained by these spans (and NULL, if true).
    range: Option<(Vec<Span>, bool)>,
}

/// Chooses the way and encodes it for each shard.
pub fn choose(
    table: &TableDescriptor,
    constraint: &Constraint,
    shards: &BTreeMap<ShardId, Option<ShardSlots>>,
) -> (Path, Vec<(ShardId, Access)>) {
    let mut best: Option<(usize, KeyShape, Reach)> = None;
    for shape in shapes(table) {
        let reach = reach(&shape, constraint);
        let worth = worth(&shape, &reach);
        if worth > best.as_ref().map_or(0, |(known, ..)| *known) {
            best = Some((worth, shape, reach));
        }
    }
    if let Some((_, shape, reach)) = best
        && let Some(scans) = encode(table, &shape, &reach, shards)
    {
        return (path(table, &shape, &reach), scans);
    }
    skips(table, constraint, shards).unwrap_or_else(|| everything(table, shards))
}

/// Where nothing is known of the key's first columns, but values of a later one: from each value of the first ones to the
/// next. With few of them that is a few rows instead of all.
fn skips(
    table: &TableDescriptor,
    constraint: &Constraint,
    shards: &BTreeMap<ShardId, Option<ShardSlots>>,
) -> Option<(Path, Vec<(ShardId, Access)>)> {
    let is_pruned = |slots: &Option<ShardSlots>| slots.as_ref().is_some_and(|slots| slots.pruned);
    if key::has_shard_key_prefix(table) || shards.values().any(is_pruned) {
        return None;
    }
    let row_key = table.primary_key.iter().map(|position| (*position, KeyOrder::default()));
    let row_key = typed(table, row_key);
    let is_listed =
        |position: usize| constraint.domain(position).is_some_and(|it| it.points().is_some());
    let columns = row_key.iter().position(|(position, ..)| is_listed(*position))?;
    if columns == 0 || row_key.len() != table.primary_key.len() {
        return None;
    }
    let shape = KeyShape {
        storage: table.storage,
        columns: row_key.into_iter().skip(columns).collect(),
        index: None,
        unique: true,
    };
    let reach = reach(&shape, constraint);
    let mut ranges = Vec::new();
    for prefix in &reach.prefixes {
        add_ranges(&mut ranges, &[], &shape, &reach, prefix)?;
    }
    let ranges = sorted(ranges);
    if ranges.is_empty() || ranges.len() > SKIP_RANGES_MAX {
        return None;
    }
    let access = Access::KeySkips { columns, ranges };
    Some((Path::KeySkips, shards.keys().map(|shard| (*shard, access.clone())).collect()))
}

fn shapes(table: &TableDescriptor) -> Vec<KeyShape> {
    let mut row_key = Vec::new();
    if key::has_shard_key_prefix(table)
        && let Placement::Range { key, .. } = &table.placement
    {
        row_key.extend(key.iter().copied());
    }
    row_key.extend(table.primary_key.iter().copied());
    let mut shapes = vec![KeyShape {
        storage: table.storage,
        columns: typed(table, row_key.iter().map(|position| (*position, KeyOrder::default()))),
        index: None,
        unique: !table.primary_key.is_empty(),
    }];
    for (number, index) in table.indexes.iter().enumerate() {
        if index.state == IndexState::Public {
            let columns = index.columns.iter().map(|column| {
                let order =
                    KeyOrder { descending: column.descending, nulls_first: column.nulls_first };
                (column.column, order)
            });
            shapes.push(KeyShape {
                storage: index.storage,
                columns: typed(table, columns),
                index: Some(number),
                unique: index.unique,
            });
        }
    }
    shapes
}

/// Adds the columns' types; a column that is not there ends the key.
fn typed(
    table: &TableDescriptor,
    columns: impl Iterator<Item = (usize, KeyOrder)>,
) -> Vec<(usize, SqlType, KeyOrder)> {
    columns
        .map_while(|(position, order)| {
            let column = table.columns.get(position).filter(|column| !column.dropped)?;
            Some((position, column.ty.ty, order))
        })
        .collect()
}

fn reach(shape: &KeyShape, constraint: &Constraint) -> Reach {
    let mut reach = Reach { prefixes: vec![vec![]], n_listed: 0, range: None };
    for (position, ..) in &shape.columns {
        let Some(domain) = constraint.domain(*position) else { break };
        let points = domain
            .points()
            .filter(|points| reach.prefixes.len().saturating_mul(points.len()) <= PREFIXES_MAX);
        let Some(points) = points else {
            if domain.is_bounded() {
                reach.range = Some((domain.spans().to_vec(), domain.has_nulls()));
            }
            break;
        };
        let longer = |prefix: &Vec<Datum>, point: &Datum| {
            let mut longer = prefix.clone();
            longer.push(point.clone());
            longer
        };
        reach.prefixes = reach
            .prefixes
            .iter()
            .flat_map(|prefix| points.iter().map(move |point| longer(prefix, point)))
            .collect();
        reach.n_listed += 1;
    }
    reach
}

/// How much a key narrows the search; 0 is not at all. Without statistics: a whole unique key first, then more listed columns,
/// then a range closed on both sides. An index is not worth its row lookups for an open range; the row key is.
fn worth(shape: &KeyShape, reach: &Reach) -> usize {
    let is_row_key = usize::from(shape.index.is_none());
    let whole = shape.unique && reach.n_listed == shape.columns.len() && reach.n_listed > 0;
    let range = match &reach.range {
        Some((spans, false)) if spans.iter().all(Span::is_bounded) => 5,
        Some(_) if is_row_key == 1 || reach.n_listed > 0 => 2,
        Some(_) | None => 0,
    };
    let narrowing = if whole { 1000 } else { reach.n_listed * 10 + range };
    if narrowing == 0 { 0 } else { narrowing + is_row_key }
}

fn path(table: &TableDescriptor, shape: &KeyShape, reach: &Reach) -> Path {
    match shape.index {
        Some(index) => {
            let name = table.indexes.get(index).map_or(String::new(), |index| index.name.clone());
            Path::Index { index, name }
        }
        None if shape.unique && reach.n_listed == shape.columns.len() => {
            Path::KeyPoints(reach.prefixes.len())
        }
        None => Path::KeyRanges,
    }
}

/// Without a usable key: the slots, where they are known, or all.
fn everything(
    table: &TableDescriptor,
    shards: &BTreeMap<ShardId, Option<ShardSlots>>,
) -> (Path, Vec<(ShardId, Access)>) {
    let mut n_slots = 0;
    let mut scans = Vec::new();
    for (shard, slots) in shards {
        let access = match slots {
            Some(ShardSlots { slots, pruned: true }) => {
                n_slots += slots.len();
                let ranges = slots.iter().filter_map(|slot| {
                    let start = key::slot_prefix(table.storage, *slot);
                    Some((Bytes::copy_from_slice(&start), prefix_end(&start)?))
                });
                Access::KeyRanges(ranges.collect())
            }
            Some(ShardSlots { pruned: false, .. }) | None => Access::Full,
        };
        scans.push((*shard, access));
    }
    let path = if n_slots > 0 { Path::Slots(n_slots) } else { Path::Full };
    (path, scans)
}

/// The ranges of each shard, or `None` when they are too many (or cannot be said).
fn encode(
    table: &TableDescriptor,
    shape: &KeyShape,
    reach: &Reach,
    shards: &BTreeMap<ShardId, Option<ShardSlots>>,
) -> Option<Vec<(ShardId, Access)>> {
    let mut scans = Vec::new();
    for (shard, slots) in shards {
        let mut ranges = Vec::new();
        match slots {
            None => {
                let start = key::storage_prefix(shape.storage);
                for prefix in &reach.prefixes {
                    add_ranges(&mut ranges, &start, shape, reach, prefix)?;
                }
            }
            Some(ShardSlots { slots, .. }) => {
                for prefix in &reach.prefixes {
                    let own = slot_of_prefix(table, shape, prefix);
                    for slot in slots.iter().filter(|slot| own.is_none_or(|own| own == **slot)) {
                        let start = key::slot_prefix(shape.storage, *slot);
                        add_ranges(&mut ranges, &start, shape, reach, prefix)?;
                    }
                    if ranges.len() > RANGES_MAX {
                        return None;
                    }
                }
            }
        }
        let ranges = sorted(ranges);
        if ranges.len() > RANGES_MAX {
            return None;
        }
        let access = match shape.index {
            _ if ranges.is_empty() => Access::Empty,
            None => Access::KeyRanges(ranges),
            Some(index) => Access::IndexRanges { index, ranges },
        };
        scans.push((*shard, access));
    }
    Some(scans)
}

/// The slot of a prefix that holds the whole shard key.
fn slot_of_prefix(
    table: &TableDescriptor,
    shape: &KeyShape,
    prefix: &[Datum],
) -> Option<cortex_shard_api::ids::Slot> {
    let Placement::Hash { key, .. } = &table.placement else { return None };
    let values = key.iter().map(|position| {
        let at = shape.columns.iter().position(|(column, ..)| column == position)?;
        Some((prefix.get(at)?.clone(), shape.columns.get(at)?.1))
    });
    Some(hash::slot_of(&values.collect::<Option<Vec<_>>>()?))
}

/// Appends the ranges of one prefix behind `start`. `None` if a range has no end.
fn add_ranges(
    ranges: &mut Vec<(Bytes, Bytes)>,
    start: &[u8],
    shape: &KeyShape,
    reach: &Reach,
    prefix: &[Datum],
) -> Option<()> {
    let mut bytes = start.to_vec();
    for (value, (_, ty, order)) in prefix.iter().zip(&shape.columns) {
        encode_datum(&mut bytes, value, *ty, *order);
    }
    let Some((spans, nulls)) = &reach.range else {
        let is_row = shape.index.is_none() && shape.unique && prefix.len() == shape.columns.len();
        let end = if is_row { successor(&bytes) } else { prefix_end(&bytes)? };
        ranges.push((bytes.into(), end));
        return Some(());
    };
    let (_, ty, order) = *shape.columns.get(prefix.len())?;
    for span in spans {
        let from = span_start(&bytes, span, ty, order);
        let to = match span_end(&bytes, span, ty, order) {
            Some(end) => Bytes::from(end),
            None => prefix_end(&bytes)?,
        };
        if from < to {
            ranges.push((from.into(), to));
        }
    }
    if *nulls {
        encode_datum(&mut bytes, &Datum::Null, ty, order);
        let end = prefix_end(&bytes)?;
        ranges.push((bytes.into(), end));
    }
    Some(())
}

/// The next byte string: `[key, successor)` holds the key alone.
fn successor(key: &[u8]) -> Bytes {
    let mut end = Vec::with_capacity(key.len() + 1);
    end.extend_from_slice(key);
    end.push(0);
    end.into()
}

/// Where the span begins behind a prefix, in a key that orders the column this way. Too early where the span is open: NULLs
/// may lie before it.
pub fn span_start(prefix: &[u8], span: &Span, ty: SqlType, order: KeyOrder) -> Vec<u8> {
    let cut = if order.descending { &span.high } else { &span.low };
    cut_position(prefix, cut, ty, order).unwrap_or_else(|| prefix.to_vec())
}

/// Where the span ends behind a prefix; `None`: with the prefix.
pub fn span_end(prefix: &[u8], span: &Span, ty: SqlType, order: KeyOrder) -> Option<Vec<u8>> {
    let cut = if order.descending { &span.low } else { &span.high };
    cut_position(prefix, cut, ty, order)
}

fn cut_position(prefix: &[u8], cut: &Cut, ty: SqlType, order: KeyOrder) -> Option<Vec<u8>> {
    let Cut::At { value, after, .. } = cut else { return None };
    let mut bytes = prefix.to_vec();
    encode_datum(&mut bytes, value, ty, order);
    if *after != order.descending {
        prefix_end(&bytes).map(|end| end.to_vec())
    } else {
        Some(bytes)
    }
}

/// Ascending and disjoint.
fn sorted(mut ranges: Vec<(Bytes, Bytes)>) -> Vec<(Bytes, Bytes)> {
    ranges.sort();
    let mut disjoint: Vec<(Bytes, Bytes)> = Vec::with_capacity(ranges.len());
    for (start, end) in ranges {
        match disjoint.last_mut() {
            Some(last) if start < last.1 => last.1 = end.max(last.1.clone()),
            _ => disjoint.push((start, end)),
        }
    }
    disjoint
}
