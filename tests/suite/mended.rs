//! What was wrong once.

use std::convert::Infallible;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use axum::response::IntoResponse;
use bytes::Bytes;
use http::{Method, Request, Response};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_gate::sink::{NullSink, QueueSink, TracingSink};
use tower_gate::store::memory::MemoryStore;
use tower_gate::store::{RateLimitStore, Settlement, StoreError, TakeRequest};
use tower_gate::{
    AuditEvent, AuditLayer, AuditSink, AuthenticateLayer, Decisions, FixedVerifier, ManualClock,
    PeerAddr, Principal, Quota, RateLimitLayer, Rejection, RejectionKind, RequestHead, Requirement,
};
use tracing::{Subscriber, span};
use tracing_subscriber::layer::{self, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};

use crate::support::{Answer, Probe, TestBody, Trail, anonymous, send, with_token};

/// A GET of `/` without credentials, from one address.
fn from_an_address() -> Request<TestBody> {
    let mut request = anonymous();
    request.extensions_mut().insert(PeerAddr(SocketAddr::from((Ipv4Addr::LOCALHOST, 1))));
    request
}

/// A caller that was in debt to a slow quota stayed locked out of a fast one for as long as it kept
/// asking, and then the fast one forgave what was owed to the slow one.
#[tokio::test]
async fn a_key_that_moves_to_a_fast_quota_waits_as_long_as_it_is_told() {
    let (store, clock) = (MemoryStore::new(), ManualClock::default());
    let limited = |quota| {
        RateLimitLayer::by_address(store.clone(), quota)
            .with_clock(clock.clone())
            .layer(Probe::default())
    };
    let slow = limited(Quota::per_hour(1));
    assert_eq!(send(&slow, from_an_address()).await.status, 200);
    let fast = limited(Quota::per_second(1));
    for wait in ["3600", "1800"] {
        let answer = send(&fast, from_an_address()).await;
        assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (429, wait));
        assert_eq!(send(&slow, from_an_address()).await.status, 429, "RL-42: nothing is forgiven");
        clock.advance(Duration::from_secs(1800));
    }
    assert_eq!(send(&fast, from_an_address()).await.status, 200, "the wait was the truth");
}

/// Keeps the keys that it is asked about.
#[derive(Clone, Debug, Default)]
struct Keys(Arc<Mutex<Vec<u128>>>);

impl RateLimitStore for Keys {
    async fn take(&self, request: &TakeRequest) -> Result<Decisions, StoreError> {
        self.0.lock().unwrap().push(request.takes()[0].key.to_u128());
        Ok(request.decide(&mut [0], 0))
    }

    fn settle(&self, _: &Settlement) {}
}

/// Each process had a random secret of its own, so a shared store counted every caller once a node.
#[tokio::test]
async fn nodes_that_share_a_secret_share_the_units_of_their_callers() {
    let store = Keys::default();
    let node = || RateLimitLayer::by_address(store.clone(), Quota::per_minute(1));
    for layer in [
        node().with_partition_secret(*b"between us nodes"),
        node().with_partition_secret(*b"between us nodes"),
        node().with_partition_secret(*b"between you only"),
        node(),
    ] {
        send(&layer.layer(Probe::default()), from_an_address()).await;
    }
    let keys = store.0.lock().unwrap();
    assert_eq!(keys[0], keys[1]);
    assert_ne!(keys[0], keys[2]);
    assert_ne!(keys[0], keys[3], "RL-68: the default is not a secret that everybody knows");
}

/// A tier named `default` took from the bucket of everybody else.
#[test]
#[should_panic(expected = "two quotas of one RateLimitLayer are called \"default\": rename")]
fn a_tier_with_the_name_of_the_rest_stops_the_program_as_it_starts() {
    let _ = RateLimitLayer::new(MemoryStore::new(), Quota::per_minute(60)).with_tier(
        "default",
        Requirement::role("partner"),
        Quota::per_minute(10),
    );
}

/// A handler could only name a kind.
#[tokio::test]
async fn a_handler_says_which_scopes_and_how_long() {
    let lacking = Rejection::insufficient_scope(&Requirement::scopes(["read", "archive"]));
    let answer = Answer::read(lacking.with_reason("old_report").into_response()).await;
    assert_eq!(answer.status, 403);
    assert!(answer.header("www-authenticate").ends_with("scope=\"read archive\""), "BEARER-31");
    assert_eq!(answer.json()["scope"], "read archive");
    assert_eq!(answer.extensions.get::<Rejection>().unwrap().reason(), "old_report");

    let busy = Rejection::new(RejectionKind::Unavailable).with_retry_after(Duration::from_secs(5));
    let answer = Answer::read(busy.into_response()).await;
    assert_eq!(answer.header("retry-after"), "5", "RL-23");
}

