//! Rows change their shard while clients read and write them: none is lost, doubled or seen twice, by any path.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use cortex_sql_tests::client::{Client, ClientError, Target};

use super::Database;

const SHARDS: u32 = 4;
const TENANTS: i64 = 20;
const ACCOUNTS: i64 = 20;
const BALANCE: i64 = 100;

/// Moves under load; `CORTEX_MOVES` asks for more.
const MOVES: u32 = 12;

fn one(client: &mut Client, sql: &str) -> Result<Vec<Option<String>>> {
    let reply = client.simple(sql).with_context(|| sql.to_owned())?;
    reply.text().into_iter().next().with_context(|| format!("no row: {sql}"))
}

fn number(client: &mut Client, sql: &str) -> Result<i64> {
    let row = one(client, sql)?;
    row.first().cloned().flatten().context("NULL")?.parse().context("a number")
}

fn numbers(client: &mut Client, sql: &str) -> Result<Vec<i64>> {
    let row = one(client, sql)?;
    row.into_iter().map(|it| it.context("NULL")?.parse().context("a number")).collect()
}

fn code<T>(result: Result<T, ClientError>) -> Option<String> {
    result.err().and_then(|error| error.code().map(str::to_owned))
}

fn shards_of(client: &mut Client, table: &str) -> Result<String> {
    let sql = format!("SELECT shards FROM cortex.tables WHERE table_name = '{table}'");
    one(client, &sql)?.first().cloned().flatten().context("no shards")
}

