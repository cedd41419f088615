//! Several quotas in one layer, what requests cost, and how it is shown.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use http::{Request, Response, StatusCode};
use tokio::sync::{Barrier, Notify};
use tower::util::BoxCloneSyncService;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_gate::rate_limit::{Cost, HeaderStyle, LiveQuota, Policy, Reset};
use tower_gate::store::memory::MemoryStore;
use tower_gate::store::{ClosedStore, RateLimitStore, Settlement, StoreError, TakeRequest};
use tower_gate::{
    AuditLayer, AuthenticateLayer, Decisions, FixedVerifier, ManualClock, Partition,
    PartitionValue, PeerAddr, Principal, Quota, RateLimitLayer, Rejection, Requirement,
};

use crate::recording::Recording;
use crate::support::{Answer, Probe, TestBody, Trail, anonymous, as_grpc_call, send, with_token};

/// The tenant of a principal, and a quota of its own.
#[derive(Clone, Copy)]
struct Tenant(u64);

/// What a layer of the application finds out about a request.
#[derive(Clone)]
struct Region(&'static str);

/// A token's name is that of its subject. Ada and Ben are users of one tenant with one client, Cleo
/// of another; Ada has two tokens.
fn verifier() -> FixedVerifier {
    [
        ("ada", "ada", Some("web"), Some("1"), 7),
        ("ada again", "ada", Some("cli"), Some("2"), 7),
        ("ben", "ben", Some("web"), None, 7),
        ("cleo", "cleo", None, None, 8),
    ]
    .into_iter()
    .fold(FixedVerifier::new(), |verifier, (token, subject, client, id, tenant)| {
        let mut principal = Principal::builder("https://issuer.example", subject)
            .roles([subject])
            .value(Tenant(tenant));
        if let Some(client) = client {
            principal = principal.client(client);
        }
        if let Some(id) = id {
            principal = principal.token_id(id);
        }
        verifier.with(&token.replace(' ', "-"), principal.build()).unwrap()
    })
}

type Api = BoxCloneSyncService<
    Request<TestBody>,
    Response<tower_gate::rejection::ResponseBody<tower_gate::rejection::ResponseBody<TestBody>>>,
    Infallible,
>;

/// The limit between a layer that authenticates, if anybody, and a handler.
fn before<S>(limit: &RateLimitLayer, handler: S) -> Api
where
    S: Service<Request<TestBody>, Response = Response<TestBody>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
{
    let authenticate = AuthenticateLayer::new(verifier()).optional();
    BoxCloneSyncService::new(authenticate.layer(limit.layer(handler)))
}

fn api(limit: &RateLimitLayer) -> Api {
    before(limit, Probe::default())
}

fn layer(clock: &ManualClock, policies: impl IntoIterator<Item = Policy>) -> RateLimitLayer {
    RateLimitLayer::of(MemoryStore::new(), policies).with_clock(clock.clone())
}

fn from(mut request: Request<TestBody>, address: impl Into<IpAddr>) -> Request<TestBody> {
    request.extensions_mut().insert(PeerAddr(SocketAddr::new(address.into(), 4711)));
    request
}

/// The values of these headers, each with its name.
fn shown(answer: &Answer) -> Vec<String> {
    let is_shown = |name: &str| name.contains("ratelimit") || name == "retry-after";
    let mut shown: Vec<_> = answer
        .headers
        .iter()
        .filter(|(name, _)| is_shown(name.as_str()))
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    shown.sort();
    shown
}

fn violated(answer: &Answer) -> Vec<String> {
    serde_json::from_value(answer.json()["violated-policies"].clone()).unwrap()
}

/// How many of the first requests with this token pass before one is refused.
async fn passes(api: &Api, request: &Request<TestBody>) -> usize {
    for n in 0..1000 {
        match send(api, request.clone()).await.status.as_u16() {
            200 => {}
            429 => return n,
            other => panic!("{other}"),
        }
    }
    panic!("nothing is refused");
}

#[tokio::test]
async fn a_request_passes_if_all_policies_let_it_and_takes_nothing_otherwise() {
    let clock = ManualClock::default();
    let policies = [
        Policy::new("burst", Quota::per_second(2)),
        Policy::new("minute", Quota::per_minute(3)),
        Policy::new("day", Quota::per_hour(100)),
    ];
    let api = api(&layer(&clock, policies));
    let policies = r#"ratelimit-policy: "burst";q=2;w=1, "minute";q=3;w=60, "day";q=100;w=3600"#;
    // The units left of each, the seconds until the next, and the wait and the names of a refusal.
    for (pause, left, next, refused) in [
        (0, [1, 2, 99], [1, 20, 36], None),
        (0, [0, 1, 98], [1, 20, 36], None),
        (0, [0, 1, 98], [1, 20, 36], Some(("1", vec!["burst"]))),
        (1000, [1, 0, 97], [1, 19, 35], None),
        (0, [1, 0, 97], [1, 19, 35], Some(("19", vec!["minute"]))),
        (500, [2, 0, 97], [0, 19, 35], Some(("19", vec!["minute"]))),
        (18_500, [1, 0, 96], [1, 20, 16], None),
    ] {
        clock.advance(Duration::from_millis(pause));
        let answer = send(&api, with_token("ada")).await;
        let limit = ["burst", "minute", "day"].iter().zip(left).zip(next);
        let limit = limit.map(|((name, r), t)| format!("\"{name}\";r={r};t={t}"));
        let limit = format!("ratelimit: {}", limit.collect::<Vec<_>>().join(", "));
        let mut expected = vec![policies.to_owned(), limit];
        expected.extend(refused.as_ref().map(|(wait, _)| format!("retry-after: {wait}")));
        assert_eq!(shown(&answer), expected, "RL-1, 2, 24, 30, after {pause}");
        match refused {
            None => assert_eq!(answer.status, 200),
            Some((_, names)) => assert_eq!(violated(&answer), names, "RL-9"),
        }
    }
}

#[tokio::test]
async fn a_refusal_names_all_that_are_violated_and_waits_for_the_last_of_them() {
    let policies = [
        Policy::new("second", Quota::per_second(1)),
        Policy::new("minute", Quota::per_minute(1)),
        Policy::new("hour", Quota::per_hour(9)),
    ];
    let api = api(&layer(&ManualClock::default(), policies));
    send(&api, with_token("ada")).await;
    let answer = send(&api, with_token("ada")).await;
    assert_eq!(violated(&answer), ["second", "minute"], "RL-9");
    assert_eq!(answer.header("retry-after"), "60", "RL-5");
    let rejection = answer.extensions.get::<Rejection>().unwrap();
    assert_eq!(rejection.policies().collect::<Vec<_>>(), ["second", "minute"]);

    let call = send(&api, as_grpc_call(with_token("ada"))).await;
    assert_eq!(call.header("grpc-status"), "8", "GRPC-13");
    assert_eq!(call.header("grpc-retry-pushback-ms"), "60000", "GRPC-23");
    assert!(call.headers.contains_key("grpc-status-details-bin"), "GRPC-20");
}

#[tokio::test]
async fn a_tier_has_policies_of_its_own_beside_those_of_everybody() {
    let limit = layer(&ManualClock::default(), [Policy::new("minute", Quota::per_minute(2))])
        .with_tier_of(
            "partner",
            Requirement::role("ada"),
            [Policy::new("minute", Quota::per_minute(4)), Policy::new("hour", Quota::per_hour(9))],
        )
        .with_unlimited("free", Requirement::role("cleo"))
        .with_policy(Policy::new("all", Quota::per_hour(5)).with_partition(Partition::global()));
    let api = api(&limit);
    let answer = send(&api, with_token("ada")).await;
    let partner = "\"minute\";r=3;t=15, \"hour\";r=8;t=400, \"all\";r=4;t=720";
    assert_eq!(answer.header("ratelimit"), partner);
    assert_eq!(passes(&api, &with_token("ada")).await, 3);
    let answer = send(&api, with_token("ben")).await;
    let rest = "\"minute\";r=1;t=30, \"all\";r=0;t=720";
    assert_eq!(answer.header("ratelimit"), rest, "all share what is for all");
    assert_eq!(violated(&send(&api, with_token("ben")).await), ["all"]);
    for _ in 0..20 {
        let answer = send(&api, with_token("cleo")).await;
        assert_eq!((answer.status.as_u16(), shown(&answer)), (200, vec![]), "not limited at all");
    }
}

#[tokio::test]
async fn callers_without_a_token_may_have_a_stricter_quota() {
    let limit = layer(&ManualClock::default(), [Policy::new("minute", Quota::per_minute(9))])
        .with_anonymous("anonymous", Quota::per_minute(2));
    let api = api(&limit);
    let at = |last| Ipv4Addr::new(192, 0, 2, last);
    let answer = send(&api, from(anonymous(), at(1))).await;
    assert_eq!(answer.header("ratelimit-policy"), "\"anonymous\";q=2;w=60");
    assert_eq!(passes(&api, &from(anonymous(), at(1))).await, 1);
    assert_eq!(passes(&api, &from(anonymous(), at(2))).await, 2, "each address its own");
    assert_eq!(passes(&api, &from(with_token("ada"), at(1))).await, 9);
}

fn region(extensions: &http::Extensions) -> Option<PartitionValue<'_>> {
    Some(extensions.get::<Region>()?.0.into())
}

