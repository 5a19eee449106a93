//! Configuration: flags → environment → `cortexdb.toml` → defaults, in this order of precedence.
//!
//! Lives here: which settings a process has and where they come from; those of a cluster's processes are in `node`. Not here:
//! session settings (`SET`), which are the catalog's.

/// Processes of a cluster.
mod node;

pub use node::{
    CertsFlags, GatewayConfig, GatewayFlags, MetaFlags, NodeConfig, NodeTls, ReadyConfig,
    ReadyFlags, ShardFlags,
};

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;

/// Loopback only, so that a first start needs no password.
const LISTEN_HOST_DEFAULT: &str = "127.0.0.1";
const PORT_DEFAULT: u16 = 5432;
const DATA_DIR_DEFAULT: &str = "./cortex-data";
const FILE_DEFAULT: &str = "cortexdb.toml";
/// Data shards of a new data directory.
pub const SHARDS_DEFAULT: u32 = 4;
/// Each shard has its threads, files and memtables; more on one machine only cost.
pub const SHARDS_MAX: u32 = 64;
/// As Postgres's default is 100, but our sessions are tasks and not processes.
const CONNECTIONS_DEFAULT: usize = 500;
const CONNECTIONS_MAX: usize = 100_000;
/// How long running statements may go on after Ctrl-C.
const GRACE: Duration = Duration::from_secs(5);

/// Everything a process knows when it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `host:port`; a name may stand for several addresses, all are listened on.
    pub listen: String,
    pub data_dir: PathBuf,
    /// Data shards, if somebody said a number; an existing data directory knows its own.
    pub shards: Option<u32>,
    pub connections_max: usize,
    pub tls: Option<TlsFiles>,
    pub shutdown_grace: Duration,
    /// `POSTGRES_PASSWORD`: given to role postgres when a new data directory is made.
    pub initial_password: Option<String>,
}

/// PEM files of the server's certificate chain and private key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// Flags of `cortexdb start`, none of them required.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Flags {
    /// Address to listen on [env: CORTEX_LISTEN, PGPORT] [default: 127.0.0.1:5432]
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// Where the shards keep their data [env: CORTEX_DATA_DIR] [default: ./cortex-data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Number of data shards of a new data directory [env: CORTEX_SHARDS] [default: 4]
    #[arg(long, value_name = "N")]
    pub shards: Option<u32>,
    /// Connections at the same time [env: CORTEX_MAX_CONNECTIONS] [default: 500]
    #[arg(long, value_name = "N")]
    pub max_connections: Option<usize>,
    /// PEM file with the certificate chain; turns TLS on together with --tls-key [env: CORTEX_TLS_CERT]
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// PEM file with the private key [env: CORTEX_TLS_KEY]
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Configuration file [default: cortexdb.toml, if there is one]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// `cortexdb.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    listen: Option<String>,
    data_dir: Option<PathBuf>,
    shards: Option<u32>,
    max_connections: Option<usize>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    join: Option<String>,
    advertise: Option<String>,
    cluster_ca: Option<PathBuf>,
    cluster_cert: Option<PathBuf>,
    cluster_key: Option<PathBuf>,
}

/// An environment variable that is set to something.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// A whole number in the environment.
fn number(env: impl Fn(&str) -> Option<String>, name: &str) -> Result<Option<usize>> {
    let parsed = env(name).map(|text| text.trim().parse()).transpose();
    parsed.with_context(|| format!("{name} is not a number"))
}

/// A path, from flag, environment or file.
fn path(
    flag: Option<PathBuf>,
    env: impl Fn(&str) -> Option<String>,
    name: &str,
    file: Option<&PathBuf>,
) -> Option<PathBuf> {
    flag.or_else(|| env(name).map(PathBuf::from)).or_else(|| file.cloned())
}

/// Where data is kept, from flag, environment or file.
fn data_dir(flag: Option<PathBuf>, env: impl Fn(&str) -> Option<String>, file: &File) -> PathBuf {
    let named = path(flag, env, "CORTEX_DATA_DIR", file.data_dir.as_ref());
    named.unwrap_or_else(|| PathBuf::from(DATA_DIR_DEFAULT))
}

/// Connections at a time, from flag, environment or file.
fn connections(
    flag: Option<usize>,
    env: impl Fn(&str) -> Option<String>,
    file: Option<usize>,
) -> Result<usize> {
    let asked = flag.or(number(env, "CORTEX_MAX_CONNECTIONS")?).or(file);
    let n = asked.unwrap_or(CONNECTIONS_DEFAULT);
    if !(1..=CONNECTIONS_MAX).contains(&n) {
        bail!("max_connections must be between 1 and {CONNECTIONS_MAX}, not {n}");
    }
    Ok(n)
}