#[test]
fn slots_ranges_and_schemas_move_with_all_that_is_in_them() -> Result<()> {
    let database = Database::start(SHARDS)?;
    let mut client = database.connect()?;
    for sql in [
        "CREATE TABLE h (id int PRIMARY KEY, u text UNIQUE, v int) WITH (shard_by = 'none')",
        "DROP TABLE h",
        "CREATE TABLE kinds (kind int PRIMARY KEY, name text) WITH (shard_by = 'reference')",
        "INSERT INTO kinds VALUES (0, 'even'), (1, 'odd')",
        "CREATE TABLE h (id int PRIMARY KEY, kind int REFERENCES kinds, v text) WITH (shard_by = 'hash(id)')",
        "CREATE INDEX h_v ON h (v)",
        "CREATE TABLE l (id int, n int, note text) WITH (shard_by = 'hash(id)')",
        "INSERT INTO h SELECT g, g % 2, 'v' || (g % 10) FROM generate_series(1, 400) g",
        "INSERT INTO l SELECT g % 100, g, repeat('x', 50) FROM generate_series(1, 500) g",
        "CREATE TABLE r (k int PRIMARY KEY, v text) WITH (shard_by = 'range(k)', split_at = '100, 200')",
        "INSERT INTO r SELECT g, 'v' || g FROM generate_series(1, 300) g",
        "CREATE SCHEMA a",
        "CREATE TABLE a.t (id serial PRIMARY KEY, v text)",
        "CREATE TABLE a.c (id int PRIMARY KEY REFERENCES a.t)",
        "INSERT INTO a.t (v) SELECT 'x' FROM generate_series(1, 50)",
        "INSERT INTO a.c SELECT g FROM generate_series(1, 20) g",
    ] {
        client.simple(sql).with_context(|| sql.to_owned())?;
    }
    // Slots: both tables of the group go along.
    client.simple("SELECT cortex.move_slots('h', 1, 2)")?;
    ensure!(shards_of(&mut client, "h")? == "{2,3,4}" && shards_of(&mut client, "l")? == "{2,3,4}");
    client.simple("SELECT cortex.move_slots('l', 2, 1, '0-99,120')")?;
    ensure!(shards_of(&mut client, "h")? == "{1,2,3,4}");
    for (sql, wanted) in [
        ("SELECT count(*), sum(id) FROM h", vec![400, 80200]),
        ("SELECT count(*), sum(id) FROM h WHERE v = 'v3'", vec![40, 7920]),
        ("SELECT count(*), sum(n) FROM l", vec![500, 125_250]),
        ("SELECT count(*), count(name) FROM h JOIN kinds USING (kind)", vec![400, 400]),
        ("SELECT count(*), sum(h.id) FROM h JOIN l ON l.id = h.id", vec![495, 24_750]),
    ] {
        let found = numbers(&mut client, sql)?;
        ensure!(found == wanted, "{sql}: {found:?}");
    }
    for id in 1..=400 {
        ensure!(number(&mut client, &format!("SELECT id FROM h WHERE id = {id}"))? == id);
    }
    ensure!(
        code(client.simple("INSERT INTO h VALUES (7, 0, 'again')")).as_deref() == Some("23505")
    );
    ensure!(code(client.simple("INSERT INTO h VALUES (900, 9, 'x')")).as_deref() == Some("23503"));
    ensure!(
        number(&mut client, "SELECT count(*) FROM cortex.verify(2) WHERE target_rows > 0")? == 2
    );
    // A range.
    client.simple("SELECT cortex.move_range('r', '150', 4)")?;
    ensure!(numbers(&mut client, "SELECT count(*), sum(k) FROM r")? == [300, 45_150]);
    ensure!(numbers(&mut client, "SELECT count(*), min(k) FROM r WHERE k >= 150")? == [151, 150]);
    client.simple("SELECT cortex.split_range('r', '120')")?;
    client.simple("SELECT cortex.move_range('r', '110', 3)")?;
    ensure!(numbers(&mut client, "SELECT count(*), sum(k) FROM r")? == [300, 45_150]);
    ensure!(
        code(client.simple("SELECT cortex.merge_ranges('r', '120')")).as_deref() == Some("22023")
    );
    // A schema: tables, foreign keys, a sequence.
    client.simple("SELECT cortex.move_schema('a', 3)")?;
    ensure!(numbers(&mut client, "SELECT count(*), max(id) FROM a.t")? == [50, 50]);
    ensure!(number(&mut client, "INSERT INTO a.t (v) VALUES ('next') RETURNING id")? == 51);
    ensure!(code(client.simple("INSERT INTO a.c VALUES (777)")).as_deref() == Some("23503"));
    ensure!(code(client.simple("DELETE FROM a.t WHERE id = 5")).as_deref() == Some("23503"));
    client.simple("CREATE TABLE a.later (id int)")?;
    ensure!(shards_of(&mut client, "later")? == "{3}");
    client.simple("SELECT cortex.move_schema('a', 1)")?;
    ensure!(number(&mut client, "INSERT INTO a.t (v) VALUES ('next') RETURNING id")? == 52);
    client.simple("CREATE SCHEMA empty")?;
    client.simple("SELECT cortex.move_schema('empty', 2)")?;
    client.simple("CREATE TABLE empty.later2 (id int)")?;
    ensure!(shards_of(&mut client, "later2")? == "{2}");
    let apart = code(client.simple("ALTER TABLE a.t SET SCHEMA empty"));
    ensure!(apart.as_deref() == Some("0A000"), "{apart:?}");
    // What cannot be.
    for (sql, wanted) in [
        ("SELECT cortex.move_slots('h', 1, 1)", "22023"),
        ("SELECT cortex.move_slots('h', 1, 9)", "22023"),
        ("SELECT cortex.move_slots('h', 3, 1, '0-1')", "22023"),
        ("SELECT cortex.move_slots('r', 3, 1)", "42809"),
        ("SELECT cortex.move_schema('nothing', 1)", "3F000"),
        ("SELECT cortex.abort(1)", "55000"),
        ("SELECT cortex.abort(99)", "42704"),
        ("SELECT cortex.retry(1)", "55000"),
        ("SELECT cortex.add_shard('127.0.0.1:1')", "0A000"),
        ("SELECT cortex.remove_shard(2)", "0A000"),
        ("BEGIN; SELECT cortex.move_slots('h', 1, 2)", "25001"),
    ] {
        let found = code(client.simple(sql));
        ensure!(found.as_deref() == Some(wanted), "{sql}: {found:?}");
    }
    client.simple("ROLLBACK")?;
    // A shard is emptied, and gets nothing new.
    client.simple("SELECT cortex.drain_shard(4)")?;
    await_moves(&mut client)?;
    ensure!(shards_of(&mut client, "h")? == "{1,2,3}", "{:?}", status(&mut client)?);
    client.simple(
        "CREATE TABLE n (id int PRIMARY KEY) WITH (shard_by = 'hash(id)', colocate_with = 'none')",
    )?;
    ensure!(shards_of(&mut client, "n")? == "{1,2,3}");
    ensure!(numbers(&mut client, "SELECT count(*), sum(id) FROM h")? == [400, 80_200]);
    ensure!(numbers(&mut client, "SELECT count(*), sum(k) FROM r")? == [300, 45_150]);
    // The home shard, too, with the primary copies of reference tables.
    ensure!(code(client.simple("ALTER TABLE a.t SET SCHEMA public")).is_none());
    client.simple("SELECT cortex.drain_shard(1)")?;
    client.simple("CREATE SCHEMA meanwhile")?;
    await_moves(&mut client)?;
    ensure!(shards_of(&mut client, "h")? == "{2,3}", "{:?}", status(&mut client)?);
    await_shards(&mut client, "kinds", "{2,3}")?;
    for sql in [
        "CREATE TABLE meanwhile.t (id int PRIMARY KEY)",
        "CREATE TABLE later (id int PRIMARY KEY) WITH (shard_by = 'reference')",
        "INSERT INTO kinds VALUES (2, 'none')",
        "INSERT INTO h VALUES (901, 2, 'v901')",
    ] {
        client.simple(sql).with_context(|| sql.to_owned())?;
    }
    let on_one = "SELECT count(*) FROM cortex.tables WHERE 1 = ANY (shards) OR 4 = ANY (shards)";
    ensure!(number(&mut client, on_one)? == 0);
    let joined = "SELECT count(*), count(name) FROM h JOIN kinds USING (kind)";
    ensure!(numbers(&mut client, joined)? == [401, 401]);
    ensure!(number(&mut client, "INSERT INTO t (v) VALUES ('next') RETURNING id")? == 53);
    ensure!(code(client.simple("INSERT INTO h VALUES (902, 9, 'x')")).as_deref() == Some("23503"));
    Ok(())
}

