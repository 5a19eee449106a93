//! The facts of signatures: names, OIDs, types and strictness as PostgreSQL 15's own catalogs state them.
//!
//! `facts/*.tsv` hold the rows, generated from a PostgreSQL by `functions/src/registry/facts/generate.sh`; `facts/own.tsv` holds
//! what Postgres keeps in its grammar instead of pg_proc. A row counts only if there is an implementation for it.

use std::{collections::HashMap, sync::LazyLock};

use cortex_shard_api::SqlType;

use super::{Volatility, types::ArgType};
use crate::kernels::{self, Implementation};

const PROCEDURES: &str = include_str!("facts/pg_proc.tsv");
const OWN_PROCEDURES: &str = include_str!("facts/own.tsv");
const OPERATORS: &str = include_str!("facts/pg_operator.tsv");
const CASTS: &str = include_str!("facts/pg_cast.tsv");

/// `pg_proc.prokind`, with ordered-set aggregates apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Function,
    Aggregate,
    OrderedSet,
    Window,
}

/// One signature.
#[derive(Debug)]
pub(crate) struct Procedure {
    pub oid: u32,
    pub name: &'static str,
    pub kind: Kind,
    pub strict: bool,
    pub volatility: Volatility,
    pub returns_set: bool,
    pub variadic: u32,
    /// Arguments at the end that may be left out; the kernel knows their defaults.
    pub defaults: usize,
    pub returns: ArgType,
    pub returns_oid: u32,
    pub args: Vec<ArgType>,
    pub arg_oids: Vec<u32>,
    /// OUT parameters of a function that returns records.
    pub out: Vec<(&'static str, ArgType)>,
    pub source: &'static str,
    pub implementation: Implementation,
}

#[derive(Debug)]
pub(crate) struct Operator {
    pub oid: u32,
    pub name: &'static str,
    pub left: Option<ArgType>,
    pub left_oid: u32,
    pub right: ArgType,
    pub right_oid: u32,
    pub result_oid: u32,
    pub function: u32,
    pub commutator: u32,
    pub negator: u32,
    pub can_merge: bool,
    pub can_hash: bool,
}

#[derive(Debug)]
pub(crate) struct CastRow {
    pub oid: u32,
    pub source: u32,
    pub target: u32,
    pub function: u32,
    pub context: char,
    pub method: char,
}

#[derive(Debug)]
pub(crate) struct Facts {
    pub procedures: Vec<Procedure>,
    /// Positions in `procedures`.
    pub by_name: HashMap<&'static str, Vec<usize>>,
    pub by_oid: HashMap<u32, usize>,
    pub operators: Vec<Operator>,
    pub operators_by_name: HashMap<&'static str, Vec<usize>>,
    pub cast_rows: Vec<CastRow>,
    /// (source, target) → (context, method).
    pub casts: HashMap<(SqlType, SqlType), (char, char)>,
}

/// The facts, read once.
pub(crate) fn facts() -> &'static Facts {
    static FACTS: LazyLock<Facts> = LazyLock::new(load);
    &FACTS
}

impl Facts {
    pub(crate) fn named(&self, name: &str) -> impl Iterator<Item = &Procedure> {
        self.by_name.get(name).into_iter().flatten().map(|position| &self.procedures[*position])
    }
}

