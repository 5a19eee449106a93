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
    MoveSlots,
    MoveRange,
    MoveSchema,
    RebalancePlan,
    RebalanceStart,
    RebalanceStop,
    RebalanceStatus,
    Retry,
    Abort,
    Verify,
    AddShard,
    DrainShard,
    RemoveShard,
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

const PLAN_COLUMNS: &[(&str, SqlType)] = &[
    ("subject", SqlType::Text),
    ("from_shard", SqlType::Int4),
    ("to_shard", SqlType::Int4),
    ("bytes", SqlType::Int8),
    ("reason", SqlType::Text),
];

const STATUS_COLUMNS: &[(&str, SqlType)] = &[
    ("move", SqlType::Int8),
    ("subject", SqlType::Text),
    ("from_shard", SqlType::Int4),
    ("to_shard", SqlType::Int4),
    ("phase", SqlType::Text),
    ("rows", SqlType::Int8),
    ("bytes", SqlType::Int8),
    ("bytes_total", SqlType::Int8),
    ("lag_bytes", SqlType::Int8),
    ("remaining_seconds", SqlType::Float8),
    ("write_stall_ms", SqlType::Float8),
    ("created_at", SqlType::Timestamptz),
    ("ended_at", SqlType::Timestamptz),
    ("reason", SqlType::Text),
    ("error", SqlType::Text),
];

const VERIFY_COLUMNS: &[(&str, SqlType)] = &[
    ("table_name", SqlType::Text),
    ("source_rows", SqlType::Int8),
    ("source_checksum", SqlType::Int8),
    ("target_rows", SqlType::Int8),
    ("target_checksum", SqlType::Int8),
    ("is_equal", SqlType::Bool),
];

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
    Function {
        id: Administration::MoveSlots,
        oid: 9212,
        schema: "cortex",
        name: "move_slots",
        arguments: &[
            argument("table_name", SqlType::Regclass),
            argument("from_shard", SqlType::Int4),
            argument("to_shard", SqlType::Int4),
            Argument { name: "slots", ty: SqlType::Text, default: DefaultValue::Null },
            defaulted("wait", SqlType::Bool, "true"),
        ],
        columns: &[("move_slots", SqlType::Int8)],
        returns_table: false,
        in_block: false,
        reads_only: false,
        description: "move slots ('0-99,200'; all that from_shard has) of the table's co-location group to another shard",
    },
    Function {
        id: Administration::MoveRange,
        oid: 9213,
        schema: "cortex",
        name: "move_range",
        arguments: &[
            argument("table_name", SqlType::Regclass),
            argument("at", SqlType::Text),
            argument("to_shard", SqlType::Int4),
            defaulted("wait", SqlType::Bool, "true"),
        ],
        columns: &[("move_range", SqlType::Int8)],
        returns_table: false,
        in_block: false,
        reads_only: false,
        description: "move the range of a range table that holds a value to another shard",
    },
    Function {
        id: Administration::MoveSchema,
        oid: 9214,
        schema: "cortex",
        name: "move_schema",
        arguments: &[
            argument("schema_name", SqlType::Text),
            argument("to_shard", SqlType::Int4),
            defaulted("wait", SqlType::Bool, "true"),
        ],
        columns: &[("move_schema", SqlType::Int8)],
        returns_table: false,
        in_block: false,
        reads_only: false,
        description: "make another shard the home of a schema, with its home tables, primary copies of reference tables and sequences",
    },
    Function {
        id: Administration::RebalancePlan,
        oid: 9215,
        schema: "cortex",
        name: "rebalance_plan",
        arguments: &[defaulted("strategy", SqlType::Text, "by_bytes")],
        columns: PLAN_COLUMNS,
        returns_table: true,
        in_block: false,
        reads_only: true,
        description: "the moves that would spread bytes (by_bytes) or slots and ranges (by_slots) evenly",
    },
    Function {
        id: Administration::RebalanceStart,
        oid: 9216,
        schema: "cortex",
        name: "rebalance_start",
        arguments: &[defaulted("strategy", SqlType::Text, "by_bytes")],
        columns: &[("rebalance_start", SqlType::Int8)],
        returns_table: false,
        in_block: false,
        reads_only: false,
        description: "run the moves of rebalance_plan one by one in the background; how many there are",
    },
    Function {
        id: Administration::RebalanceStop,
        oid: 9217,
        schema: "cortex",
        name: "rebalance_stop",
        arguments: &[],
        columns: &[("rebalance_stop", SqlType::Int8)],
        returns_table: false,
        in_block: false,
        reads_only: false,
        description: "take back the moves of rebalance_start that have not begun; how many there were",
    },
    Function {
        id: Administration::RebalanceStatus,
        oid: 9218,
        schema: "cortex",
        name: "rebalance_status",
        arguments: &[],
        columns: STATUS_COLUMNS,
        returns_table: true,
        in_block: false,
        reads_only: true,
        description: "moves, how far they are, and what they met",
    },
    Function {
        id: Administration::Retry,
        oid: 9219,
        schema: "cortex",
        name: "retry",
        arguments: &[argument("move", SqlType::Int8)],
        columns: &[("retry", SqlType::Void)],
        returns_table: false,
        in_block: false,
        reads_only: false,
        description: "let a move that failed go on",
    },
    Function {
        id: Administration::Abort,
        oid: 9220,
        schema: "cortex",
        name: "abort",
        arguments: &[argument("move", SqlType::Int8), defaulted("wait", SqlType::Bool, "true")],
        columns: &[("abort", SqlType::Void)],
        returns_table: false,
        in_block: false,
        reads_only: false,
        description: "give a move up before its cutover has committed; what was copied is deleted",
    },
    Function {
        id: Administration::Verify,
        oid: 9221,
        schema: "cortex",
        name: "verify",
        arguments: &[argument("move", SqlType::Int8)],
        columns: VERIFY_COLUMNS,
        returns_table: true,
        in_block: false,
        reads_only: true,
        description: "rows and checksums of what a move moves, on both shards, as of now",
    },
    Function {
        id: Administration::AddShard,
        oid: 9222,
        schema: "cortex",
        name: "add_shard",
        arguments: &[argument("address", SqlType::Text)],
        columns: &[("add_shard", SqlType::Int4)],
        returns_table: false,
        in_block: false,
        reads_only: false,
        description: "give a shard that has joined from this address copies of all reference tables; its id",
    },
    Function {
        id: Administration::DrainShard,
        oid: 9223,
        schema: "cortex",
        name: "drain_shard",
        arguments: &[argument("shard", SqlType::Int4)],
        columns: &[("drain_shard", SqlType::Int8)],
        returns_table: false,
        in_block: false,
        reads_only: false,
        description: "place nothing new on a shard and move everything off it in the background; how many moves that takes",
    },
    Function {
        id: Administration::RemoveShard,
        oid: 9224,
        schema: "cortex",
        name: "remove_shard",
        arguments: &[argument("shard", SqlType::Int4)],
        columns: &[("remove_shard", SqlType::Void)],
        returns_table: false,
        in_block: false,
        reads_only: false,
        description: "take an empty shard out of the cluster for good",
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

pub fn by_name(schema: &str, name: &str) -> Option<&'static Function> {
    FUNCTIONS.iter().find(|it| it.schema == schema && it.name == name)
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