/// A limit outside of AuthenticateLayer answered in a style of its own.
#[tokio::test]
async fn a_limit_outside_of_the_authentication_refuses_in_the_words_of_the_application() {
    let in_few_words =
        |rejection: &Rejection, _: &RequestHead<'_>| Response::new(Bytes::from(rejection.error()));
    let service = ServiceBuilder::new()
        .layer(
            RateLimitLayer::by_address(MemoryStore::new(), Quota::per_minute(1))
                .with_responder(in_few_words),
        )
        .layer(AuthenticateLayer::new(FixedVerifier::new()).with_responder(in_few_words))
        .service(Probe::default());
    for (status, body) in [(401, "missing_token"), (429, "rate_limited")] {
        let answer = send(&service, from_an_address()).await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.body, body);
    }
}

/// Nobody was in the tiers of a layer that cannot know who calls, and nothing said so.
#[tokio::test]
async fn tiers_without_a_layer_that_authenticates_are_refused() {
    let service = RateLimitLayer::by_address(MemoryStore::new(), Quota::per_minute(1))
        .with_unlimited("admin", Requirement::role("admin"))
        .layer(Probe::default());
    let answer = send(&service, from_an_address()).await;
    assert_eq!((answer.status.as_u16(), answer.error().as_str()), (500, "misconfigured"));
    assert!(answer.json()["message"].as_str().unwrap().contains("AuthenticateLayer outside of it"));
}

fn viewer() -> Principal {
    Principal::builder("https://issuer.example", "viewer").build()
}

fn knows_the_viewer() -> FixedVerifier {
    FixedVerifier::new().with("the-token-of-the-viewer", viewer()).unwrap()
}

/// Counts how often a span is told who calls, and keeps the span of each audit event.
#[derive(Clone, Default)]
struct Watcher(Arc<Mutex<Watched>>);

#[derive(Default)]
struct Watched {
    records: Vec<&'static str>,
    contexts: Vec<Option<&'static str>>,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> layer::Layer<S> for Watcher {
    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, context: layer::Context<'_, S>) {
        let name = context.metadata(id).unwrap().name();
        self.0.lock().unwrap().records.extend((!values.is_empty()).then_some(name));
    }

    fn on_event(&self, event: &tracing::Event<'_>, context: layer::Context<'_, S>) {
        if event.metadata().target() == "tower_gate::audit" {
            let span = context.lookup_current().map(|span| span.name());
            self.0.lock().unwrap().contexts.push(span);
        }
    }
}

/// Each field was put onto the span twice, and the event of a TracingSink stood outside of it.
#[tokio::test]
async fn the_span_is_told_once_and_holds_the_event() {
    let watcher = Watcher::default();
    let _default = tracing::subscriber::set_default(Registry::default().with(watcher.clone()));
    let service = ServiceBuilder::new()
        .layer(AuditLayer::new(TracingSink))
        .layer(AuthenticateLayer::new(knows_the_viewer()))
        .service(Probe::default());
    assert_eq!(send(&service, with_token("the-token-of-the-viewer")).await.status, 200);
    drop(service.clone().call(anonymous()));
    let watched = watcher.0.lock().unwrap();
    assert_eq!(watched.records, ["request"; 2], "subject and scopes, once each");
    assert_eq!(watched.contexts, [Some("request"); 2], "AUDIT-14: dropped ones too");
}

/// The inner of two took the findings from the outer one, and one inside of AuthenticateLayer came
/// too late to be told.
#[tokio::test]
async fn every_audit_layer_learns_who_calls_wherever_it_stands() {
    let [outer, between, inner] = [(); 3].map(|()| Trail::default());
    let service = ServiceBuilder::new()
        .layer(AuditLayer::new(outer.clone()))
        .layer(AuditLayer::new(between.clone()))
        .layer(AuthenticateLayer::new(knows_the_viewer()))
        .layer(AuditLayer::new(inner.clone()))
        .layer(RateLimitLayer::new(MemoryStore::new(), Quota::per_minute(1)))
        .service(Probe::default());
    let alone = Trail::default();
    let late = AuthenticateLayer::new(knows_the_viewer())
        .layer(AuditLayer::new(alone.clone()).layer(Probe::default()));
    send(&late, with_token("the-token-of-the-viewer")).await;
    send(&service, with_token("the-token-of-the-viewer")).await;
    for (name, trail) in
        [("outer", &outer), ("between", &between), ("inner", &inner), ("alone", &alone)]
    {
        let event = trail.event();
        let subject = event.principal.as_ref().map(Principal::subject);
        assert_eq!(subject, Some("viewer"), "AUDIT-12: {name}");
    }
    assert_eq!(outer.event().remaining, Some(0), "AUDIT-13");
}

/// A method of any length stood in the event as it came.
#[tokio::test]
async fn a_long_method_is_cut() {
    let trail = Trail::default();
    let mut request = anonymous();
    *request.method_mut() = Method::from_bytes("M".repeat(5000).as_bytes()).unwrap();
    send(&AuditLayer::new(trail.clone()).layer(Probe::default()), request).await;
    assert_eq!(trail.event().method, *format!("{}...", "M".repeat(32)), "AUDIT-31");
}

