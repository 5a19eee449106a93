//! Types, functions, operators and other objects that do not change: under PostgreSQL's OIDs, as far as they exist here.

use std::collections::HashSet;

use cortex_functions::registry::{self, Volatility};
use cortex_planner::catalog::edit::{PG_CATALOG, SUPERUSER};
use cortex_shard_api::{Datum, Oid, SqlType, ValueError};

use super::{
    Fill, Source,
    rows::{Rows, array, letter, oid, oid_array, text, text_array},
};
use crate::catalog::administration::FUNCTIONS;

pub const RELATIONS: &[(&str, Fill)] = &[
    ("pg_type", |_, rows| rows.push_text(include_str!("facts/pg_type.tsv"), |_| true)),
    ("pg_am", |_, rows| rows.push_text(include_str!("facts/pg_am.tsv"), |_| true)),
    ("pg_language", |_, rows| rows.push_text(include_str!("facts/pg_language.tsv"), |_| true)),
    ("pg_collation", |_, rows| rows.push_text(include_str!("facts/pg_collation.tsv"), |_| true)),
    ("pg_opclass", |_, rows| rows.push_text(include_str!("facts/pg_opclass.tsv"), |_| true)),
    ("pg_opfamily", |_, rows| rows.push_text(include_str!("facts/pg_opfamily.tsv"), |_| true)),
    ("pg_amop", |_, rows| rows.push_text(include_str!("facts/pg_amop.tsv"), |_| true)),
    ("pg_amproc", |_, rows| rows.push_text(include_str!("facts/pg_amproc.tsv"), |_| true)),
    ("pg_extension", |_, rows| rows.push_text(include_str!("facts/pg_extension.tsv"), |_| true)),
    ("pg_aggregate", pg_aggregate),
    ("pg_proc", pg_proc),
    ("pg_operator", pg_operator),
    ("pg_cast", pg_cast),
    ("pg_available_extensions", pg_available_extensions),
];

const INTERNAL_LANGUAGE: Oid = Oid(12);

fn pg_aggregate(_: &Source<'_>, rows: &mut Rows) -> Result<(), ValueError> {
    let ours: HashSet<String> = registry::functions()
        .into_iter()
        .filter(|function| function.kind == 'a')
        .map(|function| function.oid.to_string())
        .collect();
    rows.push_text(include_str!("facts/pg_aggregate.tsv"), |fields| {
        fields.first().is_some_and(|oid| ours.contains(*oid))
    })
}

fn pg_proc(_: &Source<'_>, rows: &mut Rows) -> Result<(), ValueError> {
    for function in registry::functions() {
        let volatility = match function.volatility {
            Volatility::Immutable => 'i',
            Volatility::Stable => 's',
            Volatility::Volatile => 'v',
        };
        rows.push([
            ("oid", Datum::Oid(function.oid)),
            ("proname", text(function.name)),
            ("pronamespace", oid(PG_CATALOG)),
            ("proowner", oid(SUPERUSER)),
            ("prolang", oid(INTERNAL_LANGUAGE)),
            ("procost", Datum::Float4(1.0)),
            ("prorows", Datum::Float4(if function.returns_set { 1000.0 } else { 0.0 })),
            ("provariadic", Datum::Oid(function.variadic)),
            ("prokind", letter(function.kind)),
            ("proisstrict", Datum::Bool(function.strict)),
            ("proretset", Datum::Bool(function.returns_set)),
            ("provolatile", letter(volatility)),
            ("proparallel", letter('s')),
            ("pronargs", Datum::Int2(function.args.len() as i16)),
            ("pronargdefaults", Datum::Int2(function.defaults as i16)),
            ("prorettype", Datum::Oid(function.returns)),
            ("proargtypes", oid_array(function.args)),
            ("prosrc", text(function.source)),
        ]);
    }
    administration(rows);
    for line in include_str!("facts/pg_proc_support.tsv").lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let [id, name, _, _, _, returns, args, strict, volatility, set, count, source] = fields[..]
        else {
            continue;
        };
        let number = |text: &str| text.parse().unwrap_or(0);
        rows.push([
            ("oid", Datum::Oid(number(id))),
            ("proname", text(name)),
            ("pronamespace", oid(PG_CATALOG)),
            ("proowner", oid(SUPERUSER)),
            ("prolang", oid(INTERNAL_LANGUAGE)),
            ("procost", Datum::Float4(1.0)),
            ("prokind", letter('f')),
            ("proisstrict", Datum::Bool(strict == "t")),
            ("proretset", Datum::Bool(set == "t")),
            ("provolatile", text(volatility)),
            ("proparallel", letter('s')),
            ("pronargs", Datum::Int2(count.parse().unwrap_or(0))),
            ("prorettype", Datum::Oid(number(returns))),
            ("proargtypes", oid_array(args.split_whitespace().map(number))),
            ("prosrc", text(source)),
        ]);
    }
    Ok(())
}

