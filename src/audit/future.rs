use std::fmt;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use http::header::USER_AGENT;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use pin_project_lite::pin_project;

use crate::audit::layer::Config;
use crate::event::{AuditEvent, AuditSlot, Outcome, bounded_path, bounded_text};
use crate::rejection::{Rejection, RejectionKind};
use crate::trace::RequestSpan;

pin_project! {
    /// Response future for [`Audit`](crate::audit::Audit).
    pub struct AuditFuture<F> {
        #[pin]
        future: F,
        span: RequestSpan,
        pending: Pending,
    }
}

impl<F> AuditFuture<F> {
    pub(super) fn new(future: F, span: RequestSpan, mut pending: Pending) -> Self {
        pending.inside = false;
        Self { future, span, pending }
    }
}

impl<F, B, E> Future for AuditFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<B>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        this.pending.inside = true;
        let polled = this.span.in_scope(|| this.future.poll(cx));
        this.pending.inside = false;
        let result = ready!(polled);
        this.pending.finish(result.as_ref().ok());
        Poll::Ready(result)
    }
}

impl<F> fmt::Debug for AuditFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditFuture").finish_non_exhaustive()
    }
}

/// A request whose event is still due. Dropped before it is finished, it says so.
pub(super) struct Pending {
    config: Arc<Config>,
    slot: AuditSlot,
    time: SystemTime,
    started: Duration,
    method: Method,
    uri: Uri,
    user_agent: Option<HeaderValue>,
    address: Option<IpAddr>,
    /// Whether the inner service is running. It still is when the request is dropped only if it
    /// panicked, also where a layer outside caught that.
    inside: bool,
    finished: bool,
}

/// What the head of a response adds to an event.
struct Answer<'a> {
    outcome: Outcome,
    rejection: Option<&'a Rejection>,
    head: Option<(http::StatusCode, &'a HeaderMap)>,
}

impl Pending {
    /// An event for this request, which the inner service is about to be called with.
    pub(super) fn new<B>(config: Arc<Config>, slot: AuditSlot, request: &Request<B>) -> Self {
        Self {
            slot,
            time: config.clock.now(),
            started: config.clock.monotonic(),
            method: request.method().clone(),
            uri: request.uri().clone(),
            user_agent: request.headers().get(USER_AGENT).cloned(),
            address: config
                .client_ip
                .find(request.headers(), request.extensions())
                .map(|found| found.client),
            inside: true,
            finished: false,
            config,
        }
    }

    /// The inner service has answered, or failed where there is no response.
    fn finish<B>(&mut self, response: Option<&Response<B>>) {
        let Some(response) = response else {
            return self.emit(&Answer { outcome: Outcome::Error, rejection: None, head: None });
        };
        let rejection = response.extensions().get::<Rejection>();
        let outcome = match rejection.map(Rejection::kind) {
            None => Outcome::Allowed,
            Some(RejectionKind::Unavailable | RejectionKind::LayerMissing) => Outcome::Error,
            Some(_) => Outcome::Refused,
        };
        let head = Some((response.status(), response.headers()));
        self.emit(&Answer { outcome, rejection, head });
    }

    fn emit(&mut self, answer: &Answer<'_>) {
        static SEQUENCE: AtomicU64 = AtomicU64::new(1);
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        let findings = std::mem::take(&mut *self.slot.findings());
        let grpc_status = answer.head.and_then(|(_, headers)| headers.get("grpc-status"));
        self.config.sink.accept(AuditEvent {
            time: self.time,
            sequence: SEQUENCE.fetch_add(1, Ordering::Relaxed),
            outcome: answer.outcome,
            reason: answer.rejection.map(Rejection::reason),
            principal: findings.principal,
            address: self.address,
            method: self.method.clone(),
            path: bounded_path(&self.uri),
            user_agent: self.user_agent.as_ref().map(|value| bounded_text(value.as_bytes())),
            status: answer.head.map(|(status, _)| status),
            grpc_status: grpc_status.and_then(|code| code.to_str().ok()?.parse().ok()),
            required_scopes: answer.rejection.map_or(&[][..], Rejection::scopes).to_vec(),
            policy: findings.policy,
            remaining: findings.remaining,
            latency: self.config.clock.monotonic().saturating_sub(self.started),
        });
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let outcome = if self.inside { Outcome::Panicked } else { Outcome::Aborted };
        self.emit(&Answer { outcome, rejection: None, head: None });
    }
}
