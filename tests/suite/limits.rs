//! How often a caller may come, through the layer, on a clock that moves when it is told to.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use http::{HeaderValue, Request, Response};
use http_body_util::BodyExt;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::json;
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};
use tower_gate::authenticate::Authenticate;
use tower_gate::rate_limit::{Policy, RateLimit};
use tower_gate::store::memory::MemoryStore;
use tower_gate::store::{RateLimitStore, Settlement, StoreError, Take, TakeRequest};
use tower_gate::test_util::TestIssuer;
use tower_gate::{
    AuthenticateLayer, Clock, Decision, Decisions, FixedVerifier, ManualClock, PartitionKey,
    PeerAddr, Principal, Quota, RateLimitLayer, Requirement,
};

use crate::support::{Answer, Probe, TestBody, anonymous, as_grpc_call, send, with_token};

const SECOND: Duration = Duration::from_secs(1);

/// Knows a token for each role, which is also the name of its principal.
fn verifier() -> FixedVerifier {
    ["admin", "internal", "partner", "user", "other"].into_iter().fold(
        FixedVerifier::new(),
        |verifier, name| {
            let principal = Principal::builder("https://issuer.example", name).roles([name]);
            verifier.with(name, principal.build()).unwrap()
        },
    )
}

/// The layer behind one that authenticates, which lets anonymous callers through.
fn behind_authenticate(limit: &RateLimitLayer) -> Authenticate<RateLimit<Probe>> {
    AuthenticateLayer::new(verifier()).optional().layer(limit.layer(Probe::default()))
}

fn memory(quota: Quota, clock: &ManualClock) -> RateLimitLayer {
    RateLimitLayer::new(MemoryStore::new(), quota).with_clock(clock.clone())
}

/// A request without a token from this address.
fn from_address(address: &str) -> Request<TestBody> {
    let mut request = anonymous();
    let ip: IpAddr = address.parse().unwrap();
    request.extensions_mut().insert(PeerAddr(SocketAddr::new(ip, 4711)));
    request
}

/// Whether it was let in; nothing but a 429 is a refusal here.
fn passed(answer: &Answer) -> bool {
    assert!(matches!(answer.status.as_u16(), 200 | 429), "{answer:?}");
    answer.status == 200
}

/// All the values of a header, as the one list that they are.
fn list(answer: &Answer, name: &str) -> String {
    let values = answer.headers.get_all(name).iter();
    values.map(|value| value.to_str().unwrap()).collect::<Vec<_>>().join(", ")
}