/// Where Postgres's clients connect, from flag, environment or file.
fn sql_listen(
    flag: Option<String>,
    env: impl Fn(&str) -> Option<String>,
    file: Option<String>,
) -> Result<String> {
    let port = env("PGPORT")
        .map(|text| text.trim().parse::<u16>())
        .transpose()
        .context("PGPORT is not a port number")?;
    let listen = flag
        .or_else(|| env("CORTEX_LISTEN"))
        .or_else(|| port.map(|port| format!("{LISTEN_HOST_DEFAULT}:{port}")))
        .or(file)
        .unwrap_or_else(|| format!("{LISTEN_HOST_DEFAULT}:{PORT_DEFAULT}"));
    Ok(with_port(listen, port.unwrap_or(PORT_DEFAULT)))
}

/// Certificate and key for Postgres's clients, from flags, environment or file.
fn tls_files(
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    env: impl Fn(&str) -> Option<String>,
    file: &File,
) -> Result<Option<TlsFiles>> {
    let cert = path(cert, &env, "CORTEX_TLS_CERT", file.tls_cert.as_ref());
    let key = path(key, &env, "CORTEX_TLS_KEY", file.tls_key.as_ref());
    match (cert, key) {
        (Some(cert), Some(key)) => Ok(Some(TlsFiles { cert, key })),
        (None, None) => Ok(None),
        (Some(_), None) => bail!("a TLS certificate is given without its key (--tls-key)"),
        (None, Some(_)) => bail!("a TLS key is given without its certificate (--tls-cert)"),
    }
}

impl Config {
    /// Reads environment and file, and lets the flags win.
    pub fn load(flags: Flags) -> Result<Config> {
        let file = read_file(flags.config.as_deref())?;
        Config::merge(flags, variable, file)
    }

    fn merge(flags: Flags, env: impl Fn(&str) -> Option<String>, file: File) -> Result<Config> {
        let shards_env = number(&env, "CORTEX_SHARDS")?;
        let shards = match flags.shards.map(|n| n as usize).or(shards_env) {
            Some(n) => Some(n),
            None => file.shards.map(|n| n as usize),
        };
        let shards = match shards {
            Some(n) if (1..=SHARDS_MAX as usize).contains(&n) => Some(n as u32),
            Some(n) => bail!("the number of shards must be between 1 and {SHARDS_MAX}, not {n}"),
            None => None,
        };
        let connections_max = connections(flags.max_connections, &env, file.max_connections)?;
        let tls = tls_files(flags.tls_cert, flags.tls_key, &env, &file)?;
        Ok(Config {
            data_dir: data_dir(flags.data_dir, &env, &file),
            listen: sql_listen(flags.listen, &env, file.listen)?,
            shards,
            connections_max,
            tls,
            shutdown_grace: GRACE,
            initial_password: env("POSTGRES_PASSWORD"),
        })
    }
}

/// `localhost` alone means its default port; `[::1]:5433` and `host:5433` stay as they are.
fn with_port(listen: String, port: u16) -> String {
    let after_bracket = listen.rsplit(']').next().unwrap_or(&listen);
    if after_bracket.contains(':') { listen } else { format!("{listen}:{port}") }
}

fn read_file(named: Option<&Path>) -> Result<File> {
    let path = named.unwrap_or(Path::new(FILE_DEFAULT));
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(File::default());
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    // The parser's own text is a picture over several lines.
    toml::from_str(&text).map_err(|error| {
        let line = error.span().map_or(0, |span| text[..span.start].lines().count().max(1));
        anyhow!("{} is not right: line {line}: {}", path.display(), error.message())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "CORTEX_SHARDS" => Some("8".into()),
            "PGPORT" => Some("6000".into()),
            _ => None,
        }
    }

    #[test]
    fn flags_win_over_environment_over_file() {
        let file: File =
            toml::from_str("shards = 2\nmax_connections = 7\nlisten = 'h:1'").expect("toml");
        let flags = Flags { data_dir: Some("d".into()), ..Flags::default() };
        let config = Config::merge(flags, env, file).expect("config");
        assert_eq!(config.shards, Some(8));
        assert_eq!(config.connections_max, 7);
        assert_eq!(config.listen, "127.0.0.1:6000");
        assert_eq!(config.data_dir, PathBuf::from("d"));
        let flags = Flags { shards: Some(3), listen: Some("[::1]".into()), ..Flags::default() };
        let config = Config::merge(flags, env, File::default()).expect("config");
        assert_eq!((config.shards, config.listen.as_str()), (Some(3), "[::1]:6000"));
    }

    #[test]
    fn nonsense_is_refused() {
        let flags = Flags { shards: Some(0), ..Flags::default() };
        assert!(Config::merge(flags, |_| None, File::default()).is_err());
        let flags = Flags { tls_key: Some("k".into()), ..Flags::default() };
        assert!(Config::merge(flags, |_| None, File::default()).is_err());
        assert!(toml::from_str::<File>("shard = 2").is_err());
    }
}
