//! Which functions change the cluster, or show how it changes: `cortex.move_slots`, `create_distributed_table` and their like.
//!
//! They wait for shards and for other gateways, so they are no kernels: a statement calls one by itself, and the session runs
//! it. Lives here: names, arguments and results, as pg_proc shows them. Not here: how a call is found and run
//! (`exec::administration`).

use cortex_planner::catalog::edit::{CORTEX, PG_CATALOG};
use cortex_shard_api::{Oid, SqlType, TypeMod, value::text::type_name};

/// What a call does; `exec::administration` has an arm for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Administration {
    SplitRange,
    MergeRanges,
    CreateDistributedTable,
    CreateReferenceTable,
    UndistributeTable,
}

/// A function that a statement can call by itself.
#[derive(Debug)]
pub struct Function {
    pub id: Administration,
    /// Below `Oid::FIRST_USER`, where PostgreSQL has none.
    pub oid: u32,
    pub schema: &'static str,
    pub name: &'static str,
    pub arguments: &'static [Argument],
    /// Columns of the result; one with the function's own name for functions that return a value.
    pub columns: &'static [(&'static str, SqlType)],
    /// Any number of rows: it stands in FROM.
    pub returns_table: bool,
    /// It changes the catalog alone, inside the session's transaction. Others refuse to run in a transaction block: they
    /// could not be undone.
    pub in_block: bool,
    /// It changes nothing.
    pub reads_only: bool,
    pub description: &'static str,
}

#[derive(Debug)]
pub struct Argument {
    pub name: &'static str,
    pub ty: SqlType,
    pub default: DefaultValue,
}

/// What an argument is when it is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultValue {
    /// It must be given.
    Required,
    Null,
    /// Text of a constant of the argument's type.
    Value(&'static str),
}

const fn argument(name: &'static str, ty: SqlType) -> Argument {
    Argument { name, ty, default: DefaultValue::Required }
}

const fn defaulted(name: &'static str, ty: SqlType, value: &'static str) -> Argument {
    Argument { name, ty, default: DefaultValue::Value(value) }
}

/// Every function, by OID.
pub static FUNCTIONS: &[Function] = &[
    Function {
        id: Administration::SplitRange,
        oid: 9210,
        schema: "cortex",
        name: "split_range",
        arguments: &[argument("table_name", SqlType::Regclass), argument("at", SqlType::Text)],
        columns: &[("split_range", SqlType::Void)],
        returns_table: false,
        in_block: true,
        reads_only: false,
        description: "cut the range of a range table that holds a value in two, on the shard where it is",
    },
    Function {
        id: Administration::MergeRanges,
        oid: 9211,
        schema: "cortex",
        name: "merge_ranges",
        arguments: &[argument("table_name", SqlType::Regclass), argument("at", SqlType::Text)],
        columns: &[("merge_ranges", SqlType::Void)],
        returns_table: false,
        in_block: true,
        reads_only: false,
        description: "make one of the two ranges of a range table that meet at a split point; both are on one shard",
    },
    // Names and arguments of Citus, for those who come from there.
    Function {
        id: Administration::CreateDistributedTable,
        oid: 9240,
        schema: "pg_catalog",
        name: "create_distributed_table",
        arguments: &[
            argument("table_name", SqlType::Regclass),
            argument("distribution_column", SqlType::Text),
            defaulted("distribution_type", SqlType::Text, "hash"),
            defaulted("colocate_with", SqlType::Text, "default"),
        ],
        columns: &[("create_distributed_table", SqlType::Void)],
        returns_table: false,
        in_block: true,
        reads_only: false,
        description: "shard a table by a column, with its rows: ALTER TABLE ... SET (shard_by = 'hash(...)')",
    },
    Function {
        id: Administration::CreateReferenceTable,
        oid: 9241,
        schema: "pg_catalog",
        name: "create_reference_table",
        arguments: &[argument("table_name", SqlType::Regclass)],
        columns: &[("create_reference_table", SqlType::Void)],
        returns_table: false,
        in_block: true,
        reads_only: false,
        description: "copy a table to every shard: ALTER TABLE ... SET (shard_by = 'reference')",
    },
    Function {
        id: Administration::UndistributeTable,
        oid: 9242,
        schema: "pg_catalog",
        name: "undistribute_table",
        arguments: &[
            argument("table_name", SqlType::Regclass),
            defaulted("cascade_via_foreign_keys", SqlType::Bool, "false"),
        ],
        columns: &[("undistribute_table", SqlType::Void)],
        returns_table: false,
        in_block: true,
        reads_only: false,
        description: "bring a table's rows to its home shard: ALTER TABLE ... SET (shard_by = 'none')",
    },
];

