//! Everything dies at once, in the middle of load and moves, and comes back in any order: nothing is lost, and nobody has to help.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use cortex_sql_tests::{ClusterServer, cluster::Node, transfers::Bank};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};

use super::chaos::last_move;

const BANK: Bank = Bank { branches: 30 };
const ROUNDS: u64 = 3;
/// A move that was interrupted has ended by then, also on a busy machine.
const MOVE_TIMEOUT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);

#[test]
fn a_cluster_that_lost_its_power_comes_back_by_itself() -> Result<()> {
    let _alone = super::alone();
    let seed: u64 = rand::random::<u16>().into();
    let seed =
        std::env::var("CORTEX_CHAOS_SEED").ok().and_then(|it| it.parse().ok()).unwrap_or(seed);
    println!("CORTEX_CHAOS_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut cluster = ClusterServer::start(3, 2)?;
    super::under_load(&mut cluster, BANK, |cluster| {
        for round in 0..ROUNDS {
            let (from, to) = (round % 3 + 1, (round + 1) % 3 + 1);
            let slots = BANK.slots(&mut cluster.connect(1)?, from)?;
            let sql =
                format!("SELECT cortex.move_slots('accounts', {from}, {to}, '{slots}', false)");
            cluster.connect(1)?.simple(&sql)?;
            thread::sleep(Duration::from_millis(random.random_range(0..900)));
            let mut nodes: Vec<Node> = cluster.nodes().collect();
            nodes.shuffle(&mut random);
            for node in &nodes {
                cluster.kill(*node)?;
            }
            nodes.shuffle(&mut random);
            println!("back in this order: {nodes:?}");
            for node in &nodes {
                cluster.launch(*node)?;
                thread::sleep(Duration::from_millis(random.random_range(0..150)));
            }
            for node in &nodes {
                cluster.wait_ready(*node)?;
            }
            ends(cluster).with_context(|| format!("round {round}"))?;
        }
        Ok(())
    })?;
    cluster.stop_all()
}

/// The last move comes to its end without a word from anybody.
fn ends(cluster: &ClusterServer) -> Result<()> {
    let since = Instant::now();
    loop {
        let last = last_move(cluster);
        match &last {
            Ok(last) if last.phase == "done" => return Ok(()),
            Ok(last) => {
                let is_over = matches!(last.phase.as_str(), "failed" | "aborted" | "stopped");
                ensure!(!is_over, "it ended as {last:?}");
            }
            Err(_) => {}
        }
        ensure!(since.elapsed() < MOVE_TIMEOUT, "it does not end: {last:?}");
        thread::sleep(POLL);
    }
}
