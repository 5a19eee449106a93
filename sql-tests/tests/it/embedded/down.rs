//! Shards that are down, hang, or were restarted: statements that need them say so, others work, and nothing is half done.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use cortex_sql_tests::client::{Client, ClientError, DbError, Reply};

use super::{Database, faulty::Health};

const SHARDS: u32 = 4;
const ROWS: i64 = 80;
/// The one that is lost; shard 1 is home.
const LOST: u32 = 3;

struct Case {
    database: Database,
    client: Client,
    /// Where each id of `t` lives.
    shard_of: BTreeMap<i64, u32>,
}

impl Case {
    /// `t` and `u` by hash and co-located, `h` at home, `r` a reference table, all with `v` = 0.
    fn start() -> Result<Case> {
        let database = Database::start(SHARDS)?;
        let mut client = database.connect()?;
        for sql in [
            "CREATE TABLE t (id int8 PRIMARY KEY, v int8) WITH (shard_by = 'hash(id)')",
            "CREATE TABLE u (id int8 PRIMARY KEY, v int8) WITH (shard_by = 'hash(id)')",
            "CREATE TABLE r (id int8 PRIMARY KEY, v int8) WITH (shard_by = 'reference')",
            "CREATE TABLE h (id bigserial PRIMARY KEY, v int8)",
            &format!("INSERT INTO t SELECT g, 0 FROM generate_series(1, {ROWS}) g"),
            &format!("INSERT INTO u SELECT g, 0 FROM generate_series(1, {ROWS}) g"),
            &format!("INSERT INTO r SELECT g, 0 FROM generate_series(1, {ROWS}) g"),
            &format!("INSERT INTO h (v) SELECT 0 FROM generate_series(1, {ROWS}) g"),
            "SELECT count(*) FROM t JOIN r USING (id)",
        ] {
            client.simple(sql).with_context(|| sql.to_owned())?;
        }
        let mut shard_of = BTreeMap::new();
        for id in 1..=ROWS {
            let plan = client.simple(&format!("EXPLAIN SELECT * FROM t WHERE id = {id}"))?.text();
            let line = plan.iter().flatten().flatten().find_map(|line| {
                line.split("One(shard ").nth(1)?.split([',', ')']).next()?.parse().ok()
            });
            shard_of.insert(id, line.with_context(|| format!("no route in {plan:?}"))?);
        }
        Ok(Case { database, client, shard_of })
    }

    fn health(&self, shard: u32, health: Health) {
        self.database.faults.set_health(shard, health);
    }

    /// An id of `t` on this shard.
    fn id_on(&self, shard: u32) -> Result<i64> {
        let found = self.shard_of.iter().find(|(_, it)| **it == shard);
        Ok(*found.context("a shard without rows")?.0)
    }

    fn rows_without(&self, shard: u32) -> i64 {
        self.shard_of.values().filter(|it| **it != shard).count() as i64
    }

    fn ok(&mut self, sql: &str) -> Result<Reply> {
        self.client.notices.clear();
        self.client.simple(sql).with_context(|| sql.to_owned())
    }

    fn value(&mut self, sql: &str) -> Result<i64> {
        let text = self.ok(sql)?.text();
        let value = text.first().and_then(|row| row.first().cloned()).flatten();
        value.with_context(|| format!("{sql}: no value"))?.parse().map_err(Into::into)
    }

    fn fails(&mut self, sql: &str, code: &str) -> Result<DbError> {
        self.client.notices.clear();
        match self.client.simple(sql) {
            Ok(reply) => bail!("{sql} answered {}", reply.tag),
            Err(ClientError::Db(error)) => {
                ensure!(error.code == code, "{sql}: {error:?}");
                Ok(error)
            }
            Err(error) => Err(error).with_context(|| sql.to_owned()),
        }
    }

    /// 58000 that names the shard and says what to do.
    fn needs(&mut self, sql: &str, shard: u32) -> Result<DbError> {
        let error = self.fails(sql, "58000")?;
        ensure!(error.message.contains(&format!("shard {shard} ")), "{sql}: {error:?}");
        ensure!(error.hint.is_some(), "{sql}: no HINT: {error:?}");
        Ok(error)
    }

