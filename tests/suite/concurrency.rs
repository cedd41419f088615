//! How many requests of a caller run at once, through the layer.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{pending, ready};
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::MatchedPath;
use axum::routing::any;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_gate::concurrency_limit::{ConcurrencyLimit, ConcurrencyLimitBody};
use tower_gate::rate_limit::{HeaderStyle, Reset};
use tower_gate::store::memory::MemoryStore;
use tower_gate::{
    AuditLayer, AuthenticateLayer, ConcurrencyLimitLayer, FixedVerifier, ManualClock, Outcome,
    Partition, PeerAddr, Principal, Quota, RateLimitLayer, Rejection, RejectionKind, RequestHead,
    Requirement,
};

use crate::support::{Answer, Probe, TestBody, Trail, anonymous, as_grpc_call, send, with_token};
use crate::wire::serve_by_hyper;

/// A body that ends as it is told to.
#[derive(Debug)]
struct Script(VecDeque<Step>);

#[derive(Clone, Copy, Debug)]
enum Step {
    Data,
    Fails,
    Panics,
    Trailers,
    /// Never goes on.
    Waits,
}

impl Body for Script {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        let step = match self.0.front() {
            Some(Step::Waits) => return Poll::Pending,
            _ => self.0.pop_front(),
        };
        Poll::Ready(step.map(|step| match step {
            Step::Data => Ok(Frame::data(Bytes::from_static(b"data"))),
            Step::Trailers => Ok(Frame::trailers(HeaderMap::from_iter([(
                http::HeaderName::from_static("checksum"),
                HeaderValue::from_static("7"),
            )]))),
            Step::Fails => Err("the body failed"),
            Step::Panics | Step::Waits => panic!("the body panicked"),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        if self.0.iter().any(|step| matches!(step, Step::Waits)) {
            return SizeHint::default();
        }
        let data = self.0.iter().filter(|step| matches!(step, Step::Data)).count();
        SizeHint::with_exact(4 * data as u64)
    }
}

/// How a request goes on and ends.
#[derive(Clone, Copy, Debug)]
enum Ending {
    Answers(&'static [Step]),
    Fails,
    Never,
    PanicsInCall,
    PanicsInPoll,
}

type Handled = Pin<Box<dyn Future<Output = Result<Response<Script>, &'static str>> + Send>>;

/// A handler that does as it is told.
#[derive(Clone, Copy)]
struct Handler(Ending);

impl<B> Service<Request<B>> for Handler {
    type Response = Response<Script>;
    type Error = &'static str;
    type Future = Handled;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Handled {
        let ending = self.0;
        assert!(!matches!(ending, Ending::PanicsInCall), "the handler panicked");
        Box::pin(async move {
            match ending {
                Ending::Answers(steps) => {
                    Ok(Response::new(Script(steps.iter().copied().collect())))
                }
                Ending::Fails => Err("the handler failed"),
                Ending::Never => pending().await,
                Ending::PanicsInCall | Ending::PanicsInPoll => panic!("the handler panicked"),
            }
        })
    }
}

const ONE: &str = "192.0.2.1";

fn from(address: &str, mut request: Request<TestBody>) -> Request<TestBody> {
    let ip: IpAddr = address.parse().unwrap();
    request.extensions_mut().insert(PeerAddr(SocketAddr::new(ip, 4711)));
    request
}

fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// The permits that one address has left of five.
async fn left(limit: &ConcurrencyLimitLayer) -> String {
    let answer = send(&limit.layer(Probe::default()), from(ONE, anonymous())).await;
    answer.header("ratelimit").replace("\"address-concurrency\";r=", "")
}

type Running = ConcurrencyLimitBody<Script>;

async fn head_of(service: &ConcurrencyLimit<Handler>) -> Result<Running, &'static str> {
    let response = service.clone().oneshot(from(ONE, anonymous())).await?;
    assert_eq!(response.headers()["ratelimit"], "\"address-concurrency\";r=4");
    Ok(response.into_body())
}

/// RL-52, attack 46 of its kind: a permit that does not come back would lock its caller out.
#[tokio::test]
async fn a_permit_comes_back_however_a_request_ends() {
    use Step::{Data, Fails, Panics, Trailers, Waits};
    let limit = ConcurrencyLimitLayer::by_address(5);
    let service = |ending| limit.layer(Handler(ending));
    let answering = |steps| service(Ending::Answers(steps));

    // Bodies that are read to their end.
    for steps in [&[Data][..], &[Data, Data, Trailers], &[Data, Fails], &[Trailers], &[Fails]] {
        let mut body = head_of(&answering(steps)).await.unwrap();
        for _ in 1..steps.len() {
            assert_eq!(left(&limit).await, "3", "RL-52: {steps:?} runs");
            body.frame().await.unwrap().unwrap();
        }
        assert_eq!(left(&limit).await, "3", "RL-52: {steps:?} runs");
        let last = body.frame().await.unwrap();
        assert_eq!(last.is_err(), matches!(steps.last(), Some(Fails)), "{steps:?}");
        assert_eq!(left(&limit).await, "4", "RL-52: {steps:?} has ended, and is still held");
        drop(body);
        assert_eq!(left(&limit).await, "4", "RL-52: only once");
    }
    // A body without an end that is known in advance.
    let body = head_of(&answering(&[])).await.unwrap();
    assert_eq!(left(&limit).await, "4", "RL-52: there is nothing to wait for");
    drop(body);

    // Bodies that nobody reads to their end.
    for steps in [&[Data][..], &[Data, Waits]] {
        let mut body = head_of(&answering(steps)).await.unwrap();
        if steps.len() > 1 {
            body.frame().await.unwrap().unwrap();
            assert!(poll(pin!(body.frame())).is_pending());
        }
        assert_eq!(left(&limit).await, "3", "RL-52: {steps:?} runs");
        drop(body);
        assert_eq!(left(&limit).await, "4", "RL-52: {steps:?} was dropped");
    }
    let mut body = head_of(&answering(&[Panics])).await.unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| poll(pin!(body.frame())).is_ready())).is_err());
    drop(body);
    assert_eq!(left(&limit).await, "4", "RL-52: the body panicked");

    // Requests without a response.
    assert_eq!(head_of(&service(Ending::Fails)).await.unwrap_err(), "the handler failed");
    assert_eq!(left(&limit).await, "4", "RL-52: an error");
    for ending in [Ending::Never, Ending::PanicsInCall, Ending::PanicsInPoll] {
        let mut response = Box::pin(service(ending).oneshot(from(ONE, anonymous())));
        let polled = catch_unwind(AssertUnwindSafe(|| poll(response.as_mut()).is_ready()));
        assert_eq!(polled.is_err(), !matches!(ending, Ending::Never), "{ending:?}");
        let runs = if matches!(ending, Ending::PanicsInCall) { "4" } else { "3" };
        assert_eq!(left(&limit).await, runs, "RL-52: {ending:?}");
        drop(response);
        assert_eq!(left(&limit).await, "4", "RL-52: {ending:?}");
    }
}

