//! Queries that meet a schema change on a shard: run again before anything is sent, 40001 when it is too late or does not end.

use anyhow::{Result, ensure};
use cortex_sql_tests::client::{Client, ClientError};

use super::Database;

fn start() -> Result<(Database, Client)> {
    let database = Database::start(4)?;
    let mut client = database.connect()?;
    client.simple("CREATE TABLE t (id int PRIMARY KEY, v int) WITH (shard_by = 'hash(id)')")?;
    client.simple("INSERT INTO t SELECT g, g % 10 FROM generate_series(1, 400) g")?;
    Ok((database, client))
}

/// Of the first row.
fn numbers(client: &mut Client, sql: &str) -> Result<Vec<i64>> {
    let rows = client.simple(sql)?.text();
    let row = rows.into_iter().next().unwrap_or_default();
    row.into_iter().flatten().map(|value| Ok(value.parse()?)).collect()
}

#[test]
fn a_query_runs_again_before_its_first_row() -> Result<()> {
    let (database, mut client) = start()?;
    // One shard, all of them, one after another has been taken; over two fragments.
    for (fresh, stale) in [(0, 1), (0, 4), (0, 9)] {
        for sql in [
            "SELECT count(*), sum(v) FROM t",
            "SELECT count(*), sum(v) FROM t WHERE id > 0 AND v IN (SELECT v FROM t)",
        ] {
            database.faults.make_stale(fresh, stale);
            ensure!(numbers(&mut client, sql)? == [400, 1800], "{sql}: {fresh}, {stale}");
        }
        database.faults.make_stale(fresh, stale);
        let answer = client.extended(
            "SELECT v FROM t WHERE id = $1 OR v = 100",
            &[Some("7".into())],
            true,
        )?;
        ensure!(answer.n_rows() == 1);
        database.faults.make_stale(fresh, stale);
        let plan = client.simple("EXPLAIN ANALYZE SELECT v FROM t WHERE v < 3")?.text();
        ensure!(plan[0][0].as_deref().is_some_and(|line| line.contains("rows=120")), "{plan:?}");
        database.faults.make_stale(fresh, stale);
        let copied = client.simple("COPY (SELECT v FROM t WHERE v < 3) TO STDOUT")?;
        ensure!(copied.tag == "COPY 120", "{}", copied.tag);
        client.simple("BEGIN")?;
        database.faults.make_stale(fresh, stale);
        client.simple("DECLARE c CURSOR FOR SELECT id FROM t ORDER BY id")?;
        ensure!(numbers(&mut client, "FETCH 1 FROM c")? == [1]);
        client.simple("COMMIT")?;
        database.faults.make_stale(fresh, stale);
        client.simple("PREPARE p AS SELECT count(*) FROM t WHERE v = 1")?;
        ensure!(numbers(&mut client, "EXECUTE p")? == [40]);
        client.simple("DEALLOCATE p")?;
    }
    Ok(())
}

#[test]
fn a_change_without_end_is_told_to_the_client() -> Result<()> {
    let (database, mut client) = start()?;
    client.simple("SET statement_timeout = '2s'")?;
    database.faults.make_stale(0, u64::MAX);
    let answer = client.simple("SELECT count(*), sum(v) FROM t");
    let Err(ClientError::Db(error)) = answer else { anyhow::bail!("an answer") };
    ensure!(["40001", "57014"].contains(&error.code.as_str()), "{error:?}");
    database.faults.make_stale(0, 0);
    ensure!(numbers(&mut client, "SELECT count(*), sum(v) FROM t")? == [400, 1800]);
    Ok(())
}
