//! Statements that change the catalog.
//!
//! Lives here: from tokens to typed commands (`parse*`; sqlparser reads too little of Postgres's DDL, so we read it
//! ourselves and use its expression and query parsers), and from a command and a catalog to an edited catalog with a
//! list of work on shards (`plan`). Pure: nothing is read or written. Not here: doing the work (`gateway::catalog`).

use cortex_shard_api::{SqlType, TypeMod, descriptor::ReferentialAction};
use sqlparser::ast::{Expr, Query};

use crate::catalog::Identity;

/// A cursor over tokens with Postgres's names and errors.
mod cursor;

/// Type names with modifiers.
mod type_name;

/// First words to commands.
mod parse;

/// CREATE TABLE.
mod parse_table;

/// ALTER.
mod parse_alter;

/// Sequences, roles, views, comments, grants.
mod parse_other;

/// Commands to catalog edits and work.
pub mod plan;

pub use parse::{is_ddl, parse_ddl};

/// A possibly qualified name, folded and cut as Postgres does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct QualifiedName {
    pub schema: Option<String>,
    pub name: String,
    /// Characters from 1 in the statement.
    pub position: Option<usize>,
}

impl std::fmt::Display for QualifiedName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.schema {
            Some(schema) => write!(f, "{schema}.{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// An expression with its source text.
#[derive(Clone, Debug)]
pub struct SourceExpr {
    pub expr: Expr,
    pub sql: String,
}

/// A statement that changes the catalog.
#[derive(Clone, Debug)]
pub enum DdlCommand {
    CreateTable(Box<CreateTable>),
    CreateIndex(CreateIndex),
    CreateView(Box<CreateView>),
    CreateSequence {
        name: QualifiedName,
        if_not_exists: bool,
        options: SequenceOptions,
    },
    AlterSequence {
        name: QualifiedName,
        if_exists: bool,
        options: SequenceOptions,
    },
    CreateSchema(CreateSchema),
    CreateRole {
        name: String,
        options: RoleOptions,
    },
    AlterRole {
        name: String,
        options: RoleOptions,
    },
    /// A notice or an error, by the extension's name.
    CreateExtension {
        name: String,
        if_not_exists: bool,
    },
    Drop(Drop),
    AlterTable(AlterTable),
    RenameSchema {
        name: String,
        to: String,
    },
    RenameRole {
        name: String,
        to: String,
    },
    Truncate {
        tables: Vec<QualifiedName>,
        restart_identity: bool,
        cascade: bool,
    },
    Comment {
        target: CommentTarget,
        text: Option<String>,
    },
    /// Only what changes nothing can be accepted: everybody's rights are those of the superuser.
    Grant(Grant),
}

/// CREATE TABLE, CREATE TABLE AS.
#[derive(Clone, Debug)]
pub struct CreateTable {
    pub name: QualifiedName,
    pub if_not_exists: bool,
    pub unlogged: bool,
    pub columns: Vec<ColumnDefinition>,
    pub constraints: Vec<ConstraintDefinition>,
    pub likes: Vec<LikeClause>,
    /// `WITH (...)`; SHARD BY is in it as `shard_by`.
    pub options: Vec<(String, String)>,
    pub as_query: Option<AsQuery>,
}

/// `AS SELECT ...`
#[derive(Clone, Debug)]
pub struct AsQuery {
    pub query: Box<Query>,
    /// Column names given in front of AS.
    pub names: Vec<String>,
    pub with_data: bool,
}

/// `LIKE source INCLUDING ...`
#[derive(Clone, Debug)]
pub struct LikeClause {
    pub source: QualifiedName,
    pub defaults: bool,
    pub constraints: bool,
    pub identity: bool,
    pub indexes: bool,
    pub comments: bool,
}

#[derive(Clone, Debug)]
pub struct ColumnDefinition {
    pub name: String,
    pub ty: TypeMod,
    /// `serial` and its like: a sequence, a default and NOT NULL.
    pub serial: bool,
    pub default: Option<SourceExpr>,
    /// `Some(false)` for an explicit NULL.
    pub not_null: Option<bool>,
    pub identity: Option<(Identity, SequenceOptions)>,
    pub constraints: Vec<ConstraintDefinition>,
    pub position: Option<usize>,
}

impl ColumnDefinition {
    /// A column with a type alone, as CREATE TABLE AS makes it.
    pub fn plain(name: impl Into<String>, ty: TypeMod) -> ColumnDefinition {
        ColumnDefinition {
            name: name.into(),
            ty,
            serial: false,
            default: None,
            not_null: None,
            identity: None,
            constraints: Vec::new(),
            position: None,
        }
    }
}

#[derive(Clone, Debug)]
pub struct ConstraintDefinition {
    pub name: Option<String>,
    pub kind: ConstraintKind,
    pub position: Option<usize>,
}

#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "a statement has a handful of them")]
pub enum ConstraintKind {
    PrimaryKey {
        columns: Vec<String>,
    },
    Unique {
        columns: Vec<String>,
    },
    /// `ADD PRIMARY KEY USING INDEX i`, `ADD UNIQUE USING INDEX i`
    UsingIndex {
        index: String,
        primary: bool,
    },
    Check(SourceExpr),
    ForeignKey {
        columns: Vec<String>,
        parent: QualifiedName,
        /// Empty: the parent's primary key.
        parent_columns: Vec<String>,
        on_delete: ReferentialAction,
        on_update: ReferentialAction,
    },
}

#[derive(Clone, Debug)]
pub struct CreateIndex {
    pub name: Option<QualifiedName>,
    pub if_not_exists: bool,
    pub unique: bool,
    pub concurrently: bool,
    pub table: QualifiedName,
    pub columns: Vec<IndexColumnDefinition>,
}

#[derive(Clone, Debug)]
pub struct IndexColumnDefinition {
    pub name: String,
    pub descending: bool,
    pub nulls_first: bool,
}

#[derive(Clone, Debug)]
pub struct CreateView {
    pub name: QualifiedName,
    pub or_replace: bool,
    pub columns: Vec<String>,
    pub query: Box<Query>,
    pub sql: String,
}

/// Options of CREATE and ALTER SEQUENCE and of identity columns; `None`: not mentioned.
#[derive(Clone, Debug, Default)]
pub struct SequenceOptions {
    pub ty: Option<SqlType>,
    pub increment: Option<i64>,
    /// `Some(None)`: NO MINVALUE.
    pub min: Option<Option<i64>>,
    pub max: Option<Option<i64>>,
    pub start: Option<i64>,
    /// `Some(None)`: RESTART without a value.
    pub restart: Option<Option<i64>>,
    pub cache: Option<i64>,
    pub cycle: Option<bool>,
    /// `Some(None)`: OWNED BY NONE.
    pub owned_by: Option<Option<(QualifiedName, String)>>,
    pub name: Option<QualifiedName>,
}

#[derive(Clone, Debug)]
pub struct CreateSchema {
    pub name: String,
    pub if_not_exists: bool,
    pub owner: Option<String>,
    /// `WITH (home = n)`
    pub home: Option<u32>,
}

#[derive(Clone, Debug, Default)]
pub struct RoleOptions {
    pub superuser: Option<bool>,
    pub login: Option<bool>,
    /// `Some(None)`: PASSWORD NULL.
    pub password: Option<Option<String>>,
    /// Options that we do not have, by name.
    pub unsupported: Vec<String>,
    pub if_exists: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectKind {
    Table,
    Index,
    View,
    Sequence,
    Schema,
    Role,
    Extension,
}

impl ObjectKind {
    /// `table`, `index`, as messages say it.
    pub const fn word(self) -> &'static str {
        match self {
            ObjectKind::Table => "table",
            ObjectKind::Index => "index",
            ObjectKind::View => "view",
            ObjectKind::Sequence => "sequence",
            ObjectKind::Schema => "schema",
            ObjectKind::Role => "role",
            ObjectKind::Extension => "extension",
        }
    }
}

#[derive(Clone, Debug)]
pub struct Drop {
    pub kind: ObjectKind,
    pub names: Vec<QualifiedName>,
    pub if_exists: bool,
    pub cascade: bool,
}

#[derive(Clone, Debug)]
pub struct AlterTable {
    /// Which word followed ALTER: each kind has its own errors.
    pub kind: ObjectKind,
    pub name: QualifiedName,
    pub if_exists: bool,
    pub actions: Vec<AlterAction>,
}

#[derive(Clone, Debug)]
pub enum AlterAction {
    AddColumn {
        column: Box<ColumnDefinition>,
        if_not_exists: bool,
    },
    DropColumn {
        name: String,
        if_exists: bool,
        cascade: bool,
    },
    RenameColumn {
        name: String,
        to: String,
    },
    RenameTo(String),
    RenameConstraint {
        name: String,
        to: String,
    },
    SetDefault {
        column: String,
        default: Option<SourceExpr>,
    },
    SetNotNull {
        column: String,
        not_null: bool,
    },
    SetType {
        column: String,
        ty: TypeMod,
        using: Option<SourceExpr>,
    },
    AddIdentity {
        column: String,
        identity: Identity,
        options: SequenceOptions,
    },
    /// SET GENERATED, and sequence options by `SET INCREMENT ...`, RESTART.
    SetIdentity {
        column: String,
        identity: Option<Identity>,
        options: SequenceOptions,
    },
    DropIdentity {
        column: String,
        if_exists: bool,
    },
    AddConstraint {
        constraint: ConstraintDefinition,
    },
    DropConstraint {
        name: String,
        if_exists: bool,
        cascade: bool,
    },
    ValidateConstraint {
        name: String,
    },
    OwnerTo(String),
    SetSchema(String),
    SetOptions(Vec<(String, String)>),
    /// SET (shard_by = 'none') for the table and all that foreign keys connect with it: `undistribute_table`.
    BringFamilyHome,
    ResetOptions(Vec<String>),
}

#[derive(Clone, Debug)]
pub enum CommentTarget {
    Relation(ObjectKind, QualifiedName),
    Column(QualifiedName, String),
    Constraint(String, QualifiedName),
    Schema(String),
    Role(String),
    Database(String),
}

#[derive(Clone, Debug)]
pub struct Grant {
    pub revoke: bool,
    pub grantees: Vec<String>,
    /// Tables and other relations that are named, to be looked up.
    pub relations: Vec<QualifiedName>,
    /// Roles given, for `GRANT role TO role`.
    pub roles: Vec<String>,
}

impl DdlCommand {
    /// The command tag.
    pub fn tag(&self) -> &'static str {
        match self {
            DdlCommand::CreateTable(table) if table.as_query.is_some() => "CREATE TABLE AS",
            DdlCommand::CreateTable(_) => "CREATE TABLE",
            DdlCommand::CreateIndex(_) => "CREATE INDEX",
            DdlCommand::CreateView(_) => "CREATE VIEW",
            DdlCommand::CreateSequence { .. } => "CREATE SEQUENCE",
            DdlCommand::AlterSequence { .. } => "ALTER SEQUENCE",
            DdlCommand::CreateSchema(_) => "CREATE SCHEMA",
            DdlCommand::CreateRole { .. } => "CREATE ROLE",
            DdlCommand::AlterRole { .. } | DdlCommand::RenameRole { .. } => "ALTER ROLE",
            DdlCommand::CreateExtension { .. } => "CREATE EXTENSION",
            DdlCommand::RenameSchema { .. } => "ALTER SCHEMA",
            DdlCommand::Truncate { .. } => "TRUNCATE TABLE",
            DdlCommand::Comment { .. } => "COMMENT",
            DdlCommand::Grant(Grant { revoke: true, roles, .. }) if !roles.is_empty() => {
                "REVOKE ROLE"
            }
            DdlCommand::Grant(Grant { roles, .. }) if !roles.is_empty() => "GRANT ROLE",
            DdlCommand::Grant(Grant { revoke: true, .. }) => "REVOKE",
            DdlCommand::Grant(_) => "GRANT",
            DdlCommand::Drop(drop) => match drop.kind {
                ObjectKind::Table => "DROP TABLE",
                ObjectKind::Index => "DROP INDEX",
                ObjectKind::View => "DROP VIEW",
                ObjectKind::Sequence => "DROP SEQUENCE",
                ObjectKind::Schema => "DROP SCHEMA",
                ObjectKind::Role => "DROP ROLE",
                ObjectKind::Extension => "DROP EXTENSION",
            },
            DdlCommand::AlterTable(alter) => match alter.kind {
                ObjectKind::Index => "ALTER INDEX",
                ObjectKind::View => "ALTER VIEW",
                ObjectKind::Sequence => "ALTER SEQUENCE",
                ObjectKind::Schema => "ALTER SCHEMA",
                _ => "ALTER TABLE",
            },
        }
    }
}
