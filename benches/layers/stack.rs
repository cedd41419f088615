//! The layers, alone and stacked, above a service that does nothing.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::LazyLock;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, header};
use http_body_util::Empty;
use tokio::runtime::{Builder, Runtime};
use tower::{Layer, Service, ServiceBuilder};
use tower_gate::sink::{JsonLinesSink, NullSink};
use tower_gate::store::memory::{MemoryRevocations, MemoryStore, MemoryTokenStore};
use tower_gate::test_util::TestIssuer;
use tower_gate::verifier::opaque::{NewToken, OpaqueTokens, OpaqueVerifier, Pepper, Peppers};
use tower_gate::verifier::revocable::{RevocableVerifier, Revocations};
use tower_gate::verifier::{CachedVerifier, VerifyRequest};
use tower_gate::{
    AuditLayer, AuthenticateLayer, BearerToken, FixedVerifier, PeerAddr, Principal, Quota,
    RateLimitLayer, RequireScopeLayer, Revocation, TokenVerifier,
};

use crate::harness::Subject;

type Body = Empty<Bytes>;

/// A quota that nothing here uses up.
pub(crate) const QUOTA: Quota = Quota::per_second(1_000_000_000);

/// The same, of which no caller gets a unit back while the bench runs, so that none is forgotten.
const OWED: Quota = Quota::per_minute(1).with_burst(50_000_000);

static ISSUER: LazyLock<TestIssuer> =
    LazyLock::new(|| TestIssuer::new("https://issuer.example", "https://api.example"));

/// The token of every request.
pub(crate) static TOKEN: LazyLock<String> = LazyLock::new(|| {
    let token = ISSUER.token("user-1").client("web").scopes("read:reports write:reports");
    token.roles(["editor"]).sign()
});

/// Each layer alone, or where it needs another with that one, then all four.
pub(crate) fn subjects() -> Vec<Subject> {
    let json = || JsonLinesSink::new(std::io::sink());
    let with = ServiceBuilder::new;
    let four = |audit| with().layer(audit).layer(authenticate()).layer(limit()).layer(require());
    let user = Principal::builder("https://issuer.example", "user-1").build();
    let fixed = AuthenticateLayer::new(FixedVerifier::new().with(&TOKEN, user).unwrap());
    let opaque = |name, revocations: Option<&Revocations>| {
        let (token, verifier) = opaque(revocations);
        sending(name, request(&token), 1, AuthenticateLayer::new(verifier).layer(Nothing))
    };
    vec![
        subject("empty service", Nothing),
        subject("Audit, NullSink", AuditLayer::new(NullSink).layer(Nothing)),
        subject("Audit, JsonLinesSink", AuditLayer::new(json()).layer(Nothing)),
        subject("Authenticate, FixedVerifier", fixed.layer(Nothing)),
        subject("Authenticate, token seen before", authenticate().layer(Nothing)),
        subject("the same, nothing revoked", revocable(0).layer(Nothing)),
        subject("the same, 100 k of every kind revoked", revocable(100_000).layer(Nothing)),
        opaque("Authenticate, opaque token seen before", None),
        opaque("the same, nothing revoked", Some(&revocations(0))),
        opaque("the same, 100 k of every kind revoked", Some(&revocations(100_000))),
        subject(
            "Authenticate, RequireScope",
            with().layer(authenticate()).layer(require()).service(Nothing),
        ),
        subject(
            "Authenticate, RateLimit",
            with().layer(authenticate()).layer(limit()).service(Nothing),
        ),
        subject("four layers, NullSink", four(AuditLayer::new(NullSink)).service(Nothing)),
        subject("four layers, JsonLinesSink", four(AuditLayer::new(json())).service(Nothing)),
    ]
}

/// The rate limit alone, with so many addresses.
pub(crate) fn limit_subjects() -> Vec<Subject> {
    let mut subjects = vec![subject("empty service", Nothing)];
    for (name, addresses) in [("1", 1), ("1 k", 1_000), ("1 M", 1_000_000)] {
        let store = MemoryStore::with_max_keys(2_000_000);
        let mut service = RateLimitLayer::by_address(store, OWED).layer(Nothing);
        for address in 0..addresses {
            send(&mut service, from_address(request(&TOKEN), address));
        }
        let name = format!("RateLimit by address, {name}");
        subjects.push(from_addresses(name, addresses, service));
    }
    subjects
}

/// It has its token verified once a minute.
pub(crate) fn authenticate() -> AuthenticateLayer {
    AuthenticateLayer::new(CachedVerifier::new(ISSUER.verifier()))
}

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap());

