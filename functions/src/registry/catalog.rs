//! Rows of `pg_proc`, `pg_operator` and `pg_cast` for the system catalogs: what is implemented, under PostgreSQL's OIDs.

use super::{
    Volatility,
    facts::{Kind, facts},
};

/// Row of `pg_proc`.
#[derive(Clone, Debug)]
pub struct FunctionInfo {
    pub oid: u32,
    pub name: &'static str,
    /// `pg_proc.prokind`: f, a, w.
    pub kind: char,
    /// `pg_aggregate.aggkind`: n, o; only for aggregates.
    pub aggregate_kind: char,
    /// OIDs of types, pseudo-types (anyelement, "any") included.
    pub args: Vec<u32>,
    pub returns: u32,
    pub returns_set: bool,
    /// OID of the variadic element type, or 0.
    pub variadic: u32,
    /// How many arguments at the end have defaults.
    pub defaults: usize,
    pub volatility: Volatility,
    pub strict: bool,
    pub source: &'static str,
}

/// Row of `pg_operator`. OIDs; 0 for none.
#[derive(Clone, Debug)]
pub struct OperatorInfo {
    pub oid: u32,
    pub name: &'static str,
    pub left: u32,
    pub right: u32,
    pub result: u32,
    pub function: u32,
    pub commutator: u32,
    pub negator: u32,
    pub can_merge: bool,
    pub can_hash: bool,
}

/// Row of `pg_cast`.
#[derive(Clone, Debug)]
pub struct CastInfo {
    pub oid: u32,
    pub source: u32,
    pub target: u32,
    pub function: u32,
    pub context: char,
    pub method: char,
}

/// Every function, aggregate and window function, by OID.
pub fn functions() -> Vec<FunctionInfo> {
    let mut rows = facts()
        .procedures
        .iter()
        .filter(|procedure| procedure.oid != 0)
        .map(|procedure| FunctionInfo {
            oid: procedure.oid,
            name: procedure.name,
            kind: match procedure.kind {
                Kind::Function => 'f',
                Kind::Aggregate | Kind::OrderedSet => 'a',
                Kind::Window => 'w',
            },
            aggregate_kind: if procedure.kind == Kind::OrderedSet { 'o' } else { 'n' },
            args: procedure.arg_oids.clone(),
            returns: procedure.returns_oid,
            returns_set: procedure.returns_set,
            variadic: procedure.variadic,
            defaults: procedure.defaults,
            volatility: procedure.volatility,
            strict: procedure.strict,
            source: procedure.source,
        })
        .collect::<Vec<_>>();
    rows.sort_by_key(|row| row.oid);
    rows
}

/// Every operator, by OID.
pub fn operators() -> Vec<OperatorInfo> {
    let mut rows = facts()
        .operators
        .iter()
        .map(|operator| OperatorInfo {
            oid: operator.oid,
            name: operator.name,
            left: operator.left_oid,
            right: operator.right_oid,
            result: operator.result_oid,
            function: operator.function,
            commutator: operator.commutator,
            negator: operator.negator,
            can_merge: operator.can_merge,
            can_hash: operator.can_hash,
        })
        .collect::<Vec<_>>();
    rows.sort_by_key(|row| row.oid);
    rows
}

/// Every cast between our types, by OID.
pub fn casts() -> Vec<CastInfo> {
    facts()
        .cast_rows
        .iter()
        .map(|row| CastInfo {
            oid: row.oid,
            source: row.source,
            target: row.target,
            function: row.function,
            context: row.context,
            method: row.method,
        })
        .collect()
}
