//! Schemas, roles, the database, tablespaces.

use cortex_planner::catalog::{
    Role,
    edit::{DATABASE, DATABASE_NAME, SUPERUSER},
};
use cortex_shard_api::{Datum, ValueError};

use super::{
    Fill, Source,
    rows::{Rows, letter, oid, text},
};

pub const RELATIONS: &[(&str, Fill)] = &[
    ("pg_namespace", pg_namespace),
    ("pg_database", pg_database),
    ("pg_tablespace", |_, rows| rows.push_text(include_str!("facts/pg_tablespace.tsv"), |_| true)),
    ("pg_authid", pg_authid),
    ("pg_roles", pg_roles),
    ("pg_user", pg_user),
];

const UTF8: i32 = 6;
const DEFAULT_TABLESPACE: u32 = 1663;

fn pg_namespace(source: &Source<'_>, rows: &mut Rows) -> Result<(), ValueError> {
    for schema in source.catalog.schemas.values() {
        rows.push([
            ("oid", oid(schema.oid)),
            ("nspname", text(&schema.name)),
            ("nspowner", oid(schema.owner)),
        ]);
    }
    Ok(())
}

fn pg_database(_: &Source<'_>, rows: &mut Rows) -> Result<(), ValueError> {
    rows.push([
        ("oid", oid(DATABASE)),
        ("datname", text(DATABASE_NAME)),
        ("datdba", oid(SUPERUSER)),
        ("encoding", Datum::Int4(UTF8)),
        ("datlocprovider", letter('c')),
        ("datallowconn", Datum::Bool(true)),
        ("datconnlimit", Datum::Int4(-1)),
        ("dattablespace", Datum::Oid(DEFAULT_TABLESPACE)),
        ("datcollate", text("C")),
        ("datctype", text("C.UTF-8")),
    ]);
    Ok(())
}

/// Without a password the column is NULL, else masked where Postgres masks it.
fn role_password(role: &Role, masked: bool) -> Datum {
    match &role.password {
        _ if masked => text("********"),
        Some(verifier) => text(verifier),
        None => Datum::Null,
    }
}

fn pg_authid(source: &Source<'_>, rows: &mut Rows) -> Result<(), ValueError> {
    for role in source.catalog.roles.values() {
        let all = Datum::Bool(role.superuser);
        rows.push([
            ("oid", oid(role.oid)),
            ("rolname", text(&role.name)),
            ("rolsuper", all.clone()),
            ("rolinherit", Datum::Bool(true)),
            ("rolcreaterole", all.clone()),
            ("rolcreatedb", all.clone()),
            ("rolcanlogin", Datum::Bool(role.can_login)),
            ("rolreplication", all.clone()),
            ("rolbypassrls", all),
            ("rolconnlimit", Datum::Int4(-1)),
            ("rolpassword", role_password(role, false)),
        ]);
    }
    Ok(())
}

fn pg_roles(source: &Source<'_>, rows: &mut Rows) -> Result<(), ValueError> {
    for role in source.catalog.roles.values() {
        let all = Datum::Bool(role.superuser);
        rows.push([
            ("rolname", text(&role.name)),
            ("rolsuper", all.clone()),
            ("rolinherit", Datum::Bool(true)),
            ("rolcreaterole", all.clone()),
            ("rolcreatedb", all.clone()),
            ("rolcanlogin", Datum::Bool(role.can_login)),
            ("rolreplication", all.clone()),
            ("rolconnlimit", Datum::Int4(-1)),
            ("rolpassword", role_password(role, true)),
            ("rolbypassrls", all),
            ("oid", oid(role.oid)),
        ]);
    }
    Ok(())
}

fn pg_user(source: &Source<'_>, rows: &mut Rows) -> Result<(), ValueError> {
    for role in source.catalog.roles.values().filter(|role| role.can_login) {
        let all = Datum::Bool(role.superuser);
        rows.push([
            ("usename", text(&role.name)),
            ("usesysid", oid(role.oid)),
            ("usecreatedb", all.clone()),
            ("usesuper", all.clone()),
            ("userepl", all.clone()),
            ("usebypassrls", all),
            ("passwd", role_password(role, true)),
        ]);
    }
    Ok(())
}
