//! A store that cannot answer, and the one that stands in for it.

use std::collections::HashSet;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use tower::{Layer, ServiceBuilder, service_fn};
use tower_gate::rate_limit::{Cost, Policy};
use tower_gate::store::memory::MemoryStore;
use tower_gate::store::{
    ClosedStore, FallbackStore, RateLimitStore, Settlement, StoreError, Take, TakeRequest,
    UnlimitedStore,
};
use tower_gate::{
    AuditLayer, Decisions, ManualClock, Outcome, Partition, PartitionKey, PeerAddr, Quota,
    RateLimitLayer,
};

use crate::recording::Recording;
use crate::support::{Probe, TestBody, Trail, anonymous, send};

const MINUTE: Quota = Quota::per_minute(1).with_burst(5);

/// Limits in memory that can be reached over a wire which can be cut.
#[derive(Clone, Default)]
struct Remote {
    is_gone: Arc<AtomicBool>,
    calls: Arc<AtomicU32>,
    settled: Arc<AtomicU32>,
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
        self.settled.fetch_add(1, Ordering::SeqCst);
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
async fn what_is_settled_goes_to_the_store_that_has_taken_it() {
    let (remote, standby) = (Remote::default(), Remote::default());
    // One in front of another, too.
    let inner = FallbackStore::new(remote.clone(), standby.clone());
    let store = FallbackStore::new(inner.clone(), MemoryStore::new());
    let costs: Arc<Mutex<Vec<Cost>>> = Arc::default();
    let kept = costs.clone();
    let handler = service_fn(move |request: Request<TestBody>| {
        kept.lock().unwrap().push(Cost::of(request.extensions()).unwrap().clone());
        async { Ok::<_, Infallible>(Response::new(TestBody::default())) }
    });
    let service = RateLimitLayer::of(store, [Policy::new("units", MINUTE).with_settled_cost()])
        .with_partition(Partition::global())
        .with_clock(ManualClock::default())
        .layer(handler);
    let requests = async |count| {
        for _ in 0..count {
            assert_eq!(send(&service, anonymous()).await.status, 200);
        }
    };
    requests(1).await;
    remote.cut(true);
    requests(3).await;
    assert!(inner.is_out());
    let settled =
        || (remote.settled.load(Ordering::SeqCst), standby.settled.load(Ordering::SeqCst));
    for expected in [(1, 0), (1, 1), (1, 2), (1, 3)] {
        costs.lock().unwrap().remove(0).set(0);
        assert_eq!(settled(), expected, "the first was the remote store's, which is out now");
    }
}

/// Limits on four nodes, which share the keys out, and may be gone one by one.
#[derive(Clone, Default)]
struct Nodes {
    gone: Arc<Mutex<HashSet<u8>>>,
    errors: Arc<AtomicU32>,
    memory: MemoryStore,
}

impl RateLimitStore for Nodes {
    async fn take(&self, request: &TakeRequest) -> Result<Decisions, StoreError> {
        let gone = self.gone.lock().unwrap().clone();
        if request.takes().iter().any(|take| gone.contains(&self.part_of(&take.key))) {
            self.errors.fetch_add(1, Ordering::SeqCst);
            return Err(StoreError::new("the node is gone"));
        }
        self.memory.take(request).await
    }

    fn settle(&self, settlement: &Settlement) {
        self.memory.settle(settlement);
    }

    fn part_of(&self, key: &PartitionKey) -> u8 {
        (key.to_u128() % 4) as u8
    }
}

#[tokio::test]
async fn a_node_that_is_gone_costs_a_few_requests_their_time_and_others_nothing() {
    let nodes = Nodes::default();
    let store = FallbackStore::new(nodes.clone(), MemoryStore::new());
    let key = |n: u32| PartitionKey::new([n.to_string()]);
    let is_gone = |n: u32| nodes.part_of(&key(n)) == 1;
    let take = |n: u32| Take::new(key(n), Quota::per_hour(1000), 1);
    let ask = async |takes: &[Take], now: Duration| {
        let request = TakeRequest::together(takes.iter().copied(), now);
        match store.try_take(&request) {
            Some(answer) => answer.unwrap(),
            None => store.take(&request).await.unwrap(),
        }
    };
    nodes.gone.lock().unwrap().insert(1);
    for n in 0..400 {
        let decisions = ask(&[take(n % 40)], Duration::ZERO).await;
        assert_eq!(decisions.are_fallback(), is_gone(n % 40), "RL-70: {n}");
    }
    assert_eq!(nodes.errors.load(Ordering::SeqCst), 3, "RL-70: three waited for it in vain");
    assert_eq!((store.is_out(), store.outages()), (true, 1));
    let (there, gone) =
        ((0..).find(|&n| !is_gone(n)).unwrap(), (0..).find(|&n| is_gone(n)).unwrap());
    let both = ask(&[take(there), take(gone)], Duration::ZERO).await;
    assert!(both.are_fallback(), "a request that takes from both is not made to wait");
    assert_eq!(nodes.errors.load(Ordering::SeqCst), 3);

    nodes.gone.lock().unwrap().clear();
    assert!(!ask(&[take(gone)], seconds(0.2)).await.are_fallback(), "it is asked again");
    assert_eq!((store.is_out(), store.outages()), (false, 1));

    // A third of the callers, before any of the others.
    nodes.gone.lock().unwrap().insert(1);
    for n in (0..40).filter(|&n| is_gone(n)).chain(0..40) {
        let decisions = ask(&[take(n)], seconds(0.201)).await;
        assert_eq!(decisions.are_fallback(), is_gone(n), "RL-70: {n}");
    }
    nodes.gone.lock().unwrap().clear();
    assert!(!ask(&[take(gone)], seconds(0.4)).await.are_fallback());
    assert_eq!((store.is_out(), store.outages()), (false, 2));
    nodes.errors.store(3, Ordering::SeqCst);

    // All of them at once are one outage, which ends as one.
    nodes.gone.lock().unwrap().extend(0..4);
    for n in 0..40 {
        assert!(ask(&[take(n)], seconds(0.6)).await.are_fallback());
    }
    assert_eq!(nodes.errors.load(Ordering::SeqCst), 6, "RL-70: not three for each node");
    nodes.gone.lock().unwrap().clear();
    for n in 0..40 {
        assert!(!ask(&[take(n)], seconds(0.9)).await.are_fallback(), "{n}");
    }
    assert_eq!((store.is_out(), store.outages()), (false, 3));
}

/// The pause began when the request came, and was over before the store had failed.
#[tokio::test]
async fn a_pause_begins_when_the_store_has_failed() {
    struct Late(Arc<AtomicU32>);
    const LATE: Duration = Duration::from_millis(200);
    impl RateLimitStore for Late {
        async fn take(&self, _: &TakeRequest) -> Result<Decisions, StoreError> {
            self.0.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(LATE).await;
            Err(StoreError::new("at last"))
        }
        fn settle(&self, _: &Settlement) {}
    }
    let calls = Arc::new(AtomicU32::new(0));
    let store = FallbackStore::new(Late(calls.clone()), MemoryStore::new());
    for _ in 0..3 {
        assert!(ask(&store, Duration::ZERO).await.unwrap().are_fallback());
    }
    assert!(store.is_out());
    assert!(ask(&store, LATE).await.unwrap().are_fallback());
    assert_eq!(calls.load(Ordering::SeqCst), 3, "RL-70: nobody has asked so soon");
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
