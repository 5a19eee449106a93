//! Which names an expression may use, and what they mean.
//!
//! Lives here: scopes (the relations of a FROM clause and what is visible of them) and the lookup of column references through
//! the queries around. Not here: how FROM makes a scope (`lower::from`).

use std::sync::Arc;

use cortex_shard_api::{Datum, Oid, SqlType};
use datafusion::common::Column;
use sqlparser::ast::Ident;

use super::{
    Binder,
    typed::{ColumnRef, Kind, OuterColumn, TypedExpr},
};
use crate::{PlanError, PlanErrorKind, catalog::Table};

/// Where an expression stands: what is allowed in it, and what its errors call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clause {
    Select,
    Where,
    Having,
    GroupBy,
    OrderBy,
    DistinctOn,
    JoinOn,
    Values,
    Insert,
    Update,
    Returning,
    OnConflict,
    Default,
    Check,
    Limit,
    Offset,
    Filter,
    Window,
    FromFunction,
    IndexExpression,
}

impl Clause {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Clause::Select => "SELECT",
            Clause::Where => "WHERE",
            Clause::Having => "HAVING",
            Clause::GroupBy => "GROUP BY",
            Clause::OrderBy => "ORDER BY",
            Clause::DistinctOn => "DISTINCT ON",
            Clause::JoinOn => "JOIN conditions",
            Clause::Values => "VALUES",
            Clause::Insert => "INSERT",
            Clause::Update => "UPDATE",
            Clause::Returning => "RETURNING",
            Clause::OnConflict => "ON CONFLICT DO UPDATE",
            Clause::Default => "DEFAULT expressions",
            Clause::Check => "check constraints",
            Clause::Limit => "LIMIT",
            Clause::Offset => "OFFSET",
            Clause::Filter => "FILTER",
            Clause::Window => "window definitions",
            Clause::FromFunction => "functions in FROM",
            Clause::IndexExpression => "index expressions",
        }
    }

    pub(crate) fn allows_aggregates(self) -> bool {
        matches!(
            self,
            Clause::Select | Clause::Having | Clause::OrderBy | Clause::DistinctOn | Clause::Window
        )
    }

    pub(crate) fn allows_windows(self) -> bool {
        matches!(self, Clause::Select | Clause::OrderBy | Clause::DistinctOn)
    }

    pub(crate) fn allows_sets(self) -> bool {
        matches!(self, Clause::Select | Clause::OrderBy | Clause::FromFunction | Clause::DistinctOn)
    }
}

/// A column as it is seen by name. Usually a column reference; COALESCE for merged columns of a full join.
#[derive(Clone, Debug)]
pub struct ScopeColumn {
    pub name: String,
    pub expr: TypedExpr,
}

/// One relation of a FROM clause.
#[derive(Clone, Debug)]
pub struct ScopeRelation {
    pub name: String,
    /// Schema, unless the relation has an alias.
    pub schema: Option<String>,
    /// Table name behind an alias, for hints.
    pub table_name: Option<String>,
    pub oid: Option<Oid>,
    pub columns: Vec<ScopeColumn>,
    /// The hidden identity columns `cortex_key` and `cortex_version`, where the scan has them.
    pub identity: Option<(Column, Column)>,
    pub table: Option<Arc<Table>>,
    /// In sight but not to be used: the left side of RIGHT and FULL JOIN for LATERAL.
    pub blocked: bool,
    /// A function in FROM that returns one column: its name is the value.
    pub scalar: bool,
}

/// The relations of a FROM clause, and the columns of `*` in order.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    pub relations: Vec<ScopeRelation>,
    pub visible: Vec<ScopeColumn>,
    /// Output columns that ORDER BY and GROUP BY may name; empty elsewhere.
    pub(crate) window_names: Vec<(String, sqlparser::ast::WindowSpec)>,
}

impl Scope {
    /// No relations: DEFAULT, VALUES, LIMIT.
    pub fn empty() -> Scope {
        Scope::default()
    }

    /// One table's row, for expressions over it: CHECK, UPDATE by key, RETURNING.
    pub fn of_table(table: &Arc<Table>, alias: Option<&str>) -> Scope {
        let relation = table_relation(table, alias, 0, 0, None);
        Scope { visible: relation.columns.clone(), relations: vec![relation], ..Scope::default() }
    }

    /// ON CONFLICT DO UPDATE: the existing row, and behind it the excluded one, named `excluded`.
    pub fn with_excluded(table: &Arc<Table>, alias: Option<&str>) -> Scope {
        let mut scope = Scope::of_table(table, alias);
        let offset = table.descriptor.columns.len();
        scope.relations.push(table_relation(table, Some("excluded"), 1, offset, None));
        scope
    }

    /// Both sides of a join or a FROM list.
    pub(crate) fn join(mut self, right: Scope) -> Scope {
        self.relations.extend(right.relations);
        self.visible.extend(right.visible);
        self
    }
}

