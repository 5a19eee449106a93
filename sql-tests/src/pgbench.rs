//! pgbench over every placement of its tables: its own scripts, no error, and balances that agree afterwards.
//!
//! Lives here: what the test (small) and `cargo xtask bench pgbench` (full size, release build) share.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    client::{Client, Target},
    postgres,
};

/// The size of a run.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub seconds: u32,
    pub clients: u32,
    pub scale: u32,
}

/// Where the tables lie.
#[derive(Clone, Copy, Debug)]
struct Placement {
    name: &'static str,
    /// Runs before pgbench makes its tables, in each of its sessions.
    options: &'static str,
    /// The tables by hand, where pgbench's own statements cannot say it.
    tables: Option<&'static str>,
    /// Steps of `pgbench -i`: `g` sends rows with COPY, `G` makes them in the server.
    steps: &'static str,
}

/// Everything that belongs to a branch lies with it; pgbench's script does not know, and finds rows by index.
const BY_BRANCH: &str = "
    CREATE TABLE pgbench_accounts (aid int NOT NULL, bid int, abalance int, filler char(84),
        PRIMARY KEY (bid, aid)) WITH (shard_by = 'hash(bid)');
    CREATE INDEX pgbench_accounts_aid ON pgbench_accounts (aid);
    CREATE TABLE pgbench_tellers (tid int NOT NULL, bid int, tbalance int, filler char(84),
        PRIMARY KEY (bid, tid)) WITH (shard_by = 'hash(bid)', colocate_with = 'pgbench_accounts');
    CREATE INDEX pgbench_tellers_tid ON pgbench_tellers (tid);
    CREATE TABLE pgbench_branches (bid int NOT NULL PRIMARY KEY, bbalance int, filler char(88));
    CREATE TABLE pgbench_history (tid int, bid int, aid int, delta int, mtime timestamp,
        filler char(22)) WITH (shard_by = 'hash(bid)', colocate_with = 'pgbench_accounts')";

const PLACEMENTS: &[Placement] = &[
    Placement { name: "home", options: "", tables: None, steps: "dtgvpf" },
    Placement {
        name: "default_shard_by = primary_key",
        options: "-c cortex.default_shard_by=primary_key",
        tables: None,
        steps: "dtGvp",
    },
    Placement { name: "hash(bid)", options: "", tables: Some(BY_BRANCH), steps: "gv" },
];

/// The program, if it is installed.
pub fn program() -> Option<PathBuf> {
    let in_path = std::env::var_os("PATH");
    let dirs: Vec<PathBuf> = in_path.iter().flat_map(std::env::split_paths).collect();
    postgres::bin_dir()
        .into_iter()
        .chain(dirs)
        .map(|dir| dir.join("pgbench"))
        .find(|it| it.exists())
}

/// Runs everything; an error of any transaction, or balances that differ, is an error.
pub fn run(pgbench: &Path, target: &Target, load: &Load) -> Result<()> {
    for placement in PLACEMENTS {
        let name = placement.name;
        let scale = load.scale.to_string();
        let mut client = Client::connect(target)?;
        client.simple(
            "DROP TABLE IF EXISTS pgbench_accounts, pgbench_branches, pgbench_history, pgbench_tellers",
        )?;
        if let Some(tables) = placement.tables {
            client.simple(tables).with_context(|| format!("{name}: tables"))?;
        }
        call(pgbench, target, placement, &["-i", "-q", "-I", placement.steps, "-s", &scale])
            .with_context(|| format!("{name}: pgbench -i"))?;
        let n = client.simple("SELECT count(*) FROM pgbench_accounts")?.text();
        let expected = (u64::from(load.scale) * 100_000).to_string();
        ensure!(n[0][0].as_ref() == Some(&expected), "{name}: {n:?} accounts, not {expected}");
        let (seconds, clients) = (load.seconds.to_string(), load.clients.to_string());
        for script in ["tpcb-like", "select-only"] {
            for protocol in ["simple", "extended", "prepared"] {
                let options =
                    ["-n", "-b", script, "-M", protocol, "-c", &clients, "-j", "2", "-T", &seconds];
                let said = call(pgbench, target, placement, &options)
                    .with_context(|| format!("{name}: {script}, {protocol}"))?;
                let rate = rate(&said).with_context(|| format!("no rate in {said}"))?;
                ensure!(rate > 0.0, "{name}: {script}, {protocol}: no transaction");
                println!("{name}: {script}, {protocol}: {rate:.0} transactions/s");
            }
        }
        balances(&mut client).with_context(|| name.to_owned())?;
    }
    Ok(())
}

/// What was booked is in every sum: TPC-B's own consistency condition.
fn balances(client: &mut Client) -> Result<()> {
    let sums = client.simple(
        "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers),
                (SELECT sum(bbalance) FROM pgbench_branches), (SELECT sum(delta) FROM pgbench_history),
                (SELECT count(*) FROM pgbench_history)",
    )?;
    let sums = sums.text();
    let row = sums.first().context("no row")?;
    ensure!(row[..4].iter().all(|sum| *sum == row[0] && sum.is_some()), "balances differ: {row:?}");
    let branches = client.simple(
        "SELECT count(*) FROM pgbench_branches b WHERE bbalance <> coalesce(
            (SELECT sum(delta) FROM pgbench_history h WHERE h.bid = b.bid), 0)",
    )?;
    ensure!(branches.text()[0][0].as_deref() == Some("0"), "a branch's balance differs");
    println!("balances agree after {} bookings", row[4].as_deref().unwrap_or("?"));
    Ok(())
}

/// Transactions per second, from what pgbench prints.
pub fn rate(said: &str) -> Option<f64> {
    said.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok())
}

fn call(
    pgbench: &Path,
    target: &Target,
    placement: &Placement,
    options: &[&str],
) -> Result<String> {
    let out = Command::new(pgbench)
        .args(["-h", &target.host, "-p", &target.port.to_string(), "-U", &target.user])
        .args(options)
        .arg(&target.database)
        .env("PGOPTIONS", placement.options)
        .stdin(Stdio::null())
        .output()
        .context("starting pgbench")?;
    let said = String::from_utf8_lossy(&out.stderr);
    // A client that meets an error stops, and pgbench goes on with the others.
    if !out.status.success() || said.to_lowercase().contains("error") {
        bail!("pgbench {options:?}: {said}");
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}