#[tokio::test]
async fn every_answer_shows_the_policy_and_what_is_left_of_it() {
    let clock = ManualClock::default();
    let service = behind_authenticate(&memory(Quota::per_minute(10).with_burst(3), &clock));
    let policy = "\"default\";q=3;w=18";
    for (status, limit) in [
        (200, "\"default\";r=2;t=6"),
        (200, "\"default\";r=1;t=6"),
        (200, "\"default\";r=0;t=6"),
        (429, "\"default\";r=0;t=6"),
        (429, "\"default\";r=0;t=6"),
    ] {
        let answer = send(&service, with_token("user")).await;
        assert_eq!(answer.status, status);
        assert_eq!(list(&answer, "ratelimit-policy"), policy, "RL-1, 3, 4");
        assert_eq!(list(&answer, "ratelimit"), limit, "RL-2, 3, 4, 6");
    }
    clock.advance(Duration::from_millis(100));
    let answer = send(&service, with_token("user")).await;
    assert_eq!(list(&answer, "ratelimit"), "\"default\";r=0;t=6", "RL-6: 5.9 s rounded up");
    clock.advance(Duration::from_millis(6000));
    let answer = send(&service, with_token("user")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(list(&answer, "ratelimit"), "\"default\";r=0;t=6", "RL-6: r rounded down");
}

#[tokio::test]
async fn a_refusal_says_how_long_to_wait_and_what_ran_out() {
    let clock = ManualClock::default();
    let limit = memory(Quota::per_minute(10).with_burst(1), &clock);
    let service = behind_authenticate(&limit.with_name("calls"));
    send(&service, with_token("user")).await;
    clock.advance(Duration::from_millis(1100));
    let answer = send(&service, with_token("user")).await;
    assert_eq!(answer.status, 429, "RL-20");
    assert_eq!(answer.header("retry-after"), "5", "RL-5, 21: 4.9 s rounded up");
    assert_eq!(list(&answer, "ratelimit"), "\"calls\";r=0;t=5", "RL-5: no later than Retry-After");
    assert_eq!(answer.header("cache-control"), "no-store", "RL-20");
    assert_eq!(answer.header("content-type"), "application/problem+json", "RL-20");
    assert_eq!(answer.header("www-authenticate"), "", "no token helps");
    let body = json!({
        "error": "rate_limited",
        "message": "too many requests; wait as long as the answer says",
        "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
        "title": "Quota exceeded",
        "status": 429,
        "retry_after": 5,
        "violated-policies": ["calls"],
    });
    assert_eq!(answer.json(), body, "RL-9");
    clock.advance(Duration::from_millis(4899));
    assert!(!passed(&send(&service, with_token("user")).await));
    clock.advance(Duration::from_millis(1));
    assert!(passed(&send(&service, with_token("user")).await), "RL-40: the very moment passes");
}

#[tokio::test]
async fn a_wait_is_never_less_than_a_second_nor_than_the_next_unit() {
    for (quota, wait) in [
        (Quota::per_second(20).with_burst(1), "1"),
        (Quota::per_second(1), "1"),
        (Quota::new(1, Duration::from_millis(1001), 1).unwrap(), "2"),
        (Quota::per_hour(1), "3600"),
    ] {
        let service = behind_authenticate(&memory(quota, &ManualClock::default()));
        send(&service, with_token("user")).await;
        let answer = send(&service, with_token("user")).await;
        assert_eq!(answer.header("retry-after"), wait, "RL-21: {quota:?}");
        assert_eq!(list(&answer, "ratelimit"), format!("\"default\";r=0;t={wait}"), "RL-5, 6");
    }
}

#[tokio::test]
async fn the_numbers_of_a_policy_are_burst_and_the_time_it_takes_to_come_back() {
    for (quota, fields) in [
        (Quota::new(10, SECOND, 5).unwrap(), ["q=5;w=1", "r=4;t=1"]),
        (Quota::per_minute(60).with_burst(20), ["q=20;w=20", "r=19;t=1"]),
        (Quota::per_hour(1).with_burst(24), ["q=24;w=86400", "r=23;t=3600"]),
        (Quota::per_hour(u32::MAX), ["q=4294967295;w=3600", "r=4294967294;t=1"]),
    ] {
        let service = behind_authenticate(&memory(quota, &ManualClock::default()));
        let answer = send(&service, with_token("user")).await;
        let [policy, limit] = fields.map(|field| format!("\"default\";{field}"));
        assert_eq!(list(&answer, "ratelimit-policy"), policy, "RL-32, 44");
        assert_eq!(list(&answer, "ratelimit"), limit, "RL-32, 44");
    }
}

#[tokio::test]
async fn a_name_is_quoted_and_one_that_no_header_can_carry_stops_the_program_as_it_starts() {
    let layer = || memory(Quota::per_minute(60), &ManualClock::default());
    let service = behind_authenticate(&layer().with_name("a \"b\\c\", \"d\";q=9"));
    let answer = send(&service, with_token("user")).await;
    let name = r#""a \"b\\c\", \"d\";q=9""#;
    assert_eq!(list(&answer, "ratelimit-policy"), format!("{name};q=60;w=60"), "RL-33");
    assert_eq!(list(&answer, "ratelimit"), format!("{name};r=59;t=1"), "RL-33");
    for name in ["", "é", "a\r\nb", "a\tb", "a\u{7f}"] {
        let refused = catch_unwind(AssertUnwindSafe(|| layer().with_name(name)));
        assert!(refused.is_err(), "RL-33: {name:?}");
        let tier = AssertUnwindSafe(|| {
            layer().with_tier(name, Requirement::role("x"), Quota::per_minute(1))
        });
        assert!(catch_unwind(tier).is_err(), "RL-33: {name:?}");
    }
}

#[tokio::test]
async fn the_fields_are_no_trailers() {
    let service = behind_authenticate(&memory(Quota::per_minute(1), &ManualClock::default()));
    for status in [200, 429] {
        let Ok(response) = service.clone().oneshot(with_token("user")).await;
        assert_eq!(response.status(), status);
        assert!(response.headers().contains_key("ratelimit"), "RL-3");
        assert!(response.into_body().collect().await.unwrap().trailers().is_none(), "RL-3");
    }
}

#[tokio::test]
async fn the_fields_say_nothing_of_who_calls() {
    let limit = memory(Quota::per_minute(1), &ManualClock::default());
    let service = behind_authenticate(&limit);
    for request in [with_token("partner"), from_address("192.0.2.77")] {
        for _ in 0..2 {
            let answer = send(&service, request.clone()).await;
            let shown = format!("{:?}", answer.headers);
            for secret in ["partner", "issuer.example", "192.0.2", ";pk="] {
                assert!(!shown.contains(secret), "RL-7: {shown}");
            }
        }
    }
}

#[tokio::test]
async fn a_refusal_takes_nothing_and_never_reaches_the_handler() {
    let (clock, calls) = (ManualClock::default(), Arc::new(AtomicUsize::new(0)));
    let counted = calls.clone();
    let service = ServiceBuilder::new()
        .layer(AuthenticateLayer::new(verifier()))
        .layer(memory(Quota::per_minute(60).with_burst(2), &clock))
        .map_request(move |request| {
            counted.fetch_add(1, Ordering::SeqCst);
            request
        })
        .service(Probe::default());
    for _ in 0..100 {
        send(&service, with_token("user")).await;
    }
    assert_eq!(calls.load(Ordering::SeqCst), 2, "RL-24");
    clock.advance(SECOND);
    assert!(passed(&send(&service, with_token("user")).await), "RL-24, 40");
    assert!(!passed(&send(&service, with_token("user")).await));
    assert_eq!(calls.load(Ordering::SeqCst), 3, "RL-24");
}

#[tokio::test]
async fn refusals_of_layers_further_in_carry_the_fields_as_well() {
    let limit = memory(Quota::per_minute(2), &ManualClock::default());
    let service = ServiceBuilder::new()
        .layer(AuthenticateLayer::new(verifier()))
        .layer(limit)
        .layer(tower_gate::RequireScopeLayer::scope("read"))
        .service(Probe::default());
    let answer = send(&service, with_token("user")).await;
    assert_eq!(answer.status, 403);
    assert_eq!(list(&answer, "ratelimit"), "\"default\";r=1;t=30", "RL-4");
}

/// The reference API's tiers.
fn tiers(clock: &ManualClock) -> RateLimitLayer {
    memory(Quota::per_minute(60).with_burst(20), clock)
        .with_unlimited("admin", Requirement::role("admin"))
        .with_tier(
            "internal",
            Requirement::role("internal"),
            Quota::per_minute(600).with_burst(100),
        )
        .with_tier("partner", Requirement::role("partner"), Quota::per_minute(10).with_burst(5))
}

#[tokio::test]
async fn the_partner_is_limited_before_anyone_else() {
    let service = behind_authenticate(&tiers(&ManualClock::default()));
    let mut first_refused = Vec::new();
    for round in 1..=150 {
        for name in ["admin", "internal", "user", "partner"] {
            let refused = !passed(&send(&service, with_token(name)).await);
            if refused && !first_refused.iter().any(|(seen, _)| *seen == name) {
                first_refused.push((name, round));
            }
        }
    }
    assert_eq!(first_refused, [("partner", 6), ("user", 21), ("internal", 101)]);
}

#[tokio::test]
async fn a_tier_shows_its_own_numbers_and_no_limit_shows_none() {
    let service = behind_authenticate(&tiers(&ManualClock::default()));
    for (name, policy) in [
        ("partner", "\"partner\";q=5;w=30"),
        ("internal", "\"internal\";q=100;w=10"),
        ("user", "\"default\";q=20;w=20"),
        ("admin", ""),
    ] {
        let answer = send(&service, with_token(name)).await;
        assert_eq!(list(&answer, "ratelimit-policy"), policy);
        assert_eq!(answer.headers.contains_key("ratelimit"), !policy.is_empty(), "{name}");
    }
}

#[tokio::test]
async fn the_first_tier_that_fits_counts_and_the_time_of_day_may_choose_it() {
    let clock = ManualClock::default();
    let fresh = Requirement::max_age(Duration::from_secs(60));
    let limit = memory(Quota::per_minute(1), &clock)
        .with_tier("fresh", fresh, Quota::per_minute(2))
        .with_tier("user", Requirement::role("user"), Quota::per_minute(3))
        .with_unlimited("everybody", Requirement::all([]));
    let principal = Principal::builder("https://issuer.example", "user").roles(["user"]);
    let principal = principal.auth_time(clock.now()).build();
    let verifier = FixedVerifier::new().with("user", principal).unwrap();
    let service = AuthenticateLayer::new(verifier).layer(limit.layer(Probe::default()));
    let answer = send(&service, with_token("user")).await;
    assert_eq!(list(&answer, "ratelimit"), "\"fresh\";r=1;t=30");
    clock.advance(Duration::from_secs(61));
    let answer = send(&service, with_token("user")).await;
    assert_eq!(list(&answer, "ratelimit"), "\"user\";r=2;t=20", "units of its own");
}

#[tokio::test]
async fn anonymous_callers_are_counted_by_address() {
    let limit = memory(Quota::per_minute(2), &ManualClock::default());
    let service = behind_authenticate(&limit);
    let mut known = with_token("user");
    known.extensions_mut().extend(from_address("192.0.2.1").extensions().clone());
    for _ in 0..2 {
        assert!(passed(&send(&service, from_address("192.0.2.1")).await));
    }
    assert!(!passed(&send(&service, from_address("192.0.2.1")).await), "one address");
    assert!(passed(&send(&service, from_address("192.0.2.2")).await), "another address");
    assert!(passed(&send(&service, known).await), "CLIENTIP-41: a principal has its own units");
    let answer = send(&service, anonymous()).await;
    assert_eq!((answer.status.as_u16(), answer.error().as_str()), (500, "misconfigured"));
    assert!(answer.json()["message"].as_str().unwrap().contains("PeerAddr"), "CLIENTIP-35");
}

#[tokio::test]
async fn a_principal_may_come_from_anywhere() {
    let limit = memory(Quota::per_minute(2), &ManualClock::default());
    let service = behind_authenticate(&limit);
    let mut passes = 0;
    for last in 1..=10 {
        let mut request = with_token("user");
        let address = from_address(&format!("192.0.2.{last}"));
        request.extensions_mut().extend(address.extensions().clone());
        passes += usize::from(passed(&send(&service, request).await));
    }
    assert_eq!(passes, 2, "CLIENTIP-41");
}

#[tokio::test]
async fn a_limit_by_principal_without_an_authenticate_layer_refuses_everything() {
    let limit = memory(Quota::per_minute(2), &ManualClock::default());
    let service = limit.layer(Probe::default());
    let answer = send(&service, from_address("192.0.2.1")).await;
    assert_eq!((answer.status.as_u16(), answer.error().as_str()), (500, "misconfigured"));
    let message = answer.json()["message"].as_str().unwrap().to_owned();
    assert!(message.contains("AuthenticateLayer"), "attack 33: {message}");
}

/// A limit of this burst by address.
fn by_address(burst: u32) -> RateLimit<Probe> {
    let quota = Quota::per_hour(burst);
    let layer = RateLimitLayer::by_address(MemoryStore::new(), quota);
    layer.with_clock(ManualClock::default()).layer(Probe::default())
}

#[tokio::test]
async fn addresses_of_one_ipv6_network_share_their_units() {
    let service = by_address(10);
    let mut passes = 0;
    for host in 0..=u16::MAX {
        let answer = send(&service, from_address(&format!("2001:db8:1:2::{host:x}"))).await;
        passes += usize::from(passed(&answer));
    }
    assert_eq!(passes, 10, "attack 28, CLIENTIP-40");
    let neighbour = send(&service, from_address("2001:db8:1:3::1")).await;
    assert_eq!(list(&neighbour, "ratelimit"), "\"address\";r=9;t=360", "CLIENTIP-40");
}

#[tokio::test]
async fn an_ipv4_address_is_one_in_every_spelling_and_its_neighbour_another() {
    let service = by_address(3);
    for (address, expected) in [
        ("192.0.2.1", true),
        ("::ffff:192.0.2.1", true),
        ("::ffff:c000:201", true),
        ("0:0:0:0:0:ffff:c000:0201", false),
        ("192.0.2.1", false),
        ("192.0.2.2", true),
        ("::ffff:192.0.2.3", true),
        // The same bits in a network of IPv6.
        ("::c000:201", true),
    ] {
        let answer = send(&service, from_address(address)).await;
        assert_eq!(passed(&answer), expected, "attack 28, CLIENTIP-32: {address}");
    }
}

#[tokio::test]
async fn what_a_client_says_of_its_address_does_not_matter() {
    let service = by_address(10);
    let mut passes = 0;
    for n in 0..200 {
        let mut request = from_address("192.0.2.1");
        for name in [
            "x-forwarded-for",
            "x-real-ip",
            "cf-connecting-ip",
            "true-client-ip",
            "fly-client-ip",
            "x-client-ip",
        ] {
            let value = HeaderValue::try_from(format!("198.51.100.{n}")).unwrap();
            request.headers_mut().insert(name, value);
        }
        let forwarded = HeaderValue::try_from(format!("for=198.51.100.{n}")).unwrap();
        request.headers_mut().insert("forwarded", forwarded);
        passes += usize::from(passed(&send(&service, request).await));
    }
    assert_eq!(passes, 10, "attack 27, CLIENTIP-1, 43");
}

/// Two limits, by address outside and by principal inside, over one store.
fn stacked(
    addresses: Quota,
    principals: Quota,
    clock: &ManualClock,
) -> RateLimit<Authenticate<RateLimit<Probe>>> {
    let store = MemoryStore::new();
    let outside = RateLimitLayer::by_address(store.clone(), addresses).with_clock(clock.clone());
    let inside = RateLimitLayer::new(store, principals).with_clock(clock.clone());
    outside.layer(AuthenticateLayer::new(verifier()).layer(inside.layer(Probe::default())))
}

fn at_home(token: &str) -> Request<TestBody> {
    let mut request = with_token(token);
    request.extensions_mut().extend(from_address("192.0.2.1").extensions().clone());
    request
}

#[tokio::test]
async fn two_limits_make_one_list_of_policies() {
    let clock = ManualClock::default();
    let service = stacked(Quota::per_minute(6), Quota::per_hour(4), &clock);
    let policies = "\"default\";q=4;w=3600, \"address\";q=6;w=60";
    let answer = send(&service, at_home("user")).await;
    assert_eq!(list(&answer, "ratelimit-policy"), policies, "RL-30");
    let limits = "\"default\";r=3;t=900, \"address\";r=5;t=10";
    assert_eq!(list(&answer, "ratelimit"), limits, "RL-3, 30");

    for _ in 0..3 {
        assert!(passed(&send(&service, at_home("user")).await));
    }
    let answer = send(&service, at_home("user")).await;
    assert_eq!(answer.status, 429, "the inner one refuses");
    assert_eq!(list(&answer, "ratelimit-policy"), policies, "RL-4");
    assert_eq!(list(&answer, "ratelimit"), "\"default\";r=0;t=900, \"address\";r=1;t=10");
    assert_eq!(answer.json()["violated-policies"], json!(["default"]), "RL-9");
    assert_eq!(answer.header("retry-after"), "900", "RL-5");
}

#[tokio::test]
async fn what_the_outer_limit_refuses_costs_nothing_of_the_inner_one() {
    let clock = ManualClock::default();
    let service = stacked(Quota::per_minute(1), Quota::per_hour(4), &clock);
    assert!(passed(&send(&service, at_home("user")).await));
    for _ in 0..50 {
        let answer = send(&service, at_home("user")).await;
        assert_eq!(answer.json()["violated-policies"], json!(["address"]), "RL-9");
        assert_eq!(list(&answer, "ratelimit"), "\"address\";r=0;t=60", "RL-24: no other asked");
    }
    clock.advance(Duration::from_secs(60));
    let answer = send(&service, at_home("user")).await;
    assert!(list(&answer, "ratelimit").starts_with("\"default\";r=2;"), "RL-24");
}

#[tokio::test]
async fn bad_tokens_that_name_a_caller_leave_its_units_alone() {
    let issuer = TestIssuer::new("https://issuer.example", "https://api.example");
    let impostor = TestIssuer::new("https://issuer.example", "https://api.example");
    let quota = Quota::per_minute(60);
    let addresses = RateLimitLayer::by_address(MemoryStore::new(), quota.with_burst(10));
    let service = ServiceBuilder::new()
        .layer(addresses.with_clock(ManualClock::default()))
        .layer(AuthenticateLayer::new(issuer.verifier()))
        .layer(memory(quota, &ManualClock::default()))
        .service(Probe::default());
    let mut statuses = Vec::new();
    for _ in 0..500 {
        let mut request = with_token(&impostor.token("victim").sign());
        request.extensions_mut().extend(from_address("198.51.100.6").extensions().clone());
        statuses.push(send(&service, request).await.status.as_u16());
    }
    assert_eq!(statuses[..10], [401; 10], "RL-8");
    assert_eq!(statuses[10..], [429; 490], "RL-8: counted by the address that sends them");
    let answer = send(&service, {
        let mut request = with_token(&issuer.token("victim").sign());
        request.extensions_mut().extend(from_address("192.0.2.1").extensions().clone());
        request
    });
    let answer = answer.await;
    assert_eq!(answer.status, 200);
    assert!(list(&answer, "ratelimit").starts_with("\"default\";r=59;"), "RL-8");
}

#[tokio::test]
async fn one_subject_at_two_issuers_is_two_callers() {
    let [ours, theirs] = ["https://a.example", "https://b.example"]
        .map(|name| TestIssuer::new(name, "https://api.example"));
    let limit = memory(Quota::per_minute(3), &ManualClock::default());
    let [at_ours, at_theirs] = [&ours, &theirs].map(|issuer| {
        AuthenticateLayer::new(issuer.verifier()).layer(limit.layer(Probe::default()))
    });
    let [our_token, their_token] = [&ours, &theirs].map(|issuer| issuer.token("42").sign());
    for _ in 0..3 {
        assert!(passed(&send(&at_ours, with_token(&our_token)).await));
    }
    assert!(!passed(&send(&at_ours, with_token(&our_token)).await));
    let answer = send(&at_theirs, with_token(&their_token)).await;
    assert!(list(&answer, "ratelimit").starts_with("\"default\";r=2;"), "attack 17");
}

#[tokio::test]
async fn issuer_and_subject_do_not_run_together() {
    let verifier = [("one", "a", "bc"), ("two", "ab", "c"), ("three", "abc", "")].into_iter().fold(
        FixedVerifier::new(),
        |verifier, (token, issuer, subject)| {
            verifier.with(token, Principal::builder(issuer, subject).build()).unwrap()
        },
    );
    let limit = memory(Quota::per_minute(1), &ManualClock::default());
    let service = AuthenticateLayer::new(verifier).layer(limit.layer(Probe::default()));
    for token in ["one", "two", "three"] {
        assert!(passed(&send(&service, with_token(token)).await), "attack 17: {token}");
    }
}

#[tokio::test]
async fn clones_of_a_layer_share_units_and_other_names_do_not() {
    let limit = memory(Quota::per_minute(1), &ManualClock::default());
    let [first, second] = [&limit, &limit.clone()].map(behind_authenticate);
    assert!(passed(&send(&first, with_token("user")).await));
    assert!(!passed(&send(&second, with_token("user")).await));
    let other = behind_authenticate(&limit.clone().with_name("other"));
    assert!(passed(&send(&other, with_token("user")).await));
    assert!(passed(&send(&first, with_token("other")).await), "another caller");
}

#[tokio::test]
async fn tiers_and_layers_of_other_names_have_units_of_their_own() {
    let issuer = TestIssuer::new("https://issuer.example", "https://api.example");
    let minute = Quota::per_minute(1);
    let limit = memory(minute, &ManualClock::default())
        .with_tier("partner", Requirement::role("partner"), minute)
        .with_tier("editor", Requirement::role("editor"), minute);
    // The other layer has the same store and a tier of the same name.
    let other = limit.clone().with_name("other");
    let [service, other] = [&limit, &other].map(|limit| {
        AuthenticateLayer::new(issuer.verifier()).layer(limit.layer(Probe::default()))
    });
    let token = |roles: &[&'static str]| issuer.token("user").roles(roles.to_vec()).sign();
    // One caller, whose roles change.
    for roles in [&["partner"][..], &["editor"], &[]] {
        assert!(passed(&send(&service, with_token(&token(roles))).await), "{roles:?}");
        assert!(!passed(&send(&service, with_token(&token(roles))).await), "{roles:?}");
        assert!(passed(&send(&other, with_token(&token(roles))).await), "{roles:?}");
    }
}

/// A store that cannot answer, at once or after a while.
struct Down {
    at_once: bool,
}

impl RateLimitStore for Down {
    fn try_take(&self, _: &TakeRequest) -> Option<Result<Decisions, StoreError>> {
        self.at_once.then(|| Err(StoreError::new("connection refused")))
    }

    async fn take(&self, _: &TakeRequest) -> Result<Decisions, StoreError> {
        tokio::task::yield_now().await;
        Err(StoreError::new("connection refused"))
    }

    fn settle(&self, _: &Settlement) {}
}

#[tokio::test]
async fn a_store_that_cannot_answer_lets_nobody_in() {
    for at_once in [true, false] {
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        let handler = service_fn(move |_: Request<TestBody>| {
            counted.fetch_add(1, Ordering::SeqCst);
            async { Ok::<_, Infallible>(Response::new(TestBody::default())) }
        });
        let limit = RateLimitLayer::new(Down { at_once }, Quota::per_minute(60))
            .with_unlimited("admin", Requirement::role("admin"));
        let service = AuthenticateLayer::new(verifier()).layer(limit.layer(handler));
        for _ in 0..10 {
            let answer = send(&service, with_token("user")).await;
            let (status, error) = (answer.status.as_u16(), answer.error());
            assert_eq!((status, error.as_str()), (503, "temporarily_unavailable"), "RL-23");
            assert_eq!(answer.header("retry-after"), "1", "RL-23");
            assert_eq!(answer.header("cache-control"), "no-store");
            assert!(!answer.headers.contains_key("ratelimit"), "RL-4: nothing is known");
            let body = String::from_utf8(answer.body.to_vec()).unwrap();
            assert!(!body.contains("connection"), "{body}");
        }
        assert_eq!(calls.load(Ordering::SeqCst), 0, "RL-23, 24, attack 44: never a pass");
        assert_eq!(send(&service, with_token("admin")).await.status, 200, "nobody was asked");
    }
}

/// A store that asks for more than there ever is.
struct Greedy(MemoryStore);

impl RateLimitStore for Greedy {
    async fn take(&self, request: &TakeRequest) -> Result<Decisions, StoreError> {
        let Take { key, quota, .. } = request.takes()[0];
        let more = TakeRequest::new(key, quota, quota.burst() + 1, request.now);
        self.0.take(&more).await
    }

    fn settle(&self, _: &Settlement) {}
}

#[tokio::test]
async fn what_can_never_pass_is_not_told_to_wait() {
    let limit = RateLimitLayer::new(Greedy(MemoryStore::new()), Quota::per_minute(60));
    let service = behind_authenticate(&limit.with_clock(ManualClock::default()));
    let answer = send(&service, with_token("user")).await;
    assert_eq!(answer.status, 429, "RL-22");
    assert!(!answer.headers.contains_key("retry-after"), "RL-22");
    assert!(answer.json().get("retry_after").is_none(), "RL-22");
    assert_eq!(list(&answer, "ratelimit"), "\"default\";r=60;t=0", "RL-2");
}

#[tokio::test]
async fn a_request_is_forwarded_after_an_answer_that_took_its_time() {
    /// Memory behind a network.
    struct Remote(MemoryStore);
    impl RateLimitStore for Remote {
        async fn take(&self, request: &TakeRequest) -> Result<Decisions, StoreError> {
            tokio::task::yield_now().await;
            self.0.take(request).await
        }
        fn settle(&self, _: &Settlement) {}
    }
    let limit = RateLimitLayer::new(Remote(MemoryStore::new()), Quota::per_minute(2));
    let service = behind_authenticate(&limit.with_clock(ManualClock::default()));
    for (status, fields) in [(200, "r=1;t=30"), (200, "r=0;t=30"), (429, "r=0;t=30")] {
        let answer = send(&service, with_token("user")).await;
        assert_eq!(answer.status, status);
        assert_eq!(list(&answer, "ratelimit"), format!("\"default\";{fields}"));
    }
}

#[tokio::test]
async fn a_limited_call_has_a_status_and_the_fields_in_one_block() {
    let service = behind_authenticate(&memory(Quota::per_minute(1), &ManualClock::default()));
    let call = as_grpc_call(with_token("user"));
    send(&service, call.clone()).await;
    let answer = send(&service, call).await;
    assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 0), "GRPC-10");
    assert_eq!(answer.header("grpc-status"), "8", "GRPC-13");
    assert_eq!(answer.header("retry-after"), "60", "GRPC-17");
    assert_eq!(answer.header("grpc-retry-pushback-ms"), "60000", "GRPC-23");
    assert_eq!(list(&answer, "ratelimit"), "\"default\";r=0;t=60", "GRPC-17");
}

