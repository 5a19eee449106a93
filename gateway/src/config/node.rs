//! Settings of a cluster's processes: `cortexdb meta`, `shard`, `gateway`, and of the commands that go with them.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use cortex_shard_rpc::TlsConfig;

use super::{
    File, GRACE, LISTEN_HOST_DEFAULT, TlsFiles, connections, data_dir, path, read_file, sql_listen,
    tls_files, variable, with_port,
};

/// Ports of meta and shard processes unless something else is said.
const META_PORT_DEFAULT: u16 = 7400;
const SHARD_PORT_DEFAULT: u16 = 7401;

/// How long `cortexdb ready` waits for an answer.
const READY_TIMEOUT: Duration = Duration::from_secs(3);

/// Certificates between the processes of a cluster, and how others find this one.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ClusterFlags {
    /// Address at which the other processes reach this one [env: CORTEX_ADVERTISE] [default: where it listens]
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise: Option<String>,
    #[command(flatten)]
    pub certificates: CertificateFlags,
    /// Configuration file [default: cortexdb.toml, if there is one]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// What `cortexdb certs` has made.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct CertificateFlags {
    /// PEM file with the cluster's authority; processes without its certificate are refused [env: CORTEX_CLUSTER_CA]
    #[arg(long, value_name = "FILE")]
    pub cluster_ca: Option<PathBuf>,
    /// PEM file with this process's certificate [env: CORTEX_CLUSTER_CERT]
    #[arg(long, value_name = "FILE")]
    pub cluster_cert: Option<PathBuf>,
    /// PEM file with its key [env: CORTEX_CLUSTER_KEY]
    #[arg(long, value_name = "FILE")]
    pub cluster_key: Option<PathBuf>,
}

/// Flags of `cortexdb meta`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct MetaFlags {
    /// Address to listen on [env: CORTEX_LISTEN] [default: 127.0.0.1:7400]
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// Where the meta shard keeps its data [env: CORTEX_DATA_DIR] [default: ./cortex-data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    #[command(flatten)]
    pub cluster: ClusterFlags,
}

/// Flags of `cortexdb shard`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ShardFlags {
    /// Address to listen on [env: CORTEX_LISTEN] [default: 127.0.0.1:7401]
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// Where the shard keeps its data [env: CORTEX_DATA_DIR] [default: ./cortex-data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Address of the meta process [env: CORTEX_JOIN]
    #[arg(long, value_name = "HOST:PORT")]
    pub join: Option<String>,
    #[command(flatten)]
    pub cluster: ClusterFlags,
}

/// Flags of `cortexdb gateway`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct GatewayFlags {
    /// Address to listen on [env: CORTEX_LISTEN, PGPORT] [default: 127.0.0.1:5432]
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// Address of the meta process [env: CORTEX_JOIN]
    #[arg(long, value_name = "HOST:PORT")]
    pub join: Option<String>,
    /// Connections at the same time [env: CORTEX_MAX_CONNECTIONS] [default: 500]
    #[arg(long, value_name = "N")]
    pub max_connections: Option<usize>,
    /// PEM file with the certificate chain for Postgres's clients [env: CORTEX_TLS_CERT]
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// PEM file with the private key [env: CORTEX_TLS_KEY]
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    #[command(flatten)]
    pub cluster: ClusterFlags,
}

/// Flags of `cortexdb ready`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ReadyFlags {
    /// Address of a gateway, a shard or the meta process [env: CORTEX_LISTEN] [default: 127.0.0.1:5432]
    #[arg(long, value_name = "HOST:PORT")]
    pub connect: Option<String>,
    #[command(flatten)]
    pub certificates: CertificateFlags,
}

/// Flags of `cortexdb certs`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct CertsFlags {
    /// Where the files go; an authority that is there already is used again
    #[arg(long, value_name = "DIR", default_value = "cortex-certs")]
    pub dir: PathBuf,
    /// Processes to make a certificate for: NAME.crt and NAME.key each
    #[arg(value_name = "NAME", default_value = "node")]
    pub names: Vec<String>,
}

/// A certificate of the cluster.
pub type NodeTls = TlsConfig;

/// A meta or shard process.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    pub listen: String,
    pub advertise: Option<String>,
    pub data_dir: PathBuf,
    /// The meta process; `None` for itself.
    pub join: Option<String>,
    pub tls: Option<NodeTls>,
    pub shutdown_grace: Duration,
    /// `POSTGRES_PASSWORD`: given to role postgres of a new cluster.
    pub initial_password: Option<String>,
}

/// A gateway process.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    pub listen: String,
    pub advertise: Option<String>,
    pub join: String,
    pub connections_max: usize,
    /// For Postgres's clients.
    pub tls: Option<TlsFiles>,
    pub node_tls: Option<NodeTls>,
    pub shutdown_grace: Duration,
    pub initial_password: Option<String>,
}