/// Copies of reference tables are given up in the background.
fn await_shards(client: &mut Client, table: &str, wanted: &str) -> Result<()> {
    let begun = Instant::now();
    loop {
        let found = shards_of(client, table)?;
        if found == wanted {
            return Ok(());
        }
        ensure!(begun.elapsed() < Duration::from_secs(30), "{table} is on {found}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn await_moves(client: &mut Client) -> Result<()> {
    let begun = Instant::now();
    while number(client, OPEN)? > 0 {
        ensure!(begun.elapsed() < Duration::from_secs(60), "{:?}", status(client)?);
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

#[test]
fn a_plan_shows_what_it_would_do_and_does_it() -> Result<()> {
    let database = Database::start(SHARDS)?;
    let mut client = bank(&database)?;
    for from in 2..=4 {
        client.simple(&format!("SELECT cortex.move_slots('accounts', {from}, 1)"))?;
    }
    ensure!(shards_of(&mut client, "accounts")? == "{1}");
    // Bytes are too few to be worth a move; slots are not even.
    ensure!(number(&mut client, "SELECT count(*) FROM cortex.rebalance_plan()")? == 0);
    let plan = "SELECT count(*), sum(from_shard), sum(to_shard), count(reason) FROM cortex.rebalance_plan('by_slots')";
    ensure!(numbers(&mut client, plan)? == [3, 3, 9, 3]);
    ensure!(shards_of(&mut client, "accounts")? == "{1}");
    // With an open transaction in the way the first one cannot be through at once; the others are taken back.
    let mut writer = database.connect()?;
    writer.simple("BEGIN")?;
    writer.simple("UPDATE accounts SET balance = balance WHERE id < 100")?;
    ensure!(number(&mut client, "SELECT cortex.rebalance_start('by_slots')")? == 3);
    let again = code(client.simple("SELECT cortex.rebalance_start('by_slots')"));
    ensure!(again.as_deref() == Some("55006"), "{again:?}");
    let stopped = number(&mut client, "SELECT cortex.rebalance_stop()")?;
    ensure!((2..=3).contains(&stopped), "{stopped}");
    await_moves(&mut client)?;
    // The transaction had its time, and half of its rows are elsewhere now.
    if stopped == 2 {
        ensure!(code(writer.simple("COMMIT")).as_deref() == Some("40001"));
    }
    writer.simple("ROLLBACK")?;
    client.simple("SELECT cortex.rebalance_start(strategy => 'by_slots')")?;
    await_moves(&mut client)?;
    let even = "SELECT count(*), min(n), max(n) FROM (SELECT shard_id, sum(last_slot - first_slot + 1)::int8 AS n \
                FROM cortex.slots GROUP BY shard_id) AS s";
    ensure!(numbers(&mut client, even)? == [4, 256, 256]);
    let all = [TENANTS * ACCOUNTS, TENANTS * ACCOUNTS * BALANCE];
    ensure!(numbers(&mut client, "SELECT count(*), sum(balance) FROM accounts")? == all);
    // What is given up is as before.
    let sql = "SELECT cortex.move_slots('accounts', 1, 2, wait => false)";
    let id = number(&mut client, sql)?;
    match code(client.simple(&format!("SELECT cortex.abort({id})"))).as_deref() {
        None => ensure!(shards_of(&mut client, "accounts")? == "{1,2,3,4}"),
        Some("55000") => ensure!(shards_of(&mut client, "accounts")? == "{2,3,4}"),
        Some(other) => bail!("abort: {other}"),
    }
    ensure!(numbers(&mut client, "SELECT count(*), sum(balance) FROM accounts")? == all);
    Ok(())
}

const OPEN: &str =
    "SELECT count(*) FROM cortex.rebalance_status() WHERE phase NOT IN ('done', 'aborted')";

fn status(client: &mut Client) -> Result<Vec<Vec<Option<String>>>> {
    Ok(client.simple("SELECT * FROM cortex.rebalance_status()")?.text())
}

/// What clients do while slots move, and what they may find.
struct Load {
    target: Target,
    stop: AtomicBool,
    transfers: AtomicU64,
    reads: AtomicU64,
    /// The longest time that a write took.
    slowest_micros: AtomicU64,
}

impl Load {
    fn runs(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Runs a write until it is through; 40001 and its like ask for another try.
    fn insist(&self, client: &mut Client, statements: &[String]) -> Result<()> {
        let begun = Instant::now();
        loop {
            let run = statements.iter().try_for_each(|sql| client.simple(sql).map(drop));
            match run {
                Ok(()) => break,
                Err(error) if matches!(error.code(), Some("40001" | "40P01")) => {
                    client.simple("ROLLBACK")?;
                }
                Err(error) => bail!("{statements:?}: {error}"),
            }
        }
        let micros = begun.elapsed().as_micros() as u64;
        self.slowest_micros.fetch_max(micros, Ordering::Relaxed);
        Ok(())
    }

    /// Money goes from account to account; the sum stays. Counters tell how often.
    fn transfer(&self, worker: i64) -> Result<i64> {
        let mut client = Client::connect(&self.target)?;
        let mut n = 0;
        while self.runs() {
            n += 1;
            let tenant = (n * 7 + worker * 3) % TENANTS;
            let (a, b) = (n % ACCOUNTS, (n * 3 + 1) % ACCOUNTS);
            let amount = n % 17;
            let update = |id: i64, amount: i64| {
                format!(
                    "UPDATE accounts SET balance = balance + {amount} WHERE tenant = {tenant} AND id = {id}"
                )
            };
            let mut statements = vec!["BEGIN".to_owned(), update(a, -amount), update(b, amount)];
            if n % 5 == 0 {
                statements.push(format!(
                    "DELETE FROM notes WHERE tenant = {tenant} AND worker = {worker}"
                ));
                statements.push(format!("INSERT INTO notes VALUES ({tenant}, {worker}, 'n{n}')"));
            }
            statements.push("COMMIT".to_owned());
            self.insist(&mut client, &statements)?;
            let count = format!("UPDATE counters SET n = n + 1 WHERE tenant = {tenant}");
            self.insist(&mut client, &[count])?;
            self.transfers.fetch_add(1, Ordering::Relaxed);
        }
        Ok(n)
    }

    fn read(&self) -> Result<()> {
        let mut client = Client::connect(&self.target)?;
        let all = vec![TENANTS * ACCOUNTS, TENANTS * ACCOUNTS * BALANCE];
        let mut n = 0;
        while self.runs() {
            n += 1;
            let tenant = n % TENANTS;
            for (sql, wanted) in [
                ("SELECT count(*), sum(balance) FROM accounts".to_owned(), all.clone()),
                (
                    format!("SELECT count(*), sum(balance) FROM accounts WHERE tenant = {tenant}"),
                    vec![ACCOUNTS, ACCOUNTS * BALANCE],
                ),
                (
                    "SELECT count(*), sum(balance) FROM accounts WHERE tag >= 't'".to_owned(),
                    all.clone(),
                ),
                (
                    format!(
                        "SELECT tenant, id FROM accounts WHERE tenant = {tenant} AND tag = 't{tenant}-3'"
                    ),
                    vec![tenant, 3],
                ),
                (
                    "SELECT count(*), count(DISTINCT tenant * 1000 + id) FROM accounts".to_owned(),
                    vec![all[0]; 2],
                ),
            ] {
                let found = numbers(&mut client, &sql)?;
                ensure!(found == wanted, "{sql}: {found:?} instead of {wanted:?}");
            }
            self.reads.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// A cursor sees one moment, however often rows move while it is open; or it is told that it cannot.
    fn read_slowly(&self) -> Result<()> {
        let mut client = Client::connect(&self.target)?;
        while self.runs() {
            match self.read_by_cursor(&mut client) {
                Ok(()) => {}
                Err(error) => {
                    let refused = error.downcast_ref::<ClientError>().and_then(ClientError::code);
                    ensure!(refused == Some("40001"), "a cursor: {error:#}");
                    client.simple("ROLLBACK")?;
                }
            }
        }
        Ok(())
    }

    fn read_by_cursor(&self, client: &mut Client) -> Result<()> {
        client.simple("BEGIN")?;
        client.simple("DECLARE c CURSOR FOR SELECT tenant, id, balance FROM accounts")?;
        let (mut count, mut sum) = (0, 0);
        loop {
            let rows = client.simple("FETCH 50 FROM c")?.text();
            if rows.is_empty() {
                break;
            }
            count += rows.len() as i64;
            for row in rows {
                sum += row[2].as_deref().unwrap_or("0").parse::<i64>()?;
            }
            thread::sleep(Duration::from_millis(20));
        }
        client.simple("COMMIT")?;
        let wanted = (TENANTS * ACCOUNTS, TENANTS * ACCOUNTS * BALANCE);
        ensure!((count, sum) == wanted, "a cursor: {count} rows, sum {sum}");
        Ok(())
    }

    fn change_schema(&self) -> Result<()> {
        let mut client = Client::connect(&self.target)?;
        while self.runs() {
            for sql in [
                "ALTER TABLE accounts ADD COLUMN extra int DEFAULT 5",
                "CREATE INDEX accounts_extra ON accounts (extra)",
                "ALTER TABLE accounts DROP COLUMN extra",
            ] {
                match client.simple(sql) {
                    Ok(_) => {}
                    Err(error) if matches!(error.code(), Some("40001" | "40P01" | "55P03")) => {}
                    Err(error) => bail!("{sql}: {error}"),
                }
                thread::sleep(Duration::from_millis(400));
            }
        }
        Ok(())
    }
}

fn bank(database: &Database) -> Result<Client> {
    let mut client = database.connect()?;
    for sql in [
        "CREATE TABLE accounts (tenant int, id int, balance int8, tag text, PRIMARY KEY (tenant, id), \
         UNIQUE (tenant, tag)) WITH (shard_by = 'hash(tenant)')"
            .to_owned(),
        "CREATE INDEX accounts_tag ON accounts (tag)".to_owned(),
        "CREATE TABLE notes (tenant int, worker int, text text) WITH (shard_by = 'hash(tenant)')".to_owned(),
        "CREATE TABLE counters (tenant int PRIMARY KEY, n int8) WITH (shard_by = 'hash(tenant)')".to_owned(),
        format!(
            "INSERT INTO accounts SELECT t, a, {BALANCE}, 't' || t || '-' || a \
             FROM generate_series(0, {}) t, generate_series(0, {}) a",
            TENANTS - 1,
            ACCOUNTS - 1
        ),
        format!("INSERT INTO counters SELECT t, 0 FROM generate_series(0, {}) t", TENANTS - 1),
    ] {
        client.simple(&sql).with_context(|| sql.clone())?;
    }
    Ok(client)
}

#[test]
fn a_move_ends_although_the_schema_changes_all_the_time() -> Result<()> {
    let database = Database::start(SHARDS)?;
    let mut client = bank(&database)?;
    let stop = AtomicBool::new(false);
    let moved = thread::scope(|scope| {
        let changes = scope.spawn(|| -> Result<u64> {
            let mut client = database.connect()?;
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                for sql in ["ADD COLUMN extra int DEFAULT 5", "DROP COLUMN extra"] {
                    client.simple(&format!("ALTER TABLE accounts {sql}"))?;
                    n += 1;
                }
            }
            Ok(n)
        });
        client.simple("SET statement_timeout = '60s'")?;
        let moved = client.simple("SELECT cortex.move_slots('accounts', 1, 2)").map(drop);
        stop.store(true, Ordering::Relaxed);
        let n = changes.join().map_err(|_| anyhow!("schema changes panicked"))??;
        println!("{n} schema changes meanwhile");
        Ok(moved?)
    });
    moved.and_then(|()| {
        let found = numbers(&mut client, "SELECT count(*), sum(balance) FROM accounts")?;
        ensure!(found == [TENANTS * ACCOUNTS, TENANTS * ACCOUNTS * BALANCE], "{found:?}");
        Ok(())
    })
}

#[test]
fn under_load_no_row_is_lost_doubled_or_seen_twice() -> Result<()> {
    let database = Database::start(SHARDS)?;
    let mut client = bank(&database)?;
    let load = Arc::new(Load {
        target: database.target.clone(),
        stop: AtomicBool::new(false),
        transfers: AtomicU64::new(0),
        reads: AtomicU64::new(0),
        slowest_micros: AtomicU64::new(0),
    });
    let moves = std::env::var("CORTEX_MOVES").ok().and_then(|n| n.parse().ok()).unwrap_or(MOVES);
    let (moved, written) = thread::scope(|scope| {
        let writers: Vec<_> = (0..3)
            .map(|worker| {
                let load = &load;
                scope.spawn(move || load.transfer(worker))
            })
            .collect();
        let others = [
            scope.spawn(|| load.read()),
            scope.spawn(|| load.read_slowly()),
            scope.spawn(|| load.change_schema()),
        ];
        let moved = (0..moves).try_for_each(|n| {
            let (from, to) = (1 + n % SHARDS, 1 + (n + 1) % SHARDS);
            let sql = format!("SELECT cortex.move_slots('accounts', {from}, {to})");
            client.simple(&sql).with_context(|| sql.clone()).map(drop)
        });
        load.stop.store(true, Ordering::Relaxed);
        let mut written = Ok(0);
        for writer in writers {
            match (writer.join(), &mut written) {
                (Ok(Ok(n)), Ok(all)) => *all += n,
                (Ok(Err(error)), _) => written = Err(error),
                (Err(_), _) => written = Err(anyhow::anyhow!("a writer panicked")),
                (Ok(Ok(_)), Err(_)) => {}
            }
        }
        for other in others {
            match other.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    println!("{error:#}");
                    written = Err(error);
                }
                Err(_) => written = Err(anyhow::anyhow!("a reader panicked")),
            }
        }
        (moved, written)
    });
    let shown = status(&mut client)?;
    println!(
        "{} transfers, {} reads, slowest write {:.1} ms",
        load.transfers.load(Ordering::Relaxed),
        load.reads.load(Ordering::Relaxed),
        load.slowest_micros.load(Ordering::Relaxed) as f64 / 1000.0
    );
    for row in &shown {
        println!("{row:?}");
    }
    moved?;
    let written = written?;
    ensure!(number(&mut client, "SELECT sum(n) FROM counters")? == written);
    let all = [TENANTS * ACCOUNTS, TENANTS * ACCOUNTS * BALANCE];
    ensure!(numbers(&mut client, "SELECT count(*), sum(balance) FROM accounts")? == all);
    let stall = "SELECT ceil(max(write_stall_ms))::int8 FROM cortex.rebalance_status()";
    let stall = number(&mut client, stall)?;
    println!("longest write stall of a cutover: {stall} ms");
    ensure!(stall < 1000, "a cutover held writers for {stall} ms");
    Ok(())
}
