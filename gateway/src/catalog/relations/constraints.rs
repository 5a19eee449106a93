//! pg_constraint.

use cortex_planner::catalog::{Catalog, Table};
use cortex_shard_api::{
    Datum, Oid, SqlType, ValueError,
    descriptor::{ForeignKeyDescriptor, ReferentialAction},
};

use super::{
    Fill, Source,
    rows::{Rows, int2_array, letter, oid, oid_array, text},
};
use cortex_planner::catalog::deparse;

pub const RELATIONS: &[(&str, Fill)] = &[("pg_constraint", pg_constraint)];

/// A constraint of a table.
pub struct Constraint<'a> {
    pub oid: Oid,
    pub name: &'a str,
    /// p, u, c, f.
    pub kind: char,
    pub columns: Vec<usize>,
    /// The index behind it (the parent's, for a foreign key).
    pub index: Oid,
    pub foreign_key: Option<&'a ForeignKeyDescriptor>,
    /// Position in `descriptor.checks`.
    pub check: Option<usize>,
}

/// All constraints of a table.
pub fn constraints<'a>(catalog: &Catalog, table: &'a Table) -> Vec<Constraint<'a>> {
    let descriptor = &table.descriptor;
    let mut constraints = Vec::new();
    if let (Some((constraint, index)), Some(name)) =
        (table.primary_key_oids, &descriptor.primary_key_name)
    {
        constraints.push(Constraint {
            oid: constraint,
            name,
            kind: 'p',
            columns: descriptor.primary_key.clone(),
            index,
            foreign_key: None,
            check: None,
        });
    }
    for (constraint, name, index) in &table.unique_constraints {
        let Some(index) = descriptor.indexes.get(*index) else { continue };
        constraints.push(Constraint {
            oid: *constraint,
            name,
            kind: 'u',
            columns: index.columns.iter().map(|column| column.column).collect(),
            index: index.oid,
            foreign_key: None,
            check: None,
        });
    }
    for (position, check) in descriptor.checks.iter().enumerate() {
        constraints.push(Constraint {
            oid: check.oid,
            name: &check.name,
            kind: 'c',
            columns: check_columns(&check.expr),
            index: Oid::INVALID,
            foreign_key: None,
            check: Some(position),
        });
    }
    for key in &descriptor.foreign_keys {
        constraints.push(Constraint {
            oid: key.oid,
            name: &key.name,
            kind: 'f',
            columns: key.columns.clone(),
            index: parent_index(catalog, key).unwrap_or(Oid::INVALID),
            foreign_key: Some(key),
            check: None,
        });
    }
    constraints
}

fn check_columns(expr: &cortex_shard_api::ScalarExpr) -> Vec<usize> {
    let mut used = std::collections::BTreeSet::new();
    cortex_planner::bind::ddl::plan::columns_of(expr, &mut used);
    used.into_iter().collect()
}

/// The unique index that a foreign key rests on.
pub fn parent_index(catalog: &Catalog, key: &ForeignKeyDescriptor) -> Option<Oid> {
    let parent = catalog.tables.get(&key.parent)?;
    let sorted = |mut columns: Vec<usize>| {
        columns.sort_unstable();
        columns
    };
    let wanted = sorted(key.parent_columns.clone());
    if let Some((_, index)) = parent.primary_key_oids
        && sorted(parent.descriptor.primary_key.clone()) == wanted
    {
        return Some(index);
    }
    let index = parent.descriptor.indexes.iter().find(|index| {
        index.unique && sorted(index.columns.iter().map(|c| c.column).collect()) == wanted
    })?;
    Some(index.oid)
}

fn pg_constraint(source: &Source<'_>, rows: &mut Rows) -> Result<(), ValueError> {
    for table in source.catalog.tables.values() {
        for constraint in constraints(source.catalog, table) {
            push(source.catalog, table, &constraint, rows);
        }
    }
    Ok(())
}

fn push(catalog: &Catalog, table: &Table, constraint: &Constraint<'_>, rows: &mut Rows) {
    let numbers = |columns: &[usize]| int2_array(columns.iter().map(|column| *column as i16 + 1));
    let key = constraint.foreign_key;
    let letter_of = |action: Option<ReferentialAction>| letter(action.map_or(' ', action_letter));
    let names = deparse::column_names(table);
    let check = constraint.check.and_then(|position| table.descriptor.checks.get(position));
    let equality = |columns: &[usize]| {
        oid_array(columns.iter().map(|column| equality_of(table.descriptor.columns[*column].ty.ty)))
    };
    rows.push([
        ("oid", oid(constraint.oid)),
        ("conname", text(constraint.name)),
        ("connamespace", oid(table.schema)),
        ("contype", letter(constraint.kind)),
        ("convalidated", Datum::Bool(true)),
        ("conrelid", oid(table.descriptor.oid)),
        ("conindid", oid(constraint.index)),
        ("confrelid", oid(key.map_or(Oid::INVALID, |key| key.parent))),
        ("confupdtype", letter_of(key.map(|key| key.on_update))),
        ("confdeltype", letter_of(key.map(|key| key.on_delete))),
        ("confmatchtype", letter(if key.is_some() { 's' } else { ' ' })),
        ("conislocal", Datum::Bool(true)),
        ("connoinherit", Datum::Bool(constraint.kind != 'c')),
        ("conkey", numbers(&constraint.columns)),
        ("confkey", key.map_or(Datum::Null, |key| numbers(&key.parent_columns))),
        ("conpfeqop", key.map_or(Datum::Null, |key| equality(&key.columns))),
        ("conppeqop", key.map_or(Datum::Null, |key| equality(&key.columns))),
        ("conffeqop", key.map_or(Datum::Null, |key| equality(&key.columns))),
        (
            "conbin",
            check.map_or(Datum::Null, |check| {
                let deparser = deparse::Deparser { catalog, columns: &names, pretty: false };
                text(deparser.top(&check.expr))
            }),
        ),
    ]);
}

/// The OID of the type's equality operator; 0 if it has none.
fn equality_of(ty: SqlType) -> u32 {
    let ty = match ty {
        SqlType::Varchar => SqlType::Text,
        ty if ty.is_oid_like() => SqlType::Oid,
        ty => ty,
    };
    cortex_functions::registry::operators()
        .into_iter()
        .find(|op| op.name == "=" && op.left == ty.oid() && op.right == ty.oid())
        .map_or(0, |operator| operator.oid)
}

fn action_letter(action: ReferentialAction) -> char {
    match action {
        ReferentialAction::NoAction => 'a',
        ReferentialAction::Restrict => 'r',
        ReferentialAction::Cascade => 'c',
        ReferentialAction::SetNull => 'n',
        ReferentialAction::SetDefault => 'd',
    }
}
