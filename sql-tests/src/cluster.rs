//! A cluster as processes on loopback: one meta process, shards, gateways, each started, killed and started again alone.
//!
//! Lives here: ports, directories, the order of a start, and ends of every kind. `cargo xtask cluster` and the tests share
//! it. Not here: the embedded database (`server`). A process keeps its port and its directory over restarts, as on a host.

use std::{
    fmt,
    fs::File,
    net::TcpListener,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rand::Rng;
use tempfile::TempDir;

use crate::{
    client::{Client, Target},
    server,
};

/// A debug build on a busy machine takes a while to open its log; longer than this is a failure.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a clean end may take before the process is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// Ports that the system gives to no outgoing connection, so that one is still free when its process comes back.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// Attempts to find a free one; most of them are.
const PORT_TRIES: u32 = 200;
const POLL: Duration = Duration::from_millis(30);

/// One of the processes; shards and gateways are counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Node {
    Meta,
    Shard(usize),
    Gateway(usize),
}

impl Node {
    pub fn role(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Shard(_) => "shard",
            Self::Gateway(_) => "gateway",
        }
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Meta => write!(f, "meta"),
            Self::Shard(n) => write!(f, "shard-{n}"),
            Self::Gateway(n) => write!(f, "gateway-{n}"),
        }
    }
}

/// Where a process runs.
#[derive(Clone, Debug)]
pub struct Host {
    /// The address it listens on, and at which the others reach it.
    pub address: String,
    /// A command in front of the program's, `ip netns exec NAME`.
    pub prefix: Vec<String>,
}

impl Host {
    pub fn loopback() -> Self {
        Self { address: "127.0.0.1".into(), prefix: Vec::new() }
    }
}

/// What a cluster is to be.
pub struct ClusterOptions {
    pub binary: PathBuf,
    pub n_shards: usize,
    pub n_gateways: usize,
    /// Where data and logs go; `None`: a directory that goes with the cluster.
    pub directory: Option<PathBuf>,
    /// The first gateway's port, and the meta process's; the others follow them. `None`: free ones.
    pub ports: Option<(u16, u16)>,
    /// Where each process runs.
    pub host: Box<dyn Fn(Node) -> Host>,
    /// The cluster's certificates as `cortexdb certs` makes them for the names "meta", "shard" and "gateway"; `None`: plaintext.
    pub certificates: Option<PathBuf>,
}

impl ClusterOptions {
    pub fn new(n_shards: usize, n_gateways: usize) -> Result<Self> {
        Ok(Self {
            binary: server::binary()?,
            n_shards,
            n_gateways,
            directory: None,
            ports: None,
            host: Box::new(|_| Host::loopback()),
            certificates: None,
        })
    }
}

struct Process {
    node: Node,
    host: Host,
    port: u16,
    child: Option<Child>,
}

impl Process {
    fn address(&self) -> String {
        format!("{}:{}", self.host.address, self.port)
    }
}

pub struct ClusterServer {
    binary: PathBuf,
    directory: PathBuf,
    processes: Vec<Process>,
    certificates: Option<PathBuf>,
    _temporary: Option<TempDir>,
}

impl ClusterServer {
    pub fn start(n_shards: usize, n_gateways: usize) -> Result<Self> {
        Self::start_with(ClusterOptions::new(n_shards, n_gateways)?)
    }

    /// Starts meta, the shards in their order, which gives them their numbers, and the gateways; all serve when it returns.
    pub fn start_with(options: ClusterOptions) -> Result<Self> {
        let (directory, temporary) = match options.directory {
            Some(directory) => (directory, None),
            None => {
                let made = tempfile::Builder::new().prefix("cortex-cluster").tempdir()?;
                (made.path().to_owned(), Some(made))
            }
        };
        std::fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        let nodes = std::iter::once(Node::Meta)
            .chain((1..=options.n_shards).map(Node::Shard))
            .chain((1..=options.n_gateways).map(Node::Gateway));
        let mut processes: Vec<Process> = Vec::new();
        for node in nodes {
            let port = match (options.ports, node) {
                (None, _) => free_port()?,
                (Some((_, meta)), Node::Meta) => meta,
                (Some((_, meta)), Node::Shard(n)) => meta + n as u16,
                (Some((gateway, _)), Node::Gateway(n)) => gateway + n as u16 - 1,
            };
            processes.push(Process { node, host: (options.host)(node), port, child: None });
        }
        let mut cluster = Self {
            binary: options.binary,
            directory,
            processes,
            certificates: options.certificates,
            _temporary: temporary,
        };
        let nodes: Vec<Node> = cluster.nodes().collect();
        for node in nodes {
            cluster.restart(node)?;
        }
        Ok(cluster)
    }

