//! A store that cannot answer, and the one that stands in for it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use http::{Request, StatusCode};
use tower::{Layer, ServiceBuilder};
use tower_gate::store::memory::MemoryStore;
use tower_gate::store::{
    ClosedStore, FallbackStore, RateLimitStore, Settlement, StoreError, TakeRequest, UnlimitedStore,
};
use tower_gate::{
    AuditLayer, Decisions, ManualClock, Outcome, PartitionKey, PeerAddr, Quota, RateLimitLayer,
};

use crate::recording::Recording;
use crate::support::{Probe, TestBody, Trail, anonymous, send};

const MINUTE: Quota = Quota::per_minute(1).with_burst(5);

/// Limits in memory that can be reached over a wire which can be cut.
#[derive(Clone, Default)]
struct Remote {
    is_gone: Arc<AtomicBool>,
    calls: Arc<AtomicU32>,
    memory: MemoryStore,
}

impl Remote {
    fn cut(&self, is_gone: bool) {
        self.is_gone.store(is_gone, Ordering::SeqCst);
    }

    fn calls(&self) -> u32 {
        self.calls.swap(0, Ordering::SeqCst)
    }
}

impl RateLimitStore for Remote {
    async fn take(&self, request: &TakeRequest) -> Result<Decisions, StoreError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if self.is_gone.load(Ordering::SeqCst) {
            return Err(StoreError::new("the wire is cut"));
        }
        self.memory.take(request).await
    }

    fn settle(&self, settlement: &Settlement) {
        self.memory.settle(settlement);
    }
}

fn request(now: Duration, cost: u32) -> TakeRequest {
    TakeRequest::new(PartitionKey::new(["caller"]), MINUTE, cost, now)
}

/// As the layer asks.
async fn ask<S: RateLimitStore>(store: &S, now: Duration) -> Result<Decisions, StoreError> {
    match store.try_take(&request(now, 1)) {
        Some(answer) => answer,
        None => store.take(&request(now, 1)).await,
    }
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

#[tokio::test]
async fn a_store_that_is_gone_is_left_alone_but_for_one_request_now_and_then() {
    let remote = Remote::default();
    let store = FallbackStore::new(remote.clone(), MemoryStore::new());
    remote.cut(true);
    for asked in 1..=3 {
        assert!(!store.is_out(), "one error may be chance");
        let decisions = ask(&store, Duration::ZERO).await.unwrap();
        assert!(decisions.are_fallback() && decisions.are_allowed());
        assert_eq!(decisions[0].usage().remaining, 5 - asked, "the same quota, in memory");
    }
    assert_eq!((store.is_out(), store.errors(), store.outages()), (true, 3, 1));
    remote.calls();
    for _ in 0..100 {
        assert!(ask(&store, seconds(0.04)).await.unwrap().are_fallback());
    }
    assert_eq!(remote.calls(), 0, "RL-70: nobody waits for a store that is gone");
    // The pauses between two probes grow from a tenth of a second to two seconds.
    let (mut now, mut probes) = (seconds(0.1), 0);
    while now < seconds(60.0) {
        let _ = ask(&store, now).await.unwrap();
        probes += remote.calls();
        now += seconds(0.01);
    }
    assert!((30..70).contains(&probes), "RL-70: {probes} probes in a minute");
    assert_eq!(store.outages(), 1);
}

#[tokio::test]
async fn the_first_answer_ends_an_outage() {
    let remote = Remote::default();
    let store = FallbackStore::new(remote.clone(), MemoryStore::new());
    assert!(!ask(&store, Duration::ZERO).await.unwrap().are_fallback());
    remote.cut(true);
    for _ in 0..5 {
        assert!(ask(&store, Duration::ZERO).await.unwrap().are_fallback());
    }
    remote.cut(false);
    assert!(ask(&store, seconds(0.04)).await.unwrap().are_fallback(), "too early to ask");
    let decisions = ask(&store, seconds(0.2)).await.unwrap();
    assert_eq!((decisions.are_fallback(), store.is_out()), (false, false));
    assert_eq!(decisions[0].usage().remaining, 3, "the store goes on from where it was");
    let fallbacks = store.fallbacks();
    for _ in 0..10 {
        let _ = ask(&store, seconds(0.2)).await.unwrap();
    }
    assert_eq!((fallbacks, store.fallbacks(), store.errors()), (6, 6, 3));
}

#[tokio::test]
async fn what_is_settled_goes_to_the_store_that_decides() {
    let (remote, memory) = (Remote::default(), MemoryStore::new());
    let store = FallbackStore::new(remote.clone(), memory.clone());
    let give_back = || {
        let key = PartitionKey::new(["caller"]);
        store.settle(&Settlement::new(key, MINUTE, -1, Duration::ZERO));
    };
    let left = |decisions: Decisions| decisions[0].usage().remaining;
    let look = || (request(Duration::ZERO, 0), request(Duration::ZERO, 0));
    assert_eq!(left(ask(&store, Duration::ZERO).await.unwrap()), 4);
    give_back();
    assert_eq!(left(remote.memory.take(&look().0).await.unwrap()), 5);
    remote.cut(true);
    for expected in [4, 3, 2] {
        assert_eq!(left(ask(&store, Duration::ZERO).await.unwrap()), expected);
    }
    give_back();
    assert_eq!(left(memory.take(&look().1).await.unwrap()), 3);
}

#[tokio::test]
async fn an_outage_is_logged_when_it_begins_and_when_it_ends() {
    let recording = Recording::start();
    let remote = Remote::default();
    let store = FallbackStore::open(remote.clone());
    for _ in 0..2 {
        remote.cut(true);
        for _ in 0..100 {
            let _ = ask(&store, Duration::ZERO).await.unwrap();
        }
        remote.cut(false);
        for _ in 0..100 {
            let _ = ask(&store, seconds(10.0)).await.unwrap();
        }
    }
    let logged: Vec<_> = recording
        .events("tower_gate::trace")
        .into_iter()
        .map(|event| (event.field("cause").to_owned(), event.field("fallbacks").to_owned()))
        .collect();
    let pair = |cause: &str, fallbacks: &str| (cause.to_owned(), fallbacks.to_owned());
    let cut = || pair("the wire is cut", "");
    assert_eq!(logged, [cut(), pair("", "100"), cut(), pair("", "200")]);
}

fn from_somewhere() -> Request<TestBody> {
    let mut request = anonymous();
    let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 4711);
    request.extensions_mut().insert(PeerAddr(address));
    request
}

