//! The layers on top of each other: in order, out of order, and in every framework.

mod cors;
mod routes;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use axum::routing::get;
use axum::{Extension, Router};
use http::{Request, Response, StatusCode, Uri};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Code;
use tonic::transport::Server;
use tower::buffer::Buffer;
use tower::limit;
use tower::{BoxError, Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_gate::audit::{Audit, AuditFuture};
use tower_gate::authenticate::{Authenticate, AuthenticateFuture};
use tower_gate::concurrency_limit::{ConcurrencyLimit, ConcurrencyLimitFuture};
use tower_gate::failure_limit::{FailureLimit, FailureLimitFuture};
use tower_gate::rate_limit::{RateLimit, RateLimitFuture};
use tower_gate::require_scope::{RequireScope, RequireScopeFuture};
use tower_gate::store::memory::MemoryStore;
use tower_gate::store::{RateLimitStore, Settlement, StoreError, TakeRequest};
use tower_gate::verifier::{VerifyError, VerifyRequest};
use tower_gate::{
    AuditLayer, AuthenticateLayer, ConcurrencyLimitLayer, Decisions, FailureLimitLayer,
    FixedVerifier, Outcome, Principal, Quota, RateLimitLayer, Rejection, RejectionKind,
    RequireScopeLayer, TokenVerifier,
};

use crate::grpc::{WhoAmI, call, connect, serve_grpc};
use crate::support::{Probe, TestBody, Trail, anonymous, send, with_token};
use crate::wire::{http1, http2, serve, serve_by_hyper};

/// Every layer and what it makes can be shared, cloned and named without a type parameter, whatever
/// it is configured with.
const _: fn() = || {
    fn goes_anywhere<T: Clone + Send + Sync + 'static>() {}
    fn is_a_task<T: Send + 'static>() {}
    goes_anywhere::<(AuditLayer, AuthenticateLayer, RateLimitLayer, RequireScopeLayer)>();
    goes_anywhere::<(FailureLimitLayer, ConcurrencyLimitLayer)>();
    goes_anywhere::<FailureLimit<ConcurrencyLimit<Probe>>>();
    is_a_task::<FailureLimitFuture<Probe, TestBody>>();
    is_a_task::<ConcurrencyLimitFuture<<Probe as Service<Request<TestBody>>>::Future>>();
    goes_anywhere::<Stack<Probe>>();
    is_a_task::<AuditFuture<<Probe as Service<Request<TestBody>>>::Future>>();
    is_a_task::<AuthenticateFuture<Probe, TestBody>>();
    is_a_task::<RateLimitFuture<Probe, TestBody>>();
    is_a_task::<RequireScopeFuture<<Probe as Service<Request<TestBody>>>::Future>>();
};

/// The four services in their order.
type Stack<S> = Audit<Authenticate<RateLimit<RequireScope<S>>>>;

/// When a verifier or a store answers: at once, or after its task has been put aside.
#[derive(Clone, Copy, Debug, PartialEq)]
enum When {
    AtOnce,
    Later,
}

const WAYS: [(When, When); 4] = [
    (When::AtOnce, When::AtOnce),
    (When::AtOnce, When::Later),
    (When::Later, When::AtOnce),
    (When::Later, When::Later),
];

/// What answers when it is told to.
struct Answering<T>(T, When);

impl TokenVerifier for Answering<FixedVerifier> {
    fn try_verify(&self, request: &VerifyRequest) -> Option<Result<Principal, VerifyError>> {
        self.0.try_verify(request).filter(|_| self.1 == When::AtOnce)
    }

    async fn verify(&self, request: &VerifyRequest) -> Result<Principal, VerifyError> {
        tokio::task::yield_now().await;
        self.0.verify(request).await
    }
}

impl RateLimitStore for Answering<MemoryStore> {
    fn try_take(&self, request: &TakeRequest) -> Option<Result<Decisions, StoreError>> {
        self.0.try_take(request).filter(|_| self.1 == When::AtOnce)
    }

    async fn take(&self, request: &TakeRequest) -> Result<Decisions, StoreError> {
        tokio::task::yield_now().await;
        self.0.take(request).await
    }

    fn settle(&self, settlement: &Settlement) {
        self.0.settle(settlement);
    }
}

/// Knows `good`, whose scopes are `read inner outer`, and three tokens with fewer of them.
fn verifier() -> FixedVerifier {
    let ada = |scopes| Principal::builder("https://issuer.example", "ada").scopes(scopes).build();
    [("good", "read inner outer"), ("inner", "inner"), ("outer", "outer"), ("bare", "")]
        .into_iter()
        .fold(FixedVerifier::new(), |known, (token, scopes)| {
            known.with(token, ada(scopes)).unwrap()
        })
}

fn authenticate() -> AuthenticateLayer {
    AuthenticateLayer::new(verifier())
}

fn limit(units: u32) -> RateLimitLayer {
    RateLimitLayer::new(MemoryStore::new(), Quota::per_hour(units))
}

/// The four layers around a service, for callers with the scope `read`.
fn stack<S>(inner: S, trail: &Trail, (verified, taken): (When, When)) -> Stack<S> {
    let store = Answering(MemoryStore::new(), taken);
    ServiceBuilder::new()
        .layer(AuditLayer::new(trail.clone()))
        .layer(AuthenticateLayer::new(Answering(verifier(), verified)))
        .layer(RateLimitLayer::new(store, Quota::per_hour(100)))
        .layer(RequireScopeLayer::scope("read"))
        .service(inner)
}

#[tokio::test]
async fn the_service_that_was_polled_ready_is_the_one_that_is_called() {
    for way in WAYS {
        let trail = Trail::default();
        let mut service = stack(Probe::default(), &trail, way);
        for _ in 0..3 {
            let ready = ServiceExt::<Request<TestBody>>::ready(&mut service).await.unwrap();
            let answer = ready.call(with_token("good")).await.unwrap();
            assert_eq!(answer.status(), StatusCode::OK, "{way:?}");
        }
        // Clones, all at once.
        let mut tasks = JoinSet::new();
        for token in ["good", "bare", "evil"].repeat(8) {
            let service = service.clone();
            tasks.spawn(async move { (token, send(&service, with_token(token)).await) });
        }
        for (token, answer) in tasks.join_all().await {
            let expected = match token {
                "good" => StatusCode::OK,
                "bare" => StatusCode::FORBIDDEN,
                _ => StatusCode::UNAUTHORIZED,
            };
            assert_eq!(answer.status, expected, "{way:?}: {token}");
        }
        let outcomes: Vec<_> = trail.events().iter().map(|event| event.outcome).collect();
        let count = |outcome| outcomes.iter().filter(|found| **found == outcome).count();
        assert_eq!((count(Outcome::Allowed), count(Outcome::Refused)), (11, 16), "{way:?}");
    }
}

/// Middleware that counts on being polled ready, as tower's own does.
#[tokio::test]
async fn limits_and_buffers_of_tower_can_stand_inside() {
    for way in WAYS {
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (running, highest) = (now.clone(), most.clone());
        let inner = service_fn(move |_: Request<TestBody>| {
            let (running, highest) = (running.clone(), highest.clone());
            async move {
                highest.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                running.fetch_sub(1, Ordering::SeqCst);
                Ok::<_, Infallible>(Response::new(TestBody::default()))
            }
        });
        let limited = limit::ConcurrencyLimit::new(inner, 2);
        let trail = Trail::default();
        let directly = stack(limited.clone(), &trail, way);
        let buffered = stack(Buffer::new(limited, 1), &trail, way);
        let mut tasks = JoinSet::new();
        for _ in 0..16 {
            let (directly, buffered) = (directly.clone(), buffered.clone());
            tasks.spawn(async move {
                let first = directly.oneshot(with_token("good")).await.unwrap();
                // The error of a Buffer, which the layers have left as it is.
                let second: Result<_, BoxError> = buffered.oneshot(with_token("good")).await;
                [first.status(), second.unwrap().status()]
            });
        }
        for statuses in tasks.join_all().await {
            assert_eq!(statuses, [StatusCode::OK; 2], "{way:?}");
        }
        assert_eq!(most.load(Ordering::SeqCst), 2, "{way:?}");
        assert_eq!(now.load(Ordering::SeqCst), 0, "{way:?}");
    }
}

/// An error that is nothing but itself.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Broken {
    AtCall,
    AtReadiness,
}

