//! Transfers with a running total while slots move back and forth and processes are killed at random.
//!
//! `CORTEX_CHAOS_MOVES` is the number of moves, few without it; `CORTEX_CHAOS_SEED` repeats the choices of a run.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use cortex_sql_tests::{Client, ClientError, ClusterServer, cluster::Node, transfers::Bank};
use rand::{Rng, SeedableRng, rngs::StdRng};

const BANK: Bank = Bank { branches: 40 };
const MOVES_DEFAULT: u64 = 6;
/// A move that no crash ends for good may take so long with everything that is done to it.
const MOVE_TIMEOUT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);

fn number(name: &str, default: u64) -> Result<u64> {
    std::env::var(name).map_or(Ok(default), |text| text.parse().context(name.to_owned()))
}

#[test]
fn balances_are_exact_while_slots_move_and_processes_die() -> Result<()> {
    let n_moves = number("CORTEX_CHAOS_MOVES", MOVES_DEFAULT)?;
    let seed = number("CORTEX_CHAOS_SEED", rand::random::<u16>().into())?;
    println!("{n_moves} moves, CORTEX_CHAOS_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut cluster = ClusterServer::start(3, 2)?;
    let n_finished = std::cell::Cell::new(0);
    super::under_load(&mut cluster, BANK, |cluster| {
        for n in 0..n_moves {
            // Back and forth: what went to the next shard comes home with the following move.
            let shard = 1 + (n / 2) % 3;
            let next = shard % 3 + 1;
            let (from, to) = if n % 2 == 0 { (shard, next) } else { (next, shard) };
            // Every second move is left in peace, so that some are measured and all come to an end.
            let victim = match random.random_range(0..10) {
                0..5 => None,
                5 => Some(Node::Shard(from as usize)),
                6 => Some(Node::Shard(to as usize)),
                7 => Some(Node::Gateway(1)),
                8 => Some(Node::Gateway(2)),
                _ => Some(Node::Meta),
            };
            let after = Duration::from_millis(random.random_range(0..1500));
            move_slots(cluster, from, to, victim.map(|node| (node, after)))
                .with_context(|| format!("move {n} from {from} to {to}, victim {victim:?}"))?;
            n_finished.set(n_finished.get() + 1);
        }
        Ok(())
    })?;
    ensure!(n_finished.get() == n_moves);
    Ok(())
}

/// One move, started in gateway 1 and watched until it has ended one way or the other.
fn move_slots(
    cluster: &mut ClusterServer,
    from: u64,
    to: u64,
    victim: Option<(Node, Duration)>,
) -> Result<()> {
    let target = cluster.target(1)?;
    let moving = thread::spawn(move || -> std::result::Result<(), ClientError> {
        let mut client = Client::connect(&target)?;
        client
            .simple(&format!("SELECT cortex.move_slots('accounts', {from}, {to}, '0-1023')"))
            .map(drop)
    });
    if let Some((node, after)) = victim {
        thread::sleep(after);
        println!("kill -9 {node} in a move from {from} to {to}");
        cluster.kill(node)?;
        thread::sleep(Duration::from_millis(300));
        cluster.restart(node)?;
    }
    let answer = moving.join().map_err(|_| anyhow::anyhow!("the mover panicked"))?;
    if victim.is_none() {
        answer.context("a move in peace")?;
    }
    wait_until_quiet(cluster)
}

/// Waits until no move is under way: a crash of anything ends in "finished" or "as before" by itself.
fn wait_until_quiet(cluster: &ClusterServer) -> Result<()> {
    let since = Instant::now();
    loop {
        let rows = cluster.connect(1).and_then(|mut client| {
            Ok(client.simple("SELECT * FROM cortex.rebalance_status()")?.text())
        });
        let is_quiet = rows.as_ref().is_ok_and(|rows| {
            rows.iter().flatten().flatten().all(|text| {
                !["record", "copy", "follow", "cutover", "abort", "clean"]
                    .iter()
                    .any(|phase| text.starts_with(phase))
            })
        });
        if is_quiet {
            return Ok(());
        }
        ensure!(since.elapsed() < MOVE_TIMEOUT, "the move does not end: {rows:?}");
        thread::sleep(POLL);
    }
}
