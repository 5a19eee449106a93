//! A statement that waited for another session's schema change runs against the new schema, as in PostgreSQL.
//!
//! Two connections: one changes a table in a transaction, the other writes it and waits. slt has no statement that waits.

use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};
use cortex_sql_tests::{
    CortexServer,
    client::{Client, Reply},
};

/// Long enough for a statement to reach the lock on a busy machine. If it is late, it meets the new schema at once and the
/// test proves less, but does not fail.
const REACH: Duration = Duration::from_millis(700);

fn rows(client: &mut Client, sql: &str) -> Result<Vec<String>> {
    let reply = client.simple(sql).with_context(|| sql.to_owned())?;
    let shown = |row: &Vec<Option<String>>| {
        let values = row.iter().map(|value| value.as_deref().unwrap_or("NULL"));
        values.collect::<Vec<_>>().join(" ")
    };
    Ok(reply.text().iter().map(shown).collect())
}

/// Runs `change` in a transaction that stays open while `writer` runs `write`; returns the answer of the latter.
fn while_changing(
    changer: &mut Client,
    writer: &mut Client,
    change: &str,
    write: impl FnOnce(&mut Client) -> Result<Reply> + Send,
) -> Result<Result<Reply>> {
    changer.simple("BEGIN")?;
    changer.simple(change).with_context(|| change.to_owned())?;
    thread::scope(|scope| {
        let waiting = scope.spawn(|| write(writer));
        thread::sleep(REACH);
        let has_waited = !waiting.is_finished();
        changer.simple("COMMIT")?;
        ensure!(has_waited, "the write did not wait for: {change}");
        waiting.join().map_err(|_| anyhow::anyhow!("the writer panicked"))
    })
}

#[test]
fn a_write_that_waited_for_a_schema_change_runs_again() -> Result<()> {
    let server = CortexServer::start(2)?;
    let mut changer = server.connect()?;
    let mut writer = server.connect()?;
    for placement in ["", " WITH (shard_by = 'hash(id)')"] {
        changer.simple(&format!("CREATE TABLE t (id int PRIMARY KEY, a int){placement}"))?;
        changer.simple("INSERT INTO t VALUES (1, 1), (2, 2)")?;
        // In a statement of its own; one request commits with the write.
        let reply = while_changing(
            &mut changer,
            &mut writer,
            "ALTER TABLE t ADD COLUMN b int DEFAULT 7",
            |writer| Ok(writer.simple("INSERT INTO t VALUES (3, 3)")?),
        )?;
        reply?;
        // Over several shards, and by another key than the primary one.
        let reply = while_changing(
            &mut changer,
            &mut writer,
            "ALTER TABLE t ADD COLUMN c text DEFAULT 'new'",
            |writer| Ok(writer.simple("UPDATE t SET a = a + 10 WHERE a > 0")?),
        )?;
        ensure!(reply?.n_rows() == 3);
        ensure!(
            rows(&mut changer, "SELECT * FROM t ORDER BY id")?
                == ["1 11 7 new", "2 12 7 new", "3 13 7 new"]
        );
        // In a transaction that has written already: what it wrote stays.
        writer.simple("CREATE TABLE before (id int)")?;
        writer.simple("BEGIN")?;
        writer.simple("INSERT INTO before VALUES (1)")?;
        let reply =
            while_changing(&mut changer, &mut writer, "ALTER TABLE t DROP COLUMN b", |writer| {
                Ok(writer.simple("DELETE FROM t WHERE id = 1 RETURNING a, c")?)
            })?;
        ensure!(reply?.text() == [[Some("11".to_owned()), Some("new".to_owned())]]);
        writer.simple("UPDATE t SET a = 0")?;
        writer.simple("COMMIT")?;
        ensure!(rows(&mut changer, "SELECT * FROM before")? == ["1"]);
        ensure!(rows(&mut changer, "SELECT * FROM t ORDER BY id")? == ["2 0 new", "3 0 new"]);
        // In the extended protocol, with a plan made before.
        let reply = while_changing(
            &mut changer,
            &mut writer,
            "ALTER TABLE t ALTER COLUMN a TYPE int8",
            |writer| Ok(writer.extended("UPDATE t SET a = a + 1 WHERE id = 2", &[], false)?),
        )?;
        reply?;
        // COPY waits before it asks for data.
        let reply = while_changing(
            &mut changer,
            &mut writer,
            "ALTER TABLE t ADD COLUMN d int DEFAULT 4",
            |writer| Ok(writer.copy_in("COPY t (id, a) FROM STDIN", &b"9\t9\n"[..])?),
        )?;
        reply?;
        ensure!(
            rows(&mut changer, "SELECT * FROM t ORDER BY id")?
                == ["2 1 new 4", "3 0 new 4", "9 9 new 4"]
        );
        // What the new schema does not allow is said in its words.
        let reply =
            while_changing(&mut changer, &mut writer, "ALTER TABLE t DROP COLUMN a", |writer| {
                Ok(writer.simple("UPDATE t SET a = 5 WHERE id = 2")?)
            })?;
        let error = reply.err().context("column a is gone")?;
        ensure!(format!("{error:#}").contains("42703"), "{error:#}");
        let reply = while_changing(&mut changer, &mut writer, "DROP TABLE t", |writer| {
            Ok(writer.simple("DELETE FROM t")?)
        })?;
        let error = reply.err().context("the table is gone")?;
        ensure!(format!("{error:#}").contains("42P01"), "{error:#}");
        changer.simple("DROP TABLE before")?;
    }
    Ok(())
}

/// The schema change of a table that a foreign key leads to is found by the shard.
#[test]
fn a_write_waits_for_changes_of_referenced_tables() -> Result<()> {
    let server = CortexServer::start(2)?;
    let mut changer = server.connect()?;
    let mut writer = server.connect()?;
    changer.simple("CREATE TABLE parent (id int PRIMARY KEY)")?;
    changer.simple(
        "CREATE TABLE child (id int PRIMARY KEY, p int REFERENCES parent ON DELETE CASCADE)",
    )?;
    changer.simple("INSERT INTO parent VALUES (1), (2)")?;
    for (change, write) in [
        ("ALTER TABLE parent ADD COLUMN a int DEFAULT 1", "INSERT INTO child VALUES (10, 1)"),
        ("ALTER TABLE child ADD COLUMN b int DEFAULT 1", "DELETE FROM parent WHERE id = 2"),
    ] {
        let reply = while_changing(&mut changer, &mut writer, change, move |writer| {
            Ok(writer.simple(write)?)
        })?;
        reply.with_context(|| format!("{write} after {change}"))?;
    }
    ensure!(rows(&mut writer, "SELECT * FROM child")? == ["10 1 1"]);
    ensure!(rows(&mut writer, "SELECT * FROM parent")? == ["1 1"]);
    // lock_timeout bounds the wait.
    changer.simple("BEGIN")?;
    changer.simple("ALTER TABLE child ADD COLUMN c int")?;
    writer.simple("SET lock_timeout = '200ms'")?;
    let error = writer.simple("INSERT INTO child VALUES (11, 1)").err().context("it is locked")?;
    ensure!(error.code() == Some("55P03"), "{error}");
    changer.simple("ROLLBACK")?;
    writer.simple("INSERT INTO child VALUES (11, 1)")?;
    Ok(())
}
