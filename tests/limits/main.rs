//! Limits that several nodes share, against real servers, and what becomes of them when those are
//! gone.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod cluster;
mod contract;
mod flood;
mod lateness;
mod nodes;
mod outage;
mod processes;
mod script;
#[path = "../servers/mod.rs"]
mod servers;
mod single;
#[path = "../suite/support.rs"]
#[allow(dead_code, reason = "it is the support of another test, too")]
mod support;

use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use tower_gate::store::redis::RedisStore;
use tower_gate::store::{RateLimitStore, StoreError, Take, TakeRequest};
use tower_gate::{Clock, Decision, Decisions, PartitionKey, Quota, SystemClock};

use crate::servers::redis::{Redis, RedisCluster};

/// A connection that connects again, soon.
async fn connect(redis: &Redis) -> ConnectionManager {
    connect_to(&redis.url()).await
}

async fn connect_to(url: &str) -> ConnectionManager {
    let config = ConnectionManagerConfig::new()
        .set_min_delay(Duration::from_millis(10))
        .set_max_delay(Duration::from_millis(50))
        .set_number_of_retries(3);
    let client = redis::Client::open(url).unwrap();
    ConnectionManager::new_with_config(client, config).await.unwrap()
}

async fn connect_to_cluster(cluster: &RedisCluster) -> ClusterConnection {
    ClusterClient::new(cluster.urls()).unwrap().get_async_connection().await.unwrap()
}

/// A store that waits for as long as a busy machine takes.
async fn patient(redis: &Redis) -> RedisStore<ConnectionManager> {
    RedisStore::new(connect(redis).await).with_timeout(PATIENCE)
}

const PATIENCE: Duration = Duration::from_secs(5);

/// Units that do not come back while a test runs.
const HOURLY: Quota = Quota::per_hour(1).with_burst(5);

fn take(name: &str, quota: Quota, cost: u32) -> Take {
    Take::new(PartitionKey::new([name]), quota, cost)
}

/// As the layer asks.
async fn ask(
    store: &impl RateLimitStore,
    takes: impl IntoIterator<Item = Take>,
) -> Result<Decisions, StoreError> {
    ask_at(SystemClock.monotonic(), store, takes).await
}

async fn ask_at(
    now: Duration,
    store: &impl RateLimitStore,
    takes: impl IntoIterator<Item = Take>,
) -> Result<Decisions, StoreError> {
    let request = TakeRequest::together(takes, now);
    match store.try_take(&request) {
        Some(answer) => answer,
        None => store.take(&request).await,
    }
}

/// What cannot depend on how fast a test runs: whether it passed, whether it ever will, and what is
/// left.
fn in_short(decisions: &[Decision]) -> Vec<(bool, bool, u32)> {
    let short = |decision: &Decision| match decision {
        Decision::Allowed(usage) => (true, true, usage.remaining),
        Decision::Limited { usage, retry_after } => (false, retry_after.is_some(), usage.remaining),
    };
    decisions.iter().map(short).collect()
}
