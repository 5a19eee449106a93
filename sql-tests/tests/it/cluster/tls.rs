//! Certificates between processes: everything works over them, and a process without a good one is refused, with a word on both
//! sides.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use cortex_sql_tests::{
    ClusterServer,
    cluster::{ClusterOptions, Node, certificate_flags, free_port},
    server,
};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

/// A refused process ends soon, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn make(directory: &Path, names: &[&str]) -> Result<()> {
    let mut command = Command::new(server::binary()?);
    let made = command.args(["certs", "--dir"]).arg(directory).args(names).output()?;
    ensure!(made.status.success(), "{made:?}");
    Ok(())
}

/// What the authority has signed, and no longer holds.
fn make_expired(authority: &Path, name: &Path) -> Result<()> {
    let mut signer = CertificateParams::default();
    signer.distinguished_name = DistinguishedName::new();
    signer.distinguished_name.push(DnType::CommonName, "CortexDB cluster cortexdb");
    signer.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = fs::read_to_string(authority.join("ca.key"))?;
    let issuer = Issuer::new(signer, KeyPair::from_pem(&key)?);
    let mut node = CertificateParams::new(vec!["node.cortexdb.internal".to_owned()])?;
    node.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    node.not_before = date_time_ymd(2020, 1, 1);
    node.not_after = date_time_ymd(2021, 1, 1);
    let key = KeyPair::generate()?;
    fs::write(name.with_extension("crt"), node.signed_by(&key, &issuer)?.pem())?;
    fs::write(name.with_extension("key"), key.serialize_pem())?;
    Ok(())
}

/// Runs the program to its end, which must come by itself.
fn run(arguments: &[&str], flags: &[String]) -> Result<Output> {
    let directory = tempfile::tempdir()?;
    let mut command = Command::new(server::binary()?);
    command.current_dir(directory.path()).args(arguments).args(flags);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let since = Instant::now();
    while child.try_wait()?.is_none() {
        if since.elapsed() > PATIENCE {
            child.kill()?;
            bail!("{arguments:?} {flags:?} goes on: {:?}", child.wait_with_output()?);
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(child.wait_with_output()?)
}

fn refused(arguments: &[&str], flags: &[String], reason: &str) -> Result<()> {
    let ended = run(arguments, flags)?;
    let said = String::from_utf8_lossy(&ended.stderr);
    ensure!(
        !ended.status.success() && said.lines().count() == 1 && said.contains(reason),
        "{arguments:?} {flags:?} ended with {} and said {said}, not: {reason}",
        ended.status
    );
    Ok(())
}

#[test]
fn processes_talk_with_certificates_of_their_cluster_alone() -> Result<()> {
    let _alone = super::alone();
    let directory = tempfile::tempdir()?;
    let (ours, theirs) = (directory.path().join("ours"), directory.path().join("theirs"));
    make(&ours, &["meta", "shard", "gateway"])?;
    make(&theirs, &["shard"])?;
    let expired = directory.path().join("expired");
    make_expired(&ours, &expired)?;
    let options = ClusterOptions { certificates: Some(ours.clone()), ..ClusterOptions::new(2, 1)? };
    let mut cluster = ClusterServer::start_with(options)?;
    works(&mut cluster).with_context(|| cluster.logs())?;

    let meta = cluster.address(Node::Meta)?;
    let listen = format!("127.0.0.1:{}", free_port()?);
    let shard = ["shard", "--data-dir", "new", "--listen", &listen, "--join", &meta];
    let gateway = ["gateway", "--listen", &listen, "--join", &meta];
    let ready = ["ready", "--connect", &meta];
    let none = Vec::new();
    let foreign = certificate_flags(&theirs, &theirs.join("shard"));
    let pretended = certificate_flags(&ours, &theirs.join("shard"));
    let old = certificate_flags(&ours, &expired);
    for process in [&shard[..], &gateway, &ready] {
        refused(process, &none, "it talks only to processes with a certificate of its cluster")?;
    }
    refused(&shard, &foreign, "its certificate is not of this process's cluster authority")?;
    refused(&shard, &pretended, "it refuses this process's certificate, which is not of its")?;
    refused(&shard, &old, "it refuses this process's certificate, which has expired")?;
    let log = cluster.log(Node::Meta);
    for reason in [
        "it was started without cluster certificates",
        "it refuses this process's certificate, which is not of its cluster authority",
        "its certificate is not of this process's cluster authority",
        "its certificate has expired",
    ] {
        let n = log.lines().filter(|line| line.contains(reason)).count();
        ensure!(n == 1, "{n} times {reason:?} in meta's log: {log}");
    }
    ensure!(log.contains("refused a connection"), "{log}");

    // A process with certificates does not talk to a meta process without.
    let mut plain = ClusterServer::start(0, 0)?;
    let join = plain.address(Node::Meta)?;
    let shard = ["shard", "--data-dir", "new", "--listen", &listen, "--join", &join];
    let flags = certificate_flags(&ours, &ours.join("shard"));
    refused(&shard, &flags, "it has no cluster certificate")?;
    plain.stop_all()?;
    cluster.stop_all()
}

/// Statements of every kind, a move, and a shard that dies.
fn works(cluster: &mut ClusterServer) -> Result<()> {
    let mut client = cluster.connect(1)?;
    client.simple("CREATE TABLE t (id int PRIMARY KEY, v int) WITH (shard_by = 'hash(id)')")?;
    client.simple("INSERT INTO t SELECT g, g % 7 FROM generate_series(1, 500) g")?;
    client.simple("UPDATE t SET v = v + 1 WHERE id <= 100")?;
    client.simple("SELECT cortex.move_slots('t', 1, 2)")?;
    let sums = "SELECT count(*), sum(v), count(DISTINCT v) FROM t";
    let before = client.simple(sums)?.text();
    ensure!(before[0][0].as_deref() == Some("500"), "{before:?}");
    cluster.kill(Node::Shard(2))?;
    ensure!(client.simple(sums).is_err(), "the shard is away");
    cluster.restart(Node::Shard(2))?;
    let after = super::kills::eventually(&mut client, sums)?;
    ensure!(after == before, "{before:?} became {after:?}");
    ensure!(client.simple("SELECT v FROM t WHERE id = 500")?.rows.len() == 1);
    Ok(())
}
