//! Where a table's rows live: `shard_by`, co-location, split points, and which constraints that allows.

use std::{collections::BTreeSet, sync::Arc};

use cortex_shard_api::{
    Oid, ScalarExpr, SqlType, TableDescriptor,
    descriptor::{ForeignKeyDescriptor, Placement, RangeMap, SLOTS, SlotMap},
    ids::ShardId,
    key::{self, KeyOrder},
    value::text,
};
use sqlparser::parser::Parser;

use super::{Ddl, DefaultShardBy, Work, table::check_ordered};
use crate::{
    CortexDialect, PlanError, PlanErrorKind,
    bind::ddl::{cursor::Cursor, parse::unknown_parameter},
    catalog::{Group, Table, edit::Grouped},
};

/// Split points of a table at most: the map travels with every request's descriptor.
const SPLITS_MAX: usize = 1024;

/// Storage parameters of Postgres. They tune how its pages are filled and vacuumed; kept, shown, without effect here.
const POSTGRES_PARAMETERS: &[&str] = &[
    "fillfactor",
    "parallel_workers",
    "toast_tuple_target",
    "user_catalog_table",
    "vacuum_index_cleanup",
    "vacuum_truncate",
    "log_autovacuum_min_duration",
    "oids",
];

/// What `shard_by` says.
enum ShardBy {
    Home,
    Hash(Vec<String>),
    Range(Vec<String>),
    Reference,
}

/// Positions of a table's shard key.
pub(crate) fn shard_key(table: &TableDescriptor) -> &[usize] {
    match &table.placement {
        Placement::Home(_) | Placement::Reference(_) => &[],
        Placement::Hash { key, .. } | Placement::Range { key, .. } => key,
    }
}

/// 22023 for a storage parameter that neither we nor Postgres have.
pub(super) fn check_options(options: &[(String, String)]) -> Result<(), PlanError> {
    for (position, (name, value)) in options.iter().enumerate() {
        if options[..position].iter().any(|(other, _)| other == name) {
            return Err(PlanError::new(
                PlanErrorKind::InvalidParameterValue,
                format!("parameter \"{name}\" specified more than once"),
            ));
        }
        let known = matches!(name.as_str(), "shard_by" | "colocate_with" | "split_at")
            || POSTGRES_PARAMETERS.contains(&name.as_str())
            || name.starts_with("autovacuum_")
            || name.starts_with("toast.autovacuum_");
        if !known {
            return Err(unknown_parameter(name));
        }
        if name == "fillfactor" {
            check_fillfactor(value)?;
        }
    }
    Ok(())
}

fn check_fillfactor(value: &str) -> Result<(), PlanError> {
    let number: i64 = value.parse().map_err(|_| {
        PlanError::new(
            PlanErrorKind::InvalidParameterValue,
            format!("invalid value for integer option \"fillfactor\": {value}"),
        )
    })?;
    if (10..=100).contains(&number) {
        return Ok(());
    }
    Err(PlanError::new(
        PlanErrorKind::InvalidParameterValue,
        format!("value {number} out of bounds for option \"fillfactor\""),
    )
    .with_detail("Valid values are between \"10\" and \"100\"."))
}

fn parse_shard_by(text: &str) -> Result<ShardBy, PlanError> {
    let bad = || {
        PlanError::new(
            PlanErrorKind::InvalidParameterValue,
            format!("invalid value for parameter \"shard_by\": \"{text}\""),
        )
        .with_hint("Available values: hash(column, ...), range(column), reference, none.")
    };
    let dialect = CortexDialect;
    let mut parser = Parser::new(&dialect).try_with_sql(text).map_err(|_| bad())?;
    let mut cursor = Cursor::new(&mut parser, text);
    let shard_by = if cursor.eat("reference") {
        ShardBy::Reference
    } else if cursor.eat("none") || cursor.eat("home") {
        ShardBy::Home
    } else if cursor.eat("hash") {
        ShardBy::Hash(cursor.names_in_parentheses().map_err(|_| bad())?)
    } else if cursor.eat("range") {
        ShardBy::Range(cursor.names_in_parentheses().map_err(|_| bad())?)
    } else {
        return Err(bad());
    };
    if cursor.at_end() { Ok(shard_by) } else { Err(bad()) }
}