#[tokio::test]
async fn units_are_counted_by_what_the_partition_says() {
    let in_region = |token, region| {
        let mut request = with_token(token);
        request.extensions_mut().insert(Region(region));
        request
    };
    let both = |one: &'static str, other: &'static str| (with_token(one), with_token(other));
    let regions = |one, other| (in_region("ada", one), in_region("ada", other));
    let at = |one: &str, other: &str| {
        [one, other].map(|ip| from(anonymous(), ip.parse::<IpAddr>().unwrap())).into()
    };
    let tenant = || Partition::tenant(|principal| Some(principal.get::<Tenant>()?.0.into()));
    let no_tenant = || Partition::tenant(|_| None);
    let extension = || Partition::extension(region);
    // Whether the second request finds the units of the first one gone.
    for (partition, (one, other), together) in [
        (Partition::principal(), both("ada", "ada-again"), true),
        (Partition::principal(), both("ada", "ben"), false),
        (Partition::client(), both("ada", "ben"), true),
        (Partition::client(), both("ada", "ada-again"), false),
        (Partition::client(), both("ada", "cleo"), false),
        (Partition::token(), both("ada", "ada-again"), false),
        (Partition::token(), both("ben", "ben"), true),
        (Partition::token(), both("ben", "cleo"), false),
        (tenant(), both("ada", "ben"), true),
        (tenant(), both("ada", "cleo"), false),
        (no_tenant(), both("ada", "ben"), false),
        (no_tenant(), both("ada", "ada-again"), true),
        (Partition::global(), both("ada", "cleo"), true),
        (extension(), regions("north", "north"), true),
        (extension(), regions("north", "south"), false),
        (Partition::route(region), regions("north", "north"), true),
        (Partition::route(region), regions("north", "south"), false),
        (Partition::route(region), both("ada", "cleo"), true),
        (Partition::principal().and(Partition::route(region)), regions("north", "south"), false),
        (
            Partition::principal().and(extension()),
            (in_region("ada", "north"), in_region("ben", "north")),
            false,
        ),
        (
            Partition::principal().and(extension()),
            (in_region("ada", "north"), in_region("ada-again", "north")),
            true,
        ),
        (Partition::address(), at("192.0.2.1", "::ffff:192.0.2.1"), true),
        (Partition::address(), at("192.0.2.1", "192.0.2.2"), false),
        (Partition::address().with_prefixes(24, 64), at("192.0.2.1", "192.0.2.2"), true),
        (Partition::address().with_prefixes(32, 128), at("2001:db8::1", "2001:db8::2"), false),
        (Partition::principal().with_prefixes(24, 48), at("2001:db8::1", "2001:db8:0:1::"), true),
    ] {
        let why = format!("{partition:?} of {one:?} and {other:?}");
        let policy = Policy::new("x", Quota::per_hour(1)).with_partition(partition);
        let api = api(&layer(&ManualClock::default(), [policy]));
        assert_eq!(send(&api, one).await.status, 200, "{why}");
        let expected = if together { 429 } else { 200 };
        assert_eq!(send(&api, other).await.status, expected, "{why}");
    }
}

#[tokio::test]
async fn what_is_merely_called_alike_is_not_counted_together() {
    let number = u128::from_le_bytes(*b"sixteen letters!");
    let tenant = || {
        Partition::tenant(move |principal| match principal.client() {
            Some("number") => Some(number.into()),
            _ => Some("sixteen letters!".into()),
        })
    };
    let caller = |issuer, subject, client: &str, id: &str| {
        let caller = Principal::builder(issuer, subject);
        let caller = if client.is_empty() { caller } else { caller.client(client) };
        if id.is_empty() { caller.build() } else { caller.token_id(id).build() }
    };
    let (one, other) = ("https://one.example", "https://other.example");
    for (partition, first, second) in [
        (Partition::principal(), caller(one, "s", "c", "t"), caller(other, "s", "c", "t")),
        (Partition::client(), caller(one, "s", "c", "t"), caller(other, "s", "c", "t")),
        (Partition::token(), caller(one, "s", "c", "t"), caller(other, "s", "c", "t")),
        (Partition::client(), caller(one, "s", "c", "t"), caller(one, "c", "", "t")),
        (Partition::token(), caller(one, "s", "c", "t"), caller(one, "t", "c", "")),
        (tenant(), caller(one, "s", "number", ""), caller(one, "s", "text", "")),
    ] {
        let why = format!("{partition:?} of {first:?} and {second:?}");
        let policy = Policy::new("x", Quota::per_hour(1)).with_partition(partition);
        let limit = layer(&ManualClock::default(), [policy]);
        let verifier = FixedVerifier::new().with("first", first).unwrap();
        let verifier = verifier.with("second", second).unwrap();
        let api = AuthenticateLayer::new(verifier).layer(limit.layer(Probe::default()));
        for (token, status) in [("first", 200), ("second", 200), ("first", 429), ("second", 429)] {
            let answer = send(&api, with_token(token)).await;
            assert_eq!(answer.status, status, "attack 17: {token}, {why}");
        }
    }
}