/// Functions that change the cluster.
fn administration(rows: &mut Rows) {
    for function in FUNCTIONS {
        let types = || function.arguments.iter().map(|argument| argument.ty.oid());
        let columns = || function.columns.iter().filter(|_| function.returns_table);
        let all = types().chain(columns().map(|(_, ty)| ty.oid()));
        let names = function.arguments.iter().map(|argument| argument.name);
        let names = names.chain(columns().map(|(name, _)| *name)).map(str::to_owned);
        let modes = function.arguments.iter().map(|_| 'i').chain(columns().map(|_| 't'));
        let modes = modes.map(letter).collect();
        rows.push([
            ("oid", Datum::Oid(function.oid)),
            ("proname", text(function.name)),
            ("pronamespace", oid(function.namespace())),
            ("proowner", oid(SUPERUSER)),
            ("prolang", oid(INTERNAL_LANGUAGE)),
            ("procost", Datum::Float4(1.0)),
            ("prorows", Datum::Float4(if function.returns_table { 1000.0 } else { 0.0 })),
            ("prokind", letter('f')),
            ("proretset", Datum::Bool(function.returns_table)),
            ("provolatile", letter('v')),
            ("proparallel", letter('u')),
            ("pronargs", Datum::Int2(function.arguments.len() as i16)),
            ("pronargdefaults", Datum::Int2(function.defaults() as i16)),
            ("prorettype", Datum::Oid(function.result_type().oid())),
            ("proargtypes", oid_array(types())),
            ("proallargtypes", if function.returns_table { oid_array(all) } else { Datum::Null }),
            (
                "proargmodes",
                if function.returns_table { array(SqlType::Char, modes) } else { Datum::Null },
            ),
            ("proargnames", text_array(names)),
            ("prosrc", text(function.name)),
        ]);
    }
}

/// Names of the functions behind types and aggregates that cannot be called: (OID, name).
pub fn support_functions() -> impl Iterator<Item = (u32, &'static str)> {
    include_str!("facts/pg_proc_support.tsv").lines().filter_map(|line| {
        let mut fields = line.split('\t');
        Some((fields.next()?.parse().ok()?, fields.next()?))
    })
}

fn pg_operator(_: &Source<'_>, rows: &mut Rows) -> Result<(), ValueError> {
    for operator in registry::operators() {
        rows.push([
            ("oid", Datum::Oid(operator.oid)),
            ("oprname", text(operator.name)),
            ("oprnamespace", oid(PG_CATALOG)),
            ("oprowner", oid(SUPERUSER)),
            ("oprkind", letter(if operator.left == 0 { 'l' } else { 'b' })),
            ("oprcanmerge", Datum::Bool(operator.can_merge)),
            ("oprcanhash", Datum::Bool(operator.can_hash)),
            ("oprleft", Datum::Oid(operator.left)),
            ("oprright", Datum::Oid(operator.right)),
            ("oprresult", Datum::Oid(operator.result)),
            ("oprcom", Datum::Oid(operator.commutator)),
            ("oprnegate", Datum::Oid(operator.negator)),
            ("oprcode", Datum::Oid(operator.function)),
        ]);
    }
    Ok(())
}

fn pg_cast(_: &Source<'_>, rows: &mut Rows) -> Result<(), ValueError> {
    for cast in registry::casts() {
        rows.push([
            ("oid", Datum::Oid(cast.oid)),
            ("castsource", Datum::Oid(cast.source)),
            ("casttarget", Datum::Oid(cast.target)),
            ("castfunc", Datum::Oid(cast.function)),
            ("castcontext", letter(cast.context)),
            ("castmethod", letter(cast.method)),
        ]);
    }
    Ok(())
}

fn pg_available_extensions(_: &Source<'_>, rows: &mut Rows) -> Result<(), ValueError> {
    rows.push([
        ("name", text("plpgsql")),
        ("default_version", text("1.0")),
        ("installed_version", text("1.0")),
        ("comment", text("PL/pgSQL procedural language")),
    ]);
    Ok(())
}
