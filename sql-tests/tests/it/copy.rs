//! COPY FROM as one thing: what is acknowledged is there with its keys, and whatever ends it half-way leaves nothing.

use std::{io::Write, thread, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use cortex_sql_tests::{Client, ClientError, CortexServer};

/// More than one request to each shard, so that rows have reached the shards when the COPY ends.
const SENT_ROWS: i64 = 30_000;
/// Rows that were there before.
const OLD_ROWS: i64 = 10;

/// A table for each placement, with a primary key, an index and constraints that a COPY can break.
const TABLES: [(&str, &str); 3] = [
    ("home", ""),
    ("hashed", " WITH (shard_by = 'hash(id)')"),
    ("ranged", " WITH (shard_by = 'range(id)')"),
];

fn make_tables(client: &mut Client) -> Result<()> {
    for (name, with) in TABLES {
        client.simple(&format!(
            "CREATE TABLE {name} (id int8 PRIMARY KEY, v int4 NOT NULL CHECK (v >= 0), t text){with}"
        ))?;
        client.simple(&format!("CREATE INDEX {name}_v ON {name} (v)"))?;
        client.simple(&format!(
            "INSERT INTO {name} SELECT g, 1, 'old' FROM generate_series(1, {OLD_ROWS}) g"
        ))?;
    }
    Ok(())
}

/// Rows from one id on.
fn rows(from: i64, n: i64) -> Vec<u8> {
    let mut data = Vec::new();
    for id in from..from + n {
        // A Vec takes every byte.
        let _ = writeln!(data, "{id}\t{}\tnew row {id}", id % 100);
    }
    data
}

/// The table is as before the COPY: no row, no index entry, no key taken, no lock held.
fn nothing_stayed(server: &CortexServer, table: &str) -> Result<()> {
    let mut client = server.connect()?;
    for sql in [
        format!("SELECT count(*) FROM {table}"),
        format!("SELECT count(*) FROM {table} WHERE v BETWEEN 0 AND 1000"),
        format!("SELECT count(*) FROM {table} WHERE id BETWEEN 1 AND 1000000"),
    ] {
        let n = client.simple(&sql)?.text();
        ensure!(n == [[Some(OLD_ROWS.to_string())]], "{sql}: {n:?}");
    }
    client.simple("SET lock_timeout = '5s'")?;
    client.simple(&format!("INSERT INTO {table} VALUES (1000, 2, 'taken?')"))?;
    client.simple(&format!("DELETE FROM {table} WHERE id = 1000"))?;
    Ok(())
}

/// Begins a COPY and sends rows until they are on their way through the shards.
fn half_way(server: &CortexServer, table: &str) -> Result<Client> {
    let mut client = server.connect()?;
    client.copy_begin(&format!("COPY {table} FROM STDIN"))?;
    client.copy_data(&rows(1000, SENT_ROWS))?;
    Ok(client)
}

fn code(answer: std::result::Result<cortex_sql_tests::Reply, ClientError>) -> Result<String> {
    match answer {
        Ok(reply) => bail!("it succeeded: {}", reply.tag),
        Err(ClientError::Db(error)) => Ok(error.code),
        Err(error) => Err(error.into()),
    }
}

#[test]
fn a_copy_that_ends_half_way_leaves_nothing() -> Result<()> {
    let server = CortexServer::start(4)?;
    make_tables(&mut server.connect()?)?;
    for (table, _) in TABLES {
        // The client goes away.
        drop(half_way(&server, table)?);
        thread::sleep(Duration::from_millis(100));
        nothing_stayed(&server, table).with_context(|| format!("{table}: dropped"))?;

        let mut client = half_way(&server, table)?;
        ensure!(code(client.copy_fail("changed my mind"))? == "57014");
        nothing_stayed(&server, table).with_context(|| format!("{table}: CopyFail"))?;

        let mut client = half_way(&server, table)?;
        client.cancel_key.cancel()?;
        ensure!(code(client.answer())? == "57014");
        client.simple("SELECT 1").context("the session after a cancel")?;
        nothing_stayed(&server, table).with_context(|| format!("{table}: cancelled"))?;

        // Bad rows behind good ones: text, NOT NULL, CHECK, a key twice, a key that is there, a missing column.
        for (bad, expected) in [
            ("x\t1\tbad\n", "22P02"),
            ("900000\t\\N\tbad\n", "23502"),
            ("900000\t-1\tbad\n", "23514"),
            ("1001\t1\ttwice\n", "23505"),
            ("1\t1\tthere\n", "23505"),
            ("900000\t1\n", "22P04"),
            ("900000\t99999999999\tbad\n", "22003"),
        ] {
            let mut client = half_way(&server, table)?;
            client.copy_data(bad.as_bytes())?;
            let found = code(client.copy_done())?;
            ensure!(found == expected, "{table}: {bad:?}: {found}");
            client.simple("SELECT 1").context("the session after an error")?;
            nothing_stayed(&server, table).with_context(|| format!("{table}: {bad:?}"))?;
        }

        // In a block everything of the block goes.
        let mut client = server.connect()?;
        client.simple(&format!("BEGIN; UPDATE {table} SET v = 7"))?;
        client.copy_begin(&format!("COPY {table} FROM STDIN"))?;
        client.copy_data(&rows(1000, 100))?;
        client.copy_done()?;
        client.copy_begin(&format!("COPY {table} FROM STDIN"))?;
        client.copy_data(&rows(1050, 1))?;
        ensure!(code(client.copy_done())? == "23505");
        ensure!(code(client.simple("SELECT 1"))? == "25P02");
        client.simple("ROLLBACK")?;
        nothing_stayed(&server, table).with_context(|| format!("{table}: in a block"))?;
        let mut client = server.connect()?;
        client.simple("BEGIN")?;
        client.copy_in(&format!("COPY {table} FROM STDIN"), &rows(1000, 5000)[..])?;
        drop(client);
        thread::sleep(Duration::from_millis(100));
        nothing_stayed(&server, table).with_context(|| format!("{table}: block dropped"))?;
    }
    Ok(())
}

#[test]
fn kill_9_takes_an_unfinished_copy_and_keeps_an_acknowledged_one() -> Result<()> {
    let mut server = CortexServer::start(4)?;
    make_tables(&mut server.connect()?)?;
    let unfinished: Vec<Client> =
        TABLES.iter().map(|(table, _)| half_way(&server, table)).collect::<Result<_>>()?;
    server.kill()?;
    drop(unfinished);
    server.restart()?;
    for (table, _) in TABLES {
        nothing_stayed(&server, table).with_context(|| format!("{table}: killed"))?;
    }
    for (table, _) in TABLES {
        let sql = format!("COPY {table} FROM STDIN");
        let reply = server.connect()?.copy_in(&sql, &rows(1000, SENT_ROWS)[..])?;
        ensure!(reply.tag == format!("COPY {SENT_ROWS}"), "{}", reply.tag);
        server.kill()?;
        server.restart()?;
        let mut client = server.connect()?;
        let expected = Some((OLD_ROWS + SENT_ROWS).to_string());
        for filter in ["", " WHERE v BETWEEN 0 AND 1000"] {
            let n = client.simple(&format!("SELECT count(*) FROM {table}{filter}"))?.text();
            ensure!(n[0][0] == expected, "{table}{filter}: {n:?}, not {expected:?}");
        }
        // The primary key was there with the rows.
        for id in [1, 1000, 1000 + SENT_ROWS - 1] {
            let sql = format!("INSERT INTO {table} VALUES ({id}, 1, 'twice')");
            ensure!(code(client.simple(&sql))? == "23505", "{table}: {id}");
        }
    }
    Ok(())
}

/// What COPY brings in, COPY takes out: the same rows in every format.
#[test]
fn every_format_comes_back_as_it_went_in() -> Result<()> {
    let server = CortexServer::start(4)?;
    let mut client = server.connect()?;
    let columns = "id int8 PRIMARY KEY, t text, n numeric, d date, z timestamptz, b bytea, a int4[], j jsonb, o bool";
    let fill = "SELECT g, CASE g % 5 WHEN 0 THEN NULL WHEN 1 THEN '' WHEN 2 THEN E'tab\\tline\\nback\\\\ \"q\",x' \
        WHEN 3 THEN '\\N' ELSE 'ä' || g END, g / 7.0, date '2000-01-01' + g, timestamptz '2026-11-22 18:00Z' + g * interval '1 hour', \
        decode('00ff0a', 'hex'), ARRAY[g, NULL, -g], jsonb_build_object('k', g), g % 2 = 0 FROM generate_series(1, 500) g";
    client.simple(&format!("CREATE TABLE source ({columns}) WITH (shard_by = 'hash(id)')"))?;
    client.simple(&format!("INSERT INTO source {fill}"))?;
    for (n, options) in [
        "",
        " (FORMAT csv)",
        " (FORMAT csv, HEADER, DELIMITER ';', NULL 'nil', QUOTE '''', FORCE_QUOTE *)",
        " (FORMAT binary)",
        " (DELIMITER '|', NULL '')",
    ]
    .into_iter()
    .enumerate()
    {
        // With NULL '' an empty text comes back as NULL; the source then has none.
        let source = if options.contains("NULL ''") {
            "(SELECT id, nullif(t, '') AS t, n, d, z, b, a, j, o FROM source)"
        } else {
            "source"
        };
        let out = client.simple(&format!("COPY {source} TO STDOUT{options}"))?;
        ensure!(out.tag == "COPY 500", "{options}: {}", out.tag);
        client.simple(&format!("CREATE TABLE copy{n} ({columns})"))?;
        let options = options.replace(", FORCE_QUOTE *", "");
        client
            .copy_in(&format!("COPY copy{n} FROM STDIN{options}"), &out.copied[..])
            .with_context(|| options.clone())?;
        let from = if source == "source" { "source".to_owned() } else { format!("{source} s") };
        let differing = client.simple(&format!(
            "SELECT count(*) FROM (SELECT * FROM {from} EXCEPT SELECT * FROM copy{n}) x"
        ))?;
        ensure!(differing.text() == [[Some("0".to_owned())]], "{options}: {:?}", differing.text());
    }
    Ok(())
}

/// Resident memory of a process.
fn resident_bytes(process_id: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process_id}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<u64>()? << 10)
}

