//! Real data: the Debian package table through COPY into a table sharded by hash, and analytic questions about it.
//!
//! The answers are PostgreSQL's where there is one; everywhere, they are the same from a home table, which goes another way
//! through planner and shards.

use anyhow::{Context, Result, ensure};
use cortex_sql_tests::{Client, CortexServer, packages, postgres::Postgres};

const QUESTIONS: &[&str] = &[
    "SELECT count(*), sum(size), min(name), max(installed_size) FROM packages",
    "SELECT section, count(*) FROM packages GROUP BY section ORDER BY count(*) DESC, section",
    "SELECT source, count(*) AS n FROM packages GROUP BY source ORDER BY n DESC, source LIMIT 10",
    "SELECT priority, arch, count(*), avg(installed_size), sum(size) FROM packages GROUP BY priority, arch ORDER BY 1, 2",
    "SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY size), percentile_disc(0.99) WITHIN GROUP (ORDER BY size) FROM packages",
    "SELECT section, percentile_cont(0.5) WITHIN GROUP (ORDER BY installed_size) FROM packages GROUP BY section ORDER BY section",
    "SELECT count(*) FROM packages a JOIN packages b ON a.source = b.source AND a.id < b.id",
    "SELECT a.name, b.name FROM packages a JOIN packages b ON a.source = b.source AND a.size = b.size AND a.id < b.id ORDER BY a.name, b.name LIMIT 20",
    "SELECT * FROM (SELECT section, name, rank() OVER (PARTITION BY section ORDER BY size DESC, name) AS r FROM packages) AS s WHERE r <= 2 ORDER BY section, r",
    "SELECT section, sum(size) * 100 / (SELECT sum(size) FROM packages) AS percent FROM packages GROUP BY section ORDER BY section",
    "SELECT name FROM packages WHERE description ILIKE '%database%' AND section = 'libs' ORDER BY name LIMIT 10",
    "SELECT section, arch, count(*) FROM packages GROUP BY ROLLUP (section, arch) ORDER BY section, arch, 3",
    "SELECT length(name), count(DISTINCT source) FROM packages GROUP BY length(name) ORDER BY 1",
    "SELECT name, version FROM packages WHERE id = 4711",
    "SELECT name FROM packages WHERE source IN (SELECT source FROM packages GROUP BY source HAVING count(*) > 100) ORDER BY size DESC, name LIMIT 5",
    "SELECT name, lag(name) OVER (ORDER BY name), sum(size) OVER (ORDER BY name ROWS 2 PRECEDING) FROM packages ORDER BY name LIMIT 10 OFFSET 1000",
];

#[test]
fn package_table_answers_alike_sharded_home_and_in_postgresql() -> Result<()> {
    let csv = packages::csv()?;
    let n_rows = load_count(&csv);
    let server = CortexServer::start(4)?;
    let mut sharded = server.connect()?;
    load(&mut sharded, "packages_sharded", " WITH (shard_by = 'hash(id)')", &csv, n_rows)?;
    let mut home = server.connect()?;
    load(&mut home, "packages_home", "", &csv, n_rows)?;
    let mut postgres = match Postgres::find()? {
        Some(server) => {
            let mut client = server.connect()?;
            client.simple("DROP SCHEMA IF EXISTS packages_pg CASCADE")?;
            load(&mut client, "packages_pg", "", &csv, n_rows)?;
            Some((server, client))
        }
        None => None,
    };
    for question in QUESTIONS {
        let answer = sharded.simple(question).with_context(|| format!("sharded: {question}"))?;
        let other = home.simple(question).with_context(|| format!("home: {question}"))?;
        ensure!(answer.columns == other.columns, "columns differ: {question}");
        ensure!(answer.text() == other.text(), "sharded and home differ: {question}");
        ensure!(!answer.rows.is_empty() || question.contains("ILIKE"), "no rows: {question}");
        if let Some((_, client)) = &mut postgres {
            let expected = client.simple(question)?;
            ensure!(expected.columns == answer.columns, "columns: {question}");
            for (n, (want, got)) in expected.text().iter().zip(answer.text()).enumerate() {
                ensure!(*want == got, "{question}\nrow {n} expected {want:?}\n      got {got:?}");
            }
            ensure!(expected.rows.len() == answer.rows.len(), "number of rows: {question}");
        }
    }
    println!("{} questions about {n_rows} packages", QUESTIONS.len());
    let out = sharded.simple("COPY packages TO STDOUT (FORMAT csv, HEADER)")?.copied;
    ensure!(load_count(&String::from_utf8(out)?) == n_rows, "COPY TO gives every row");
    Ok(())
}

/// Records of the CSV: lines outside quotes, without the header.
fn load_count(csv: &str) -> u64 {
    let mut quoted = false;
    let lines = csv.bytes().filter(|b| {
        quoted ^= *b == b'"';
        *b == b'\n' && !quoted
    });
    lines.count() as u64 - 1
}

fn load(client: &mut Client, schema: &str, with: &str, csv: &str, n_rows: u64) -> Result<()> {
    client.simple(&format!("CREATE SCHEMA {schema}"))?;
    client.simple(&format!("SET search_path = {schema}"))?;
    client.simple(&format!("CREATE TABLE packages ({}){with}", packages::COLUMNS))?;
    let reply = client
        .copy_in("COPY packages FROM STDIN (FORMAT csv, HEADER)", csv.as_bytes())
        .context("COPY FROM STDIN")?;
    ensure!(reply.tag == format!("COPY {n_rows}"), "{} instead of {n_rows} rows", reply.tag);
    Ok(())
}
