//! COPY in both protocols.

use std::sync::atomic::Ordering;

use crate::client::{TestServer, bind, execute, message, parse, sync, wait_for};

#[test]
fn data_goes_in() {
    let server = TestServer::start();
    let mut client = server.session();
    client.query("copyin");
    let answer = client.next().expect("CopyInResponse");
    assert_eq!((answer.kind, answer.body.as_slice()), (b'G', &[0, 0, 2, 0, 0, 0, 0][..]));
    for row in 0..10_000 {
        client.send(&message(b'd', format!("{row}\tx\n").as_bytes()));
    }
    client.send(&message(b'c', b""));
    let answers = client.until_ready();
    assert_eq!(answers[0].text(), "COPY 10000");
}

#[test]
fn a_pipelined_copy_ignores_the_early_sync() {
    let server = TestServer::start();
    let mut client = server.session();
    let start = [parse("", "copyin", &[]), bind("", "", &[], &[]), execute("", 0), sync()];
    client.send(&start.concat());
    let kinds: Vec<u8> = (0..3).filter_map(|_| client.next()).map(|answer| answer.kind).collect();
    assert_eq!(kinds, b"12G");
    let rest = [message(b'd', b"a\n"), message(b'H', b""), message(b'c', b""), sync()];
    client.send(&rest.concat());
    let answers = client.until_ready();
    assert_eq!(answers[0].text(), "COPY 1");
}

#[test]
fn a_failed_copy_is_undone_and_its_data_swallowed() {
    let server = TestServer::start();
    let mut client = server.session();
    client.query("copyin");
    client.send(&message(b'd', b"a\n"));
    client.send(&message(b'f', b"no more paper\0"));
    client.next();
    let error = client.expect_error("57014");
    assert_eq!(error.field(b'M').as_deref(), Some("COPY from stdin failed: no more paper"));
    wait_for(&server.counters.dropped, 1);

    client.query("copyin");
    client.next();
    client.send(&message(b'd', b"bad\n"));
    let error = client.expect_error("22P04");
    assert_eq!(error.field(b'W').as_deref(), Some("COPY t, line 1"));
    client.send(&[message(b'd', b"more\n"), message(b'c', b"")].concat());
    client.query("rows 1");
    assert_eq!(client.kinds_until_ready(), "TDCZ");
    wait_for(&server.counters.dropped, 2);

    client.query("copyin");
    client.next();
    client.query("rows 1");
    client.expect_error("08P01");
    wait_for(&server.counters.dropped, 3);
}

#[test]
fn a_client_that_goes_during_copy_leaves_nothing() {
    let server = TestServer::start();
    let mut client = server.session();
    client.query("copyin");
    client.next();
    client.send(&message(b'd', b"a\n"));
    wait_for(&server.counters.copied_bytes, 2);
    drop(client);
    wait_for(&server.counters.dropped, 1);
    wait_for(&server.counters.closed, 1);
}

#[test]
fn data_comes_out() {
    let server = TestServer::start();
    let mut client = server.session();
    client.query("copyout 50000");
    let answers = client.until_ready();
    let n = answers.iter().filter(|answer| answer.kind == b'd').count();
    assert_eq!(n, 50_000);
    let end: String = answers[n + 1..].iter().map(|answer| char::from(answer.kind)).collect();
    assert_eq!(end, "cCZ");
    assert_eq!(answers[n + 2].text(), "COPY 50000");
    assert_eq!(server.counters.failed.load(Ordering::SeqCst), 0);
}