    /// Nothing was changed, and no lock is left: every row of every table can be written at once.
    fn is_untouched(&mut self) -> Result<()> {
        for shard in 0..=SHARDS {
            self.health(shard, Health::Up);
        }
        let mut other = self.database.connect()?;
        other.simple("SET lock_timeout = '2s'")?;
        for table in ["t", "u", "r", "h"] {
            let changed = format!("SELECT count(*) FROM {table} WHERE v <> 0");
            ensure!(self.value(&changed)? == 0, "{table} was changed");
            ensure!(self.value(&format!("SELECT count(*) FROM {table}"))? == ROWS, "{table}");
            let reply = other.simple(&format!("UPDATE {table} SET v = 0"))?;
            ensure!(reply.tag == format!("UPDATE {ROWS}"), "{table}: {}", reply.tag);
        }
        Ok(())
    }
}

#[test]
fn what_needs_a_lost_shard_says_so_and_all_else_works() -> Result<()> {
    let mut case = Case::start()?;
    let (there, gone) = (case.id_on(2)?, case.id_on(LOST)?);
    case.health(LOST, Health::Down);
    for sql in [
        "SELECT count(*) FROM t".to_owned(),
        format!("SELECT v FROM t WHERE id = {gone}"),
        "SELECT * FROM t ORDER BY id LIMIT 3".to_owned(),
        "SELECT * FROM h JOIN t USING (id)".to_owned(),
        "UPDATE t SET v = 1".to_owned(),
        "UPDATE h SET v = 1 FROM t WHERE t.id = h.id".to_owned(),
        format!("UPDATE t SET v = 1 WHERE id = {gone}"),
        format!("UPDATE t SET v = 1 WHERE id IN ({there}, {gone})"),
        "DELETE FROM t".to_owned(),
        "INSERT INTO t SELECT g, 1 FROM generate_series(1001, 1100) g".to_owned(),
        "INSERT INTO h (v) SELECT v FROM t".to_owned(),
        "SELECT * FROM t FOR UPDATE".to_owned(),
        "CREATE TABLE x AS SELECT * FROM t".to_owned(),
        "CREATE TABLE x (id int8 PRIMARY KEY) WITH (shard_by = 'hash(id)')".to_owned(),
        "ALTER TABLE t ADD COLUMN w int".to_owned(),
        "ALTER TABLE h SET (shard_by = 'hash(id)')".to_owned(),
        "COPY t TO STDOUT".to_owned(),
    ] {
        case.needs(&sql, LOST)?;
    }
    for sql in [
        format!("SELECT v FROM t WHERE id = {there}"),
        format!("SELECT t.v FROM t JOIN u USING (id) JOIN r USING (id) WHERE t.id = {there}"),
        format!("UPDATE t SET v = 0 WHERE id = {there}"),
        format!("UPDATE t SET v = u.v FROM u WHERE u.id = t.id AND t.id = {there}"),
        "UPDATE h SET v = (SELECT max(v) FROM h)".to_owned(),
        "UPDATE r SET v = 0".to_owned(),
        "SELECT count(*) FROM r".to_owned(),
        "SELECT count(*) FROM h JOIN r USING (id)".to_owned(),
        "SELECT * FROM h FOR UPDATE".to_owned(),
        "CREATE TABLE y (id int PRIMARY KEY)".to_owned(),
        "DROP TABLE y".to_owned(),
        "SHOW ALL".to_owned(),
        "SELECT * FROM pg_class".to_owned(),
        "SELECT * FROM pg_sequences".to_owned(),
        "SELECT * FROM information_schema.columns".to_owned(),
        "SELECT * FROM cortex.tables".to_owned(),
        "SELECT * FROM cortex.table_changes".to_owned(),
        "SELECT pg_total_relation_size('t'), pg_database_size('postgres')".to_owned(),
    ] {
        case.ok(&sql)?;
    }
    // The home shard: its sequences cannot be asked, what is elsewhere can.
    case.health(LOST, Health::Up);
    case.health(1, Health::Down);
    case.needs("INSERT INTO h (v) VALUES (1)", 1)?;
    ensure!(case.fails("SELECT nextval('h_id_seq')", "58000")?.message.contains("shard 1 "));
    case.ok(&format!("SELECT v FROM t WHERE id = {there}"))?;
    case.ok("SELECT last_value FROM pg_sequences")?;
    // It comes back, and the same connections go on.
    case.is_untouched()
}

