//! The next version of a catalog.
//!
//! A version is cloned (its maps hold `Arc`s) and changed by these functions, which keep the derived maps true: names
//! and index owners follow tables, `referenced_by` follows foreign keys.

use std::{collections::BTreeSet, sync::Arc};

use cortex_shard_api::{
    Oid, ScalarExpr, StorageId,
    descriptor::{Placement, TableDescriptor},
};

use super::{Catalog, Schema, Sequence, Table, View};
use crate::bind::write::column_default;

/// `pg_class`, `pg_namespace` and other catalogs' own OIDs, as `CommentKey::class` and `pg_depend` use them.
pub mod class {
    use cortex_shard_api::Oid;

    pub const TYPE: Oid = Oid(1247);
    pub const PROC: Oid = Oid(1255);
    pub const RELATION: Oid = Oid(1259);
    pub const ROLE: Oid = Oid(1260);
    pub const DATABASE: Oid = Oid(1262);
    pub const CONSTRAINT: Oid = Oid(2606);
    pub const DEFAULT: Oid = Oid(2604);
    pub const SCHEMA: Oid = Oid(2615);
    pub const REWRITE: Oid = Oid(2618);
    pub const EXTENSION: Oid = Oid(3079);
}

/// The role that exists from the beginning.
pub const SUPERUSER: Oid = Oid(10);
/// The one database.
pub const DATABASE: Oid = Oid(5);
/// Its name.
pub const DATABASE_NAME: &str = "postgres";
/// Schemas that exist from the beginning, with Postgres's OIDs where it has them.
pub const PG_CATALOG: Oid = Oid(11);
pub const PUBLIC: Oid = Oid(2200);
pub const INFORMATION_SCHEMA: Oid = Oid(13207);
pub const CORTEX: Oid = Oid(13208);

impl Catalog {
    /// Adds a table or replaces it with a changed one of the same OID.
    pub fn put_table(&mut self, mut table: Table) {
        table.refresh_key_defaults();
        let oid = table.descriptor.oid;
        if let Some(old) = self.tables.get(&oid).cloned() {
            self.forget_names(&old);
        }
        for (relation, name) in table.relation_names() {
            self.names.insert((table.schema, name), relation);
            if relation != oid {
                self.index_tables.insert(relation, oid);
            }
        }
        self.tables.insert(oid, Arc::new(table));
    }

    /// Removes a table with its indexes, constraints and comments; foreign keys on both sides forget each other.
    pub fn remove_table(&mut self, oid: Oid) {
        let Some(table) = self.tables.remove(&oid) else { return };
        self.forget_names(&table);
        for parent in table.descriptor.foreign_keys.iter().map(|key| key.parent) {
            self.refresh_referenced_by(parent);
        }
        let related: BTreeSet<Oid> = table
            .relation_names()
            .into_iter()
            .map(|(relation, _)| relation)
            .chain(table.constraint_oids())
            .collect();
        self.comments.retain(|key, _| !related.contains(&key.object));
        self.drop_unused_groups();
    }

    /// Forgets the names of a table that is about to move to another schema.
    pub fn forget_table_names(&mut self, oid: Oid) {
        if let Some(table) = self.tables.get(&oid).cloned() {
            self.forget_names(&table);
        }
    }

    fn forget_names(&mut self, table: &Table) {
        for (relation, name) in table.relation_names() {
            self.names.remove(&(table.schema, name));
            self.index_tables.remove(&relation);
        }
    }

    /// Sets a table's `referenced_by` to what the foreign keys say.
    pub fn refresh_referenced_by(&mut self, parent: Oid) {
        let children: Vec<Oid> = self
            .tables
            .values()
            .filter(|table| table.descriptor.foreign_keys.iter().any(|key| key.parent == parent))
            .map(|table| table.descriptor.oid)
            .collect();
        let Some(table) = self.tables.get(&parent) else { return };
        if table.descriptor.referenced_by == children {
            return;
        }
        let mut table = Table::clone(table);
        let descriptor = Arc::make_mut(&mut table.descriptor);
        descriptor.referenced_by = children;
        descriptor.version += 1;
        self.put_table(table);
    }

    /// Forgets co-location groups without tables, so that the next table starts with a fresh map.
    pub fn drop_unused_groups(&mut self) {
        let used: BTreeSet<Oid> =
            self.tables.values().filter_map(|table| table.descriptor.group()).collect();
        self.groups.retain(|group, _| used.contains(group));
    }

    pub fn put_sequence(&mut self, sequence: Sequence) {
        if let Some(old) = self.sequences.get(&sequence.oid) {
            self.names.remove(&(old.schema, old.name.clone()));
        }
        self.names.insert((sequence.schema, sequence.name.clone()), sequence.oid);
        self.sequences.insert(sequence.oid, Arc::new(sequence));
    }