/// The statuses of seven requests whose store is gone, all of which say so in the trail.
async fn statuses(store: impl RateLimitStore) -> (Vec<StatusCode>, Trail) {
    let trail = Trail::default();
    let limit = RateLimitLayer::by_address(store, MINUTE).with_clock(ManualClock::default());
    let layers = ServiceBuilder::new().layer(AuditLayer::new(trail.clone())).layer(limit);
    let service = layers.into_inner().layer(Probe::default());
    let mut statuses = Vec::new();
    for _ in 0..7 {
        statuses.push(send(&service, from_somewhere()).await.status);
    }
    (statuses, trail)
}

#[tokio::test]
async fn a_limit_without_its_store_limits_by_itself_or_nobody_or_refuses_as_it_is_told() {
    const OK: StatusCode = StatusCode::OK;
    const LIMITED: StatusCode = StatusCode::TOO_MANY_REQUESTS;
    let gone = || {
        let remote = Remote::default();
        remote.cut(true);
        remote
    };
    let (memory, trail) = statuses(FallbackStore::new(gone(), MemoryStore::new())).await;
    assert_eq!(memory, [OK, OK, OK, OK, OK, LIMITED, LIMITED], "RL-23, attack 44");
    assert!(trail.events().iter().all(|event| event.fallback), "RL-23: audited");

    let (open, trail) = statuses(FallbackStore::open(gone())).await;
    assert_eq!(open, [OK; 7], "RL-23");
    assert!(trail.events().iter().all(|event| event.fallback), "RL-23: audited");

    let (closed, trail) = statuses(FallbackStore::closed(gone())).await;
    assert_eq!(closed, [StatusCode::SERVICE_UNAVAILABLE; 7], "RL-23, attack 44");
    for event in trail.events() {
        assert_eq!((event.outcome, event.reason), (Outcome::Error, Some("store_unavailable")));
    }

    let (_, trail) = statuses(FallbackStore::new(Remote::default(), ClosedStore)).await;
    for event in trail.events() {
        let json = serde_json::to_value(&event).unwrap();
        assert_eq!((event.fallback, json.get("fallback")), (false, None));
    }
}

#[tokio::test]
async fn a_fallback_is_a_member_of_the_event() {
    let (_, trail) = statuses(FallbackStore::new(ClosedStore, UnlimitedStore)).await;
    let json = serde_json::to_value(&trail.events()[0]).unwrap();
    assert_eq!((&json["fallback"], &json["remaining"]), (&true.into(), &5.into()));
}
