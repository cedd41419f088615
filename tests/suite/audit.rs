//! One event for each request, whatever becomes of it.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::future::pending;
use std::io::{self, Write};
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::MatchedPath;
use axum::routing::get;
use http::{HeaderValue, Request, Response, StatusCode};
use serde_json::{Value, json};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_gate::audit::Audit;
use tower_gate::authenticate::Authenticate;
use tower_gate::rate_limit::Policy;
use tower_gate::sink::{JsonLinesSink, QueueSink, TracingSink};
use tower_gate::store::memory::MemoryStore;
use tower_gate::store::{ClosedStore, FallbackStore};
use tower_gate::verifier::{VerifyError, VerifyRequest};
use tower_gate::{
    AuditEvent, AuditLayer, AuditSink, AuthenticateLayer, ClientIp, FixedVerifier, ManualClock,
    Outcome, PeerAddr, Principal, Quota, RateLimitLayer, RequireScopeLayer, TokenVerifier,
};
use tracing::level_filters::LevelFilter;
use tracing::{Instrument, info_span};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer as _, SubscriberExt};
use tracing_subscriber::registry::Registry;

use crate::every_refusal;
use crate::recording::{Buffer, Recorded, Recorder, Recording};
use crate::support::{Probe, TestBody, Trail, anonymous, as_grpc_call, send, with_token};

/// What may stand in `reason`, which is part of the API.
const REASONS: [&str; 27] = [
    "at_capacity",
    "bad_signature",
    "banned",
    "broken_header",
    "expired",
    "forbidden",
    "insufficient_scope",
    "insufficient_user_authentication",
    "invalid_claims",
    "malformed_token",
    "misconfigured",
    "missing_claim",
    "missing_token",
    "not_active",
    "rate_limited",
    "revoked",
    "sender_constrained",
    "several_credentials",
    "store_unavailable",
    "too_many_at_once",
    "unknown_key",
    "unknown_token",
    "unsupported_algorithm",
    "verifier_unavailable",
    "wrong_audience",
    "wrong_issuer",
    "wrong_type",
];

/// Knows one token, `t`, of a principal with everything that an event tells.
fn verifier() -> FixedVerifier {
    let principal = Principal::builder("https://issuer.example", "user-1")
        .client("web")
        .scopes("read write")
        .roles(["editor"])
        .token_id("t-1")
        .key_id("k-1")
        .build();
    FixedVerifier::new().with("t", principal).unwrap()
}

/// Two layers around a handler that answers at once.
fn gate(sink: impl AuditSink) -> Audit<Authenticate<Probe>> {
    AuditLayer::new(sink).layer(AuthenticateLayer::new(verifier()).layer(Probe::default()))
}

/// 2023-11-14T22:13:20.123Z
fn some_day() -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(1_700_000_000_123)
}

#[tokio::test]
async fn every_refusal_is_one_event_with_its_reason() {
    let issuer = every_refusal::issuer();
    let mut reasons = BTreeSet::new();
    for refusal in every_refusal::all(&issuer) {
        let trail = Trail::default();
        let answer = send(&every_refusal::api(&issuer, trail.clone()), refusal.request).await;
        let (reason, event) = (refusal.reason, trail.event());
        assert_eq!(answer.status.as_u16(), refusal.status, "AUDIT-1: {reason}");
        assert_eq!(event.reason, Some(reason), "AUDIT-13");
        let is_decided = refusal.status < 500 || reason == "at_capacity";
        let outcome = if is_decided { Outcome::Refused } else { Outcome::Error };
        assert_eq!(event.outcome, outcome, "AUDIT-1: {reason}");
        assert_eq!(event.status, Some(answer.status), "AUDIT-13: {reason}");
        let subject = event.principal.as_ref().map(Principal::subject);
        assert_eq!(subject, refusal.subject, "AUDIT-12: {reason}");
        reasons.insert(reason);
    }
    assert_eq!(reasons, BTreeSet::from(REASONS), "AUDIT-3, 13");
}

#[tokio::test]
async fn a_request_that_reaches_the_handler_is_one_event_without_a_reason() {
    let service = |trail: &Trail| {
        let authenticate = AuthenticateLayer::new(verifier()).optional();
        AuditLayer::new(trail.clone()).layer(authenticate.layer(Probe::default()))
    };
    for (request, subject) in [(with_token("t"), Some("user-1")), (anonymous(), None)] {
        let trail = Trail::default();
        assert_eq!(send(&service(&trail), request).await.status, 200);
        let event = trail.event();
        assert_eq!((event.outcome, event.reason), (Outcome::Allowed, None), "AUDIT-1");
        assert_eq!(event.status, Some(StatusCode::OK), "AUDIT-13");
        assert_eq!(event.principal.as_ref().map(Principal::subject), subject, "AUDIT-12");
    }
}

