//! Type categories, preferred types, names that users write, and the declared types of signatures.

use cortex_shard_api::{SqlType, types::SCALARS};

/// The declared type of an argument or result: a type, or a pseudo-type that stands for several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ArgType {
    Type(SqlType),
    Any,
    AnyElement,
    AnyArray,
    AnyNonArray,
    AnyCompatible,
    AnyCompatibleArray,
    AnyCompatibleNonArray,
}

impl ArgType {
    /// From an OID in `pg_proc`. Types we represent by another one (pg_node_tree, int2vector, oidvector)
    /// are mapped.
    pub(crate) fn from_oid(oid: u32) -> Option<ArgType> {
        Some(match oid {
            2276 => ArgType::Any,
            2283 => ArgType::AnyElement,
            2277 => ArgType::AnyArray,
            2776 => ArgType::AnyNonArray,
            5077 => ArgType::AnyCompatible,
            5078 => ArgType::AnyCompatibleArray,
            5079 => ArgType::AnyCompatibleNonArray,
            194 => ArgType::Type(SqlType::Text),
            22 => ArgType::Type(SqlType::Array(&SqlType::Int2)),
            30 => ArgType::Type(SqlType::Array(&SqlType::Oid)),
            other => ArgType::Type(SqlType::from_oid(other)?),
        })
    }

    pub(crate) fn is_polymorphic(self) -> bool {
        !matches!(self, ArgType::Type(_) | ArgType::Any)
    }

    /// The type that a `VARIADIC` argument of this type repeats.
    pub(crate) fn variadic_element(self) -> ArgType {
        match self {
            ArgType::Type(SqlType::Array(element)) => ArgType::Type(*element),
            ArgType::AnyArray => ArgType::AnyElement,
            ArgType::AnyCompatibleArray => ArgType::AnyCompatible,
            other => other,
        }
    }

    /// `pg_type.typcategory`.
    pub(crate) fn category(self) -> char {
        match self {
            ArgType::Type(ty) => category(ty),
            _ => 'P',
        }
    }

    pub(crate) fn is_preferred(self) -> bool {
        matches!(self, ArgType::Type(ty) if is_preferred(ty))
    }
}

/// `pg_type.typcategory`.
pub fn category(ty: SqlType) -> char {
    match ty {
        SqlType::Bool => 'B',
        SqlType::Int2
        | SqlType::Int4
        | SqlType::Int8
        | SqlType::Float4
        | SqlType::Float8
        | SqlType::Numeric
        | SqlType::Oid
        | SqlType::Regclass
        | SqlType::Regtype
        | SqlType::Regproc
        | SqlType::Regnamespace
        | SqlType::Regrole => 'N',
        SqlType::Text | SqlType::Varchar | SqlType::Bpchar | SqlType::Name => 'S',
        SqlType::Char => 'Z',
        SqlType::Date | SqlType::Time | SqlType::Timestamp | SqlType::Timestamptz => 'D',
        SqlType::Interval => 'T',
        SqlType::Bytea | SqlType::Uuid | SqlType::Json | SqlType::Jsonb => 'U',
        SqlType::Unknown => 'X',
        SqlType::Void | SqlType::Record => 'P',
        SqlType::Array(_) => 'A',
    }
}

/// `pg_type.typispreferred`: the type a category's values are turned into when in doubt.
pub fn is_preferred(ty: SqlType) -> bool {
    matches!(
        ty,
        SqlType::Bool
            | SqlType::Float8
            | SqlType::Oid
            | SqlType::Text
            | SqlType::Timestamptz
            | SqlType::Interval
    )
}

/// A type by the name a user writes: `int`, `int4`, `integer`, `character varying`, `_int4`, `int4[]`, `timestamptz`.
/// Case does not matter; quotes and a schema `pg_catalog.` are accepted. Modifiers are the parser's.
pub fn type_by_name(name: &str) -> Option<SqlType> {
    let trimmed = name.trim();
    if trimmed == "\"char\"" {
        return Some(SqlType::Char);
    }
    let lower = trimmed.to_ascii_lowercase().replace('"', "");
    let mut name = lower.strip_prefix("pg_catalog.").unwrap_or(&lower);
    let mut array = false;
    if let Some(open) = name.find('[') {
        if !name.ends_with(']') {
            return None;
        }
        name = name[..open].trim_end();
        array = true;
    }
    let scalar = scalar_by_name(name);
    if scalar.is_none() && !array {
        return name.strip_prefix('_').and_then(scalar_by_name).and_then(SqlType::array);
    }
    if array { scalar.and_then(SqlType::array) } else { scalar }
}

fn scalar_by_name(name: &str) -> Option<SqlType> {
    let words = name.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
    Some(match words.as_str() {
        "bool" | "boolean" => SqlType::Bool,
        "smallint" => SqlType::Int2,
        "int" | "integer" => SqlType::Int4,
        "bigint" => SqlType::Int8,
        "real" => SqlType::Float4,
        "float" | "double precision" => SqlType::Float8,
        "decimal" | "dec" => SqlType::Numeric,
        "character varying" | "char varying" => SqlType::Varchar,
        "char" | "character" => SqlType::Bpchar,
        "time without time zone" => SqlType::Time,
        "timestamp without time zone" => SqlType::Timestamp,
        "timestamp with time zone" => SqlType::Timestamptz,
        other => {
            return SCALARS
                .iter()
                .copied()
                .find(|ty| ty.catalog_name() == other && *ty != SqlType::Char);
        }
    })
}