/// A store keeps what anybody can have as many of as they like apart from what only verified callers
/// can have.
#[tokio::test]
async fn keys_that_anybody_can_make_up_are_told_from_those_of_verified_callers() {
    #[derive(Clone, Default)]
    struct Asked(Arc<Mutex<Vec<bool>>>);
    impl RateLimitStore for Asked {
        async fn take(&self, request: &TakeRequest) -> Result<Decisions, StoreError> {
            self.0
                .lock()
                .unwrap()
                .extend(request.takes().iter().map(|take| take.key.is_anonymous()));
            Ok(request.decide(&mut vec![0; request.takes().len()], 0))
        }
        fn settle(&self, _: &Settlement) {}
    }
    let extension = || Partition::extension(region);
    for (partition, with_a_token, without) in [
        (Partition::principal(), false, true),
        (Partition::client(), false, true),
        (extension(), true, true),
        (Partition::route(region).and(extension()), true, true),
        (Partition::address().and(extension()), true, true),
        (Partition::tenant(|_| None).and(extension()), false, true),
        (Partition::principal().and(extension()), false, true),
        (Partition::address(), true, true),
        (Partition::principal().and(Partition::address()), true, true),
        (Partition::global(), false, false),
        (Partition::route(region), false, false),
    ] {
        let (store, why) = (Asked::default(), format!("{partition:?}"));
        let policy = Policy::new("x", Quota::per_hour(9)).with_partition(partition);
        let api = api(&RateLimitLayer::of(store.clone(), [policy]));
        for request in [with_token("ada"), anonymous()] {
            let mut request = from(request, Ipv4Addr::new(192, 0, 2, 1));
            request.extensions_mut().insert(Region("north"));
            assert_eq!(send(&api, request).await.status, 200, "{why}");
        }
        assert_eq!(*store.0.lock().unwrap(), [with_a_token, without], "attack 43: {why}");
    }
}

/// Whoever sent requests with a token and without once had the units of such a value twice.
#[tokio::test]
async fn a_value_of_the_application_is_counted_once_with_and_without_a_token() {
    let policy = Policy::new("x", Quota::per_hour(6)).with_partition(Partition::extension(region));
    let api = api(&layer(&ManualClock::default(), [policy]));
    for status in [200, 200, 200, 429] {
        for request in [with_token("ada"), anonymous()] {
            let mut request = from(request, Ipv4Addr::new(192, 0, 2, 1));
            request.extensions_mut().insert(Region("north"));
            assert_eq!(send(&api, request).await.status, status, "RL-42");
        }
    }
}

#[tokio::test]
async fn a_caller_that_cannot_be_told_from_others_is_refused() {
    let extension = Partition::extension(region);
    for (partition, request, word) in [
        (extension, with_token("ada"), "the extension"),
        (Partition::tenant(|_| None), anonymous(), "PeerAddr"),
        (Partition::client(), anonymous(), "PeerAddr"),
        (Partition::address(), with_token("ada"), "PeerAddr"),
    ] {
        let why = format!("{partition:?}");
        let limit = layer(&ManualClock::default(), [Policy::new("x", Quota::per_hour(1))]);
        let answer = send(&api(&limit.with_partition(partition)), request).await;
        assert_eq!((answer.status.as_u16(), answer.error().as_str()), (500, "misconfigured"));
        assert!(answer.json()["message"].as_str().unwrap().contains(word), "{why}");
    }
}

#[tokio::test]
async fn a_principal_may_have_a_quota_of_its_own_within_a_bound() {
    let own = |tenant: &Tenant| {
        Quota::new(u32::try_from(tenant.0).ok()?, Duration::from_secs(70), 70).ok()
    };
    let most = Quota::per_minute(60).with_burst(8);
    let policy = Policy::new("x", Quota::per_minute(2)).with_override(most, move |principal| {
        // Ben's gives too much at once, Cleo's comes back too fast, and Ada's is not a quota.
        match principal.subject() {
            "ben" => own(principal.get::<Tenant>()?),
            "cleo" => Some(Quota::per_second(1000).with_burst(5)),
            "ada" => Quota::new(0, Duration::from_secs(1), 1).ok(),
            _ => None,
        }
    });
    let api = api(&layer(&ManualClock::default(), [policy]));
    for (token, policy, expected) in
        [("ben", "\"x\";q=8;w=80", 8), ("ada", "\"x\";q=2;w=60", 2), ("cleo", "\"x\";q=5;w=5", 5)]
    {
        assert_eq!(passes(&api, &with_token(token)).await, expected, "{token}");
        let answer = send(&api, with_token(token)).await;
        assert_eq!(answer.header("ratelimit-policy"), policy, "RL-44: {token}");
    }
}

/// Two tokens of one principal may name two quotas. Neither forgets what is owed under the other.
#[tokio::test]
async fn a_smaller_quota_of_its_own_gives_nothing_of_a_greater_one_back() {
    let clock = ManualClock::default();
    let policy = Policy::new("x", Quota::per_minute(60))
        .with_override(Quota::per_hour(900), |principal| {
            principal.scopes().is_empty().then_some(Quota::per_hour(900))
        });
    let limit = layer(&clock, [policy]);
    let as_ben = |scopes: &str| {
        let ben = Principal::builder("https://issuer.example", "ben").scopes(scopes).build();
        let verifier = FixedVerifier::new().with("ben", ben).unwrap();
        let authenticate = AuthenticateLayer::new(verifier).optional();
        BoxCloneSyncService::new(authenticate.layer(limit.layer(Probe::default())))
    };
    let (large, small) = (as_ben(""), as_ben("small"));
    assert_eq!(passes(&large, &with_token("ben")).await, 900);
    assert_eq!(passes(&small, &with_token("ben")).await, 60);
    assert_eq!(passes(&large, &with_token("ben")).await, 0, "RL-42");
    clock.advance(Duration::from_secs(60));
    assert_eq!(passes(&large, &with_token("ben")).await, 15, "RL-42: 900 an hour");
}

