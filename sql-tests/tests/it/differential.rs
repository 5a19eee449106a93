//! Thousands of generated statements against CortexDB and PostgreSQL: equal values, column names, type OIDs and command
//! tags, or the same class of SQLSTATE.
//!
//! `CORTEX_TEST_SEED` repeats a run, `CORTEX_TEST_STATEMENTS` sets its length. Where no PostgreSQL is, it is skipped.

use anyhow::{Context, Result, ensure};
use cortex_sql_tests::{Client, ClientError, CortexServer, Reply, postgres::Postgres};

use crate::{
    embedded::Database,
    generator::{COLUMNS, Generator, Statement, TABLES},
};

const STATEMENTS: usize = 5_000;
/// Rows a table starts with.
const ROWS: i32 = 40;
/// After this many differences, more of them say nothing new.
const DIFFERENCES_MAX: usize = 10;

#[test]
fn generated_statements_answer_as_postgresql_does() -> Result<()> {
    let Some(postgres) = Postgres::find()? else { return Ok(()) };
    let seed = number("CORTEX_TEST_SEED").unwrap_or(20_261_122);
    let n_statements = number("CORTEX_TEST_STATEMENTS").map_or(STATEMENTS, |n| n as usize);
    println!("seed {seed}, {n_statements} statements; CORTEX_TEST_SEED repeats or varies it");
    let server = CortexServer::start(4)?;
    answer_alike(server.connect()?, &postgres, seed, n_statements)
}

/// The same over shards that fragments reach as bytes, with other statements and fewer of them.
#[test]
fn generated_statements_answer_alike_as_bytes_too() -> Result<()> {
    let Some(postgres) = Postgres::find()? else { return Ok(()) };
    let seed = number("CORTEX_TEST_SEED").unwrap_or(20_261_122) ^ 0x00c0_dec0;
    let n_statements = number("CORTEX_TEST_STATEMENTS").map_or(STATEMENTS / 4, |n| n as usize);
    println!("seed {seed}, {n_statements} statements");
    let database = Database::start(4)?;
    answer_alike(database.connect()?, &postgres, seed, n_statements)
}

