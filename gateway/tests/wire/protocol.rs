//! Both query protocols as well-behaved clients use them.

use std::{sync::atomic::Ordering, time::Duration};

use crate::client::{
    Client, TestServer, bind, bind_as, describe, execute, message, parse, query, startup, sync,
    wait_for,
};

const INT4: u32 = 23;
const TEXT: u32 = 25;

/// The columns of a DataRow.
fn columns(body: &[u8]) -> Vec<Option<Vec<u8>>> {
    let mut at = 2;
    let n = u16::from_be_bytes([body[0], body[1]]);
    (0..n)
        .map(|_| {
            let length = i32::from_be_bytes(body[at..at + 4].try_into().expect("length"));
            at += 4;
            (length >= 0).then(|| {
                let value = body[at..at + length as usize].to_vec();
                at += length as usize;
                value
            })
        })
        .collect()
}

#[test]
fn a_simple_query_runs_its_statements_in_one_implicit_transaction() {
    let server = TestServer::start();
    let mut client = server.session();
    client.query("rows 2; insert; batches 3");
    assert_eq!(client.kinds_until_ready(), "TDDCCTDDDCZ");
    assert_eq!(server.counters.autocommits.load(Ordering::SeqCst), 0);
    client.query("insert");
    assert_eq!(client.kinds_until_ready(), "CZ");
    assert_eq!(server.counters.autocommits.load(Ordering::SeqCst), 1);
    client.query(" ; ");
    assert_eq!(client.kinds_until_ready(), "IZ");
}

#[test]
fn an_error_stops_the_query_and_points_into_its_whole_text() {
    let server = TestServer::start();
    let mut client = server.session();
    client.query("insert; fail; insert");
    let answers = client.until_ready();
    let kinds: String = answers.iter().map(|answer| char::from(answer.kind)).collect();
    assert_eq!(kinds, "CEZ");
    assert_eq!(answers[1].field(b'P').as_deref(), Some("9"));
    assert_eq!(server.counters.executed.load(Ordering::SeqCst), 2);
    assert_eq!(server.counters.failed.load(Ordering::SeqCst), 1);
}

#[test]
fn a_commit_that_fails_takes_the_completion_back() {
    let server = TestServer::start();
    let mut client = server.session();
    client.query("deferred");
    assert_eq!(client.kinds_until_ready(), "EZ");
    let pipeline =
        [parse("", "deferred", &[]), bind("", "", &[], &[]), execute("", 0), sync()].concat();
    client.send(&pipeline);
    assert_eq!(client.kinds_until_ready(), "12CEZ");
}

#[test]
fn parameters_and_results_in_text_and_binary() {
    let server = TestServer::start();
    let mut client = server.session();
    client.send(&parse("e", "echo", &[INT4, TEXT, TEXT]));
    client.send(&describe(b'S', "e"));
    let seven = 7i32.to_be_bytes();
    let parameters = [Some(seven.as_slice()), Some("ü".as_bytes()), None];
    client.send(&bind_as("", "e", &[1, 0, 0], &parameters, &[0, 1, 1]));
    client.send(&describe(b'P', ""));
    client.send(&execute("", 0));
    client.send(&sync());
    let answers = client.until_ready();
    let kinds: String = answers.iter().map(|answer| char::from(answer.kind)).collect();
    assert_eq!(kinds, "1tT2TDCZ");
    assert_eq!(answers[1].body, [0, 3, 0, 0, 0, 23, 0, 0, 0, 25, 0, 0, 0, 25]);
    let row = columns(&answers[5].body);
    assert_eq!(row, [Some(b"7".to_vec()), Some("ü".as_bytes().to_vec()), None]);
    assert_eq!(answers[6].text(), "SELECT 1");
    // The last format code of the described portal: binary.
    assert_eq!(answers[4].body.last(), Some(&1));
    // The same with one code for all columns.
    client.send(&bind_as("", "e", &[1], &[Some(&seven), Some(b"x"), None], &[1]));
    client.send(&[execute("", 0), sync()].concat());
    let answers = client.until_ready();
    assert_eq!(columns(&answers[1].body)[0], Some(seven.to_vec()));
}

#[test]
fn binary_results_of_batches() {
    let server = TestServer::start();
    let mut client = server.session();
    client.send(&parse("", "batches 2", &[]));
    client.send(&[bind("", "", &[], &[1]), execute("", 0), sync()].concat());
    let answers = client.until_ready();
    assert_eq!(
        columns(&answers[3].body),
        [Some(1i32.to_be_bytes().to_vec()), Some(b"row 1".to_vec())]
    );
}

