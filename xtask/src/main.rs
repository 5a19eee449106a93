//! `cargo xtask`: the project's own commands, with nothing to install.
//!
//! - `bench pg`: point reads and COPY beside PostgreSQL, in alternating runs on the same machine.
//! - `bench pgbench`: pgbench without an error in every protocol and placement, and balances that agree.
//! - `bench cluster`: shards as processes beside embedded ones, and the longest write stall of a move.
//! - `cluster up|status|down`: meta, shards and gateways as processes on loopback.
//! - `kill9 [rounds]`: kill -9 under load, and what must have survived it. 5 rounds are part of `cargo test`; 100 are a
//!   night's work: `cargo xtask kill9 100`.

mod bench;
mod bench_cluster;
mod cluster;

use anyhow::Result;
use clap::{Parser, Subcommand};
use cortex_sql_tests::{kill9, pgbench::Load, server};

#[derive(Parser)]
#[command(name = "xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measures CortexDB beside another database
    Bench {
        #[command(subcommand)]
        against: Against,
    },
    /// A cluster of processes on loopback
    Cluster {
        #[command(subcommand)]
        command: ClusterCommand,
    },
    /// Kills the database under load and checks what it kept
    Kill9 {
        #[arg(default_value_t = 5)]
        rounds: u32,
    },
}

#[derive(Subcommand)]
enum ClusterCommand {
    /// Starts it, and ends it on Ctrl-C
    Up(cluster::Up),
    /// Shows its processes
    Status(cluster::Directory),
    /// Ends it from another terminal
    Down(cluster::Directory),
}

#[derive(Subcommand)]
enum Against {
    /// Shards as processes beside embedded ones
    Cluster {
        /// Seconds of each pgbench run
        #[arg(long, default_value_t = 10)]
        seconds: u32,
        /// Turns of each side
        #[arg(long, default_value_t = 3)]
        runs: u32,
        /// Scale of pgbench's tables
        #[arg(long, default_value_t = 10)]
        scale: u32,
        /// Rows of the table that is grouped
        #[arg(long, default_value_t = 3_000_000)]
        rows: u32,
        /// Moves under load
        #[arg(long, default_value_t = 6)]
        moves: u32,
    },
    /// PostgreSQL, as installed on this machine
    Pg {
        /// Seconds of each pgbench run
        #[arg(long, default_value_t = 10)]
        seconds: u32,
        /// Runs of each database, taken in turns
        #[arg(long, default_value_t = 3)]
        runs: u32,
        /// Scale of pgbench's tables
        #[arg(long, default_value_t = 10)]
        scale: u32,
        /// How often the package table is copied
        #[arg(long, default_value_t = 20)]
        copies: u32,
    },
    /// pgbench's TPC-B and point reads, in every protocol and over every placement of its tables
    Pgbench {
        /// Seconds of each run
        #[arg(long, default_value_t = 20)]
        seconds: u32,
        #[arg(long, default_value_t = 8)]
        clients: u32,
        #[arg(long, default_value_t = 10)]
        scale: u32,
    },
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Bench { against: Against::Pg { seconds, runs, scale, copies } } => {
            bench::against_postgres(&bench::Plan { seconds, runs, scale, copies })
        }
        Command::Bench { against: Against::Pgbench { seconds, clients, scale } } => {
            bench::over_placements(&Load { seconds, clients, scale })
        }
        Command::Bench { against: Against::Cluster { seconds, runs, scale, rows, moves } } => {
            bench::over_processes(&bench_cluster::Plan { seconds, runs, scale, rows, moves })
        }
        Command::Cluster { command: ClusterCommand::Up(up) } => cluster::up(up),
        Command::Cluster { command: ClusterCommand::Status(of) } => cluster::status(of),
        Command::Cluster { command: ClusterCommand::Down(of) } => cluster::down(of),
        Command::Kill9 { rounds } => {
            if std::env::var_os("CORTEX_TEST_BIN").is_none() {
                server::build(false)?;
            }
            kill9::run(rounds)
        }
    }
}
