//! A table as it is made or changed: columns, keys, what a type can be used for.

use std::sync::Arc;

use cortex_shard_api::{
    Datum, Oid, ScalarExpr, SqlType, TypeMod,
    descriptor::{ColumnDescriptor, IndexColumn, IndexDescriptor, IndexState, TableDescriptor},
};

use sqlparser::parser::Parser;

use super::{Ddl, undefined_column};
use crate::{
    CortexDialect, PlanError, PlanErrorKind,
    bind::ddl::{ColumnDefinition, QualifiedName, SourceExpr, cursor::Cursor},
    catalog::{ColumnDefault, ColumnExtra, Identity, Table},
};

/// Columns of a table at most, dropped ones included: attribute numbers are small.
pub const COLUMNS_MAX: usize = 1600;

/// Columns of a key or an index at most.
pub const KEY_COLUMNS_MAX: usize = 32;

/// Names that every table of Postgres has already.
const SYSTEM_COLUMNS: &[&str] =
    &["tableoid", "cmax", "xmax", "cmin", "xmin", "ctid", "cortex_key", "cortex_version"];

impl Ddl<'_> {
    /// Appends a column without its constraints; makes its sequence. `missing` is for rows that exist already.
    pub(super) fn append_column(
        &mut self,
        table: &mut Table,
        column: &ColumnDefinition,
    ) -> Result<usize, PlanError> {
        self.check_new_column(table, column)?;
        let position = table.descriptor.columns.len();
        let version = table.descriptor.version;
        let mut not_null = column.not_null == Some(true) || column.serial;
        if (column.serial || column.identity.is_some()) && column.not_null == Some(false) {
            return Err(PlanError::new(
                PlanErrorKind::Syntax,
                format!(
                    "conflicting NULL/NOT NULL declarations for column \"{}\" of table \"{}\"",
                    column.name, table.descriptor.name
                ),
            )
            .at(column.position));
        }
        not_null |= column.identity.is_some();
        Arc::make_mut(&mut table.descriptor).columns.push(ColumnDescriptor {
            name: column.name.clone(),
            ty: column.ty,
            not_null,
            dropped: false,
            added_in: version,
            missing: Datum::Null,
        });
        let mut extra = ColumnExtra::default();
        if column.serial {
            if column.default.is_some() || column.identity.is_some() {
                return Err(multiple_defaults(column, &table.descriptor.name));
            }
            let default = self.serial_default(table, position, column.ty)?;
            extra.default = Some(default);
        } else if let Some((identity, options)) = &column.identity {
            if column.default.is_some() {
                return Err(PlanError::new(
                    PlanErrorKind::Syntax,
                    format!(
                        "both default and identity specified for column \"{}\" of table \"{}\"",
                        column.name, table.descriptor.name
                    ),
                )
                .at(column.position));
            }
            extra = self.identity_extra(table, position, *identity, options)?;
        } else if let Some(default) = &column.default {
            extra.default = self.bind_default(&column.name, column.ty, default)?;
        }
        table.columns.push(extra);
        Ok(position)
    }

    fn check_new_column(&self, table: &Table, column: &ColumnDefinition) -> Result<(), PlanError> {
        if table.descriptor.column(&column.name).is_some() {
            return Err(PlanError::new(
                PlanErrorKind::DuplicateColumn,
                format!(
                    "column \"{}\" of relation \"{}\" already exists",
                    column.name, table.descriptor.name
                ),
            )
            .at(column.position));
        }
        if SYSTEM_COLUMNS.contains(&column.name.as_str()) {
            return Err(PlanError::new(
                PlanErrorKind::DuplicateColumn,
                format!("column name \"{}\" conflicts with a system column name", column.name),
            )
            .at(column.position));
        }
        if table.descriptor.columns.len() >= COLUMNS_MAX {
            return Err(PlanError::new(
                PlanErrorKind::TooManyColumns,
                format!("tables can have at most {COLUMNS_MAX} columns"),
            ));
        }
        let ty = column.ty.ty;
        if matches!(ty, SqlType::Unknown | SqlType::Void | SqlType::Record) {
            return Err(PlanError::new(
                PlanErrorKind::InvalidTableDefinition,
                format!("column \"{}\" has pseudo-type {}", column.name, ty.sql_name()),
            )
            .at(column.position));
        }
        Ok(())
    }

    /// A bound default; `DEFAULT NULL` is none.
    pub(super) fn bind_default(
        &self,
        column: &str,
        ty: TypeMod,
        default: &SourceExpr,
    ) -> Result<Option<ColumnDefault>, PlanError> {
        let mut expr = self.env.binder.default(&self.namespace(), column, ty, &default.expr)?;
        self.resolve_relations(&mut expr)?;
        if matches!(&expr, ScalarExpr::Literal { value: Datum::Null, .. }) {
            return Ok(None);
        }
        Ok(Some(ColumnDefault { oid: self.catalog.ids.oid()?, expr, sql: default.sql.clone() }))
    }

    /// `nextval('s')` names a relation by text: from now on it means the relation itself, whatever it is called later.
    fn resolve_relations(&self, expr: &mut ScalarExpr) -> Result<(), PlanError> {
        let args: &mut [ScalarExpr] = match expr {
            ScalarExpr::Call { args, .. } => args,
            ScalarExpr::Cast { arg, .. } => std::slice::from_mut(&mut **arg),
            _ => return Ok(()),
        };
        for arg in args {
            let name = match &*arg {
                ScalarExpr::Cast { arg, to, .. } if to.ty == SqlType::Regclass => literal_text(arg),
                ScalarExpr::Call { args, ty, .. } if ty.ty == SqlType::Regclass => {
                    args.first().and_then(literal_text)
                }
                _ => None,
            };
            match name {
                Some(name) => {
                    let name = relation_name(&name)?;
                    let oid =
                        self.lookup(&name)?.ok_or_else(|| super::undefined_relation(&name))?;
                    *arg = ScalarExpr::literal(Datum::Oid(oid.0), SqlType::Regclass);
                }
                None => self.resolve_relations(arg)?,
            }
        }
        Ok(())
    }

    pub(super) fn identity_extra(
        &mut self,
        table: &Table,
        position: usize,
        identity: Identity,
        options: &crate::bind::ddl::SequenceOptions,
    ) -> Result<ColumnExtra, PlanError> {
        let column = &table.descriptor.columns[position];
        if !column.ty.ty.is_integer() {
            return Err(PlanError::new(
                PlanErrorKind::InvalidParameterValue,
                "identity column type must be smallint, integer, or bigint",
            ));
        }
        let default = self.sequence_default(table, position, options)?;
        Ok(ColumnExtra { default: Some(default), identity: Some(identity) })
    }

    fn serial_default(
        &mut self,
        table: &Table,
        position: usize,
        ty: TypeMod,
    ) -> Result<ColumnDefault, PlanError> {
        let options = crate::bind::ddl::SequenceOptions { ty: Some(ty.ty), ..Default::default() };
        self.sequence_default(table, position, &options)
    }

    /// Positions of named columns, with Postgres's errors for keys.
    pub(super) fn key_columns(
        &self,
        table: &Table,
        names: &[String],
        what: &str,
    ) -> Result<Vec<usize>, PlanError> {
        let mut positions = Vec::with_capacity(names.len());
        for name in names {
            let position = table.descriptor.column(name).ok_or_else(|| {
                PlanError::new(
                    PlanErrorKind::UndefinedColumn,
                    format!("column \"{name}\" named in key does not exist"),
                )
            })?;
            if positions.contains(&position) {
                return Err(PlanError::new(
                    PlanErrorKind::DuplicateColumn,
                    format!("column \"{name}\" appears twice in {what} constraint"),
                ));
            }
            check_ordered(table.descriptor.columns[position].ty.ty)?;
            positions.push(position);
        }
        check_key_length(positions.len())?;
        Ok(positions)
    }

    /// A new index's descriptor on fresh storage.
    pub(super) fn new_index(
        &self,
        name: String,
        unique: bool,
        constraint: bool,
        columns: Vec<IndexColumn>,
    ) -> Result<IndexDescriptor, PlanError> {
        Ok(IndexDescriptor {
            oid: self.catalog.ids.oid()?,
            name,
            storage: self.catalog.ids.storage()?,
            unique,
            constraint,
            columns,
            state: IndexState::Public,
        })
    }

    /// The same table on fresh storage, indexes too: for rewrites and TRUNCATE.
    pub(super) fn move_storage(&self, table: &mut Table) -> Result<(), PlanError> {
        let ids = self.catalog.ids.clone();
        let descriptor = Arc::make_mut(&mut table.descriptor);
        descriptor.storage = ids.storage()?;
        for index in &mut descriptor.indexes {
            index.storage = ids.storage()?;
        }
        descriptor.version += 1;
        Ok(())
    }
}

