use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::rate_limit::config::{Config, Limits, Passed};
use crate::rate_limit::question::Asking;
use crate::rejection::{AnswerFuture, ResponseBody};

pin_project! {
    /// Response future for [`RateLimit`](crate::rate_limit::RateLimit).
    pub struct RateLimitFuture<S, ReqBody>
    where
        S: Service<Request<ReqBody>>,
    {
        #[pin]
        state: State<S, ReqBody, S::Future>,
        passed: Passed,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, ReqBody, F> {
        Asking { answer: Asking, waiting: Option<Box<Waiting<S, ReqBody>>> },
        Answer { #[pin] answer: AnswerFuture<F> },
    }
}

/// A request that waits for the store, and the service that is ready for it.
pub(super) struct Waiting<S, ReqBody> {
    pub(super) service: S,
    pub(super) request: Request<ReqBody>,
    pub(super) limits: Arc<Limits>,
    pub(super) config: Arc<Config>,
}

impl<S, ReqBody> RateLimitFuture<S, ReqBody>
where
    S: Service<Request<ReqBody>>,
{
    pub(super) fn service(future: S::Future, passed: Passed) -> Self {
        Self { state: State::Answer { answer: AnswerFuture::service(future) }, passed }
    }

    pub(super) fn refused(response: Box<Response<Bytes>>) -> Self {
        let answer = AnswerFuture::refused(response);
        Self { state: State::Answer { answer }, passed: Passed::default() }
    }

    pub(super) fn asking(answer: Asking, waiting: Waiting<S, ReqBody>) -> Self {
        let waiting = Some(Box::new(waiting));
        Self { state: State::Asking { answer, waiting }, passed: Passed::default() }
    }
}

impl<S, ReqBody, ResBody> Future for RateLimitFuture<S, ReqBody>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
{
    type Output = Result<Response<ResponseBody<ResBody>>, S::Error>;

    #[expect(clippy::expect_used, reason = "a future is not polled after it is done")]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProj::Answer { answer } => {
                    let mut result = ready!(answer.poll(cx));
                    this.passed.finish(&mut result);
                    return Poll::Ready(result);
                }
                StateProj::Asking { answer, waiting } => {
                    let (question, mut answers) = ready!(answer.as_mut().poll(cx));
                    let Waiting { mut service, mut request, limits, config } =
                        *waiting.take().expect("polled after completion");
                    let answer =
                        match config.conclude(&limits, &question, &mut answers, &mut request) {
                            Ok(passed) => {
                                *this.passed = passed;
                                AnswerFuture::service(service.call(request))
                            }
                            Err(response) => AnswerFuture::refused(response),
                        };
                    this.state.set(State::Answer { answer });
                }
            }
        }
    }
}

impl<S, ReqBody> fmt::Debug for RateLimitFuture<S, ReqBody>
where
    S: Service<Request<ReqBody>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimitFuture").finish_non_exhaustive()
    }
}