#[tokio::test]
async fn a_body_passes_as_it_is() {
    use Step::{Data, Trailers};
    let limit = ConcurrencyLimitLayer::by_address(5);
    let service = limit.layer(Handler(Ending::Answers(&[Data, Data, Trailers])));
    let body = head_of(&service).await.unwrap();
    assert_eq!(body.size_hint().exact(), Some(8));
    assert!(!body.is_end_stream());
    let body = body.collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["checksum"], "7");
    assert_eq!(body.to_bytes(), "datadata");
    let body = head_of(&limit.layer(Handler(Ending::Answers(&[])))).await.unwrap();
    assert!(body.is_end_stream());
    assert!(ConcurrencyLimitBody::<TestBody>::default().is_end_stream());
}

/// Occupies so many permits of a caller.
fn occupy<S>(service: &S, request: &Request<TestBody>, times: usize) -> Vec<Pin<Box<S::Future>>>
where
    S: Service<Request<TestBody>> + Clone,
{
    let start = || {
        let mut future = Box::pin(service.clone().call(request.clone()));
        assert!(poll(future.as_mut()).is_pending());
        future
    };
    (0..times).map(|_| start()).collect()
}

/// Knows a token for each role, which is also the name of its principal.
fn verifier() -> FixedVerifier {
    ["admin", "partner", "user", "other"].into_iter().fold(FixedVerifier::new(), |known, name| {
        let principal = Principal::builder("https://issuer.example", name).roles([name]);
        known.with(name, principal.build()).unwrap()
    })
}