/// Fails in one of the two ways.
#[derive(Clone)]
struct Fails(Broken);

impl Service<Request<TestBody>> for Fails {
    type Response = Response<TestBody>;
    type Error = Broken;
    type Future = std::future::Ready<Result<Response<TestBody>, Broken>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        Poll::Ready(if self.0 == Broken::AtReadiness { Err(self.0) } else { Ok(()) })
    }

    fn call(&mut self, _: Request<TestBody>) -> Self::Future {
        std::future::ready(Err(self.0))
    }
}

#[tokio::test]
async fn an_error_of_the_inner_service_passes_as_it_is() {
    for way in WAYS {
        let service = |how| stack(Fails(how), &Trail::default(), way);
        for how in [Broken::AtCall, Broken::AtReadiness] {
            let result = service(how).oneshot(with_token("good")).await;
            assert_eq!(result.unwrap_err(), how, "{way:?}");
        }
        let refusal = service(Broken::AtCall).oneshot(with_token("evil")).await.unwrap();
        assert_eq!(refusal.status(), StatusCode::UNAUTHORIZED, "a refusal is a response");
    }
}

#[tokio::test]
async fn a_service_that_is_not_ready_holds_the_stack_back() {
    fn is_ready(service: &mut impl Service<Request<TestBody>>) -> bool {
        service.poll_ready(&mut Context::from_waker(Waker::noop())).is_ready()
    }
    let limited = limit::ConcurrencyLimit::new(Probe::default(), 1);
    for way in WAYS {
        let mut holder = limited.clone();
        let mut stack = stack(limited.clone(), &Trail::default(), way);
        assert!(is_ready(&mut holder));
        assert!(!is_ready(&mut stack), "{way:?}");
        drop(holder);
        assert!(is_ready(&mut stack), "{way:?}");
    }
}

