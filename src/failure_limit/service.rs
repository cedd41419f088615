use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use crate::attempt::{Attempt, Watching};
use crate::event::AuditSlot;
use crate::failure_limit::FailureLimitFuture;
use crate::failure_limit::failures::Start;
use crate::failure_limit::layer::Config;
use crate::partition::PartitionKey;
use crate::rejection::{Rejection, ResponseBody};
use crate::trace;

/// Middleware that bans addresses that send bad tokens; see the [module](crate::failure_limit).
#[derive(Clone)]
pub struct FailureLimit<S> {
    inner: S,
    config: Arc<Config>,
}

impl<S> FailureLimit<S> {
    pub(super) fn new(inner: S, config: Arc<Config>) -> Self {
        Self { inner, config }
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for FailureLimit<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone,
    ResBody: Body,
    ResBody::Data: From<Bytes>,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = FailureLimitFuture<S, ReqBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        let config = &self.config;
        let key = match config.key(&request) {
            Ok(Some(key)) => key,
            Ok(None) => return FailureLimitFuture::service(self.inner.call(request), None),
            Err(_) if config.is_shadow => {
                trace::not_placed(&config.name);
                return FailureLimitFuture::service(self.inner.call(request), None);
            }
            Err(rejection) => {
                return FailureLimitFuture::refused(config.refuse(rejection, &request));
            }
        };
        let now = config.now();
        // Where there is nothing to guess, there is nothing to hold up.
        let start = if config.is_attempt(&request) {
            config.failures.start(key, &config.rule, now, None)
        } else if let Some(wait) = config.failures.ban(key, now) {
            Start::Banned { wait }
        } else {
            let watched = Watched::new(Flight::landed(config.clone(), key, now), &request);
            return FailureLimitFuture::service(self.inner.call(request), Some(watched));
        };
        match start {
            Start::Banned { .. } if config.is_shadow => {
                config.would_ban(&request);
                FailureLimitFuture::service(self.inner.call(request), None)
            }
            Start::Banned { wait } => FailureLimitFuture::refused(config.banned(wait, &request)),
            Start::Busy | Start::Crowded => {
                // The service that is ready waits for its turn; the clone is not.
                let next = self.inner.clone();
                let ready = std::mem::replace(&mut self.inner, next);
                FailureLimitFuture::waiting(config.clone(), key, ready, request)
            }
            Start::Started => {
                let watched = Watched::started(config.clone(), key, now, &mut request);
                FailureLimitFuture::service(self.inner.call(request), Some(watched))
            }
        }
    }
}

/// An attempt under way, until it can no longer fail by what it sends.
struct Flight {
    config: Arc<Config>,
    key: PartitionKey,
    started: u64,
    is_in_air: AtomicBool,
    /// The same attempt, as a layer further out counts it.
    outer: Option<Attempt>,
}

impl Flight {
    fn landed(config: Arc<Config>, key: PartitionKey, started: u64) -> Self {
        Self { config, key, started, is_in_air: AtomicBool::new(false), outer: None }
    }

    fn land(&self) {
        if self.is_in_air.swap(false, Ordering::AcqRel) {
            self.config.failures.end(self.key, &self.config.rule, self.started);
        }
    }
}

impl Watching for Flight {
    fn let_in(&self) {
        self.land();
        if let Some(outer) = &self.outer {
            outer.let_in();
        }
    }
}

/// A request whose answer is looked at. Dropped before, it is a failure of nobody's.
pub(super) struct Watched {
    flight: Arc<Flight>,
    slot: Option<AuditSlot>,
}

impl Watched {
    fn new<B>(flight: Flight, request: &Request<B>) -> Self {
        Self { flight: Arc::new(flight), slot: AuditSlot::of(request.extensions()).cloned() }
    }

    /// Watches an attempt that has just been started.
    pub(super) fn started<B>(
        config: Arc<Config>,
        key: PartitionKey,
        started: u64,
        request: &mut Request<B>,
    ) -> Self {
        let outer = Attempt::of(request.extensions()).cloned();
        let flight = Flight { config, key, started, is_in_air: AtomicBool::new(true), outer };
        let watched = Self::new(flight, request);
        request.extensions_mut().insert(Attempt::new(watched.flight.clone()));
        watched
    }

    /// Counts the answer if it is a failure, and only then ends the attempt.
    pub(super) fn finish<B>(self, response: &Response<B>) {
        let Flight { config, key, .. } = &*self.flight;
        let Some(rejection) = response.extensions().get::<Rejection>() else { return };
        if !config.is_failure(rejection) {
            return;
        }
        let failed = config.failures.fail(*key, &config.rule, config.now());
        if config.is_shadow {
            return;
        }
        if let Some(length) = failed.banned_for {
            trace::banned(&config.name, length);
        }
        if let Some(slot) = &self.slot {
            slot.limited(config.name.clone(), failed.remaining);
        }
    }
}

/// Who is still in the extensions of the request must not keep the attempt under way.
impl Drop for Watched {
    fn drop(&mut self) {
        self.flight.land();
    }
}

impl Config {
    pub(super) fn crowded<B>(&self, request: &Request<B>) -> Box<Response<Bytes>> {
        self.refuse(Rejection::too_many_at_once(self.name.clone()), request)
    }

    /// Writes down that a ban would have refused the request.
    fn would_ban<B>(&self, request: &Request<B>) {
        trace::would_limit(&self.name);
        if let Some(slot) = AuditSlot::of(request.extensions()) {
            slot.would_limit(self.name.clone());
        }
    }

    pub(super) fn banned<B>(&self, wait: Duration, request: &Request<B>) -> Box<Response<Bytes>> {
        if let Some(slot) = AuditSlot::of(request.extensions()) {
            slot.limited(self.name.clone(), 0);
        }
        self.refuse(Rejection::banned(self.name.clone(), wait), request)
    }
}

impl<S> fmt::Debug for FailureLimit<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FailureLimit").finish_non_exhaustive()
    }
}
