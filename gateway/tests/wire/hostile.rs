//! Bytes that no client should send. Each ends its connection or its statement with an error; others go on.

use std::sync::atomic::Ordering;

use crate::client::{
    Client, TestServer, bind, bind_as, describe, execute, message, parse, query, startup, sync,
};

/// Sends bytes to a session of its own, and expects that they end it.
fn ends_the_session(server: &TestServer, bytes: &[u8], code: &str) {
    let mut client = server.session();
    client.send(bytes);
    client.expect_fatal(code);
}

#[test]
fn nothing_big_is_held_before_authentication() {
    let server = TestServer::start();
    for length in [-1, 0, 3, 4, 7, 10_001, 100_000_000, i32::MAX, i32::MIN] {
        let mut client = server.connect();
        client.send(&length.to_be_bytes());
        client.send(&[0; 200]);
        client.expect_fatal("08P01");
    }
    // A password message may not be bigger either.
    let mut client = server.connect();
    client.send(&startup(&[("user", "secret")]));
    client.next().expect("AuthenticationSASL");
    client.send(&[b'p', 0x0b, 0, 0, 0]);
    client.expect_fatal("08P01");
    // HTTP is not our protocol.
    let mut client = server.connect();
    client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    client.expect_fatal("08P01");
    server.still_serves();
}

#[test]
fn a_startup_packet_is_read_to_its_end_and_no_further() {
    let server = TestServer::start();
    let good = startup(&[("user", "postgres")]);
    let rewrite = |body: &[u8]| {
        let mut packet = (body.len() as i32 + 4).to_be_bytes().to_vec();
        packet.extend(body);
        packet
    };
    // Without the last NUL, without any, with bytes behind the end, not UTF-8.
    for body in [
        &good[4..good.len() - 1],
        &good[4..good.len() - 2],
        &[&good[4..], b"x"].concat(),
        b"\0\x03\0\0user\0\xff\xfe\0\0",
        b"\0\x03\0\0\0",
        b"\0\x02\0\0user\0postgres\0\0",
        b"\0\0\0\0",
    ] {
        let mut client = server.connect();
        client.send(&rewrite(body));
        while let Some(answer) = client.next() {
            assert_eq!(answer.kind, b'E', "{body:?}");
            assert_eq!(answer.field(b'S').as_deref(), Some("FATAL"), "{body:?}");
        }
    }
    // Half of it, and then nothing.
    let mut client = server.connect();
    client.send(&good[..10]);
    client.half_close();
    client.expect_closed();
    server.still_serves();
}

#[test]
fn a_query_behind_a_wrong_password_is_not_run() {
    let server = TestServer::start();
    let executed = || server.counters.executed.load(Ordering::SeqCst);
    let mut client = server.connect();
    client.send(&[startup(&[("user", "secret")]), query("insert")].concat());
    client.expect_fatal("08P01");
    let mut client = server.connect();
    client.send(&startup(&[("user", "secret")]));
    client.next().expect("AuthenticationSASL");
    let first = b"n,,n=,r=abcdefgh";
    let mut body = b"SCRAM-SHA-256\0".to_vec();
    body.extend((first.len() as i32).to_be_bytes());
    body.extend(first);
    client.send(&message(b'p', &body));
    let server_first = client.next().expect("AuthenticationSASLContinue");
    let text = String::from_utf8(server_first.body[4..].to_vec()).expect("text");
    let nonce = text.split(',').next().expect("a nonce").to_owned();
    let proof = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let last = format!("c=biws,{nonce},p={proof}");
    client.send(&[message(b'p', last.as_bytes()), query("insert"), query("insert")].concat());
    client.expect_fatal("28P01");
    assert_eq!(executed(), 0);
    // A session message instead of a password.
    for bytes in [parse("", "insert", &[]), sync(), vec![b'?'; 10], message(b'p', b"hello\0")] {
        let mut client = server.connect();
        client.send(&startup(&[("user", "secret")]));
        client.next().expect("AuthenticationSASL");
        client.send(&bytes);
        client.expect_fatal("08P01");
    }
    assert_eq!(executed(), 0);
    server.still_serves();
}

