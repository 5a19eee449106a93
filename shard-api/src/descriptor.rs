//! What a shard must know about a table to keep its rows, indexes and constraints right.
//!
//! The catalog owns descriptors and versions them; every request to a shard carries the one it was planned with,
//! so a shard keeps no catalog of its own. They are immutable: a change makes a new one with a higher version.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    expr::ScalarExpr,
    ids::{Oid, ShardId, StorageId},
    types::TypeMod,
    value::Datum,
};

/// Number of slots of every hash table. Frozen: the slot is part of each row's key on disk.
pub const SLOTS: u16 = 1024;

/// A table as shards see it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TableDescriptor {
    pub oid: Oid,
    /// Schema-qualified name parts, for error messages only.
    pub schema: String,
    pub name: String,
    /// Prefix of the table's row keys.
    pub storage: StorageId,
    /// Counts up with every change of shape; rows carry the version they were written with.
    pub version: u32,
    /// All columns in attribute order, dropped ones included: position `i` is attnum `i + 1`, for ever.
    pub columns: Vec<ColumnDescriptor>,
    /// Positions of the primary key's columns in key order. Empty: the key is a hidden, globally unique row id.
    pub primary_key: Vec<usize>,
    /// Name and OID of the primary key's constraint and index, for messages; `None` without a primary key.
    pub primary_key_name: Option<String>,
    pub placement: Placement,
    /// Version of the placement of a home or reference table: counts up when it moves. Others have a map with an epoch.
    #[serde(default)]
    pub placement_epoch: u64,
    /// Secondary indexes, unique or not. The primary key is the row key itself and is not listed.
    pub indexes: Vec<IndexDescriptor>,
    pub checks: Vec<CheckDescriptor>,
    /// Constraints in which this table is the referencing side.
    pub foreign_keys: Vec<ForeignKeyDescriptor>,
    /// Tables (this one too, if it refers to itself) whose foreign keys refer to this table.
    pub referenced_by: Vec<Oid>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ColumnDescriptor {
    pub name: String,
    pub ty: TypeMod,
    pub not_null: bool,
    pub dropped: bool,
    /// The table version that added the column; rows of older versions read `missing`.
    pub added_in: u32,
    /// The value of rows older than the column (its constant default, or NULL).
    pub missing: Datum,
}

/// Where a table's rows live. `Arc`ed maps are shared by all tables of a co-location group.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Placement {
    /// Whole on one shard.
    Home(ShardId),
    /// By `hash(shard key) mod SLOTS`; the row key begins with the slot.
    Hash { key: Vec<usize>, map: Arc<SlotMap> },
    /// By ranges of the shard key's first column; the row key begins with the primary key, of which it is the first.
    Range { key: Vec<usize>, map: Arc<RangeMap> },
    /// A full copy on every shard; the primary copy is on the home shard.
    Reference(Vec<ShardId>),
}

/// The least version that a shard accepts: of a table's shape (`TableDescriptor::version`), or of a placement
/// (`TableDescriptor::{placement_id, epoch}`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fence {
    Shape { table: Oid, version: u32 },
    Placement { id: Oid, epoch: u64 },
}

/// Slots to shards, for one co-location group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotMap {
    pub group: Oid,
    pub epoch: u64,
    /// `SLOTS` entries: the owner of each slot.
    pub owner: Vec<ShardId>,
}

/// Ranges to shards, for one table. Range `i` holds keys in `[split[i-1], split[i])`, encoded memcomparably.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeMap {
    pub group: Oid,
    pub epoch: u64,
    /// Sorted encoded shard keys; one fewer than owners.
    pub splits: Vec<Vec<u8>>,
    pub owner: Vec<ShardId>,
}

