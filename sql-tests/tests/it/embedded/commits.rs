//! Commits over several shards when one of them refuses, or when its answer is lost: what the client is told is what the rows say.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use cortex_sql_tests::client::{Client, ClientError, DbError};

use super::{
    Database,
    faulty::Fault::{self, LoseAnswer, LoseRequest, Refuse},
};

const SHARDS: u32 = 4;
const ROWS: i64 = 40;

struct Case {
    database: Database,
    client: Client,
    /// Where each id lives.
    shard_of: BTreeMap<i64, u32>,
}

impl Case {
    /// A hashed table with an index, `v` = 0 in every row.
    fn start() -> Result<Case> {
        let database = Database::start(SHARDS)?;
        let mut client = database.connect()?;
        client
            .simple("CREATE TABLE t (id int8 PRIMARY KEY, v int8) WITH (shard_by = 'hash(id)')")?;
        client.simple("CREATE INDEX t_v ON t (v)")?;
        client.simple(&format!("INSERT INTO t SELECT g, 0 FROM generate_series(1, {ROWS}) g"))?;
        let mut shard_of = BTreeMap::new();
        for id in 1..=ROWS {
            let plan = client.simple(&format!("EXPLAIN SELECT * FROM t WHERE id = {id}"))?.text();
            let line = plan.iter().flatten().flatten().find(|line| line.contains("One(shard "));
            let shard = line
                .and_then(|line| {
                    line.split("One(shard ").nth(1)?.split([',', ')']).next()?.parse().ok()
                })
                .with_context(|| format!("no route in {plan:?}"))?;
            shard_of.insert(id, shard);
        }
        Ok(Case { database, client, shard_of })
    }

    /// Runs statements of which the last must fail, with these faults.
    fn fails(
        &mut self,
        statements: &[&str],
        faults: impl IntoIterator<Item = (u64, Fault)>,
    ) -> Result<DbError> {
        self.database.faults.plan(faults);
        let (last, first) = statements.split_last().context("no statement")?;
        for sql in first {
            self.client.simple(sql).with_context(|| (*sql).to_owned())?;
        }
        match self.client.simple(last) {
            Ok(reply) => bail!("{last} answered {}", reply.tag),
            Err(ClientError::Db(error)) => Ok(error),
            Err(error) => Err(error.into()),
        }
    }

    /// `v` of every row, by id; read through the table and through the index, which must agree.
    fn values(&mut self) -> Result<BTreeMap<i64, i64>> {
        let mut read = |sql: &str| -> Result<BTreeMap<i64, i64>> {
            let mut found = BTreeMap::new();
            for row in self.client.simple(sql)?.text() {
                if let [Some(id), Some(v)] = &row[..] {
                    found.insert(id.parse()?, v.parse()?);
                }
            }
            Ok(found)
        };
        let found = read("SELECT id, v FROM t")?;
        let through_index = read("SELECT id, v FROM t WHERE v BETWEEN 0 AND 1000")?;
        ensure!(found == through_index, "the index disagrees: {found:?} {through_index:?}");
        Ok(found)
    }

    /// The shards of a DETAIL, and what it says of each.
    fn told(error: &DbError) -> Result<BTreeMap<u32, String>> {
        let detail = error.detail.as_deref().context("no DETAIL")?;
        detail
            .lines()
            .map(|line| {
                let rest = line.strip_prefix("Shard ").context("a line without its shard")?;
                let (shard, what) = rest.split_once(": ").context("a line without outcome")?;
                Ok((shard.parse()?, what.to_owned()))
            })
            .collect()
    }

    /// A shard's rows have the new value exactly if it was told to have committed.
    fn rows_agree(&mut self, error: &DbError, old: i64, new: i64) -> Result<()> {
        let told = Case::told(error)?;
        ensure!(told.len() == SHARDS as usize, "every shard has its line: {told:?}");
        for (id, v) in self.values()? {
            let what = &told[&self.shard_of[&id]];
            let expected = if what == "committed." { new } else { old };
            ensure!(v == expected || what.contains("not known"), "id {id}: {v}, but {what}");
        }
        Ok(())
    }