/// Rows are not held until the end: once buffers are full, memory no longer follows what comes in.
#[test]
fn a_big_copy_needs_bounded_memory() -> Result<()> {
    if !std::path::Path::new("/proc/self/status").exists() {
        println!("skipped: there is no /proc to read a process's memory from");
        return Ok(());
    }
    let server = CortexServer::start(2)?;
    let mut client = server.connect()?;
    client.simple("CREATE TABLE big (id int8 PRIMARY KEY, t text) WITH (shard_by = 'hash(id)')")?;
    let filler = "x".repeat(BIG_ROW_BYTES);
    client.copy_begin("COPY big FROM STDIN")?;
    let mut half = 0;
    for first in (0..BIG_ROWS).step_by(1000) {
        let chunk: String = (first..first + 1000).map(|id| format!("{id}\t{filler}\n")).collect();
        client.copy_data(chunk.as_bytes())?;
        if first == BIG_ROWS / 2 {
            half = resident_bytes(server.process_id())?;
        }
    }
    let whole = resident_bytes(server.process_id())?;
    let reply = client.copy_done()?;
    ensure!(reply.tag == format!("COPY {BIG_ROWS}"), "{}", reply.tag);
    let (went, grown) = (BIG_ROWS * BIG_ROW_BYTES / 2, whole.saturating_sub(half));
    println!("memory grew by {} MB with the second {} MB", grown >> 20, went >> 20);
    ensure!(grown < (went / 2) as u64, "{grown} bytes for {went}");
    Ok(())
}

const BIG_ROWS: usize = 100_000;
const BIG_ROW_BYTES: usize = 4_000;