fn authenticate() -> AuthenticateLayer {
    AuthenticateLayer::new(verifier()).optional()
}

/// Both are behind the layer: one answers, and one never does.
macro_rules! answering_and_not {
    ($limit:expr) => {{
        let never =
            service_fn(|_: Request<TestBody>| pending::<Result<Response<TestBody>, Infallible>>());
        let limit = $limit;
        (
            authenticate().layer(limit.clone().layer(Probe::default())),
            authenticate().layer(limit.layer(never)),
        )
    }};
}

#[tokio::test]
async fn a_caller_with_all_its_permits_in_use_is_told_to_come_again_and_others_are_not() {
    let (service, never) = answering_and_not!(ConcurrencyLimitLayer::new(2));
    let policy = "\"concurrency\";q=2;qu=\"concurrent-requests\"";
    let running = occupy(&never, &with_token("user"), 1);
    let answer = send(&service, with_token("user")).await;
    assert_eq!((answer.status.as_u16(), &*answer.body), (200, &b"user"[..]));
    assert_eq!(answer.header("ratelimit-policy"), policy, "RL-1, 4");
    assert_eq!(answer.header("ratelimit"), "\"concurrency\";r=0", "RL-2");

    let more = occupy(&never, &with_token("user"), 1);
    let answer = send(&service, with_token("user")).await;
    assert_eq!(answer.status, 429, "RL-20");
    assert_eq!(answer.header("retry-after"), "1", "RL-21");
    assert_eq!(answer.header("cache-control"), "no-store", "RL-20");
    assert_eq!(answer.header("ratelimit-policy"), policy, "RL-4");
    assert_eq!(answer.header("ratelimit"), "\"concurrency\";r=0", "RL-2");
    let body = json!({
        "error": "rate_limited",
        "message": "too many requests at once; wait for the answer to another one",
        "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
        "title": "Quota exceeded",
        "status": 429,
        "retry_after": 1,
        "violated-policies": ["concurrency"],
    });
    assert_eq!(answer.json(), body, "RL-9");
    let answer = send(&service, as_grpc_call(with_token("user"))).await;
    assert_eq!((answer.status.as_u16(), answer.header("grpc-status")), (200, "8"), "GRPC-13");
    let answer = send(&service, with_token("other")).await;
    assert_eq!(answer.header("ratelimit"), "\"concurrency\";r=1", "another caller");

    drop(more);
    assert_eq!(send(&service, with_token("user")).await.status, 200, "RL-52");
    drop(running);
}

