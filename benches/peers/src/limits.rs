//! Rate limits: a request through each crate's layer, and a decision of what is under it.

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::pin::pin;
use std::sync::{Arc, Barrier};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Instant;

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum_governor::GovernorConfigBuilder as AxumGovernor;
use axum_governor::extractor::PeerIp;
use governor::{DefaultKeyedRateLimiter, RateLimiter};
use http::{Request, Response};
use tower::{Layer, Service};
use tower_gate::rate_limit::HeaderStyle;
use tower_gate::store::memory::MemoryStore;
use tower_gate::store::{RateLimitStore, TakeRequest};
use tower_gate::{Clock, PartitionKey, PeerAddr, Quota, RateLimitLayer, SystemClock};
use tower_governor::governor::GovernorConfigBuilder as TowerGovernor;

use crate::harness::{Subject, Times, median};

const EMPTY: &str = "empty service";
const OURS: &str = "tower-gate, by_address, with its fields";
const OURS_BARE: &str = "tower-gate, by_address, HeaderStyle::None";
const TOWER_GOVERNOR: &str = "tower_governor 0.8.0, use_headers";
const TOWER_GOVERNOR_BARE: &str = "tower_governor 0.8.0";
const AXUM_GOVERNOR: &str = "axum-governor 2.1.2";
const LAYERS: [&str; 5] = [OURS, TOWER_GOVERNOR, OURS_BARE, TOWER_GOVERNOR_BARE, AXUM_GOVERNOR];

const STORE: [&str; 2] = ["MemoryStore, 1 key", "MemoryStore, 1 M keys"];
const GOVERNOR: [&str; 2] = ["governor 0.10.4, 1 key", "governor 0.10.4, 1 M keys"];

/// Enough for everybody, always.
const UNITS: u32 = 1_000_000_000;

/// The same, of which no key gets a unit back while the bench runs, so that none is forgotten.
const MINUTES: Quota = Quota::per_minute(1).with_burst(50_000_000);

pub(crate) fn print(turns: usize) {
    println!("rate limits, above an empty service");
    let layers = Times::measure(turns, layers());
    for name in LAYERS {
        println!("{name:<44}{:>15.0} ns", layers.above(name, EMPTY));
    }
    for (theirs, ours) in [(TOWER_GOVERNOR, OURS), (TOWER_GOVERNOR_BARE, OURS_BARE)] {
        let ratio = layers.above(theirs, EMPTY) / layers.above(ours, EMPTY);
        println!("{:<44}{ratio:>16.2} ×", format!("{theirs} / ours"));
    }

    println!("a decision, clock included");
    let decisions = Times::measure(turns, decisions());
    for name in STORE.into_iter().chain(GOVERNOR) {
        println!("{name:<44}{:>15.0} ns", decisions.median(name));
    }
    for (at, keys) in ["1 key", "1 M keys"].into_iter().enumerate() {
        let ratio = decisions.median(STORE[at]) / decisions.median(GOVERNOR[at]);
        println!("{:<44}{ratio:>16.2} ×", format!("MemoryStore / governor, {keys}"));
    }

    println!("two threads at once, a decision of each");
    let turns = turns.div_ceil(50);
    for (name, spread) in [("one key for both", false), ("1 k keys for each", true)] {
        let (store, limiter) = (MemoryStore::new(), governor());
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..turns {
            times[0].push(on_two_threads(spread, |n| take(&store, key(n))));
            times[1].push(on_two_threads(spread, |n| check(&limiter, key(n))));
        }
        let [ours, theirs] = times.map(|times| median(times.into_iter()));
        println!("{:<44}{ours:>15.0} ns", format!("MemoryStore, {name}"));
        println!("{:<44}{theirs:>15.0} ns", format!("governor 0.10.4, {name}"));
    }
}

