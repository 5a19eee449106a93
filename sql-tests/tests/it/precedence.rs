//! Random chains of operators, read by CortexDB as PostgreSQL reads them: equal values, or an error on both sides that is a
//! syntax error on both or on none (which of several other errors comes first is not compared).
//!
//! `CORTEX_TEST_SEED` repeats a run. Where no PostgreSQL is, it is skipped.

use anyhow::{Result, ensure};
use cortex_sql_tests::{Client, ClientError, CortexServer, postgres::Postgres};
use rand::{Rng, SeedableRng, rngs::StdRng};

const CHAINS: usize = 4_000;
/// Operators in a chain.
const LENGTH_MAX: usize = 4;
/// What the names in a chain stand for.
const ROWS: &str =
    "(VALUES (1, 2, true, 'a'::text), (2, NULL, false, 'b'), (3, 1, NULL, NULL)) AS v (a, b, t, u)";

const ATOMS: [&str; 14] =
    ["1", "2", "3", "0", "4", "true", "false", "NULL", "a", "b", "t", "u", "'1'", "'a'"];
const PREFIXES: [&str; 6] = ["- ", "+ ", "~ ", "NOT ", "@ ", "NOT NOT "];
const SUFFIXES: [&str; 12] = [
    "ISNULL",
    "NOTNULL",
    "IS NULL",
    "IS NOT NULL",
    "IS TRUE",
    "IS NOT FALSE",
    "IS UNKNOWN",
    "::int",
    "::bool",
    "::text",
    "= ANY (ARRAY[1, 2])",
    "LIKE ANY (ARRAY['a', '1'])",
];
const INFIXES: [&str; 28] = [
    "+",
    "-",
    "*",
    "%",
    "^",
    "<",
    ">",
    "=",
    "<=",
    ">=",
    "<>",
    "!=",
    "&",
    "|",
    "#",
    "<<",
    ">>",
    "||",
    "~",
    "AND",
    "OR",
    "IS DISTINCT FROM",
    "IS NOT DISTINCT FROM",
    "LIKE",
    "NOT LIKE",
    "SIMILAR TO",
    "OPERATOR(pg_catalog.+)",
    "OPERATOR(pg_catalog.=)",
];

#[test]
fn chains_of_operators_are_read_as_postgresql_reads_them() -> Result<()> {
    let Some(postgres) = Postgres::find()? else { return Ok(()) };
    let seed = std::env::var("CORTEX_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let mut random = StdRng::seed_from_u64(seed.unwrap_or(20_261_122));
    let server = CortexServer::start(1)?;
    let (mut ours, mut theirs) = (server.connect()?, postgres.connect()?);
    let mut differences = Vec::new();
    let mut n_values = 0;
    for _ in 0..CHAINS {
        let sql = format!("SELECT {} AS r FROM {ROWS}", chain(&mut random));
        let expected = answer(&mut theirs, &sql)?;
        let found = answer(&mut ours, &sql)?;
        n_values += usize::from(matches!(expected, Answer::Rows(_)));
        if expected != found {
            differences.push(format!("{sql}\n  PostgreSQL {expected:?}\n  CortexDB   {found:?}"));
        }
    }
    ensure!(differences.is_empty(), "{}", differences.join("\n"));
    ensure!(n_values * 20 > CHAINS, "only {n_values} chains had a value");
    Ok(())
}

#[derive(Debug, PartialEq)]
enum Answer {
    Rows(Vec<Vec<Option<String>>>),
    Syntax,
    Error,
}

fn answer(client: &mut Client, sql: &str) -> Result<Answer> {
    match client.simple(sql) {
        Ok(reply) => {
            let mut rows = reply.text();
            rows.sort();
            Ok(Answer::Rows(rows))
        }
        Err(ClientError::Db(error)) if error.code == "42601" => Ok(Answer::Syntax),
        Err(ClientError::Db(_)) => Ok(Answer::Error),
        Err(error) => Err(anyhow::anyhow!("{sql}: {error}")),
    }
}

fn chain(random: &mut StdRng) -> String {
    let mut chain = operand(random);
    for _ in 0..random.random_range(1..=LENGTH_MAX) {
        match random.random_range(0..12) {
            0 | 1 => chain += &format!(" {}", pick(random, &SUFFIXES)),
            2 => {
                let low = operand(random);
                let more = pick(random, &["", "", "", " = 1", " + 1", " IS NULL"]);
                let not = pick(random, &["", "NOT "]);
                chain += &format!(" {not}BETWEEN {low}{more} AND {}", operand(random));
            }
            3 => {
                let not = pick(random, &["", "NOT "]);
                chain += &format!(" {not}IN ({}, {})", operand(random), operand(random));
            }
            _ => chain += &format!(" {} {}", pick(random, &INFIXES), operand(random)),
        }
    }
    chain
}

fn operand(random: &mut StdRng) -> String {
    let prefix = if random.random_range(0..4) == 0 { pick(random, &PREFIXES) } else { "" };
    format!("{prefix}{}", pick(random, &ATOMS))
}

fn pick<'a>(random: &mut StdRng, all: &[&'a str]) -> &'a str {
    all[random.random_range(0..all.len())]
}
