//! `cargo xtask cluster`: a cluster of processes on loopback, for whoever wants to try one without containers.
//!
//! `up` stays in the foreground: it starts the processes, says how to connect, and ends them on Ctrl-C. `status` and `down`
//! find them by the file of process ids that `up` leaves beside the data. The data stays until somebody deletes it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use cortex_sql_tests::{
    cluster::{self, ClusterOptions, ClusterServer, Node},
    server,
};

/// The first gateway's port: PostgreSQL's own is often taken.
const GATEWAY_PORT: u16 = 5433;
const META_PORT: u16 = 7400;
/// Lines of name, process id and address.
const FILE: &str = "processes";
/// How often somebody looks whether a process has ended.
const POLL: Duration = Duration::from_millis(200);
/// Each process may take as long as a drain; they end one after the other.
const DOWN_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(clap::Args)]
pub struct Up {
    #[arg(long, default_value_t = 3)]
    shards: usize,
    #[arg(long, default_value_t = 2)]
    gateways: usize,
    /// Where data and logs are kept [default: target/cluster]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Port of the first gateway; the others follow it
    #[arg(long, default_value_t = GATEWAY_PORT)]
    port: u16,
    /// Port of the meta process; shards follow it
    #[arg(long, default_value_t = META_PORT)]
    meta_port: u16,
    /// Builds with optimizations, which takes a while
    #[arg(long)]
    release: bool,
}

#[derive(clap::Args)]
pub struct Directory {
    /// As given to `up` [default: target/cluster]
    #[arg(long)]
    dir: Option<PathBuf>,
}

fn directory(given: Option<PathBuf>) -> Result<PathBuf> {
    let directory = given.unwrap_or_else(|| target_directory().join("cluster"));
    std::path::absolute(&directory).with_context(|| directory.display().to_string())
}

fn target_directory() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), Into::into)
}

pub fn up(up: Up) -> Result<()> {
    ensure!(up.shards > 0 && up.gateways > 0, "a cluster needs a shard and a gateway");
    let directory = directory(up.dir)?;
    if !running(&directory)?.is_empty() {
        bail!("it is up already: `cargo xtask cluster down` ends it");
    }
    let there = existing_shards(&directory);
    ensure!(
        there <= up.shards,
        "{} has {there} shards: --shards {there}, or another --dir",
        directory.display()
    );
    let binary = match std::env::var_os("CORTEX_TEST_BIN") {
        Some(path) => path.into(),
        None => {
            println!("building cortexdb");
            server::build(up.release)?;
            target_directory().join(if up.release { "release" } else { "debug" }).join("cortexdb")
        }
    };
    let mut cluster = ClusterServer::start_with(ClusterOptions {
        binary: fs::canonicalize(&binary).with_context(|| binary.display().to_string())?,
        n_shards: up.shards,
        n_gateways: up.gateways,
        directory: Some(directory.clone()),
        ports: Some((up.port, up.meta_port)),
        host: Box::new(|_| cluster::Host::loopback()),
        certificates: None,
    })?;
    let mut lines = String::new();
    let nodes: Vec<Node> = cluster.nodes().collect();
    for node in &nodes {
        let id = cluster.process_id(*node)?.context("it has just been started")?;
        lines += &format!("{node} {id} {}\n", cluster.address(*node)?);
    }
    fs::write(directory.join(FILE), &lines)?;
    println!(
        "{} shards, {} gateways, data and logs in {}",
        up.shards,
        up.gateways,
        directory.display()
    );
    for n in 1..=up.gateways {
        let target = cluster.target(n)?;
        println!("  psql -h {} -p {} -U postgres", target.host, target.port);
    }
    println!("Ctrl-C ends it; the data stays");
    let interrupted = wait(&mut cluster);
    let stopped = cluster.stop_all();
    let _ = fs::remove_file(directory.join(FILE));
    interrupted?;
    stopped?;
    println!("stopped");
    Ok(())
}

/// Waits for Ctrl-C or SIGTERM. Tells of processes that end; when all have, so has the cluster.
fn wait(cluster: &mut ClusterServer) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut n_running = cluster.nodes().count();
        while n_running > 0 {
            tokio::select! {
                _ = interrupt.recv() => break,
                _ = terminate.recv() => break,
                () = tokio::time::sleep(POLL) => {}
            }
            while let Some((node, status)) = cluster.ended()? {
                println!("{node} ended with {status}");
                n_running -= 1;
            }
        }
        Ok(())
    })
}

pub fn status(of: Directory) -> Result<()> {
    let directory = directory(of.dir)?;
    let Ok(text) = fs::read_to_string(directory.join(FILE)) else {
        println!("no cluster is up in {}", directory.display());
        return Ok(());
    };
    for line in text.lines() {
        let (name, id, address) = parse(line)?;
        let state = if is_running(id, &directory) { "running" } else { "not running" };
        println!("{name:<12} {address:<22} process {id}, {state}");
    }
    Ok(())
}

pub fn down(of: Directory) -> Result<()> {
    let directory = directory(of.dir)?;
    let mut nodes = running(&directory)?;
    // Gateways first, because they hold statements in the shards.
    nodes.reverse();
    if nodes.is_empty() {
        println!("no cluster is up in {}", directory.display());
    }
    for (name, id) in nodes {
        cluster::terminate(id)?;
        let since = Instant::now();
        while is_running(id, &directory) {
            ensure!(since.elapsed() < DOWN_TIMEOUT, "{name} (process {id}) does not end");
            std::thread::sleep(POLL);
        }
        println!("{name} stopped");
    }
    let _ = fs::remove_file(directory.join(FILE));
    Ok(())
}

fn parse(line: &str) -> Result<(&str, u32, &str)> {
    let mut words = line.split(' ');
    let (Some(name), Some(id), Some(address)) = (words.next(), words.next(), words.next()) else {
        bail!("the file of processes has a strange line: {line}");
    };
    Ok((name, id.parse()?, address))
}

/// Names and ids of the processes that `up` has started and that still run.
fn running(directory: &Path) -> Result<Vec<(String, u32)>> {
    let Ok(text) = fs::read_to_string(directory.join(FILE)) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for line in text.lines() {
        let (name, id, _) = parse(line)?;
        if is_running(id, directory) {
            found.push((name.to_owned(), id));
        }
    }
    Ok(found)
}

/// Whether this process is one of ours: the system gives an id again to another one.
fn is_running(id: u32, directory: &Path) -> bool {
    let same_place = fs::read_link(format!("/proc/{id}/cwd"))
        .is_ok_and(|cwd| fs::canonicalize(directory).is_ok_and(|directory| cwd == directory));
    let name = fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
    same_place && name.trim() == "cortexdb"
}

fn existing_shards(directory: &Path) -> usize {
    (1..).take_while(|n| directory.join(Node::Shard(*n).to_string()).exists()).count()
}
