//! `cortexdb`: flags → config → run.

use std::{process::ExitCode, time::Duration};

use anyhow::Result;
use clap::{Parser, Subcommand};
use cortex_gateway::{
    config::{Config, Flags},
    embedded,
    run::{self, say},
};
use tracing_subscriber::EnvFilter;

/// Binding and planning recurse over the statement. Only what is used of a stack takes memory.
const STACK_BYTES: usize = 32 << 20;
/// Threads that are stuck (a disk that hangs) do not keep the process from ending.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// Every statement allocates and frees small pieces on whichever thread it meets; measured against glibc's allocator, a
/// COPY takes a fifth less CPU time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A database cluster that any Postgres client can use.
#[derive(Parser)]
#[command(name = "cortexdb", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Subcommand)]
enum Command {
    /// Starts a gateway with embedded shards; this is also what happens without a command
    Start(Flags),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let flags = match cli.command {
        Some(Command::Start(flags)) => flags,
        None => cli.flags,
    };
    match start(flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(format_args!("cortexdb: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn start(flags: Flags) -> Result<()> {
    let config = Config::load(flags)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("cortexdb")
        .thread_stack_size(STACK_BYTES)
        .build()?;
    let result = runtime.block_on(run::run(config, embedded::open));
    runtime.shutdown_timeout(END_TIMEOUT);
    result
}
