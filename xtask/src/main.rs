//! `cargo xtask`: the project's own commands, with nothing to install.
//!
//! - `bench pg`: point reads and COPY beside PostgreSQL, in alternating runs on the same machine.
//! - `kill9 [rounds]`: kill -9 under load, and what must have survived it.

mod bench;
mod kill9;

use anyhow::Result;
use clap::{Parser, Subcommand};

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
    /// Kills the database under load and checks what it kept
    Kill9 {
        #[arg(default_value_t = 5)]
        rounds: u32,
    },
}

#[derive(Subcommand)]
enum Against {
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
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Bench { against: Against::Pg { seconds, runs, scale, copies } } => {
            bench::against_postgres(&bench::Plan { seconds, runs, scale, copies })
        }
        Command::Kill9 { rounds } => kill9::run(rounds),
    }
}
