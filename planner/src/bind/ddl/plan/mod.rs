//! Commands to catalog edits and work.
//!
//! A `Ddl` takes a version of the catalog through one command: it checks, edits its own copy and notes what must be done
//! on shards before the edit may be committed. It does nothing itself.

use std::sync::Arc;

use cortex_functions::session::EvalContext;
use cortex_shard_api::{
    Oid, ScalarExpr, TableDescriptor, TypeMod,
    client::{SequenceSpec, SequenceState},
    ids::ShardId,
};
use sqlparser::ast::{Expr, Query};

use super::{DdlCommand, ObjectKind, QualifiedName};
use crate::{
    PlanError, PlanErrorKind,
    catalog::{
        Catalog, Namespace, Relation, Schema, SystemRelations, Table,
        edit::{CORTEX, INFORMATION_SCHEMA, PG_CATALOG},
    },
};

/// CREATE TABLE.
mod create_table;

/// PRIMARY KEY, UNIQUE, CHECK, FOREIGN KEY.
mod constraint;

/// Where a table's rows live.
mod placement;

/// CREATE INDEX.
mod index;

/// DROP, with what depends on what.
mod remove;

/// ALTER TABLE and its like.
mod alter;

/// ALTER COLUMN.
mod alter_column;

/// ADD and DROP CONSTRAINT.
mod alter_constraint;

/// TRUNCATE.
mod truncate;

/// Views, and what changes under them.
mod view;

/// Schemas, roles, comments, grants, extensions.
mod other;

/// A table as it is made or changed.
mod table;

/// Sequences, serial and identity columns.
mod sequence;

pub use constraint::columns_of;
pub use create_table::table_for_query;
pub use sequence::nextval_sequence;

/// What expressions and queries inside DDL mean: asked of the binder.
pub trait DdlBinder {
    /// A column's default, cast to the column's type as assignments are.
    fn default(
        &self,
        namespace: &Namespace,
        column: &str,
        ty: TypeMod,
        expr: &Expr,
    ) -> Result<ScalarExpr, PlanError>;

    /// A condition over a row of the table, which need not be in the catalog yet.
    fn check(
        &self,
        namespace: &Namespace,
        table: &Table,
        expr: &Expr,
    ) -> Result<ScalarExpr, PlanError>;

    /// A value over a row of the table, cast to `ty` as assignments are.
    fn conversion(
        &self,
        namespace: &Namespace,
        table: &Table,
        column: &str,
        ty: TypeMod,
        expr: &Expr,
    ) -> Result<ScalarExpr, PlanError>;

    /// The columns of a query and what it reads.
    fn query(&self, namespace: &Namespace, query: &Query) -> Result<BoundQuery, PlanError>;
}

/// What a view needs to know of its query.
#[derive(Clone, Debug)]
pub struct BoundQuery {
    pub columns: Vec<(String, TypeMod)>,
    pub relations: Vec<Oid>,
    /// The query's text with every relation qualified.
    pub sql: String,
}

/// What a command may see besides the catalog.
pub struct DdlEnvironment<'a> {
    pub search_path: &'a [String],
    pub system: &'a Arc<dyn SystemRelations>,
    pub binder: &'a (dyn DdlBinder + Sync),
    pub eval: &'a EvalContext,
    pub current_role: Oid,
    /// Data shards, ascending.
    pub shards: &'a [ShardId],
    pub default_shard_by: DefaultShardBy,
    pub schema_placement: SchemaPlacement,
    /// Makes a SCRAM verifier of a password.
    pub password_verifier: &'a (dyn Fn(&str) -> String + Sync),
}

/// `cortex.default_shard_by`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DefaultShardBy {
    /// `none`
    #[default]
    Home,
    /// `primary_key`
    PrimaryKey,
}

/// `cortex.schema_placement`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SchemaPlacement {
    /// All schemas share the home shard.
    #[default]
    Home,
    /// Each new schema gets the next shard.
    RoundRobin,
}

/// Something to do before the edited catalog may be committed, in order, inside the session's transaction.
#[derive(Clone, Debug)]
pub enum Work {
    /// Nobody else may write the table until the transaction ends.
    Lock(Arc<TableDescriptor>),
    /// Fills a new index.
    BuildIndex { table: Arc<TableDescriptor>, index: usize },
    /// Copies rows as they are under another key, storage id or set of indexes, shard by shard.
    Rewrite { from: Arc<TableDescriptor>, to: Arc<TableDescriptor> },
    /// Copies rows with columns computed anew, to whatever shard they belong to. One expression for each column of `to`,
    /// over rows of `from`.
    Convert { from: Arc<TableDescriptor>, to: Arc<TableDescriptor>, columns: Arc<[ScalarExpr]> },
    /// Fails if the query, over this version of the catalog, finds a row.
    Verify { catalog: Arc<Catalog>, sql: String, violation: Violation },
    /// ALTER SEQUENCE ... RESTART.
    SetSequence { shard: ShardId, spec: SequenceSpec, state: SequenceState },
}

