//! `cortexdb`: flags → config → run.

use std::{process::ExitCode, time::Duration};

use anyhow::Result;
use clap::{Parser, Subcommand};
use cortex_gateway::{
    config::{
        CertsFlags, Config, Flags, GatewayConfig, GatewayFlags, MetaFlags, NodeConfig, ReadyConfig,
        ReadyFlags, ShardFlags,
    },
    embedded, roles,
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
    /// Starts the process of a cluster that knows its members, its catalog and where rows are
    Meta(MetaFlags),
    /// Starts a process of a cluster that holds rows
    Shard(ShardFlags),
    /// Starts a process of a cluster that clients connect to
    Gateway(GatewayFlags),
    /// Exits with 0 if the process at an address serves
    Ready(ReadyFlags),
    /// Makes a cluster's authority and certificates for its processes
    Certs(CertsFlags),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let command = cli.command.unwrap_or(Command::Start(cli.flags));
    match run_command(command) {
        Ok(code) => code,
        Err(error) => {
            say(format_args!("cortexdb: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run_command(command: Command) -> Result<ExitCode> {
    match command {
        Command::Start(flags) => serve(run::run(Config::load(flags)?, embedded::open))?,
        Command::Meta(flags) => serve(roles::meta::run(NodeConfig::meta(flags)?))?,
        Command::Shard(flags) => serve(roles::shard::run(NodeConfig::shard(flags)?))?,
        Command::Gateway(flags) => serve(roles::gateway::run(GatewayConfig::load(flags)?))?,
        Command::Certs(flags) => roles::certs::run(&flags)?,
        Command::Ready(flags) => {
            let config = ReadyConfig::load(flags)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            return Ok(runtime.block_on(roles::ready::run(config)));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs a process from start to stop.
fn serve(process: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("cortexdb")
        .thread_stack_size(STACK_BYTES)
        .build()?;
    let result = runtime.block_on(process);
    runtime.shutdown_timeout(END_TIMEOUT);
    result
}
