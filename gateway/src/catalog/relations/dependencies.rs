//! pg_depend, pg_description, pg_shdescription, pg_shdepend.

use crate::catalog::administration::FUNCTIONS;
use cortex_planner::catalog::edit::class;
use cortex_shard_api::{Datum, Oid, ValueError};

use super::{
    Fill, Source,
    rows::{Rows, letter, oid, text},
};

pub const RELATIONS: &[(&str, Fill)] = &[
    ("pg_depend", pg_depend),
    ("pg_description", pg_description),
    ("pg_shdescription", pg_shdescription),
];

/// One row: what depends (class, object, column), on what, and how.
fn depend(rows: &mut Rows, dependent: (Oid, Oid, i32), on: (Oid, Oid, i32), kind: char) {
    rows.push([
        ("classid", oid(dependent.0)),
        ("objid", oid(dependent.1)),
        ("objsubid", Datum::Int4(dependent.2)),
        ("refclassid", oid(on.0)),
        ("refobjid", oid(on.1)),
        ("refobjsubid", Datum::Int4(on.2)),
        ("deptype", letter(kind)),
    ]);
}

fn pg_depend(source: &Source<'_>, rows: &mut Rows) -> Result<(), ValueError> {
    let relation = |oid| (class::RELATION, oid, 0);
    for table in source.catalog.tables.values() {
        let oid = table.descriptor.oid;
        depend(rows, relation(oid), (class::SCHEMA, table.schema, 0), 'n');
        for constraint in super::constraints::constraints(source.catalog, table) {
            let this = (class::CONSTRAINT, constraint.oid, 0);
            for column in &constraint.columns {
                depend(rows, this, (class::RELATION, oid, *column as i32 + 1), 'a');
            }
            match constraint.foreign_key {
                Some(key) => {
                    depend(rows, this, relation(constraint.index).max(relation(key.parent)), 'n')
                }
                None if constraint.kind == 'c' => {}
                None => depend(rows, relation(constraint.index), this, 'i'),
            }
        }
        for index in table.descriptor.indexes.iter().filter(|index| !index.constraint) {
            for column in &index.columns {
                let on = (class::RELATION, oid, column.column as i32 + 1);
                depend(rows, relation(index.oid), on, 'a');
            }
        }
        for (position, extra) in table.columns.iter().enumerate() {
            let (Some(default), None) = (&extra.default, extra.identity) else { continue };
            let this = (class::DEFAULT, default.oid, 0);
            depend(rows, this, (class::RELATION, oid, position as i32 + 1), 'a');
            if let Some(sequence) = cortex_planner::bind::ddl::plan::nextval_sequence(&default.expr)
            {
                depend(rows, this, relation(sequence), 'n');
            }
        }
    }
    for sequence in source.catalog.sequences.values() {
        depend(rows, relation(sequence.oid), (class::SCHEMA, sequence.schema, 0), 'n');
        let Some((table, column)) = sequence.owned_by else { continue };
        let identity =
            source.catalog.tables.get(&table).is_some_and(|table| {
                table.columns.get(column).is_some_and(|c| c.identity.is_some())
            });
        let on = (class::RELATION, table, column as i32 + 1);
        depend(rows, relation(sequence.oid), on, if identity { 'i' } else { 'a' });
    }
    for view in source.catalog.views.values() {
        depend(rows, relation(view.oid), (class::SCHEMA, view.schema, 0), 'n');
        for other in &view.depends_on {
            depend(rows, relation(view.oid), relation(*other), 'n');
        }
    }
    Ok(())
}

fn pg_description(source: &Source<'_>, rows: &mut Rows) -> Result<(), ValueError> {
    rows.push_text(include_str!("facts/pg_description.tsv"), |_| true)?;
    for line in include_str!("facts/pg_proc_description.tsv").lines() {
        if let Some((object, description)) = line.split_once('\t')
            && let Ok(object) = object.parse()
        {
            rows.push([
                ("objoid", Datum::Oid(object)),
                ("classoid", oid(class::PROC)),
                ("description", text(description)),
            ]);
        }
    }
    for function in FUNCTIONS {
        rows.push([
            ("objoid", Datum::Oid(function.oid)),
            ("classoid", oid(class::PROC)),
            ("description", text(function.description)),
        ]);
    }
    let shared = [class::ROLE, class::DATABASE];
    for (key, comment) in &source.catalog.comments {
        if !shared.contains(&key.class) {
            rows.push([
                ("objoid", oid(key.object)),
                ("classoid", oid(key.class)),
                ("objsubid", Datum::Int4(key.column)),
                ("description", text(comment)),
            ]);
        }
    }
    Ok(())
}

fn pg_shdescription(source: &Source<'_>, rows: &mut Rows) -> Result<(), ValueError> {
    for (key, comment) in &source.catalog.comments {
        if key.class == class::ROLE || key.class == class::DATABASE {
            rows.push([
                ("objoid", oid(key.object)),
                ("classoid", oid(key.class)),
                ("description", text(comment)),
            ]);
        }
    }
    Ok(())
}
