//! A flood from millions of addresses, alone in its process: what it takes of memory and time.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking")]

use std::convert::Infallible;
use std::fs;
use std::future::ready;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body_util::Empty;
use tower::{Layer, ServiceExt, service_fn};
use tower_gate::rate_limit::HeaderStyle;
use tower_gate::store::memory::MemoryStore;
use tower_gate::store::{RateLimitStore, Settlement, StoreError, TakeRequest};
use tower_gate::verifier::{VerifyError, VerifyRequest};
use tower_gate::{
    AuthenticateLayer, ClientIp, Decisions, ManualClock, Principal, Quota, RateLimitLayer,
    TokenVerifier,
};

/// Some 150 MB of keys, if all of them were kept.
const ADDRESSES: u32 = 2_500_000;
const CALLERS: u32 = 2000;

/// What `MemoryStore::new` says of a million keys, of each kind, and half as much for what the
/// allocator keeps of tables that have grown.
const MAX_GROWTH_KB: u64 = 96 * 1024;

/// Takes every token for the name of its principal.
struct Named;

impl TokenVerifier for Named {
    fn try_verify(&self, request: &VerifyRequest) -> Option<Result<Principal, VerifyError>> {
        let name = request.token.as_str();
        Some(Ok(Principal::builder("https://issuer.example", name).build()))
    }

    async fn verify(&self, request: &VerifyRequest) -> Result<Principal, VerifyError> {
        self.try_verify(request).unwrap()
    }
}

/// Measures what decisions on verified callers take.
#[derive(Clone)]
struct Timed {
    store: MemoryStore,
    took: Arc<Mutex<Vec<Duration>>>,
}

impl Timed {
    /// The median since the last time it was asked for.
    fn median(&self) -> Duration {
        let mut took = std::mem::take(&mut *self.took.lock().unwrap());
        assert_eq!(took.len(), CALLERS as usize);
        let middle = took.len() / 2;
        *took.select_nth_unstable(middle).1
    }
}

impl RateLimitStore for Timed {
    fn try_take(&self, request: &TakeRequest) -> Option<Result<Decisions, StoreError>> {
        if request.takes()[0].key.is_anonymous() {
            return self.store.try_take(request);
        }
        let start = Instant::now();
        let answer = self.store.try_take(request);
        self.took.lock().unwrap().push(start.elapsed());
        answer
    }

    async fn take(&self, request: &TakeRequest) -> Result<Decisions, StoreError> {
        self.store.take(request).await
    }

    fn settle(&self, settlement: &Settlement) {
        self.store.settle(settlement);
    }
}

/// What the process has in memory.
fn resident_kb() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn millions_of_addresses_stay_within_the_bound_and_change_nothing_for_verified_callers() {
    let store = Timed { store: MemoryStore::new(), took: Arc::default() };
    let next = Arc::new(AtomicU32::new(0));
    let addresses = next.clone();
    // Each request comes from an address of its own.
    let client_ip = ClientIp::from_extensions(move |_| {
        let address = addresses.fetch_add(1, Ordering::Relaxed);
        Some(IpAddr::from(Ipv4Addr::from_bits(address)))
    });
    let limit = RateLimitLayer::new(store.clone(), Quota::per_hour(3))
        .with_clock(ManualClock::default())
        .with_client_ip(client_ip)
        .with_headers(HeaderStyle::None);
    let handler = service_fn(|_: Request<()>| {
        ready(Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())))
    });
    let service = AuthenticateLayer::new(Named).optional().layer(limit.layer(handler));
    let callers = |expected: u16| {
        for n in 0..CALLERS {
            let request = Request::builder().header("authorization", format!("Bearer c{n}"));
            let answer = service.clone().oneshot(request.body(()).unwrap()).now_or_never();
            assert_eq!(answer.unwrap().unwrap().status(), expected, "attack 43: caller {n}");
        }
        store.median()
    };
    callers(200);
    let before = callers(200);
    let rss = resident_kb();

    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..2 {
            let (mut service, next) = (service.clone(), &next);
            scope.spawn(move || {
                while next.load(Ordering::Relaxed) < ADDRESSES {
                    let answer = (&mut service).oneshot(Request::new(())).now_or_never();
                    assert_eq!(answer.unwrap().unwrap().status(), 200);
                }
            });
        }
    });
    let (took, growth) = (start.elapsed(), resident_kb().saturating_sub(rss));
    let (keys, evicted) = (store.store.keys(), store.store.evicted());
    println!("{ADDRESSES} addresses in {took:.1?}: {growth} kB more for {keys} keys");
    assert!(evicted > 1_400_000, "attack 43: the flood was one: {evicted}");
    assert!(keys > 800_000, "attack 43: memory was put to use: {keys}");
    assert!(growth < MAX_GROWTH_KB, "attack 43: {growth} kB");

    let after = callers(200);
    println!("a decision on a verified caller: {before:?} before, {after:?} after");
    // A caller whose key has left the caches takes a few of them longer.
    assert!(after < 10 * before + Duration::from_micros(5), "attack 43: {before:?}, {after:?}");
    callers(429);
}
