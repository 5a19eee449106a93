//! Which moves would spread rows evenly, and which empty a shard: a catalog and counted bytes in, moves with reasons out.
//!
//! Pure. Two measures: bytes, or the number of slots and ranges. Slots of a group are taken to be of equal size on a shard, and
//! so are the ranges of a table there: what a shard counts is whole storages.

use std::collections::{BTreeMap, BTreeSet};

use cortex_planner::catalog::{
    Catalog,
    placement::{SlotRun, ranges_between, schemas_tied_to, tables_at_home, tables_of_group},
};
use cortex_shard_api::{Oid, ShardId, StorageId, TableDescriptor, descriptor::Placement};

use super::record::Subject;

/// Moves of one plan at most: more than a cluster needs to be even.
const MOVES_MAX: usize = 10_000;

/// A shard may have so much more than the average, in percent, before something moves.
const TOLERANCE_PERCENT: u64 = 10;

/// Differences below this are not worth a move.
const BYTES_WORTH_MOVING: u64 = 1 << 20;

/// What is to be even.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    Bytes,
    /// Slots of each group, ranges of each table.
    Count,
}

impl Strategy {
    pub fn parse(text: &str) -> Option<Strategy> {
        match text {
            "by_bytes" => Some(Strategy::Bytes),
            "by_slots" | "by_count" => Some(Strategy::Count),
            _ => None,
        }
    }
}

/// Bytes of each storage on each shard.
pub type Sizes = BTreeMap<(ShardId, StorageId), u64>;

/// What the plan is made from.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    pub catalog: &'a Catalog,
    pub sizes: &'a Sizes,
    /// Shards that may get something.
    pub takers: &'a BTreeSet<ShardId>,
    /// Shards that are to be empty.
    pub draining: &'a BTreeSet<ShardId>,
    pub strategy: Strategy,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedMove {
    pub subject: Subject,
    pub from: ShardId,
    pub to: ShardId,
    pub bytes: u64,
    pub reason: String,
}

/// The part of a table's bytes on a shard that moves with a subject.
pub fn share(subject: &Subject, table: &TableDescriptor, from: ShardId, bytes: u64) -> u64 {
    let part = |n: usize, of: usize| {
        if of == 0 { 0 } else { (u128::from(bytes) * n as u128 / of as u128) as u64 }
    };
    match (subject, &table.placement) {
        (Subject::Slots { runs, .. }, Placement::Hash { map, .. }) => {
            let n: usize = runs.iter().map(|(a, b)| usize::from(b - a) + 1).sum();
            part(n, map.owner.iter().filter(|owner| **owner == from).count())
        }
        (Subject::Range { start, end, .. }, Placement::Range { map, .. }) => {
            let n = ranges_between(map, start.as_deref(), end.as_deref()).len();
            part(n, map.owner.iter().filter(|owner| **owner == from).count())
        }
        _ => bytes,
    }
}

/// Consecutive slots as runs.
pub fn runs_of(slots: impl IntoIterator<Item = u16>) -> Vec<SlotRun> {
    let mut runs: Vec<SlotRun> = Vec::new();
    for slot in slots {
        match runs.last_mut() {
            Some(last) if last.1.checked_add(1) == Some(slot) => last.1 = slot,
            _ => runs.push((slot, slot)),
        }
    }
    runs
}

/// A piece that can move by itself: some slots count as many.
struct Unit {
    kind: UnitKind,
    shard: ShardId,
    /// How many of the kind's pieces; 1 but for slots.
    slots: Vec<u16>,
    bytes: u64,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum UnitKind {
    Slots(Oid),
    Range(Oid, Option<Vec<u8>>, Option<Vec<u8>>),
    Schemas(Vec<Oid>),
}

impl Unit {
    fn pieces(&self) -> u64 {
        self.slots.len().max(1) as u64
    }
}

struct Planner<'a> {
    situation: Situation<'a>,
    units: Vec<Unit>,
    load: BTreeMap<ShardId, u64>,
    moves: Vec<PlannedMove>,
}

/// The moves, in the order in which they are best done: shards are emptied first.
pub fn plan(situation: Situation<'_>) -> Vec<PlannedMove> {
    let units = units(situation);
    let mut load: BTreeMap<ShardId, u64> = situation.takers.iter().map(|it| (*it, 0)).collect();
    for unit in &units {
        *load.entry(unit.shard).or_default() += unit.bytes;
    }
    let mut planner = Planner { situation, units, load, moves: Vec::new() };
    planner.drain();
    match situation.strategy {
        Strategy::Bytes => planner.even_bytes(),
        Strategy::Count => planner.even_counts(),
    }
    planner.moves.truncate(MOVES_MAX);
    planner.moves
}

