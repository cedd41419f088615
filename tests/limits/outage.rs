//! What callers see of a Redis that is silent, or gone.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::{Request, StatusCode};
use redis::aio::ConnectionManager;
use tower::{Layer, ServiceBuilder};
use tower_gate::audit::Audit;
use tower_gate::rate_limit::RateLimit;
use tower_gate::store::memory::MemoryStore;
use tower_gate::store::redis::RedisStore;
use tower_gate::store::{FallbackStore, RateLimitStore};
use tower_gate::{AuditLayer, PeerAddr, Quota, RateLimitLayer};

use crate::connect;
use crate::lateness::Lateness;
use crate::servers::redis::Redis;
use crate::support::{Probe, TestBody, Trail, anonymous, send};

pub(crate) const BURST: u32 = 50;
pub(crate) const QUOTA: Quota = Quota::per_hour(1).with_burst(BURST);

/// The default of the store.
pub(crate) const TIMEOUT: Duration = Duration::from_millis(100);

pub(crate) type Service = Audit<RateLimit<Probe>>;

pub(crate) fn service(store: impl RateLimitStore, quota: Quota) -> (Service, Trail) {
    let trail = Trail::default();
    let limit = RateLimitLayer::by_address(store, quota).with_partition_secret([7; 16]);
    let layers = ServiceBuilder::new().layer(AuditLayer::new(trail.clone())).layer(limit);
    (layers.into_inner().layer(Probe::default()), trail)
}

pub(crate) fn from(host: u8) -> Request<TestBody> {
    let mut request = anonymous();
    let address = SocketAddr::new(Ipv4Addr::new(203, 0, 113, host).into(), 4711);
    request.extensions_mut().insert(PeerAddr(address));
    request
}

async fn store(redis: &Redis) -> RedisStore<ConnectionManager> {
    RedisStore::new(connect(redis).await)
}

/// How often each status comes in a hundred requests, and what they took.
async fn hundred(service: &Service, host: u8) -> (Vec<StatusCode>, Duration) {
    let (start, mut statuses, lateness) = (Instant::now(), Vec::new(), Lateness::start());
    for _ in 0..100 {
        let start = Instant::now();
        statuses.push(send(service, from(host)).await.status);
        lateness.assert_no_longer(start.elapsed(), TIMEOUT);
    }
    (statuses, start.elapsed())
}

fn count(statuses: &[StatusCode], status: StatusCode) -> u32 {
    statuses.iter().map(|&one| u32::from(one == status)).sum()
}

#[tokio::test]
async fn a_silent_redis_is_answered_for_in_time_as_the_store_is_told() {
    let redis = Redis::start();
    let (memory, _) = service(FallbackStore::new(store(&redis).await, MemoryStore::new()), QUOTA);
    let (open, _) = service(FallbackStore::open(store(&redis).await), QUOTA);
    let (closed, _) = service(FallbackStore::closed(store(&redis).await), QUOTA);
    let (bare, trail) = service(store(&redis).await, QUOTA);
    redis.pause();
    for (service, ok, limited, unavailable) in
        [(memory, BURST, 100 - BURST, 0), (open, 100, 0, 0), (closed, 0, 0, 100)]
    {
        let (statuses, took) = hundred(&service, 1).await;
        let counts =
            [StatusCode::OK, StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE]
                .map(|status| count(&statuses, status));
        assert_eq!(counts, [ok, limited, unavailable], "RL-23, attack 44");
        // A hundred timeouts would be ten seconds.
        assert!(took < Duration::from_secs(3), "RL-70: the breaker is open: {took:?}");
    }
    let (start, lateness) = (Instant::now(), Lateness::start());
    assert_eq!(send(&bare, from(1)).await.status, StatusCode::SERVICE_UNAVAILABLE, "RL-23");
    lateness.assert_no_longer(start.elapsed(), TIMEOUT);
    assert_eq!(trail.event().reason, Some("store_unavailable"));
}

#[tokio::test]
async fn what_was_taken_before_a_pause_counts_after_it() {
    let redis = Redis::start();
    let store = FallbackStore::new(store(&redis).await, MemoryStore::new());
    let (service, trail) = service(store.clone(), QUOTA);
    for _ in 0..30 {
        assert_eq!(send(&service, from(1)).await.status, StatusCode::OK);
    }
    redis.pause();
    while !store.is_out() {
        assert_eq!(send(&service, from(2)).await.status, StatusCode::OK);
    }
    redis.resume();
    recover(&service, &store).await;
    let before = trail.events().len();
    let (statuses, _) = hundred(&service, 1).await;
    assert_eq!(count(&statuses, StatusCode::OK), BURST - 30, "exact again");
    assert!(trail.events()[before..].iter().all(|event| !event.fallback));
}

/// Requests of another caller ask whether it is back, without anybody's help.
async fn recover(
    service: &Service,
    store: &FallbackStore<RedisStore<ConnectionManager>, MemoryStore>,
) {
    let start = Instant::now();
    while store.is_out() {
        assert!(start.elapsed() < Duration::from_secs(20), "RL-70: it does not recover");
        let status = send(service, from(3)).await.status;
        assert!(!status.is_server_error(), "{status}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_killed_under_load_costs_nobody_an_answer() {
    let redis = Redis::start();
    let store = FallbackStore::new(store(&redis).await, MemoryStore::new());
    let (service, _) = service(store.clone(), QUOTA);
    let (is_over, lateness) = (Arc::new(AtomicBool::new(false)), Lateness::start());
    let mut callers = Vec::new();
    for _ in 0..8 {
        let (service, is_over) = (service.clone(), is_over.clone());
        callers.push(tokio::spawn(async move {
            let mut answers = Vec::new();
            while !is_over.load(Ordering::Relaxed) {
                let start = Instant::now();
                let status = send(&service, from(1)).await.status;
                answers.push((status, start.elapsed()));
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            answers
        }));
    }
    let pause = || tokio::time::sleep(Duration::from_millis(300));
    pause().await;
    redis.kill();
    while !store.is_out() {
        // Whoever is known to be limited needs no Redis; somebody else finds out.
        assert!(!send(&service, from(2)).await.status.is_server_error());
        pause().await;
    }
    pause().await;
    redis.restart();
    recover(&service, &store).await;
    pause().await;
    is_over.store(true, Ordering::Relaxed);
    let mut admitted = 0;
    for caller in callers {
        for (status, took) in caller.await.unwrap() {
            assert!(!status.is_server_error(), "RL-70: {status}");
            lateness.assert_no_longer(took, TIMEOUT);
            admitted += u32::from(status == StatusCode::OK);
        }
    }
    // By Redis, by memory, and by a Redis that knows nothing of before.
    assert!((BURST..=3 * BURST).contains(&admitted), "attack 44: {admitted}");
    let fallbacks = store.fallbacks();
    let (statuses, _) = hundred(&service, 4).await;
    assert_eq!(count(&statuses, StatusCode::OK), BURST, "exact again");
    assert_eq!(store.fallbacks(), fallbacks);
}
