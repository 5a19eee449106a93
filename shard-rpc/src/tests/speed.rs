//! How many round trips a second, and what one costs: `cargo test --release -p cortex-shard-rpc -- --ignored --nocapture speed`.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use cortex_shard_api::client::{GetRequest, RequestContext, ShardClient};

use super::{Served, double::table};

/// CPU seconds of this process so far, user and system.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> =
        stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|field| field.parse::<f64>().ok());
    (ticks(11).unwrap_or(0.0) + ticks(12).unwrap_or(0.0)) / 100.0
}

async fn gets(shard: &Arc<dyn ShardClient>, n_clients: usize, n: usize) -> (f64, f64) {
    let (began, cpu) = (Instant::now(), cpu_seconds());
    let t = table(5, 1);
    let clients = (0..n_clients).map(|_| {
        let (shard, t) = (shard.clone(), t.clone());
        tokio::spawn(async move {
            for _ in 0..n {
                let request = GetRequest {
                    context: RequestContext::default(),
                    table: t.clone(),
                    keys: vec![Bytes::from_static(b"a key of a row")],
                };
                shard.get(request).await.expect("an answer");
            }
        })
    });
    futures::future::join_all(clients).await;
    let total = (n * n_clients) as f64;
    (total / began.elapsed().as_secs_f64(), (cpu_seconds() - cpu) * 1e6 / total)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures; run it alone, in release"]
async fn point_reads() {
    let served = Served::start().await;
    *served.shard.is_quiet.lock() = true;
    let remote: Arc<dyn ShardClient> = served.client().await;
    let local: Arc<dyn ShardClient> = served.shard.clone();
    for (name, shard, n) in [("in place", &local, 200_000), ("remote", &remote, 20_000)] {
        for n_clients in [1, 4, 16, 64] {
            let n = (n * 4 / n_clients).min(n);
            gets(shard, n_clients, n / 10).await;
            let (rate, cpu) = gets(shard, n_clients, n).await;
            println!("{name}, {n_clients} clients: {rate:.0}/s, {cpu:.1} us CPU each");
        }
    }
}
