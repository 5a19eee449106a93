//! Bytes that no client of ours would send.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use cortex_shard_api::{
    LogIndex, ScalarExpr, ShardError, ShardId, SnapshotId, SqlType, TxnId,
    client::{GetRequest, RequestContext, ShardClient, WriteOp},
    value::{ArrayValue, Datum},
};
use futures::StreamExt;
use tonic::{Streaming, client::Grpc, transport::Endpoint};

use super::{Served, double::table, round_trip::fragment};
use crate::protocol::{
    CONNECT_PATH, Hello, Refusal, Ticket, VERSION, Welcome,
    call::{Call, TableNumber},
    codec::BytesCodec,
    frame::{self, FrameBuffer, FrameError, Kind, next_frame},
};

fn hello(protocol: u32) -> Bytes {
    let hello = Hello {
        protocol,
        cluster: super::CLUSTER.to_owned(),
        shard: ShardId(7),
        caller: "nobody".to_owned(),
    };
    frame::encode(&hello).expect("small").freeze()
}

/// Sends messages as they are; returns what comes back.
async fn talk(served: &Served, messages: Vec<Bytes>) -> Result<Streaming<Bytes>, tonic::Status> {
    let channel = Endpoint::from_shared(format!("http://{}", served.address))
        .expect("an address")
        .connect()
        .await
        .expect("a connection");
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.expect("ready");
    let messages = futures::stream::iter(messages).chain(futures::stream::pending());
    let path = http::uri::PathAndQuery::from_static(CONNECT_PATH);
    let answers = grpc.streaming(tonic::Request::new(messages), path, BytesCodec).await?;
    Ok(answers.into_inner())
}

fn frames(frames: &[(u64, Kind, Vec<u8>)]) -> Bytes {
    let mut buffer = FrameBuffer::default();
    for (id, kind, body) in frames {
        let written = buffer.push(*id, |frame| {
            frame.put_u8(*kind as u8);
            frame.put_slice(body);
            Ok(())
        });
        written.expect("small");
    }
    buffer.take().expect("frames")
}

fn encoded<T: serde::Serialize>(value: &T) -> Vec<u8> {
    frame::encode(value).expect("small").to_vec()
}

async fn welcome(answers: &mut Streaming<Bytes>) -> Welcome {
    let first = answers.message().await.expect("no error").expect("a message");
    frame::decode(&first).expect("a welcome")
}