#[tokio::test]
async fn the_stack_stands_in_plain_hyper() {
    for way in WAYS {
        let trail = Trail::default();
        let server = serve_by_hyper(stack(Probe::default(), &trail, way)).await;
        for (token, status) in [("good", 200), ("bare", 403), ("evil", 401)] {
            let line = format!("Authorization: Bearer {token}");
            let mut request = with_token(token);
            *request.uri_mut() = Uri::from_static("http://api.example/");
            for answer in [http1(server, "GET /", &[&line]).await, http2(server, request).await] {
                assert_eq!(answer.status, status, "{way:?}: {token}");
                assert_eq!(answer.body == "ada", status == 200, "{way:?}: {token}");
            }
        }
        assert_eq!(trail.events().len(), 6, "{way:?}");
    }
}

#[tokio::test]
async fn the_stack_stands_in_axum() {
    for way in WAYS {
        let trail = Trail::default();
        let layers = ServiceBuilder::new()
            .layer(AuditLayer::new(trail.clone()))
            .layer(AuthenticateLayer::new(Answering(verifier(), way.0)))
            .layer(RateLimitLayer::new(Answering(MemoryStore::new(), way.1), Quota::per_hour(100)))
            .layer(RequireScopeLayer::scope("read"));
        let app = Router::new()
            .route_service("/service", stack(Probe::default(), &trail, way))
            .merge(Router::new().route_service("/layer", Probe::default()).layer(layers));
        let server = serve(app).await;
        for path in ["/service", "/layer"] {
            for (token, status) in [("good", 200), ("bare", 403), ("evil", 401)] {
                let line = format!("Authorization: Bearer {token}");
                let answer = http1(server, &format!("GET {path}"), &[&line]).await;
                assert_eq!(answer.status, status, "{way:?}: {path} {token}");
                assert_eq!(answer.body == "ada", status == 200, "{way:?}: {path} {token}");
            }
        }
        assert_eq!(trail.events().len(), 6, "{way:?}");
    }
}

#[tokio::test]
async fn the_stack_stands_in_tonic() {
    for way in WAYS {
        let trail = Trail::default();
        // Around the whole server, and around one method with a limit of tower's inside.
        let around_server = serve_by_tonic(way, &trail).await;
        let one_method = limit::ConcurrencyLimit::new(WhoAmI, 1);
        let one_method = Router::new().route_service(ASK, stack(one_method, &trail, way));
        for server in [around_server, serve_grpc(one_method).await] {
            let channel = connect(server).await;
            let ask = |token| call(&channel, ASK, token);
            assert_eq!(ask(&["Bearer good"]).await.unwrap(), "ada", "{way:?}");
            let refused = ask(&["Bearer bare"]).await.unwrap_err();
            assert_eq!(refused.code(), Code::PermissionDenied, "{way:?}");
            let refused = ask(&[]).await.unwrap_err();
            assert_eq!(refused.code(), Code::Unauthenticated, "{way:?}");
        }
        let codes: Vec<_> = trail.events().iter().map(|event| event.grpc_status).collect();
        assert_eq!(codes, [None, Some(7), Some(16)].repeat(2), "{way:?}");
    }
}