/// What a row found by `Work::Verify` means.
#[derive(Clone, Debug)]
pub enum Violation {
    /// 23514
    Check { table: String, constraint: String },
    /// 23502
    NotNull { table: String, column: String },
    /// 23503: the row holds the referencing columns' values.
    ForeignKey { table: String, constraint: String, columns: Vec<String>, parent: String },
    /// 22001
    TooLong { ty: String },
}

/// A NOTICE of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DdlNotice {
    pub code: &'static str,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

/// A planned command.
#[derive(Debug)]
pub struct DdlPlan {
    pub catalog: Arc<Catalog>,
    pub work: Vec<Work>,
    pub notices: Vec<DdlNotice>,
    pub tag: &'static str,
    /// CREATE TABLE AS: the table to fill.
    pub created: Option<Oid>,
}

/// Takes a catalog through one command.
pub(crate) struct Ddl<'a> {
    env: &'a DdlEnvironment<'a>,
    catalog: Catalog,
    work: Vec<Work>,
    notices: Vec<DdlNotice>,
    created: Option<Oid>,
}

/// Plans a command over a version of the catalog.
pub fn plan(
    command: &DdlCommand,
    catalog: &Arc<Catalog>,
    env: &DdlEnvironment<'_>,
) -> Result<DdlPlan, PlanError> {
    let mut ddl = Ddl {
        env,
        catalog: Catalog::clone(catalog),
        work: Vec::new(),
        notices: Vec::new(),
        created: None,
    };
    ddl.command(command)?;
    Ok(DdlPlan {
        catalog: Arc::new(ddl.catalog),
        work: ddl.work,
        notices: ddl.notices,
        tag: command.tag(),
        created: ddl.created,
    })
}