impl Ddl<'_> {
    /// Decides where a new table lives. Its keys and foreign keys are already there.
    pub(super) fn place(&mut self, table: &mut Table) -> Result<(), PlanError> {
        match table.option("shard_by").map(str::to_owned) {
            Some(text) => self.place_as_told(table, &text),
            None => {
                for option in ["colocate_with", "split_at"] {
                    if table.option(option).is_some() {
                        return Err(PlanError::new(
                            PlanErrorKind::InvalidParameterValue,
                            format!("parameter \"{option}\" needs \"shard_by\""),
                        ));
                    }
                }
                match self.env.default_shard_by {
                    DefaultShardBy::Home => self.place_home(table),
                    DefaultShardBy::PrimaryKey => self.place_by_primary_key(table),
                }
            }
        }
    }

    fn place_as_told(&mut self, table: &mut Table, text: &str) -> Result<(), PlanError> {
        let placement = match parse_shard_by(text)? {
            ShardBy::Home => return self.place_home(table),
            ShardBy::Reference => {
                let home = self.home_of(table)?;
                let mut shards = vec![home];
                shards.extend(self.env.shards.iter().filter(|shard| **shard != home));
                Placement::Reference(shards)
            }
            ShardBy::Hash(columns) => {
                let key = self.shard_key_columns(table, &columns)?;
                let map = self.slot_map(table, &key)?;
                Placement::Hash { key, map }
            }
            ShardBy::Range(columns) => {
                let key = self.shard_key_columns(table, &columns)?;
                if key.len() > 1 {
                    return Err(PlanError::unsupported(
                        "a range shard key has one column",
                        "Give the column that splits the table; others can follow in the primary key.",
                    ));
                }
                let map = Arc::new(self.range_map(table, key[0])?);
                Placement::Range { key, map }
            }
        };
        if !matches!(placement, Placement::Range { .. }) && table.option("split_at").is_some() {
            return Err(PlanError::new(
                PlanErrorKind::InvalidParameterValue,
                "parameter \"split_at\" needs shard_by = 'range(column)'",
            ));
        }
        if !matches!(placement, Placement::Hash { .. }) && table.option("colocate_with").is_some() {
            return Err(PlanError::new(
                PlanErrorKind::InvalidParameterValue,
                "parameter \"colocate_with\" needs shard_by = 'hash(column)'",
            ));
        }
        Arc::make_mut(&mut table.descriptor).placement = placement;
        check_keys(&table.descriptor)?;
        for position in 0..table.descriptor.foreign_keys.len() {
            self.settle_foreign_key(table, position)?;
        }
        Ok(())
    }

    fn place_home(&mut self, table: &mut Table) -> Result<(), PlanError> {
        let home = self.home_of(table)?;
        Arc::make_mut(&mut table.descriptor).placement = Placement::Home(home);
        for position in 0..table.descriptor.foreign_keys.len() {
            self.settle_foreign_key(table, position)?;
        }
        Ok(())
    }

    /// `cortex.default_shard_by = 'primary_key'`: by hash of the primary key where everything fits, else home with a notice.
    fn place_by_primary_key(&mut self, table: &mut Table) -> Result<(), PlanError> {
        let key = table.descriptor.primary_key.clone();
        let reason = if key.is_empty() {
            Some("it has no primary key".to_owned())
        } else {
            let map = self.slot_map(table, &key)?;
            let mut placed = table.clone();
            Arc::make_mut(&mut placed.descriptor).placement = Placement::Hash { key, map };
            let reason = check_keys(&placed.descriptor)
                .and_then(|()| {
                    placed
                        .descriptor
                        .foreign_keys
                        .iter()
                        .try_for_each(|key| self.foreign_key_fits(&placed.descriptor, key))
                })
                .err()
                .map(|error| error.message);
            if reason.is_none() {
                *table = placed;
                return Ok(());
            }
            reason
        };
        if let Some(reason) = reason {
            self.notice(
                "00000",
                format!("table \"{}\" stays on its home shard: {reason}", table.descriptor.name),
            );
        }
        self.catalog.drop_unused_groups();
        self.place_home(table)
    }

    pub(super) fn home_of(&self, table: &Table) -> Result<ShardId, PlanError> {
        self.catalog.schemas.get(&table.schema).map(|schema| schema.home).ok_or_else(|| {
            PlanError::new(PlanErrorKind::Internal, "the table's schema is not in the catalog")
        })
    }

    fn shard_key_columns(&self, table: &Table, names: &[String]) -> Result<Vec<usize>, PlanError> {
        let mut positions = Vec::with_capacity(names.len());
        for name in names {
            let position = super::table::column_position(table, name)?;
            if positions.contains(&position) {
                return Err(PlanError::new(
                    PlanErrorKind::DuplicateColumn,
                    format!("column \"{name}\" appears twice in the shard key"),
                ));
            }
            check_ordered(table.descriptor.columns[position].ty.ty)?;
            positions.push(position);
        }
        Ok(positions)
    }

    /// The map of the group that a hash table joins or founds.
    fn slot_map(&mut self, table: &Table, key: &[usize]) -> Result<Arc<SlotMap>, PlanError> {
        let key_types: Vec<SqlType> =
            key.iter().map(|position| table.descriptor.columns[*position].ty.ty).collect();
        let default = match table.option("colocate_with") {
            Some("none") => false,
            Some(other) => return self.map_of_table(other, &key_types),
            None => {
                let found = self
                    .catalog
                    .groups
                    .values()
                    .find(|group| group.default && group.key_types == key_types);
                if let Some(group) = found {
                    return Ok(group.map.clone());
                }
                true
            }
        };
        let group = self.catalog.ids.oid()?;
        let map = Arc::new(SlotMap { group, epoch: 1, owner: spread_slots(self.env.shards) });
        let entry = Group { key_types, default, map: map.clone() };
        self.catalog.groups.insert(group, Arc::new(entry));
        Ok(map)
    }

    fn map_of_table(&self, other: &str, key_types: &[SqlType]) -> Result<Arc<SlotMap>, PlanError> {
        let dialect = CortexDialect;
        let bad = |_| {
            PlanError::new(
                PlanErrorKind::InvalidParameterValue,
                format!("invalid value for parameter \"colocate_with\": \"{other}\""),
            )
        };
        let mut parser = Parser::new(&dialect)
            .try_with_sql(other)
            .map_err(|_| bad(PlanError::new(PlanErrorKind::Syntax, "")))?;
        let mut name = Cursor::new(&mut parser, other).qualified_name().map_err(bad)?;
        name.position = None;
        let parent = self.table(&name)?;
        let Placement::Hash { map, .. } = &parent.descriptor.placement else {
            return Err(PlanError::new(
                PlanErrorKind::InvalidParameterValue,
                format!("table \"{}\" is not sharded by hash", parent.descriptor.name),
            )
            .with_hint("Only tables sharded by hash can be co-located."));
        };
        let same = self.catalog.groups.get(&map.group).is_some_and(|g| g.key_types == key_types);
        if !same {
            return Err(PlanError::new(
                PlanErrorKind::InvalidParameterValue,
                format!("cannot co-locate with table \"{}\"", parent.descriptor.name),
            )
            .with_detail("The types of the shard keys differ."));
        }
        Ok(map.clone())
    }

    /// Ranges cut at `split_at`, one after the other to the shards.
    fn range_map(&self, table: &Table, column: usize) -> Result<RangeMap, PlanError> {
        let ty = table.descriptor.columns[column].ty.ty;
        let mut splits = Vec::new();
        for value in table.option("split_at").map(split_values).unwrap_or_default() {
            let value = text::parse(ty, &value, &self.env.eval.settings)?;
            let mut bytes = Vec::new();
            key::encode_datum(&mut bytes, &value, ty, KeyOrder::default());
            splits.push(bytes);
        }
        splits.sort();
        splits.dedup();
        if splits.len() > SPLITS_MAX {
            return Err(PlanError::new(
                PlanErrorKind::InvalidParameterValue,
                format!("a range table can start with at most {SPLITS_MAX} split points"),
            ));
        }
        let home = self.home_of(table)?;
        let mut shards = self.env.shards.to_vec();
        // The home shard comes first, unless it is being emptied.
        shards.sort_by_key(|shard| *shard != home);
        let owner = (0..=splits.len()).map(|range| shards[range % shards.len()]).collect();
        Ok(RangeMap { group: self.catalog.ids.oid()?, epoch: 1, splits, owner })
    }

    /// Makes sure that a foreign key can be enforced inside one shard. A parent that was sharded by default, not by the
    /// user's word, comes home for it.
    pub(super) fn settle_foreign_key(
        &mut self,
        table: &Table,
        position: usize,
    ) -> Result<(), PlanError> {
        let key = &table.descriptor.foreign_keys[position];
        let Err(error) = self.foreign_key_fits(&table.descriptor, key) else { return Ok(()) };
        let child_home = matches!(table.descriptor.placement, Placement::Home(_));
        if !child_home || key.parent == table.descriptor.oid {
            return Err(error);
        }
        if self.bring_family_home(key.parent).is_err() {
            return Err(error);
        }
        self.foreign_key_fits(&table.descriptor, key)
    }

    /// All tables connected with this one by foreign keys.
    fn foreign_key_family(&self, start: Oid) -> BTreeSet<Oid> {
        let mut family = BTreeSet::from([start]);
        let mut queue = vec![start];
        while let Some(oid) = queue.pop() {
            let Some(table) = self.catalog.tables.get(&oid) else { continue };
            let parents = table.descriptor.foreign_keys.iter().map(|key| key.parent);
            for next in parents.chain(table.descriptor.referenced_by.iter().copied()) {
                if family.insert(next) {
                    queue.push(next);
                }
            }
        }
        family
    }

    /// Brings a table and all that foreign keys connect with it home, unless the user sharded one of them.
    pub(super) fn bring_family_home(&mut self, oid: Oid) -> Result<(), PlanError> {
        let family = self.foreign_key_family(oid);
        for oid in &family {
            let table = self.table_by_oid(*oid)?;
            let by_default = table.option("shard_by").is_none()
                && !matches!(table.descriptor.placement, Placement::Reference(_));
            if !by_default {
                return Err(PlanError::unsupported(
                    format!("table \"{}\" is sharded", table.descriptor.name),
                    "ALTER TABLE ... SET (shard_by = 'none') brings it to its home shard.",
                ));
            }
        }
        for oid in family {
            self.bring_home(oid, "so that a foreign key can refer to it")?;
        }
        Ok(())
    }

    /// The same for tables that the user sharded, because the user says so.
    pub(super) fn undistribute_family(&mut self, start: Oid) -> Result<(), PlanError> {
        let family = self.foreign_key_family(start);
        // All of them before the first row goes: nobody is waited for in the middle.
        for oid in &family {
            let table = self.table_by_oid(*oid)?;
            self.work.push(Work::Lock(table.descriptor.clone()));
        }
        for oid in &family {
            let mut table = Table::clone(&*self.table_by_oid(*oid)?);
            let of_placement =
                |name: &str| matches!(name, "shard_by" | "colocate_with" | "split_at");
            table.options.retain(|(name, _)| !of_placement(name));
            table.options.push(("shard_by".to_owned(), "none".to_owned()));
            self.catalog.put_table(table);
            self.bring_home(*oid, "as foreign keys connect it with the others")?;
        }
        for oid in &family {
            let table = self.table_by_oid(*oid)?;
            for key in &table.descriptor.foreign_keys {
                self.foreign_key_fits(&table.descriptor, key)?;
            }
        }
        Ok(())
    }

    fn bring_home(&mut self, oid: Oid, why: &str) -> Result<(), PlanError> {
        let mut table = Table::clone(&*self.table_by_oid(oid)?);
        let home = self.home_of(&table)?;
        if matches!(table.descriptor.placement, Placement::Home(_)) {
            return Ok(());
        }
        let name = &table.descriptor.name;
        self.notice("00000", format!("table \"{name}\" moves to its home shard, {why}"));
        let from = table.descriptor.clone();
        self.move_storage(&mut table)?;
        Arc::make_mut(&mut table.descriptor).placement = Placement::Home(home);
        self.work.push(Work::Lock(from.clone()));
        self.work.push(Work::Convert {
            from,
            to: table.descriptor.clone(),
            columns: same_columns(&table.descriptor),
        });
        self.catalog.put_table(table);
        self.catalog.drop_unused_groups();
        Ok(())
    }

    /// Whether a foreign key can be enforced inside one shard.
    pub(super) fn foreign_key_fits(
        &self,
        child: &TableDescriptor,
        key: &ForeignKeyDescriptor,
    ) -> Result<(), PlanError> {
        let parent = match self.catalog.tables.get(&key.parent) {
            _ if key.parent == child.oid => child,
            Some(parent) => &*parent.descriptor,
            None => return Err(PlanError::new(PlanErrorKind::Internal, "no such parent table")),
        };
        let fits = match (&child.placement, &parent.placement) {
            (_, Placement::Reference(_)) => true,
            (Placement::Home(a), Placement::Home(b)) => a == b,
            (Placement::Hash { key: child_key, .. }, Placement::Hash { key: parent_key, .. }) => {
                child.group() == parent.group()
                    && child_key.iter().zip(parent_key).all(|(child_column, parent_column)| {
                        key.columns
                            .iter()
                            .zip(&key.parent_columns)
                            .any(|pair| pair == (child_column, parent_column))
                    })
            }
            _ => false,
        };
        if fits {
            return Ok(());
        }
        let mut error = PlanError::unsupported(
            format!("foreign key constraint \"{}\" cannot be enforced inside one shard", key.name),
            "Leave both tables on the home shard, shard both by hash of the referencing and referenced columns, or make the \
             referenced table a reference table: shard_by = 'reference'. To change both, drop the constraint, change one after \
             the other, and add it again.",
        );
        if key.parent != child.oid {
            error = error.with_detail(format!(
                "Table \"{}\" {}, table \"{}\", to which it refers, {}.",
                child.name,
                describe(child),
                parent.name,
                describe(parent)
            ));
        }
        Err(error)
    }
}