    /// No lock and no transaction stays behind: every row can be written at once.
    fn goes_on(&mut self, v: i64) -> Result<()> {
        self.database.faults.plan([]);
        let mut other = self.database.connect()?;
        other.simple("SET lock_timeout = '2s'")?;
        let reply = other.simple(&format!("UPDATE t SET v = {v}"))?;
        ensure!(reply.tag == format!("UPDATE {ROWS}"), "{}", reply.tag);
        ensure!(self.values()?.values().all(|it| *it == v), "a row kept its value");
        Ok(())
    }
}

#[test]
fn a_commit_that_one_shard_refuses_is_reported_shard_by_shard() -> Result<()> {
    let mut case = Case::start()?;
    let mut old = 0;
    for n in 1..=u64::from(SHARDS) {
        let new = old + 1;
        let update = format!("UPDATE t SET v = {new}");
        // By itself, and as a block: the first answers for the statement, the second for COMMIT.
        let statements: &[&str] =
            if n % 2 == 0 { &[&update] } else { &["BEGIN", &update, "COMMIT"] };
        let error = case.fails(statements, [(n, Refuse)])?;
        ensure!(error.code == "CX001", "{error:?}");
        let told = Case::told(&error)?;
        let refused: Vec<_> = told.values().filter(|what| *what != "committed.").collect();
        ensure!(refused.len() == 1, "{told:?}");
        ensure!(refused[0].starts_with("not committed: shard "), "{told:?}");
        ensure!(error.hint.as_deref().is_some_and(|hint| hint.contains("strict")), "{error:?}");
        case.rows_agree(&error, old, new)?;
        case.goes_on(new)?;
        old = new;
    }
    // All of them refuse: nothing was committed, which is one shard's error.
    let error = case.fails(&["UPDATE t SET v = 99"], (1..=4).map(|n| (n, Refuse)))?;
    ensure!(error.code == "58000", "{error:?}");
    ensure!(case.values()?.values().all(|v| *v == old), "a shard committed");
    // Refused before anyone commits: nothing is committed at all.
    case.database.faults.refuse_next_validation();
    let error = case.fails(&["UPDATE t SET v = 98"], [])?;
    ensure!(error.code == "58000", "{error:?}");
    ensure!(case.database.faults.commits() == 0, "a shard was asked to commit");
    ensure!(case.values()?.values().all(|v| *v == old), "a shard committed");
    case.goes_on(7)
}

#[test]
fn a_commit_whose_answer_is_lost_is_an_unknown_outcome() -> Result<()> {
    let mut case = Case::start()?;
    for (round, (fault, n)) in
        [(LoseAnswer, 1), (LoseRequest, 2), (LoseAnswer, 4)].into_iter().enumerate()
    {
        let (old, new) = (round as i64 * 10, round as i64 * 10 + 5);
        case.goes_on(old)?;
        let error = case.fails(&[&format!("UPDATE t SET v = {new}")], [(n, fault)])?;
        ensure!(error.code == "40003", "{error:?}");
        let told = Case::told(&error)?;
        ensure!(told.values().filter(|what| *what == "outcome not known.").count() == 1);
        case.rows_agree(&error, old, new)?;
        // Which it was shows only in the rows.
        let n_old = case.values()?.values().filter(|v| **v == old).count();
        ensure!((n_old > 0) == (fault == LoseRequest), "{n_old} rows are as before");
    }
    // A lost answer and a refusal: the unknown is what the client must know of.
    case.goes_on(50)?;
    let error = case.fails(&["UPDATE t SET v = 60"], [(2, LoseAnswer), (3, Refuse)])?;
    ensure!(error.code == "40003", "{error:?}");
    let told = Case::told(&error)?;
    ensure!(told.values().filter(|what| what.starts_with("not committed")).count() == 1);
    case.rows_agree(&error, 50, 60)?;
    case.goes_on(70)
}

#[test]
fn one_shard_needs_no_word_about_others() -> Result<()> {
    let mut case = Case::start()?;
    // By key it commits with its write; in a block with COMMIT.
    for statements in [
        &["UPDATE t SET v = 1 WHERE id = 1"][..],
        &["BEGIN", "UPDATE t SET v = 1 WHERE id = 1", "COMMIT"],
    ] {
        let error = case.fails(statements, [(1, Refuse)])?;
        ensure!(error.code == "58000" && error.detail.is_none(), "{error:?}");
        ensure!(case.values()?[&1] == 0, "a refused commit shows");
        let error = case.fails(statements, [(1, LoseRequest)])?;
        ensure!(error.code == "40003", "{error:?}");
        ensure!(case.values()?[&1] == 0, "a lost request shows");
        let error = case.fails(statements, [(1, LoseAnswer)])?;
        ensure!(error.code == "40003", "{error:?}");
        ensure!(case.values()?[&1] == 1, "a durable commit does not show");
        case.goes_on(0)?;
    }
    Ok(())
}