fn literal_text(expr: &ScalarExpr) -> Option<String> {
    match expr {
        ScalarExpr::Literal { value: Datum::Text(text), .. } => Some(text.to_string()),
        ScalarExpr::Cast { arg, .. } => literal_text(arg),
        _ => None,
    }
}

/// A relation's name inside a string.
fn relation_name(text: &str) -> Result<QualifiedName, PlanError> {
    let dialect = CortexDialect;
    let invalid = || PlanError::new(PlanErrorKind::InvalidParameterValue, "invalid name syntax");
    let mut parser = Parser::new(&dialect).try_with_sql(text).map_err(|_| invalid())?;
    let mut name = Cursor::new(&mut parser, text).qualified_name().map_err(|_| invalid())?;
    name.position = None;
    Ok(name)
}

/// Position of a live column; 42703 otherwise.
pub(super) fn column_position(table: &Table, name: &str) -> Result<usize, PlanError> {
    table.descriptor.column(name).ok_or_else(|| undefined_column(name, &table.descriptor.name))
}

/// An ascending index column with NULLs last.
pub(super) fn ascending(column: usize) -> IndexColumn {
    IndexColumn { column, descending: false, nulls_first: false }
}

/// 42704 for types without an order.
pub(super) fn check_ordered(ty: SqlType) -> Result<(), PlanError> {
    let scalar = ty.element().unwrap_or(ty);
    if !matches!(scalar, SqlType::Json) {
        return Ok(());
    }
    Err(PlanError::new(
        PlanErrorKind::UndefinedObject,
        format!(
            "data type {} has no default operator class for access method \"btree\"",
            ty.sql_name()
        ),
    )
    .with_hint(
        "You must specify an operator class for the index or define a default operator class for the data type.",
    ))
}

