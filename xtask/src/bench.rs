//! `cargo xtask bench pg`: pgbench's point reads and COPY of the package table, in alternating runs against PostgreSQL.
//!
//! Alternating, because a machine's speed drifts; medians, because it jumps. Both servers run with their durable defaults.
//! A measurement that must be quick to repeat lives here; what it says is written down in docs/benchmarks.md.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use cortex_sql_tests::{
    Client, CortexServer,
    client::Target,
    packages, pgbench,
    postgres::{self, Postgres},
    server,
};

use crate::bench_cluster;

/// Clients of a pgbench run, as the target figure says.
const CLIENTS: &str = "4";

pub struct Plan {
    pub seconds: u32,
    pub runs: u32,
    pub scale: u32,
    pub copies: u32,
}

pub fn against_postgres(plan: &Plan) -> Result<()> {
    let Some(bin) = postgres::bin_dir() else {
        println!("skipped: no PostgreSQL is installed");
        return Ok(());
    };
    println!("building the release binary");
    server::build(true)?;
    let cortex = CortexServer::start_binary(&release_binary(), 4)?;
    let postgres = Postgres::start_with(&bin, &[])?;
    let both = [("PostgreSQL", &postgres.target), ("CortexDB", &cortex.target)];
    point_reads(&bin, &both, plan)?;
    copies(&both, plan)
}

/// pgbench as the issue asks for it, on a release build.
pub fn over_placements(load: &pgbench::Load) -> Result<()> {
    let Some(bin) = pgbench::program() else {
        println!("skipped: pgbench is not installed");
        return Ok(());
    };
    println!("building the release binary");
    server::build(true)?;
    let server = CortexServer::start_binary(&release_binary(), 4)?;
    pgbench::run(&bin, &server.target, load)
}

/// Shards as processes beside embedded ones, on a release build.
pub fn over_processes(plan: &bench_cluster::Plan) -> Result<()> {
    println!("building the release binary");
    server::build(true)?;
    bench_cluster::run(&release_binary(), plan)
}

fn release_binary() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), Into::into);
    target.join("release/cortexdb")
}

type Both<'a> = [(&'static str, &'a Target); 2];

fn point_reads(bin: &Path, both: &Both<'_>, plan: &Plan) -> Result<()> {
    let scale = plan.scale.to_string();
    for (name, target) in both {
        println!("pgbench -i -s {scale} on {name}");
        pgbench(bin, target, &["-i", "-q", "-I", "dtGvp", "-s", &scale])?;
    }
    let seconds = plan.seconds.to_string();
    let mut rates = [Vec::new(), Vec::new()];
    for _ in 0..plan.runs {
        for (i, (name, target)) in both.iter().enumerate() {
            let options = ["-n", "-S", "-M", "prepared", "-c", CLIENTS, "-T", &seconds];
            let out = pgbench(bin, target, &options)?;
            let rate = out
                .lines()
                .find_map(|l| l.strip_prefix("tps = "))
                .and_then(|l| l.split(' ').next())
                .and_then(|n| n.parse::<f64>().ok())
                .with_context(|| format!("pgbench printed no rate: {out}"))?;
            println!("{name}: {rate:.0} transactions/s");
            rates[i].push(rate);
        }
    }
    ratio("point SELECT, 4 clients, prepared (transactions/s)", &mut rates);
    Ok(())
}

fn copies(both: &Both<'_>, plan: &Plan) -> Result<()> {
    let (csv, n_rows) = copied_table(plan.copies)?;
    let mut rates = [Vec::new(), Vec::new()];
    for _ in 0..plan.runs {
        for (i, (name, target)) in both.iter().enumerate() {
            let mut client = Client::connect(target)?;
            client.simple("DROP TABLE IF EXISTS packages")?;
            client.simple(&format!("CREATE TABLE packages ({})", packages::COLUMNS))?;
            let since = Instant::now();
            let reply = client.copy_in("COPY packages FROM STDIN (FORMAT csv)", csv.as_bytes())?;
            let rate = n_rows as f64 / since.elapsed().as_secs_f64();
            if reply.n_rows() != n_rows {
                bail!("{name} copied {} of {n_rows} rows", reply.n_rows());
            }
            println!("{name}: {rate:.0} rows/s");
            rates[i].push(rate);
        }
    }
    ratio(&format!("COPY of {n_rows} packages (rows/s)"), &mut rates);
    Ok(())
}

/// The package table so many times over, with ids that go on.
fn copied_table(copies: u32) -> Result<(String, u64)> {
    let csv = packages::csv()?;
    let body = csv.split_once('\n').context("the package table is empty")?.1;
    let mut records = Vec::new();
    let (mut from, mut quoted) = (0, false);
    for (at, byte) in body.bytes().enumerate() {
        quoted ^= byte == b'"';
        if byte == b'\n' && !quoted {
            records.push(&body[from..=at]);
            from = at + 1;
        }
    }
    let mut out = String::with_capacity(body.len() * copies as usize + body.len());
    let mut id = 0_u64;
    for _ in 0..copies {
        for record in &records {
            id += 1;
            let rest = record.split_once(',').context("a record of one field")?.1;
            out += &format!("{id},{rest}");
        }
    }
    Ok((out, id))
}

fn ratio(what: &str, rates: &mut [Vec<f64>; 2]) {
    let median = |v: &mut Vec<f64>| {
        v.sort_by(f64::total_cmp);
        v[v.len() / 2]
    };
    let [postgres, cortex] = rates;
    let (postgres, cortex) = (median(postgres), median(cortex));
    println!(
        "{what}: CortexDB {cortex:.0}, PostgreSQL {postgres:.0}, ratio {:.2}",
        cortex / postgres
    );
}

fn pgbench(bin: &Path, target: &Target, options: &[&str]) -> Result<String> {
    let out = Command::new(bin.join("pgbench"))
        .args(["-h", &target.host, "-p", &target.port.to_string(), "-U", &target.user])
        .args(options)
        .arg(&target.database)
        .stdin(Stdio::null())
        .output()
        .context("starting pgbench")?;
    if !out.status.success() {
        bail!("pgbench {options:?}: {}", String::from_utf8_lossy(&out.stderr));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}