/// Dropping a queue waited for as long as its sink was stuck, and nothing else could be asked.
#[tokio::test]
async fn a_flush_says_within_its_time_whether_the_trail_is_complete() {
    let (trail, (release, held)) = (Trail::default(), mpsc::channel::<()>());
    let (kept, held) = (trail.clone(), Mutex::new(held));
    let stuck = move |event: AuditEvent| {
        let _ = held.lock().unwrap().recv();
        kept.accept(event);
    };
    let queue = Arc::new(QueueSink::new(stuck, 8).unwrap());
    let service = AuditLayer::new(queue.clone()).layer(Probe::default());
    assert!(queue.flush(Duration::ZERO), "nothing is queued");
    for _ in 0..3 {
        send(&service, anonymous()).await;
    }
    assert!(!queue.flush(Duration::from_millis(1)), "AUDIT-42: the sink is stuck");
    drop(release);
    assert!(queue.flush(Duration::from_secs(60)), "AUDIT-42");
    assert_eq!((trail.events().len(), queue.lost()), (3, 0));
}

/// A sink that panicked ended the queue, which then said that it was full, and one without room was
/// made.
#[tokio::test]
async fn a_queue_outlives_the_panics_of_its_sink_and_counts_them() {
    let trail = Trail::default();
    let (kept, panicked) = (trail.clone(), AtomicBool::new(false));
    let sink = move |event: AuditEvent| {
        assert!(panicked.swap(true, Ordering::SeqCst), "the first event is too much");
        kept.accept(event);
    };
    let queue = Arc::new(QueueSink::new(sink, 8).unwrap());
    let service = AuditLayer::new(queue.clone()).layer(Probe::default());
    for _ in 0..2 {
        assert_eq!(send(&service, anonymous()).await.status, 200, "AUDIT-40");
    }
    assert!(queue.flush(Duration::from_secs(60)), "AUDIT-42");
    assert_eq!((trail.events().len(), queue.lost()), (1, 1), "AUDIT-40");
    let error = QueueSink::new(NullSink, 0).unwrap_err();
    assert_eq!(error.to_string(), "an audit queue must hold at least one event");
}

/// A sink that panicked took the answer along, and the process when a handler's panic was unwinding.
#[tokio::test]
async fn a_panic_of_the_sink_stays_in_the_sink() {
    let broken = AuditLayer::new(|_: AuditEvent| panic!("no disk"));
    assert_eq!(send(&broken.layer(Probe::default()), anonymous()).await.status, 200, "AUDIT-40");
    let service = broken.layer(service_fn(async |_: Request<TestBody>| -> Result<_, Infallible> {
        if true {
            panic!("a handler");
        }
        Ok(Response::new(TestBody::default()))
    }));
    let panicked = tokio::spawn(service.oneshot(anonymous())).await.unwrap_err();
    assert_eq!(*panicked.into_panic().downcast::<&str>().unwrap(), "a handler", "AUDIT-43");
}

/// A caller that was let in without a token looked like one on a route that asks nobody.
#[tokio::test]
async fn an_anonymous_caller_is_told_from_one_that_nobody_asked() {
    let optional = || AuthenticateLayer::new(knows_the_viewer()).optional();
    let trail = Trail::default();
    let audit = || AuditLayer::new(trail.clone());
    let public = audit().layer(Probe::default());
    let open = audit().layer(optional().layer(Probe::default()));
    let open_outside = optional().layer(audit().layer(Probe::default()));
    let closed = audit().layer(AuthenticateLayer::new(knows_the_viewer()).layer(Probe::default()));
    send(&public, anonymous()).await;
    send(&closed, anonymous()).await;
    send(&open, with_token("the-token-of-the-viewer")).await;
    send(&open, anonymous()).await;
    send(&open_outside, anonymous()).await;
    let events = trail.events();
    let marks: Vec<_> = events.iter().map(|event| event.anonymous).collect();
    assert_eq!(marks, [false, false, false, true, true], "AUDIT-1, AUDIT-12");
    assert_eq!(serde_json::to_value(&events[3]).unwrap()["anonymous"], true, "AUDIT-12");
}

/// The sink that was to say what the JSON says left the roles out.
#[tokio::test]
async fn the_tracing_sink_names_the_roles() {
    let log = Arc::new(Mutex::new(Vec::new()));
    let writer = log.clone();
    let logging = tracing_subscriber::fmt().with_ansi(false);
    let logging = logging.with_writer(move || Lines(writer.clone())).finish();
    let _default = tracing::subscriber::set_default(logging);
    let editor =
        Principal::builder("https://issuer.example", "ada").roles(["editor", "a,b"]).build();
    let verifier = FixedVerifier::new().with("the-token-of-the-editor", editor).unwrap();
    let service = ServiceBuilder::new()
        .layer(AuditLayer::new(TracingSink))
        .layer(AuthenticateLayer::new(verifier))
        .service(Probe::default());
    send(&service, with_token("the-token-of-the-editor")).await;
    let log = String::from_utf8(log.lock().unwrap().clone()).unwrap();
    assert!(log.contains(r#"roles=["editor", "a,b"] token_kind="#), "AUDIT-12: {log}");
    assert!(log.contains("anonymous=false"), "AUDIT-12: {log}");
}

/// Keeps what is written.
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