/// A quota of the token's is counted by itself, within what the principal has in all.
#[tokio::test]
async fn quotas_of_several_tokens_are_counted_together_up_to_a_bound() {
    let clock = ManualClock::default();
    let most = Quota::per_minute(6);
    let policy = |name| {
        Policy::new(name, Quota::per_minute(2))
            .with_override(most, |principal| principal.get::<Quota>().copied())
    };
    let verifier = [("small", "ada", 4), ("large", "ada", 5), ("other", "ben", 5)].into_iter();
    let verifier = verifier.fold(FixedVerifier::new(), |verifier, (token, subject, units)| {
        let principal = Principal::builder("https://issuer.example", subject);
        verifier.with(token, principal.value(Quota::per_minute(units)).build()).unwrap()
    });
    let authenticate = AuthenticateLayer::new(verifier);
    let api = |policies: Vec<Policy>, status, units| {
        let limit = layer(&clock, policies);
        let handler = service_fn(move |request: Request<TestBody>| async move {
            Cost::of(request.extensions()).inspect(|cost| cost.set(units));
            let response = Response::builder().status(status).body(TestBody::default());
            Ok::<_, Infallible>(response.unwrap())
        });
        BoxCloneSyncService::new(authenticate.layer(limit.layer(handler)))
    };
    let good = api(vec![Policy::new("day", Quota::per_hour(24)), policy("x")], 200, 1);
    assert_eq!(passes(&good, &with_token("small")).await, 4, "by itself");
    assert_eq!(passes(&good, &with_token("large")).await, 2, "within the bound");
    let answer = send(&good, with_token("large")).await;
    assert_eq!(answer.status, 429);
    assert_eq!(answer.header("ratelimit-policy"), "\"day\";q=24;w=3600, \"x\";q=5;w=60");
    assert_eq!(answer.header("ratelimit"), "\"day\";r=18;t=150, \"x\";r=0;t=10", "RL-2");
    assert_eq!(answer.header("retry-after"), "10", "RL-5: of the bound");
    assert_eq!(violated(&answer), ["x"], "RL-9");
    assert_eq!(passes(&good, &with_token("other")).await, 5, "of one principal, and not of all");
    clock.advance(Duration::from_secs(10));
    assert_eq!(passes(&good, &with_token("large")).await, 1, "at the rate of the bound");

    let trail = Trail::default();
    let shadow = api(vec![policy("y").in_shadow()], 200, 1);
    let shadow = AuditLayer::new(trail.clone()).layer(shadow);
    for token in ["small", "small", "small", "small", "large", "large", "large"] {
        assert_eq!(send(&shadow, with_token(token)).await.status, 200);
    }
    let events = trail.events();
    let would_limit: Vec<_> = events.iter().map(|event| event.would_limit.len()).collect();
    assert_eq!(would_limit, [0, 0, 0, 0, 0, 0, 1]);
    let refunding = api(vec![policy("z").with_failures_refunded()], 500, 1);
    for _ in 0..3 {
        for token in ["small", "small", "small", "large", "large", "large"] {
            assert_eq!(send(&refunding, with_token(token)).await.status, 500, "both give back");
        }
    }
    let settling = api(vec![policy("settled").with_settled_cost()], 200, 2);
    assert_eq!(passes(&settling, &with_token("small")).await, 2, "two units each");
    assert_eq!(passes(&settling, &with_token("large")).await, 1, "of both");
}

/// The units of a quota of its own were those of every limit that gave the principal the same one.
#[tokio::test]
async fn the_same_quota_of_its_own_in_two_limits_is_two() {
    let own = Quota::per_minute(3);
    let policy =
        |name| Policy::new(name, Quota::per_minute(1)).with_override(own, move |_| Some(own));
    let (store, clock) = (MemoryStore::new(), ManualClock::default());
    let [search, export] = ["search", "export"].map(|name| {
        let limit = RateLimitLayer::of(store.clone(), [policy("minute")]).with_name(name);
        api(&limit.with_clock(clock.clone()))
    });
    let tier = RateLimitLayer::of(store, [policy("minute")]).with_name("search").with_tier_of(
        "partner",
        Requirement::role("ada"),
        [policy("minute")],
    );
    for api in [&search, &export, &api(&tier.with_clock(clock))] {
        assert_eq!(passes(api, &with_token("ada")).await, 3);
    }
}

/// A policy in shadow never refuses, not even whom it cannot place.
#[tokio::test]
async fn a_shadow_lets_callers_in_whom_it_cannot_place() {
    let shadow = Policy::new("y", Quota::per_hour(1)).with_partition(Partition::address());
    let policies = [Policy::new("x", Quota::per_hour(5)), shadow.in_shadow()];
    let api = api(&layer(&ManualClock::default(), policies));
    assert_eq!(passes(&api, &with_token("ada")).await, 5);
}

#[tokio::test]
async fn a_quota_that_is_changed_holds_from_the_next_request_and_callers_keep_what_they_used() {
    let (clock, quota) = (ManualClock::default(), LiveQuota::new(Quota::per_minute(10)));
    let api = api(&layer(&clock, [Policy::live("x", &quota)]));
    for _ in 0..4 {
        assert_eq!(send(&api, with_token("ada")).await.status, 200);
    }
    // The four units are 24 seconds, which are two units of the new quota.
    quota.set(Quota::per_minute(5));
    let answer = send(&api, with_token("ada")).await;
    assert_eq!(answer.header("ratelimit-policy"), "\"x\";q=5;w=60");
    assert_eq!(answer.header("ratelimit"), "\"x\";r=2;t=12");
    quota.set(Quota::per_minute(60));
    assert_eq!(passes(&api, &with_token("ada")).await, 24);
    assert_eq!(quota.get(), Quota::per_minute(60));
}

/// A policy that costs what the header `cost` says.
fn priced(name: &str, quota: Quota) -> Policy {
    Policy::new(name, quota).with_cost(|request| {
        request.headers.get("cost").map_or(1, |cost| cost.to_str().unwrap().parse().unwrap())
    })
}

fn costing(token: &str, cost: u32) -> Request<TestBody> {
    let mut request = with_token(token);
    request.headers_mut().insert("cost", cost.into());
    request
}

