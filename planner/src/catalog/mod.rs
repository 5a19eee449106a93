//! The catalog as statements see it: an immutable, versioned snapshot.
//!
//! Lives here: the objects and lookups by name and OID. Not here: how it is stored and changed
//! (`gateway::catalog`), what pg_catalog shows of it (`gateway::catalog`).

use std::{collections::BTreeMap, sync::Arc};

use cortex_shard_api::{
    Oid, ScalarExpr, SqlType, TableDescriptor, TypeMod, client::SequenceSpec, descriptor::SlotMap,
    ids::ShardId,
};
use datafusion::catalog::TableProvider;
use serde::{Deserialize, Serialize};

/// Typed expressions and definitions as SQL text.
pub mod deparse;

/// The next version of a catalog.
pub mod edit;

/// Where OIDs and storage ids come from.
pub mod ids;

/// Names that the system chooses.
pub mod naming;

/// Maps of the next version: who owns which slots, ranges and home tables.
pub mod placement;

pub use ids::IdSource;

/// One version of everything that has a name. Cheap to clone; a change makes the next version.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    pub version: u64,
    pub schemas: BTreeMap<Oid, Arc<Schema>>,
    pub tables: BTreeMap<Oid, Arc<Table>>,
    pub views: BTreeMap<Oid, Arc<View>>,
    pub sequences: BTreeMap<Oid, Arc<Sequence>>,
    pub roles: BTreeMap<Oid, Arc<Role>>,
    /// Co-location groups of hash tables.
    pub groups: BTreeMap<Oid, Arc<Group>>,
    pub comments: BTreeMap<CommentKey, Arc<str>>,
    /// (schema, name) → OID of a table, view, sequence or index: they share one name space.
    pub names: BTreeMap<(Oid, String), Oid>,
    /// Index (primary keys included) → its table.
    pub index_tables: BTreeMap<Oid, Oid>,
    /// Shared by all versions, so that an identity is never given twice.
    pub ids: Arc<IdSource>,
}

/// What a comment is on, as `pg_description` names it: the OID of the system catalog that lists the object, the object,
/// and a column's number (0: the object itself).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CommentKey {
    pub class: Oid,
    pub object: Oid,
    pub column: i32,
}