fn load() -> Facts {
    // The operator behind a function tells most about what it computes: every `=` is one kernel.
    let mut operator_of = HashMap::new();
    for line in OPERATORS.lines() {
        let fields = line.split('\t').collect::<Vec<_>>();
        operator_of.entry(number(fields[5])).or_insert((fields[1], number(fields[2]) == 0));
    }
    let mut procedures = Vec::new();
    for line in PROCEDURES.lines().chain(OWN_PROCEDURES.lines()) {
        procedures.extend(procedure(line, &operator_of));
    }
    let mut by_name: HashMap<&'static str, Vec<usize>> = HashMap::new();
    let mut by_oid = HashMap::new();
    for (position, procedure) in procedures.iter().enumerate() {
        by_name.entry(procedure.name).or_default().push(position);
        if procedure.oid != 0 {
            by_oid.insert(procedure.oid, position);
        }
    }
    let mut operators = Vec::new();
    for line in OPERATORS.lines() {
        operators.extend(operator(line).filter(|operator| by_oid.contains_key(&operator.function)));
    }
    let mut operators_by_name: HashMap<&'static str, Vec<usize>> = HashMap::new();
    for (position, operator) in operators.iter().enumerate() {
        operators_by_name.entry(operator.name).or_default().push(position);
    }
    let mut cast_rows = Vec::new();
    let mut casts = HashMap::new();
    for line in CASTS.lines() {
        let fields = line.split('\t').collect::<Vec<_>>();
        let row = CastRow {
            oid: number(fields[0]),
            source: number(fields[1]),
            target: number(fields[2]),
            function: number(fields[3]),
            context: letter(fields[4]),
            method: letter(fields[5]),
        };
        // A cast of a type to itself applies a modifier; `apply_typmod` does that.
        if row.source != row.target
            && let (Some(source), Some(target)) =
                (SqlType::from_oid(row.source), SqlType::from_oid(row.target))
        {
            casts.insert((source, target), (row.context, row.method));
            cast_rows.push(row);
        }
    }
    Facts { procedures, by_name, by_oid, operators, operators_by_name, cast_rows, casts }
}

fn procedure(
    line: &'static str,
    operator_of: &HashMap<u32, (&'static str, bool)>,
) -> Option<Procedure> {
    let fields = line.split('\t').collect::<Vec<_>>();
    if fields.len() < 12 {
        return None;
    }
    let arg_oids = oids(fields[9]);
    let args = arg_oids.iter().map(|oid| ArgType::from_oid(*oid)).collect::<Option<Vec<_>>>()?;
    let out = match fields[10] {
        "-" => Vec::new(),
        list => list
            .split(' ')
            .map(|column| {
                let (name, oid) = column.split_once(':')?;
                Some((name, ArgType::from_oid(number(oid))?))
            })
            .collect::<Option<Vec<_>>>()?,
    };
    let kind = match fields[2] {
        "f" => Kind::Function,
        "a" => Kind::Aggregate,
        "o" => Kind::OrderedSet,
        "w" => Kind::Window,
        _ => return None,
    };
    let oid = number(fields[0]);
    let name = fields[1];
    let implementation = match kind {
        Kind::Function => {
            kernels::find(name, &args, fields[5] == "1", operator_of.get(&oid).copied())?
        }
        Kind::Aggregate | Kind::OrderedSet => {
            crate::lower::aggregate_implemented(name).then_some(Implementation::Aggregate)?
        }
        Kind::Window => Implementation::Window,
    };
    Some(Procedure {
        oid,
        name,
        kind,
        strict: fields[3] == "1",
        volatility: match fields[4] {
            "i" => Volatility::Immutable,
            "s" => Volatility::Stable,
            _ => Volatility::Volatile,
        },
        returns_set: fields[5] == "1",
        variadic: number(fields[6]),
        defaults: number(fields[7]) as usize,
        returns: ArgType::from_oid(number(fields[8]))?,
        returns_oid: number(fields[8]),
        args,
        arg_oids,
        out,
        source: fields[11],
        implementation,
    })
}

fn operator(line: &'static str) -> Option<Operator> {
    let fields = line.split('\t').collect::<Vec<_>>();
    let left_oid = number(fields[2]);
    // Types that are another one's values here would double that one's operators.
    if [left_oid, number(fields[3])].iter().any(|oid| matches!(oid, 22 | 30 | 194)) {
        return None;
    }
    Some(Operator {
        oid: number(fields[0]),
        name: fields[1],
        left: if left_oid == 0 { None } else { Some(ArgType::from_oid(left_oid)?) },
        left_oid,
        right: ArgType::from_oid(number(fields[3]))?,
        right_oid: number(fields[3]),
        result_oid: number(fields[4]),
        function: number(fields[5]),
        commutator: number(fields[6]),
        negator: number(fields[7]),
        can_merge: fields[8] == "1",
        can_hash: fields[9] == "1",
    })
}

fn oids(list: &str) -> Vec<u32> {
    match list {
        "-" => Vec::new(),
        list => list.split(' ').map(number).collect(),
    }
}

fn number(text: &str) -> u32 {
    text.parse().expect("the facts hold numbers where numbers belong")
}

fn letter(text: &str) -> char {
    text.chars().next().unwrap_or('-')
}
