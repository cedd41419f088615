//! What several tests need.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use serde_json::Value;
use tower::{Service, ServiceExt};
use tower_gate::{AuditEvent, AuditSink};

/// The body of requests and of the probe's responses.
pub(crate) type TestBody = Full<Bytes>;

/// An inner service that answers 200 with the caller's subject, and panics when it is called
/// without having been polled ready.
#[derive(Debug, Default)]
pub(crate) struct Probe {
    ready: bool,
}

/// A clone has not been polled ready, whatever the original was.
impl Clone for Probe {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl<B> Service<Request<B>> for Probe {
    type Response = Response<TestBody>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        assert!(std::mem::take(&mut self.ready), "called without having been polled ready");
        let principal = tower_gate::Principal::of(request.extensions());
        let subject = principal.map_or("nobody", |principal| principal.subject()).to_owned();
        ready(Ok(Response::new(Full::from(subject))))
    }
}

/// A response whose body has been read.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) extensions: http::Extensions,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) async fn read<B>(response: Response<B>) -> Self
    where
        B: Body,
        B::Error: std::fmt::Debug,
    {
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Self { status: head.status, headers: head.headers, extensions: head.extensions, body }
    }

    /// A header's text; empty where there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The word in the body of a refusal.
    pub(crate) fn error(&self) -> String {
        self.json()["error"].as_str().unwrap().to_owned()
    }
}

/// Sends one request through a clone of the service.
pub(crate) async fn send<S, B>(service: &S, request: Request<TestBody>) -> Answer
where
    S: Service<Request<TestBody>, Response = Response<B>, Error = Infallible> + Clone,
    B: Body,
    B::Error: std::fmt::Debug,
{
    let Ok(response) = service.clone().oneshot(request).await;
    Answer::read(response).await
}

/// A GET of `/`, with this text after `Bearer`.
pub(crate) fn with_token(token: &str) -> Request<TestBody> {
    Request::builder()
        .header("authorization", format!("Bearer {token}"))
        .body(TestBody::default())
        .unwrap()
}

/// The same request as a gRPC call (GRPC-1).
pub(crate) fn as_grpc_call(mut request: Request<TestBody>) -> Request<TestBody> {
    *request.method_mut() = Method::POST;
    request.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    request
}

/// A GET of `/` without credentials.
pub(crate) fn anonymous() -> Request<TestBody> {
    Request::new(TestBody::default())
}

/// Keeps the events of the audit trail.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trail(Arc<Mutex<Vec<AuditEvent>>>);

impl Trail {
    pub(crate) fn events(&self) -> Vec<AuditEvent> {
        self.0.lock().unwrap().clone()
    }

    /// The only event.
    pub(crate) fn event(&self) -> AuditEvent {
        let mut events = self.events();
        assert_eq!(events.len(), 1, "{events:?}");
        events.remove(0)
    }
}

impl AuditSink for Trail {
    fn accept(&self, event: AuditEvent) {
        self.0.lock().unwrap().push(event);
    }
}