#[tokio::test]
async fn a_request_may_cost_several_units_or_none() {
    let clock = ManualClock::default();
    let policies =
        [priced("units", Quota::per_minute(10)), Policy::new("requests", Quota::per_minute(60))];
    let api = api(&layer(&clock, policies));
    for (cost, status, limit, wait) in [
        (7, 200, "\"units\";r=3;t=6, \"requests\";r=59;t=1", ""),
        (4, 429, "\"units\";r=3;t=6, \"requests\";r=59;t=1", "6"),
        (3, 200, "\"units\";r=0;t=6, \"requests\";r=58;t=1", ""),
        (0, 200, "\"units\";r=0;t=6, \"requests\";r=57;t=1", ""),
        (10, 429, "\"units\";r=0;t=6, \"requests\";r=57;t=1", "60"),
        (11, 429, "\"units\";r=0;t=6, \"requests\";r=57;t=1", ""),
        (u32::MAX, 429, "\"units\";r=0;t=6, \"requests\";r=57;t=1", ""),
    ] {
        let answer = send(&api, costing("ada", cost)).await;
        assert_eq!(answer.status, status, "{cost}");
        assert_eq!(answer.header("ratelimit"), limit, "RL-24: {cost}");
        assert_eq!(answer.header("retry-after"), wait, "RL-5, 22: {cost}");
    }
}

/// A limit of ten units a minute of which a handler says how many it needs.
fn settled(
    clock: &ManualClock,
    handler: impl Fn(Request<TestBody>) -> Response<TestBody> + Clone + Send + Sync + 'static,
) -> Api {
    let policy = Policy::new("units", Quota::per_minute(10)).with_settled_cost();
    let handler = service_fn(move |request| {
        let response = handler(request);
        async { Ok::<_, Infallible>(response) }
    });
    before(&layer(clock, [policy]), handler)
}

#[tokio::test]
async fn what_a_handler_says_is_what_its_request_costs() {
    let clock = ManualClock::default();
    let api = settled(&clock, |request| {
        let cost = Cost::of(request.extensions()).expect("a policy that asks for it");
        if let Some(said) = request.headers().get("cost") {
            cost.add(1_000_000);
            cost.set(0);
            cost.add(said.to_str().unwrap().parse().unwrap());
        }
        Response::default()
    });
    let left = async || send(&api, costing("ada", 0)).await.header("ratelimit").to_owned();
    send(&api, costing("ada", 4)).await;
    assert_eq!(left().await, "\"units\";r=5;t=6", "three more than were taken");
    assert_eq!(left().await, "\"units\";r=5;t=6", "the one that was taken was given back");
    send(&api, with_token("ada")).await;
    assert_eq!(left().await, "\"units\";r=4;t=6", "nothing was said");
    send(&api, costing("ada", 9)).await;
    // Four more than there were, and the one that the next request takes.
    for wait in ["30", "30"] {
        let answer = send(&api, costing("ada", 0)).await;
        assert_eq!(answer.status, 429, "in debt");
        assert_eq!(answer.header("retry-after"), wait);
    }
    clock.advance(Duration::from_secs(30));
    send(&api, costing("ada", u32::MAX)).await;
    let answer = send(&api, costing("ada", 0)).await;
    assert_eq!(answer.header("retry-after"), "66", "a debt of ten, and the next one");
}

#[tokio::test]
async fn a_policy_that_does_not_ask_what_a_request_costs_keeps_what_it_took() {
    let policies = [
        Policy::new("kept", Quota::per_minute(10)),
        Policy::new("settled", Quota::per_minute(10)).with_settled_cost(),
    ];
    let handler = service_fn(|request: Request<TestBody>| async move {
        Cost::of(request.extensions()).unwrap().set(4);
        Ok::<_, Infallible>(Response::new(TestBody::default()))
    });
    let api = before(&layer(&ManualClock::default(), policies), handler);
    send(&api, with_token("ada")).await;
    let answer = send(&api, with_token("ada")).await;
    assert_eq!(answer.header("ratelimit"), "\"kept\";r=8;t=6, \"settled\";r=5;t=6");
}

#[tokio::test]
async fn a_cost_is_settled_when_nobody_can_say_more() {
    let kept: Arc<Mutex<Vec<Cost>>> = Arc::default();
    let keep = kept.clone();
    let api = settled(&ManualClock::default(), move |request| {
        keep.lock().unwrap().extend(Cost::of(request.extensions()).cloned());
        Response::default()
    });
    let left = async || {
        let answer = send(&api, with_token("ada")).await;
        kept.lock().unwrap().pop().unwrap().set(1);
        answer.header("ratelimit").to_owned()
    };
    send(&api, with_token("ada")).await;
    let cost = kept.lock().unwrap().pop().unwrap();
    cost.add(3);
    assert_eq!(left().await, "\"units\";r=8;t=6", "a stream that has not ended");
    cost.add(2);
    let clone = cost.clone();
    drop(cost);
    assert_eq!(left().await, "\"units\";r=7;t=6");
    drop(clone);
    assert_eq!(left().await, "\"units\";r=2;t=6", "five in place of one");
}

#[tokio::test]
async fn a_handler_that_panics_or_is_given_up_keeps_what_was_taken_or_what_it_said() {
    for (says, left) in [(None, "\"units\";r=8;t=6"), (Some(5), "\"units\";r=4;t=6")] {
        for hangs in [false, true] {
            let policy = Policy::new("units", Quota::per_minute(10)).with_settled_cost();
            let handler = service_fn(move |request: Request<TestBody>| async move {
                let cost = Cost::of(request.extensions()).unwrap().clone();
                if request.method() == http::Method::GET {
                    if let Some(units) = says {
                        cost.set(units);
                    }
                    if hangs {
                        std::future::pending::<()>().await;
                    }
                    panic!("the handler fails");
                }
                Ok::<_, Infallible>(Response::new(TestBody::default()))
            });
            let api = before(&layer(&ManualClock::default(), [policy]), handler);
            let task = tokio::spawn(api.clone().oneshot(with_token("ada")));
            tokio::task::yield_now().await;
            task.abort();
            assert!(task.await.is_err(), "given up, or panicked");
            let mut looks = with_token("ada");
            *looks.method_mut() = http::Method::HEAD;
            let answer = send(&api, looks).await;
            assert_eq!(answer.header("ratelimit"), left, "{says:?} {hangs}");
        }
    }
}

#[tokio::test]
async fn stacked_limits_settle_the_same_cost() {
    let clock = ManualClock::default();
    let limit = |name: &str| {
        let policy = Policy::new(name, Quota::per_minute(10)).with_settled_cost();
        layer(&clock, [policy]).with_name(name)
    };
    let service = ServiceBuilder::new()
        .layer(AuthenticateLayer::new(verifier()))
        .layer(limit("outer"))
        .layer(limit("inner"))
        .service(service_fn(|request: Request<TestBody>| async move {
            Cost::of(request.extensions()).unwrap().set(4);
            Ok::<_, Infallible>(Response::new(TestBody::default()))
        }));
    send(&service, with_token("ada")).await;
    let answer = send(&service, with_token("ada")).await;
    let shown: Vec<_> = answer.headers.get_all("ratelimit").iter().collect();
    assert_eq!(shown, ["\"inner\";r=5;t=6", "\"outer\";r=5;t=6"]);
}