#[tokio::test]
async fn a_handler_that_fails_is_one_event_and_its_error_goes_on() {
    let trail = Trail::default();
    let handler = service_fn(|_: Request<TestBody>| async {
        Err::<Response<TestBody>, _>(io::Error::other("no disk"))
    });
    let service = AuditLayer::new(trail.clone()).layer(handler);
    let error = service.oneshot(anonymous()).await.unwrap_err();
    assert_eq!(error.to_string(), "no disk");
    let event = trail.event();
    assert_eq!((event.outcome, event.reason, event.status), (Outcome::Error, None, None));
}

#[test]
fn a_request_that_is_dropped_is_one_event() {
    let trail = Trail::default();
    let never = |_: VerifyRequest| pending::<Result<Principal, VerifyError>>();
    let waits_for_the_verifier =
        AuditLayer::new(trail.clone()).layer(AuthenticateLayer::new(never).layer(Probe::default()));
    let handler =
        service_fn(|_: Request<TestBody>| pending::<Result<Response<TestBody>, Infallible>>());
    let waits_for_the_handler =
        AuditLayer::new(trail.clone()).layer(AuthenticateLayer::new(verifier()).layer(handler));
    let mut context = Context::from_waker(Waker::noop());
    {
        let mut future = pin!(waits_for_the_verifier.oneshot(with_token("t")));
        assert!(future.as_mut().poll(&mut context).is_pending());
        assert!(trail.events().is_empty());
    }
    {
        let mut future = pin!(waits_for_the_handler.clone().oneshot(with_token("t")));
        assert!(future.as_mut().poll(&mut context).is_pending());
    }
    {
        let mut service = waits_for_the_handler;
        assert!(service.poll_ready(&mut context).is_ready());
        let _never_polled = service.call(with_token("t"));
    }
    let events = trail.events();
    let subjects = events.iter().map(|event| event.principal.as_ref().map(Principal::subject));
    let expected = [None, Some("user-1"), Some("user-1")];
    assert!(subjects.eq(expected), "AUDIT-43: one event each: {events:?}");
    for event in events {
        assert_eq!((event.outcome, event.status), (Outcome::Aborted, None), "AUDIT-43");
    }
}

#[tokio::test]
async fn a_handler_that_panics_is_one_event() {
    async fn broken() -> Result<Response<TestBody>, Infallible> {
        panic!("out of luck")
    }
    let trail = Trail::default();
    let audit = AuditLayer::new(trail.clone());
    let in_its_future = audit.layer(service_fn(|_: Request<TestBody>| broken()));
    let in_call = audit.layer(service_fn(|request: Request<TestBody>| {
        assert!(request.headers().contains_key("authorization"), "out of luck");
        broken()
    }));
    // A server's task ends with the panic.
    tokio::spawn(in_its_future.clone().oneshot(anonymous())).await.unwrap_err();
    tokio::spawn(in_call.oneshot(anonymous())).await.unwrap_err();
    // A layer outside catches it, and drops the future when nothing is unwinding any more.
    let mut future = Box::pin(in_its_future.oneshot(anonymous()));
    let mut context = Context::from_waker(Waker::noop());
    catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut context))).unwrap_err();
    drop(future);
    let outcomes: Vec<_> = trail.events().iter().map(|event| event.outcome).collect();
    assert_eq!(outcomes, [Outcome::Panicked; 3], "AUDIT-43");
}

#[test]
fn a_request_that_another_ones_panic_takes_along_did_not_panic_itself() {
    let trail = Trail::default();
    let handler =
        service_fn(|_: Request<TestBody>| pending::<Result<Response<TestBody>, Infallible>>());
    let service = AuditLayer::new(trail.clone()).layer(handler);
    catch_unwind(AssertUnwindSafe(|| {
        let mut future = Box::pin(service.oneshot(anonymous()));
        let mut context = Context::from_waker(Waker::noop());
        assert!(future.as_mut().poll(&mut context).is_pending());
        panic!("something else on this thread");
    }))
    .unwrap_err();
    assert_eq!(trail.event().outcome, Outcome::Aborted, "AUDIT-43");
}