#[tokio::test]
async fn the_vectors_of_rl_41_hold_through_the_layer() {
    let quota = Quota::new(1, Duration::from_secs(100), 5).unwrap();
    let clock = ManualClock::default();
    let service = behind_authenticate(&memory(quota, &clock));
    let mut now = 0;
    // At this second: the units left, the wait for the next one, and the wait of a refusal.
    for (at, remaining, next, retry) in [
        (0, 4, 100, None),
        (0, 3, 100, None),
        (0, 2, 100, None),
        (0, 1, 100, None),
        (0, 0, 100, None),
        (0, 0, 100, Some("100")),
        (99, 0, 1, Some("1")),
        (100, 0, 100, None),
        (250, 0, 50, None),
        (250, 0, 50, Some("50")),
        (300, 0, 100, None),
        (350, 0, 50, Some("50")),
        (1000, 4, 100, None),
    ] {
        clock.advance(SECOND * (at - now));
        now = at;
        let answer = send(&service, with_token("user")).await;
        let fields = format!("\"default\";r={remaining};t={next}");
        assert_eq!(list(&answer, "ratelimit"), fields, "RL-40, 41: at {at}");
        assert_eq!(answer.header("retry-after"), retry.unwrap_or_default(), "RL-40, 41: at {at}");
        assert_eq!(passed(&answer), retry.is_none(), "RL-40, 41: at {at}");
    }
}