#[tokio::test]
async fn a_failure_gives_back_what_it_took_where_that_is_asked_for() {
    let policies = || {
        [
            Policy::new("kept", Quota::per_minute(10)),
            Policy::new("refunded", Quota::per_minute(10)).with_failures_refunded(),
        ]
    };
    // A status, that of a call that ends with its head, and the units left.
    for (status, call, left) in [
        (200, "", 8),
        (404, "", 8),
        (429, "", 8),
        (500, "", 9),
        (503, "", 9),
        (200, "0", 8),
        (200, "1", 8),
        (200, "2", 9),
        (200, "3", 8),
        (200, "4", 9),
        (200, "5", 8),
        (200, "8", 8),
        (200, "12", 8),
        (200, "13", 9),
        (200, "14", 9),
        (200, "15", 9),
        (200, "16", 8),
        (200, "what?", 8),
    ] {
        let handler = service_fn(move |_: Request<TestBody>| async move {
            let mut response = Response::new(TestBody::default());
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            if !call.is_empty() {
                response.headers_mut().insert("grpc-status", call.parse().unwrap());
            }
            Ok::<_, Infallible>(response)
        });
        let api = before(&layer(&ManualClock::default(), policies()), handler);
        send(&api, with_token("ada")).await;
        let answer = send(&api, with_token("ada")).await;
        let expected = format!("\"kept\";r=8;t=6, \"refunded\";r={left};t=6");
        assert_eq!(answer.header("ratelimit"), expected, "{status} {call}");
    }

    let broken = service_fn(|_: Request<TestBody>| async {
        Err::<Response<TestBody>, _>(std::io::Error::other("broken"))
    });
    let limit = layer(&ManualClock::default(), policies());
    let service = AuthenticateLayer::new(verifier()).layer(limit.layer(broken));
    assert!(service.oneshot(with_token("ada")).await.is_err(), "the error stays what it is");
    let answer = send(&api(&limit), with_token("ada")).await;
    let expected = "\"kept\";r=8;t=6, \"refunded\";r=9;t=6";
    assert_eq!(answer.header("ratelimit"), expected, "an error is a failure");
}

/// Whoever had a request fail late had its units by then, and got them once more.
#[tokio::test]
async fn a_failure_gives_back_nothing_that_time_has_given_back() {
    for (runs_for, before_it_fails, after) in [(0, 9, 1), (6, 10, 0), (3600, 10, 0)] {
        let (clock, fails) = (ManualClock::default(), Arc::new(Notify::new()));
        let policy = Policy::new("units", Quota::per_minute(10)).with_failures_refunded();
        let handler = fails.clone();
        let handler = service_fn(move |request: Request<TestBody>| {
            let fails = handler.clone();
            async move {
                let mut response = Response::new(TestBody::default());
                if request.headers().contains_key("fails") {
                    fails.notified().await;
                    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                }
                Ok::<_, Infallible>(response)
            }
        });
        let api = before(&layer(&clock, [policy]), handler);
        let mut request = with_token("ada");
        request.headers_mut().insert("fails", "late".parse().unwrap());
        let failing = tokio::spawn(api.clone().oneshot(request));
        tokio::task::yield_now().await;
        clock.advance(Duration::from_secs(runs_for));
        assert_eq!(passes(&api, &with_token("ada")).await, before_it_fails, "{runs_for}");
        fails.notify_one();
        assert_eq!(failing.await.unwrap().unwrap().status(), 500);
        assert_eq!(passes(&api, &with_token("ada")).await, after, "RL-42: {runs_for}");
    }
}

/// What costs nothing passes as soon as the debt is paid, before there is a unit.
#[tokio::test]
async fn nobody_is_told_to_come_before_there_is_more() {
    let policy = priced("units", Quota::per_minute(10)).with_settled_cost();
    let handler = service_fn(|request: Request<TestBody>| async move {
        Cost::of(request.extensions()).unwrap().set(12);
        Ok::<_, Infallible>(Response::new(TestBody::default()))
    });
    let api = before(&layer(&ManualClock::default(), [policy]), handler);
    send(&api, costing("ada", 1)).await;
    let answer = send(&api, costing("ada", 0)).await;
    assert_eq!(
        shown(&answer)[0..2].join(" "),
        "ratelimit-policy: \"units\";q=10;w=60 ratelimit: \"units\";r=0;t=18"
    );
    assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (429, "18"), "RL-5");
}

#[tokio::test]
async fn an_operator_is_told_once_in_a_while_and_not_for_every_request() {
    let recording = Recording::start();
    let clock = ManualClock::default();
    let closed = RateLimitLayer::of(ClosedStore, [Policy::new("x", Quota::per_minute(5))]);
    let closed = api(&closed.with_clock(clock.clone()));
    let dear = api(&layer(&clock, [priced("dear", Quota::per_minute(5))]));
    for _ in 0..3 {
        for _ in 0..50 {
            assert_eq!(send(&closed, with_token("ada")).await.status, 503);
            assert_eq!(send(&dear, costing("ada", 6)).await.status, 429);
        }
        clock.advance(Duration::from_secs(10));
    }
    let events = recording.events("tower_gate::trace");
    let count =
        |name: &str, value: &str| events.iter().filter(|event| event.field(name) == value).count();
    assert_eq!((count("cause", "it is closed"), count("policy", "dear")), (3, 3), "RL-22");
}

/// Memory that answers about a policy in shadow only when all of them are asked, and takes time.
struct Together {
    memory: MemoryStore,
    clock: ManualClock,
    shadows: Barrier,
    waited: Arc<Mutex<Vec<Duration>>>,
}

impl RateLimitStore for Together {
    async fn take(&self, request: &TakeRequest) -> Result<Decisions, StoreError> {
        self.waited.lock().unwrap().push(request.waited);
        if request.takes().len() == 1 {
            self.shadows.wait().await;
        }
        self.clock.advance(Duration::from_millis(30));
        self.memory.take(request).await
    }

    fn settle(&self, settlement: &Settlement) {
        self.memory.settle(settlement);
    }
}