#[test]
fn lengths_that_cannot_be_end_the_connection() {
    let server = TestServer::start();
    for kind in *b"QPBDECHSXdcf" {
        for length in [0, 1, 2, 3, -1, i32::MIN] {
            let bytes = [&[kind][..], &i32::to_be_bytes(length)].concat();
            ends_the_session(&server, &bytes, "08P01");
        }
    }
    for kind in *b"DECHSXcf" {
        let bytes = [&[kind][..], &i32::to_be_bytes(1 << 30)].concat();
        ends_the_session(&server, &bytes, "08P01");
    }
    for kind in *b"QPBd" {
        let bytes = [&[kind][..], &i32::to_be_bytes(i32::MAX)].concat();
        ends_the_session(&server, &bytes, "54000");
    }
    server.still_serves();
}

#[test]
fn unknown_messages_end_the_connection() {
    let server = TestServer::start();
    for kind in [0u8, b'p', b'R', b'Z', b'a', 0x16, 0xff] {
        ends_the_session(&server, &message(kind, b"whatever\0"), "08P01");
    }
    server.still_serves();
}

#[test]
fn a_message_hidden_in_another_is_not_run() {
    let server = TestServer::start();
    let executed = || server.counters.executed.load(Ordering::SeqCst);
    let hidden = query("insert");
    let with = |whole: Vec<u8>| message(whole[0], &[&whole[5..], &hidden].concat());
    for bytes in [
        with(query("insert")),
        with(parse("", "insert", &[])),
        with(describe(b'S', "")),
        with(message(b'C', b"S\0")),
        with(sync()),
        with(message(b'H', b"")),
        with(message(b'X', b"")),
        with(message(b'c', b"")),
    ] {
        ends_the_session(&server, &bytes, "08P01");
    }
    let prepared = parse("s", "insert", &[]);
    for bytes in [with(bind("", "s", &[], &[])), with(execute("", 0))] {
        ends_the_session(&server, &[prepared.clone(), bytes].concat(), "08P01");
    }
    let mut client = server.session();
    client.query("copyin");
    client.next();
    client.send(&with(message(b'f', b"no\0")));
    client.expect_fatal("08P01");
    // The copy itself was executed, nothing else.
    assert_eq!(executed(), 1);
    server.still_serves();
}

#[test]
fn every_cut_of_a_message_ends_the_connection() {
    let server = TestServer::start();
    let whole = [
        query("insert"),
        parse("s", "insert", &[23, 25]),
        bind_as("p", "s", &[1, 0], &[Some(b"abcd"), None], &[1]),
        describe(b'S', "s"),
        execute("p", 1),
        message(b'C', b"Ss\0"),
    ];
    for bytes in whole {
        for end in 5..bytes.len() {
            let cut = message(bytes[0], &bytes[5..end]);
            ends_the_session(&server, &cut, "08P01");
        }
    }
    server.still_serves();
}

#[test]
fn half_a_message_and_then_nothing() {
    let server = TestServer::start();
    let mut client = server.session();
    client.send(&query("insert")[..8]);
    client.half_close();
    client.expect_closed();
    assert_eq!(server.counters.executed.load(Ordering::SeqCst), 0);
    server.still_serves();
}

fn goes_on(client: &mut Client) {
    client.query("rows 1");
    assert_eq!(client.kinds_until_ready(), "TDCZ");
}

#[test]
fn text_that_is_not_utf8_ends_its_statement() {
    let server = TestServer::start();
    let mut client = server.session();
    client.send(&message(b'Q', b"insert \xff\0"));
    let error = client.expect_error("22021");
    let text = "invalid byte sequence for encoding \"UTF8\": 0xff";
    assert_eq!(error.field(b'M').as_deref(), Some(text));
    goes_on(&mut client);
    client.send(&[message(b'P', b"\0insert \xc3(\0\0\0"), sync()].concat());
    client.expect_error("22021");
    goes_on(&mut client);
    client.send(&parse("e", "echo", &[25]));
    for value in [b"\xf0\x9f".as_slice(), b"a\0b"] {
        client.send(&[bind("", "e", &[Some(value)], &[]), execute("", 0), sync()].concat());
        client.expect_error("22021");
        goes_on(&mut client);
    }
    assert_eq!(server.counters.executed.load(Ordering::SeqCst), 4);
}

