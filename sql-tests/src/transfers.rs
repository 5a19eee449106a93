//! A bank under load: transfers whose every balance can be checked, whatever happens to the processes meanwhile.
//!
//! Accounts are sharded by their branch, and a transfer stays in one, so it is one shard's transaction: it happens whole or
//! not at all, and it writes its own record beside the balances. So at every moment each statement must see the same total,
//! and at the end each balance must be what the records say, and the records what the clients were told. Lives here: the
//! tables, clients that write, clients that watch, the last check. Not here: what is done to the cluster meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::client::{Client, ClientError, Target};

/// Accounts of a branch; few, so that transfers meet.
const ACCOUNTS: i64 = 10;
const BALANCE: i64 = 1_000;
/// Pause behind a failure, so that a client does not spin while a process is away.
const PAUSE: Duration = Duration::from_millis(20);
/// What a statement may take, whatever is down; the clients set it.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);
/// Grace on a busy machine before a statement counts as one that its timeout did not end.
const TIMEOUT_GRACE: Duration = Duration::from_secs(10);

/// The bank's size.
#[derive(Clone, Copy, Debug)]
pub struct Bank {
    pub branches: i64,
}

/// A transfer, by who made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Transfer {
    pub branch: i64,
    pub client: i64,
    pub number: i64,
    pub source: i64,
    pub target: i64,
    pub amount: i64,
}

/// What a writing client knows.
#[derive(Debug, Default)]
pub struct Ledger {
    pub acknowledged: BTreeSet<Transfer>,
    /// The answer never came, or it was 40003.
    pub unknown: BTreeSet<Transfer>,
    /// Refused transfers by SQLSTATE; each must have left nothing.
    pub refused: BTreeMap<String, u64>,
    /// The longest time between two acknowledgements.
    pub stall: Duration,
}