/// Each waited for the one before it, and for as long as a store may take to answer.
#[tokio::test]
async fn policies_in_shadow_are_asked_at_the_same_time_and_within_the_time_of_one_question() {
    let waited = Arc::default();
    let clock = ManualClock::default();
    let (memory, shadows) = (MemoryStore::new(), Barrier::new(3));
    let store = Together { memory, clock: clock.clone(), shadows, waited: Arc::clone(&waited) };
    let shadow = |name| Policy::new(name, Quota::per_minute(2)).in_shadow();
    let policies = [
        Policy::new("minute", Quota::per_minute(5)),
        Policy::new("hour", Quota::per_hour(50)),
        shadow("a"),
        shadow("b"),
        shadow("c"),
    ];
    let api = api(&RateLimitLayer::of(store, policies).with_clock(clock));
    let answer = send(&api, with_token("ada"));
    let answer = tokio::time::timeout(Duration::from_secs(20), answer).await;
    assert_eq!(answer.expect("none waits for another").status, 200);
    let millis: Vec<_> = waited.lock().unwrap().iter().map(Duration::as_millis).collect();
    assert_eq!(millis, [0, 30, 30, 30]);
}

#[tokio::test]
async fn each_style_has_its_fields_and_old_ones_show_the_strictest_policy() {
    // 2001-09-09T01:46:40Z.
    let clock = ManualClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000));
    let policies =
        [Policy::new("ten", Quota::per_minute(10)), Policy::new("two", Quota::per_hour(2))];
    for (style, expected) in [
        (
            HeaderStyle::Draft10,
            vec![
                r#"ratelimit-policy: "ten";q=10;w=60, "two";q=2;w=3600"#,
                r#"ratelimit: "ten";r=9;t=6, "two";r=1;t=1800"#,
            ],
        ),
        (
            HeaderStyle::Draft07,
            vec![
                "ratelimit-policy: 10;w=60, 2;w=3600",
                "ratelimit: limit=2, remaining=1, reset=1800",
            ],
        ),
        (
            HeaderStyle::Draft06,
            vec![
                "ratelimit-policy: 10;w=60, 2;w=3600",
                "ratelimit-limit: 2",
                "ratelimit-remaining: 1",
                "ratelimit-reset: 1800",
            ],
        ),
        (
            HeaderStyle::XRateLimit(Reset::Delta),
            vec!["x-ratelimit-limit: 2", "x-ratelimit-remaining: 1", "x-ratelimit-reset: 1800"],
        ),
        (
            HeaderStyle::XRateLimit(Reset::Unix),
            vec![
                "x-ratelimit-limit: 2",
                "x-ratelimit-remaining: 1",
                "x-ratelimit-reset: 1000001800",
            ],
        ),
        (HeaderStyle::None, vec![]),
    ] {
        let mut expected: Vec<_> = expected.into_iter().map(str::to_owned).collect();
        expected.sort();
        let api = api(&layer(&clock, policies.clone()).with_headers(style));
        let answer = send(&api, with_token("ada")).await;
        assert_eq!(shown(&answer), expected, "RL-10, 11, 12: {style:?}");
        send(&api, with_token("ada")).await;
        let answer = send(&api, with_token("ada")).await;
        assert_eq!(answer.header("retry-after"), "1800", "RL-5: {style:?}");
        assert_eq!(violated(&answer), ["two"], "RL-9: {style:?}");
    }
}

#[tokio::test]
async fn stacked_limits_of_an_old_style_show_the_strictest_once() {
    let clock = ManualClock::default();
    for (outer, inner, expected) in [(2, 10, "2"), (10, 2, "2"), (5, 5, "5")] {
        let limit = |name, units| {
            let style = HeaderStyle::XRateLimit(Reset::Delta);
            layer(&clock, [Policy::new(name, Quota::per_minute(units))])
                .with_name(name)
                .with_headers(style)
        };
        let service = ServiceBuilder::new()
            .layer(AuthenticateLayer::new(verifier()))
            .layer(limit("outer", outer))
            .layer(limit("inner", inner))
            .service(Probe::default());
        let answer = send(&service, with_token("ada")).await;
        let shown: Vec<_> = answer.headers.get_all("x-ratelimit-limit").iter().collect();
        assert_eq!(shown, [expected], "RL-12: {outer} outside of {inner}");
        assert_eq!(answer.headers.get_all("x-ratelimit-reset").iter().count(), 1);
    }
}

/// Asks memory, and answers at once, later, or about shadows only later.
struct Slow(MemoryStore, When);

#[derive(Clone, Copy, Debug, PartialEq)]
enum When {
    AtOnce,
    Later,
    OneOfTwoLater,
}

impl RateLimitStore for Slow {
    fn try_take(&self, request: &TakeRequest) -> Option<Result<Decisions, StoreError>> {
        let waits = match self.1 {
            When::AtOnce => false,
            When::Later => true,
            When::OneOfTwoLater => request.takes().len() == 1,
        };
        if waits { None } else { self.0.try_take(request) }
    }

    async fn take(&self, request: &TakeRequest) -> Result<Decisions, StoreError> {
        tokio::task::yield_now().await;
        self.0.take(request).await
    }

    fn settle(&self, settlement: &Settlement) {
        self.0.settle(settlement);
    }
}

#[tokio::test]
async fn a_policy_in_shadow_refuses_nobody_and_is_written_down() {
    for when in [When::AtOnce, When::Later, When::OneOfTwoLater] {
        let (clock, trail) = (ManualClock::default(), Trail::default());
        let store = MemoryStore::new();
        let policies = [
            Policy::new("minute", Quota::per_minute(5)),
            Policy::new("strict", Quota::per_minute(2)).in_shadow(),
            Policy::new("hour", Quota::per_hour(50)),
            Policy::new("stricter", Quota::per_minute(1)).in_shadow(),
        ];
        let limit =
            RateLimitLayer::of(Slow(store.clone(), when), policies).with_clock(clock.clone());
        let service = ServiceBuilder::new()
            .layer(AuditLayer::new(trail.clone()))
            .layer(AuthenticateLayer::new(verifier()))
            .layer(limit)
            .service(Probe::default());
        for left in [4, 3, 2, 1, 0, 0] {
            let answer = send(&service, with_token("ada")).await;
            let limit = answer.header("ratelimit");
            assert!(limit.starts_with(&format!("\"minute\";r={left};t=12, \"hour\"")), "{limit}");
            assert!(!format!("{:?}", answer.headers).contains("strict"), "{when:?}");
        }
        let would_limit: Vec<Vec<_>> = trail
            .events()
            .iter()
            .map(|event| event.would_limit.iter().map(ToString::to_string).collect())
            .collect();
        let both = vec!["strict".to_owned(), "stricter".to_owned()];
        let expected =
            [vec![], vec!["stricter".to_owned()], both.clone(), both.clone(), both, vec![]];
        assert_eq!(would_limit, expected, "{when:?}: what is refused is not asked about");
        let events = trail.events();
        assert_eq!(
            (events[4].status, events[5].status),
            (Some(StatusCode::OK), Some(StatusCode::TOO_MANY_REQUESTS))
        );
        assert_eq!(events[5].policy.as_deref(), Some("minute"));
        let json = |n: usize| serde_json::to_value(&events[n]).unwrap();
        assert!(json(0).get("would_limit").is_none());
        assert_eq!(json(1)["would_limit"], serde_json::json!(["stricter"]));
    }
}

