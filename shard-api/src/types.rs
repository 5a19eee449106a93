//! SQL types by their PostgreSQL OIDs.
//!
//! Lives here: which types exist, their OIDs, names, array forms and type modifiers.
//! Not here: values (`value`), conversions and functions (crate `functions`), wire bytes (`gateway::encode`).

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A SQL type without its modifier. `Copy`, compared by value; serialized as its OID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SqlType {
    Bool,
    Int2,
    Int4,
    Int8,
    Float4,
    Float8,
    Numeric,
    Text,
    Varchar,
    /// `char(n)`: blank-padded to n; trailing blanks do not count in comparisons.
    Bpchar,
    /// The one-byte `"char"` of system catalogs.
    Char,
    Name,
    Bytea,
    Date,
    Time,
    Timestamp,
    Timestamptz,
    Interval,
    Uuid,
    Json,
    Jsonb,
    Oid,
    Regclass,
    Regtype,
    Regproc,
    Regnamespace,
    Regrole,
    /// The type of a literal nobody has given a type yet. Never stored.
    Unknown,
    Void,
    Record,
    /// A one-dimensional array of a scalar type.
    Array(&'static SqlType),
}

macro_rules! types {
    ($($variant:ident, $oid:literal, $array_oid:literal, $name:literal, $sql:literal;)*) => {
        /// Every scalar type.
        pub const SCALARS: &[SqlType] = &[$(SqlType::$variant),*];

        impl SqlType {
            /// The OID in `pg_type`.
            pub const fn oid(self) -> u32 {
                match self {
                    $(SqlType::$variant => $oid,)*
                    SqlType::Array(element) => element.array_oid(),
                }
            }

            const fn array_oid(self) -> u32 {
                match self {
                    $(SqlType::$variant => $array_oid,)*
                    SqlType::Array(_) => 0,
                }
            }

            /// The type with this OID, if we have it.
            pub const fn from_oid(oid: u32) -> Option<SqlType> {
                match oid {
                    0 => None,
                    $($oid => Some(SqlType::$variant),)*
                    $($array_oid => Some(SqlType::Array(&SqlType::$variant)),)*
                    _ => None,
                }
            }

            /// `pg_type.typname`: `int4`, `_int4`.
            pub const fn catalog_name(self) -> &'static str {
                match self {
                    $(SqlType::$variant => $name,)*
                    SqlType::Array(element) => match *element {
                        $(SqlType::$variant => concat!("_", $name),)*
                        SqlType::Array(_) => "_any",
                    },
                }
            }

            /// The name `format_type` prints without a modifier: `integer`, `integer[]`.
            pub const fn sql_name(self) -> &'static str {
                match self {
                    $(SqlType::$variant => $sql,)*
                    SqlType::Array(element) => match *element {
                        $(SqlType::$variant => concat!($sql, "[]"),)*
                        SqlType::Array(_) => "anyarray",
                    },
                }
            }

            /// The array type of this scalar; `None` for pseudo-types and arrays (one dimension is what we have).
            pub const fn array(self) -> Option<SqlType> {
                match self {
                    $(SqlType::$variant => if $array_oid < 10_000_000 { Some(SqlType::Array(&SqlType::$variant)) } else { None },)*
                    SqlType::Array(_) => None,
                }
            }
        }
    };
}

// Types without an array form have an unreachable array OID, above 10 million.
types! {
    Bool, 16, 1000, "bool", "boolean";
    Bytea, 17, 1001, "bytea", "bytea";
    Char, 18, 1002, "char", "\"char\"";
    Name, 19, 1003, "name", "name";
    Int8, 20, 1016, "int8", "bigint";
    Int2, 21, 1005, "int2", "smallint";
    Int4, 23, 1007, "int4", "integer";
    Regproc, 24, 1008, "regproc", "regproc";
    Text, 25, 1009, "text", "text";
    Oid, 26, 1028, "oid", "oid";
    Json, 114, 199, "json", "json";
    Float4, 700, 1021, "float4", "real";
    Float8, 701, 1022, "float8", "double precision";
    Unknown, 705, 10_000_705, "unknown", "unknown";
    Bpchar, 1042, 1014, "bpchar", "character";
    Varchar, 1043, 1015, "varchar", "character varying";
    Date, 1082, 1182, "date", "date";
    Time, 1083, 1183, "time", "time without time zone";
    Timestamp, 1114, 1115, "timestamp", "timestamp without time zone";
    Timestamptz, 1184, 1185, "timestamptz", "timestamp with time zone";
    Interval, 1186, 1187, "interval", "interval";
    Numeric, 1700, 1231, "numeric", "numeric";
    Regclass, 2205, 2210, "regclass", "regclass";
    Regtype, 2206, 2211, "regtype", "regtype";
    Record, 2249, 2287, "record", "record";
    Void, 2278, 10_002_278, "void", "void";
    Uuid, 2950, 2951, "uuid", "uuid";
    Jsonb, 3802, 3807, "jsonb", "jsonb";
    Regnamespace, 4089, 4090, "regnamespace", "regnamespace";
    Regrole, 4096, 4097, "regrole", "regrole";
}