/// The relation of a table with its live columns; `qualifier` is its name in the plan.
pub(crate) fn table_relation(
    table: &Arc<Table>,
    alias: Option<&str>,
    instance: usize,
    offset: usize,
    qualifier: Option<&str>,
) -> ScopeRelation {
    let descriptor = &table.descriptor;
    let name = alias.unwrap_or(&descriptor.name).to_owned();
    let columns = descriptor
        .live_columns()
        .map(|(position, column)| {
            let reference = ColumnRef {
                instance,
                position: position + offset,
                relation: name.clone(),
                name: column.name.clone(),
                column: match qualifier {
                    Some(qualifier) => plan_column(qualifier, &column.name),
                    None => Column::new_unqualified(&column.name),
                },
                table: Some(table.clone()),
                system: None,
            };
            let kind = Kind::Column { column: Arc::new(reference), level: 0 };
            ScopeColumn { name: column.name.clone(), expr: TypedExpr::new(kind, column.ty) }
        })
        .collect();
    ScopeRelation {
        name,
        schema: alias.is_none().then(|| descriptor.schema.clone()),
        table_name: alias.map(|_| descriptor.name.clone()),
        oid: Some(descriptor.oid),
        columns,
        identity: None,
        table: Some(table.clone()),
        blocked: false,
        scalar: false,
    }
}

/// A column of the plan, never parsed from text.
pub(crate) fn plan_column(qualifier: &str, name: &str) -> Column {
    Column::new(Some(datafusion::common::TableReference::bare(qualifier.to_owned())), name)
}

/// What an identifier denotes: the parser keeps the case, Postgres folds unless quoted.
pub fn fold_ident(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    }
}

const SYSTEM_COLUMNS: [&str; 5] = ["ctid", "xmin", "xmax", "cmin", "cmax"];

impl Binder<'_> {
    /// A column reference of one to three parts.
    pub(crate) fn bind_column(
        &mut self,
        parts: &[Ident],
        scope: &Scope,
        clause: Clause,
    ) -> Result<TypedExpr, PlanError> {
        let position = parts.first().and_then(|first| self.position(first.span));
        let names: Vec<String> = parts.iter().map(fold_ident).collect();
        let found = match names.as_slice() {
            [column] => self.find_unqualified(column, scope, position),
            [table, column] => self.find_qualified(None, table, column, scope, position),
            [schema, table, column] => {
                self.find_qualified(Some(schema), table, column, scope, position)
            }
            [_, schema, table, column] => {
                self.find_qualified(Some(schema), table, column, scope, position)
            }
            _ => Err(PlanError::new(
                PlanErrorKind::Syntax,
                format!("improper qualified name (too many dotted names): {}", names.join(".")),
            )),
        }
        .map_err(|error| error.at(position))?;
        if clause == Clause::Default {
            return Err(PlanError::new(
                PlanErrorKind::Unsupported,
                "cannot use column reference in DEFAULT expression",
            )
            .at(position));
        }
        Ok(found.at(position))
    }

    fn find_unqualified(
        &mut self,
        name: &str,
        scope: &Scope,
        position: Option<usize>,
    ) -> Result<TypedExpr, PlanError> {
        if let Some(found) = visible(scope, name)? {
            return Ok(found);
        }
        for level in 1..=self.outer.len() {
            let index = self.outer.len() - level;
            let outer = self.outer[index].clone();
            if let Some(found) = visible(&outer, name)? {
                return Ok(self.outer_reference(found.at(position), level));
            }
        }
        Err(undefined_column(name, None))
    }

    fn find_qualified(
        &mut self,
        schema: Option<&str>,
        table: &str,
        column: &str,
        scope: &Scope,
        position: Option<usize>,
    ) -> Result<TypedExpr, PlanError> {
        if let Some(relation) = find_relation(scope, schema, table)? {
            return relation_column(relation, column);
        }
        for level in 1..=self.outer.len() {
            let index = self.outer.len() - level;
            let outer = self.outer[index].clone();
            if let Some(relation) = find_relation(&outer, schema, table)? {
                let found = relation_column(relation, column)?;
                return Ok(self.outer_reference(found.at(position), level));
            }
        }
        let aliased =
            scope.relations.iter().find(|relation| relation.table_name.as_deref() == Some(table));
        let name = match schema {
            Some(schema) => format!("{schema}.{table}"),
            None => table.to_owned(),
        };
        Err(match aliased {
            Some(relation) => PlanError::new(
                PlanErrorKind::UndefinedTable,
                format!("invalid reference to FROM-clause entry for table \"{name}\""),
            )
            .with_hint(format!(
                "Perhaps you meant to reference the table alias \"{}\".",
                relation.name
            )),
            None => PlanError::new(
                PlanErrorKind::UndefinedTable,
                format!("missing FROM-clause entry for table \"{name}\""),
            ),
        })
    }

    /// Moves an expression of a query `level` queries up into this one, and notes what it uses.
    fn outer_reference(&mut self, mut found: TypedExpr, level: usize) -> TypedExpr {
        self.raise(&mut found, level);
        found
    }

    fn raise(&mut self, expr: &mut TypedExpr, levels: usize) {
        let (ty, position) = (expr.ty, expr.position);
        if let Kind::Column { column, level } = &mut expr.kind {
            *level += levels;
            let column = column.clone();
            let owner = self.outer_used.len() - levels;
            let used = &mut self.outer_used[owner];
            if !used.iter().any(|seen| seen.column.same(&column)) {
                used.push(OuterColumn { column, ty, position });
            }
        }
        for child in expr.children_mut() {
            self.raise(child, levels);
        }
    }

    /// The columns of `t.*`.
    pub(crate) fn star_columns(
        &self,
        parts: &[Ident],
        scope: &Scope,
    ) -> Result<Vec<ScopeColumn>, PlanError> {
        let names: Vec<String> = parts.iter().map(fold_ident).collect();
        let (schema, table) = match names.as_slice() {
            [table] => (None, table),
            [.., schema, table] => (Some(schema.as_str()), table),
            [] => return Ok(scope.visible.clone()),
        };
        let position = parts.first().and_then(|first| self.position(first.span));
        match find_relation(scope, schema, table)? {
            Some(relation) => Ok(relation.columns.clone()),
            None => Err(PlanError::new(
                PlanErrorKind::UndefinedTable,
                format!("missing FROM-clause entry for table \"{table}\""),
            )
            .at(position)),
        }
    }
}