#[tokio::test]
async fn what_all_callers_share_is_the_services_matter() {
    let (service, never) = answering_and_not!(ConcurrencyLimitLayer::global(2));
    let answer = send(&service, with_token("user")).await;
    assert_eq!(answer.status, 200);
    assert!(!answer.headers.contains_key("ratelimit-policy"), "RL-7: nobody's quota");
    let _running = [occupy(&never, &with_token("user"), 1), occupy(&never, &anonymous(), 1)];
    let answer = send(&service, with_token("other")).await;
    assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (503, "1"), "RL-9");
    assert!(!answer.headers.contains_key("ratelimit"), "RL-7");
    let body = json!({
        "error": "temporarily_unavailable",
        "message": "the service has as many requests as it can serve; try again shortly",
        "type": "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity",
        "title": "Temporarily reduced capacity",
        "status": 503,
        "retry_after": 1,
        "violated-policies": ["capacity"],
    });
    assert_eq!(answer.json(), body, "RL-9");
    let rejection = answer.extensions.get::<Rejection>().unwrap();
    assert_eq!((rejection.kind(), rejection.reason()), (RejectionKind::Unavailable, "at_capacity"));
    let answer = send(&service, as_grpc_call(with_token("other"))).await;
    assert_eq!(answer.header("grpc-status"), "14", "GRPC-13");
}

#[tokio::test]
async fn a_limit_in_shadow_writes_down_whom_it_would_refuse_and_refuses_nobody() {
    let trail = Trail::default();
    let handler =
        service_fn(|_: Request<TestBody>| pending::<Result<Response<TestBody>, Infallible>>());
    let limit = ConcurrencyLimitLayer::by_address(2).in_shadow();
    let service = limit.layer(Probe::default());
    let request = from(ONE, anonymous());
    let audited = AuditLayer::new(trail.clone()).layer(service.clone());
    let ask = async |would_limit: usize| {
        let answer = send(&audited, request.clone()).await;
        assert_eq!((answer.status.as_u16(), answer.header("ratelimit")), (200, ""));
        let event = trail.events().pop().unwrap();
        assert_eq!((event.policy, event.remaining), (None, None), "clients see nothing of it");
        assert_eq!(event.would_limit, vec![Arc::from("address-concurrency"); would_limit]);
    };
    ask(0).await;
    let mut running = occupy(&limit.layer(handler), &request, 3);
    ask(1).await;
    running.pop();
    ask(1).await;
    running.pop();
    ask(0).await;

    // Where it cannot count, it stays out of the way.
    for limit in [limit.clone(), limit.with_tier("partner", Requirement::role("partner"), 1)] {
        assert_eq!(send(&limit.layer(Probe::default()), anonymous()).await.status, 200);
    }
}

#[tokio::test]
async fn tiers_have_permits_of_their_own() {
    let limit = ConcurrencyLimitLayer::new(3)
        .with_unlimited("admin", Requirement::role("admin"))
        .with_tier("partner", Requirement::role("partner"), 1)
        .with_clock(ManualClock::default());
    let (service, never) = answering_and_not!(limit);
    for (token, permits, fields) in
        [("partner", 1, "\"partner\";r=0"), ("user", 3, "\"concurrency\";r=0"), ("admin", 50, "")]
    {
        let _running = occupy(&never, &with_token(token), permits);
        let answer = send(&service, with_token(token)).await;
        assert_eq!(answer.status, if token == "admin" { 200 } else { 429 }, "{token}");
        assert_eq!(answer.header("ratelimit"), fields, "{token}");
    }
    let _running = occupy(&never, &from(ONE, anonymous()), 3);
    assert_eq!(send(&service, from(ONE, anonymous())).await.status, 429, "CLIENTIP-41");
    assert_eq!(send(&service, from("192.0.2.2", anonymous())).await.status, 200, "CLIENTIP-41");
}