/// A clock whose monotonic time is not: what a store shared by several machines may see.
#[derive(Clone)]
struct Erratic(Arc<AtomicU64>);

impl Clock for Erratic {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
    }

    fn monotonic(&self) -> Duration {
        Duration::from_secs(self.0.load(Ordering::SeqCst))
    }
}

/// Which no clock may, and that of a virtual machine has done that was taken back to an earlier state.
#[tokio::test]
async fn a_clock_that_goes_back_locks_nobody_out_for_longer_than_a_burst_takes() {
    let seconds = Arc::new(AtomicU64::new(10_000));
    let minute = Policy::new("minute", Quota::per_minute(60).with_burst(10));
    let settled = Policy::new("settled", Quota::per_minute(60).with_burst(10)).with_settled_cost();
    for policies in [vec![minute.clone()], vec![minute, settled]] {
        let limit = RateLimitLayer::of(MemoryStore::new(), policies);
        let service = behind_authenticate(&limit.with_clock(Erratic(seconds.clone())));
        for hours in [0, 1, 2] {
            let start = 10_000 - 3600 * hours;
            seconds.store(start, Ordering::SeqCst);
            let mut at_once = 0;
            while passed(&send(&service, with_token("user")).await) {
                at_once += 1;
            }
            assert_eq!(at_once, if hours == 0 { 10 } else { 0 }, "RL-45: nothing comes of it");
            for wait in 1..=10 {
                seconds.store(start + wait, Ordering::SeqCst);
                let answer = send(&service, with_token("user")).await;
                assert!(passed(&answer), "RL-45: a unit in each second, at {wait}");
                let answer = send(&service, with_token("user")).await;
                let refusal = (answer.status.as_u16(), answer.header("retry-after"));
                assert_eq!(refusal, (429, "1"), "RL-45: and no more, at {wait}");
            }
        }
        seconds.store(10_000, Ordering::SeqCst);
    }
}