fn layers() -> Vec<Subject> {
    let quota = axum_governor::Quota::requests_per_second(NonZeroU32::new(UNITS).unwrap());
    let bare = TowerGovernor::default().per_nanosecond(1).burst_size(UNITS).finish().unwrap();
    let with_headers = TowerGovernor::default()
        .per_nanosecond(1)
        .burst_size(UNITS)
        .use_headers()
        .finish()
        .unwrap();
    let axum_governor = AxumGovernor::default()
        .with_extractor(PeerIp::default())
        .expect_connect_info()
        .quota_default(quota)
        .finish()
        .unwrap();
    let ours = || RateLimitLayer::by_address(MemoryStore::new(), Quota::per_second(UNITS));
    vec![
        subject(EMPTY, Nothing),
        subject(OURS, ours().layer(Nothing)),
        subject(OURS_BARE, ours().with_headers(HeaderStyle::None).layer(Nothing)),
        subject(TOWER_GOVERNOR, tower_governor::GovernorLayer::new(with_headers).layer(Nothing)),
        subject(TOWER_GOVERNOR_BARE, tower_governor::GovernorLayer::new(bare).layer(Nothing)),
        subject(AXUM_GOVERNOR, axum_governor::GovernorLayer::new(axum_governor).layer(Nothing)),
    ]
}

fn subject<S, B>(name: &'static str, mut service: S) -> Subject
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible> + 'static,
    B: 'static,
{
    let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 443));
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.extensions.insert(PeerAddr(peer));
    parts.extensions.insert(ConnectInfo(peer));
    Subject::new(name, move || {
        let request = Request::from_parts(parts.clone(), Body::empty());
        let mut cx = Context::from_waker(Waker::noop());
        assert!(service.poll_ready(&mut cx).is_ready());
        match pin!(service.call(request)).poll(&mut cx) {
            Poll::Ready(Ok(response)) if response.status().is_success() => response,
            _ => panic!("{name}: the request did not come through"),
        }
    })
}

fn decisions() -> Vec<Subject> {
    let mut subjects = Vec::new();
    for (at, keys) in [1_u32, 1_000_000].into_iter().enumerate() {
        let (store, limiter) = (MemoryStore::with_max_keys(2_000_000), governor());
        let order: Arc<[PartitionKey]> = (0..keys).map(key).collect();
        for &key in &*order {
            take(&store, key);
            check(&limiter, key);
        }
        let (ours, theirs) = (order.clone(), order);
        let (mut next, mut other) = (0, 0);
        subjects.push(Subject::new(STORE[at], move || {
            next = (next + 1) % ours.len();
            take(&store, ours[next]);
        }));
        subjects.push(Subject::new(GOVERNOR[at], move || {
            other = (other + 1) % theirs.len();
            check(&limiter, theirs[other]);
        }));
    }
    subjects
}

/// Keys like those of a real store: bits of a keyed hash.
fn key(n: u32) -> PartitionKey {
    PartitionKey::new([n.to_le_bytes()])
}

fn governor() -> DefaultKeyedRateLimiter<PartitionKey> {
    let minute = governor::Quota::per_minute(NonZeroU32::MIN);
    RateLimiter::dashmap(minute.allow_burst(NonZeroU32::new(MINUTES.burst()).unwrap()))
}

fn check(limiter: &DefaultKeyedRateLimiter<PartitionKey>, key: PartitionKey) {
    assert!(black_box(limiter.check_key(&key)).is_ok());
}

fn take(store: &MemoryStore, key: PartitionKey) {
    let request = TakeRequest::new(key, MINUTES, 1, SystemClock.monotonic());
    let answer = store.try_take(&request).unwrap().unwrap();
    assert!(black_box(answer).are_allowed());
}

/// Nanoseconds that each of two threads takes for a decision while both decide.
fn on_two_threads(spread: bool, decide: impl Fn(u32) + Sync) -> f64 {
    const DECISIONS: u32 = 100_000;
    let start = Barrier::new(2);
    let run = |thread: u32| {
        let offset = if spread { thread * 1000 } else { 0 };
        start.wait();
        let began = Instant::now();
        for n in 0..DECISIONS {
            decide(if spread { offset + n % 1000 } else { 0 });
        }
        began.elapsed().as_secs_f64() * 1e9 / f64::from(DECISIONS)
    };
    thread::scope(|scope| {
        let other = scope.spawn(|| run(1));
        let mine = run(0);
        (mine + other.join().unwrap()) / 2.0
    })
}

/// A service that does nothing.
#[derive(Clone)]
struct Nothing;

impl Service<Request<Body>> for Nothing {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        ready(Ok(Response::new(Body::empty())))
    }
}