#[test]
fn a_row_limit_suspends_the_portal_and_reads_no_further() {
    let server = TestServer::start();
    let mut client = server.session();
    client.query("begin");
    client.until_ready();
    client.send(&parse("", "batches 1000000", &[]));
    client.send(&[bind("p", "", &[], &[]), execute("p", 3), sync()].concat());
    assert_eq!(client.kinds_until_ready(), "12DDDsZ");
    assert_eq!(server.counters.batches.load(Ordering::SeqCst), 1);
    client.send(&[execute("p", 2), execute("p", 1), sync()].concat());
    assert_eq!(client.kinds_until_ready(), "DDsDsZ");
    assert_eq!(server.counters.batches.load(Ordering::SeqCst), 1);
    client.send(&[message(b'C', b"Pp\0"), sync()].concat());
    assert_eq!(client.kinds_until_ready(), "3Z");
    // Outside of a transaction block a portal ends with Sync.
    client.query("commit");
    client.until_ready();
    client.send(&[bind("q", "", &[], &[]), sync()].concat());
    client.expect_error("26000");
    client.send(&[parse("s", "rows 5", &[]), bind("q", "s", &[], &[]), sync()].concat());
    assert_eq!(client.kinds_until_ready(), "12Z");
    client.send(&[execute("q", 0), sync()].concat());
    client.expect_error("34000");
}

#[test]
fn a_finished_portal_has_no_more_rows_and_a_command_runs_once() {
    let server = TestServer::start();
    let mut client = server.session();
    let pipeline =
        [parse("", "rows 2", &[]), bind("", "", &[], &[]), execute("", 0), execute("", 0), sync()];
    client.send(&pipeline.concat());
    assert_eq!(client.kinds_until_ready(), "12DDCCZ");
    let pipeline =
        [parse("", "insert", &[]), bind("", "", &[], &[]), execute("", 0), execute("", 0), sync()];
    client.send(&pipeline.concat());
    client.expect_error("55000");
}

#[test]
fn only_the_last_statement_before_sync_may_commit_by_itself() {
    let server = TestServer::start();
    let mut client = server.session();
    let one = [bind("", "s", &[], &[]), execute("", 0)].concat();
    client.send(&[parse("s", "insert", &[]), one.clone(), sync()].concat());
    assert_eq!(client.kinds_until_ready(), "12CZ");
    assert_eq!(server.counters.autocommits.load(Ordering::SeqCst), 1);
    client.send(&[one.clone(), one.clone(), sync(), one, sync()].concat());
    assert_eq!(client.kinds_until_ready(), "2C2CZ");
    assert_eq!(client.kinds_until_ready(), "2CZ");
    assert_eq!(server.counters.autocommits.load(Ordering::SeqCst), 2);
}

#[test]
fn an_error_skips_to_sync_and_is_not_held_back() {
    let server = TestServer::start();
    let mut client = server.session();
    let pipeline = [parse("", "fail", &[]), bind("", "", &[], &[]), execute("", 0)].concat();
    client.send(&pipeline);
    // No Sync and no Flush: the error comes all the same.
    let kinds: Vec<u8> = (0..3).filter_map(|_| client.next()).map(|answer| answer.kind).collect();
    assert_eq!(kinds, b"12E");
    client.send(&[query("insert"), parse("", "insert", &[]), sync()].concat());
    assert_eq!(client.kinds_until_ready(), "Z");
    assert_eq!(server.counters.executed.load(Ordering::SeqCst), 1);
    client.send(&[parse("", "insert; insert", &[]), sync()].concat());
    client.expect_error("42601");
}

#[test]
fn flush_sends_what_is_there() {
    let server = TestServer::start();
    let mut client = server.session();
    client.send(&[parse("", "", &[]), describe(b'S', ""), message(b'H', b"")].concat());
    let kinds: Vec<u8> = (0..3).filter_map(|_| client.next()).map(|answer| answer.kind).collect();
    assert_eq!(kinds, b"1tn");
    client.send(&[bind("", "", &[], &[]), execute("", 0), sync()].concat());
    assert_eq!(client.kinds_until_ready(), "2IZ");
}

#[test]
fn names_must_be_new_and_known() {
    let server = TestServer::start();
    let mut client = server.session();
    client.send(&[parse("s", "insert", &[]), parse("s", "insert", &[]), sync()].concat());
    client.expect_error("42P05");
    client.send(&[bind("", "nobody", &[], &[]), sync()].concat());
    client.expect_error("26000");
    client.send(&[describe(b'P', "nobody"), sync()].concat());
    client.expect_error("34000");
    client.send(&[bind("p", "s", &[], &[]), bind("p", "s", &[], &[]), sync()].concat());
    client.expect_error("42P03");
    client.send(&[message(b'C', b"Snobody\0"), sync()].concat());
    assert_eq!(client.kinds_until_ready(), "3Z");
    // A simple query ends the unnamed statement.
    client.send(&[parse("", "insert", &[]), sync(), query("insert")].concat());
    client.until_ready();
    client.until_ready();
    client.send(&[bind("", "", &[], &[]), sync()].concat());
    client.expect_error("26000");
}

#[test]
fn notices_and_settings_come_before_ready() {
    let server = TestServer::start();
    let mut client = server.session();
    client.query("notice hello; timeout 100");
    let answers = client.until_ready();
    let kinds: String = answers.iter().map(|answer| char::from(answer.kind)).collect();
    assert_eq!(kinds, "NCSCZ");
    assert_eq!(answers[0].field(b'M').as_deref(), Some("hello"));
    client.query("hang");
    let error = client.expect_error("57014");
    assert_eq!(error.field(b'M').as_deref(), Some("canceling statement due to statement timeout"));
    wait_for(&server.counters.dropped, 1);
    client.query("timeout 0");
    client.until_ready();
    client.query("sleep 200");
    assert_eq!(client.kinds_until_ready(), "CZ");
}

