use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::header::USER_AGENT;
use http::{Request, Response};
use pin_project_lite::pin_project;

use crate::audit::layer::Config;
use crate::event::{AuditEvent, AuditSlot, Outcome, bounded_path, bounded_text};
use crate::rejection::{Rejection, RejectionKind, grpc_status};
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
    pub(super) fn new(future: F, span: RequestSpan, pending: Pending) -> Self {
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
        let result = ready!(this.span.in_scope(|| this.future.poll(cx)));
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
    /// What the request says; `None` once the sink has it.
    event: Option<AuditEvent>,
}

impl Pending {
    pub(super) fn new<B>(config: Arc<Config>, slot: AuditSlot, request: &Request<B>) -> Self {
        let user_agent = request.headers().get(USER_AGENT);
        let event = AuditEvent {
            time: config.clock.now(),
            sequence: 0,
            outcome: Outcome::Aborted,
            reason: None,
            principal: None,
            address: config.client_ip.find(request.extensions()),
            method: request.method().clone(),
            path: bounded_path(request.uri()),
            user_agent: user_agent.map(|value| bounded_text(value.as_bytes())),
            status: None,
            grpc_status: None,
            required_scopes: Vec::new(),
            policy: None,
            remaining: None,
            latency: Duration::ZERO,
        };
        Self { slot, started: config.clock.monotonic(), event: Some(event), config }
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
            let rejection = response.extensions().get::<Rejection>();
            event.outcome = rejection.map_or(Outcome::Allowed, outcome_of);
            event.reason = rejection.map(Rejection::reason);
            event.required_scopes = rejection.map_or(&[][..], Rejection::scopes).to_vec();
        }
        self.emit(event);
    }

    fn emit(&self, event: AuditEvent) {
        static SEQUENCE: AtomicU64 = AtomicU64::new(1);
        let findings = std::mem::take(&mut *self.slot.findings());
        self.config.sink.accept(AuditEvent {
            sequence: SEQUENCE.fetch_add(1, Ordering::Relaxed),
            principal: findings.principal,
            policy: findings.policy,
            remaining: findings.remaining,
            latency: self.config.clock.monotonic().saturating_sub(self.started),
            ..event
        });
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(event) = self.event.take() {
            let panicking = std::thread::panicking();
            let outcome = if panicking { Outcome::Panicked } else { Outcome::Aborted };
            self.emit(AuditEvent { outcome, ..event });
        }
    }
}

fn outcome_of(rejection: &Rejection) -> Outcome {
    match rejection.kind() {
        RejectionKind::Unavailable | RejectionKind::LayerMissing => Outcome::Error,
        _ => Outcome::Refused,
    }
}
