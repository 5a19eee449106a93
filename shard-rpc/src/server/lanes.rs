//! The threads that serve connections: each connection stays on one, from its first byte to its last.
//!
//! A point request costs a few microseconds of work, and more than that if it wakes another thread. Runtimes that share work
//! among threads do so for each message; here nothing is shared, so that a request is read, answered and sent by one thread
//! that was awake anyway. What takes long leaves it for the runtime of queries (see `session`).

use std::{io, net::TcpStream, num::NonZero, thread, time::Duration};

use futures::{StreamExt, future::join_all};
use tokio::{
    net::TcpListener,
    runtime::Builder,
    sync::{mpsc, oneshot, watch},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport;

use super::{Dispatch, ServerError, handshake::Handshakes};

/// Threads at the most; a shard that has more cores needs them for queries.
const LANES_MAX: usize = 16;

/// What the stack may take: requests nest, and their trees are freed on the way out.
const STACK_BYTES: usize = 32 << 20;

/// Connections that were accepted and are not served yet, of a lane.
const WAITING_MAX: usize = 128;

/// Pause after a connection could not be accepted, mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// See the module.
pub(super) struct Lanes {
    lanes: Vec<Lane>,
    is_stopping: watch::Sender<bool>,
}

struct Lane {
    connections: mpsc::Sender<TcpStream>,
    /// Says how serving ended.
    served: oneshot::Receiver<Result<(), transport::Error>>,
    /// The thread goes on, for what connections left behind, until this is dropped,
    _hold: oneshot::Sender<()>,
    /// and has closed them all when this is.
    ended: oneshot::Receiver<()>,
}

/// What a thread needs.
struct Start {
    builder: transport::Server,
    dispatch: Dispatch,
    /// `None`: plaintext.
    handshakes: Option<Handshakes>,
    connections: mpsc::Receiver<TcpStream>,
    is_stopping: watch::Receiver<bool>,
    served: oneshot::Sender<Result<(), transport::Error>>,
    hold: oneshot::Receiver<()>,
}

impl Lanes {
    pub fn start(
        builder: &transport::Server,
        dispatch: &Dispatch,
        handshakes: Option<&Handshakes>,
    ) -> Result<Lanes, ServerError> {
        let is_stopping = watch::Sender::new(false);
        let n_lanes = thread::available_parallelism().map_or(1, NonZero::get).min(LANES_MAX);
        let one = |number| {
            let (connections, incoming) = mpsc::channel(WAITING_MAX);
            let (served, is_served) = oneshot::channel();
            let (hold, is_held) = oneshot::channel();
            let (ends, ended) = oneshot::channel();
            let start = Start {
                builder: builder.clone(),
                dispatch: dispatch.clone(),
                handshakes: handshakes.cloned(),
                connections: incoming,
                is_stopping: is_stopping.subscribe(),
                served,
                hold: is_held,
            };
            let runtime = Builder::new_current_thread().enable_all().build()?;
            thread::Builder::new()
                .name(format!("cortexdb-lane-{number}"))
                .stack_size(STACK_BYTES)
                .spawn(move || {
                    runtime.block_on(run(start));
                    drop(runtime);
                    drop(ends);
                })?;
            Ok(Lane { connections, served: is_served, _hold: hold, ended })
        };
        let lanes: io::Result<Vec<Lane>> = (0..n_lanes).map(one).collect();
        let lanes = lanes.map_err(|error| ServerError::Serve(error.to_string()))?;
        Ok(Lanes { lanes, is_stopping })
    }

    /// Hands out connections in turn, for as long as it is polled.
    pub async fn accept(&self, listener: TcpListener) -> ServerError {
        loop {
            for lane in &self.lanes {
                match accept(&listener).await {
                    Ok(connection) => {
                        if lane.connections.send(connection).await.is_err() {
                            return ServerError::Serve("a thread of the server ended".to_owned());
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a connection cannot be accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
    }

    /// Has all connections end by themselves; returns when they have.
    pub async fn stop(&mut self) -> Result<(), ServerError> {
        self.is_stopping.send_replace(true);
        for lane in &mut self.lanes {
            if let Ok(Err(error)) = (&mut lane.served).await {
                return Err(ServerError::Serve(crate::client::chain(&error)));
            }
        }
        Ok(())
    }

    /// Closes what is open; returns when all is closed.
    pub async fn end(self) {
        // What else a lane is made of, its hold among it, is dropped here.
        join_all(self.lanes.into_iter().map(|lane| lane.ended)).await;
    }
}

/// A connection that belongs to no runtime yet.
async fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    let (connection, _peer) = listener.accept().await?;
    connection.set_nodelay(true)?;
    connection.into_std()
}

/// One thread.
async fn run(start: Start) {
    let Start { builder, dispatch, handshakes, connections, mut is_stopping, served, hold } = start;
    let incoming = ReceiverStream::new(connections).map(tokio::net::TcpStream::from_std);
    let signal = async move {
        // An error is a stop, too: nobody is left who could say so.
        let _ = is_stopping.wait_for(|is_stopping| *is_stopping).await;
    };
    let result = match handshakes {
        Some(handshakes) => {
            let incoming = handshakes.over(incoming);
            builder.serve_with_incoming_shutdown(dispatch, incoming, signal).await
        }
        None => builder.serve_with_incoming_shutdown(dispatch, incoming, signal).await,
    };
    let _ = served.send(result);
    let _ = hold.await;
}
