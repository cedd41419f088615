use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use crate::event::AuditSlot;
use crate::quota::{Decision, Decisions};
use crate::rate_limit::RateLimitFuture;
use crate::rate_limit::headers::Fields;
use crate::rate_limit::layer::{Config, Limit};
use crate::rejection::{Rejection, ResponseBody};
use crate::store::{StoreError, TakeRequest};
use crate::trace;

/// Middleware that limits how often each caller comes; see the [module](crate::rate_limit).
#[derive(Clone)]
pub struct RateLimit<S> {
    inner: S,
    config: Arc<Config>,
}

impl<S> RateLimit<S> {
    pub(super) fn new(inner: S, config: Arc<Config>) -> Self {
        Self { inner, config }
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for RateLimit<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone,
    ResBody: Body,
    ResBody::Data: From<Bytes>,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = RateLimitFuture<S, ReqBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let config = &self.config;
        let bucket = match config.bucket(&request) {
            Ok(Some(bucket)) => bucket,
            Ok(None) => return RateLimitFuture::service(self.inner.call(request), None),
            Err(rejection) => {
                return RateLimitFuture::refused(config.refuse(rejection, &request));
            }
        };
        let now = config.clock.monotonic();
        let question = TakeRequest::new(bucket.key, bucket.limit.quota, 1, now);
        if let Some(answer) = config.store.try_take(&question) {
            return match config.settle(bucket.limit, answer, &request) {
                Ok(fields) => RateLimitFuture::service(self.inner.call(request), Some(fields)),
                Err(response) => RateLimitFuture::refused(response),
            };
        }
        let answer = config.store.clone().take(question);
        // The service that is ready waits for the answer; the clone is not.
        let next = self.inner.clone();
        let ready = std::mem::replace(&mut self.inner, next);
        RateLimitFuture::taking(answer, ready, request, bucket.limit.clone(), config.clone())
    }
}

impl Config {
    /// Turns the store's answer into the fields of the response, or into a refusal that has them.
    pub(super) fn settle<B>(
        &self,
        limit: &Limit,
        answer: Result<Decisions, StoreError>,
        request: &Request<B>,
    ) -> Result<Fields, Box<Response<Bytes>>> {
        let one = |decisions: Decisions| {
            if let Some(slot) = AuditSlot::of(request.extensions())
                && decisions.are_fallback()
            {
                slot.fell_back();
            }
            decisions.first().copied().ok_or_else(|| StoreError::new("it decided on nothing"))
        };
        let decision = answer.and_then(one).map_err(|error| {
            trace::unavailable(&error);
            self.refuse(error.into(), request)
        })?;
        let usage = decision.usage();
        if let Some(slot) = AuditSlot::of(request.extensions()) {
            slot.limited(limit.name.clone(), usage.remaining);
        }
        let fields = limit.policy.fields(usage);
        match decision {
            Decision::Allowed(_) => Ok(fields),
            Decision::Limited { retry_after, .. } => {
                let rejection = Rejection::limited(limit.name.clone(), retry_after);
                let mut response = self.refuse(rejection, request);
                fields.append_to(response.headers_mut());
                Err(response)
            }
        }
    }
}

impl<S> fmt::Debug for RateLimit<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimit").finish_non_exhaustive()
    }
}
