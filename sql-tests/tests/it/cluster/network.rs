//! Networks that fail: a shard cut off and healed, cuts in one direction, a slow link.
//!
//! Needs root and `ip`, and is skipped with a message where namespaces may not be made. Meta and shards each live in a network
//! namespace of their own, linked by a bridge in another one; gateways stay with the clients, which trust loopback. A cut
//! gives a neighbour a hardware address that nobody has: packets leave and never arrive, as with a broken switch.

use std::{
    process::{self, Command},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use cortex_sql_tests::{
    ClientError, ClusterServer,
    cluster::{ClusterOptions, Host, Node},
    transfers::Bank,
};

const BANK: Bank = Bank { branches: 30 };
/// How long a cut lasts: longer than statements may take, so that all of them meet it.
const CUT: Duration = Duration::from_secs(8);
/// Load between two cuts.
const RUN: Duration = Duration::from_secs(2);
/// A dead link is found and made again within so long.
const HEAL_TIMEOUT: Duration = Duration::from_secs(40);
const POLL: Duration = Duration::from_millis(100);
/// Addresses for tests of networks (RFC 2544): no route of the host leads there.
const NET: &str = "198.18.77";
/// The gateways' end, in the namespace of the tests themselves.
const HOST: u8 = 254;

/// Which packets get lost.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Both,
    ToNode,
    FromNode,
}

/// Namespaces of one test; they go with it.
struct Network {
    name: String,
    nodes: Vec<Node>,
}

fn ip(words: &str) -> Result<()> {
    let out = Command::new("ip").args(words.split(' ')).output().context("starting ip")?;
    ensure!(out.status.success(), "ip {words}: {}", String::from_utf8_lossy(&out.stderr).trim());
    Ok(())
}

/// The last number of a node's address.
fn number(node: Node) -> u8 {
    match node {
        Node::Meta => 100,
        Node::Shard(n) => n as u8,
        Node::Gateway(_) => HOST,
    }
}

impl Network {
    /// `None`, with a message, where it may not be made.
    fn make(name: &str, n_shards: usize) -> Result<Option<Network>> {
        let nodes: Vec<Node> =
            std::iter::once(Node::Meta).chain((1..=n_shards).map(Node::Shard)).collect();
        // Interfaces have names of 15 bytes.
        let network = Network { name: format!("cx{}{name}", process::id() % 1_000_000), nodes };
        let bridge = network.bridge();
        if let Err(error) = ip(&format!("netns add {bridge}")) {
            println!("skipped: no network namespaces: {error:#}");
            return Ok(None);
        }
        let (host, outside) = (format!("{}h", network.name), network.name.as_str());
        ip(&format!("-n {bridge} link add name bridge0 type bridge"))?;
        ip(&format!("-n {bridge} link set bridge0 up"))?;
        ip(&format!("link add {host} type veth peer name {outside} netns {bridge}"))?;
        ip(&format!("-n {bridge} link set {outside} master bridge0 up"))?;
        ip(&format!("addr add {NET}.{HOST}/24 dev {host}"))?;
        ip(&format!("link set {host} address {} up", mac(HOST)))?;
        for node in &network.nodes {
            let (space, n) = (network.namespace(*node), number(*node));
            ip(&format!("netns add {space}"))?;
            ip(&format!("-n {bridge} link add p{n} type veth peer name e netns {space}"))?;
            ip(&format!("-n {bridge} link set p{n} master bridge0 up"))?;
            ip(&format!("-n {space} link set e address {} up", mac(n)))?;
            ip(&format!("-n {space} link set lo up"))?;
            ip(&format!("-n {space} addr add {NET}.{n}/24 dev e"))?;
        }
        Ok(Some(network))
    }

    fn bridge(&self) -> String {
        format!("{}-br", self.name)
    }

    fn namespace(&self, node: Node) -> String {
        format!("{}-{node}", self.name)
    }

    fn start(&self, n_gateways: usize) -> Result<ClusterServer> {
        let n_shards = self.nodes.len() - 1;
        let name = self.name.clone();
        ClusterServer::start_with(ClusterOptions {
            host: Box::new(move |node| match node {
                Node::Gateway(_) => Host::loopback(),
                node => Host {
                    address: format!("{NET}.{}", number(node)),
                    prefix: ["ip", "netns", "exec", &format!("{name}-{node}")]
                        .map(Into::into)
                        .into(),
                },
            }),
            ..ClusterOptions::new(n_shards, n_gateways)?
        })
    }

    /// Makes `from` send its packets for `to` to `mac`.
    fn point(&self, from: Node, to: u8, mac: &str) -> Result<()> {
        match from {
            Node::Gateway(_) => ip(&format!(
                "neigh replace {NET}.{to} lladdr {mac} nud permanent dev {}h",
                self.name
            )),
            node => {
                let space = self.namespace(node);
                ip(&format!("-n {space} neigh replace {NET}.{to} lladdr {mac} nud permanent dev e"))
            }
        }
    }

