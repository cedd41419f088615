//! Ten million addresses against the memory of one node.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::process::Command;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use http::{Request, Response};
use tower::{Layer, Service, service_fn};
use tower_gate::rate_limit::HeaderStyle;
use tower_gate::store::memory::MemoryStore;
use tower_gate::{
    AuthenticateLayer, FixedVerifier, ManualClock, PeerAddr, Principal, Quota, RateLimitLayer,
};

use crate::support::{Probe, TestBody, send, with_token};

const ADDRESSES: u32 = 10_000_000;
const WORKERS: u32 = 2;

/// What a worker sends in a tenth of the flood.
const EACH: u32 = ADDRESSES / 10 / WORKERS;

const MAX_KEYS: usize = 1_000_000;
const CALLERS: usize = 500;

/// What the store says that a million keys take, and what else a process allocates meanwhile.
const BOUND_KB: u64 = 64 * 1000;
const SLACK_KB: u64 = 16 * 1000;

/// One decision in so many is timed.
const TIMED: u32 = 16;

/// A line of `/proc/self/status`, in kB.
fn memory(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_matches([':', ' ', '\t']).trim_end_matches(" kB").parse().unwrap()
}

fn median(mut times: Vec<Duration>) -> Duration {
    let middle = times.len() / 2;
    *times.select_nth_unstable(middle).1
}

fn answer(_: Request<TestBody>) -> Ready<Result<Response<TestBody>, Infallible>> {
    ready(Ok(Response::default()))
}

/// Sends the requests of one part of the addresses, each of them once and in no order, and says how
/// long some of them took.
fn ask<S, B>(mut service: S, part: u32) -> Vec<Duration>
where
    S: Service<Request<TestBody>, Response = Response<B>, Error = Infallible>,
{
    let mut cx = Context::from_waker(Waker::noop());
    let mut times = Vec::new();
    for n in 0..EACH {
        let address = Ipv4Addr::from_bits((part * EACH + n).wrapping_mul(2_654_435_761));
        let mut request = Request::new(TestBody::default());
        request.extensions_mut().insert(PeerAddr(SocketAddr::new(address.into(), 4711)));
        let start = n.is_multiple_of(TIMED).then(Instant::now);
        assert!(service.poll_ready(&mut cx).is_ready());
        let future = pin!(service.call(request));
        let Poll::Ready(Ok(response)) = future.poll(&mut cx) else { panic!("memory waits") };
        times.extend(start.map(|start| start.elapsed()));
        assert_eq!(response.status(), 200, "an address that was never seen");
    }
    times
}

/// In a process of its own, whose memory is that of nothing else.
#[tokio::test]
#[ignore = "the other test of this file starts it"]
async fn flood() {
    let (clock, store) = (ManualClock::default(), MemoryStore::with_max_keys(MAX_KEYS));
    let verifier = (0..CALLERS).fold(FixedVerifier::new(), |verifier, n| {
        let caller = Principal::builder("https://issuer.example", &n.to_string()).build();
        verifier.with(&format!("token-{n}"), caller).unwrap()
    });
    let burst = 10;
    let by_principal =
        RateLimitLayer::new(store.clone(), Quota::per_hour(burst)).with_clock(clock.clone());
    let callers = AuthenticateLayer::new(verifier).layer(by_principal.layer(Probe::default()));
    let by_address =
        RateLimitLayer::by_address(store.clone(), Quota::per_hour(5)).with_clock(clock);
    let by_address = by_address.with_headers(HeaderStyle::None).layer(service_fn(answer));

    let before = memory("VmRSS");
    let mut medians = Vec::new();
    for tenth in 0..10 {
        for n in 0..CALLERS {
            let answer = send(&callers, with_token(&format!("token-{n}"))).await;
            let left = burst - 1 - tenth;
            let expected = format!("\"default\";r={left};t=360");
            assert_eq!(answer.header("ratelimit"), expected, "attack 43: caller {n}");
        }
        let times = thread::scope(|scope| {
            let workers: Vec<_> = (0..WORKERS)
                .map(|worker| {
                    let service = by_address.clone();
                    scope.spawn(move || ask(service, tenth * WORKERS + worker))
                })
                .collect();
            workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
        });
        medians.push(median(times));
        assert!(store.keys() <= MAX_KEYS + 256 + CALLERS, "RL-47: {}", store.keys());
    }
    for n in 0..CALLERS {
        let answer = send(&callers, with_token(&format!("token-{n}"))).await;
        assert_eq!(answer.status, 429, "attack 43: caller {n} has used its burst");
    }
    let took = memory("VmHWM") - before;
    println!(
        "a decision takes {:?} in the first tenth and {:?} in the last; {took} kB at most, {} keys, \
         {} evicted",
        medians[0],
        medians[9],
        store.keys(),
        store.evicted(),
    );
    assert!(store.evicted() > u64::from(ADDRESSES) / 2, "{}", store.evicted());
    assert!(took <= BOUND_KB + SLACK_KB, "RL-47, attack 43: {took} kB");
    assert!(medians[9] <= medians[0] * 3, "attack 43: {medians:?}");
}

#[test]
fn ten_million_addresses_cost_no_more_than_is_said_and_no_verified_caller_its_units() {
    let start = Instant::now();
    // Beside tests that look at how long something takes.
    let mut command = Command::new("nice");
    command.arg(env::current_exe().unwrap());
    let output = command.args(["flood::flood", "--exact", "--ignored", "--nocapture"]).output();
    let output = output.unwrap();
    let says = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    println!("{} in {:?}", says[0], start.elapsed());
    assert!(output.status.success(), "{}", says.concat());
    assert!(says[0].contains("1 passed"), "the flood has run");
}
