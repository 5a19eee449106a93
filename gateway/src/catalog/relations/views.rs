//! pg_tables, pg_views, pg_indexes, pg_sequences.

use cortex_planner::catalog::Catalog;
use cortex_shard_api::{Datum, Oid, ValueError};

use super::{
    Fill, Source,
    facts::RELATIONS as FACTS,
    rows::{Rows, text},
};
use cortex_planner::catalog::deparse;

pub const RELATIONS: &[(&str, Fill)] = &[
    ("pg_tables", pg_tables),
    ("pg_views", pg_views),
    ("pg_indexes", pg_indexes),
    ("pg_stat_user_tables", pg_stat_user_tables),
    ("pg_stat_all_tables", pg_stat_user_tables),
];

pub fn schema_name(catalog: &Catalog, oid: Oid) -> Datum {
    catalog.schemas.get(&oid).map_or(Datum::Null, |schema| text(&schema.name))
}

pub fn role_name(catalog: &Catalog, oid: Oid) -> Datum {
    catalog.roles.get(&oid).map_or(Datum::Null, |role| text(&role.name))
}

fn pg_tables(source: &Source<'_>, rows: &mut Rows) -> Result<(), ValueError> {
    for table in source.catalog.tables.values() {
        let descriptor = &table.descriptor;
        let refers = !descriptor.foreign_keys.is_empty() || !descriptor.referenced_by.is_empty();
        rows.push([
            ("schemaname", schema_name(source.catalog, table.schema)),
            ("tablename", text(&descriptor.name)),
            ("tableowner", role_name(source.catalog, table.owner)),
            ("hasindexes", Datum::Bool(table.relation_names().len() > 1)),
            ("hasrules", Datum::Bool(false)),
            ("hastriggers", Datum::Bool(refers)),
            ("rowsecurity", Datum::Bool(false)),
        ]);
    }
    for facts in FACTS.iter().filter(|facts| facts.kind == 'r') {
        rows.push([
            ("schemaname", text(facts.schema)),
            ("tablename", text(facts.name)),
            ("tableowner", text("postgres")),
            ("hasindexes", Datum::Bool(false)),
            ("hasrules", Datum::Bool(false)),
            ("hastriggers", Datum::Bool(false)),
            ("rowsecurity", Datum::Bool(false)),
        ]);
    }
    Ok(())
}

fn pg_views(source: &Source<'_>, rows: &mut Rows) -> Result<(), ValueError> {
    for view in source.catalog.views.values() {
        rows.push([
            ("schemaname", schema_name(source.catalog, view.schema)),
            ("viewname", text(&view.name)),
            ("viewowner", role_name(source.catalog, view.owner)),
            ("definition", text(format!("{};", view.sql))),
        ]);
    }
    Ok(())
}

fn pg_indexes(source: &Source<'_>, rows: &mut Rows) -> Result<(), ValueError> {
    for table in source.catalog.tables.values() {
        for (index, name) in table.relation_names().into_iter().skip(1) {
            let position = table.descriptor.indexes.iter().position(|other| other.oid == index);
            let definition = deparse::index_definition(source.catalog, table, position, 0);
            rows.push([
                ("schemaname", schema_name(source.catalog, table.schema)),
                ("tablename", text(&table.descriptor.name)),
                ("indexname", text(name)),
                ("indexdef", text(definition)),
            ]);
        }
    }
    Ok(())
}

/// Names only: nothing is counted.
fn pg_stat_user_tables(source: &Source<'_>, rows: &mut Rows) -> Result<(), ValueError> {
    for table in source.catalog.tables.values() {
        rows.push([
            ("relid", Datum::Oid(table.descriptor.oid.0)),
            ("schemaname", schema_name(source.catalog, table.schema)),
            ("relname", text(&table.descriptor.name)),
        ]);
    }
    Ok(())
}