#[tokio::test]
async fn an_event_has_the_time_of_the_request_and_how_long_it_took() {
    let clock = ManualClock::new(some_day());
    let in_handler = clock.clone();
    let handler = service_fn(move |_: Request<TestBody>| {
        in_handler.advance(Duration::from_micros(1500));
        // An operator sets the clock back an hour; what has passed has passed.
        in_handler.set_now(some_day() - Duration::from_secs(3600));
        async { Ok::<_, Infallible>(Response::new(TestBody::default())) }
    });
    let trail = Trail::default();
    let service = AuditLayer::new(trail.clone()).with_clock(clock.clone()).layer(handler);
    send(&service, anonymous()).await;
    let event = trail.event();
    assert_eq!(event.time, some_day(), "AUDIT-10");
    assert_eq!(event.latency, Duration::from_micros(1500), "AUDIT-10, 45");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_two_events_have_one_number() {
    let trail = Trail::default();
    let service = gate(trail.clone());
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let service = service.clone();
            tokio::spawn(async move {
                for _ in 0..250 {
                    send(&service, with_token("t")).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let numbers: BTreeSet<_> = trail.events().iter().map(|event| event.sequence).collect();
    assert_eq!(numbers.len(), 2000, "AUDIT-10");
    assert!(!numbers.contains(&0), "AUDIT-10: counted from 1");
}

#[tokio::test]
async fn events_of_one_task_are_numbered_in_their_order() {
    let trail = Trail::default();
    let service = gate(trail.clone());
    for _ in 0..100 {
        send(&service, with_token("t")).await;
    }
    let numbers: Vec<_> = trail.events().iter().map(|event| event.sequence).collect();
    assert!(numbers.is_sorted_by(|one, next| one < next), "AUDIT-10: {numbers:?}");
}

#[tokio::test]
async fn an_event_tells_where_a_request_came_from_and_what_it_was() {
    let mut request = Request::put("https://api.example/reports/7?draft=secret")
        .header("user-agent", "curl/8.5")
        .header("x-real-ip", "203.0.113.9")
        .body(TestBody::default())
        .unwrap();
    request.extensions_mut().insert(PeerAddr("[::ffff:192.0.2.7]:4711".parse().unwrap()));
    let trail = Trail::default();
    send(&gate(trail.clone()), request.clone()).await;
    let event = trail.event();
    assert_eq!(event.method, "PUT", "AUDIT-11");
    assert_eq!(event.path, "/reports/7", "AUDIT-11, 22: without its query");
    assert_eq!(event.user_agent.as_deref(), Some("curl/8.5"), "AUDIT-12");
    assert_eq!(event.address, Some("192.0.2.7".parse().unwrap()), "AUDIT-12, CLIENTIP-1, 32");

    let trail = Trail::default();
    let client_ip = ClientIp::from_extensions(|extensions| extensions.get::<IpAddr>().copied());
    let service = AuditLayer::new(trail.clone()).with_client_ip(client_ip).layer(Probe::default());
    let elsewhere: IpAddr = "2001:db8::7".parse().unwrap();
    request.extensions_mut().insert(elsewhere);
    send(&service, request).await;
    assert_eq!(trail.event().address, Some(elsewhere), "AUDIT-12");

    let trail = Trail::default();
    send(&gate(trail.clone()), anonymous()).await;
    assert_eq!((trail.event().address, trail.event().user_agent), (None, None));
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

/// What the event of a request with these headers calls it: its trace and its id.
async fn names(headers: &[(&'static str, &[u8])]) -> (Option<String>, Option<String>) {
    let mut request = with_token("t");
    for &(name, value) in headers {
        request.headers_mut().append(name, HeaderValue::from_bytes(value).unwrap());
    }
    let trail = Trail::default();
    send(&gate(trail.clone()), request).await;
    let event = trail.event();
    (event.trace_id, event.request_id)
}

#[tokio::test]
async fn an_event_has_the_trace_of_a_well_formed_traceparent() {
    let ok = format!("{TRACE}-{SPAN}");
    let zeros = "0".repeat(32);
    for (value, is_one) in [
        (format!("00-{ok}-01"), true),
        (format!("00-{ok}-00"), true),
        (format!("01-{ok}-01"), true),
        (format!("01-{ok}-01-extra"), true),
        (format!("00-{ok}-01-extra"), false),
        (format!("01-{ok}-01extra"), false),
        (format!("ff-{ok}-01"), false),
        (format!("00-{}-{SPAN}-01", TRACE.to_uppercase()), false),
        (format!("00-{zeros}-{SPAN}-01"), false),
        (format!("00-{TRACE}-{}-01", &zeros[..16]), false),
        (format!("00-{SPAN}-{TRACE}-01"), false),
        (format!("00-{TRACE}g{SPAN}-01"), false),
        (format!("0x-{ok}-01"), false),
        (format!("00-{ok}-0g"), false),
        (format!("00-{ok}"), false),
        (format!("00-{}\"-{SPAN}-01", &TRACE[..31]), false),
        (format!("01-{ok}-01-{}", "x".repeat(60_000)), true),
        ("x".repeat(60_000), false),
        (String::new(), false),
    ] {
        let (trace_id, _) = names(&[("traceparent", value.as_bytes())]).await;
        let shown = &value[..value.len().min(80)];
        assert_eq!(trace_id.as_deref(), is_one.then_some(TRACE), "AUDIT-60: {shown}");
    }
    let cut = [format!("00-{TRACE}-").into_bytes(), vec![0xc3, 0xa9], vec![b'0'; 17]].concat();
    assert_eq!(names(&[("traceparent", &cut)]).await.0, None, "AUDIT-60: cut inside a character");
    let twice = format!("00-{ok}-01");
    let twice = ("traceparent", twice.as_bytes());
    assert_eq!(names(&[twice, twice]).await.0, None, "AUDIT-60: which of them is meant?");
}

#[tokio::test]
async fn an_event_has_a_request_id_that_is_a_name() {
    let longest = "x".repeat(128);
    for id in ["7", "req_01J9Z.3-b", "9f1c5a1e-66d3-4f3a-8a93-b4a7e6f0a111", &longest] {
        let (_, request_id) = names(&[("x-request-id", id.as_bytes())]).await;
        assert_eq!(request_id.as_deref(), Some(id), "AUDIT-63");
    }
    let too_long = "x".repeat(129);
    let hostile: [&[u8]; 7] = [
        b"",
        b"a b",
        b"a\tb",
        b"\"},{\"event\":\"fake\"",
        "é".as_bytes(),
        b"\xff",
        too_long.as_bytes(),
    ];
    for id in hostile {
        let found = names(&[("x-request-id", id)]).await;
        assert_eq!(found, (None, None), "AUDIT-31, 63: {}", id.escape_ascii());
    }
    let found = names(&[("x-request-id", b"a"), ("x-request-id", b"b")]).await;
    assert_eq!(found, (None, None), "AUDIT-63: which of them is meant?");
    let trace = format!("00-{TRACE}-{SPAN}-01");
    let found = names(&[("x-request-id", b"a"), ("traceparent", trace.as_bytes())]).await;
    assert_eq!(found, (Some(TRACE.to_owned()), Some("a".to_owned())), "AUDIT-14");
}

#[tokio::test]
async fn an_event_has_the_template_of_its_route_and_not_only_the_path() {
    let trail = Trail::default();
    let audit = AuditLayer::new(trail.clone())
        .with_route(|extensions| extensions.get::<MatchedPath>().map(MatchedPath::as_str));
    let app = Router::new().route("/u/{id}", get(|| async { "here" })).layer(audit);
    for path in ["/u/7", "/nowhere"] {
        send(&app, Request::get(path).body(TestBody::default()).unwrap()).await;
    }
    let [routed, nowhere] = trail.events().try_into().unwrap();
    assert_eq!((routed.route.as_deref(), &*routed.path), (Some("/u/{id}"), "/u/7"), "AUDIT-11");
    assert_eq!((nowhere.route, &*nowhere.path), (None, "/nowhere"), "AUDIT-11");

    // Whatever an application takes for a route stays within bounds.
    let trail = Trail::default();
    let audit = AuditLayer::new(trail.clone())
        .with_route(|extensions| extensions.get::<String>().map(String::as_str));
    let mut request = anonymous();
    request.extensions_mut().insert("é".repeat(60_000));
    send(&audit.layer(Probe::default()), request).await;
    assert_eq!(trail.event().route, Some(format!("{}…", "é".repeat(512))), "AUDIT-31");
}

#[tokio::test]
async fn the_names_of_a_request_are_in_every_form_of_its_event() {
    let (lines, recording) = (Buffer::default(), Recording::start());
    let json = JsonLinesSink::new(lines.clone());
    let sink = move |event: AuditEvent| {
        json.accept(event.clone());
        TracingSink.accept(event);
    };
    let service = AuditLayer::new(sink).with_route(|_| Some("/u/{id}")).layer(Probe::default());
    let mut request = anonymous();
    let trace = format!("00-{TRACE}-{SPAN}-01");
    request.headers_mut().insert("traceparent", trace.parse().unwrap());
    request.headers_mut().insert("x-request-id", "r-1".parse().unwrap());
    send(&service, request).await;
    let written: Value = serde_json::from_str(&lines.text()).unwrap();
    let [logged] = recording.events("tower_gate::audit").try_into().unwrap();
    for (name, value) in [("trace_id", TRACE), ("request_id", "r-1"), ("route", "/u/{id}")] {
        assert_eq!(written[name], value, "AUDIT-14");
        assert_eq!(logged.field(name), value, "AUDIT-14");
    }
    assert_eq!(written["version"], AuditEvent::VERSION, "AUDIT-15");
}

#[tokio::test]
async fn what_a_forged_token_claims_is_not_written_down() {
    let (issuer, impostor) = (every_refusal::issuer(), every_refusal::issuer());
    let token = impostor.token("admin").client("backoffice").roles(["superuser"]).sign();
    let (trail, lines, recording) = (Trail::default(), Buffer::default(), Recording::start());
    let json = JsonLinesSink::new(lines.clone());
    let kept = trail.clone();
    let sink = move |event: AuditEvent| {
        kept.accept(event.clone());
        json.accept(event.clone());
        TracingSink.accept(event);
    };
    let answer = send(&every_refusal::api(&issuer, sink), with_token(&token)).await;
    assert_eq!(answer.status, 401);
    let event = trail.event();
    assert_eq!(event.reason, Some("bad_signature"), "AUDIT-12");
    assert!(event.principal.is_none(), "AUDIT-12");
    for claim in ["admin", "backoffice", "superuser", "test-admin"] {
        assert!(!lines.text().contains(claim), "AUDIT-12: {}", lines.text());
        assert!(!recording.text().contains(claim), "AUDIT-12: {}", recording.text());
    }
}

#[tokio::test]
async fn an_event_tells_what_was_lacking_and_how_the_limit_stands() {
    let trail = Trail::default();
    let service = ServiceBuilder::new()
        .layer(AuditLayer::new(trail.clone()))
        .layer(AuthenticateLayer::new(verifier()))
        .layer(RateLimitLayer::new(MemoryStore::new(), Quota::per_hour(2)).with_name("calls"))
        .layer(RequireScopeLayer::all_scopes(["read", "delete"]))
        .service(Probe::default());
    for _ in 0..3 {
        send(&service, with_token("t")).await;
    }
    let [first, second, third] = trail.events().try_into().unwrap();
    let scopes = |event: &AuditEvent| {
        event.required_scopes.iter().map(|scope| scope.as_str().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(scopes(&first), ["read", "delete"], "AUDIT-13");
    assert_eq!((first.policy.as_deref(), first.remaining), (Some("calls"), Some(1)), "AUDIT-13");
    assert_eq!(second.remaining, Some(0), "AUDIT-13");
    assert_eq!(third.reason, Some("rate_limited"), "AUDIT-13");
    assert_eq!((third.policy.as_deref(), third.remaining), (Some("calls"), Some(0)), "AUDIT-13");
    assert!(third.required_scopes.is_empty(), "it never came to them");
}

/// The lines of these requests, each with the number 7.
async fn json_lines(requests: impl IntoIterator<Item = Request<TestBody>>) -> String {
    let (lines, clock) = (Buffer::default(), ManualClock::new(some_day()));
    let json = JsonLinesSink::new(lines.clone());
    let service = ServiceBuilder::new()
        .layer(
            AuditLayer::new(move |mut event: AuditEvent| {
                event.sequence = 7;
                json.accept(event);
            })
            .with_clock(clock.clone()),
        )
        .layer(AuthenticateLayer::new(verifier()).with_clock(clock.clone()))
        .layer(RateLimitLayer::new(MemoryStore::new(), Quota::per_minute(60)))
        .layer(RequireScopeLayer::scope("read"))
        .service_fn(move |_: Request<TestBody>| {
            clock.advance(Duration::from_micros(1500));
            async { Ok::<_, Infallible>(Response::new(TestBody::default())) }
        });
    for request in requests {
        send(&service, request).await;
    }
    lines.text()
}

#[tokio::test]
async fn the_json_of_an_event_is_part_of_the_api() {
    let request = |token| {
        let mut request = with_token(token);
        *request.uri_mut() = "/reports?page=2".parse().unwrap();
        request.headers_mut().insert("user-agent", "curl/8.5".parse().unwrap());
        request.extensions_mut().insert(PeerAddr("192.0.2.7:4711".parse().unwrap()));
        request
    };
    let call = as_grpc_call(request("wrong"));
    let allowed = concat!(
        r#"{"version":1,"time":"2023-11-14T22:13:20.123Z","sequence":7,"outcome":"allowed","reason":null,"#,
        r#""anonymous":false,"issuer":"https://issuer.example","subject":"user-1","client":"web","#,
        r#""scopes":["read","write"],"roles":["editor"],"token_kind":"fixed","token_id":"t-1","#,
        r#""key_id":"k-1","address":"192.0.2.7","method":"GET","path":"/reports","user_agent":"curl/8.5","#,
        r#""status":200,"grpc_status":null,"required_scopes":[],"policy":"default","#,
        r#""remaining":59,"latency_ms":1.5}"#,
        "\n",
    );
    let refused = concat!(
        r#"{"version":1,"time":"2023-11-14T22:13:20.124Z","sequence":7,"outcome":"refused","#,
        r#""reason":"unknown_token","anonymous":false,"issuer":null,"subject":null,"client":null,"scopes":[],"#,
        r#""roles":[],"token_kind":null,"token_id":null,"key_id":null,"address":"192.0.2.7","method":"POST","#,
        r#""path":"/reports","user_agent":"curl/8.5","status":200,"grpc_status":16,"#,
        r#""required_scopes":[],"policy":null,"remaining":null,"latency_ms":0.0}"#,
        "\n",
    );
    let lines = json_lines([request("t"), call]).await;
    assert_eq!(lines, format!("{allowed}{refused}"), "AUDIT-10, 15");
}

#[tokio::test]
async fn text_from_clients_stays_inside_its_field() {
    const LINE: &str = "x\r\n{\"event\":\"fake\"}\u{1b}[2J\u{2028}\u{202e}";
    let issuer = every_refusal::issuer();
    let good = issuer.token(LINE).client(LINE).scopes(LINE).claim("jti", LINE).sign();
    let kid = json!({ "typ": "at+jwt", "alg": "EdDSA", "kid": LINE });
    let unknown = every_refusal::with_header(&good, &kid);
    for (token, status, subject) in [(good, 200, json!(LINE)), (unknown, 401, Value::Null)] {
        let (lines, recording) = (Buffer::default(), Recording::start());
        let json = JsonLinesSink::new(lines.clone());
        let sink = move |event: AuditEvent| {
            json.accept(event.clone());
            TracingSink.accept(event);
        };
        let mut request = with_token(&token);
        *request.uri_mut() = "/a%0d%0a{\"event\":\"fake\"}".parse().unwrap();
        let user_agent = HeaderValue::from_bytes(b"a\t\"\xff{}").unwrap();
        request.headers_mut().insert("user-agent", user_agent);
        let service = AuditLayer::new(sink)
            .layer(AuthenticateLayer::new(issuer.verifier()).layer(Probe::default()));
        let answer = send(&service, request).await;
        assert_eq!(answer.status, status, "attacks 6 and 45");

        let text = lines.text();
        assert_eq!(text.find('\n'), Some(text.len() - 1), "AUDIT-30: one line: {text}");
        let event: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(event["subject"], subject, "AUDIT-30");
        assert_eq!(event["path"], "/a%0d%0a{\"event\":\"fake\"}", "AUDIT-30");
        assert_eq!(event["user_agent"], "a\t\"\u{fffd}{}", "AUDIT-30");

        let log = recording.text();
        assert!(log.contains("tower_gate::audit"), "{log}");
        for line in log.lines() {
            assert!(line.starts_with("20"), "AUDIT-30: a line without its time: {line}");
        }
        for control in ['\r', '\u{1b}', '\u{2028}', '\u{202e}', '\t'] {
            assert!(!log.contains(control), "AUDIT-30: {control:?} in {log}");
        }
        for value in answer.headers.values() {
            assert!(!value.to_str().unwrap().contains("fake"), "attack 45: {value:?}");
        }
    }
}

#[tokio::test]
async fn long_text_from_clients_is_cut() {
    let mut request = with_token("t");
    *request.uri_mut() = format!("/{}", "p".repeat(60_000)).parse().unwrap();
    let user_agent = "é".repeat(1 << 19);
    let user_agent = HeaderValue::from_bytes(user_agent.as_bytes()).unwrap();
    request.headers_mut().insert("user-agent", user_agent);
    let line = json_lines([request]).await;
    let event: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(event["user_agent"], format!("{}…", "é".repeat(128)), "AUDIT-31");
    assert_eq!(event["path"], format!("/{}…", "p".repeat(1023)), "AUDIT-31");
    assert!(line.len() < 2048, "AUDIT-31: {}", line.len());
}

#[tokio::test]
async fn a_stuck_sink_holds_up_no_request_and_what_it_misses_is_counted() {
    let trail = Trail::default();
    let (arrived, first) = sync_channel(1);
    let (release, released) = channel::<()>();
    let (kept, released) = (trail.clone(), Mutex::new(released));
    let stuck = move |event: AuditEvent| {
        let _ = arrived.try_send(());
        // Until the sender is gone.
        let _ = released.lock().unwrap().recv();
        kept.accept(event);
    };
    let queue = Arc::new(QueueSink::new(stuck, 8).unwrap());
    let service = gate(queue.clone());
    assert_eq!(send(&service, with_token("t")).await.status, 200);
    first.recv().unwrap();
    // The sink is stuck with one event and will be until `release` goes.
    for _ in 0..100 {
        assert_eq!(send(&service, with_token("t")).await.status, 200, "AUDIT-40");
    }
    assert_eq!(queue.lost(), 92, "AUDIT-40: all but the 8 in the queue");
    drop(release);
    drop((service, queue));
    assert_eq!(trail.events().len(), 9, "AUDIT-42: the last drop waits for what is queued");
}

/// Fails while it is told to.
#[derive(Clone, Default)]
struct Disk {
    full: Arc<AtomicBool>,
    lines: Buffer,
}

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.full.load(Ordering::SeqCst) {
            return Err(io::Error::other("no space left"));
        }
        self.lines.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn lines_that_cannot_be_written_are_counted_and_reported_once_in_a_row() {
    let (recording, disk) = (Recording::start(), Disk::default());
    let sink = Arc::new(JsonLinesSink::new(disk.clone()));
    let queue = QueueSink::new(sink.clone(), 1).unwrap();
    let service = gate(sink.clone());
    for (full, lost, lines, warnings) in [(false, 0, 3, 0), (true, 3, 3, 1), (false, 3, 6, 1)] {
        disk.full.store(full, Ordering::SeqCst);
        for _ in 0..3 {
            assert_eq!(send(&service, with_token("t")).await.status, 200, "AUDIT-40");
        }
        assert_eq!(sink.lost(), lost, "AUDIT-40");
        assert_eq!(queue.lost(), lost, "AUDIT-40: a queue knows what the sink behind it has lost");
        assert_eq!(disk.lines.text().lines().count(), lines, "AUDIT-40");
        let reports = recording.events("tower_gate::trace");
        assert_eq!(reports.len(), warnings, "AUDIT-40: {reports:?}");
        assert!(reports.iter().all(|report| report.level == tracing::Level::WARN));
    }
}

#[tokio::test]
async fn an_event_has_the_grpc_status_of_an_answer_that_ends_with_its_head() {
    let call = |token| as_grpc_call(with_token(token));
    let handler = service_fn(|_: Request<TestBody>| async {
        let not_found = Response::builder().header("grpc-status", "5");
        Ok::<_, Infallible>(not_found.body(TestBody::default()).unwrap())
    });
    let trail = Trail::default();
    let service =
        AuditLayer::new(trail.clone()).layer(AuthenticateLayer::new(verifier()).layer(handler));
    send(&service, call("t")).await;
    send(&service, call("wrong")).await;
    let [handled, refused] = trail.events().try_into().unwrap();
    assert_eq!((handled.outcome, handled.grpc_status), (Outcome::Allowed, Some(5)), "GRPC-53");
    assert_eq!((refused.outcome, refused.grpc_status), (Outcome::Refused, Some(16)), "GRPC-53");
    assert_eq!(refused.status, Some(StatusCode::OK), "GRPC-10");
}

#[tokio::test]
async fn no_log_filter_silences_the_trail() {
    let off = Registry::default().with(LevelFilter::OFF);
    let _off = tracing::subscriber::set_default(off);
    let (trail, lines) = (Trail::default(), Buffer::default());
    let queue = QueueSink::new(JsonLinesSink::new(lines.clone()), 8).unwrap();
    send(&gate(trail.clone()), with_token("t")).await;
    send(&gate(queue), with_token("wrong")).await;
    let event = trail.event();
    assert_eq!(event.principal.unwrap().subject(), "user-1", "AUDIT-4");
    assert!(lines.text().contains(r#""reason":"unknown_token""#), "AUDIT-4: {}", lines.text());
}

#[tokio::test]
async fn the_tracing_sink_tells_what_the_json_tells() {
    let recording = Recording::start();
    let service = ServiceBuilder::new()
        .layer(AuditLayer::new(TracingSink).with_clock(ManualClock::new(some_day())))
        .layer(AuthenticateLayer::new(verifier()))
        .layer(RateLimitLayer::new(MemoryStore::new(), Quota::per_minute(60)))
        .layer(RequireScopeLayer::all_scopes(["read", "delete"]))
        .service(Probe::default());
    let mut request = with_token("t");
    request.extensions_mut().insert(PeerAddr("192.0.2.7:4711".parse().unwrap()));
    request.headers_mut().insert("user-agent", "curl/8.5".parse().unwrap());
    send(&service, request).await;
    let [event] = recording.events("tower_gate::audit").try_into().unwrap();
    let sequence = event.field("sequence").to_owned();
    assert!(sequence.parse::<u64>().unwrap() > 0);
    let expected = [
        ("address", "192.0.2.7"),
        ("anonymous", "false"),
        ("client", "web"),
        ("issuer", "https://issuer.example"),
        ("key_id", "k-1"),
        ("latency_ms", "0.0"),
        ("method", "GET"),
        ("outcome", "refused"),
        ("path", "/"),
        ("policy", "default"),
        ("reason", "insufficient_scope"),
        ("remaining", "59"),
        ("required_scopes", "read delete"),
        ("roles", "[\"editor\"]"),
        ("scopes", "read write"),
        ("sequence", &sequence),
        ("status", "403"),
        ("subject", "user-1"),
        ("token_id", "t-1"),
        ("token_kind", "fixed"),
        ("user_agent", "curl/8.5"),
        ("version", "1"),
    ];
    let fields = event.fields.iter().map(|(name, value)| (*name, value.as_str()));
    assert!(fields.eq(expected), "AUDIT-53: {:?}", event.fields);
    assert_eq!(event.level, tracing::Level::INFO);
}

/// The fields of the only span of this name that say who calls.
fn who(spans: &[Recorded]) -> [&str; 3] {
    assert_eq!(spans.len(), 1, "{spans:?}");
    ["subject", "client", "scopes"].map(|field| spans[0].field(field))
}

const USER_1: [&str; 3] = ["user-1", "web", "read write"];

#[tokio::test]
async fn the_span_of_a_request_says_who_calls() {
    let at_once = AuthenticateLayer::new(verifier());
    let later = AuthenticateLayer::new(|request: VerifyRequest| async move {
        tokio::task::yield_now().await;
        TokenVerifier::verify(&verifier(), &request).await
    });
    for authenticate in [at_once, later] {
        let recording = Recording::start();
        let service = AuditLayer::new(Trail::default()).layer(authenticate.layer(Probe::default()));
        let mut request = with_token("t");
        *request.uri_mut() = "/reports?page=2".parse().unwrap();
        send(&service, request).await;
        let spans = recording.spans("request");
        assert_eq!(who(&spans), USER_1);
        assert_eq!(spans[0].field("method"), "GET");
        assert_eq!(spans[0].field("path"), "/reports", "AUDIT-22: without its query");
    }
    let recording = Recording::start();
    send(&gate(Trail::default()), with_token("wrong")).await;
    assert_eq!(who(&recording.spans("request")), ["", "", ""], "nobody has been verified");
}

/// A service inside a span of the application, which wants to know who calls.
macro_rules! in_span_of_application {
    ($inner:expr) => {{
        let inner = $inner;
        service_fn(move |request: Request<TestBody>| {
            let nobody = tracing::field::Empty;
            let span = info_span!("app", subject = nobody, client = nobody, scopes = nobody);
            inner.clone().oneshot(request).instrument(span)
        })
    }};
}

#[tokio::test]
async fn the_span_of_an_application_says_who_calls_as_well() {
    // Between the layers: both spans know.
    let recording = Recording::start();
    let authenticate = AuthenticateLayer::new(verifier()).layer(Probe::default());
    let inside = in_span_of_application!(authenticate.clone());
    send(&AuditLayer::new(Trail::default()).layer(inside), with_token("t")).await;
    assert_eq!(who(&recording.spans("app")), USER_1);
    assert_eq!(who(&recording.spans("request")), USER_1);

    // Without an AuditLayer.
    let recording = Recording::start();
    send(&in_span_of_application!(authenticate), with_token("t")).await;
    assert_eq!(who(&recording.spans("app")), USER_1);
}

#[tokio::test]
async fn a_filter_that_turns_the_span_off_leaves_the_event_and_the_span_of_the_application() {
    let (trail, recorder) = (Trail::default(), Recorder::default());
    let filter = Targets::new().with_default(LevelFilter::TRACE);
    let filter = filter.with_target("tower_gate", LevelFilter::OFF);
    let filtered = Registry::default().with(recorder.clone().with_filter(filter));
    let _filtered = tracing::subscriber::set_default(filtered);
    send(&in_span_of_application!(gate(trail.clone())), with_token("t")).await;
    assert!(recorder.spans("request").is_empty());
    assert_eq!(who(&recorder.spans("app")), USER_1);
    assert_eq!(trail.event().principal.unwrap().subject(), "user-1", "AUDIT-4");
}

/// It once kept to itself who had decided, and whom a policy in shadow would have met.
#[tokio::test]
async fn the_tracing_sink_leaves_no_member_of_the_json_out() {
    let (lines, recording) = (Buffer::default(), Recording::start());
    let json = JsonLinesSink::new(lines.clone());
    let sink = move |event: AuditEvent| {
        json.accept(event.clone());
        TracingSink.accept(event);
    };
    let minute = Quota::per_minute(60);
    let shadows = ["a, b", "c"].map(|name| Policy::new(name, minute).with_cost(|_| 61).in_shadow());
    let policies = shadows.into_iter().chain([Policy::new("minute", minute)]);
    let store = FallbackStore::new(ClosedStore, MemoryStore::new());
    let service = ServiceBuilder::new()
        .layer(AuditLayer::new(sink).with_route(|_| Some("/u/{id}")))
        .layer(AuthenticateLayer::new(verifier()))
        .layer(RateLimitLayer::of(store, policies))
        .service(Probe::default());
    send(&service, with_token("t")).await;
    let written: BTreeMap<String, Value> = serde_json::from_str(&lines.text()).unwrap();
    let [logged] = recording.events("tower_gate::audit").try_into().unwrap();
    let members = written.iter().filter(|(name, value)| *name != "time" && !value.is_null());
    let members: Vec<_> = members.map(|(name, _)| name.as_str()).collect();
    let fields = logged.fields.iter().filter(|(_, value)| !value.is_empty());
    let fields: Vec<_> = fields.map(|(name, _)| *name).collect();
    // A list that is empty is a text that is.
    assert_eq!([&fields[..], &["required_scopes"]].concat().len(), members.len(), "AUDIT-53");
    assert!(fields.iter().all(|name| members.contains(name)), "AUDIT-53: {fields:?} {members:?}");
    assert_eq!((logged.field("fallback"), &written["fallback"]), ("true", &json!(true)));
    assert_eq!(logged.field("would_limit"), r#"["a, b", "c"]"#, "AUDIT-30");
}
