//! TPC-H: all 22 queries over sharded tables answer as PostgreSQL does.
//!
//! Orders and their lines are co-located, parts and what suppliers ask for them too; nations and regions are on every shard.
//! So the queries need joins inside the shards, joins with reference tables, and joins that fit no placement. Rows are
//! compared as text, in order: sums and averages of numeric agree to the last digit, and no query's order has ties.
//!
//! `CORTEX_TPCH_SCALE` is the scale; 0.01 without it, because a debug build is what tests have.

mod queries;
mod tables;

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use cortex_sql_tests::{Client, ClusterServer, CortexServer, client::Target, postgres::Postgres};

const SCALE_DEFAULT: f64 = 0.01;
/// Fewer queries with rows than this, and the comparison would prove little.
const ANSWERS_WITH_ROWS_MIN: usize = 18;

#[test]
fn queries_over_embedded_shards_answer_as_postgres() -> Result<()> {
    let Some(postgres) = Postgres::find()? else { return Ok(()) };
    let server = CortexServer::start(3)?;
    compare(&postgres.target, &server.target).with_context(|| server.log())
}

#[test]
fn queries_over_shard_processes_answer_as_postgres() -> Result<()> {
    let Some(postgres) = Postgres::find()? else { return Ok(()) };
    let cluster = ClusterServer::start(3, 1)?;
    compare(&postgres.target, &cluster.target(1)?).with_context(|| cluster.logs())
}

fn scale() -> Result<f64> {
    match std::env::var("CORTEX_TPCH_SCALE") {
        Ok(text) => text.parse().context("CORTEX_TPCH_SCALE is not a number"),
        Err(_) => Ok(SCALE_DEFAULT),
    }
}

fn compare(postgres: &Target, cortex: &Target) -> Result<()> {
    let scale = scale()?;
    let mut postgres = Client::connect(postgres)?;
    let mut cortex = Client::connect(cortex)?;
    // A PostgreSQL that was there before may have tables of these names.
    postgres
        .simple("DROP SCHEMA IF EXISTS tpch CASCADE; CREATE SCHEMA tpch; SET search_path = tpch")?;
    tables::load(&mut postgres, &mut cortex, scale)?;
    let mut with_rows = 0;
    let mut failures = Vec::new();
    for number in queries::NUMBERS {
        match compare_query(&mut postgres, &mut cortex, number, scale) {
            Ok(n_rows) => with_rows += usize::from(n_rows > 0),
            Err(error) => failures.push(format!("Q{number}: {error:#}")),
        }
    }
    postgres.simple("DROP SCHEMA tpch CASCADE")?;
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    ensure!(with_rows >= ANSWERS_WITH_ROWS_MIN, "only {with_rows} queries returned rows");
    Ok(())
}

/// The number of rows, if both answered alike.
fn compare_query(
    postgres: &mut Client,
    cortex: &mut Client,
    number: i32,
    scale: f64,
) -> Result<usize> {
    let query = queries::query(number, scale)?;
    let since = Instant::now();
    let expected = queries::run(postgres, &query).context("PostgreSQL")?;
    let (theirs, since) = (since.elapsed(), Instant::now());
    let found = queries::run(cortex, &query)?;
    println!(
        "Q{number}: {} rows, PostgreSQL {:.2} s, CortexDB {:.2} s",
        expected.rows.len(),
        theirs.as_secs_f64(),
        since.elapsed().as_secs_f64()
    );
    ensure!(
        found.columns == expected.columns,
        "columns {:?}, not {:?}",
        found.columns,
        expected.columns
    );
    let (found, expected) = (found.text(), expected.text());
    let different = found.iter().zip(&expected).position(|(a, b)| a != b);
    if let Some(n) = different {
        anyhow::bail!("row {n} is {:?}, not {:?}", found[n], expected[n]);
    }
    ensure!(found.len() == expected.len(), "{} rows, not {}", found.len(), expected.len());
    Ok(found.len())
}