/// The units of one key that are there at this time, of a memory that is asked directly.
fn left(store: &MemoryStore, quota: Quota, cost: u32, now: Duration) -> Decision {
    let request = TakeRequest::new(PartitionKey::new(["caller"]), quota, cost, now);
    store.try_take(&request).unwrap().unwrap()[0]
}

#[test]
fn a_debt_after_the_clock_has_gone_back_is_two_bursts_at_most() {
    let (store, quota) = (MemoryStore::new(), Quota::per_minute(60).with_burst(10));
    let later = SECOND * 10_000;
    assert!(matches!(left(&store, quota, 10, later), Decision::Allowed(_)));
    store.settle(&Settlement::new(PartitionKey::new(["caller"]), quota, 25, later));
    let usage = |now| *left(&store, quota, 0, now).usage();
    assert_eq!(usage(later).reset_after, SECOND * 20);
    assert_eq!(usage(SECOND).reset_after, SECOND * 20, "RL-45");
    assert_eq!(usage(SECOND * 21).reset_after, Duration::ZERO, "RL-45");
}

/// Smaller numbers once took a debt under greater ones for the work of a clock that went back.
#[test]
fn a_smaller_quota_forgives_nothing_in_memory() {
    let store = MemoryStore::new();
    let (large, small) = (Quota::per_minute(60).with_burst(90), Quota::per_minute(60));
    let now = SECOND * 10_000;
    assert!(matches!(left(&store, large, 90, now), Decision::Allowed(_)));
    let small = small.with_burst(5);
    for cost in [0, 1, 5] {
        let _ = left(&store, small, cost, now);
    }
    store.settle(&Settlement::new(PartitionKey::new(["caller"]), small, 3, now));
    assert_eq!(left(&store, large, 0, now).usage().remaining, 0, "RL-42");
    assert_eq!(left(&store, small, 0, now).usage().reset_after, SECOND * 90, "RL-42");
}