fn units(situation: Situation<'_>) -> Vec<Unit> {
    let catalog = situation.catalog;
    let bytes_of = |table: &TableDescriptor, shard: ShardId| -> u64 {
        let storages =
            std::iter::once(table.storage).chain(table.indexes.iter().map(|index| index.storage));
        storages.filter_map(|storage| situation.sizes.get(&(shard, storage))).sum()
    };
    let mut units = Vec::new();
    for (oid, group) in &catalog.groups {
        let mut of_shard: BTreeMap<ShardId, Vec<u16>> = BTreeMap::new();
        for (slot, owner) in group.map.owner.iter().enumerate() {
            of_shard.entry(*owner).or_default().push(slot as u16);
        }
        let tables = tables_of_group(catalog, *oid);
        for (shard, slots) in of_shard {
            let bytes = tables.iter().map(|table| bytes_of(&table.descriptor, shard)).sum();
            units.push(Unit { kind: UnitKind::Slots(*oid), shard, slots, bytes });
        }
    }
    for table in catalog.tables.values() {
        let Placement::Range { map, .. } = &table.descriptor.placement else { continue };
        for (range, owner) in map.owner.iter().enumerate() {
            let start = range.checked_sub(1).and_then(|before| map.splits.get(before)).cloned();
            let end = map.splits.get(range).cloned();
            let subject = Subject::Range { table: table.descriptor.oid, start, end };
            let bytes = bytes_of(&table.descriptor, *owner);
            let bytes = share(&subject, &table.descriptor, *owner, bytes);
            let Subject::Range { table, start, end } = subject else { continue };
            let kind = UnitKind::Range(table, start, end);
            units.push(Unit { kind, shard: *owner, slots: Vec::new(), bytes });
        }
    }
    let mut seen = BTreeSet::new();
    for (oid, schema) in &catalog.schemas {
        if !seen.insert(*oid) {
            continue;
        }
        let tied = schemas_tied_to(catalog, *oid);
        seen.extend(&tied);
        let tables = tables_at_home(catalog, &tied);
        let bytes = tables.iter().map(|table| bytes_of(&table.descriptor, schema.home)).sum();
        let kind = UnitKind::Schemas(tied);
        units.push(Unit { kind, shard: schema.home, slots: Vec::new(), bytes });
    }
    units
}

