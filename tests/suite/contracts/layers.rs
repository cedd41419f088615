//! Layers.

use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tower::layer::util::Stack;
use tower::limit::ConcurrencyLimit;
use tower::{Layer, Service, ServiceExt};
use tower_gate::sink::NullSink;
use tower_gate::store::memory::MemoryStore;
use tower_gate::{
    AuditLayer, AuthenticateLayer, ConcurrencyLimitLayer, FailureLimitLayer, FixedVerifier,
    PeerAddr, Principal, Quota, RateLimitLayer, RequireScopeLayer,
};

use crate::contracts::{block_on, contract};
use crate::support::{Probe, TestBody, with_token};

contract! {
    [
        an_error_of_the_inner_service_passes_as_it_is
        the_service_that_was_polled_ready_is_the_one_that_is_called
        a_service_that_is_not_ready_holds_the_layer_back
        a_body_passes_with_its_length_and_its_trailers
    ]
    audit => AuditLayer::new(NullSink);
    authenticate => authenticate();
    concurrency_limit => ConcurrencyLimitLayer::by_address(100);
    failure_limit => FailureLimitLayer::new(Quota::per_hour(9), Duration::from_secs(9));
    rate_limit => RateLimitLayer::by_address(MemoryStore::new(), Quota::per_hour(100));
    require_scope => Stack::new(RequireScopeLayer::scope("read"), authenticate());
}

fn authenticate() -> AuthenticateLayer {
    let ada = Principal::builder("https://issuer.example", "ada").scopes("read").build();
    AuthenticateLayer::new(FixedVerifier::new().with("good", ada).unwrap())
}

/// What every layer lets through.
fn request() -> Request<TestBody> {
    let mut request = with_token("good");
    request.extensions_mut().insert(PeerAddr(SocketAddr::from(([192, 0, 2, 1], 4711))));
    request
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
    type Future = Ready<Result<Response<TestBody>, Broken>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        Poll::Ready(if self.0 == Broken::AtReadiness { Err(self.0) } else { Ok(()) })
    }

    fn call(&mut self, _: Request<TestBody>) -> Self::Future {
        ready(Err(self.0))
    }
}

fn an_error_of_the_inner_service_passes_as_it_is<L, S, B>(layer: impl Fn() -> L)
where
    L: Layer<Fails, Service = S>,
    S: Service<Request<TestBody>, Response = Response<B>, Error = Broken>,
{
    for how in [Broken::AtCall, Broken::AtReadiness] {
        let result = block_on(layer().layer(Fails(how)).oneshot(request()));
        assert_eq!(result.err(), Some(how));
    }
}

fn the_service_that_was_polled_ready_is_the_one_that_is_called<L, S, B>(layer: impl Fn() -> L)
where
    L: Layer<Probe, Service = S>,
    S: Service<Request<TestBody>, Response = Response<B>> + Clone,
    S::Error: std::fmt::Debug,
{
    let mut service = layer().layer(Probe::default());
    block_on(async {
        for _ in 0..3 {
            let answer = service.ready().await.unwrap().call(request()).await.unwrap();
            assert_eq!(answer.status(), 200);
            assert_eq!(service.clone().oneshot(request()).await.unwrap().status(), 200);
        }
    });
}

fn a_service_that_is_not_ready_holds_the_layer_back<L, S>(layer: impl Fn() -> L)
where
    L: Layer<ConcurrencyLimit<Probe>, Service = S>,
    S: Service<Request<TestBody>>,
{
    fn is_ready(service: &mut impl Service<Request<TestBody>>) -> bool {
        service.poll_ready(&mut Context::from_waker(Waker::noop())).is_ready()
    }
    let limited = ConcurrencyLimit::new(Probe::default(), 1);
    let mut holder = limited.clone();
    let mut service = layer().layer(limited);
    assert!(is_ready(&mut holder));
    assert!(!is_ready(&mut service));
    drop(holder);
    assert!(is_ready(&mut service));
}

/// Four bytes and a trailer, which says how long it is.
#[derive(Debug)]
struct Trailed(u8);

impl Body for Trailed {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.0 = self.0.saturating_sub(1);
        let frame = match self.0 {
            2 => Frame::data(Bytes::from_static(b"data")),
            1 => Frame::trailers(HeaderMap::from_iter([(
                HeaderName::from_static("checksum"),
                HeaderValue::from_static("7"),
            )])),
            _ => return Poll::Ready(None),
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.0 <= 1
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(if self.0 == 3 { 4 } else { 0 })
    }
}

/// Answers with that body.
#[derive(Clone)]
struct Answers;

impl Service<Request<TestBody>> for Answers {
    type Response = Response<Trailed>;
    type Error = Broken;
    type Future = Ready<Result<Response<Trailed>, Broken>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<TestBody>) -> Self::Future {
        ready(Ok(Response::new(Trailed(3))))
    }
}

fn a_body_passes_with_its_length_and_its_trailers<L, S, B>(layer: impl Fn() -> L)
where
    L: Layer<Answers, Service = S>,
    S: Service<Request<TestBody>, Response = Response<B>, Error = Broken>,
    B: Body<Data = Bytes, Error = Broken>,
{
    block_on(async {
        let answer = layer().layer(Answers).oneshot(request()).await.unwrap();
        let body = answer.into_body();
        assert_eq!(body.size_hint().exact(), Some(4));
        assert!(!body.is_end_stream());
        let body = body.collect().await.unwrap();
        assert_eq!(body.trailers().unwrap()["checksum"], "7");
        assert_eq!(body.to_bytes(), "data");
    });
}
