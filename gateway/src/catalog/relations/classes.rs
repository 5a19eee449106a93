//! pg_class, pg_attribute, pg_attrdef, pg_index, pg_sequence.

use std::{collections::HashMap, sync::LazyLock};

use cortex_planner::catalog::{
    Catalog, Identity, Table,
    edit::{PG_CATALOG, SUPERUSER},
};
use cortex_shard_api::{Datum, Oid, SqlType, TypeMod, ValueError, descriptor::IndexColumn};

use super::{
    Fill, Source,
    facts::RELATIONS as FACTS,
    rows::{Rows, int2_array, letter, oid, oid_array, text, text_array},
};
use cortex_planner::catalog::deparse;

pub const RELATIONS: &[(&str, Fill)] = &[
    ("pg_class", pg_class),
    ("pg_attribute", pg_attribute),
    ("pg_attrdef", pg_attrdef),
    ("pg_index", pg_index),
    ("pg_sequence", pg_sequence),
];

const HEAP: Oid = Oid(2);
const BTREE: Oid = Oid(403);

/// What pg_attribute repeats of pg_type.
#[derive(Clone, Copy)]
struct TypeFacts {
    len: i16,
    by_value: bool,
    align: char,
    storage: char,
    collation: u32,
}

static TYPES: LazyLock<HashMap<u32, TypeFacts>> =
    LazyLock::new(|| include_str!("facts/pg_type.tsv").lines().filter_map(type_facts).collect());

fn type_facts(line: &str) -> Option<(u32, TypeFacts)> {
    let facts = super::facts::relation("pg_catalog", "pg_type")?;
    let fields: Vec<&str> = line.split('\t').collect();
    let field = |name: &str| fields.get(facts.position(name)?).copied();
    let first = |name: &str| field(name)?.chars().next();
    Some((
        field("oid")?.parse().ok()?,
        TypeFacts {
            len: field("typlen")?.parse().ok()?,
            by_value: field("typbyval")? == "t",
            align: first("typalign")?,
            storage: first("typstorage")?,
            collation: field("typcollation")?.parse().ok()?,
        },
    ))
}

/// The collation of a type's values; 0 where it has none.
pub fn collation_of(ty: SqlType) -> u32 {
    TYPES.get(&ty.oid()).map_or(0, |facts| facts.collation)
}

/// The default btree operator class of each type.
static OPERATOR_CLASSES: LazyLock<HashMap<u32, u32>> = LazyLock::new(|| {
    let mut classes = HashMap::new();
    for line in include_str!("facts/pg_opclass.tsv").lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        if let (Some(class), Some(input), Some(&"t")) =
            (fields.first(), fields.get(6), fields.get(7))
            && let (Ok(class), Ok(input)) = (class.parse(), input.parse())
        {
            classes.insert(input, class);
        }
    }
    classes
});

fn operator_class(ty: SqlType) -> u32 {
    const ANY_ARRAY: u32 = 2277;
    let input = match ty {
        SqlType::Varchar => SqlType::Text.oid(),
        SqlType::Array(_) => ANY_ARRAY,
        ty if ty.is_oid_like() => SqlType::Oid.oid(),
        ty => ty.oid(),
    };
    OPERATOR_CLASSES.get(&input).copied().unwrap_or(0)
}

