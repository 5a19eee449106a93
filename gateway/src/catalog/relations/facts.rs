//! Which system relations there are, with their columns: facts from PostgreSQL 15, in `facts/relations.tsv`.
//!
//! Types that we do not have are replaced where the file was made: `pg_node_tree`, `aclitem`, `pg_lsn` and `inet` by text,
//! `xid` by oid, `int2vector` and `oidvector` by arrays; domains of information_schema by their base types.

use std::{collections::HashMap, sync::LazyLock};

use cortex_shard_api::{Datum, Oid, SqlType, TypeMod, value::ArrayValue};

/// A relation of pg_catalog, information_schema or cortex.
#[derive(Debug)]
pub struct RelationFacts {
    pub oid: Oid,
    pub schema: &'static str,
    pub name: &'static str,
    /// `r` or `v`.
    pub kind: char,
    pub columns: Vec<ColumnFacts>,
    /// Column name → position.
    positions: HashMap<&'static str, usize>,
}

#[derive(Debug)]
pub struct ColumnFacts {
    pub name: &'static str,
    pub ty: TypeMod,
    pub not_null: bool,
}

/// Every system relation, in the file's order.
pub static RELATIONS: LazyLock<Vec<RelationFacts>> =
    LazyLock::new(|| include_str!("facts/relations.tsv").lines().filter_map(parse).collect());

static BY_NAME: LazyLock<HashMap<(&'static str, &'static str), usize>> = LazyLock::new(|| {
    RELATIONS.iter().enumerate().map(|(n, facts)| ((facts.schema, facts.name), n)).collect()
});

/// A relation by its schema and name.
pub fn relation(schema: &str, name: &str) -> Option<&'static RelationFacts> {
    BY_NAME.get(&(schema, name)).and_then(|n| RELATIONS.get(*n))
}

/// A relation by its OID.
pub fn relation_by_oid(oid: Oid) -> Option<&'static RelationFacts> {
    if oid >= Oid::FIRST_USER {
        return None;
    }
    RELATIONS.iter().find(|facts| facts.oid == oid)
}

fn parse(line: &'static str) -> Option<RelationFacts> {
    let mut fields = line.split('\t');
    let (schema, name) = (fields.next()?, fields.next()?);
    let oid = Oid(fields.next()?.parse().ok()?);
    let kind = fields.next()?.chars().next()?;
    let columns: Vec<ColumnFacts> = fields.next()?.split(',').filter_map(parse_column).collect();
    let positions = columns.iter().enumerate().map(|(n, column)| (column.name, n)).collect();
    Some(RelationFacts { oid, schema, name, kind, columns, positions })
}

fn parse_column(text: &'static str) -> Option<ColumnFacts> {
    let mut fields = text.split(' ');
    let name = fields.next()?;
    let ty = SqlType::from_oid(fields.next()?.parse().ok()?)?;
    let typmod = fields.next()?.parse().ok()?;
    Some(ColumnFacts { name, ty: TypeMod { ty, typmod }, not_null: fields.next()? == "n" })
}

impl RelationFacts {
    pub fn position(&self, column: &str) -> Option<usize> {
        self.positions.get(column).copied()
    }
}

impl ColumnFacts {
    /// What a row holds that does not say: NULL, or the type's nothing where NULL is not allowed.
    pub fn unsaid(&self) -> Datum {
        if !self.not_null {
            return Datum::Null;
        }
        match self.ty.ty {
            SqlType::Bool => Datum::Bool(false),
            SqlType::Int2 => Datum::Int2(0),
            SqlType::Int4 => Datum::Int4(0),
            SqlType::Int8 => Datum::Int8(0),
            SqlType::Float4 => Datum::Float4(0.0),
            SqlType::Float8 => Datum::Float8(0.0),
            SqlType::Array(element) => Datum::Array(Box::new(ArrayValue {
                element: *element,
                lower_bound: 1,
                elements: Vec::new(),
            })),
            ty if ty.is_oid_like() => Datum::Oid(0),
            ty if ty.is_string() => Datum::Text("".into()),
            _ => Datum::Null,
        }
    }
}
