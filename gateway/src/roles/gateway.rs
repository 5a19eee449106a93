//! `cortexdb gateway`: the SQL side of a cluster, without data of its own.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Result, anyhow};
use cortex_shard_api::cluster::{MetaClient, Report};
use futures::FutureExt;

use super::{RemoteShards, advertised, join};
use crate::{
    catalog::CatalogStore,
    cluster::{Cluster, new_gateway},
    config::GatewayConfig,
    embedded::{query_runtime, set_initial_password},
    exec::gateway::{Gateway, Service},
    run::{self, Opened, SqlPort, say},
};

/// Runs until Ctrl-C or SIGTERM.
pub async fn run(config: GatewayConfig) -> Result<()> {
    let port = SqlPort {
        listen: config.listen.clone(),
        connections_max: config.connections_max,
        shutdown_grace: config.shutdown_grace,
        tls: config.tls.clone(),
    };
    run::serve_sql(port, |listening| Ok(open(config, listening))).await
}

/// Joins the cluster and opens its catalog.
async fn open(config: GatewayConfig, listening: SocketAddr) -> Result<Opened> {
    let address = advertised(config.advertise.as_deref(), listening);
    let request = new_gateway(address.unwrap_or_else(|_| listening.to_string()));
    let (meta, joined) = join(&config.join, config.node_tls.as_ref(), request).await?;
    say(format_args!("gateway {} of cluster {}", joined.member, joined.cluster));
    let caller = format!("gateway {}", joined.member);
    let remote = RemoteShards::new(joined.cluster, caller, config.node_tls.as_ref());
    remote.add_meta(&config.join);
    let members = meta.members(0, std::time::Duration::ZERO).await;
    remote.follow(&members.map_err(|error| anyhow!("{error}"))?);
    let client: Arc<dyn MetaClient> = meta;
    let cluster = Cluster::joined(client, remote.shards.clone(), joined);
    let cluster = cluster.await.map_err(|error| anyhow!("{error}"))?;
    cluster.follow(move |_, members| remote.follow(members));
    let store = CatalogStore::open(cluster.clone()).await.map_err(|error| anyhow!("{error}"))?;
    let is_new = store.version() == 1 && has_no_password(&store);
    let queries = query_runtime()?;
    let service = Service(Arc::new(Gateway::new(store, queries.handle.clone())));
    if let Some(password) = config.initial_password.as_deref().filter(|_| is_new) {
        set_initial_password(&service, &crate::session::auth::scram_verifier(password)).await?;
    }
    cluster.report(Report::Up).await.map_err(|error| anyhow!("{error}"))?;
    let stopping = move || {
        async move {
            if let Err(error) = cluster.report(Report::Leaving).await {
                tracing::debug!(%error, "the meta process was not told of the end");
            }
        }
        .boxed()
    };
    let close = move || {
        async move {
            queries.end();
            Ok(())
        }
        .boxed()
    };
    Ok(Opened { service: Arc::new(service), stopping: Box::new(stopping), close: Box::new(close) })
}

/// Whether nobody has set role postgres's password yet.
fn has_no_password(store: &CatalogStore) -> bool {
    store.current().role_by_name("postgres").is_some_and(|role| role.password.is_none())
}