/// The error that a request is answered with.
async fn error_of(answers: &mut Streaming<Bytes>, id: u64) -> ShardError {
    let mut message = answers.message().await.expect("no error").expect("a message");
    let (of, body) = next_frame(&mut message).expect("a frame").expect("one");
    assert_eq!(of, id);
    frame::decode::<Result<(), ShardError>>(&body).expect("an answer").expect_err("an error")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_is_checked() {
    let served = Served::start().await;
    for (first, refusal) in [
        (hello(VERSION + 1), Refusal::Protocol { ours: VERSION }),
        (Bytes::from_static(b""), Refusal::Malformed),
        (Bytes::from_static(&[0xff; 20]), Refusal::Malformed),
        (Bytes::from_static(&[VERSION as u8, 0xff, 0xff, 0xff]), Refusal::Malformed),
    ] {
        let mut answers = talk(&served, vec![first]).await.expect("an answer");
        let Welcome::Refused(is) = welcome(&mut answers).await else { panic!("accepted") };
        assert_eq!(is, refusal);
        assert!(answers.message().await.expect("no error").is_none());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn torn_frames_end_the_connection_and_nothing_else() {
    let served = Served::start().await;
    let bystander = served.client().await;
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let noise = |n: usize, next: &mut dyn FnMut() -> u64| -> Bytes {
        (0..n).map(|_| next() as u8).collect::<Vec<_>>().into()
    };
    let mut messages = vec![
        Bytes::from_static(&[1, 2]),
        Bytes::from_static(&[0xff, 0xff, 0xff, 0xff, 1]),
        Bytes::from_static(&[7, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1]),
        Bytes::from_static(&[8, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1]),
        frames(&[(1, Kind::Table, vec![0xff; 9])]),
        frames(&[(1, Kind::CloseSnapshot, vec![])]),
    ];
    for n in 1..40 {
        messages.push(noise(n, &mut next));
    }
    for message in messages {
        let mut answers = talk(&served, vec![hello(VERSION), message]).await.expect("headers");
        assert!(matches!(welcome(&mut answers).await, Welcome::Accepted { .. }));
        let end = tokio::time::timeout(Duration::from_secs(5), async {
            while let Ok(Some(_)) = answers.message().await {}
        });
        end.await.expect("the connection ends");
    }
    // Whole frames with noise in them are refused one by one.
    for _ in 0..200 {
        let n = 1 + (next() % 60) as usize;
        let kind = if next() % 2 == 0 { Kind::Call } else { Kind::Begin };
        let message = frames(&[(9, kind, noise(n, &mut next).to_vec())]);
        let mut answers = talk(&served, vec![hello(VERSION), message]).await.expect("headers");
        assert!(matches!(welcome(&mut answers).await, Welcome::Accepted { .. }));
    }
    bystander.status().await.expect("an answer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_cannot_be_right_are_refused() {
    let served = Served::start().await;
    let t = TableNumber(0);
    let context = RequestContext::default;
    let in_txn = || RequestContext { txn: Some(TxnId(1)), ..context() };
    let write = |op| Call::Write {
        context: context(),
        table: t,
        related: vec![],
        op,
        commit: true,
        returning: false,
        more: false,
    };
    let short = Bytes::from_static(b"abc");
    let calls = [
        Call::Get { context: context(), table: TableNumber(9), keys: vec![] },
        Call::Get { context: context(), table: t, keys: vec![short.clone()] },
        Call::BuildIndex { context: context(), table: t, index: 0 },
        write(WriteOp::Update { rows: vec![], assigned: vec![2] }),
        write(WriteOp::Delete { rows: vec![(short, LogIndex(1))] }),
        write(WriteOp::Insert {
            rows: vec![vec![Datum::Null]],
            on_conflict: cortex_shard_api::client::OnConflict::Fail,
        }),
    ];
    let known = frames(&[(0, Kind::Table, encoded(&(0u32, &*table(5, 1))))]);
    for call in calls {
        let message = frames(&[(3, Kind::Call, encoded(&call))]);
        let messages = vec![hello(VERSION), known.clone(), message];
        let mut answers = talk(&served, messages).await.expect("headers");
        welcome(&mut answers).await;
        let error = error_of(&mut answers, 3).await;
        assert!(matches!(error, ShardError::Internal { .. }), "{call:?}: {error:?}");
    }
    // A transaction that has not begun, and a snapshot of somebody else.
    let message = frames(&[
        (1, Kind::Call, encoded(&Call::Get { context: in_txn(), table: t, keys: vec![] })),
        (2, Kind::Call, encoded(&Call::Commit(TxnId(1)))),
    ]);
    let mut answers = talk(&served, vec![hello(VERSION), known, message]).await.expect("headers");
    welcome(&mut answers).await;
    let mut message = answers.message().await.expect("no error").expect("a message");
    for _ in 0..2 {
        let (_, body) = next_frame(&mut message).expect("a frame").expect("one");
        let answer: Result<(), ShardError> = frame::decode(&body).expect("an answer");
        assert!(matches!(answer, Err(ShardError::TransactionLost { .. })));
    }
    let context = RequestContext { snapshot: Some(SnapshotId(1)), ..context() };
    let message =
        frames(&[(4, Kind::Call, encoded(&Call::OpenSnapshot { context, tables: vec![] }))]);
    let mut answers = talk(&served, vec![hello(VERSION), message]).await.expect("headers");
    welcome(&mut answers).await;
    assert!(matches!(error_of(&mut answers, 4).await, ShardError::Unavailable { .. }));
    assert!(served.shard.asked().is_empty(), "{:?}", served.shard.asked());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_are_only_for_whoever_has_the_ticket() {
    let served = Served::start().await;
    let shard = served.client().await;
    let _hanging = shard.execute(fragment("hang 1")).await.expect("batches");
    let channel = Endpoint::from_shared(format!("http://{}", served.address)).expect("an address");
    let channel = channel.connect().await.expect("a connection");
    let mut flight = arrow_flight::flight_service_client::FlightServiceClient::new(channel);
    let tickets = [
        Bytes::from_static(b"\xff\xff\xff"),
        Bytes::new(),
        encoded(&Ticket { session: 1, request: 1 }).into(),
    ];
    for ticket in tickets {
        assert!(flight.do_get(arrow_flight::Ticket { ticket }).await.is_err());
    }
    assert!(flight.list_actions(arrow_flight::Empty {}).await.is_err());
}

/// `NOT NOT NOT ... NULL`
fn deep(n: usize) -> ScalarExpr {
    let mut expr = ScalarExpr::literal(Datum::Null, SqlType::Bool);
    for _ in 0..n {
        expr = ScalarExpr::Not(Box::new(expr));
    }
    expr
}

#[test]
fn nesting_has_a_bound() {
    // On a stack like that of a server's thread.
    let run = std::thread::Builder::new().stack_size(2 << 20).spawn(|| {
        let bytes = frame::encode(&deep(1000)).expect("small");
        frame::decode::<ScalarExpr>(&bytes).expect("what a binder makes is read");
        let not = &frame::encode(&deep(1)).expect("small")[..1];
        let bytes = not.repeat(1 << 20);
        assert!(matches!(frame::decode::<ScalarExpr>(&bytes), Err(FrameError::Decode)));
        // An array in an array.
        let mut value = Datum::Null;
        for _ in 0..2 {
            let elements = vec![value];
            let array = ArrayValue { element: SqlType::Int4, lower_bound: 1, elements };
            value = Datum::Array(Box::new(array));
        }
        let bytes = frame::encode(&value).expect("small");
        assert!(matches!(frame::decode::<Datum>(&bytes), Err(FrameError::Decode)));
    });
    run.expect("a thread").join().expect("no overflow");
}

#[test]
fn frames_have_a_bound() {
    let mut buffer = FrameBuffer::default();
    let huge = buffer.push(1, |frame: &mut BytesMut| {
        frame.put_bytes(0, crate::protocol::FRAME_BYTES_MAX + 1);
        Ok(())
    });
    assert_eq!(huge, Err(FrameError::TooLarge));
    assert_eq!(buffer.len(), 0);
    buffer.push(2, |_| Ok(())).expect("an empty frame");
    let mut message = buffer.take().expect("a message");
    assert_eq!(next_frame(&mut message), Ok(Some((2, Bytes::new()))));
    assert_eq!(next_frame(&mut message), Ok(None));
    let large = Bytes::from(vec![0u8; crate::protocol::FRAME_BYTES_MAX]);
    // With its length it is larger.
    assert_eq!(frame::encode(&large).err(), Some(FrameError::TooLarge));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_larger_than_a_frame_is_refused_here() {
    let served = Served::start().await;
    let shard = served.client().await;
    let key = Bytes::from(vec![0; crate::protocol::FRAME_BYTES_MAX + 1]);
    let context = RequestContext::default();
    let request = GetRequest { context, table: table(5, 1), keys: vec![key] };
    let error = shard.get(request).await.expect_err("too large");
    assert!(matches!(error, ShardError::LimitExceeded { .. }), "{error:?}");
    assert!(served.shard.asked().is_empty());
    shard.status().await.expect("the connection lives on");
}
