//! A cluster of processes: several gateways, kill -9 of each part under load, moves, cut and slow networks.

mod chaos;
mod drain;
mod gateways;
mod kills;
mod network;
mod restart;
mod tls;

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Context, Result, anyhow};
use cortex_sql_tests::{
    ClusterServer,
    client::Target,
    transfers::{Bank, Ledger},
};

const WRITERS: usize = 3;

/// One cluster at a time: what these tests wait for is counted in seconds, and each starts half a dozen processes.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `disturb` while clients write and watch over all gateways; then everything must be exact.
///
/// `disturb` leaves every process running.
fn under_load(
    cluster: &mut ClusterServer,
    bank: Bank,
    disturb: impl FnOnce(&mut ClusterServer) -> Result<()>,
) -> Result<Vec<Ledger>> {
    bank.create(&mut cluster.connect(1)?)?;
    let gateways: Vec<Target> =
        (1..=cluster.n_gateways()).map(|n| cluster.target(n)).collect::<Result<_>>()?;
    let mut ledgers: Vec<Ledger> = (0..WRITERS).map(|_| Ledger::default()).collect();
    let stop = AtomicBool::new(false);
    let n_seen = thread::scope(|scope| {
        let (stop, gateways) = (&stop, gateways.as_slice());
        let writers: Vec<_> = ledgers
            .iter_mut()
            .enumerate()
            .map(|(n, ledger)| scope.spawn(move || bank.write(gateways, n as i64, stop, ledger)))
            .collect();
        let watchers: Vec<_> = (0..gateways.len())
            .map(|n| scope.spawn(move || bank.watch(gateways, n, stop)))
            .collect();
        let disturbed = disturb(cluster);
        stop.store(true, Ordering::Relaxed);
        let mut n_seen = 0;
        let mut failures = Vec::new();
        for watcher in watchers {
            match watcher.join().map_err(|_| anyhow!("a watcher panicked")).flatten() {
                Ok(n) => n_seen += n,
                Err(error) => failures.push(error.context("watching")),
            }
        }
        for writer in writers {
            if let Err(error) = writer.join().map_err(|_| anyhow!("a writer panicked")).flatten() {
                failures.push(error.context("writing"));
            }
        }
        // What clients saw tells more than what it led to.
        match failures.into_iter().next() {
            Some(failure) => Err(failure),
            None => disturbed.map(|()| n_seen),
        }
    });
    let n_seen = n_seen.with_context(|| cluster.logs())?;
    let n_done: usize = ledgers.iter().map(|ledger| ledger.acknowledged.len()).sum();
    let n_unknown: usize = ledgers.iter().map(|ledger| ledger.unknown.len()).sum();
    let stall = ledgers.iter().map(|ledger| ledger.stall).max().unwrap_or_default();
    println!(
        "{n_done} transfers acknowledged, {n_unknown} unknown, refused {:?}, {n_seen} totals seen; longest pause of a client {stall:?}",
        ledgers.iter().map(|ledger| &ledger.refused).collect::<Vec<_>>()
    );
    anyhow::ensure!(n_done > 0 && n_seen > 0, "nothing happened: {}", cluster.logs());
    for gateway in 1..=cluster.n_gateways() {
        let checked = bank.check(&mut cluster.connect(gateway)?, &ledgers);
        checked.with_context(|| format!("gateway {gateway}: {}", cluster.logs()))?;
    }
    Ok(ledgers)
}