pub(super) fn check_key_length(columns: usize) -> Result<(), PlanError> {
    if columns <= KEY_COLUMNS_MAX {
        return Ok(());
    }
    Err(PlanError::new(
        PlanErrorKind::TooManyColumns,
        format!("cannot use more than {KEY_COLUMNS_MAX} columns in an index"),
    ))
}

fn multiple_defaults(column: &ColumnDefinition, table: &str) -> PlanError {
    PlanError::new(
        PlanErrorKind::Syntax,
        format!(
            "multiple default values specified for column \"{}\" of table \"{table}\"",
            column.name
        ),
    )
    .at(column.position)
}

/// The table's name as SQL text.
pub(super) fn qualified(descriptor: &TableDescriptor) -> String {
    format!("{}.{}", quote(&descriptor.schema), quote(&descriptor.name))
}

/// A name as SQL text, always quoted: for statements that we make.
pub(super) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// An empty table, to be filled by CREATE TABLE.
pub(super) fn empty_table(
    oid: Oid,
    schema: &crate::catalog::Schema,
    name: &str,
    storage: cortex_shard_api::StorageId,
    owner: Oid,
) -> Table {
    Table {
        schema: schema.oid,
        owner,
        descriptor: Arc::new(TableDescriptor {
            oid,
            schema: schema.name.clone(),
            name: name.to_owned(),
            storage,
            version: 1,
            columns: Vec::new(),
            primary_key: Vec::new(),
            primary_key_name: None,
            placement: cortex_shard_api::descriptor::Placement::Home(schema.home),
            placement_epoch: 0,
            indexes: Vec::new(),
            checks: Vec::new(),
            foreign_keys: Vec::new(),
            referenced_by: Vec::new(),
        }),
        columns: Vec::new(),
        primary_key_oids: None,
        unique_constraints: Vec::new(),
        options: Vec::new(),
        check_sql: Vec::new(),
    }
}
