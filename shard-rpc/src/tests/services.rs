//! Calls between nodes beside the shards.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::StreamExt;

use super::{eventually, quick};
use crate::{CallError, Server, ServerConfig, Service, ServiceClient};

/// Counts the streams that are open.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_are_answered_and_streams_live_as_long_as_both_sides() {
    let open = Arc::new(AtomicUsize::new(0));
    let held = open.clone();
    let service = Service::new("cortexdb.Test")
        .unary(
            "Double",
            |n: u64| async move { if n == 0 { Err("zero".to_owned()) } else { Ok(n * 2) } },
        )
        .unary("Never", |(): ()| std::future::pending::<()>())
        .streaming("Hold", move |name: String| {
            held.fetch_add(1, Ordering::SeqCst);
            let guard = Open(held.clone());
            futures::stream::once(async move { name }).chain(futures::stream::pending()).map(
                move |name| {
                    let _open = &guard;
                    name
                },
            )
        });
    let config = ServerConfig::new("test", None);
    let address = "127.0.0.1:0".parse().expect("an address");
    let server = Server::bind(address, config).await.expect("a port").add_service(service);
    let address = server.address().to_string();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let task = tokio::spawn(server.serve(async {
        let _ = stopped.await;
    }));
    let client = ServiceClient::new(&address, &quick()).expect("an address");
    let wait = Duration::from_secs(5);
    let ask = |n: u64| {
        let client = client.clone();
        async move { client.unary::<_, Result<u64, String>>("cortexdb.Test", "Double", &n, wait).await }
    };
    assert_eq!(ask(21).await.expect("an answer"), Ok(42));
    assert_eq!(ask(0).await.expect("an answer"), Err("zero".to_owned()));
    let short = Duration::from_millis(50);
    let error = client.unary::<_, ()>("cortexdb.Test", "Never", &(), short).await;
    assert!(matches!(error, Err(CallError::Unavailable { .. })), "{error:?}");
    let error = client.unary::<_, ()>("cortexdb.Test", "Nothing", &(), wait).await;
    assert!(matches!(error, Err(CallError::Mismatch { .. })), "{error:?}");
    let error = client.unary::<_, u64>("cortexdb.Test", "Double", &"text", wait).await;
    assert!(matches!(error, Err(CallError::Mismatch { .. })), "{error:?}");

    let name = "me".to_owned();
    let mut one =
        client.streaming::<_, String>("cortexdb.Test", "Hold", &name, wait).await.expect("held");
    assert_eq!(one.next().await, Some(Ok("me".to_owned())));
    let two = client.streaming::<_, String>("cortexdb.Test", "Hold", &name, wait).await;
    eventually("two", || open.load(Ordering::SeqCst) == 2).await;
    drop(two);
    eventually("one", || open.load(Ordering::SeqCst) == 1).await;
    drop(stop);
    let ended = one.next().await;
    assert!(matches!(ended, Some(Err(CallError::Unavailable { .. })) | None), "{ended:?}");
    task.await.expect("no panic").expect("served");
    assert_eq!(open.load(Ordering::SeqCst), 0);
    let error = ask(1).await.expect_err("nobody there");
    assert!(matches!(error, CallError::Unavailable { .. }));
}
