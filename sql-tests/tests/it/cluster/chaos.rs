//! Transfers with a running total while slots move back and forth and processes are killed at random.
//!
//! `CORTEX_CHAOS_MOVES` is the number of moves, few without it; `CORTEX_CHAOS_SEED` repeats the choices of a run.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use cortex_sql_tests::{ClusterServer, cluster::Node, transfers::Bank};
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
    super::under_load(&mut cluster, BANK, |cluster| {
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
    })?;
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
struct Move {
    number: String,
    phase: String,
    stall_ms: String,
    error: String,
}

fn last_move(cluster: &ClusterServer) -> Result<Move> {
    let rows = cluster.connect(1)?.simple(
        "SELECT move, phase, write_stall_ms, error FROM cortex.rebalance_status() ORDER BY move DESC LIMIT 1",
    )?;
    let row = rows.text().into_iter().next().context("there is no move")?;
    let text = |n: usize| row.get(n).cloned().flatten().unwrap_or_default();
    Ok(Move { number: text(0), phase: text(1), stall_ms: text(2), error: text(3) })
}