#[tokio::test]
async fn a_route_and_an_address_have_permits_of_their_own() {
    let by_route = ConcurrencyLimitLayer::global(1).with_name("route").with_partition(
        Partition::route(|extensions| Some(extensions.get::<MatchedPath>()?.as_str().into())),
    );
    let app = Router::new()
        .route("/never/{id}", any(pending::<()>))
        .route("/always", any(|| async { "here" }))
        .route_layer(by_route);
    let request = |path: &str| Request::get(path).body(TestBody::default()).unwrap();
    let mut running = Box::pin(app.clone().oneshot(request("/never/1")));
    assert!(poll(running.as_mut()).is_pending());
    let answer = send(&app, request("/never/2")).await;
    assert_eq!((answer.status.as_u16(), answer.error().as_str()), (503, "temporarily_unavailable"));
    assert_eq!(answer.json()["violated-policies"], json!(["route"]), "RL-9");
    assert_eq!(send(&app, request("/always")).await.status, 200);

    let (service, never) = answering_and_not!(ConcurrencyLimitLayer::by_address(2));
    let hosts = ["2001:db8:1:2::1", "2001:db8:1:2::2"];
    let _running = hosts.map(|host| occupy(&never, &from(host, anonymous()), 1));
    assert_eq!(send(&service, from("2001:db8:1:2::3", anonymous())).await.status, 429, "attack 28");
    assert_eq!(send(&service, from("2001:db8:1:3::1", anonymous())).await.status, 200);
}

#[tokio::test]
async fn a_limit_that_cannot_work_refuses_everything_or_does_not_start() {
    let misconfigured = |answer: &Answer, word: &str| {
        assert_eq!((answer.status.as_u16(), answer.error().as_str()), (500, "misconfigured"));
        let message = answer.json()["message"].as_str().unwrap().to_owned();
        assert!(message.contains(word), "attack 33: {message}");
    };
    let tiers = |layer: ConcurrencyLimitLayer| layer.with_unlimited("x", Requirement::role("x"));
    let layers = [
        ConcurrencyLimitLayer::new(1),
        tiers(ConcurrencyLimitLayer::by_address(1)),
        tiers(ConcurrencyLimitLayer::global(1)),
    ];
    for layer in layers {
        let answer = send(&layer.layer(Probe::default()), from(ONE, anonymous())).await;
        misconfigured(&answer, "AuthenticateLayer");
    }
    let by_address = ConcurrencyLimitLayer::by_address(1).layer(Probe::default());
    misconfigured(&send(&by_address, anonymous()).await, "PeerAddr");

    let new = || ConcurrencyLimitLayer::new(1);
    let role = || Requirement::role("x");
    for (mistake, builds) in [
        ("none at once", &(|| ConcurrencyLimitLayer::new(0)) as &dyn Fn() -> _),
        ("none at once in a tier", &|| new().with_tier("x", role(), 0)),
        ("a name that no header can carry", &|| new().with_name("é")),
        ("the same in a tier", &|| new().with_tier("", role(), 1)),
        ("two names", &|| new().with_tier("concurrency", role(), 1)),
        ("two names", &|| new().with_tier("x", role(), 1).with_name("x")),
        ("two names", &|| new().with_tier("x", role(), 1).with_unlimited("x", role())),
    ] {
        let built: Result<ConcurrencyLimitLayer, _> = catch_unwind(AssertUnwindSafe(builds));
        assert!(built.is_err(), "{mistake}");
    }
}

#[tokio::test]
async fn limits_make_one_list_and_a_name_is_quoted() {
    let at_once = ConcurrencyLimitLayer::new(9).with_name("a \"b\\c\";q=1");
    let service = ServiceBuilder::new()
        .layer(authenticate())
        .layer(RateLimitLayer::new(MemoryStore::new(), Quota::per_minute(60)))
        .layer(at_once)
        .service(Probe::default());
    let answer = send(&service, with_token("user")).await;
    let list = |name: &str| {
        let values = answer.headers.get_all(name).iter();
        values.map(|value| value.to_str().unwrap()).collect::<Vec<_>>().join(", ")
    };
    let name = r#""a \"b\\c\";q=1""#;
    let policies = format!("{name};q=9;qu=\"concurrent-requests\", \"default\";q=60;w=60");
    assert_eq!(list("ratelimit-policy"), policies, "RL-1, 30, 33");
    assert_eq!(list("ratelimit"), format!("{name};r=8, \"default\";r=59;t=1"), "RL-2, 30");
}