fn pg_class(source: &Source<'_>, rows: &mut Rows) -> Result<(), ValueError> {
    for table in source.catalog.tables.values() {
        table_classes(table, rows);
    }
    for view in source.catalog.views.values() {
        rows.push([
            ("oid", oid(view.oid)),
            ("relname", text(&view.name)),
            ("relnamespace", oid(view.schema)),
            ("relowner", oid(view.owner)),
            ("reltuples", Datum::Float4(-1.0)),
            ("relkind", letter('v')),
            ("relpersistence", letter('p')),
            ("relnatts", Datum::Int2(view.columns.len() as i16)),
            ("relhasrules", Datum::Bool(true)),
            ("relispopulated", Datum::Bool(true)),
            ("relreplident", letter('n')),
        ]);
    }
    for sequence in source.catalog.sequences.values() {
        rows.push([
            ("oid", oid(sequence.oid)),
            ("relname", text(&sequence.name)),
            ("relnamespace", oid(sequence.schema)),
            ("relowner", oid(sequence.owner)),
            ("relfilenode", Datum::Oid(sequence.spec.storage.0)),
            ("relpages", Datum::Int4(1)),
            ("reltuples", Datum::Float4(1.0)),
            ("relkind", letter('S')),
            ("relpersistence", letter('p')),
            ("relnatts", Datum::Int2(3)),
            ("relispopulated", Datum::Bool(true)),
            ("relreplident", letter('n')),
        ]);
    }
    for facts in FACTS.iter() {
        let schema = source.catalog.schema_by_name(facts.schema).map_or(PG_CATALOG, |s| s.oid);
        let table = facts.kind == 'r';
        rows.push([
            ("oid", oid(facts.oid)),
            ("relname", text(facts.name)),
            ("relnamespace", oid(schema)),
            ("relowner", oid(SUPERUSER)),
            ("relam", oid(if table { HEAP } else { Oid::INVALID })),
            ("reltuples", Datum::Float4(-1.0)),
            ("relkind", letter(facts.kind)),
            ("relpersistence", letter('p')),
            ("relnatts", Datum::Int2(facts.columns.len() as i16)),
            ("relhasrules", Datum::Bool(!table)),
            ("relispopulated", Datum::Bool(true)),
            ("relreplident", letter('n')),
        ]);
    }
    Ok(())
}

fn table_classes(table: &Table, rows: &mut Rows) {
    let descriptor = &table.descriptor;
    let names = table.relation_names();
    let refers = !descriptor.foreign_keys.is_empty() || !descriptor.referenced_by.is_empty();
    let options = match table.options.is_empty() {
        true => Datum::Null,
        false => text_array(table.options.iter().map(|(name, value)| format!("{name}={value}"))),
    };
    rows.push([
        ("oid", oid(descriptor.oid)),
        ("relname", text(&descriptor.name)),
        ("relnamespace", oid(table.schema)),
        ("relowner", oid(table.owner)),
        ("relam", oid(HEAP)),
        ("relfilenode", Datum::Oid(descriptor.storage.0)),
        ("reltuples", Datum::Float4(-1.0)),
        ("relhasindex", Datum::Bool(names.len() > 1)),
        ("relpersistence", letter('p')),
        ("relkind", letter('r')),
        ("relnatts", Datum::Int2(descriptor.columns.len() as i16)),
        ("relchecks", Datum::Int2(descriptor.checks.len() as i16)),
        ("relhastriggers", Datum::Bool(refers)),
        ("relispopulated", Datum::Bool(true)),
        ("relreplident", letter('d')),
        ("reloptions", options),
    ]);
    for (index, name) in names.into_iter().skip(1) {
        let (storage, columns) = match descriptor.indexes.iter().find(|other| other.oid == index) {
            Some(index) => (index.storage.0, index.columns.len()),
            None => (descriptor.storage.0, descriptor.primary_key.len()),
        };
        rows.push([
            ("oid", oid(index)),
            ("relname", text(name)),
            ("relnamespace", oid(table.schema)),
            ("relowner", oid(table.owner)),
            ("relam", oid(BTREE)),
            ("relfilenode", Datum::Oid(storage)),
            ("relpersistence", letter('p')),
            ("relkind", letter('i')),
            ("relnatts", Datum::Int2(columns as i16)),
            ("relispopulated", Datum::Bool(true)),
            ("relreplident", letter('n')),
        ]);
    }
}

/// A column of any relation.
struct Attribute<'a> {
    relation: Oid,
    name: &'a str,
    number: usize,
    ty: TypeMod,
    not_null: bool,
    has_default: bool,
    has_missing: bool,
    identity: Option<Identity>,
    dropped: bool,
}

