//! From a connection to one with TLS, and a word on whoever does not pass the handshake.
//!
//! A node that is refused learns why on its side; whoever runs this one reads it in the log, once in a while for each peer. Not
//! here: which certificates are good (`tls`).

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::tls::{TlsConfig, refusal};

/// A TLS handshake takes at most so long.
const TLS_TIMEOUT: Duration = Duration::from_secs(5);

/// Handshakes at the same time of one thread; more connections wait.
const HANDSHAKES_MAX: usize = 256;

/// What is refused is said again after so long: a process that is refused tries again each second.
const SAID_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Peers and reasons that are remembered as said.
const SAID_MAX: usize = 64;

/// A first byte of TLS's handshake, and of HTTP/2 without it.
const TLS_HANDSHAKE: u8 = 0x16;
const HTTP: u8 = b'P';

/// How connections become TLS's, for all threads.
#[derive(Clone)]
pub(super) struct Handshakes {
    acceptor: TlsAcceptor,
    complaints: Arc<Complaints>,
}

impl Handshakes {
    pub fn new(tls: &TlsConfig) -> Result<Handshakes, String> {
        Ok(Handshakes { acceptor: tls.acceptor()?, complaints: Arc::default() })
    }

    /// Those of the connections whose peers have a certificate of the cluster.
    pub fn over(
        self,
        incoming: impl Stream<Item = io::Result<TcpStream>>,
    ) -> impl Stream<Item = io::Result<TlsStream<TcpStream>>> {
        let handshakes = incoming.map(move |accepted| {
            let this = self.clone();
            async move {
                let stream = accepted.inspect_err(|error| tracing::warn!(%error, "accepting"));
                this.one(stream.ok()?).await.map(Ok)
            }
        });
        handshakes.buffer_unordered(HANDSHAKES_MAX).filter_map(std::future::ready)
    }

    async fn one(self, stream: TcpStream) -> Option<TlsStream<TcpStream>> {
        let peer = stream.peer_addr().ok()?;
        let shaken = tokio::time::timeout(TLS_TIMEOUT, shake_hands(self.acceptor, stream)).await;
        let late = || Err(Some("its TLS handshake takes too long".to_owned()));
        shaken.unwrap_or_else(|_| late()).map_err(|reason| self.complaints.say(peer, reason)).ok()
    }
}

/// An error says why; `None` is not worth a word: a port scan, a health check, a connection that broke.
async fn shake_hands(
    acceptor: TlsAcceptor,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>, Option<String>> {
    let mut first = [0];
    let n = stream.peek(&mut first).await.map_err(|_| None)?;
    let speaks = (n == 1).then_some(first[0]);
    let shaken = acceptor.accept(stream).await;
    shaken.map_err(|error| match speaks {
        Some(TLS_HANDSHAKE) => refusal(&error),
        Some(HTTP) => Some("it was started without cluster certificates".to_owned()),
        _ => None,
    })
}

#[derive(Default)]
struct Complaints {
    said: Mutex<HashMap<(IpAddr, String), Instant>>,
}

impl Complaints {
    fn say(&self, peer: SocketAddr, reason: Option<String>) {
        let Some(reason) = reason else {
            tracing::debug!(%peer, "a connection ended in its TLS handshake");
            return;
        };
        let mut said = self.said.lock();
        said.retain(|_, since| since.elapsed() < SAID_AGAIN_AFTER);
        let key = (peer.ip(), reason);
        if said.contains_key(&key) || said.len() >= SAID_MAX {
            tracing::debug!(%peer, reason = key.1, "refused a connection");
            return;
        }
        tracing::warn!(%peer, reason = key.1, "refused a connection");
        said.insert(key, Instant::now());
    }
}
