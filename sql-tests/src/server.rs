//! `cortexdb` as a process on a free port with a data directory of its own.
//!
//! Lives here: finding or building the binary, starting, stopping and killing it. Tests reach the database only over its
//! port, so they see exactly what a user sees, and `kill -9` is a real one.

use std::{
    fs::File,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::client::{Client, Target};

/// A debug build on a busy machine takes a while to open its shards; longer than this is a failure.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a drain may take before the process is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

pub struct CortexServer {
    child: Child,
    pub target: Target,
    binary: PathBuf,
    n_shards: usize,
    data: TempDir,
}

impl CortexServer {
    pub fn start(n_shards: usize) -> Result<Self> {
        Self::start_binary(&binary()?, n_shards)
    }

    pub fn start_binary(binary: &Path, n_shards: usize) -> Result<Self> {
        let data = tempfile::Builder::new().prefix("cortex-test").tempdir()?;
        let (child, target) = launch(binary, data.path(), n_shards)?;
        Ok(Self { child, target, binary: binary.into(), n_shards, data })
    }

    pub fn connect(&self) -> Result<Client> {
        Ok(Client::connect(&self.target)?)
    }

    /// kill -9: no drain, no flush.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Starts again over the same data, after `kill`.
    pub fn restart(&mut self) -> Result<()> {
        let (child, target) = launch(&self.binary, self.data.path(), self.n_shards)?;
        self.child = child;
        self.target = target;
        Ok(())
    }

    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// The data directory that it was started with.
    pub fn data_dir(&self) -> PathBuf {
        self.data.path().join("data")
    }

    /// Asks for the end, as Ctrl-C or an init system does, without waiting for it.
    pub fn terminate(&self) -> Result<()> {
        Command::new("kill").arg(self.child.id().to_string()).status()?;
        Ok(())
    }

    /// What the server said, for reports of failures.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.data.path().join("stderr")).unwrap_or_default()
    }

    /// SIGTERM, and the exit that must follow it.
    pub fn stop(&mut self) -> Result<()> {
        self.terminate()?;
        self.wait()
    }

    /// The clean exit that must follow `terminate`.
    pub fn wait(&mut self) -> Result<()> {
        let since = Instant::now();
        while since.elapsed() < STOP_TIMEOUT {
            if let Some(status) = self.child.try_wait()? {
                if !status.success() {
                    bail!("cortexdb ended with {status}: {}", self.log());
                }
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
        bail!("cortexdb did not stop within {STOP_TIMEOUT:?}: {}", self.log())
    }
}

impl Drop for CortexServer {
    fn drop(&mut self) {
        // The data directory is thrown away, so there is nothing to drain for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn launch(binary: &Path, data: &Path, n_shards: usize) -> Result<(Child, Target)> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let log = File::options().create(true).append(true).open(data.join("stderr"))?;
    let mut child = Command::new(binary)
        .args(["start", "--listen", &format!("127.0.0.1:{port}")])
        .arg("--data-dir")
        .arg(data.join("data"))
        .args(["--shards", &n_shards.to_string()])
        // A configuration file where the tests happen to run must not change their meaning.
        .current_dir(data)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("starting {}", binary.display()))?;
    let target = Target::local(port);
    let since = Instant::now();
    loop {
        if Client::connect(&target).is_ok() {
            return Ok((child, target));
        }
        let said = || std::fs::read_to_string(data.join("stderr")).unwrap_or_default();
        if let Some(status) = child.try_wait()? {
            bail!("cortexdb ended with {status} while starting: {}", said());
        }
        if since.elapsed() > START_TIMEOUT {
            let _ = child.kill();
            bail!("cortexdb did not open its port within {START_TIMEOUT:?}: {}", said());
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// The binary under test: `CORTEX_TEST_BIN`, else the one in the target directory of the running test, built if missing.
///
/// `cargo test --workspace` has built it for the gateway's own integration tests by the time this runs.
pub fn binary() -> Result<PathBuf> {
    static BINARY: OnceLock<std::result::Result<PathBuf, String>> = OnceLock::new();
    BINARY.get_or_init(|| find().map_err(|e| format!("{e:#}"))).clone().map_err(anyhow::Error::msg)
}

fn find() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("CORTEX_TEST_BIN") {
        return Ok(path.into());
    }
    let exe = std::env::current_exe()?;
    // target/<profile>/deps/it-… for a test, target/<profile>/xtask for a command.
    let profile = exe
        .ancestors()
        .skip(1)
        .find(|dir| !dir.ends_with("deps"))
        .context("the test executable lies in no target directory")?;
    let path = profile.join("cortexdb");
    if !path.exists() {
        build(profile.ends_with("release"))?;
    }
    Ok(path)
}

/// Builds the gateway with the cargo that runs the tests.
pub fn build(release: bool) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "-q", "-p", "cortex-gateway"]);
    if release {
        command.arg("--release");
    }
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    if !command.status()?.success() {
        bail!("cortexdb could not be built");
    }
    Ok(())
}
