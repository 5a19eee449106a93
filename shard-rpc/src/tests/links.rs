//! Connections that cannot be made, break, fall silent or are refused.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use cortex_shard_api::{ShardError, ShardId, client::ShardClient};
use futures::StreamExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::{Served, double::Double, eventually, quick, round_trip::fragment};
use crate::{
    ClientConfig, Endpoint, LinkState, RemoteShard, TlsConfig,
    tls::{CertificatePair, new_authority, new_node},
};

fn unavailable(error: &ShardError) -> &str {
    match error {
        ShardError::Unavailable { shard: ShardId(7), reason } => reason,
        other => panic!("{other:?}"),
    }
}

/// Carries bytes between a client and a server, until it is told to let them vanish.
async fn proxy(to: SocketAddr) -> (SocketAddr, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let is_silent = Arc::new(AtomicBool::new(false));
    let flag = is_silent.clone();
    let pump = |from: tokio::net::tcp::OwnedReadHalf, to, flag: Arc<AtomicBool>| async move {
        let (mut from, mut to): (_, tokio::net::tcp::OwnedWriteHalf) = (from, to);
        let mut buffer = vec![0; 1 << 16];
        while let Ok(n @ 1..) = from.read(&mut buffer).await {
            if !flag.load(Ordering::SeqCst) && to.write_all(&buffer[..n]).await.is_err() {
                return;
            }
        }
        // A link that is cut says nothing of the other side's end, either.
        while flag.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let Ok(server) = TcpStream::connect(to).await else { continue };
            let ((a, b), (c, d)) = (client.into_split(), server.into_split());
            tokio::spawn(pump(a, d, flag.clone()));
            tokio::spawn(pump(c, b, flag.clone()));
        }
    });
    (address, is_silent)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_server_requests_fail_at_once_and_later_go_through() {
    let reserved = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = reserved.local_addr().expect("an address").to_string();
    drop(reserved);
    let endpoint = Endpoint {
        shard: ShardId(7),
        address: address.clone(),
        cluster: super::CLUSTER.to_owned(),
        caller: "a test".to_owned(),
    };
    let shard = RemoteShard::connect_lazy(endpoint, quick());
    assert_eq!(shard.state(), LinkState::Connecting);
    for _ in 0..3 {
        let began = Instant::now();
        let error = shard.status().await.expect_err("nobody there");
        assert!(unavailable(&error).contains("refused"), "{error}");
        assert!(began.elapsed() < Duration::from_secs(1));
    }
    assert!(matches!(shard.state(), LinkState::Down { .. }));
    let double = Arc::new(Double::new(ShardId(7)));
    let served = Served::start_with(&address, double.clone(), None).await;
    assert!(shard.ready(Duration::from_secs(5)).await);
    shard.status().await.expect("an answer");
    // And again, in the middle of a stream.
    let mut batches = shard.execute(fragment("hang 1")).await.expect("batches");
    batches.next().await.expect("one").expect("a batch");
    served.stop().await;
    let error = batches.next().await.expect("more").expect_err("not the end of the rows");
    unavailable(&error);
    eventually("down", || matches!(shard.state(), LinkState::Down { .. })).await;
    unavailable(&shard.status().await.expect_err("nobody there"));
    let _served = Served::start_with(&address, double, None).await;
    assert!(shard.ready(Duration::from_secs(5)).await);
    shard.status().await.expect("an answer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_is_back_answers_the_first_request() {
    let served = Served::start().await;
    let endpoint = served.endpoint();
    let pause = Duration::from_secs(60);
    let config = ClientConfig { backoff_max: pause, ..quick() };
    let shard = RemoteShard::connect_lazy(endpoint.clone(), config);
    shard.status().await.expect("an answer");
    let double = served.stop().await;
    // So long that no attempt of its own would find the shard within this test.
    for _ in 0..16 {
        unavailable(&shard.status().await.expect_err("nobody there"));
    }
    let _served = Served::start_with(&endpoint.address, double, None).await;
    shard.status().await.expect("an answer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_link_is_noticed_on_both_sides() {
    let served = Served::start().await;
    let (address, is_silent) = proxy(served.address).await;
    let endpoint = Endpoint { address: address.to_string(), ..served.endpoint() };
    let shard = RemoteShard::connect_lazy(endpoint, quick());
    let snapshot = shard.open_snapshot(&Default::default(), &[]).await.expect("a snapshot");
    assert_eq!(served.shard.snapshots.lock().len(), 1);
    let mut batches = shard.execute(fragment("hang 1")).await.expect("batches");
    batches.next().await.expect("one").expect("a batch");
    is_silent.store(true, Ordering::SeqCst);
    let began = Instant::now();
    let error = shard.status().await.expect_err("silence");
    unavailable(&error);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    unavailable(&batches.next().await.expect("more").expect_err("not the end of the rows"));
    // The server gives up by itself: two seconds and four.
    for _ in 0..100 {
        if served.shard.snapshots.lock().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(served.shard.snapshots.lock().is_empty(), "the server noticed");
    is_silent.store(false, Ordering::SeqCst);
    assert!(shard.ready(Duration::from_secs(5)).await);
    shard.close_snapshot(snapshot);
    shard.status().await.expect("an answer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wrong_cluster_and_the_wrong_shard_refuse() {
    let served = Served::start().await;
    let other = Endpoint { cluster: "other".to_owned(), ..served.endpoint() };
    let shard = RemoteShard::connect_lazy(other, quick());
    let error = shard.status().await.expect_err("refused");
    assert!(unavailable(&error).contains("another cluster (test)"), "{error}");
    let other = Endpoint { shard: ShardId(8), ..served.endpoint() };
    let shard = RemoteShard::connect_lazy(other, quick());
    let error = shard.status().await.expect_err("refused").to_string();
    assert!(error.contains("does not serve shard 8"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_moves_to_another_address() {
    let (one, two) = (Served::start().await, Served::start().await);
    let shard = one.client().await;
    shard.status().await.expect("an answer");
    shard.set_address(&two.address.to_string());
    // A request that still goes to the old one is answered there.
    for _ in 0..500 {
        let _ = shard.status().await;
        if two.shard.has_asked("status") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(two.shard.has_asked("status"));
    let n = one.shard.asked().len();
    shard.status().await.expect("an answer");
    assert_eq!(one.shard.asked().len(), n);
}

fn node(cluster: &str, authority: &CertificatePair) -> TlsConfig {
    let node = new_node(cluster, &authority.key, "a node").expect("a certificate");
    TlsConfig { ca: authority.certificate.clone(), certificate: node.certificate, key: node.key }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_nodes_with_a_certificate_of_the_cluster_talk() {
    let authority = new_authority("one").expect("an authority");
    let stranger = new_authority("one").expect("another authority");
    let double = Arc::new(Double::new(ShardId(7)));
    let tls = Some(node("one", &authority));
    let served = Served::start_with("127.0.0.1:0", double, tls.clone()).await;
    let with = |tls| {
        let config = crate::ClientConfig { tls, ..quick() };
        RemoteShard::connect_lazy(served.endpoint(), config)
    };
    let friend = with(Some(node("one", &authority)));
    friend.status().await.expect("an answer");
    let batches = friend.execute(fragment("batches 3")).await.expect("batches");
    assert_eq!(batches.count().await, 3);
    // No certificate, one of another authority, one that is only good for us.
    let of_stranger = TlsConfig { ca: authority.certificate.clone(), ..node("one", &stranger) };
    let doubtful = node("one", &stranger);
    for tls in [None, Some(of_stranger), Some(doubtful)] {
        let shard = with(tls);
        let error = shard.status().await.expect_err("refused");
        assert!(!unavailable(&error).is_empty());
        assert!(!shard.ready(Duration::from_millis(200)).await);
    }
    assert_eq!(served.shard.asked().len(), 2);
    // A client with certificates does not talk to a server without.
    let plain = Served::start().await;
    let config = crate::ClientConfig { tls, ..quick() };
    let shard = RemoteShard::connect_lazy(plain.endpoint(), config);
    unavailable(&shard.status().await.expect_err("refused"));
}