/// A question whether a process serves.
#[derive(Clone, Debug)]
pub struct ReadyConfig {
    pub connect: String,
    pub tls: Option<NodeTls>,
    pub timeout: Duration,
}

fn certificates(flags: &CertificateFlags, file: &File) -> Result<Option<NodeTls>> {
    let path = |flag: &Option<PathBuf>, name: &str, file: &Option<PathBuf>| {
        path(flag.clone(), variable, name, file.as_ref())
    };
    let ca = path(&flags.cluster_ca, "CORTEX_CLUSTER_CA", &file.cluster_ca);
    let certificate = path(&flags.cluster_cert, "CORTEX_CLUSTER_CERT", &file.cluster_cert);
    let key = path(&flags.cluster_key, "CORTEX_CLUSTER_KEY", &file.cluster_key);
    let read = |path: &Path| {
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
    };
    match (ca, certificate, key) {
        (None, None, None) => Ok(None),
        (Some(ca), Some(certificate), Some(key)) => Ok(Some(TlsConfig {
            ca: read(&ca)?,
            certificate: read(&certificate)?,
            key: read(&key)?,
        })),
        _ => bail!(
            "--cluster-ca, --cluster-cert and --cluster-key go together: one of them is missing"
        ),
    }
}

fn join(flag: Option<String>, file: &File) -> Result<String> {
    let join = flag.or_else(|| variable("CORTEX_JOIN")).or_else(|| file.join.clone());
    let join = join.context("--join HOST:PORT is missing: the address of the meta process")?;
    Ok(with_port(join, META_PORT_DEFAULT))
}

fn advertise(flags: &ClusterFlags, file: &File) -> Option<String> {
    let named = flags.advertise.clone().or_else(|| variable("CORTEX_ADVERTISE"));
    named.or_else(|| file.advertise.clone())
}

fn node_listen(flag: Option<String>, file: &File, port: u16) -> String {
    let listen = flag.or_else(|| variable("CORTEX_LISTEN")).or_else(|| file.listen.clone());
    with_port(listen.unwrap_or_else(|| LISTEN_HOST_DEFAULT.to_owned()), port)
}

impl NodeConfig {
    pub fn meta(flags: MetaFlags) -> Result<NodeConfig> {
        let file = read_file(flags.cluster.config.as_deref())?;
        Ok(NodeConfig {
            listen: node_listen(flags.listen, &file, META_PORT_DEFAULT),
            advertise: advertise(&flags.cluster, &file),
            data_dir: data_dir(flags.data_dir, variable, &file),
            join: None,
            tls: certificates(&flags.cluster.certificates, &file)?,
            shutdown_grace: GRACE,
            initial_password: variable("POSTGRES_PASSWORD"),
        })
    }

    pub fn shard(flags: ShardFlags) -> Result<NodeConfig> {
        let file = read_file(flags.cluster.config.as_deref())?;
        Ok(NodeConfig {
            listen: node_listen(flags.listen, &file, SHARD_PORT_DEFAULT),
            advertise: advertise(&flags.cluster, &file),
            data_dir: data_dir(flags.data_dir, variable, &file),
            join: Some(join(flags.join, &file)?),
            tls: certificates(&flags.cluster.certificates, &file)?,
            shutdown_grace: GRACE,
            initial_password: None,
        })
    }
}

impl GatewayConfig {
    pub fn load(flags: GatewayFlags) -> Result<GatewayConfig> {
        let file = read_file(flags.cluster.config.as_deref())?;
        Ok(GatewayConfig {
            advertise: advertise(&flags.cluster, &file),
            join: join(flags.join, &file)?,
            connections_max: connections(flags.max_connections, variable, file.max_connections)?,
            tls: tls_files(flags.tls_cert, flags.tls_key, variable, &file)?,
            node_tls: certificates(&flags.cluster.certificates, &file)?,
            shutdown_grace: GRACE,
            initial_password: variable("POSTGRES_PASSWORD"),
            listen: sql_listen(flags.listen, variable, file.listen)?,
        })
    }
}

impl ReadyConfig {
    pub fn load(flags: ReadyFlags) -> Result<ReadyConfig> {
        let connect = sql_listen(flags.connect, variable, None)?;
        // Whoever listens everywhere also listens here.
        let connect = match connect.rsplit_once(':') {
            Some(("0.0.0.0", port)) => format!("127.0.0.1:{port}"),
            Some(("[::]", port)) => format!("[::1]:{port}"),
            _ => connect,
        };
        let tls = certificates(&flags.certificates, &File::default())?;
        Ok(ReadyConfig { connect, tls, timeout: READY_TIMEOUT })
    }
}