/// Where a table's rows are, for messages.
fn describe(table: &TableDescriptor) -> String {
    let names = |key: &[usize]| {
        let names = key.iter().filter_map(|column| table.columns.get(*column));
        names.map(|column| column.name.as_str()).collect::<Vec<_>>().join(", ")
    };
    match &table.placement {
        Placement::Home(shard) => format!("is on home shard {shard}"),
        Placement::Hash { key, map } => {
            format!("is sharded by hash({}) in co-location group {}", names(key), map.group)
        }
        Placement::Range { key, .. } => format!("is sharded by range({})", names(key)),
        Placement::Reference(_) => "is a reference table".to_owned(),
    }
}

/// Whether a table that is told to be of a kind is of it already, with its rows where they should be.
pub(super) fn is_same_kind(from: &TableDescriptor, to: &TableDescriptor, splits: bool) -> bool {
    match (&from.placement, &to.placement) {
        (Placement::Home(a), Placement::Home(b)) => a == b,
        (Placement::Hash { key: a, .. }, Placement::Hash { key: b, .. }) => {
            a == b && from.group() == to.group()
        }
        // Its ranges are its own, however they have come to be.
        (Placement::Range { key: a, .. }, Placement::Range { key: b, .. }) => a == b && !splits,
        (Placement::Reference(_), Placement::Reference(_)) => true,
        _ => false,
    }
}