#[test]
fn a_shard_that_hangs_holds_up_nobody_longer_than_the_statement_may_take() -> Result<()> {
    let mut case = Case::start()?;
    let (there, gone) = (case.id_on(2)?, case.id_on(LOST)?);
    case.ok("SET statement_timeout = '300ms'")?;
    case.health(LOST, Health::Hangs);
    let begun = Instant::now();
    for sql in [
        "SELECT count(*) FROM t".to_owned(),
        format!("SELECT v FROM t WHERE id = {gone}"),
        "UPDATE t SET v = 1".to_owned(),
        format!("UPDATE t SET v = 1 WHERE id = {gone}"),
        "INSERT INTO t SELECT g, 1 FROM generate_series(1001, 1100) g".to_owned(),
        "ALTER TABLE t ADD COLUMN w int".to_owned(),
        "SELECT * FROM t FOR UPDATE".to_owned(),
    ] {
        case.fails(&sql, "57014")?;
    }
    case.ok("SET cortex.partial_reads = 'allow'")?;
    case.fails("SELECT count(*) FROM t", "57014")?;
    case.ok("SET statement_timeout = 0")?;
    for sql in ["SELECT * FROM pg_sequences", "SELECT pg_total_relation_size('t')", "SHOW ALL"] {
        case.ok(sql)?;
    }
    // A block that wrote there ends: by ROLLBACK at once, by COMMIT with an error while nothing is committed.
    case.health(LOST, Health::Up);
    case.ok("BEGIN")?;
    case.ok(&format!("UPDATE t SET v = 1 WHERE id = {gone}"))?;
    case.health(LOST, Health::Hangs);
    case.ok("ROLLBACK")?;
    case.health(LOST, Health::Up);
    std::thread::sleep(Duration::from_millis(50));
    case.ok("BEGIN; SET LOCAL statement_timeout = '300ms'")?;
    case.ok(&format!("UPDATE t SET v = 1 WHERE id IN ({there}, {gone})"))?;
    case.health(LOST, Health::Hangs);
    case.needs("COMMIT", LOST)?;
    // A cancel gets through, too.
    let key = case.client.cancel_key.clone();
    let cancel = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        key.cancel()
    });
    case.fails("SELECT count(*) FROM t", "57014")?;
    cancel.join().map_err(|_| anyhow::anyhow!("the canceller panicked"))??;
    ensure!(begun.elapsed() < Duration::from_secs(30), "it took {:?}", begun.elapsed());
    case.health(LOST, Health::Up);
    std::thread::sleep(Duration::from_millis(100));
    case.is_untouched()
}

#[test]
fn an_answer_that_is_lost_fails_the_statement_and_changes_nothing() -> Result<()> {
    let mut case = Case::start()?;
    for sql in
        ["UPDATE t SET v = 1", "SELECT count(*) FROM t", "INSERT INTO t SELECT 1000 + id, 1 FROM h"]
    {
        case.health(LOST, Health::LosesAnswers);
        case.needs(sql, LOST)?;
        case.is_untouched()?;
    }
    case.ok("BEGIN")?;
    case.ok("UPDATE t SET v = 1")?;
    case.health(LOST, Health::LosesAnswers);
    case.needs("UPDATE t SET v = 2", LOST)?;
    case.fails("SELECT 1", "25P02")?;
    ensure!(case.ok("COMMIT")?.tag == "ROLLBACK");
    case.is_untouched()
}

