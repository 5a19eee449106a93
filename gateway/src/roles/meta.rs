//! `cortexdb meta`: the meta shard and the service beside it.

use std::{sync::Arc, time::Instant};

use anyhow::{Context, Result, anyhow};
use cortex_shard_api::{ShardError, ShardId, client::ShardClient};
use cortex_shard_node::{Shard, ShardConfig};

use super::{bind, ready};
use crate::{
    catalog::store::bootstrap,
    cluster::{MetaService, remote},
    config::NodeConfig,
    data_dir::{NodeDir, Owner},
    run::{Signals, say},
    session::auth::scram_verifier,
};

/// Runs until Ctrl-C or SIGTERM.
pub async fn run(config: NodeConfig) -> Result<()> {
    let begun = Instant::now();
    let mut signals = Signals::new()?;
    let (server, address) = bind(&config).await?;
    let mut directory = NodeDir::open(&config.data_dir, Owner::Meta)?;
    let shard_config = ShardConfig::new(ShardId::META, config.data_dir.join("meta"));
    let (shard, _) = tokio::task::spawn_blocking(move || Shard::open(shard_config))
        .await
        .context("opening the meta shard")?
        .context("cannot open the meta shard")?;
    let client: Arc<dyn ShardClient> = shard.clone();
    let service = MetaService::open(client.clone()).await.map_err(|error| anyhow!("{error}"))?;
    let cluster = service.cluster().await;
    directory.joined(cluster, None)?;
    let verifier = config.initial_password.as_deref().map(scram_verifier);
    match bootstrap(&*client, ShardId::HOME, verifier).await {
        // The password is a new cluster's; an old one keeps its own.
        Ok(()) | Err(ShardError::MetaConflict) => {}
        Err(error) => return Err(anyhow!("making the catalog: {error}")),
    }
    let server = server
        .with_cluster(cluster.to_string())
        .add_shard(client)
        .add_service(remote::serve(service))
        .add_service(ready::serve());
    say(format_args!(
        "meta process of cluster {cluster}: ready in {:.1} s on {address}",
        begun.elapsed().as_secs_f64()
    ));
    let stopping = async {
        signals.next().await;
        say("stopping");
    };
    let served = server.serve(stopping).await;
    shard.shutdown().await?;
    drop(directory);
    served?;
    say("stopped");
    Ok(())
}