/// Primary key and unique constraints must contain the shard key, or no shard could enforce them alone.
pub(super) fn check_keys(table: &TableDescriptor) -> Result<(), PlanError> {
    let key = shard_key(table);
    let missing = |columns: &[usize]| key.iter().find(|column| !columns.contains(column)).copied();
    if !table.primary_key.is_empty()
        && let Some(column) = missing(&table.primary_key)
    {
        let name = table.primary_key_name.as_deref().unwrap_or_default();
        return Err(must_contain(table, "PRIMARY KEY", name, column));
    }
    for index in table.indexes.iter().filter(|index| index.unique) {
        let columns: Vec<usize> = index.columns.iter().map(|column| column.column).collect();
        if let Some(column) = missing(&columns) {
            let what = if index.constraint { "UNIQUE" } else { "UNIQUE INDEX" };
            return Err(must_contain(table, what, &index.name, column));
        }
    }
    Ok(())
}

fn must_contain(table: &TableDescriptor, what: &str, name: &str, column: usize) -> PlanError {
    PlanError::unsupported(
        format!("{what} \"{name}\" of sharded table \"{}\" must contain the shard key", table.name),
        "Add the column to the key, shard by a column of it, or leave the table on its home shard.",
    )
    .with_detail(format!("Column \"{}\" is part of the shard key.", table.columns[column].name))
}

/// Equal shares of consecutive slots.
fn spread_slots(shards: &[ShardId]) -> Vec<ShardId> {
    let slots = SLOTS as usize;
    (0..slots).map(|slot| shards[slot * shards.len() / slots]).collect()
}

/// Values between commas; a value in double quotes may hold commas.
fn split_values(text: &str) -> Vec<String> {
    let mut values = vec![String::new()];
    let mut quoted = false;
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => values.push(String::new()),
            _ => {
                if let Some(last) = values.last_mut() {
                    last.push(c);
                }
            }
        }
    }
    values
        .into_iter()
        .map(|value| value.trim().to_owned())
        .filter(|value| !value.is_empty())
        .collect()
}

/// Every column as it is.
pub(super) fn same_columns(table: &TableDescriptor) -> Arc<[ScalarExpr]> {
    table
        .columns
        .iter()
        .enumerate()
        .map(|(position, column)| ScalarExpr::Column { position, ty: column.ty })
        .collect()
}