#[test]
fn a_transaction_that_a_shard_has_forgotten_commits_nowhere() -> Result<()> {
    let mut case = Case::start()?;
    let (there, gone) = (case.id_on(2)?, case.id_on(LOST)?);
    let update = |id: i64| format!("UPDATE t SET v = 1 WHERE id = {id}");
    let both = format!("UPDATE t SET v = 1 WHERE id IN ({there}, {gone})");
    // Found by COMMIT, with one shard and with two; by a write, by a read, by a savepoint.
    for (before, after) in [
        (vec![update(gone)], "COMMIT".to_owned()),
        (vec![both.clone()], "COMMIT".to_owned()),
        (vec![update(there), update(gone)], update(gone)),
        (vec![update(there), update(gone)], "SELECT count(*) FROM t".to_owned()),
        (vec![update(gone)], format!("SELECT v FROM t WHERE id = {gone}")),
        (vec![update(there), update(gone), "SAVEPOINT s".to_owned()], "ROLLBACK TO s".to_owned()),
        (vec!["ALTER TABLE t ADD COLUMN w int".to_owned()], "COMMIT".to_owned()),
        (vec!["ALTER TABLE h SET (shard_by = 'hash(id)')".to_owned()], "COMMIT".to_owned()),
    ] {
        case.ok("BEGIN")?;
        for sql in &before {
            case.ok(sql)?;
        }
        case.database.faults.restart(LOST);
        case.fails(&after, "40001")?;
        if after != "COMMIT" {
            case.fails("SELECT 1", "25P02")?;
            ensure!(case.ok("COMMIT")?.tag == "ROLLBACK", "{before:?} {after}");
        }
        case.is_untouched()?;
        ensure!(case.value("SELECT count(*) FROM cortex.table_changes")? == 0);
    }
    let columns = "SELECT count(*) FROM information_schema.columns WHERE table_name = 't'";
    ensure!(case.value(columns)? == 2, "the column is there");
    // What comes before the loss and what comes after it are never one transaction.
    case.ok("BEGIN")?;
    case.ok(&update(gone))?;
    case.database.faults.restart(LOST);
    case.ok(&update(there))?;
    case.fails("COMMIT", "40001")?;
    case.is_untouched()
}

#[test]
fn a_shard_that_goes_before_the_commit_keeps_all_from_it_and_one_that_goes_within_is_told()
-> Result<()> {
    let mut case = Case::start()?;
    case.ok("BEGIN")?;
    case.ok("UPDATE t SET v = 1")?;
    case.health(LOST, Health::Down);
    case.needs("COMMIT", LOST)?;
    case.is_untouched()?;

    case.database.faults.down_after_validation(LOST);
    let error = case.fails("UPDATE t SET v = 1", "CX001")?;
    let detail = error.detail.context("no DETAIL")?;
    ensure!(detail.contains(&format!("Shard {LOST}: not committed")), "{detail}");
    ensure!(detail.matches(": committed.").count() == SHARDS as usize - 1, "{detail}");
    case.health(LOST, Health::Up);
    let changed = case.value("SELECT count(*) FROM t WHERE v = 1")?;
    ensure!(changed == case.rows_without(LOST), "{changed} rows");
    case.ok("UPDATE t SET v = 0")?;
    case.is_untouched()
}