fn answer_alike(cortex: Client, postgres: &Postgres, seed: u64, n_statements: usize) -> Result<()> {
    let mut pair = Pair { cortex, postgres: postgres.connect()? };
    let mut generator = Generator::new(seed);
    pair.prepare(&mut generator)?;
    let mut differences = Vec::new();
    let mut n_errors = 0;
    for n in 0..n_statements {
        let statement = generator.statement();
        let how = if n % 3 == 0 {
            How::Simple
        } else if n % 3 == 1 {
            How::Text
        } else {
            How::Binary
        };
        let outcome = pair.compare(&statement.sql(), how)?;
        n_errors += usize::from(outcome.failed);
        if let Some(difference) = outcome.difference {
            let (statement, difference) = pair.shrink(statement, difference, how)?;
            differences.push(format!("statement {n} ({how:?}): {}\n{difference}", statement.sql()));
            // What differed may have left different rows behind.
            pair.level()?;
        }
        if differences.len() >= DIFFERENCES_MAX {
            break;
        }
    }
    println!("{n_errors} of {n_statements} statements failed alike");
    ensure!(
        differences.is_empty(),
        "{} differences, seed {seed}:\n\n{}",
        differences.len(),
        differences.join("\n\n")
    );
    ensure!(n_errors * 4 < n_statements, "most statements should mean something");
    Ok(())
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// How a statement travels.
#[derive(Clone, Copy, Debug)]
enum How {
    Simple,
    Text,
    Binary,
}

struct Outcome {
    failed: bool,
    difference: Option<String>,
}

struct Pair {
    cortex: Client,
    postgres: Client,
}

impl Pair {
    fn prepare(&mut self, generator: &mut Generator) -> Result<()> {
        self.cortex.simple("SET cortex.default_shard_by = 'primary_key'")?;
        self.postgres.simple("DROP SCHEMA IF EXISTS cortex_differential CASCADE")?;
        for sql in ["CREATE SCHEMA cortex_differential", "SET search_path = cortex_differential"] {
            self.both(sql)?;
        }
        for table in TABLES {
            self.both(&format!("CREATE TABLE {table} ({COLUMNS})"))?;
            let rows: Vec<String> = (0..ROWS).map(|id| generator.row(id)).collect();
            self.both(&format!("INSERT INTO {table} VALUES {}", rows.join(", ")))?;
        }
        self.both("CREATE INDEX t0_a ON t0 (a)")?;
        self.both("CREATE INDEX t1_c ON t1 (c, d)")
    }

    fn both(&mut self, sql: &str) -> Result<()> {
        self.postgres.simple(sql).with_context(|| format!("PostgreSQL: {sql}"))?;
        self.cortex.simple(sql).with_context(|| format!("CortexDB: {sql}"))?;
        Ok(())
    }

    fn compare(&mut self, sql: &str, how: How) -> Result<Outcome> {
        let expected = run(&mut self.postgres, sql, how);
        let found = run(&mut self.cortex, sql, how);
        if let Err(ClientError::Io(error)) = found {
            anyhow::bail!("CortexDB closed the connection on {sql}: {error}");
        }
        Ok(Outcome { failed: expected.is_err(), difference: difference(&expected, &found, sql) })
    }

    /// Leaves parts of a SELECT out as long as the answers still differ.
    fn shrink(
        &mut self,
        mut statement: Statement,
        mut difference: String,
        how: How,
    ) -> Result<(Statement, String)> {
        'shrinking: loop {
            for smaller in statement.smaller() {
                if let Some(less) = self.compare(&smaller.sql(), how)?.difference {
                    (statement, difference) = (smaller, less);
                    continue 'shrinking;
                }
            }
            return Ok((statement, difference));
        }
    }

    /// Makes the tables equal again after a difference, from PostgreSQL's rows.
    fn level(&mut self) -> Result<()> {
        for table in TABLES {
            let rows = self.postgres.simple(&format!("SELECT * FROM {table}"))?.text();
            self.cortex.simple(&format!("DELETE FROM {table}"))?;
            for row in rows {
                let values: Vec<String> = row
                    .into_iter()
                    .map(|v| v.map_or("NULL".into(), |v| format!("'{}'", v.replace('\'', "''"))))
                    .collect();
                self.cortex
                    .simple(&format!("INSERT INTO {table} VALUES ({})", values.join(", ")))?;
            }
        }
        Ok(())
    }
}

fn run(client: &mut Client, sql: &str, how: How) -> std::result::Result<Reply, ClientError> {
    match how {
        How::Simple => client.simple(sql),
        How::Text => client.extended(sql, &[], false),
        How::Binary => client.extended(sql, &[], true),
    }
}

fn difference(
    expected: &std::result::Result<Reply, ClientError>,
    found: &std::result::Result<Reply, ClientError>,
    sql: &str,
) -> Option<String> {
    let (expected, found) = match (expected, found) {
        (Ok(expected), Ok(found)) => (expected, found),
        (Err(expected), Err(found)) => {
            let class = |e: &ClientError| e.code().map(|code| code[..2].to_owned());
            return (class(expected) != class(found))
                .then(|| format!("  expected {expected}\n  got      {found}"));
        }
        (Ok(_), Err(found)) => return Some(format!("  expected an answer\n  got      {found}")),
        (Err(expected), Ok(_)) => {
            return Some(format!("  expected {expected}\n  got      an answer"));
        }
    };
    if expected.columns != found.columns {
        return Some(format!("  expected {:?}\n  got      {:?}", expected.columns, found.columns));
    }
    if expected.tag != found.tag {
        return Some(format!("  expected {}\n  got      {}", expected.tag, found.tag));
    }
    let (mut want, mut got) = (expected.rows.clone(), found.rows.clone());
    if !sql.contains(" ORDER BY 1") {
        want.sort();
        got.sort();
    }
    let at = want.iter().zip(&got).position(|(w, g)| w != g)?;
    let show = |row: &[Option<Vec<u8>>]| {
        let values: Vec<String> = row
            .iter()
            .map(|v| v.as_ref().map_or("NULL".into(), |v| String::from_utf8_lossy(v).into_owned()))
            .collect();
        values.join(" | ")
    };
    Some(format!("  row {at} expected {}\n        got      {}", show(&want[at]), show(&got[at])))
}