/// The same with so many revocations.
fn revocable(count: usize) -> AuthenticateLayer {
    let verifier = CachedVerifier::new(ISSUER.verifier());
    AuthenticateLayer::new(RevocableVerifier::new(verifier, &revocations(count)))
}

/// An opaque token that is remembered, and its verifier.
fn opaque(revocations: Option<&Revocations>) -> (String, OpaqueVerifier) {
    let peppers = Peppers::new(Pepper::new("1", &[7; 32]).unwrap());
    let builder = OpaqueTokens::builder("https://issuer.example", MemoryTokenStore::new(), peppers)
        .with_max_age(Duration::from_secs(300));
    let builder = match revocations {
        Some(revocations) => builder.with_revocations(revocations),
        None => builder,
    };
    let tokens = builder.build().unwrap();
    RUNTIME.block_on(async {
        let new = NewToken::new("user-1").client("web").scopes("read:reports write:reports");
        let issued = tokens.issue(new.roles(["editor"])).await.unwrap();
        let text = issued.token.expose().to_owned();
        let token = BearerToken::parse(&text).unwrap();
        let question = VerifyRequest::new(token, SystemTime::now());
        tokens.verifier().verify(&question).await.unwrap();
        (text, tokens.verifier())
    })
}

/// So many of other clients, keys, subjects and tokens.
fn revocations(count: usize) -> Revocations {
    let hour = Duration::from_secs(3600);
    RUNTIME.block_on(async {
        let builder = Revocations::builder(MemoryRevocations::new());
        let builder = builder.with_poll_interval(hour).with_max_age(hour * 2);
        let revocations = builder.start().unwrap();
        revocations.ready().await.unwrap();
        for n in 0..count {
            let name = format!("a name that is as long as they are, {n}");
            for of in [Revocation::client, Revocation::key, Revocation::subject, Revocation::token]
            {
                revocations.revoke(of("https://issuer.example", &name)).await.unwrap();
            }
        }
        revocations
    })
}

pub(crate) fn limit() -> RateLimitLayer {
    RateLimitLayer::new(MemoryStore::new(), QUOTA)
}

pub(crate) fn require() -> RequireScopeLayer {
    RequireScopeLayer::scope("write:reports")
}

fn subject<S, B>(name: &str, service: S) -> Subject
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible> + 'static,
    B: 'static,
{
    from_addresses(name, 1, service)
}

fn from_addresses<S, B>(name: impl Into<String>, addresses: u32, service: S) -> Subject
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible> + 'static,
    B: 'static,
{
    sending(name, request(&TOKEN), addresses, service)
}

fn sending<S, B>(
    name: impl Into<String>,
    request: Request<Body>,
    addresses: u32,
    mut service: S,
) -> Subject
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible> + 'static,
    B: 'static,
{
    let mut address = 0;
    Subject::new(name, move || {
        address = (address + 1) % addresses;
        send(&mut service, from_address(request.clone(), address))
    })
}

/// Every request says where it comes from, as those from a server do.
fn from_address(mut request: Request<Body>, address: u32) -> Request<Body> {
    let peer = SocketAddr::from((Ipv4Addr::from_bits(address), 443));
    request.extensions_mut().insert(PeerAddr(peer));
    request
}

/// A request whose values share their bytes, as those from a server do.
fn request(token: &str) -> Request<Body> {
    let mut request = Request::new(Body::new());
    *request.uri_mut() = "/reports/2024?page=2".parse().unwrap();
    for (name, value) in [
        (header::HOST, "api.example"),
        (header::USER_AGENT, "curl/8.5.0"),
        (header::ACCEPT, "application/json"),
        (header::ACCEPT_ENCODING, "gzip, br"),
        (HeaderName::from_static("x-request-id"), "0b8ad7c4-5a43-4b6e-8e3a-0f1f3a1f4a57"),
        (header::AUTHORIZATION, &format!("Bearer {token}")),
    ] {
        let shared = Bytes::copy_from_slice(value.as_bytes());
        request.headers_mut().insert(name, HeaderValue::from_maybe_shared(shared).unwrap());
    }
    request
}

/// Sends a request that must come through, and at once.
fn send<S, B>(service: &mut S, request: Request<Body>) -> Response<B>
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible>,
{
    let mut cx = Context::from_waker(Waker::noop());
    assert!(service.poll_ready(&mut cx).is_ready());
    match pin!(service.call(request)).poll(&mut cx) {
        Poll::Ready(Ok(response)) if response.status().is_success() => response,
        _ => panic!("the request did not come through"),
    }
}

/// A service that does nothing but to name the type of its answer, as all that answer do.
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
        let mut response = Response::new(Body::new());
        let content_type = HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
        ready(Ok(response))
    }
}