    /// Cuts a node off from all others, or heals it.
    fn cut(&self, node: Node, cut: Option<Cut>) -> Result<()> {
        const NOBODY: &str = "02:00:00:00:ff:ff";
        let others = self.nodes.iter().copied().filter(|it| *it != node);
        for other in others.chain([Node::Gateway(1)]) {
            let to = if matches!(cut, Some(Cut::Both | Cut::ToNode)) {
                NOBODY
            } else {
                &mac(number(node))
            };
            self.point(other, number(node), to)?;
            let from = if matches!(cut, Some(Cut::Both | Cut::FromNode)) {
                NOBODY
            } else {
                &mac(number(other))
            };
            self.point(node, number(other), from)?;
        }
        Ok(())
    }

    /// Lets so much through in each direction of a node's link; `None`: everything.
    fn limit(&self, node: Node, rate: Option<&str>) -> Result<()> {
        let n = number(node);
        for (space, device) in
            [(self.bridge(), format!("p{n}")), (self.namespace(node), "e".into())]
        {
            let words = match rate {
                Some(rate) => format!(
                    "netns exec {space} tc qdisc replace dev {device} root tbf rate {rate} burst 16k latency 200ms"
                ),
                None => format!("netns exec {space} tc qdisc del dev {device} root"),
            };
            ip(&words)?;
        }
        Ok(())
    }
}

fn mac(n: u8) -> String {
    format!("02:00:00:00:00:{n:02x}")
}

impl Drop for Network {
    fn drop(&mut self) {
        // Links go with their namespaces.
        for node in &self.nodes {
            let _ = ip(&format!("netns del {}", self.namespace(*node)));
        }
        let _ = ip(&format!("netns del {}", self.bridge()));
    }
}

/// Waits until a gateway reaches every shard again, without a restart of anything.
fn wait_healed(cluster: &ClusterServer) -> Result<()> {
    for gateway in 1..=cluster.n_gateways() {
        let since = Instant::now();
        let mut client = cluster.connect(gateway)?;
        client.simple("SET statement_timeout = '3s'")?;
        loop {
            match client.simple("SELECT count(*) FROM accounts") {
                Ok(_) => break,
                Err(error) if since.elapsed() > HEAL_TIMEOUT => {
                    bail!("gateway {gateway} is not healed after {HEAL_TIMEOUT:?}: {error}")
                }
                Err(_) => thread::sleep(POLL),
            }
        }
        println!("gateway {gateway} reaches all shards after {:?}", since.elapsed());
    }
    Ok(())
}

#[test]
fn cuts_in_every_direction_lose_nothing_and_heal() -> Result<()> {
    let _alone = super::alone();
    let Some(network) = Network::make("c", 3)? else { return Ok(()) };
    let mut cluster = network.start(2)?;
    super::under_load(&mut cluster, BANK, |cluster| {
        let cuts = [
            (Node::Shard(2), Cut::Both),
            (Node::Shard(1), Cut::ToNode),
            (Node::Shard(3), Cut::FromNode),
            (Node::Meta, Cut::Both),
        ];
        for (node, cut) in cuts {
            thread::sleep(RUN);
            println!("{node} is cut off: {cut:?}");
            network.cut(node, Some(cut))?;
            thread::sleep(CUT);
            network.cut(node, None)?;
            wait_healed(cluster)?;
        }
        Ok(())
    })?;
    Ok(())
}

#[test]
fn a_slow_link_ends_statements_by_their_timeout() -> Result<()> {
    let _alone = super::alone();
    let Some(network) = Network::make("s", 2)? else { return Ok(()) };
    let cluster = network.start(1)?;
    let mut client = cluster.connect(1)?;
    client.simple("CREATE TABLE t (id int PRIMARY KEY, v text) WITH (shard_by = 'hash(id)')")?;
    client.simple("INSERT INTO t SELECT g, repeat('x', 2000) FROM generate_series(1, 4000) g")?;
    if let Err(error) = network.limit(Node::Shard(2), Some("2mbit")) {
        println!("skipped: tc cannot slow a link: {error:#}");
        return Ok(());
    }
    client.simple("SET statement_timeout = '2s'")?;
    let since = Instant::now();
    let answer = client.simple("SELECT id, v || 'y' FROM t");
    let took = since.elapsed();
    ensure!(took < Duration::from_secs(6), "it took {took:?}");
    match answer {
        Err(ClientError::Db(error)) => ensure!(error.code == "57014", "{error:?}"),
        other => bail!("8 MB over 2 Mbit/s in {took:?}: {:?}", other.map(|reply| reply.tag)),
    }
    // What is small goes on over the same link, behind what was cancelled.
    let since = Instant::now();
    loop {
        let counted = client.simple("SELECT count(*) FROM t");
        if let Ok(reply) = counted {
            ensure!(reply.text() == [[Some("4000".to_owned())]]);
            break;
        }
        ensure!(
            since.elapsed() < HEAL_TIMEOUT,
            "a small statement does not come through: {counted:?}"
        );
    }
    network.limit(Node::Shard(2), None)?;
    let rows = client.simple("SELECT sum(length(v)) FROM t")?.text();
    ensure!(rows == [[Some("8000000".to_owned())]], "{rows:?}");
    Ok(())
}
