//! The PostgreSQL that answers are compared with.
//!
//! `CORTEX_TEST_PG=postgres://user@host:port/database` names a running one that trusts the user. Without it, a PostgreSQL
//! that is installed is started in a temporary directory; where none is installed the comparisons say so and are skipped.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::client::{Client, Target};

/// Starting a fresh cluster takes a second; on a busy machine more.
const START_TIMEOUT: Duration = Duration::from_secs(60);

pub struct Postgres {
    pub target: Target,
    process: Option<(Child, TempDir)>,
}

impl Postgres {
    /// `None`, with a message, where there is no PostgreSQL.
    pub fn find() -> Result<Option<Self>> {
        if let Ok(url) = std::env::var("CORTEX_TEST_PG") {
            let target = Target::parse(&url).with_context(|| {
                format!("CORTEX_TEST_PG is not postgres://user@host:port/db: {url}")
            })?;
            return Ok(Some(Self { target, process: None }));
        }
        let Some(bin) = bin_dir() else {
            println!("skipped: no PostgreSQL is installed, and CORTEX_TEST_PG is not set");
            return Ok(None);
        };
        Self::start(&bin).map(Some)
    }

    /// A cluster of its own with C collation, trusted on loopback, without the durability that tests do not need.
    pub fn start(bin: &Path) -> Result<Self> {
        Self::start_with(bin, &["-c", "fsync=off"])
    }

    /// As `start`, with the server's arguments given; figures are measured with fsync on.
    pub fn start_with(bin: &Path, options: &[&str]) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("cortex-pg").tempdir()?;
        let data = dir.path().join("data");
        if is_root() {
            // PostgreSQL refuses to run as root; the packages make this user.
            let owned = Command::new("chown").arg("postgres").arg(dir.path()).status()?;
            if !owned.success() {
                bail!("there is no user postgres to run PostgreSQL as");
            }
        }
        let init = as_postgres(&bin.join("initdb"))
            .args(["-A", "trust", "-U", "postgres", "--locale=C", "-E", "UTF8", "-N", "-D"])
            .arg(&data)
            .stdout(Stdio::null())
            .current_dir(dir.path())
            .output()?;
        if !init.status.success() {
            bail!("initdb: {}", String::from_utf8_lossy(&init.stderr));
        }
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let child = as_postgres(&bin.join("postgres"))
            .args(["-p", &port.to_string(), "-k", "", "-c", "listen_addresses=127.0.0.1"])
            .args(options)
            .arg("-D")
            .arg(&data)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir(dir.path())
            .spawn()?;
        let server = Self { target: Target::local(port), process: Some((child, dir)) };
        let since = Instant::now();
        while Client::connect(&server.target).is_err() {
            if since.elapsed() > START_TIMEOUT {
                bail!("PostgreSQL did not open its port within {START_TIMEOUT:?}");
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }

    pub fn connect(&self) -> Result<Client> {
        Ok(Client::connect(&self.target)?)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some((child, dir)) = &mut self.process {
            // The postmaster's id stands in the first line of its lock file; SIGINT is its fast shutdown. `setpriv` has
            // replaced itself by the server, so the child's id is the same.
            let file = dir.path().join("data/postmaster.pid");
            let pid =
                std::fs::read_to_string(file).ok().and_then(|s| s.lines().next().map(String::from));
            let pid = pid.unwrap_or_else(|| child.id().to_string());
            let _ = Command::new("kill").args(["-INT", &pid]).status();
            let _ = child.wait();
        }
    }
}

/// The directory of the newest installed server's programs.
pub fn bin_dir() -> Option<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    versions.sort();
    let packaged = versions.pop().map(|(_, path)| path);
    let in_path = std::env::var_os("PATH");
    let dirs = in_path.iter().flat_map(std::env::split_paths);
    packaged
        .into_iter()
        .chain(dirs)
        .find(|dir| dir.join("initdb").exists() && dir.join("postgres").exists())
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|out| out.stdout == b"0\n")
}

fn as_postgres(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]).arg(program);
    command
}
