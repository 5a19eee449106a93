//! Who may be a member: data directories with an identity, copies of them, certificates.

use std::{
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use cortex_sql_tests::{
    cluster::{ClusterOptions, ClusterServer, Node, free_port},
    server,
};

/// A process that is refused says so and ends; a twin is waited for a while.
const REFUSED_WITHIN: Duration = Duration::from_secs(30);

fn cortexdb(arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(server::binary()?);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CORTEX_") || text == "PGPORT" {
            command.env_remove(&name);
        }
    }
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(command)
}

/// The lines of a process that must end by itself, without success.
fn refused(arguments: &[&str]) -> Result<String> {
    let mut child = cortexdb(arguments)?.spawn()?;
    let begun = Instant::now();
    while child.try_wait()?.is_none() {
        if begun.elapsed() > REFUSED_WITHIN {
            child.kill()?;
            let output = child.wait_with_output()?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            anyhow::bail!("{arguments:?} was not refused: {said}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let Output { status, stderr, .. } = child.wait_with_output()?;
    ensure!(!status.success(), "{arguments:?} ended well");
    Ok(String::from_utf8_lossy(&stderr).into_owned())
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no text")
}

fn copy_directory(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_directory(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

#[test]
fn a_directory_has_one_role_one_cluster_and_one_process() -> Result<()> {
    let cluster = ClusterServer::start(1, 0)?;
    let other = ClusterServer::start(0, 0)?;
    let meta = cluster.address(Node::Meta)?;
    let listen = format!("127.0.0.1:{}", free_port()?);
    let shard = cluster.directory().join("shard-1");
    let (shard, metas) = (text(&shard)?, cluster.directory().join("meta"));

    let said = refused(&["shard", "--listen", &listen, "--data-dir", shard, "--join", &meta])?;
    ensure!(said.contains("in use by another cortexdb"), "{said}");
    let copy = cluster.directory().join("copy");
    copy_directory(Path::new(shard), &copy)?;
    let copy = text(&copy)?;
    let said = refused(&["shard", "--listen", &listen, "--data-dir", copy, "--join", &meta])?;
    ensure!(said.contains("shard 1 is running already"), "{said}");
    let foreign = other.address(Node::Meta)?;
    let said = refused(&["shard", "--listen", &listen, "--data-dir", copy, "--join", &foreign])?;
    ensure!(said.contains("belongs to cluster"), "{said}");
    let said = refused(&["start", "--listen", &listen, "--data-dir", copy])?;
    ensure!(said.contains("was made by `cortexdb shard`"), "{said}");
    let metas = cluster.directory().join(metas);
    copy_directory(&metas, &cluster.directory().join("meta-copy"))?;
    let metas = cluster.directory().join("meta-copy");
    let said =
        refused(&["shard", "--listen", &listen, "--data-dir", text(&metas)?, "--join", &meta])?;
    ensure!(said.contains("was made by `cortexdb meta`"), "{said}");
    Ok(())
}

/// Ends the process with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn is_ready(address: &str, certificates: &[&str]) -> Result<bool> {
    let arguments = [&["ready", "--connect", address], certificates].concat();
    Ok(cortexdb(&arguments)?.output()?.status.success())
}

fn wait_ready(address: &str, certificates: &[&str]) -> Result<()> {
    let begun = Instant::now();
    while !is_ready(address, certificates)? {
        ensure!(begun.elapsed() < REFUSED_WITHIN, "{address} does not serve");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

#[test]
fn a_node_without_a_certificate_is_refused() -> Result<()> {
    // The harness starts nothing here; its ports are free ones.
    drop(ClusterOptions::new(0, 0)?);
    let data = tempfile::tempdir()?;
    let path = |name: &str| data.path().join(name).to_string_lossy().into_owned();
    let made = cortexdb(&["certs", "--dir", &path("certs"), "meta", "shard"])?.output()?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let made = cortexdb(&["certs", "--dir", &path("others"), "shard"])?.output()?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let certificates = |directory: &str, name: &str| -> Vec<String> {
        vec![
            "--cluster-ca".into(),
            path(&format!("{directory}/ca.crt")),
            "--cluster-cert".into(),
            path(&format!("{directory}/{name}.crt")),
            "--cluster-key".into(),
            path(&format!("{directory}/{name}.key")),
        ]
    };
    let start = |role: &str, listen: &str, join: Option<&str>, certificates: &[String]| {
        let directory = path(&format!("{role}-{}", listen.replace(':', "-")));
        let mut arguments = vec![role, "--listen", listen, "--data-dir", &directory];
        arguments.extend(join.into_iter().flat_map(|join| ["--join", join]));
        arguments.extend(certificates.iter().map(String::as_str));
        anyhow::Ok(Running(cortexdb(&arguments)?.spawn()?))
    };
    let meta = format!("127.0.0.1:{}", free_port()?);
    let shard = format!("127.0.0.1:{}", free_port()?);
    let own = certificates("certs", "meta");
    let shown: Vec<&str> = own.iter().map(String::as_str).collect();
    let _meta = start("meta", &meta, None, &own)?;
    wait_ready(&meta, &shown)?;
    let _shard = start("shard", &shard, Some(&meta), &certificates("certs", "shard"))?;
    wait_ready(&shard, &shown)?;
    ensure!(!is_ready(&shard, &[])?, "a client without a certificate was let in");
    for strange in [Vec::new(), certificates("others", "shard")] {
        let listen = format!("127.0.0.1:{}", free_port()?);
        let _stranger = start("shard", &listen, Some(&meta), &strange)?;
        std::thread::sleep(Duration::from_secs(2));
        let own: Vec<&str> = strange.iter().map(String::as_str).collect();
        ensure!(!is_ready(&listen, &own)?, "a shard without the cluster's certificate joined");
    }
    Ok(())
}
