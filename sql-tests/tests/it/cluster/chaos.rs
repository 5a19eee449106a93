//! Transfers with a running total while slots move back and forth and processes are killed at random.
//!
//! `CORTEX_CHAOS_MOVES` is the number of moves, few without it; `CORTEX_CHAOS_SEED` repeats the choices of a run;
//! `CORTEX_CHAOS_DDL=1` has a client change the moving table's columns and indexes all the time.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use cortex_sql_tests::{
    Client, ClientError, ClusterServer, client::Target, cluster::Node, transfers::Bank,
};
use rand::{Rng, SeedableRng, rngs::StdRng};

const BANK: Bank = Bank { branches: 40 };
const MOVES_DEFAULT: u64 = 6;
/// A move may take so long with everything that is done to it.
const MOVE_TIMEOUT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);
/// How long a process stays away.
const AWAY: Duration = Duration::from_millis(300);

fn number(name: &str, default: u64) -> Result<u64> {
    std::env::var(name).map_or(Ok(default), |text| text.parse().context(name.to_owned()))
}

#[test]
fn balances_are_exact_while_slots_move_and_processes_die() -> Result<()> {
    let _alone = super::alone();
    let n_moves = number("CORTEX_CHAOS_MOVES", MOVES_DEFAULT)?;
    let seed = number("CORTEX_CHAOS_SEED", rand::random::<u16>().into())?;
    println!("{n_moves} moves, CORTEX_CHAOS_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut cluster = ClusterServer::start(3, 2)?;
    let with_ddl = number("CORTEX_CHAOS_DDL", 0)? == 1;
    super::under_load(&mut cluster, BANK, |cluster| {
        let gateways = [cluster.target(1)?, cluster.target(2)?];
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let changes = with_ddl.then(|| scope.spawn(|| change_schema(&gateways, &stop)));
            let moved = moves(cluster, n_moves, &mut random);
            stop.store(true, Ordering::Relaxed);
            let n = changes.map(|it| it.join().map_err(|_| anyhow!("schema changes panicked")));
            println!("{} schema changes", n.transpose()?.transpose()?.unwrap_or_default());
            moved
        })
    })?;
    Ok(())
}

/// Columns and indexes come and go, over both gateways; how many.
fn change_schema(gateways: &[Target], stop: &AtomicBool) -> Result<u64> {
    // What clients must expect while processes die, and what is left of a change whose outcome was lost.
    const EXPECTED: [&str; 13] = [
        "58000", "40001", "40003", "40P01", "55P03", "57014", "57P01", "57P03", "42701", "42703",
        "42P07", "42704", "CX001",
    ];
    const CHANGES: [&str; 4] = [
        "ALTER TABLE accounts ADD COLUMN extra int DEFAULT 5",
        "CREATE INDEX accounts_extra ON accounts (extra)",
        "DROP INDEX accounts_extra",
        "ALTER TABLE accounts DROP COLUMN extra",
    ];
    let (mut n_done, mut refused) = (0, BTreeMap::<String, u64>::new());
    for (n, sql) in CHANGES.iter().cycle().enumerate() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let changed = Client::connect(&gateways[n % gateways.len()])
            .and_then(|mut client| client.simple(sql).map(drop));
        match changed {
            Ok(()) => n_done += 1,
            Err(ClientError::Io(_)) => thread::sleep(POLL),
            Err(ClientError::Db(error)) => {
                ensure!(EXPECTED.contains(&error.code.as_str()), "{sql}: {error:?}");
                *refused.entry(error.code).or_default() += 1;
                thread::sleep(POLL);
            }
        }
    }
    println!("schema changes were refused: {refused:?}");
    Ok(n_done)
}

fn moves(cluster: &mut ClusterServer, n_moves: u64, random: &mut StdRng) -> Result<()> {
    let (mut from, mut to, mut slots) = (0, 0, String::new());
    for n in 0..n_moves {
        // Back and forth: what went to another shard comes home with the following move.
        if n % 2 == 0 {
            from = random.random_range(1..=3);
            to = from % 3 + 1;
            slots = BANK.slots(&mut cluster.connect(1)?, from)?;
        } else {
            (from, to) = (to, from);
        }
        // Half of the moves are left in peace.
        let victim = match random.random_range(0..10) {
            0..5 => None,
            5 => Some(Node::Shard(from as usize)),
            6 => Some(Node::Shard(to as usize)),
            7 => Some(Node::Gateway(1)),
            8 => Some(Node::Gateway(2)),
            _ => Some(Node::Meta),
        };
        let after = Duration::from_millis(random.random_range(0..1500));
        let blow = victim.map(|node| (node, after));
        move_slots(cluster, from, to, &slots, blow)
            .with_context(|| format!("move {n} from {from} to {to}, victim {blow:?}"))?;
    }
    Ok(())
}

/// One move, started in gateway 1 and seen through to its end whatever dies meanwhile.
fn move_slots(
    cluster: &mut ClusterServer,
    from: u64,
    to: u64,
    slots: &str,
    victim: Option<(Node, Duration)>,
) -> Result<()> {
    let sql = format!("SELECT cortex.move_slots('accounts', {from}, {to}, '{slots}', false)");
    cluster.connect(1)?.simple(&sql).context("starting it")?;
    if let Some((node, after)) = victim {
        thread::sleep(after);
        println!("kill -9 {node} in a move from {from} to {to}");
        cluster.kill(node)?;
        thread::sleep(AWAY);
        cluster.restart(node)?;
    }
    let since = Instant::now();
    loop {
        let last = last_move(cluster);
        match &last {
            Ok(last) if last.phase == "done" => {
                println!(
                    "from {from} to {to}: writes stood still for {} ms at most",
                    last.stall_ms
                );
                return Ok(());
            }
            Ok(last) if last.phase == "failed" => {
                println!("retried: {}", last.error);
                cluster.connect(1)?.simple(&format!("SELECT cortex.retry({})", last.number))?;
            }
            Ok(last) => ensure!(last.phase != "aborted", "it was given up: {}", last.error),
            Err(_) => {}
        }
        ensure!(since.elapsed() < MOVE_TIMEOUT, "it does not end: {last:?}");
        thread::sleep(POLL);
    }
}

#[derive(Debug)]
pub(super) struct Move {
    number: String,
    pub phase: String,
    stall_ms: String,
    error: String,
}

pub(super) fn last_move(cluster: &ClusterServer) -> Result<Move> {
    let rows = cluster.connect(1)?.simple(
        "SELECT move, phase, write_stall_ms, error FROM cortex.rebalance_status() ORDER BY move DESC LIMIT 1",
    )?;
    let row = rows.text().into_iter().next().context("there is no move")?;
    let text = |n: usize| row.get(n).cloned().flatten().unwrap_or_default();
    Ok(Move { number: text(0), phase: text(1), stall_ms: text(2), error: text(3) })
}