impl Planner<'_> {
    /// The taker with the least; ties go to the smaller id.
    fn least_loaded(&self) -> Option<ShardId> {
        let takers = self.situation.takers.iter();
        takers.min_by_key(|shard| (self.load.get(shard).copied().unwrap_or(0), shard.0)).copied()
    }

    fn add(
        &mut self,
        kind: UnitKind,
        slots: &[u16],
        from: ShardId,
        to: ShardId,
        bytes: u64,
        reason: String,
    ) {
        let subject = match kind {
            UnitKind::Slots(group) => {
                Subject::Slots { group, runs: runs_of(slots.iter().copied()) }
            }
            UnitKind::Range(table, start, end) => Subject::Range { table, start, end },
            UnitKind::Schemas(schemas) => Subject::Schemas { schemas },
        };
        if let Some(load) = self.load.get_mut(&from) {
            *load = load.saturating_sub(bytes);
        }
        *self.load.entry(to).or_default() += bytes;
        self.moves.push(PlannedMove { subject, from, to, bytes, reason });
    }

    /// Everything of shards that are to be empty goes to the others, slots in equal shares.
    fn drain(&mut self) {
        let takers: Vec<ShardId> = self.situation.takers.iter().copied().collect();
        if takers.is_empty() {
            return;
        }
        for position in 0..self.units.len() {
            let unit = &mut self.units[position];
            let from = unit.shard;
            if !self.situation.draining.contains(&from) {
                continue;
            }
            let (kind, bytes) = (unit.kind.clone(), unit.bytes);
            let slots = std::mem::take(&mut unit.slots);
            unit.bytes = 0;
            let reason = format!("shard {from} is being drained");
            if !matches!(kind, UnitKind::Slots(_)) {
                let Some(to) = self.least_loaded() else { return };
                self.units[position].shard = to;
                self.units[position].bytes = bytes;
                self.add(kind, &[], from, to, bytes, reason);
                continue;
            }
            let shares = takers.len().min(slots.len());
            for (n, to) in takers.iter().take(shares).enumerate() {
                let part = &slots[slots.len() * n / shares..slots.len() * (n + 1) / shares];
                let bytes = bytes / shares as u64;
                self.give(&kind, *to, part, bytes);
                self.add(kind.clone(), part, from, *to, bytes, reason.clone());
            }
        }
    }

    /// Slots become part of what a shard has of their group.
    fn give(&mut self, kind: &UnitKind, to: ShardId, slots: &[u16], bytes: u64) {
        match self.units.iter_mut().find(|unit| unit.kind == *kind && unit.shard == to) {
            Some(unit) => {
                unit.slots.extend(slots);
                unit.slots.sort_unstable();
                unit.bytes += bytes;
            }
            None => {
                let (kind, slots) = (kind.clone(), slots.to_vec());
                self.units.push(Unit { kind, shard: to, slots, bytes });
            }
        }
    }

    /// From the fullest shard to the emptiest, the biggest piece that fits, until nothing is worth moving.
    fn even_bytes(&mut self) {
        let takers = self.situation.takers.clone();
        if takers.len() < 2 {
            return;
        }
        for _ in 0..MOVES_MAX {
            let load = |shard: &ShardId| self.load.get(shard).copied().unwrap_or(0);
            let total: u64 = takers.iter().map(load).sum();
            let average = total / takers.len() as u64;
            let Some(from) = takers.iter().max_by_key(|shard| load(shard)).copied() else { return };
            let Some(to) = self.least_loaded() else { return };
            let surplus = load(&from).saturating_sub(average);
            let room = average.saturating_sub(load(&to));
            let wanted = surplus.min(room);
            let is_even = surplus * 100 <= average * TOLERANCE_PERCENT;
            if from == to || is_even || wanted < BYTES_WORTH_MOVING {
                return;
            }
            let reason = format!(
                "shard {from} has {} of {} bytes, {} on average",
                load(&from),
                total,
                average
            );
            if !self.move_bytes(from, to, wanted, reason) {
                return;
            }
        }
    }

    /// Moves at most about so many bytes; false if no piece fits.
    fn move_bytes(&mut self, from: ShardId, to: ShardId, wanted: u64, reason: String) -> bool {
        let fits = |unit: &Unit| {
            // Homes stay where users put them, unless their shard goes.
            let can_move = !matches!(unit.kind, UnitKind::Schemas(_));
            let piece = unit.bytes / unit.pieces();
            can_move && unit.shard == from && unit.bytes > 0 && piece <= wanted
        };
        let found = self.units.iter().enumerate().filter(|(_, unit)| fits(unit));
        let Some((position, _)) = found.max_by_key(|(_, unit)| unit.bytes) else { return false };
        let unit = &self.units[position];
        let piece = (unit.bytes / unit.pieces()).max(1);
        self.hand_over(position, to, (wanted / piece).max(1) as usize, reason);
        true
    }

    /// Moves so many pieces of a unit, or as many as it has.
    fn hand_over(&mut self, position: usize, to: ShardId, n: usize, reason: String) {
        let unit = &mut self.units[position];
        let (kind, from) = (unit.kind.clone(), unit.shard);
        if unit.slots.is_empty() {
            let bytes = unit.bytes;
            unit.shard = to;
            self.add(kind, &[], from, to, bytes, reason);
            return;
        }
        let n = n.min(unit.slots.len());
        // All of them take all bytes along: what a division leaves would look like something that can move.
        let bytes =
            if n == unit.slots.len() { unit.bytes } else { unit.bytes / unit.pieces() * n as u64 };
        let slots = unit.slots.split_off(unit.slots.len() - n);
        unit.bytes -= bytes;
        self.give(&kind, to, &slots, bytes);
        self.add(kind, &slots, from, to, bytes, reason);
    }

    /// Of each group and each range table every shard gets as many pieces as the others, give or take one.
    fn even_counts(&mut self) {
        let takers: Vec<ShardId> = self.situation.takers.iter().copied().collect();
        if takers.len() < 2 {
            return;
        }
        let owner_of = |kind: &UnitKind| match kind {
            UnitKind::Slots(oid) | UnitKind::Range(oid, ..) => Some(*oid),
            UnitKind::Schemas(_) => None,
        };
        let objects: BTreeSet<Oid> =
            self.units.iter().filter_map(|unit| owner_of(&unit.kind)).collect();
        for object in objects {
            for _ in 0..MOVES_MAX {
                let mut counts: BTreeMap<ShardId, u64> =
                    takers.iter().map(|shard| (*shard, 0)).collect();
                for unit in self.units.iter().filter(|it| owner_of(&it.kind) == Some(object)) {
                    if let Some(count) = counts.get_mut(&unit.shard) {
                        *count += if unit.slots.is_empty() {
                            u64::from(!matches!(unit.kind, UnitKind::Slots(_)))
                        } else {
                            unit.pieces()
                        };
                    }
                }
                let total: u64 = counts.values().sum();
                let (low, high) =
                    (total / takers.len() as u64, total.div_ceil(takers.len() as u64));
                let Some((from, most)) = counts.iter().max_by_key(|(_, n)| **n) else { break };
                let Some((to, least)) = counts.iter().min_by_key(|(_, n)| **n) else { break };
                if *most <= high && *least >= low {
                    break;
                }
                let n = (most - low).min(high - least).max(1);
                let (from, to) = (*from, *to);
                let reason = format!("shard {from} has {most} of {total}, shard {to} has {least}");
                if !self.move_pieces(object, from, to, n as usize, reason) {
                    break;
                }
            }
        }
    }

    fn move_pieces(
        &mut self,
        object: Oid,
        from: ShardId,
        to: ShardId,
        n: usize,
        reason: String,
    ) -> bool {
        let position = self.units.iter().position(|unit| {
            let is_object = match &unit.kind {
                UnitKind::Slots(oid) => *oid == object && !unit.slots.is_empty(),
                UnitKind::Range(oid, ..) => *oid == object,
                UnitKind::Schemas(_) => false,
            };
            is_object && unit.shard == from
        });
        let Some(position) = position else { return false };
        self.hand_over(position, to, n, reason);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use cortex_planner::catalog::Group;
    use cortex_shard_api::{SqlType, descriptor::SlotMap};

    use super::*;

    fn catalog(owner: Vec<ShardId>) -> Catalog {
        let mut catalog = Catalog::default();
        let map = Arc::new(SlotMap { group: Oid(20000), epoch: 1, owner });
        let group = Group { key_types: vec![SqlType::Int4], default: true, map };
        catalog.groups.insert(Oid(20000), Arc::new(group));
        catalog
    }

    fn planned(catalog: &Catalog, takers: &[u32], draining: &[u32]) -> Vec<PlannedMove> {
        let set = |ids: &[u32]| ids.iter().map(|id| ShardId(*id)).collect::<BTreeSet<_>>();
        plan(Situation {
            catalog,
            sizes: &Sizes::new(),
            takers: &set(takers),
            draining: &set(draining),
            strategy: Strategy::Count,
        })
    }

    #[test]
    fn slots_are_spread_evenly_over_a_new_shard() {
        let owner = (0..1024).map(|slot| ShardId(1 + slot / 512)).collect();
        let moves = planned(&catalog(owner), &[1, 2, 3], &[]);
        let moved: usize = moves.iter().map(|it| slots(&it.subject)).sum();
        assert!(moves.iter().all(|it| it.to == ShardId(3)), "{moves:?}");
        assert!((341..=342).contains(&moved), "{moved}");
    }

    #[test]
    fn a_drained_shard_gives_everything_to_the_others() {
        let owner = (0..1024).map(|slot| ShardId(1 + slot / 512)).collect();
        let moves = planned(&catalog(owner), &[1, 3], &[2]);
        let from_two: usize =
            moves.iter().filter(|it| it.from == ShardId(2)).map(|it| slots(&it.subject)).sum();
        assert_eq!(from_two, 512);
        assert!(moves.iter().all(|it| it.to != ShardId(2)));
    }

    #[test]
    fn what_is_even_stays() {
        let owner = (0..1024).map(|slot| ShardId(1 + slot % 2)).collect();
        assert_eq!(planned(&catalog(owner), &[1, 2], &[]), []);
    }

    #[test]
    fn who_gives_all_slots_away_has_nothing_left_to_move() {
        let (catalog, sizes, nobody) = (Catalog::default(), Sizes::new(), BTreeSet::new());
        let situation = Situation {
            catalog: &catalog,
            sizes: &sizes,
            takers: &nobody,
            draining: &nobody,
            strategy: Strategy::Bytes,
        };
        let kind = UnitKind::Slots(Oid(20000));
        let unit = Unit { kind, shard: ShardId(1), slots: vec![3, 4, 5], bytes: 10 };
        let (units, load, moves) = (vec![unit], BTreeMap::new(), Vec::new());
        let mut planner = Planner { situation, units, load, moves };
        assert!(planner.move_bytes(ShardId(1), ShardId(2), 100, String::new()));
        assert_eq!((slots(&planner.moves[0].subject), planner.moves[0].bytes), (3, 10));
        assert!(!planner.move_bytes(ShardId(1), ShardId(2), 100, String::new()));
    }

    fn slots(subject: &Subject) -> usize {
        match subject {
            Subject::Slots { runs, .. } => runs.iter().map(|(a, b)| usize::from(b - a) + 1).sum(),
            Subject::Range { .. } | Subject::Schemas { .. } => 0,
        }
    }
}