/// Requests read the clock before they wait, for a lock or for another store, and come in any order.
#[test]
fn requests_that_come_late_by_their_clock_forgive_nothing() {
    let (store, quota) = (MemoryStore::new(), Quota::per_second(1000).with_burst(100));
    let (mut admitted, millis) = (0, Duration::from_millis);
    for at in 10_000..11_000 {
        for late in [0, 1, 200, 5000] {
            for _ in 0..200 {
                let decision = left(&store, quota, 1, millis(at - late));
                admitted += u32::from(matches!(decision, Decision::Allowed(_)));
            }
        }
    }
    assert!(admitted <= 100 + 1000, "RL-42: {admitted}");
}

/// How many of so many tasks at one moment are let in.
async fn allowed_at_once(tasks: usize, burst: u32) -> usize {
    let quota = Quota::per_hour(burst);
    let service = behind_authenticate(&memory(quota, &ManualClock::default()));
    let barrier = Arc::new(tokio::sync::Barrier::new(tasks));
    let tasks: Vec<_> = (0..tasks)
        .map(|_| {
            let (service, barrier) = (service.clone(), barrier.clone());
            tokio::spawn(async move {
                barrier.wait().await;
                passed(&send(&service, with_token("user")).await)
            })
        })
        .collect();
    let mut allowed = 0;
    for task in tasks {
        allowed += usize::from(task.await.unwrap());
    }
    allowed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn however_many_come_at_once_exactly_the_burst_is_let_in() {
    for _ in 0..5 {
        assert_eq!(allowed_at_once(512, 100).await, 100, "attack 41");
        assert_eq!(allowed_at_once(1000, 100).await, 100, "RL-46");
    }
}

#[tokio::test]
async fn there_is_no_edge_at_which_a_caller_gets_two_windows() {
    let clock = ManualClock::default();
    let service = behind_authenticate(&memory(Quota::per_minute(60), &clock));
    let passes = async || {
        let mut passes = 0;
        for _ in 0..100 {
            passes += usize::from(passed(&send(&service, with_token("user")).await));
        }
        passes
    };
    // Just before the first minute ends, and just after.
    clock.advance(Duration::from_millis(59_900));
    assert_eq!(passes().await, 60, "attack 42");
    clock.advance(Duration::from_millis(200));
    assert_eq!(passes().await, 0, "attack 42: burst + rate x 0.2 s is 60");
    clock.advance(Duration::from_secs(30));
    assert_eq!(passes().await, 30, "attack 42");
    clock.advance(Duration::from_secs(3600));
    assert_eq!(passes().await, 60, "attack 42: idle time beyond a burst is not saved up");
}

#[test]
fn ten_million_callers_stay_within_the_bound_and_a_busy_one_stays_limited() {
    const CALLERS_EACH: u64 = 2_500_000;
    let store = MemoryStore::with_max_keys(100_000);
    let quota = Quota::per_minute(60);
    let take = |name: &[u8], cost| {
        let now = Duration::from_secs(1);
        let request = TakeRequest::new(PartitionKey::new([name]), quota, cost, now);
        store.try_take(&request).unwrap().unwrap()[0]
    };
    assert!(matches!(take(b"busy", 60), Decision::Allowed(_)));
    let (store, take) = (&store, &take);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                for n in thread * CALLERS_EACH..(thread + 1) * CALLERS_EACH {
                    let decision = take(&n.to_le_bytes(), 1);
                    assert!(matches!(decision, Decision::Allowed(_)), "nobody else is held up");
                    if n % 100_000 == 0 {
                        assert!(store.keys() <= 100_096, "attack 43: {}", store.keys());
                    }
                }
            });
        }
    });
    assert!(store.keys() <= 100_096, "attack 43: {}", store.keys());
    assert!(store.evicted() > 9_000_000, "RL-47: counted: {}", store.evicted());
    assert!(matches!(take(b"busy", 1), Decision::Limited { .. }), "RL-47: never forgotten");
}