    pub fn remove_sequence(&mut self, oid: Oid) {
        if let Some(sequence) = self.sequences.remove(&oid) {
            self.names.remove(&(sequence.schema, sequence.name.clone()));
            self.comments.retain(|key, _| key.object != oid);
        }
    }

    pub fn put_view(&mut self, view: View) {
        if let Some(old) = self.views.get(&view.oid) {
            self.names.remove(&(old.schema, old.name.clone()));
        }
        self.names.insert((view.schema, view.name.clone()), view.oid);
        self.views.insert(view.oid, Arc::new(view));
    }

    pub fn remove_view(&mut self, oid: Oid) {
        if let Some(view) = self.views.remove(&oid) {
            self.names.remove(&(view.schema, view.name.clone()));
            self.comments.retain(|key, _| key.object != oid);
        }
    }

    pub fn put_schema(&mut self, schema: Schema) {
        self.schemas.insert(schema.oid, Arc::new(schema));
    }

    /// Computes the derived maps anew: after loading.
    pub fn rebuild_names(&mut self) {
        self.names.clear();
        self.index_tables.clear();
        for table in self.tables.values() {
            for (relation, name) in table.relation_names() {
                self.names.insert((table.schema, name), relation);
                if relation != table.descriptor.oid {
                    self.index_tables.insert(relation, table.descriptor.oid);
                }
            }
        }
        for view in self.views.values() {
            self.names.insert((view.schema, view.name.clone()), view.oid);
        }
        for sequence in self.sequences.values() {
            self.names.insert((sequence.schema, sequence.name.clone()), sequence.oid);
        }
    }

    /// Every storage id that a table, an index or a sequence of this version refers to.
    pub fn storages(&self) -> BTreeSet<StorageId> {
        let tables = self.tables.values().flat_map(|table| table.storages());
        tables.chain(self.sequences.values().map(|sequence| sequence.spec.storage)).collect()
    }

    /// The table of an index with the index's position; `None` as position is the primary key.
    pub fn index(&self, oid: Oid) -> Option<(&Arc<Table>, Option<usize>)> {
        let table = self.tables.get(self.index_tables.get(&oid)?)?;
        Some((table, table.descriptor.indexes.iter().position(|index| index.oid == oid)))
    }
}

impl Table {
    /// Sets what foreign keys with SET DEFAULT set to the defaults of their columns.
    fn refresh_key_defaults(&mut self) {
        for position in 0..self.descriptor.foreign_keys.len() {
            let key = &self.descriptor.foreign_keys[position];
            if !key.sets_default() {
                continue;
            }
            let defaults: Vec<ScalarExpr> =
                key.columns.iter().map(|column| column_default(self, *column)).collect();
            Arc::make_mut(&mut self.descriptor).foreign_keys[position].set_default = defaults;
        }
    }

    /// The table itself, its primary key's index and its other indexes: what takes a name in the schema.
    pub fn relation_names(&self) -> Vec<(Oid, String)> {
        let mut names = vec![(self.descriptor.oid, self.descriptor.name.clone())];
        if let (Some((_, index)), Some(name)) =
            (self.primary_key_oids, &self.descriptor.primary_key_name)
        {
            names.push((index, name.clone()));
        }
        names.extend(self.descriptor.indexes.iter().map(|index| (index.oid, index.name.clone())));
        names
    }

    /// OIDs of all constraints.
    pub fn constraint_oids(&self) -> Vec<Oid> {
        let mut oids: Vec<Oid> = self.primary_key_oids.iter().map(|(oid, _)| *oid).collect();
        oids.extend(self.unique_constraints.iter().map(|(oid, _, _)| *oid));
        oids.extend(self.descriptor.checks.iter().map(|check| check.oid));
        oids.extend(self.descriptor.foreign_keys.iter().map(|key| key.oid));
        oids
    }

    /// Names of all constraints: unique within the table.
    pub fn constraint_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> =
            self.descriptor.primary_key_name.as_deref().into_iter().collect();
        names.extend(self.unique_constraints.iter().map(|(_, name, _)| name.as_str()));
        names.extend(self.descriptor.checks.iter().map(|check| check.name.as_str()));
        names.extend(self.descriptor.foreign_keys.iter().map(|key| key.name.as_str()));
        names
    }

    /// Storage ids of the rows and the indexes.
    pub fn storages(&self) -> Vec<StorageId> {
        let mut storages = vec![self.descriptor.storage];
        storages.extend(self.descriptor.indexes.iter().map(|index| index.storage));
        storages
    }

    /// The value of a storage parameter.
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// What a table's placement says about its group.
pub trait Grouped {
    /// The co-location group of a hash table.
    fn group(&self) -> Option<Oid>;
}

impl Grouped for TableDescriptor {
    fn group(&self) -> Option<Oid> {
        match &self.placement {
            Placement::Hash { map, .. } => Some(map.group),
            Placement::Home(_) | Placement::Range { .. } | Placement::Reference(_) => None,
        }
    }
}