const ASK: &str = "/test.WhoAmI/Ask";

async fn serve_by_tonic((verified, taken): (When, When), trail: &Trail) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let store = Answering(MemoryStore::new(), taken);
    let layers = ServiceBuilder::new()
        .layer(AuditLayer::new(trail.clone()))
        .layer(AuthenticateLayer::new(Answering(verifier(), verified)))
        .layer(RateLimitLayer::new(store, Quota::per_hour(100)))
        .layer(RequireScopeLayer::scope("read"))
        .into_inner();
    let server = Server::builder().layer(layers).add_service(WhoAmI);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    address
}

/// An application in which somebody made a mistake, and what the operator reads.
fn miswired() -> Vec<(&'static str, Router, &'static str)> {
    let handler = || Router::new().route("/", get(|| async { "in" }));
    let scope = || RequireScopeLayer::scope("read");
    let by_hand = Principal::builder("https://issuer.example", "root").scopes("read").build();
    let needs_scope = "RequireScopeLayer needs an AuthenticateLayer outside of it";
    let needs_principal = "the limit needs an AuthenticateLayer outside of it; or count by \
                           address, without tiers";
    let needs_address = "the limit cannot see the peer's address: insert PeerAddr into requests, or \
                          say where it is with ClientIp";
    let by_address = RateLimitLayer::by_address(MemoryStore::new(), Quota::per_hour(9));
    vec![
        ("no AuthenticateLayer", handler().layer(scope()), needs_scope),
        ("RequireScope outside", handler().layer(authenticate()).layer(scope()), needs_scope),
        (
            "a principal put in by hand",
            handler().layer(scope()).layer(Extension(by_hand)),
            needs_scope,
        ),
        ("no AuthenticateLayer", handler().layer(limit(9)), needs_principal),
        ("RateLimit outside", handler().layer(authenticate()).layer(limit(9)), needs_principal),
        ("no PeerAddr", handler().layer(by_address.clone()), needs_address),
        ("no PeerAddr", handler().layer(authenticate()).layer(by_address), needs_address),
    ]
}

#[tokio::test]
async fn a_layer_without_the_one_it_needs_refuses_and_says_which() {
    for (mistake, router, message) in miswired() {
        for request in [with_token("good"), anonymous()] {
            let trail = Trail::default();
            let app = router.clone().layer(AuditLayer::new(trail.clone()));
            let answer = send(&app, request).await;
            assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR, "attack 33: {mistake}");
            assert_eq!(answer.error(), "misconfigured", "attack 33: {mistake}");
            assert_eq!(answer.json()["message"], message, "attack 33: {mistake}");
            assert!(!answer.headers.contains_key("www-authenticate"), "{mistake}");
            let kind = answer.extensions.get().map(Rejection::kind);
            assert_eq!(kind, Some(RejectionKind::LayerMissing), "attack 33: {mistake}");
            let event = trail.event();
            assert_eq!(event.outcome, Outcome::Error, "attack 33: {mistake}");
            assert_eq!(event.reason, Some("misconfigured"), "attack 33: {mistake}");
        }
    }
}

/// One bucket for everybody would let one caller use it up for all others.
#[tokio::test]
async fn an_anonymous_caller_without_an_address_is_not_counted_with_all_others() {
    let app = limit(1).layer(Probe::default());
    let app = authenticate().optional().layer(app);
    assert_eq!(send(&app, with_token("good")).await.status, StatusCode::OK);
    let answer = send(&app, anonymous()).await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR, "CLIENTIP-35");
    assert_eq!(answer.error(), "misconfigured", "CLIENTIP-35");

    let server = serve_by_hyper(app).await;
    assert_eq!(http1(server, "GET /", &[]).await.body, "nobody", "the peer is known");
    assert_eq!(http1(server, "GET /", &[]).await.status, StatusCode::TOO_MANY_REQUESTS);
}
