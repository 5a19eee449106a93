//! Why a node that can be reached does not talk to this one.
//!
//! In TLS 1.3 a client learns that its certificate is refused only after its own handshake, when HTTP/2 has begun, and there the
//! reason gets lost; without TLS on one side both sides read nonsense. So a failed attempt is followed by a look of its own, which
//! sends nothing but a handshake.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::rustls;

use crate::tls::{NODE_NAME, TlsConfig, refusal};

/// A node that is there answers a handshake at once.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

/// How HTTP/2 begins; a server without TLS answers it.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How TLS says that it did not understand.
const TLS_ALERT: u8 = 0x15;

/// What is wrong with the certificates of both; `None` if something else is, or nothing any more.
pub async fn refused(address: &str, tls: Option<&TlsConfig>) -> Option<String> {
    tokio::time::timeout(LOOK_TIMEOUT, look(address, tls)).await.ok().flatten()
}

async fn look(address: &str, tls: Option<&TlsConfig>) -> Option<String> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let mut first = [0];
    let Some(tls) = tls else {
        stream.write_all(PREFACE).await.ok()?;
        stream.read_exact(&mut first).await.ok()?;
        return (first[0] == TLS_ALERT).then(|| {
            "it talks only to processes with a certificate of its cluster: start this one with \
             --cluster-ca, --cluster-cert and --cluster-key"
                .to_owned()
        });
    };
    let connector = match tls.connector() {
        Ok(connector) => connector,
        Err(reason) => return Some(reason),
    };
    let name = rustls::pki_types::ServerName::try_from(NODE_NAME).ok()?;
    let explained = |error: io::Error| {
        let speaks_tls = !matches!(rustls_error(&error), Some(rustls::Error::InvalidMessage(_)));
        if speaks_tls { refusal(&error) } else { Some("it has no cluster certificate".to_owned()) }
    };
    match connector.connect(name, stream).await {
        // Whether it takes ours shows with what it says first.
        Ok(mut stream) => stream.read_exact(&mut first).await.err().and_then(explained),
        Err(error) => explained(error),
    }
}

fn rustls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}
