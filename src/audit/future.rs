use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::header::USER_AGENT;
use http::{Request, Response};
use pin_project_lite::pin_project;

use crate::audit::correlation::{request_id, trace_id};
use crate::audit::layer::Config;
use crate::event::{
    AuditEvent, AuditSlot, Outcome, bounded_method, bounded_path, bounded_route, bounded_text,
};
use crate::rejection::{Rejection, RejectionKind, grpc_status};
use crate::trace::{self, RequestSpan};

pin_project! {
    /// Response future for [`Audit`](crate::audit::Audit).
    pub struct AuditFuture<F> {
        #[pin]
        future: F,
        pending: Pending,
    }
}

impl<F> AuditFuture<F> {
    pub(super) fn new(future: F, mut pending: Pending) -> Self {
        pending.inside = false;
        Self { future, pending }
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
        let polled = this.pending.span().in_scope(|| this.future.poll(cx));
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
    started: Duration,
    /// Whether the inner service is running. It still is when the request is dropped only if it
    /// panicked, also where a layer outside caught that.
    inside: bool,
    /// What the request says; `None` once the sink has it. Boxed, because every request moves its
    /// future several times.
    event: Option<Box<AuditEvent>>,
}

impl Pending {
    /// An event for this request, which the inner service is about to be called with.
    pub(super) fn new<B>(config: Arc<Config>, slot: AuditSlot, request: &Request<B>) -> Self {
        let (headers, extensions) = (request.headers(), request.extensions());
        let found = config.client_ip.find(headers, extensions);
        let user_agent = headers.get(USER_AGENT);
        let route = config.route.as_ref().and_then(|find| find(extensions));
        let event = AuditEvent {
            version: AuditEvent::VERSION,
            time: config.clock.now(),
            sequence: 0,
            outcome: Outcome::Aborted,
            reason: None,
            anonymous: false,
            principal: None,
            address: found.map(|found| found.client),
            peer: found.filter(|found| found.client != found.peer).map(|found| found.peer),
            method: bounded_method(request.method()),
            // Copies, because what borrows from a request keeps the whole of its head in memory,
            // for as long as a queue of events is.
            path: bounded_path(request.uri()).into_owned(),
            user_agent: user_agent.map(|value| bounded_text(value.as_bytes())),
            route: route.map(bounded_route),
            trace_id: trace_id(headers),
            request_id: request_id(headers),
            status: None,
            grpc_status: None,
            required_scopes: Vec::new(),
            policy: None,
            remaining: None,
            fallback: false,
            would_limit: Vec::new(),
            latency: Duration::ZERO,
        };
        let started = config.clock.monotonic();
        Self { config, slot, started, inside: true, event: Some(Box::new(event)) }
    }

    pub(super) fn span(&self) -> &RequestSpan {
        self.slot.span()
    }

    /// The inner service has answered, or failed where there is no response.
    fn finish<B>(&mut self, response: Option<&Response<B>>) {
        let Some(mut event) = self.event.take() else {
            return;
        };
        event.outcome = Outcome::Error;
        if let Some(response) = response {
            event.status = Some(response.status());
            event.grpc_status = grpc_status(response.headers());
            event.outcome = Outcome::Allowed;
            if let Some(rejection) = response.extensions().get::<Rejection>() {
                event.outcome = outcome_of(rejection);
                event.reason = Some(rejection.reason());
                event.required_scopes = rejection.scopes().to_vec();
            }
        }
        self.emit(event);
    }

    fn emit(&self, mut event: Box<AuditEvent>) {
        static SEQUENCE: AtomicU64 = AtomicU64::new(1);
        // A clone, because an AuditLayer further out may read them too.
        let findings = self.slot.findings().clone();
        event.sequence = SEQUENCE.fetch_add(1, Ordering::Relaxed);
        event.anonymous = findings.anonymous;
        event.principal = findings.principal;
        event.policy = findings.policy;
        event.remaining = findings.remaining;
        event.fallback = findings.fallback;
        event.would_limit = findings.would_limit;
        event.latency = self.config.clock.monotonic().saturating_sub(self.started);
        // Inside, so that a sink that logs does so in the context of the request. A panic of the
        // sink must not take the answer along, nor the process where a handler's panic unwinds.
        let accept = || self.span().in_scope(|| self.config.sink.accept(*event));
        if catch_unwind(AssertUnwindSafe(accept)).is_err() {
            trace::audit_lost("the sink panicked");
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(mut event) = self.event.take() {
            event.outcome = if self.inside { Outcome::Panicked } else { Outcome::Aborted };
            self.emit(event);
        }
    }
}

fn outcome_of(rejection: &Rejection) -> Outcome {
    match rejection.kind() {
        // A limit has decided.
        RejectionKind::Unavailable if rejection.policies().next().is_some() => Outcome::Refused,
        RejectionKind::Unavailable | RejectionKind::LayerMissing => Outcome::Error,
        _ => Outcome::Refused,
    }
}