#[test]
fn a_partial_answer_is_given_only_when_asked_for_and_named() -> Result<()> {
    let mut case = Case::start()?;
    let (there, gone) = (case.id_on(2)?, case.id_on(LOST)?);
    let rest = case.rows_without(LOST);
    case.ok("SET cortex.partial_reads = 'allow'")?;
    ensure!(case.value("SELECT count(*) FROM t")? == ROWS && case.client.notices.is_empty());
    case.health(LOST, Health::Down);
    let partial = |case: &mut Case, sql: &str, rows: i64| -> Result<()> {
        let found = case.value(sql)?;
        ensure!(found == rows, "{sql}: {found}, not {rows}");
        let notices = &case.client.notices;
        let named = notices.iter().any(|it| it.contains("partial") && it.contains("shard 3"));
        ensure!(named, "{sql}: {notices:?}");
        Ok(())
    };
    for sql in [
        "SELECT count(*) FROM t",
        "SELECT sum(n)::int8 FROM (SELECT v, count(*) n FROM t GROUP BY v) s",
        "SELECT count(*) FROM t JOIN u USING (id)",
        "SELECT count(*) FROM t LEFT JOIN u USING (id)",
        "SELECT count(*) FROM t JOIN h USING (id)",
        "SELECT count(*) FROM t JOIN r USING (id)",
        "SELECT count(*) FROM h WHERE EXISTS (SELECT FROM t WHERE t.id = h.id)",
        "SELECT count(*) FROM (SELECT * FROM t ORDER BY id LIMIT 1000) s",
        "WITH w AS (SELECT * FROM t) SELECT count(*) FROM w",
    ] {
        partial(&mut case, sql, rest)?;
    }
    partial(&mut case, "SELECT count(*) FROM (SELECT id FROM t UNION ALL SELECT id FROM h) s", {
        rest + ROWS
    })?;
    // COPY and cursors are SELECTs, too.
    let copied = case.ok("COPY t TO STDOUT")?.copied;
    ensure!(copied.iter().filter(|byte| **byte == b'\n').count() as i64 == rest);
    ensure!(case.client.notices.iter().any(|it| it.contains("shard 3")));
    case.ok("BEGIN")?;
    case.ok("DECLARE c CURSOR FOR SELECT * FROM t")?;
    ensure!(case.client.notices.iter().any(|it| it.contains("shard 3")));
    ensure!(case.ok("FETCH ALL FROM c")?.n_rows() as i64 == rest);
    case.ok("COMMIT")?;
    // What does not need the shard is whole, without a word.
    for sql in [format!("SELECT v FROM t WHERE id = {there}"), "SELECT count(*) FROM h".to_owned()]
    {
        case.ok(&sql)?;
        ensure!(case.client.notices.is_empty(), "{sql}: {:?}", case.client.notices);
    }
    // Nothing would be left, or more than the whole answer, or something is written.
    for sql in [
        format!("SELECT v FROM t WHERE id = {gone}"),
        format!("SELECT count(*) FROM t WHERE id = {gone}"),
        "SELECT * FROM h WHERE NOT EXISTS (SELECT FROM t WHERE t.id = h.id)".to_owned(),
        "SELECT * FROM h WHERE id NOT IN (SELECT id FROM t)".to_owned(),
        "SELECT id FROM h EXCEPT SELECT id FROM t".to_owned(),
        "SELECT * FROM h LEFT JOIN t USING (id)".to_owned(),
        "SELECT * FROM t FULL JOIN h USING (id)".to_owned(),
        "INSERT INTO h (v) SELECT v FROM t".to_owned(),
        "UPDATE h SET v = 1 FROM t WHERE t.id = h.id".to_owned(),
        "UPDATE t SET v = 1".to_owned(),
        "DELETE FROM h USING t WHERE t.id = h.id".to_owned(),
        "CREATE TABLE x AS SELECT * FROM t".to_owned(),
        "SELECT * FROM t FOR UPDATE".to_owned(),
        "EXPLAIN ANALYZE SELECT count(*) FROM t".to_owned(),
        "ALTER TABLE t ADD CHECK (v = 0)".to_owned(),
    ] {
        case.needs(&sql, LOST)?;
        ensure!(case.client.notices.is_empty(), "{sql}: {:?}", case.client.notices);
    }
    // A transaction sees what it wrote, or an error.
    case.health(LOST, Health::Up);
    case.ok("BEGIN")?;
    case.ok(&format!("UPDATE t SET v = 0 WHERE id = {gone}"))?;
    case.health(LOST, Health::Down);
    case.needs("SELECT count(*) FROM t", LOST)?;
    case.ok("ROLLBACK")?;
    // Two of four.
    case.health(4, Health::Down);
    let left = case.shard_of.values().filter(|it| **it < 3).count() as i64;
    partial(&mut case, "SELECT count(*) FROM t", left)?;
    ensure!(case.client.notices.iter().any(|it| it.contains("shard 4")));
    // The setting is the only way to it.
    case.ok("RESET cortex.partial_reads")?;
    case.fails("SELECT count(*) FROM t", "58000")?;
    case.is_untouched()
}

