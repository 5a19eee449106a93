//! Startup: what is negotiated, who is let in, TLS.

use std::{io::Read, sync::Arc, time::Duration};

use cortex_gateway::{config::TlsFiles, tls};

use crate::client::{TestServer, message, query, startup, startup_version};

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
const GSSENC_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 48];

fn one_byte(client: &mut crate::client::Client) -> u8 {
    let mut byte = [0];
    client.stream.read_exact(&mut byte).expect("an answer");
    byte[0]
}

#[test]
fn a_session_begins_with_what_drivers_want_to_know() {
    let server = TestServer::start();
    let mut client = server.connect();
    client.send(&GSSENC_REQUEST);
    assert_eq!(one_byte(&mut client), b'N');
    client.send(&SSL_REQUEST);
    assert_eq!(one_byte(&mut client), b'N');
    let options = [("user", "postgres"), ("options", "-c a.b=1 --search-path=x\\ y")];
    client.send(&startup(&options));
    let answers = client.until_ready();
    let kinds: String = answers.iter().map(|answer| char::from(answer.kind)).collect();
    assert_eq!(kinds, "RSSSKZ");
    let settings: Vec<String> = answers[1..4].iter().map(|answer| answer.text()).collect();
    assert_eq!(settings, ["server_version\x0015.0", "a.b\x001", "search_path\0x y"]);
    assert_eq!(answers[5].body, b"I");
    client.send(&message(b'X', b""));
    client.expect_closed();
}

#[test]
fn newer_protocols_are_negotiated_down() {
    let server = TestServer::start();
    let mut client = server.connect();
    client.send(&startup_version(196_610, &[("user", "postgres"), ("_pq_.x", "1")]));
    let answers = client.until_ready();
    assert_eq!(answers[0].kind, b'v');
    assert_eq!(answers[0].body, b"\0\x03\0\0\0\0\0\x01_pq_.x\0");
    for version in [131_072, 262_144] {
        let mut client = server.connect();
        client.send(&startup_version(version, &[("user", "postgres")]));
        client.expect_fatal("0A000");
    }
}

#[test]
fn who_is_not_let_in_reads_why() {
    let server = TestServer::start();
    for (parameters, code) in [
        (&[("user", "nobody")][..], "28000"),
        (&[("user", "postgres"), ("database", "nowhere")], "3D000"),
        (&[("database", "postgres")], "28000"),
        (&[("user", "postgres"), ("replication", "database")], "0A000"),
        (&[("user", "postgres"), ("options", "--nonsense")], "42601"),
    ] {
        let mut client = server.connect();
        client.send(&startup(parameters));
        client.expect_fatal(code);
    }
    server.still_serves();
}

/// tokio-postgres does the client's half of SCRAM.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_password_is_proven_with_scram() {
    let server = TestServer::start();
    let connect = |user: &str, password: &str| {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(server.address.port()).user(user).password(password);
        async move { config.connect(tokio_postgres::NoTls).await }
    };
    let (client, connection) = connect("secret", "right").await.expect("let in");
    tokio::spawn(connection);
    client.simple_query("insert").await.expect("a query");
    let error = connect("secret", "wrong").await.err().expect("refused");
    let error = error.as_db_error().expect("an answer");
    assert_eq!(error.code().code(), "28P01");
    assert_eq!(error.message(), "password authentication failed for user \"secret\"");
}

/// A self-signed certificate for localhost, made for this test.
fn tls_files() -> (TlsFiles, rcgen::CertifiedKey<rcgen::KeyPair>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("certificate");
    let folder = std::env::temp_dir().join(format!("cortex-tls-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("folder");
    let files = TlsFiles { cert: folder.join("cert.pem"), key: folder.join("key.pem") };
    std::fs::write(&files.cert, made.cert.pem()).expect("write");
    std::fs::write(&files.key, made.signing_key.serialize_pem()).expect("write");
    (files, made)
}

#[test]
fn tls_begins_with_an_empty_buffer() {
    let (files, made) = tls_files();
    let acceptor = tls::acceptor(&files).expect("acceptor");
    let server = TestServer::with(10, Duration::from_secs(5), Some(acceptor));

    // Bytes behind the request came from somebody in between.
    let mut client = server.connect();
    client.send(&[&SSL_REQUEST[..], &startup(&[("user", "postgres")])].concat());
    client.expect_fatal("08P01");
    assert_eq!(server.counters.executed.load(std::sync::atomic::Ordering::SeqCst), 0);

    // Plain bytes where the handshake should be.
    let mut client = server.connect();
    client.send(&SSL_REQUEST);
    assert_eq!(one_byte(&mut client), b'S');
    client.send(&startup(&[("user", "postgres")]));
    client.send(&query("insert"));
    let mut rest = Vec::new();
    let _ = client.stream.read_to_end(&mut rest);
    assert!(!rest.contains(&b'Z'), "{rest:?}");

    // And a session as it should be.
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).expect("root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut client = server.connect();
    client.send(&SSL_REQUEST);
    assert_eq!(one_byte(&mut client), b'S');
    let name = "localhost".try_into().expect("a name");
    let connection = rustls::ClientConnection::new(Arc::new(config), name).expect("tls");
    let mut tls = rustls::StreamOwned::new(connection, client.stream);
    std::io::Write::write_all(&mut tls, &startup(&[("user", "postgres")])).expect("write");
    std::io::Write::write_all(&mut tls, &query("rows 2")).expect("write");
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    while !seen.windows(8).any(|window| window == b"SELECT 2") {
        let n = tls.read(&mut buffer).expect("an answer");
        assert!(n > 0, "closed after {seen:?}");
        seen.extend_from_slice(&buffer[..n]);
    }
    server.still_serves();
}
