//! `cargo xtask bench cluster`: what it costs that shards are processes, and what a client sees of a move.
//!
//! The same release binary twice, embedded and as a cluster on loopback, in alternating runs; medians count. Both serve three
//! data shards, so that only the way to them differs.

use std::{
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use cortex_sql_tests::{
    Client, ClusterServer, CortexServer,
    client::Target,
    cluster::ClusterOptions,
    pgbench,
    transfers::{Bank, Ledger},
};

const SHARDS: usize = 3;
/// Point reads: how many clients at a time, and how they ask. What several ask at once travels together, so the ratio grows with them.
const POINT_READS: [(&str, &str); 5] =
    [("prepared", "1"), ("prepared", "4"), ("prepared", "16"), ("prepared", "64"), ("simple", "4")];
/// Groups of the table that is aggregated.
const GROUPS: u32 = 1_000;
/// Runs of the aggregation inside one turn; the first warms up.
const QUERIES: u32 = 5;
/// Clients that write while slots move.
const WRITERS: i64 = 4;
/// Load before, between and after the moves.
const PAUSE: Duration = Duration::from_secs(1);

pub struct Plan {
    pub seconds: u32,
    pub runs: u32,
    pub scale: u32,
    pub rows: u32,
    pub moves: u32,
}

pub fn run(binary: &Path, plan: &Plan) -> Result<()> {
    let embedded = CortexServer::start_binary(binary, SHARDS)?;
    let cluster = ClusterServer::start_with(ClusterOptions {
        binary: binary.into(),
        ..ClusterOptions::new(SHARDS, 1)?
    })?;
    let both = [("embedded", embedded.target.clone()), ("processes", cluster.target(1)?)];
    match pgbench::program() {
        Some(program) => point_reads(&program, &both, plan)?,
        None => println!("skipped: pgbench is not installed"),
    }
    aggregation(&both, plan)?;
    drop(embedded);
    write_stall(&cluster.target(1)?, plan)
}

type Both = [(&'static str, Target); 2];

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn point_reads(program: &Path, both: &Both, plan: &Plan) -> Result<()> {
    let scale = plan.scale.to_string();
    for (_, target) in both {
        call(program, target, &["-i", "-q", "-I", "dtGvp", "-s", &scale])?;
    }
    let seconds = plan.seconds.to_string();
    for (protocol, clients) in POINT_READS {
        let mut rates = [Vec::new(), Vec::new()];
        for _ in 0..plan.runs {
            for (i, (name, target)) in both.iter().enumerate() {
                let options = ["-n", "-S", "-M", protocol, "-c", clients, "-T", &seconds];
                let said = call(program, target, &options)?;
                let rate = pgbench::rate(&said).with_context(|| format!("no rate in {said}"))?;
                println!("{name}, {protocol}, {clients} clients: {rate:.0} transactions/s");
                rates[i].push(rate);
            }
        }
        let [embedded, processes] = rates.each_mut().map(|rates| median(rates));
        println!(
            "point SELECT, {clients} clients, {protocol}: embedded {embedded:.0}, processes {processes:.0}, ratio {:.2}",
            processes / embedded
        );
    }
    Ok(())
}

fn call(program: &Path, target: &Target, options: &[&str]) -> Result<String> {
    let out = Command::new(program)
        .args(["-h", &target.host, "-p", &target.port.to_string(), "-U", &target.user])
        .args(options)
        .arg(&target.database)
        .env("PGOPTIONS", "-c cortex.default_shard_by=primary_key")
        .stdin(Stdio::null())
        .output()
        .context("starting pgbench")?;
    ensure!(out.status.success(), "pgbench {options:?}: {}", String::from_utf8_lossy(&out.stderr));
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

fn aggregation(both: &Both, plan: &Plan) -> Result<()> {
    const QUERY: &str = "SELECT g, count(*), sum(v), max(v) FROM facts GROUP BY g";
    let mut clients = Vec::new();
    for (_, target) in both {
        let mut client = Client::connect(target)?;
        client.simple(
            "CREATE TABLE facts (id int PRIMARY KEY, g int, v int8) WITH (shard_by = 'hash(id)')",
        )?;
        client.simple(&format!(
            "INSERT INTO facts SELECT i, i % {GROUPS}, i::int8 * 7 FROM generate_series(1, {}) i",
            plan.rows
        ))?;
        clients.push(client);
    }
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..plan.runs {
        for (i, client) in clients.iter_mut().enumerate() {
            for n in 0..QUERIES {
                let since = Instant::now();
                let reply = client.simple(QUERY)?;
                ensure!(reply.rows.len() == GROUPS as usize, "{} groups", reply.rows.len());
                if n > 0 {
                    times[i].push(since.elapsed().as_secs_f64());
                }
            }
        }
    }
    let [embedded, processes] = times.each_mut().map(|times| median(times));
    println!(
        "GROUP BY over {} rows, {GROUPS} groups: embedded {embedded:.3} s, processes {processes:.3} s, rate {:.2} of embedded",
        plan.rows,
        embedded / processes
    );
    Ok(())
}

/// Slots go to the next shard and come back under load; what counts is the longest time in which a client's transfers were
/// not acknowledged.
fn write_stall(target: &Target, plan: &Plan) -> Result<()> {
    let bank = Bank { branches: 1_000 };
    let mut client = Client::connect(target)?;
    bank.create(&mut client)?;
    let targets = [target.clone()];
    let mut ledgers: Vec<Ledger> = (0..WRITERS).map(|_| Ledger::default()).collect();
    let stop = AtomicBool::new(false);
    let mut slots = String::new();
    let moved = thread::scope(|scope| {
        let (stop, targets) = (&stop, &targets[..]);
        let writers: Vec<_> = (0..)
            .zip(ledgers.iter_mut())
            .map(|(n, ledger)| scope.spawn(move || bank.write(targets, n, stop, ledger)))
            .collect();
        let moved = (0..plan.moves).try_for_each(|n| {
            thread::sleep(PAUSE);
            let (from, to) = if n % 2 == 0 { (1, 2) } else { (2, 1) };
            let since = Instant::now();
            if n % 2 == 0 {
                slots = bank.slots(&mut client, from)?;
            }
            client.simple(&format!(
                "SELECT cortex.move_slots('accounts', {from}, {to}, '{slots}')"
            ))?;
            println!("move {n}, shard {from} to {to}: {:.2} s", since.elapsed().as_secs_f64());
            anyhow::Ok(())
        });
        thread::sleep(PAUSE);
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.join().map_err(|_| anyhow!("a writer panicked"))??;
        }
        moved
    });
    moved?;
    bank.check(&mut client, &ledgers)?;
    let stalls = client.simple("SELECT max(write_stall_ms) FROM cortex.rebalance_status()")?.text();
    println!("longest time that shards kept writers out: {:?} ms", stalls[0][0]);
    let n_done: usize = ledgers.iter().map(|ledger| ledger.acknowledged.len()).sum();
    let stall = ledgers.iter().map(|ledger| ledger.stall).max().unwrap_or_default();
    println!(
        "{} moves under {n_done} transfers of {WRITERS} clients: longest pause of a client {:.0} ms",
        plan.moves,
        stall.as_secs_f64() * 1e3
    );
    Ok(())
}
