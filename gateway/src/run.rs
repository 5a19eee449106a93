//! One process from its configuration to its end: claim the directory and the port, open the database, serve, stop.
//!
//! Lives here: the order of these steps, the lines that tell a user about them, and signals. Not here: what a database is
//! (`embedded`). The port is taken first and answers 57P03 while the shards open, so that a mistake shows at once.

use std::{
    fmt::Display,
    future::Future,
    io::{self, Write},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use futures::future::BoxFuture;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Config, TlsFiles},
    data_dir::DataDir,
    listener::Server,
    session::auth::scram_verifier,
    statement::SqlService,
    tls,
};

/// What opening a database needs.
#[derive(Debug)]
pub struct OpenRequest {
    pub config: Config,
    /// Claimed by this process as long as this lives: keep it until the shards are closed.
    pub data_dir: DataDir,
    /// For role postgres of a new data directory: the verifier of `POSTGRES_PASSWORD`.
    pub initial_verifier: Option<String>,
}

/// A database that is open.
pub struct Opened {
    pub service: Arc<dyn SqlService>,
    /// Called when the process is told to stop, before connections are ended.
    pub stopping: Box<dyn FnOnce() -> BoxFuture<'static, ()> + Send>,
    /// Closes the shards cleanly. Called once all connections have ended.
    pub close: Box<dyn FnOnce() -> BoxFuture<'static, Result<()>> + Send>,
}

/// Tells whoever started the process what it is doing. A closed terminal is no reason to stop.
pub fn say(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// The port that Postgres's clients connect to.
#[derive(Clone, Debug)]
pub struct SqlPort {
    pub listen: String,
    pub connections_max: usize,
    pub shutdown_grace: Duration,
    pub tls: Option<TlsFiles>,
}

/// Runs an embedded database until Ctrl-C or SIGTERM. An error is one line for the user.
pub async fn run<F, Opening>(config: Config, open: F) -> Result<()>
where
    F: FnOnce(OpenRequest) -> Opening,
    Opening: Future<Output = Result<Opened>>,
{
    let port = SqlPort {
        listen: config.listen.clone(),
        connections_max: config.connections_max,
        shutdown_grace: config.shutdown_grace,
        tls: config.tls.clone(),
    };
    serve_sql(port, |_| {
        let data_dir = DataDir::open(&config.data_dir, config.shards)?;
        let (n_shards, shown) = (data_dir.shards, config.data_dir.display().to_string());
        say(format_args!(
            "CortexDB {}: {} {n_shards} {} in {shown}",
            env!("CARGO_PKG_VERSION"),
            if data_dir.is_new { "making" } else { "opening" },
            if n_shards == 1 { "shard" } else { "shards" }
        ));
        let initial_verifier = config.initial_password.as_deref().map(scram_verifier);
        Ok(open(OpenRequest { config, data_dir, initial_verifier }))
    })
    .await
}

/// Takes the port, opens a database behind it with `begin`, and serves until Ctrl-C or SIGTERM.
pub async fn serve_sql<F, Opening>(port: SqlPort, begin: F) -> Result<()>
where
    F: FnOnce(SocketAddr) -> Result<Opening>,
    Opening: Future<Output = Result<Opened>>,
{
    let begun = Instant::now();
    let mut signals = Signals::new()?;
    let tls = port.tls.as_ref().map(tls::acceptor).transpose()?;
    let server = Server::bind(&port.listen, port.connections_max, port.shutdown_grace, tls)
        .await
        .map_err(|error| cannot_listen(&port.listen, error))?;
    let address = server.address()?;
    let gate = server.gate();
    let opening = begin(address)?;

    let stop = CancellationToken::new();
    let serving = tokio::spawn(server.serve(stop.clone()));
    let opened = tokio::select! {
        opened = opening => opened?,
        () = signals.next() => {
            // Nothing was acknowledged, and what the log holds is read again at the next start.
            say("stopped while starting");
            return Ok(());
        }
    };
    gate.open(opened.service);
    say(format_args!("ready in {:.1} s on {address}", begun.elapsed().as_secs_f64()));
    say(format_args!("\n  {}\n", psql_line(address)));

    signals.next().await;
    say("stopping: no new connections, running statements may finish (again to stop at once)");
    (opened.stopping)().await;
    stop.cancel();
    let closing = async {
        serving.await.context("the listener ended badly")?;
        (opened.close)().await
    };
    tokio::select! {
        closed = closing => closed?,
        () = signals.next() => {
            say("stopped at once; the next start reads the log again");
            return Ok(());
        }
    }
    say("stopped");
    Ok(())
}

/// What to paste into another terminal.
fn psql_line(address: SocketAddr) -> String {
    let host = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => "127.0.0.1".to_owned(),
        IpAddr::V6(ip) if ip.is_unspecified() => "::1".to_owned(),
        ip => ip.to_string(),
    };
    format!("psql -h {host} -p {} -U postgres", address.port())
}

fn cannot_listen(listen: &str, error: io::Error) -> anyhow::Error {
    if error.kind() == io::ErrorKind::AddrInUse {
        return anyhow!(
            "{listen} is taken by another server (PostgreSQL?): choose another port with --listen \
             127.0.0.1:5433 or PGPORT=5433"
        );
    }
    anyhow!("cannot listen on {listen}: {error}")
}

/// Ctrl-C and SIGTERM.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub(crate) fn new() -> Result<Signals> {
        let listen = |kind| signal(kind).context("cannot listen to signals");
        Ok(Signals {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
