//! Keeps a `RemoteShard` connected: one attempt after the other, with a growing pause that requests cut short, for as long as it
//! lives.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::watch, time::Instant};
use tonic::{Streaming, client::Grpc, transport::Channel};

use super::{
    ClientConfig, Shared, State,
    connection::{Connection, Outgoing, reason_of},
    refused::refused,
};
use crate::protocol::{
    CONNECT_PATH, Hello, MESSAGE_BYTES_MAX, VERSION, Welcome, codec::BytesCodec, frame,
};

/// Bytes of one stream under way: as much as a second's worth of batches on a slow link, or a large answer.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;

/// Bytes of all streams of a connection under way.
const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;

/// A connection that lived for so long was a good one: the next attempt follows at once.
const GOOD_AFTER: Duration = Duration::from_secs(1);

/// Runs until it is aborted.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut address = shared.address.subscribe();
    let mut backoff = shared.config.backoff_min;
    let mut epoch = 0;
    loop {
        let current = address.borrow_and_update().clone();
        // Connections are counted, not attempts: their number is part of every snapshot's.
        let attempt = connect(&shared, &current, epoch + 1);
        let attempt = tokio::time::timeout(shared.config.connect_timeout, attempt);
        let attempted = tokio::select! {
            attempted = attempt => attempted,
            is_open = address.changed() => {
                if is_open.is_err() {
                    return;
                }
                continue;
            }
        };
        match attempted {
            Ok(Ok((connection, inbound))) => {
                epoch += 1;
                let since = Instant::now();
                let reason = serve(&shared, &connection, inbound, &mut address).await;
                tracing::info!(shard = %shared.endpoint.shard, address = %current, reason, "connection lost");
                let is_new_address = address.has_changed().unwrap_or(false);
                let is_next_at_once = is_new_address || since.elapsed() >= GOOD_AFTER;
                // Before it is closed: who learns that from the connection, and asks again, finds no trace of it.
                if is_next_at_once {
                    shared.state.send_replace(State::Connecting);
                } else {
                    shared.down(&current, &reason);
                }
                connection.close(&reason);
                if is_next_at_once {
                    backoff = shared.config.backoff_min;
                    continue;
                }
            }
            Ok(Err(reason)) => shared.down(&current, &reason),
            Err(_) => shared.down(&current, "connecting takes too long"),
        }
        let pause = async {
            // Whoever asks meanwhile shortens the pause, not the least one.
            tokio::time::sleep(shared.config.backoff_min).await;
            let rest = backoff.saturating_sub(shared.config.backoff_min);
            let _ = tokio::time::timeout(rest, shared.asked.notified()).await;
        };
        let is_new_address = tokio::select! {
            () = pause => false,
            is_open = address.changed() => {
                if is_open.is_err() {
                    return;
                }
                true
            }
        };
        backoff = if is_new_address {
            shared.state.send_replace(State::Connecting);
            shared.config.backoff_min
        } else {
            (backoff * 2).min(shared.config.backoff_max)
        };
    }
}

/// Serves a connection until it breaks or the address changes; returns why it ended.
async fn serve(
    shared: &Shared,
    connection: &Arc<Connection>,
    inbound: Streaming<Bytes>,
    address: &mut watch::Receiver<String>,
) -> String {
    shared.state.send_replace(State::Up(connection.clone()));
    tokio::select! {
        reason = connection.read(inbound) => reason,
        _ = address.changed() => "the shard has another address".to_owned(),
    }
}

/// A channel to a node; nothing is sent yet.
pub(crate) fn endpoint(
    address: &str,
    config: &ClientConfig,
) -> Result<tonic::transport::Endpoint, String> {
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    let uri = format!("{scheme}://{address}");
    let endpoint = tonic::transport::Endpoint::from_shared(uri)
        .map_err(|error| chain(&error))?
        .connect_timeout(config.connect_timeout)
        .http2_keep_alive_interval(config.keep_alive_interval)
        .keep_alive_timeout(config.keep_alive_timeout)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    match &config.tls {
        Some(tls) => endpoint.tls_config(tls.client()).map_err(|error| chain(&error)),
        None => Ok(endpoint),
    }
}

/// One attempt, handshake included.
async fn connect(
    shared: &Shared,
    address: &str,
    epoch: u64,
) -> Result<(Arc<Connection>, Streaming<Bytes>), String> {
    let endpoint = endpoint(address, &shared.config)?;
    let channel = match endpoint.connect().await {
        Ok(channel) => channel,
        Err(error) => return Err(why(shared, address, chain(&error)).await),
    };
    let hello = Hello {
        protocol: VERSION,
        cluster: shared.endpoint.cluster.clone(),
        shard: shared.endpoint.shard,
        caller: shared.endpoint.caller.clone(),
    };
    let hello = frame::encode(&hello).map_err(|error| error.to_string())?.freeze();
    let flight = endpoint.connect_lazy();
    let connection = Arc::new(Connection::new(shared.endpoint.shard, epoch, flight, hello));
    let opened = open(channel, &connection).await;
    match opened {
        Ok(inbound) => Ok((connection, inbound)),
        Err(reason) => {
            connection.close(&reason);
            Err(why(shared, address, reason).await)
        }
    }
}

async fn open(channel: Channel, connection: &Arc<Connection>) -> Result<Streaming<Bytes>, String> {
    let mut grpc = Grpc::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    grpc.ready().await.map_err(|error| chain(&error))?;
    let request = tonic::Request::new(Outgoing::new(connection.clone()));
    let path = http::uri::PathAndQuery::from_static(CONNECT_PATH);
    let response = grpc.streaming(request, path, BytesCodec).await;
    let mut inbound = response.map_err(|status| reason_of(&status))?.into_inner();
    let first = inbound.message().await.map_err(|status| reason_of(&status))?;
    let first = first.ok_or("it ended the connection during the handshake")?;
    match frame::decode(&first) {
        Ok(Welcome::Accepted { session }) => {
            connection.session.store(session, Ordering::Release);
            Ok(inbound)
        }
        Ok(Welcome::Refused(refusal)) => Err(refusal.to_string()),
        Err(_) => Err("its handshake cannot be read: run the same release on all nodes".to_owned()),
    }
}

/// Says more of a failed attempt where certificates are the reason.
async fn why(shared: &Shared, address: &str, reason: String) -> String {
    refused(address, shared.config.tls.as_ref()).await.unwrap_or(reason)
}

/// An error with its causes.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        source = error.source();
    }
    text
}