/// Hash tables that share a slot map and move together.
#[derive(Clone, Debug)]
pub struct Group {
    /// Types of the shard key; only tables with the same may join.
    pub key_types: Vec<SqlType>,
    /// Whether tables join it without being told to; false for `colocate_with = 'none'`.
    pub default: bool,
    pub map: Arc<SlotMap>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Schema {
    pub oid: Oid,
    pub name: String,
    pub owner: Oid,
    /// The shard of its home tables.
    pub home: ShardId,
}

/// A table with what shards need not know: defaults, identity, options.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Table {
    pub schema: Oid,
    pub owner: Oid,
    pub descriptor: Arc<TableDescriptor>,
    /// By column position.
    pub columns: Vec<ColumnExtra>,
    /// OID of the primary key's constraint and of its index, if there is one.
    pub primary_key_oids: Option<(Oid, Oid)>,
    /// Names and OIDs of UNIQUE constraints: (constraint OID, name, position in `descriptor.indexes`).
    pub unique_constraints: Vec<(Oid, String, usize)>,
    /// `WITH (...)` as the user gave it, in order.
    pub options: Vec<(String, String)>,
    /// Text of each check, by position in `descriptor.checks`.
    pub check_sql: Vec<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ColumnExtra {
    /// Bound default, cast to the column's type; with its text.
    pub default: Option<ColumnDefault>,
    pub identity: Option<Identity>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ColumnDefault {
    /// `pg_attrdef.oid`.
    pub oid: Oid,
    pub expr: ScalarExpr,
    /// As `pg_get_expr` prints it: `nextval('t_id_seq'::regclass)`.
    pub sql: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Identity {
    Always,
    ByDefault,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct View {
    pub oid: Oid,
    pub schema: Oid,
    pub owner: Oid,
    pub name: String,
    /// The defining query's text, with every relation name schema-qualified at creation.
    pub sql: String,
    pub columns: Vec<(String, TypeMod)>,
    /// Relations it reads.
    pub depends_on: Vec<Oid>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sequence {
    pub oid: Oid,
    pub schema: Oid,
    pub owner: Oid,
    pub name: String,
    pub ty: SqlType,
    pub spec: SequenceSpec,
    pub cache: i64,
    /// The shard that counts.
    pub home: ShardId,
    /// The column whose drop drops it: (table, position).
    pub owned_by: Option<(Oid, usize)>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Role {
    pub oid: Oid,
    pub name: String,
    pub superuser: bool,
    pub can_login: bool,
    /// `SCRAM-SHA-256$...`, never the password itself.
    pub password: Option<String>,
}

/// What a relation name in FROM can mean.
#[derive(Clone, Debug)]
pub enum Relation {
    Table(Arc<Table>),
    View(Arc<View>),
    Sequence(Arc<Sequence>),
    System(Arc<SystemRelation>),
}

/// A relation of pg_catalog, information_schema or cortex, computed from the catalog.
#[derive(Clone)]
pub struct SystemRelation {
    pub oid: Oid,
    pub schema: &'static str,
    pub name: &'static str,
    pub columns: Vec<(&'static str, TypeMod)>,
    /// Nothing of its kind can exist: it has no rows in any version of the catalog.
    pub always_empty: bool,
    /// Yields `columns` in order, as `value::arrow` represents them.
    pub provider: Arc<dyn TableProvider>,
}

impl std::fmt::Debug for SystemRelation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SystemRelation({}.{})", self.schema, self.name)
    }
}

/// Who knows the system relations: the gateway.
pub trait SystemRelations: Send + Sync + std::fmt::Debug {
    fn relation(&self, schema: &str, name: &str) -> Option<Arc<SystemRelation>>;

    /// Whether a function of that name changes the cluster: such calls stand alone, and the gateway takes them before they
    /// are bound. Where one is met in another place, the error says so.
    fn is_administration(&self, _schema: &str, _name: &str) -> bool {
        false
    }
}

/// A catalog with the way names are looked up in it: what binding needs.
#[derive(Clone, Debug)]
pub struct Namespace {
    pub catalog: Arc<Catalog>,
    /// Schemas in search order; `pg_catalog` comes first unless listed.
    pub search_path: Vec<String>,
    pub system: Arc<dyn SystemRelations>,
}

impl Namespace {
    /// A relation by name, through the search path unless a schema is given.
    pub fn relation(&self, schema: Option<&str>, name: &str) -> Option<Relation> {
        if let Some(schema) = schema {
            return self.relation_in(schema, name);
        }
        if !self.search_path.iter().any(|schema| schema == "pg_catalog")
            && let Some(relation) = self.system.relation("pg_catalog", name)
        {
            return Some(Relation::System(relation));
        }
        self.search_path.iter().find_map(|schema| self.relation_in(schema, name))
    }

    fn relation_in(&self, schema: &str, name: &str) -> Option<Relation> {
        if let Some(relation) = self.system.relation(schema, name) {
            return Some(Relation::System(relation));
        }
        let schema = self.catalog.schema_by_name(schema)?;
        let oid = self.catalog.names.get(&(schema.oid, name.to_owned()))?;
        self.catalog.relation_by_oid(*oid)
    }
}

impl Catalog {
    pub fn schema_by_name(&self, name: &str) -> Option<&Arc<Schema>> {
        self.schemas.values().find(|schema| schema.name == name)
    }

    pub fn role_by_name(&self, name: &str) -> Option<&Arc<Role>> {
        self.roles.values().find(|role| role.name == name)
    }

    /// A table, view or sequence; indexes are found through their tables.
    pub fn relation_by_oid(&self, oid: Oid) -> Option<Relation> {
        if let Some(table) = self.tables.get(&oid) {
            return Some(Relation::Table(table.clone()));
        }
        if let Some(view) = self.views.get(&oid) {
            return Some(Relation::View(view.clone()));
        }
        self.sequences.get(&oid).map(|sequence| Relation::Sequence(sequence.clone()))
    }
}