#[test]
fn numbers_in_bind_must_fit_the_statement() {
    let server = TestServer::start();
    let mut client = server.session();
    client.send(&[parse("e", "echo", &[25, 25]), sync()].concat());
    client.until_ready();
    let (a, b) = (Some(b"a".as_slice()), Some(b"b".as_slice()));
    for wrong in [
        bind("", "e", &[a], &[]),
        bind("", "e", &[a, b, None], &[]),
        bind_as("", "e", &[0, 0, 0], &[a, b], &[]),
        bind("", "e", &[a, b], &[0, 0, 0]),
    ] {
        client.send(&[wrong, execute("", 0), sync()].concat());
        client.expect_error("08P01");
    }
    client.send(&[bind_as("", "e", &[7], &[a, b], &[]), sync()].concat());
    client.expect_error("22023");
    goes_on(&mut client);
    // A parameter's length below -1.
    let mut bytes = b"\0e\0\0\0\0\x01".to_vec();
    bytes.extend((-2i32).to_be_bytes());
    bytes.extend([0, 0]);
    client.send(&message(b'B', &bytes));
    client.expect_fatal("08P01");
}

#[test]
fn portals_and_statements_are_bounded() {
    let server = TestServer::start();
    let mut client = server.session();
    client.query("begin");
    client.until_ready();
    client.send(&parse("s", "rows 1", &[]));
    let mut pipeline = Vec::new();
    for n in 0..5_000 {
        pipeline.extend(bind(&format!("p{n}"), "s", &[], &[]));
    }
    client.send(&[pipeline, sync()].concat());
    client.expect_error("53400");
    client.query("commit");
    client.until_ready();
    let mut pipeline = Vec::new();
    for n in 0..20_000 {
        pipeline.extend(parse(&format!("n{n}"), "rows 1", &[]));
    }
    client.send(&[pipeline, sync()].concat());
    client.expect_error("53400");
    goes_on(&mut client);
    server.still_serves();
}

#[test]
fn a_function_call_is_refused() {
    let server = TestServer::start();
    let mut client = server.session();
    client.send(&message(b'F', &[0; 12]));
    client.expect_error("0A000");
    goes_on(&mut client);
}

/// A small generator, so that a failure repeats.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

#[test]
fn damaged_conversations_never_reach_a_panic() {
    let server = TestServer::start();
    let mut random = Random(0x5eed);
    let whole = [
        query("rows 3; insert"),
        parse("s", "echo", &[25, 23]),
        bind_as("p", "s", &[0, 1], &[Some(b"abcd"), Some(&[0, 0, 0, 7])], &[1]),
        describe(b'P', "p"),
        describe(b'S', "s"),
        execute("p", 1),
        sync(),
        query("copyin"),
        message(b'd', b"1\tx\n"),
        message(b'c', b""),
        message(b'C', b"Ss\0"),
        message(b'H', b""),
        query("batches 2000"),
    ]
    .concat();
    for _ in 0..400 {
        let mut bytes = whole.clone();
        for _ in 0..1 + random.below(4) {
            let at = random.below(bytes.len());
            match random.below(4) {
                0 => bytes[at] ^= 1 << random.below(8),
                1 => bytes[at] = random.below(256) as u8,
                2 => drop(bytes.remove(at)),
                _ => bytes.insert(at, random.below(256) as u8),
            }
        }
        let mut client = server.session();
        client.send(&bytes);
        client.half_close();
        while let Some(answer) = client.next() {
            let code = (answer.kind == b'E').then(|| answer.field(b'C')).flatten();
            assert_ne!(code.as_deref(), Some("XX000"), "{bytes:?}");
        }
    }
    for _ in 0..200 {
        let length = random.below(200);
        let bytes: Vec<u8> = (0..length).map(|_| random.below(256) as u8).collect();
        let mut client = server.connect();
        client.send(&bytes);
        client.half_close();
        while let Some(answer) = client.next() {
            assert_eq!(answer.kind, b'E', "{bytes:?}");
        }
    }
    server.still_serves();
}