/// A function by name; without a schema, whichever schema it is in.
pub fn by_name(schema: Option<&str>, name: &str) -> Option<&'static Function> {
    FUNCTIONS.iter().find(|it| it.name == name && schema.is_none_or(|schema| schema == it.schema))
}

pub fn by_oid(oid: Oid) -> Option<&'static Function> {
    FUNCTIONS.iter().find(|function| function.oid == oid.0)
}

impl Function {
    /// `cortex.move_slots`; functions of pg_catalog without their schema.
    pub fn qualified_name(&self) -> String {
        match self.schema {
            "pg_catalog" => self.name.to_owned(),
            schema => format!("{schema}.{}", self.name),
        }
    }

    pub fn namespace(&self) -> Oid {
        if self.schema == "cortex" { CORTEX } else { PG_CATALOG }
    }

    /// How many arguments at the end may be left out.
    pub fn defaults(&self) -> usize {
        self.arguments.iter().filter(|argument| argument.default != DefaultValue::Required).count()
    }

    /// What `prorettype` says.
    pub fn result_type(&self) -> SqlType {
        match self.columns {
            [(_, ty)] => *ty,
            _ => SqlType::Record,
        }
    }

    /// As `pg_get_function_result` prints it.
    pub fn result_text(&self) -> String {
        let shown = |ty: SqlType| type_name(TypeMod::plain(ty));
        if !self.returns_table {
            return shown(self.result_type());
        }
        let columns: Vec<String> =
            self.columns.iter().map(|(name, ty)| format!("{name} {}", shown(*ty))).collect();
        format!("TABLE({})", columns.join(", "))
    }

    /// As `pg_get_function_arguments` prints them.
    pub fn arguments_text(&self, defaults: bool) -> String {
        let arguments = self.arguments.iter().map(|argument| {
            let ty = type_name(TypeMod::plain(argument.ty));
            let default = match argument.default {
                DefaultValue::Value(text) if defaults => match argument.ty {
                    SqlType::Text => format!(" DEFAULT '{text}'::text"),
                    _ => format!(" DEFAULT {text}"),
                },
                DefaultValue::Null if defaults => format!(" DEFAULT NULL::{ty}"),
                DefaultValue::Required | DefaultValue::Null | DefaultValue::Value(_) => {
                    String::new()
                }
            };
            format!("{} {ty}{default}", argument.name)
        });
        arguments.collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn functions_have_names_and_oids_of_their_own() {
        let oids: BTreeSet<u32> = FUNCTIONS.iter().map(|function| function.oid).collect();
        let names: BTreeSet<&str> = FUNCTIONS.iter().map(|function| function.name).collect();
        assert_eq!((oids.len(), names.len()), (FUNCTIONS.len(), FUNCTIONS.len()));
        assert!(oids.iter().all(|oid| *oid < Oid::FIRST_USER.0));
        let taken = cortex_functions::registry::functions();
        assert!(taken.iter().all(|function| !oids.contains(&function.oid)));
    }

    #[test]
    fn arguments_with_defaults_come_last() {
        for function in FUNCTIONS {
            let required = function.arguments.len() - function.defaults();
            let rest = &function.arguments[required..];
            assert!(
                rest.iter().all(|it| it.default != DefaultValue::Required),
                "{}",
                function.name
            );
        }
    }
}