impl Bank {
    pub fn create(&self, client: &mut Client) -> Result<()> {
        client.simple(
            "CREATE TABLE accounts (branch int, id int, owner int NOT NULL, balance int8 NOT NULL,
                PRIMARY KEY (branch, id)) WITH (shard_by = 'hash(branch)', colocate_with = 'none')",
        )?;
        client.simple(
            "CREATE TABLE transfers (branch int, client int, number int, source int NOT NULL,
                target int NOT NULL, amount int8 NOT NULL, PRIMARY KEY (branch, client, number))
                WITH (shard_by = 'hash(branch)', colocate_with = 'accounts')",
        )?;
        client.simple("CREATE INDEX accounts_owner ON accounts (owner)")?;
        client.simple(&format!(
            "INSERT INTO accounts SELECT b, i, b * {ACCOUNTS} + i, {BALANCE}
             FROM generate_series(1, {}) b, generate_series(1, {ACCOUNTS}) i",
            self.branches
        ))?;
        Ok(())
    }

    /// The slots of the bank that a shard owns, as `cortex.move_slots` takes them.
    pub fn slots(&self, client: &mut Client, shard: u64) -> Result<String> {
        let rows = client.simple(&format!(
            "SELECT first_slot, last_slot FROM cortex.slots WHERE shard_id = {shard} AND colocation_group IN
                (SELECT colocation_group FROM cortex.tables WHERE table_name = 'accounts')"
        ))?;
        let runs: Vec<String> = rows
            .text()
            .iter()
            .map(|row| row.iter().flatten().cloned().collect::<Vec<_>>().join("-"))
            .collect();
        ensure!(!runs.is_empty(), "shard {shard} owns no slot");
        Ok(runs.join(","))
    }

    fn n_accounts(&self) -> i64 {
        self.branches * ACCOUNTS
    }

    fn total(&self) -> i64 {
        self.n_accounts() * BALANCE
    }

    /// Transfers until it is told to stop, over the gateways in turn whenever one fails.
    pub fn write(
        &self,
        gateways: &[Target],
        client: i64,
        stop: &AtomicBool,
        ledger: &mut Ledger,
    ) -> Result<()> {
        let mut random = StdRng::seed_from_u64(client as u64);
        let mut connections = Connections::new(gateways, client as usize);
        let mut last = Instant::now();
        // A number is used once, also where its transfer was refused: a late ghost of it would be seen.
        let first = ledger.acknowledged.len() + ledger.unknown.len();
        let mut number = first as i64 + ledger.refused.values().sum::<u64>() as i64;
        while !stop.load(Ordering::Relaxed) {
            let Some(session) = connections.session() else { continue };
            let source = random.random_range(1..=ACCOUNTS);
            let transfer = Transfer {
                branch: random.random_range(1..=self.branches),
                client,
                number,
                source,
                target: source % ACCOUNTS + 1,
                amount: random.random_range(1..100),
            };
            number += 1;
            match transfer.run(session, number % 2 == 0)? {
                Outcome::Done => {
                    ledger.acknowledged.insert(transfer);
                    ledger.stall = ledger.stall.max(last.elapsed());
                    last = Instant::now();
                }
                Outcome::Refused(code) => {
                    *ledger.refused.entry(code).or_default() += 1;
                    thread::sleep(PAUSE);
                }
                Outcome::Unknown { is_lost } => {
                    ledger.unknown.insert(transfer);
                    if is_lost {
                        connections.drop_session();
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads the total in every way there is until it is told to stop; the number of totals that were seen. A statement may
    /// fail while a process is away, but what it answers must be whole.
    pub fn watch(&self, gateways: &[Target], first: usize, stop: &AtomicBool) -> Result<u64> {
        const WAYS: [&str; 3] = [
            "SELECT count(*), sum(balance) FROM accounts",
            "SELECT count(*), sum(balance) FROM accounts WHERE owner BETWEEN 0 AND 1000000000",
            "SELECT sum(n), sum(b) FROM (SELECT branch, count(*) AS n, sum(balance) AS b FROM accounts GROUP BY branch) s",
        ];
        let expected =
            vec![vec![Some(self.n_accounts().to_string()), Some(self.total().to_string())]];
        let mut connections = Connections::new(gateways, first);
        let mut n_seen = 0;
        for way in WAYS.iter().cycle() {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let Some(session) = connections.session() else { continue };
            let since = Instant::now();
            match session.simple(way) {
                Ok(reply) => {
                    let found = reply.text();
                    ensure!(found == expected, "{way}: {found:?}, not {expected:?}");
                    n_seen += 1;
                }
                Err(ClientError::Db(error)) => {
                    may_fail(&error.code).with_context(|| format!("{way}: {error:?}"))?;
                    thread::sleep(PAUSE);
                }
                Err(ClientError::Io(_)) => connections.drop_session(),
            }
            let took = since.elapsed();
            ensure!(took < STATEMENT_TIMEOUT + TIMEOUT_GRACE, "{way} took {took:?}");
        }
        Ok(n_seen)
    }

    /// When everything is back: the records are what the clients were told, and the balances what the records say.
    pub fn check(&self, client: &mut Client, ledgers: &[Ledger]) -> Result<()> {
        let mut recorded = BTreeSet::new();
        let rows = client
            .simple("SELECT branch, client, number, source, target, amount FROM transfers")?
            .text();
        for row in rows {
            let n = |i: usize| -> Result<i64> { Ok(row[i].as_deref().context("NULL")?.parse()?) };
            let transfer = Transfer {
                branch: n(0)?,
                client: n(1)?,
                number: n(2)?,
                source: n(3)?,
                target: n(4)?,
                amount: n(5)?,
            };
            ensure!(recorded.insert(transfer), "{transfer:?} is there twice");
        }
        for ledger in ledgers {
            let mut lost = ledger.acknowledged.difference(&recorded);
            if let Some(first) = lost.next() {
                bail!("{} acknowledged transfers are lost, {first:?}", lost.count() + 1);
            }
        }
        let known = |it: &Transfer| {
            ledgers.iter().any(|l| l.acknowledged.contains(it) || l.unknown.contains(it))
        };
        if let Some(ghost) = recorded.iter().find(|transfer| !known(transfer)) {
            bail!("{ghost:?} was refused, and is there");
        }
        let mut balances = BTreeMap::new();
        for branch in 1..=self.branches {
            for id in 1..=ACCOUNTS {
                balances.insert((branch, id), BALANCE);
            }
        }
        for it in &recorded {
            *balances.entry((it.branch, it.source)).or_default() -= it.amount;
            *balances.entry((it.branch, it.target)).or_default() += it.amount;
        }
        let rows = client.simple("SELECT branch, id, balance FROM accounts")?.text();
        for row in rows {
            let n = |i: usize| -> Result<i64> { Ok(row[i].as_deref().context("NULL")?.parse()?) };
            let key = (n(0)?, n(1)?);
            let expected = balances.remove(&key);
            ensure!(
                expected == Some(n(2)?),
                "account {key:?} has {}, and should have {expected:?}",
                n(2)?
            );
        }
        ensure!(balances.is_empty(), "accounts are lost: {balances:?}");
        Ok(())
    }
}

enum Outcome {
    Done,
    /// With an SQLSTATE that says it did not happen.
    Refused(String),
    Unknown {
        is_lost: bool,
    },
}

impl Transfer {
    fn run(&self, session: &mut Client, in_one: bool) -> Result<Outcome> {
        let Self { branch, client, number, source, target, amount } = self;
        let take = format!(
            "UPDATE accounts SET balance = balance - {amount} WHERE branch = {branch} AND id = {source}"
        );
        let give = format!(
            "UPDATE accounts SET balance = balance + {amount} WHERE branch = {branch} AND id = {target}"
        );
        let record = format!(
            "INSERT INTO transfers VALUES ({branch}, {client}, {number}, {source}, {target}, {amount})"
        );
        // Locks in one order: what a deadlock does is another test's.
        let (first, second) = if source < target { (take, give) } else { (give, take) };
        let statements: Vec<String> = match in_one {
            true => vec![format!("BEGIN; {first}; {second}; {record}; COMMIT")],
            false => vec!["BEGIN".into(), first, second, record, "COMMIT".into()],
        };
        let last = statements.len() - 1;
        for (i, sql) in statements.iter().enumerate() {
            let since = Instant::now();
            let answer = session.simple(sql);
            let took = since.elapsed();
            ensure!(took < STATEMENT_TIMEOUT + TIMEOUT_GRACE, "{sql} took {took:?}");
            match answer {
                // COMMIT of a transaction that has failed answers so, without an error.
                Ok(reply) if i == last && reply.tag == "ROLLBACK" => {
                    return Ok(Outcome::Refused("ROLLBACK".into()));
                }
                Ok(reply) => {
                    let is_update = !in_one && (i == 1 || i == 2);
                    ensure!(!is_update || reply.n_rows() == 1, "{sql}: {}", reply.tag);
                }
                Err(ClientError::Db(error)) if error.code == "40003" => {
                    let _ = session.simple("ROLLBACK");
                    return Ok(Outcome::Unknown { is_lost: false });
                }
                Err(ClientError::Db(error)) => {
                    may_fail(&error.code).with_context(|| format!("{sql}: {error:?}"))?;
                    // The answer to it does not matter: a lost connection shows at the next statement.
                    let _ = session.simple("ROLLBACK");
                    return Ok(Outcome::Refused(error.code));
                }
                // Before the last statement nothing can have been committed.
                Err(ClientError::Io(_)) => return Ok(Outcome::Unknown { is_lost: true }),
            }
        }
        Ok(Outcome::Done)
    }
}

/// Errors that clients must expect while processes die and slots move; anything else is a finding.
fn may_fail(code: &str) -> Result<()> {
    // Unreachable; serialization and locks; cancelled by its timeout; the gateway goes or comes.
    const EXPECTED: &[&str] =
        &["58000", "40001", "40P01", "55P03", "57014", "57P01", "57P02", "57P03", "25P02"];
    ensure!(EXPECTED.contains(&code), "unexpected SQLSTATE {code}");
    Ok(())
}

/// A session on one of the gateways, made anew on the next one when it was lost.
struct Connections<'a> {
    gateways: &'a [Target],
    next: usize,
    session: Option<Client>,
}

impl<'a> Connections<'a> {
    fn new(gateways: &'a [Target], first: usize) -> Self {
        Self { gateways, next: first, session: None }
    }

    /// `None`, after a pause, where the gateway does not take it now.
    fn session(&mut self) -> Option<&mut Client> {
        if self.session.is_none() {
            let target = &self.gateways[self.next % self.gateways.len()];
            self.next += 1;
            let opened = Client::connect(target).and_then(|mut client| {
                let timeout = STATEMENT_TIMEOUT.as_millis();
                client.simple(&format!("SET statement_timeout = {timeout}"))?;
                Ok(client)
            });
            match opened {
                Ok(client) => self.session = Some(client),
                Err(_) => thread::sleep(PAUSE),
            }
        }
        self.session.as_mut()
    }

    fn drop_session(&mut self) {
        self.session = None;
    }
}