proptest! {
    /// RL-42: through the layer, whatever the traffic, each caller gets at most burst + W / T in any
    /// interval W; and whoever waits as long as a refusal says gets in.
    #[test]
    fn no_interval_lets_in_more_than_burst_and_rate(
        interval_ms in 1..5_000u64,
        burst in 1..8u32,
        trace in vec((prop_oneof![Just(0), 0..200u64, 0..12_000u64], 0..2usize), 1..120),
    ) {
        let interval = Duration::from_millis(interval_ms);
        let clock = ManualClock::default();
        let service = behind_authenticate(&memory(Quota::new(1, interval, burst).unwrap(), &clock));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let callers = ["user", "other"];
        let mut admitted = [const { Vec::new() }; 2];
        let mut may_come_again = [Duration::MAX; 2];
        for (pause, caller) in trace {
            clock.advance(Duration::from_millis(pause));
            let now = clock.monotonic();
            let answer = runtime.block_on(send(&service, with_token(callers[caller])));
            if passed(&answer) {
                admitted[caller].push(now);
                may_come_again[caller] = Duration::MAX;
            } else {
                prop_assert!(now < may_come_again[caller], "RL-5, 6: it had waited");
                let wait = answer.header("retry-after").parse().unwrap();
                may_come_again[caller] = now + Duration::from_secs(wait);
            }
        }
        for times in admitted {
            for (first, from) in times.iter().enumerate() {
                for (last, to) in times.iter().enumerate().skip(first) {
                    let bound = u128::from(burst) + (*to - *from).as_nanos() / interval.as_nanos();
                    prop_assert!((last - first + 1) as u128 <= bound, "RL-42");
                }
            }
        }
    }
}