impl SqlType {
    /// The element type of an array.
    pub const fn element(self) -> Option<SqlType> {
        match self {
            SqlType::Array(element) => Some(*element),
            _ => None,
        }
    }

    /// int2, int4, int8.
    pub const fn is_integer(self) -> bool {
        matches!(self, SqlType::Int2 | SqlType::Int4 | SqlType::Int8)
    }

    /// Types on which arithmetic is defined: integers, floats, numeric.
    pub const fn is_number(self) -> bool {
        self.is_integer() || matches!(self, SqlType::Float4 | SqlType::Float8 | SqlType::Numeric)
    }

    /// Types whose value is a string of characters.
    pub const fn is_string(self) -> bool {
        matches!(
            self,
            SqlType::Text | SqlType::Varchar | SqlType::Bpchar | SqlType::Char | SqlType::Name
        )
    }

    /// `oid` and the `reg*` aliases: an unsigned 32-bit number.
    pub const fn is_oid_like(self) -> bool {
        matches!(
            self,
            SqlType::Oid
                | SqlType::Regclass
                | SqlType::Regtype
                | SqlType::Regproc
                | SqlType::Regnamespace
                | SqlType::Regrole
        )
    }

    /// `pg_type.typlen`: bytes of the wire's binary form, or -1 if it varies.
    pub const fn wire_len(self) -> i16 {
        match self {
            SqlType::Bool | SqlType::Char => 1,
            SqlType::Int2 => 2,
            SqlType::Int4
            | SqlType::Float4
            | SqlType::Date
            | SqlType::Oid
            | SqlType::Regclass
            | SqlType::Regtype
            | SqlType::Regproc
            | SqlType::Regnamespace
            | SqlType::Regrole
            | SqlType::Void => 4,
            SqlType::Int8
            | SqlType::Float8
            | SqlType::Time
            | SqlType::Timestamp
            | SqlType::Timestamptz => 8,
            SqlType::Interval | SqlType::Uuid => 16,
            SqlType::Name => 64,
            SqlType::Unknown => -2,
            SqlType::Numeric
            | SqlType::Text
            | SqlType::Varchar
            | SqlType::Bpchar
            | SqlType::Bytea
            | SqlType::Json
            | SqlType::Jsonb
            | SqlType::Record
            | SqlType::Array(_) => -1,
        }
    }
}

impl Serialize for SqlType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(self.oid())
    }
}

impl<'de> Deserialize<'de> for SqlType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let oid = u32::deserialize(deserializer)?;
        SqlType::from_oid(oid)
            .ok_or_else(|| serde::de::Error::custom(format!("unknown type OID {oid}")))
    }
}

/// A type with its modifier, in `pg_attribute.atttypmod`'s encoding: -1 for none, n + 4 for `varchar(n)` and
/// `char(n)`, `((precision << 16) | scale) + 4` for numeric, the precision itself for times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TypeMod {
    pub ty: SqlType,
    pub typmod: i32,
}

impl TypeMod {
    /// The type without a modifier.
    pub const fn plain(ty: SqlType) -> TypeMod {
        TypeMod { ty, typmod: -1 }
    }

    /// n of `varchar(n)` and `char(n)`, for arrays of them too.
    pub const fn char_limit(self) -> Option<usize> {
        let ty = match self.ty {
            SqlType::Array(element) => *element,
            other => other,
        };
        match ty {
            SqlType::Varchar | SqlType::Bpchar if self.typmod >= 4 => {
                Some(self.typmod as usize - 4)
            }
            _ => None,
        }
    }

    /// (precision, scale) of `numeric(p, s)`.
    pub const fn numeric_limits(self) -> Option<(u16, u16)> {
        let ty = match self.ty {
            SqlType::Array(element) => *element,
            other => other,
        };
        match ty {
            SqlType::Numeric if self.typmod >= 4 => {
                let packed = self.typmod - 4;
                Some(((packed >> 16) as u16, (packed & 0xffff) as u16))
            }
            _ => None,
        }
    }
}

impl From<SqlType> for TypeMod {
    fn from(ty: SqlType) -> TypeMod {
        TypeMod::plain(ty)
    }
}