/// A secondary index. Entry key: `[storage][slot?][columns][row key's tail, unless unique and no column is NULL]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct IndexDescriptor {
    pub oid: Oid,
    pub name: String,
    pub storage: StorageId,
    pub unique: bool,
    /// The constraint it backs, if any: messages name it.
    pub constraint: bool,
    pub columns: Vec<IndexColumn>,
    pub state: IndexState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexColumn {
    /// Position in `TableDescriptor::columns`.
    pub column: usize,
    pub descending: bool,
    pub nulls_first: bool,
}

/// Steps of an online build: writers maintain the index before readers may trust it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IndexState {
    DeleteOnly,
    WriteOnly,
    Public,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CheckDescriptor {
    pub oid: Oid,
    pub name: String,
    /// Over the whole row: column `i` is position `i`. A row violates it only when it is false, not NULL.
    pub expr: ScalarExpr,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ForeignKeyDescriptor {
    pub oid: Oid,
    pub name: String,
    /// Positions in the referencing table.
    pub columns: Vec<usize>,
    pub parent: Oid,
    /// Positions in the referenced table, in the order of `columns`; its primary key or a unique index.
    pub parent_columns: Vec<usize>,
    pub on_delete: ReferentialAction,
    pub on_update: ReferentialAction,
    /// What SET DEFAULT sets, in the order of `columns`; immutable, over no row. Empty without such an action.
    #[serde(default)]
    pub set_default: Vec<ScalarExpr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReferentialAction {
    NoAction,
    Restrict,
    Cascade,
    SetNull,
    SetDefault,
}

impl ForeignKeyDescriptor {
    /// Whether an action sets the columns to their defaults.
    pub fn sets_default(&self) -> bool {
        [self.on_delete, self.on_update].contains(&ReferentialAction::SetDefault)
    }
}

impl TableDescriptor {
    /// Whether a row may refer to another row of the table.
    pub fn refers_to_itself(&self) -> bool {
        self.foreign_keys.iter().any(|key| key.parent == self.oid)
    }

    /// `"schema"."name"` without quotes, for logs.
    pub fn qualified_name(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    /// Live columns with their positions, in order.
    pub fn live_columns(&self) -> impl Iterator<Item = (usize, &ColumnDescriptor)> {
        self.columns.iter().enumerate().filter(|(_, column)| !column.dropped)
    }

    /// Position of a live column by name.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.live_columns().find(|(_, column)| column.name == name).map(|(position, _)| position)
    }

    /// The shard with the primary copy of a reference table; `None` for other tables.
    pub fn primary_copy(&self) -> Option<ShardId> {
        match &self.placement {
            Placement::Reference(copies) => copies.first().copied(),
            Placement::Home(_) | Placement::Hash { .. } | Placement::Range { .. } => None,
        }
    }

    /// What the table's placement is versioned by: its co-location group, or itself.
    pub fn placement_id(&self) -> Oid {
        match &self.placement {
            Placement::Home(_) | Placement::Reference(_) => self.oid,
            Placement::Hash { map, .. } => map.group,
            Placement::Range { map, .. } => map.group,
        }
    }

    /// The epoch of the table's shard map.
    pub fn epoch(&self) -> u64 {
        match &self.placement {
            Placement::Home(_) | Placement::Reference(_) => self.placement_epoch,
            Placement::Hash { map, .. } => map.epoch,
            Placement::Range { map, .. } => map.epoch,
        }
    }

    /// Every shard that may hold rows of the table, ascending, each once.
    pub fn shards(&self) -> Vec<ShardId> {
        let mut shards = match &self.placement {
            Placement::Home(shard) => vec![*shard],
            Placement::Hash { map, .. } => map.owner.clone(),
            Placement::Range { map, .. } => map.owner.clone(),
            Placement::Reference(shards) => shards.clone(),
        };
        shards.sort_unstable();
        shards.dedup();
        shards
    }

    /// Every shard whose rows are written: of a reference table the one with the primary copy, which the others follow.
    pub fn written_shards(&self) -> Vec<ShardId> {
        self.primary_copy().map_or_else(|| self.shards(), |primary| vec![primary])
    }
}