    pub fn nodes(&self) -> impl Iterator<Item = Node> + '_ {
        self.processes.iter().map(|process| process.node)
    }

    pub fn n_shards(&self) -> usize {
        self.nodes().filter(|node| matches!(node, Node::Shard(_))).count()
    }

    pub fn n_gateways(&self) -> usize {
        self.nodes().filter(|node| matches!(node, Node::Gateway(_))).count()
    }

    fn process(&self, node: Node) -> Result<&Process> {
        let found = self.processes.iter().find(|process| process.node == node);
        found.with_context(|| format!("the cluster has no {node}"))
    }

    fn process_mut(&mut self, node: Node) -> Result<&mut Process> {
        let found = self.processes.iter_mut().find(|process| process.node == node);
        found.with_context(|| format!("the cluster has no {node}"))
    }

    /// Where the process listens.
    pub fn address(&self, node: Node) -> Result<String> {
        Ok(self.process(node)?.address())
    }

    /// A gateway, for clients; they are counted from 1.
    pub fn target(&self, gateway: usize) -> Result<Target> {
        let process = self.process(Node::Gateway(gateway))?;
        Ok(Target { host: process.host.address.clone(), ..Target::local(process.port) })
    }

    pub fn connect(&self, gateway: usize) -> Result<Client> {
        Ok(Client::connect(&self.target(gateway)?)?)
    }

    /// `None` while it is not running.
    pub fn process_id(&self, node: Node) -> Result<Option<u32>> {
        Ok(self.process(node)?.child.as_ref().map(Child::id))
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What the process said since it was started first.
    pub fn log(&self, node: Node) -> String {
        std::fs::read_to_string(self.log_file(node)).unwrap_or_default()
    }

    /// What all processes said, for reports of failures.
    pub fn logs(&self) -> String {
        self.nodes().map(|node| format!("== {node}\n{}", self.log(node))).collect()
    }

    fn log_file(&self, node: Node) -> PathBuf {
        self.directory.join(format!("{node}.log"))
    }

    fn command(&self, process: &Process) -> Result<Command> {
        let mut command = match process.host.prefix.split_first() {
            Some((program, arguments)) => {
                let mut command = Command::new(program);
                command.args(arguments).arg(&self.binary);
                command
            }
            None => Command::new(&self.binary),
        };
        // A setting of whoever runs the tests must not change their meaning.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("CORTEX_") || text == "PGPORT" {
                command.env_remove(&name);
            }
        }
        command.current_dir(&self.directory).stdin(Stdio::null());
        Ok(command)
    }

    fn certificate_flags(&self, node: Node) -> Vec<String> {
        let Some(directory) = &self.certificates else { return Vec::new() };
        certificate_flags(directory, &directory.join(node.role()))
    }

    /// Starts a process that does not run, without waiting until it serves.
    pub fn launch(&mut self, node: Node) -> Result<()> {
        let process = self.process(node)?;
        if process.child.is_some() {
            bail!("{node} is running");
        }
        let log = File::options().create(true).append(true).open(self.log_file(node))?;
        let mut command = self.command(process)?;
        command.args([node.role(), "--listen", &process.address()]);
        command.args(self.certificate_flags(node));
        if !matches!(node, Node::Gateway(_)) {
            command.arg("--data-dir").arg(self.directory.join(node.to_string()));
        }
        if node != Node::Meta {
            command.args(["--join", &self.address(Node::Meta)?]);
        }
        // Ctrl-C in a terminal is for whoever started the cluster; it ends the processes in their order.
        command.process_group(0).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("starting {node}"))?;
        self.process_mut(node)?.child = Some(child);
        Ok(())
    }

    /// Starts a process that does not run, and waits until it serves.
    pub fn restart(&mut self, node: Node) -> Result<()> {
        self.launch(node)?;
        self.wait_ready(node)
    }

    pub fn wait_ready(&mut self, node: Node) -> Result<()> {
        let since = Instant::now();
        while !self.is_ready(node)? {
            let process = self.process_mut(node)?;
            let ended = process.child.as_mut().and_then(|child| child.try_wait().transpose());
            if let Some(status) = ended.transpose()? {
                process.child = None;
                bail!("{node} ended with {status}: {}", self.log(node));
            }
            if since.elapsed() > START_TIMEOUT {
                bail!("{node} did not serve within {START_TIMEOUT:?}: {}", self.log(node));
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Whether it serves, as `cortexdb ready` sees it.
    pub fn is_ready(&self, node: Node) -> Result<bool> {
        let process = self.process(node)?;
        let mut command = self.command(process)?;
        command.args(["ready", "--connect", &process.address()]);
        command.args(self.certificate_flags(node));
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        Ok(status.context("cortexdb ready")?.success())
    }

    /// kill -9: no drain, no flush.
    pub fn kill(&mut self, node: Node) -> Result<()> {
        let process = self.process_mut(node)?;
        let mut child = process.child.take().with_context(|| format!("{node} is not running"))?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// SIGTERM, and the clean exit that must follow it.
    pub fn stop(&mut self, node: Node) -> Result<()> {
        let Some(mut child) = self.process_mut(node)?.child.take() else { return Ok(()) };
        terminate(child.id())?;
        let since = Instant::now();
        while since.elapsed() < STOP_TIMEOUT {
            match child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("{node} ended with {status}: {}", self.log(node)),
                None => thread::sleep(POLL),
            }
        }
        child.kill()?;
        child.wait()?;
        bail!("{node} did not stop within {STOP_TIMEOUT:?}: {}", self.log(node))
    }

    /// Ends gateways, then shards, then meta, each cleanly; the first failure is told, and none stays.
    pub fn stop_all(&mut self) -> Result<()> {
        let mut nodes: Vec<Node> = self.nodes().collect();
        nodes.reverse();
        let stopped: Vec<Result<()>> = nodes.into_iter().map(|node| self.stop(node)).collect();
        stopped.into_iter().collect()
    }

    /// The first process that has ended by itself, and how.
    pub fn ended(&mut self) -> Result<Option<(Node, std::process::ExitStatus)>> {
        for process in &mut self.processes {
            if let Some(child) = &mut process.child
                && let Some(status) = child.try_wait()?
            {
                process.child = None;
                return Ok(Some((process.node, status)));
            }
        }
        Ok(None)
    }
}

impl Drop for ClusterServer {
    fn drop(&mut self) {
        for process in &mut self.processes {
            if let Some(child) = &mut process.child {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

/// Flags for the authority in a directory, and a certificate whose files are named without their endings.
pub fn certificate_flags(authority: &Path, node: &Path) -> Vec<String> {
    let path = |path: PathBuf| path.display().to_string();
    let ca = path(authority.join("ca.crt"));
    let (certificate, key) = (path(node.with_extension("crt")), path(node.with_extension("key")));
    let flags = [("ca", ca), ("cert", certificate), ("key", key)];
    flags.into_iter().map(|(name, path)| format!("--cluster-{name}={path}")).collect()
}

/// SIGTERM.
pub fn terminate(process_id: u32) -> Result<()> {
    Command::new("kill").arg(process_id.to_string()).status()?;
    Ok(())
}

/// A port that nobody listens on.
pub fn free_port() -> Result<u16> {
    let mut random = rand::rng();
    for _ in 0..PORT_TRIES {
        let port = random.random_range(PORTS);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port from {} to {}", PORTS.start, PORTS.end)
}