impl<'a> Attribute<'a> {
    fn plain(relation: Oid, number: usize, name: &'a str, ty: TypeMod) -> Attribute<'a> {
        Attribute {
            relation,
            name,
            number,
            ty,
            not_null: false,
            has_default: false,
            has_missing: false,
            identity: None,
            dropped: false,
        }
    }

    fn push(&self, rows: &mut Rows) {
        let facts = TYPES.get(&self.ty.ty.oid()).copied().unwrap_or(TypeFacts {
            len: -1,
            by_value: false,
            align: 'i',
            storage: 'x',
            collation: 0,
        });
        let type_oid = if self.dropped { 0 } else { self.ty.ty.oid() };
        let array = matches!(self.ty.ty, SqlType::Array(_));
        rows.push([
            ("attrelid", oid(self.relation)),
            ("attname", text(self.name)),
            ("atttypid", Datum::Oid(type_oid)),
            ("attstattarget", Datum::Int4(if self.dropped { 0 } else { -1 })),
            ("attlen", Datum::Int2(facts.len)),
            ("attnum", Datum::Int2(self.number as i16)),
            ("attndims", Datum::Int4(array.into())),
            ("attcacheoff", Datum::Int4(-1)),
            ("atttypmod", Datum::Int4(self.ty.typmod)),
            ("attbyval", Datum::Bool(facts.by_value)),
            ("attalign", letter(facts.align)),
            ("attstorage", letter(facts.storage)),
            ("attnotnull", Datum::Bool(self.not_null && !self.dropped)),
            ("atthasdef", Datum::Bool(self.has_default)),
            ("atthasmissing", Datum::Bool(self.has_missing)),
            (
                "attidentity",
                match self.identity {
                    Some(Identity::Always) => letter('a'),
                    Some(Identity::ByDefault) => letter('d'),
                    None => text(""),
                },
            ),
            ("attisdropped", Datum::Bool(self.dropped)),
            ("attislocal", Datum::Bool(true)),
            ("attcollation", Datum::Oid(facts.collation)),
        ]);
    }
}

fn pg_attribute(source: &Source<'_>, rows: &mut Rows) -> Result<(), ValueError> {
    for table in source.catalog.tables.values() {
        table_attributes(table, rows);
    }
    for view in source.catalog.views.values() {
        for (position, (name, ty)) in view.columns.iter().enumerate() {
            Attribute::plain(view.oid, position + 1, name, *ty).push(rows);
        }
    }
    const SEQUENCE: [(&str, SqlType); 3] =
        [("last_value", SqlType::Int8), ("log_cnt", SqlType::Int8), ("is_called", SqlType::Bool)];
    for sequence in source.catalog.sequences.values() {
        for (position, (name, ty)) in SEQUENCE.iter().enumerate() {
            let mut attribute =
                Attribute::plain(sequence.oid, position + 1, name, TypeMod::plain(*ty));
            attribute.not_null = true;
            attribute.push(rows);
        }
    }
    for facts in FACTS.iter() {
        for (position, column) in facts.columns.iter().enumerate() {
            let mut attribute = Attribute::plain(facts.oid, position + 1, column.name, column.ty);
            attribute.not_null = column.not_null;
            attribute.push(rows);
        }
    }
    Ok(())
}

fn table_attributes(table: &Table, rows: &mut Rows) {
    let descriptor = &table.descriptor;
    for (position, column) in descriptor.columns.iter().enumerate() {
        let extra = table.columns.get(position);
        let identity = extra.and_then(|extra| extra.identity);
        Attribute {
            relation: descriptor.oid,
            name: &column.name,
            number: position + 1,
            ty: column.ty,
            not_null: column.not_null,
            has_default: identity.is_none() && extra.is_some_and(|extra| extra.default.is_some()),
            has_missing: column.added_in > 1 && !matches!(column.missing, Datum::Null),
            identity,
            dropped: column.dropped,
        }
        .push(rows);
    }
    for (index, columns) in indexes(table) {
        for (position, column) in columns.iter().enumerate() {
            let column = &descriptor.columns[column.column];
            Attribute::plain(index, position + 1, &column.name, column.ty).push(rows);
        }
    }
}

/// The primary key's index and the others, with their columns.
fn indexes(table: &Table) -> Vec<(Oid, Vec<IndexColumn>)> {
    let descriptor = &table.descriptor;
    let primary = table.primary_key_oids.map(|(_, index)| {
        let columns = descriptor
            .primary_key
            .iter()
            .map(|column| IndexColumn { column: *column, descending: false, nulls_first: false })
            .collect();
        (index, columns)
    });
    let others = descriptor.indexes.iter().map(|index| (index.oid, index.columns.clone()));
    primary.into_iter().chain(others).collect()
}

fn pg_attrdef(source: &Source<'_>, rows: &mut Rows) -> Result<(), ValueError> {
    for table in source.catalog.tables.values() {
        for (position, extra) in table.columns.iter().enumerate() {
            let (Some(default), None) = (&extra.default, extra.identity) else { continue };
            let sql = deparse::column_default(source.catalog, table, position);
            rows.push([
                ("oid", oid(default.oid)),
                ("adrelid", oid(table.descriptor.oid)),
                ("adnum", Datum::Int2(position as i16 + 1)),
                ("adbin", text(sql.unwrap_or_default())),
            ]);
        }
    }
    Ok(())
}

fn pg_index(source: &Source<'_>, rows: &mut Rows) -> Result<(), ValueError> {
    for table in source.catalog.tables.values() {
        let descriptor = &table.descriptor;
        for (index, columns) in indexes(table) {
            let primary = table.primary_key_oids.is_some_and(|(_, primary)| primary == index);
            let unique = primary
                || descriptor.indexes.iter().any(|other| other.oid == index && other.unique);
            let types: Vec<SqlType> =
                columns.iter().map(|column| descriptor.columns[column.column].ty.ty).collect();
            rows.push([
                ("indexrelid", oid(index)),
                ("indrelid", oid(descriptor.oid)),
                ("indnatts", Datum::Int2(columns.len() as i16)),
                ("indnkeyatts", Datum::Int2(columns.len() as i16)),
                ("indisunique", Datum::Bool(unique)),
                ("indisprimary", Datum::Bool(primary)),
                ("indimmediate", Datum::Bool(true)),
                ("indisvalid", Datum::Bool(true)),
                ("indisready", Datum::Bool(true)),
                ("indislive", Datum::Bool(true)),
                ("indkey", int2_array(columns.iter().map(|column| column.column as i16 + 1))),
                ("indcollation", oid_array(types.iter().map(|ty| collation_of(*ty)))),
                ("indclass", oid_array(types.iter().map(|ty| operator_class(*ty)))),
                (
                    "indoption",
                    int2_array(columns.iter().map(|column| {
                        i16::from(column.descending) | i16::from(column.nulls_first) << 1
                    })),
                ),
            ]);
        }
    }
    Ok(())
}

fn pg_sequence(source: &Source<'_>, rows: &mut Rows) -> Result<(), ValueError> {
    for sequence in source.catalog.sequences.values() {
        rows.push([
            ("seqrelid", oid(sequence.oid)),
            ("seqtypid", Datum::Oid(sequence.ty.oid())),
            ("seqstart", Datum::Int8(sequence.spec.start)),
            ("seqincrement", Datum::Int8(sequence.spec.increment)),
            ("seqmax", Datum::Int8(sequence.spec.max)),
            ("seqmin", Datum::Int8(sequence.spec.min)),
            ("seqcache", Datum::Int8(sequence.cache)),
            ("seqcycle", Datum::Bool(sequence.spec.cycle)),
        ]);
    }
    Ok(())
}

/// For information_schema: what a table's column is called, with its table.
pub fn live_columns(catalog: &Catalog) -> impl Iterator<Item = (&Table, usize)> {
    catalog.tables.values().flat_map(|table| {
        table.descriptor.live_columns().map(move |(position, _)| (&**table, position))
    })
}