fn visible(scope: &Scope, name: &str) -> Result<Option<TypedExpr>, PlanError> {
    let mut found = scope.visible.iter().filter(|column| column.name == name);
    if let Some(first) = found.next() {
        if found.next().is_some() {
            return Err(ambiguous(name));
        }
        return Ok(Some(first.expr.clone()));
    }
    system_column(&scope.relations, name)
}

/// `tableoid`, for a single table; the others do not exist here.
fn system_column(relations: &[ScopeRelation], name: &str) -> Result<Option<TypedExpr>, PlanError> {
    let mut tables = relations.iter().filter_map(|relation| relation.oid);
    if name == "tableoid"
        && let Some(oid) = tables.next()
    {
        if tables.next().is_some() {
            return Err(ambiguous(name));
        }
        return Ok(Some(TypedExpr::literal(Datum::Oid(oid.0), SqlType::Oid)));
    }
    if SYSTEM_COLUMNS.contains(&name) && tables.next().is_some() {
        return Err(PlanError::unsupported(
            format!("system column \"{name}\" is not supported"),
            "Rows have no physical address; use the primary key.",
        ));
    }
    if let [relation] = relations.iter().filter(|it| it.name == name).collect::<Vec<_>>().as_slice()
        && relation.scalar
        && let [column] = relation.columns.as_slice()
    {
        return Ok(Some(column.expr.clone()));
    }
    // A bare relation name is its whole row.
    if relations.iter().any(|relation| relation.name == name) {
        return Err(PlanError::unsupported(
            format!("whole-row reference \"{name}\" is not supported"),
            format!("List the columns, or use {name}.* in the select list."),
        ));
    }
    Ok(None)
}

fn find_relation<'s>(
    scope: &'s Scope,
    schema: Option<&str>,
    table: &str,
) -> Result<Option<&'s ScopeRelation>, PlanError> {
    let mut found = scope.relations.iter().filter(|relation| {
        relation.name == table
            && match schema {
                Some(schema) => relation.schema.as_deref() == Some(schema),
                None => true,
            }
    });
    let first = found.next();
    if found.next().is_some() {
        return Err(PlanError::new(
            PlanErrorKind::DuplicateAlias,
            format!("table reference \"{table}\" is ambiguous"),
        ));
    }
    match first {
        Some(relation) if relation.blocked => Err(PlanError::new(
            PlanErrorKind::InvalidColumnReference,
            format!("invalid reference to FROM-clause entry for table \"{table}\""),
        )
        .with_detail("The combining JOIN type must be INNER or LEFT for a LATERAL reference.")),
        found => Ok(found),
    }
}

fn relation_column(relation: &ScopeRelation, name: &str) -> Result<TypedExpr, PlanError> {
    let mut found = relation.columns.iter().filter(|column| column.name == name);
    if let Some(first) = found.next() {
        if found.next().is_some() {
            return Err(ambiguous(name));
        }
        return Ok(first.expr.clone());
    }
    if (name == "tableoid" || SYSTEM_COLUMNS.contains(&name)) && relation.oid.is_some() {
        let only = std::slice::from_ref(relation);
        if let Some(found) = system_column(only, name)? {
            return Ok(found);
        }
    }
    Err(undefined_column(name, Some(&relation.name)))
}

fn ambiguous(name: &str) -> PlanError {
    PlanError::new(
        PlanErrorKind::AmbiguousColumn,
        format!("column reference \"{name}\" is ambiguous"),
    )
}

fn undefined_column(name: &str, table: Option<&str>) -> PlanError {
    PlanError::new(
        PlanErrorKind::UndefinedColumn,
        match table {
            Some(table) => format!("column {table}.{name} does not exist"),
            None => format!("column \"{name}\" does not exist"),
        },
    )
}
