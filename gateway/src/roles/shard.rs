//! `cortexdb shard`: one shard, which also follows the reference tables of the others.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use cortex_shard_api::{
    ShardId,
    client::ShardClient,
    cluster::{Join, Members, MetaClient, Report, Role},
};
use cortex_shard_node::{Follower, Shard, ShardConfig};

use super::{RemoteShards, bind, join, ready};
use crate::{
    cluster::remote::RemoteMeta,
    config::NodeConfig,
    data_dir::{NodeDir, Owner},
    embedded::query_runtime,
    run::{Signals, say},
};

/// How long the meta process holds a question for members that has no news.
const QUESTION_WAIT: Duration = Duration::from_secs(30);

/// Pause after a question that failed.
const PAUSE: Duration = Duration::from_millis(500);

/// Runs until Ctrl-C or SIGTERM.
pub async fn run(config: NodeConfig) -> Result<()> {
    let begun = Instant::now();
    let mut signals = Signals::new()?;
    let (server, address) = bind(&config).await?;
    let mut directory = NodeDir::open(&config.data_dir, Owner::Shard)?;
    let identity = &directory.identity;
    let request = Join {
        role: Role::Shard,
        node: identity.node,
        run: rand::random(),
        cluster: identity.cluster,
        member: identity.shard,
        address: address.clone(),
    };
    let meta_address = config.join.as_deref().context("--join is missing")?;
    let joining = join(meta_address, config.tls.as_ref(), request);
    let (meta, joined) = tokio::select! {
        joined = joining => joined?,
        () = signals.next() => {
            say("stopped while starting");
            return Ok(());
        }
    };
    // Before anything is stored: the directory is this shard's from now on.
    directory.joined(joined.cluster, Some(joined.member))?;
    let id = ShardId(joined.member);
    let shard_config = ShardConfig::new(id, config.data_dir.join("shard"));
    let (shard, report) = tokio::task::spawn_blocking(move || Shard::open(shard_config))
        .await
        .context("opening the shard")?
        .with_context(|| format!("cannot open shard {id}"))?;
    let queries = query_runtime()?;
    let server = server
        .with_cluster(joined.cluster.to_string())
        .with_queries(queries.handle.clone())
        .add_shard(shard.clone())
        .add_service(ready::serve());
    let caller = format!("shard {id}");
    let others = RemoteShards::new(joined.cluster, caller, config.tls.as_ref());
    let following = tokio::spawn(follow(meta.clone(), shard.clone(), others));
    let telling = tokio::spawn(up(meta.clone()));
    say(format_args!(
        "shard {id} of cluster {}: ready in {:.1} s on {address} ({} log entries replayed)",
        joined.cluster,
        begun.elapsed().as_secs_f64(),
        report.n_replayed
    ));
    let stopping = async {
        signals.next().await;
        say("stopping");
        if let Err(error) = meta.report(Report::Leaving).await {
            tracing::debug!(%error, "the meta process was not told of the end");
        }
    };
    let served = server.serve(stopping).await;
    following.abort();
    telling.abort();
    queries.end();
    shard.shutdown().await.map_err(|error| anyhow!("{error}"))?;
    drop(directory);
    served?;
    say("stopped");
    Ok(())
}

/// Says that the shard serves, until that has been heard.
async fn up(meta: Arc<RemoteMeta>) {
    while let Err(error) = meta.report(Report::Up).await {
        tracing::debug!(%error, "the meta process does not know yet that the shard is up");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Keeps the copies of reference tables up to date, from whichever shards there are.
async fn follow(meta: Arc<RemoteMeta>, shard: Arc<Shard>, others: RemoteShards) {
    let mut followers: BTreeMap<ShardId, Follower> = BTreeMap::new();
    let mut known = 0;
    loop {
        match meta.members(known, QUESTION_WAIT).await {
            Ok(members) => {
                known = members.revision;
                let members = without(members, shard.id());
                others.follow(&members);
                let sources = others.shards.all();
                followers.retain(|id, _| sources.contains_key(id));
                for (id, source) in sources.iter() {
                    followers.entry(*id).or_insert_with(|| shard.follow(source.clone()));
                }
            }
            Err(error) => {
                tracing::debug!(%error, "the members are not known anew");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn without(mut members: Members, shard: ShardId) -> Members {
    members.members.retain(|it| !(it.role == Role::Shard && it.id == shard.0));
    members
}