/// The fields of limits on an answer, in the order of their names.
fn shown(answer: &Answer) -> Vec<String> {
    let of_limits = answer.headers.iter().filter(|(name, _)| name.as_str().contains("ratelimit"));
    let mut fields: Vec<_> =
        of_limits.map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    fields.sort();
    fields
}

#[tokio::test]
async fn a_limit_is_shown_in_the_style_of_its_layer() {
    // 2001-09-09T01:46:40Z.
    let clock = ManualClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000));
    for (style, expected) in [
        (
            HeaderStyle::Draft10,
            &[
                "ratelimit-policy: \"concurrency\";q=2;qu=\"concurrent-requests\"",
                "ratelimit: \"concurrency\";r=LEFT",
            ][..],
        ),
        (HeaderStyle::Draft07, &["ratelimit: limit=2, remaining=LEFT, reset=1"]),
        (
            HeaderStyle::Draft06,
            &["ratelimit-limit: 2", "ratelimit-remaining: LEFT", "ratelimit-reset: 1"],
        ),
        (
            HeaderStyle::XRateLimit(Reset::Delta),
            &["x-ratelimit-limit: 2", "x-ratelimit-remaining: LEFT", "x-ratelimit-reset: 1"],
        ),
        (
            HeaderStyle::XRateLimit(Reset::Unix),
            &[
                "x-ratelimit-limit: 2",
                "x-ratelimit-remaining: LEFT",
                "x-ratelimit-reset: 1000000001",
            ],
        ),
        (HeaderStyle::None, &[]),
    ] {
        // Whatever is set after the style.
        let limit = ConcurrencyLimitLayer::new(9)
            .with_headers(style)
            .with_tier("concurrency-of-users", Requirement::role("admin"), 7)
            .with_clock(clock.clone());
        let (service, never) = answering_and_not!(
            ConcurrencyLimitLayer::new(2).with_clock(clock.clone()).with_headers(style)
        );
        for (running, left) in [(0, "1"), (2, "0")] {
            let _running = occupy(&never, &with_token("user"), running);
            let answer = send(&service, with_token("user")).await;
            assert_eq!(answer.status, if running == 0 { 200 } else { 429 });
            let mut expected: Vec<_> =
                expected.iter().map(|field| field.replace("LEFT", left)).collect();
            expected.sort();
            assert_eq!(shown(&answer), expected, "RL-10, 11: {style:?}, {running} running");
            let retry_after = if running == 0 { "" } else { "1" };
            assert_eq!(answer.header("retry-after"), retry_after, "RL-21: {style:?}");
        }
        let tiered = authenticate().layer(limit.layer(Probe::default()));
        let has_fields = !shown(&send(&tiered, with_token("admin")).await).is_empty();
        assert_eq!(has_fields, style != HeaderStyle::None, "a tier after the style: {style:?}");
    }
}

#[tokio::test]
async fn beside_rate_limits_of_an_old_style_the_strictest_is_shown_once() {
    for (units, at_once, expected) in [
        (10, 2, &["ratelimit: limit=2, remaining=1, reset=1"][..]),
        (2, 10, &["ratelimit-policy: 2;w=60", "ratelimit: limit=2, remaining=1, reset=30"]),
    ] {
        let style = HeaderStyle::Draft07;
        let rates = RateLimitLayer::new(MemoryStore::new(), Quota::per_minute(units))
            .with_clock(ManualClock::default())
            .with_headers(style);
        let limit = ConcurrencyLimitLayer::new(at_once).with_headers(style);
        let outside = authenticate().layer(limit.clone().layer(rates.layer(Probe::default())));
        let inside =
            authenticate().layer(rates.with_name("r").layer(limit.layer(Probe::default())));
        let mut expected = expected.to_vec();
        expected.sort();
        for (place, answer) in [
            ("outside", send(&outside, with_token("user")).await),
            ("inside", send(&inside, with_token("user")).await),
        ] {
            assert_eq!(shown(&answer), expected, "RL-12: {at_once} at once {place} of {units}");
        }
    }
}