impl Ddl<'_> {
    fn command(&mut self, command: &DdlCommand) -> Result<(), PlanError> {
        match command {
            DdlCommand::CreateTable(table) => self.create_table(table),
            DdlCommand::CreateIndex(index) => self.create_index(index),
            DdlCommand::Drop(drop) => self.drop_objects(drop),
            DdlCommand::CreateView(view) => self.create_view(view),
            DdlCommand::CreateSequence { name, if_not_exists, options } => {
                self.create_sequence(name, *if_not_exists, options)
            }
            DdlCommand::AlterSequence { name, if_exists, options } => {
                self.alter_sequence(name, *if_exists, options)
            }
            DdlCommand::CreateSchema(schema) => self.create_schema(schema),
            DdlCommand::CreateRole { name, options } => self.create_role(name, options),
            DdlCommand::AlterRole { name, options } => self.alter_role(name, options),
            DdlCommand::CreateExtension { name, if_not_exists } => {
                self.create_extension(name, *if_not_exists)
            }
            DdlCommand::AlterTable(alter) => self.alter(alter),
            DdlCommand::RenameSchema { name, to } => self.rename_schema(name, to),
            DdlCommand::RenameRole { name, to } => self.rename_role(name, to),
            DdlCommand::Truncate { tables, restart_identity, cascade } => {
                self.truncate(tables, *restart_identity, *cascade)
            }
            DdlCommand::Comment { target, text } => self.comment(target, text.as_deref()),
            DdlCommand::Grant(grant) => self.grant(grant),
        }
    }

    fn notice(&mut self, code: &'static str, message: impl Into<String>) {
        self.notices.push(DdlNotice { code, message: message.into(), detail: None, hint: None });
    }

    /// The edited catalog with the session's way of looking up names.
    fn namespace(&self) -> Namespace {
        Namespace {
            catalog: Arc::new(self.catalog.clone()),
            search_path: self.env.search_path.to_vec(),
            system: self.env.system.clone(),
        }
    }

    /// The schema that a new object goes to.
    fn creation_schema(&self, name: &QualifiedName) -> Result<Arc<Schema>, PlanError> {
        let schema = match &name.schema {
            Some(schema) => self.schema(schema)?,
            None => self
                .env
                .search_path
                .iter()
                .find_map(|schema| {
                    self.catalog.schema_by_name(schema).filter(|schema| schema.oid != PG_CATALOG)
                })
                .cloned()
                .ok_or_else(|| {
                    PlanError::new(
                        PlanErrorKind::UndefinedSchema,
                        "no schema has been selected to create in",
                    )
                    .at(name.position)
                })?,
        };
        if is_system_schema(schema.oid) {
            return Err(PlanError::new(
                PlanErrorKind::InsufficientPrivilege,
                format!("permission denied to create \"{}.{}\"", schema.name, name.name),
            )
            .with_detail("System catalog modifications are currently disallowed."));
        }
        Ok(schema)
    }

    fn schema(&self, name: &str) -> Result<Arc<Schema>, PlanError> {
        self.catalog.schema_by_name(name).cloned().ok_or_else(|| {
            PlanError::new(
                PlanErrorKind::UndefinedSchema,
                format!("schema \"{name}\" does not exist"),
            )
        })
    }

    /// What a name means: the OID of a user's relation, indexes included. System relations are refused with 42501.
    fn lookup(&self, name: &QualifiedName) -> Result<Option<Oid>, PlanError> {
        let in_schema = |schema: &str| -> Option<Oid> {
            let schema = self.catalog.schema_by_name(schema)?;
            self.catalog.names.get(&(schema.oid, name.name.clone())).copied()
        };
        let found = match &name.schema {
            Some(schema) => {
                let is_system = self.env.system.relation(schema, &name.name).is_some();
                if is_system {
                    return Err(system_relation(&name.name));
                }
                if self.catalog.schema_by_name(schema).is_none() {
                    return Err(PlanError::new(
                        PlanErrorKind::UndefinedSchema,
                        format!("schema \"{schema}\" does not exist"),
                    )
                    .at(name.position));
                }
                in_schema(schema)
            }
            None => self.env.search_path.iter().find_map(|schema| in_schema(schema)),
        };
        if found.is_none()
            && name.schema.is_none()
            && self.env.system.relation("pg_catalog", &name.name).is_some()
        {
            return Err(system_relation(&name.name));
        }
        Ok(found)
    }

    /// The table of this name; 42P01 or 42809 otherwise.
    fn table(&self, name: &QualifiedName) -> Result<Arc<Table>, PlanError> {
        let Some(oid) = self.lookup(name)? else { return Err(undefined_relation(name)) };
        match self.catalog.tables.get(&oid) {
            Some(table) => Ok(table.clone()),
            None => Err(self.wrong_kind(oid, &name.name, ObjectKind::Table)),
        }
    }

    fn table_by_oid(&self, oid: Oid) -> Result<Arc<Table>, PlanError> {
        self.catalog.tables.get(&oid).cloned().ok_or_else(|| {
            PlanError::new(PlanErrorKind::Internal, format!("no table with OID {oid}"))
        })
    }

    fn kind_of(&self, oid: Oid) -> ObjectKind {
        match self.catalog.relation_by_oid(oid) {
            Some(Relation::View(_)) => ObjectKind::View,
            Some(Relation::Sequence(_)) => ObjectKind::Sequence,
            Some(Relation::Table(_) | Relation::System(_)) => ObjectKind::Table,
            None => ObjectKind::Index,
        }
    }

    fn wrong_kind(&self, oid: Oid, name: &str, wanted: ObjectKind) -> PlanError {
        let article = if wanted == ObjectKind::Index { "an" } else { "a" };
        let error = PlanError::new(
            PlanErrorKind::WrongObjectType,
            format!("\"{name}\" is not {article} {}", wanted.word()),
        );
        let word = self.kind_of(oid).word();
        error.with_hint(format!(
            "Use DROP {} to remove {} {word}.",
            word.to_uppercase(),
            match word {
                "index" => "an",
                _ => "a",
            }
        ))
    }

    /// 42P07 if a relation has this name already; with IF NOT EXISTS a notice and `true`.
    fn name_taken(
        &mut self,
        schema: &Schema,
        name: &str,
        if_not_exists: bool,
    ) -> Result<bool, PlanError> {
        if !self.catalog.names.contains_key(&(schema.oid, name.to_owned())) {
            return Ok(false);
        }
        let message = format!("relation \"{name}\" already exists");
        if if_not_exists {
            self.notice("42P07", format!("{message}, skipping"));
            return Ok(true);
        }
        Err(PlanError::new(PlanErrorKind::DuplicateTable, message))
    }

    /// The OID of a role by name or `current_user`.
    fn role(&self, name: &str) -> Result<Oid, PlanError> {
        if matches!(name, "current_user" | "current_role" | "session_user") {
            return Ok(self.env.current_role);
        }
        self.catalog.role_by_name(name).map(|role| role.oid).ok_or_else(|| {
            PlanError::new(
                PlanErrorKind::UndefinedObject,
                format!("role \"{name}\" does not exist"),
            )
        })
    }
}

fn is_system_schema(oid: Oid) -> bool {
    matches!(oid, PG_CATALOG | INFORMATION_SCHEMA | CORTEX)
}

fn system_relation(name: &str) -> PlanError {
    PlanError::new(
        PlanErrorKind::InsufficientPrivilege,
        format!("permission denied: \"{name}\" is a system catalog"),
    )
}

fn undefined_relation(name: &QualifiedName) -> PlanError {
    PlanError::new(PlanErrorKind::UndefinedTable, format!("relation \"{name}\" does not exist"))
}

fn undefined_column(column: &str, table: &str) -> PlanError {
    PlanError::new(
        PlanErrorKind::UndefinedColumn,
        format!("column \"{column}\" of relation \"{table}\" does not exist"),
    )
}

#[cfg(test)]
mod tests;