#[test]
fn a_shard_that_is_lost_while_it_answers_is_left_out_only_if_nothing_was_sent() -> Result<()> {
    let mut case = Case::start()?;
    let rest = case.rows_without(LOST);
    case.ok("SET cortex.batch_rows = 2")?;
    case.ok("SET cortex.partial_reads = 'allow'")?;
    case.health(LOST, Health::BreaksStreams);
    // Counted in the gateway, after the last row of every shard.
    let is_left = |id: &i64| case.shard_of.get(id).is_some_and(|shard| *shard != LOST);
    let pairs = (2..=ROWS).filter(|id| is_left(id) && is_left(&(id - 1))).count() as i64;
    let found = case.value("SELECT count(*) FROM t JOIN u ON t.id = u.id + 1")?;
    ensure!(found == pairs, "{found} pairs, not {pairs}");
    ensure!(case.client.notices.iter().any(|it| it.contains("shard 3")));
    // A plain scan has sent rows by then, of this shard or of others: all of them or an error.
    match case.client.simple("SELECT * FROM t") {
        Ok(reply) => ensure!(reply.n_rows() as i64 == rest, "{} rows", reply.n_rows()),
        Err(ClientError::Db(error)) => ensure!(error.code == "58000", "{error:?}"),
        Err(error) => return Err(error.into()),
    }
    case.ok("RESET cortex.partial_reads")?;
    case.needs("SELECT * FROM t", LOST)?;
    case.is_untouched()
}

#[test]
fn copies_of_reference_tables_answer_for_their_primary_copy_when_asked_to() -> Result<()> {
    let mut case = Case::start()?;
    case.health(1, Health::Down);
    // By way of a join this gateway knows that nothing is missing; alone it needs the primary copy.
    let alone = ["SELECT count(*) FROM r", "SELECT id FROM r WHERE id = 7"];
    for sql in alone {
        case.needs(sql, 1)?;
    }
    case.ok("SET cortex.partial_reads = 'allow'")?;
    for (sql, wanted) in [
        ("SELECT count(*) FROM r", ROWS),
        ("SELECT id FROM r WHERE id = 7", 7),
        ("SELECT count(*) FROM r a JOIN r b USING (id)", ROWS),
        ("SELECT count(*) FROM r a LEFT JOIN r b ON b.id = a.id + 1", ROWS),
    ] {
        ensure!(case.value(sql)? == wanted, "{sql}");
        ensure!(case.client.notices.is_empty(), "{sql}: {:?}", case.client.notices);
    }
    // A gateway that cannot know what was committed says so.
    case.health(1, Health::Up);
    case.ok("UPDATE r SET v = 5 WHERE id = 7")?;
    case.health(1, Health::Down);
    let missing = case.rows_without(1);
    for (sql, wanted, is_partial) in [
        ("SELECT count(*) FROM r", ROWS, false),
        ("SELECT id FROM r WHERE id = 7", 7, false),
        ("SELECT count(*) FROM t JOIN r USING (id)", missing, true),
    ] {
        ensure!(case.value(sql)? == wanted, "{sql}");
        let notices = &case.client.notices;
        ensure!(notices.iter().any(|it| it.contains("latest changes of shard 1")), "{notices:?}");
        ensure!(notices.iter().any(|it| it.contains("partial")) == is_partial, "{notices:?}");
    }
    // Never what is locked or written, nor behind a transaction's own changes.
    for sql in [
        "SELECT * FROM r FOR UPDATE",
        "UPDATE r SET v = 1",
        "INSERT INTO r SELECT id + 1000, v FROM r",
        "INSERT INTO t SELECT id + 1000, v FROM r",
    ] {
        case.needs(sql, 1)?;
    }
    case.health(1, Health::Up);
    case.ok("BEGIN")?;
    case.ok("UPDATE r SET v = 6 WHERE id = 7")?;
    case.health(1, Health::Down);
    case.needs("SELECT id FROM r WHERE id = 7", 1)?;
    case.ok("ROLLBACK")?;
    case.health(1, Health::Up);
    case.ok("UPDATE r SET v = 0 WHERE id = 7")?;
    case.is_untouched()
}