fn cancel(server: &TestServer, process_id: i32, secret: i32) {
    let mut client = server.connect();
    let mut packet = 16i32.to_be_bytes().to_vec();
    for value in [80_877_102, process_id, secret] {
        packet.extend(value.to_be_bytes());
    }
    client.send(&packet);
    client.expect_closed();
}

#[test]
fn a_cancel_request_needs_the_secret() {
    let server = TestServer::start();
    let mut client = server.session();
    let (process_id, secret) = (client.process_id, client.secret);
    // Nothing runs: forgotten.
    cancel(&server, process_id, secret);
    client.query("begin; rows 1");
    assert_eq!(client.kinds_until_ready(), "CTDCZ");
    client.query("hang");
    wait_for(&server.counters.executed, 3);
    cancel(&server, process_id, secret.wrapping_add(1));
    cancel(&server, process_id.wrapping_add(1), secret);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(server.counters.dropped.load(Ordering::SeqCst), 0);
    cancel(&server, process_id, secret);
    let answers = client.until_ready();
    assert_eq!(answers[0].field(b'C').as_deref(), Some("57014"));
    // The transaction has failed.
    assert_eq!(answers.last().expect("ready").body, b"E");
    assert_eq!(server.counters.dropped.load(Ordering::SeqCst), 1);
}

#[test]
fn a_commit_is_not_interrupted() {
    let server = TestServer::start();
    let mut client = server.session();
    client.query("timeout 20");
    client.until_ready();
    client.query("durable 900");
    assert_eq!(client.kinds_until_ready(), "CZ");
    client.query("locked");
    client.expect_error("57014");
    assert_eq!(server.counters.dropped.load(Ordering::SeqCst), 1);
}

#[test]
fn a_client_that_goes_takes_its_query_along() {
    let server = TestServer::start();
    let mut client = server.session();
    client.query("hang");
    wait_for(&server.counters.executed, 1);
    drop(client);
    wait_for(&server.counters.dropped, 1);
    wait_for(&server.counters.closed, 1);
}

#[test]
fn a_client_that_does_not_read_holds_its_own_query_up() {
    let server = TestServer::start();
    let mut client = server.session();
    client.query("batches 100000000");
    std::thread::sleep(Duration::from_millis(300));
    let early = server.counters.batches.load(Ordering::SeqCst);
    assert!(early < 2000, "{early} batches of 1000 rows were made for nobody");
    server.still_serves();
    let (process_id, secret) = (client.process_id, client.secret);
    cancel(&server, process_id, secret);
    client.expect_error("57014");
}

#[test]
fn a_panic_ends_one_connection() {
    let server = TestServer::start();
    let mut client = server.session();
    let mut other = server.session();
    client.query("panic");
    client.expect_fatal("XX000");
    wait_for(&server.counters.closed, 1);
    other.query("rows 1");
    assert_eq!(other.kinds_until_ready(), "TDCZ");
}

#[test]
fn a_stop_lets_statements_finish() {
    let server = TestServer::with(10, Duration::from_secs(5), None);
    let mut idle = server.session();
    let mut busy = server.session();
    busy.query("sleep 300");
    wait_for(&server.counters.executed, 1);
    server.begin_stop();
    idle.expect_fatal("57P01");
    assert_eq!(busy.next().expect("its result").kind, b'C');
    busy.expect_fatal("57P01");
    server.stopped();
}

#[test]
fn a_stop_does_not_wait_for_idle_clients() {
    let server = TestServer::start();
    let mut idle: Vec<_> = (0..3).map(|_| server.session()).collect();
    let begun = std::time::Instant::now();
    server.stopped();
    assert!(begun.elapsed() < Duration::from_millis(1500), "{:?}", begun.elapsed());
    for client in &mut idle {
        client.expect_fatal("57P01");
    }
}

#[test]
fn a_stop_does_not_wait_for_ever() {
    let server = TestServer::with(10, Duration::from_millis(100), None);
    let mut busy = server.session();
    busy.query("hang");
    wait_for(&server.counters.executed, 1);
    server.begin_stop();
    busy.expect_fatal("57P01");
    wait_for(&server.counters.dropped, 1);
    server.stopped();
}

#[test]
fn there_is_a_place_for_so_many() {
    let server = TestServer::with(2, Duration::from_secs(5), None);
    let _first = server.session();
    let mut second = server.session();
    let mut third: Client = server.connect();
    third.send(&startup(&[("user", "postgres")]));
    third.expect_fatal("53300");
    second.query("hang");
    wait_for(&server.counters.executed, 1);
    // A cancel needs no place.
    cancel(&server, second.process_id, second.secret);
    second.expect_error("57014");
    drop(second);
    wait_for(&server.counters.closed, 1);
    server.still_serves();
}