#[tokio::test]
async fn a_responder_and_the_trail_are_told() {
    let of_outer = |_: &Rejection, _: &RequestHead<'_>| Response::new(Bytes::from("outer"));
    let of_layer = |_: &Rejection, _: &RequestHead<'_>| Response::new(Bytes::from("layer"));
    let layer = ConcurrencyLimitLayer::new(1);
    let own = layer.clone().with_responder(of_layer);
    for (limit, body) in [(layer, "outer"), (own, "layer")] {
        let trail = Trail::default();
        // The same limit twice: what the outer one lets in, the inner one has no permit for.
        let service = ServiceBuilder::new()
            .layer(AuditLayer::new(trail.clone()))
            .layer(authenticate().with_responder(of_outer))
            .layer(limit.clone())
            .layer(limit)
            .service(Probe::default());
        let answer = send(&service, with_token("user")).await;
        assert_eq!((answer.status.as_u16(), &*answer.body), (429, body.as_bytes()));
        let event = trail.event();
        assert_eq!((event.outcome, event.reason), (Outcome::Refused, Some("too_many_at_once")));
        let told = (event.policy.as_deref(), event.remaining);
        assert_eq!(told, (Some("concurrency"), Some(0)), "AUDIT-13");
    }
    let trail = Trail::default();
    let global = ConcurrencyLimitLayer::global(1);
    let service = global.clone().layer(global.layer(Probe::default()));
    send(&AuditLayer::new(trail.clone()).layer(service), anonymous()).await;
    let event = trail.event();
    assert_eq!((event.outcome, event.reason), (Outcome::Refused, Some("at_capacity")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn however_many_come_at_once_no_more_run_than_may() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (running, highest) = (now.clone(), most.clone());
    let handler = service_fn(move |_: Request<TestBody>| {
        let (running, highest) = (running.clone(), highest.clone());
        async move {
            highest.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            running.fetch_sub(1, Ordering::SeqCst);
            Ok::<_, Infallible>(Response::new(TestBody::default()))
        }
    });
    let service = ConcurrencyLimitLayer::by_address(10).layer(handler);
    let mut tasks = JoinSet::new();
    for _ in 0..64 {
        let service = service.clone();
        tasks.spawn(async move {
            let mut passes = 0;
            for _ in 0..200 {
                let answer = send(&service, from(ONE, anonymous())).await;
                passes += usize::from(answer.status == 200);
            }
            passes
        });
    }
    let passes: usize = tasks.join_all().await.into_iter().sum();
    assert!(passes >= 200, "some come in: {passes}");
    let most = most.load(Ordering::SeqCst);
    assert!((2..=10).contains(&most), "attack 41: {most}");
    assert_eq!(
        send(&service, from(ONE, anonymous())).await.header("ratelimit"),
        "\"address-concurrency\";r=9",
        "RL-52: all have come back"
    );
}

/// A client that hangs up in the middle of a download, at a real server.
#[tokio::test]
async fn a_download_counts_until_its_client_hangs_up() {
    let limit = ConcurrencyLimitLayer::by_address(1);
    let endless = service_fn(|_: Request<hyper::body::Incoming>| {
        ready(Ok::<_, Infallible>(Response::new(Script([Step::Data, Step::Waits].into()))))
    });
    let download = serve_by_hyper(limit.clone().layer(endless)).await;
    let mut stream = TcpStream::connect(download).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: api.example\r\n\r\n").await.unwrap();
    let mut head = Vec::new();
    while !head.windows(4).any(|part| part == b"data") {
        assert!(stream.read_buf(&mut head).await.unwrap() > 0);
    }
    let probe = limit.layer(Probe::default());
    let status = async || send(&probe, from("127.0.0.1", anonymous())).await.status.as_u16();
    assert_eq!(status().await, 429, "RL-52: it runs");
    drop(stream);
    let is_free = async {
        while status().await != 200 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(20), is_free).await.expect("RL-52: the permit comes back");
}
