use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use crate::rate_limit::RateLimitFuture;
use crate::rate_limit::config::{Config, Passed};
use crate::rate_limit::future::Waiting;
use crate::rate_limit::question::Answers;
use crate::rejection::ResponseBody;

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

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        let config = &self.config;
        let (limits, question) = match config.question(&request) {
            Ok(Some(asked)) => asked,
            Ok(None) => {
                return RateLimitFuture::service(self.inner.call(request), Passed::default());
            }
            Err(rejection) => {
                return RateLimitFuture::refused(config.refuse(rejection, &request));
            }
        };
        let mut answers = Answers::default();
        if question.try_ask(&*config.store, &mut answers) {
            return match config.conclude(limits, &question, &mut answers, &mut request) {
                Ok(passed) => RateLimitFuture::service(self.inner.call(request), passed),
                Err(response) => RateLimitFuture::refused(response),
            };
        }
        let asking = question.ask(answers, config.store.clone(), config.clock.clone());
        let (limits, config) = (limits.clone(), config.clone());
        // The service that is ready waits for the answer; the clone is not.
        let next = self.inner.clone();
        let ready = std::mem::replace(&mut self.inner, next);
        let waiting = Waiting { service: ready, request, limits, config };
        RateLimitFuture::asking(asking, waiting)
    }
}

impl<S> fmt::Debug for RateLimit<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimit").finish_non_exhaustive()
    }
}
