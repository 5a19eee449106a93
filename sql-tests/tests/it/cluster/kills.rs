//! kill -9 of a shard, a gateway and the meta process under load: what was acknowledged is there, and nothing else.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use cortex_sql_tests::{Client, ClientError, ClusterServer, cluster::Node, transfers::Bank};

const BANK: Bank = Bank { branches: 30 };
/// Load between two blows.
const RUN: Duration = Duration::from_millis(1500);
/// How long a process stays away.
const AWAY: Duration = Duration::from_millis(700);
/// A gateway has found a shard that is back by then, also on a busy machine.
const BACK: Duration = Duration::from_secs(5);

#[test]
fn every_process_can_be_killed_under_load() -> Result<()> {
    let _alone = super::alone();
    let mut cluster = ClusterServer::start(3, 2)?;
    let nodes = [Node::Shard(2), Node::Gateway(1), Node::Meta, Node::Shard(1), Node::Gateway(2)];
    super::under_load(&mut cluster, BANK, |cluster| {
        for node in nodes {
            thread::sleep(RUN);
            println!("kill -9 {node}");
            cluster.kill(node)?;
            thread::sleep(AWAY);
            cluster.restart(node)?;
        }
        thread::sleep(RUN);
        Ok(())
    })?;
    // Nobody was restarted for it: both gateways know each process again.
    for gateway in 1..=2 {
        let mut client = cluster.connect(gateway)?;
        client
            .simple("CREATE TABLE after_all (id int PRIMARY KEY) WITH (shard_by = 'hash(id)')")?;
        client.simple("INSERT INTO after_all SELECT generate_series(1, 100)")?;
        client.simple("DROP TABLE after_all")?;
    }
    Ok(())
}

#[test]
fn statements_fail_on_a_dead_shard_alone_and_never_partly() -> Result<()> {
    let _alone = super::alone();
    let mut cluster = ClusterServer::start(3, 2)?;
    let mut client = cluster.connect(1)?;
    client.simple("CREATE TABLE t (id int PRIMARY KEY, v int) WITH (shard_by = 'hash(id)')")?;
    client.simple("INSERT INTO t SELECT g, g FROM generate_series(1, 300) g")?;
    let mut idle = cluster.connect(2)?;
    ensure!(idle.simple("SELECT count(*) FROM t")?.text() == [[Some("300".to_owned())]]);
    cluster.kill(Node::Shard(3))?;
    for sql in ["SELECT count(*) FROM t", "SELECT * FROM t", "UPDATE t SET v = v + 1 WHERE v > 0"] {
        match client.simple(sql) {
            Err(ClientError::Db(error)) => {
                ensure!(error.code == "58000", "{sql}: {error:?}");
                let said = format!("{} {:?}", error.message, error.detail);
                ensure!(said.contains("shard 3"), "{sql} does not name the shard: {error:?}");
            }
            other => anyhow::bail!("{sql}: {other:?}"),
        }
    }
    // Rows of the other shards are read and written as ever.
    let (mut n_there, mut n_away) = (0, 0);
    for id in 1..=60 {
        let reads = client.simple(&format!("SELECT v FROM t WHERE id = {id}"));
        let writes = client.simple(&format!("UPDATE t SET v = -v WHERE id = {id}"));
        match (reads, writes) {
            (Ok(read), Ok(written)) => {
                ensure!(read.rows.len() == 1 && written.n_rows() == 1, "id {id}");
                n_there += 1;
            }
            (Err(ClientError::Db(read)), Err(ClientError::Db(written))) => {
                ensure!(read.code == "58000" && written.code == "58000", "{read:?}, {written:?}");
                n_away += 1;
            }
            other => anyhow::bail!("id {id}: {other:?}"),
        }
    }
    ensure!(n_there > 20 && n_away > 5, "{n_there} rows there, {n_away} away");
    cluster.restart(Node::Shard(3))?;
    // Sessions that were open before go on, once their gateway has tried again.
    for client in [&mut client, &mut idle] {
        let sums = eventually(client, "SELECT count(*), sum(abs(v)) FROM t")?;
        ensure!(sums == [[Some("300".to_owned()), Some("45150".to_owned())]], "{sums:?}");
    }
    Ok(())
}

/// The answer of a statement whose shard is back: it may still be replaying its log.
pub(super) fn eventually(client: &mut Client, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
    let since = Instant::now();
    loop {
        match client.simple(sql) {
            Ok(answer) => return Ok(answer.text()),
            Err(ClientError::Db(error)) if error.code == "58000" && since.elapsed() < BACK => {
                thread::sleep(Duration::from_millis(50));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

#[test]
fn a_transaction_does_not_survive_its_shard() -> Result<()> {
    let _alone = super::alone();
    let mut cluster = ClusterServer::start(2, 1)?;
    let mut client = cluster.connect(1)?;
    client.simple("CREATE TABLE t (id int PRIMARY KEY, v int) WITH (shard_by = 'hash(id)')")?;
    client.simple("INSERT INTO t SELECT g, 0 FROM generate_series(1, 50) g")?;
    client.simple("BEGIN")?;
    client.simple("UPDATE t SET v = 1")?;
    for shard in [Node::Shard(1), Node::Shard(2)] {
        cluster.kill(shard)?;
        cluster.restart(shard)?;
    }
    // It may not begin anew in its middle.
    let next = client.simple("UPDATE t SET v = v + 10 WHERE id = 1");
    ensure!(next.is_err(), "the transaction went on over a restart: {next:?}");
    let end = client.simple("COMMIT")?;
    ensure!(end.tag == "ROLLBACK", "{}", end.tag);
    let rows = eventually(&mut client, "SELECT count(*) FROM t WHERE v <> 0")?;
    ensure!(rows == [[Some("0".to_owned())]], "{rows:?}");
    Ok(())
}