#[tokio::test]
async fn a_refused_request_takes_nothing_of_a_policy_in_shadow() {
    let (clock, trail) = (ManualClock::default(), Trail::default());
    let policies = [
        Policy::new("minute", Quota::per_minute(1)),
        Policy::new("shadow", Quota::per_hour(3)).in_shadow(),
    ];
    let service = ServiceBuilder::new()
        .layer(AuditLayer::new(trail.clone()))
        .layer(AuthenticateLayer::new(verifier()))
        .layer(layer(&clock, policies))
        .service(Probe::default());
    for _ in 0..3 {
        assert_eq!(send(&service, with_token("ada")).await.status, 200);
        for _ in 0..5 {
            assert_eq!(send(&service, with_token("ada")).await.status, 429);
        }
        clock.advance(Duration::from_secs(60));
    }
    let would_limit = trail.events().into_iter().filter(|event| !event.would_limit.is_empty());
    assert_eq!(would_limit.count(), 0, "RL-24: three of three units were taken");
    send(&service, with_token("ada")).await;
    let last = trail.events().pop().unwrap();
    assert_eq!(last.would_limit.iter().map(|name| &**name).collect::<Vec<_>>(), ["shadow"]);
}

#[tokio::test]
async fn a_layer_with_nothing_but_shadows_shows_nothing_and_refuses_nobody_without_its_store() {
    struct Down;
    impl RateLimitStore for Down {
        async fn take(&self, _: &TakeRequest) -> Result<Decisions, StoreError> {
            Err(StoreError::new("connection refused"))
        }
        fn settle(&self, _: &Settlement) {}
    }
    let policy = || Policy::new("x", Quota::per_minute(1)).in_shadow();
    for limit in [RateLimitLayer::of(Down, [policy()]), layer(&ManualClock::default(), [policy()])]
    {
        let api = api(&limit);
        for _ in 0..3 {
            let answer = send(&api, with_token("ada")).await;
            assert_eq!((answer.status.as_u16(), shown(&answer)), (200, vec![]));
        }
    }
}

#[tokio::test]
async fn a_store_that_leaves_something_undecided_lets_nobody_in() {
    struct Forgetful;
    impl RateLimitStore for Forgetful {
        async fn take(&self, request: &TakeRequest) -> Result<Decisions, StoreError> {
            let decisions = request.decide(&mut [0, 0], 0);
            Ok(decisions.iter().copied().take(1).collect())
        }
        fn settle(&self, _: &Settlement) {}
    }
    let policies = ["a", "b"].map(|name| Policy::new(name, Quota::per_minute(5)));
    let answer = send(&api(&RateLimitLayer::of(Forgetful, policies)), with_token("ada")).await;
    assert_eq!((answer.status.as_u16(), answer.error().as_str()), (503, "temporarily_unavailable"));
}

#[test]
fn policies_that_would_share_their_units_stop_the_program_as_it_starts() {
    let quota = Quota::per_minute(1);
    let policy = |name| Policy::new(name, quota);
    let layer = || RateLimitLayer::of(MemoryStore::new(), [policy("a")]);
    let builds: [(&str, &dyn Fn() -> RateLimitLayer); 5] = [
        ("twice", &|| RateLimitLayer::of(MemoryStore::new(), [policy("a"), policy("a")])),
        ("for all and for the rest", &|| layer().with_policy(policy("a"))),
        ("for all and for a tier", &|| {
            layer().with_tier("b", Requirement::role("b"), quota).with_policy(policy("b"))
        }),
        ("two tiers", &|| {
            let role = || Requirement::role("b");
            layer().with_tier_of("b", role(), []).with_tier_of("b", role(), [])
        }),
        ("a tier and the anonymous", &|| {
            layer().with_tier("b", Requirement::role("b"), quota).with_anonymous("b", quota)
        }),
    ];
    for (why, build) in builds {
        assert!(catch_unwind(AssertUnwindSafe(build)).is_err(), "{why}");
    }
}

/// The last one was the only one, and nobody was told.
#[test]
fn what_becomes_of_units_afterwards_is_said_once() {
    let policy = || Policy::new("a", Quota::per_minute(1));
    let builds: [(&str, &dyn Fn() -> Policy); 2] = [
        ("settled first", &|| policy().with_settled_cost().with_failures_refunded()),
        ("refunded first", &|| policy().with_failures_refunded().with_settled_cost()),
    ];
    for (why, build) in builds {
        let panic = catch_unwind(AssertUnwindSafe(build)).expect_err(why);
        let message = panic.downcast_ref::<&str>().unwrap();
        assert!(message.contains("let the handler say a Cost of 0 where it fails"), "{message}");
    }
    let _ = policy().with_settled_cost().with_settled_cost();
    let _ = policy().with_failures_refunded().with_failures_refunded();
}

#[tokio::test]
async fn a_flood_from_millions_of_addresses_leaves_the_limits_of_verified_callers_exact() {
    const CALLERS: usize = 2000;
    const ADDRESSES: u32 = 2_000_000;
    let (clock, store) = (ManualClock::default(), MemoryStore::with_max_keys_apart(8192, 16_384));
    let verifier = (0..CALLERS).fold(FixedVerifier::new(), |verifier, n| {
        let principal = Principal::builder("https://issuer.example", &n.to_string()).build();
        verifier.with(&format!("token-{n}"), principal).unwrap()
    });
    let limit = RateLimitLayer::new(store.clone(), Quota::per_hour(3)).with_clock(clock.clone());
    let service = AuthenticateLayer::new(verifier).optional().layer(limit.layer(Probe::default()));
    let statuses = async |expected: u16| {
        for n in 0..CALLERS {
            let answer = send(&service, with_token(&format!("token-{n}"))).await;
            assert_eq!(answer.status, expected, "attack 43: caller {n}");
        }
    };
    statuses(200).await;
    statuses(200).await;
    let mut service = service.clone();
    for n in 0..ADDRESSES {
        let request = from(anonymous(), Ipv4Addr::from_bits(n));
        let Ok(response) = (&mut service).oneshot(request).await;
        assert_eq!(response.status(), 200);
        if n % 100_000 == 0 {
            assert!(store.keys() <= 16_384 + CALLERS, "attack 43: {}", store.keys());
        }
    }
    assert!(store.evicted() > 1_000_000, "{}", store.evicted());
    assert!(store.keys() <= 16_384 + CALLERS, "attack 43: {}", store.keys());
    statuses(200).await;
    statuses(429).await;
}