#[test]
fn copy_and_extended_statements_report_their_commits_alike() -> Result<()> {
    let mut case = Case::start()?;
    let data: String = (101..=140).map(|id| format!("{id}\t1\n")).collect();
    case.database.faults.plan([(3, Refuse)]);
    let answer = case.client.copy_in("COPY t FROM STDIN", data.as_bytes());
    let Err(ClientError::Db(error)) = answer else { bail!("COPY succeeded") };
    ensure!(error.code == "CX001" && Case::told(&error)?.len() == 4, "{error:?}");
    let n = case.values()?.len() as i64;
    ensure!(n > ROWS && n < 2 * ROWS, "{n} rows");
    case.database.faults.plan([]);
    case.client.simple(&format!("DELETE FROM t WHERE id > {ROWS}"))?;

    case.database.faults.plan([(2, LoseAnswer)]);
    let answer =
        case.client.extended("UPDATE t SET v = $1 RETURNING id", &[Some("3".into())], true);
    let Err(ClientError::Db(error)) = answer else { bail!("UPDATE succeeded") };
    ensure!(error.code == "40003", "{error:?}");
    case.goes_on(4)?;

    // Two statements of one Query message are one transaction.
    let error = case.fails(
        &["UPDATE t SET v = 5; INSERT INTO t VALUES (1000, 5)"],
        [(1, Refuse), (2, Refuse)],
    )?;
    ensure!(error.code == "CX001", "{error:?}");
    case.database.faults.plan([]);
    case.client.simple("DELETE FROM t WHERE id = 1000")?;
    case.goes_on(6)
}

#[test]
fn strict_refuses_before_anything_is_written() -> Result<()> {
    let mut case = Case::start()?;
    case.client
        .simple("CREATE TABLE r (id int8 PRIMARY KEY, v int8) WITH (shard_by = 'reference')")?;
    case.client.simple("SET cortex.multi_shard_writes = 'strict'")?;
    let before = case.values()?;
    for sql in [
        "UPDATE t SET v = 1",
        "DELETE FROM t",
        "INSERT INTO t SELECT g, 1 FROM generate_series(1001, 1040) g",
        "INSERT INTO t VALUES (2001, 1), (2002, 1), (2003, 1), (2004, 1), (2005, 1), (2006, 1)",
        "UPDATE t SET v = 1 WHERE id IN (1, 2, 3, 4, 5, 6, 7, 8)",
    ] {
        let error = case.fails(&[sql], [])?;
        ensure!(error.code == "0A000" && error.hint.is_some(), "{sql}: {error:?}");
        ensure!(case.database.faults.commits() == 0, "{sql}: a shard committed");
        ensure!(case.database.faults.writes() == 0, "{sql}: a write reached a shard");
        ensure!(case.values()? == before, "{sql} changed rows");
    }
    // Of a reference table the primary copy is written, on one shard; the others follow.
    case.client.simple("INSERT INTO r VALUES (1, 1)")?;
    case.database.faults.plan([]);
    // A block may write on one shard, and not on a second one.
    let (first, shard) = (1, case.shard_of[&1]);
    let other = case.shard_of.iter().find(|(_, it)| **it != shard).context("one shard")?.0;
    let one = format!("UPDATE t SET v = 1 WHERE id = {first}");
    let two = format!("UPDATE t SET v = 1 WHERE id = {other}");
    let error = case.fails(&["BEGIN", &one, &two], [])?;
    ensure!(error.code == "0A000" && error.hint.is_some(), "{error:?}");
    case.client.simple("COMMIT")?;
    ensure!(case.database.faults.commits() == 0, "the block committed");
    ensure!(case.values()? == before, "the block changed rows");
    case.client.simple(&one)?;
    ensure!(case.values()?[&first] == 1, "one shard is not several");
    case.client.simple("SET cortex.multi_shard_writes = 'best_effort'")?;
    case.goes_on(2)
}
