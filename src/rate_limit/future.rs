use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::rate_limit::headers::Fields;
use crate::rate_limit::layer::{Config, Limit};
use crate::rejection::{AnswerFuture, ResponseBody};
use crate::store::Taking;

pin_project! {
    /// Response future for [`RateLimit`](crate::rate_limit::RateLimit).
    pub struct RateLimitFuture<S, ReqBody>
    where
        S: Service<Request<ReqBody>>,
    {
        #[pin]
        state: State<S, ReqBody, S::Future>,
        fields: Option<Fields>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, ReqBody, F> {
        Taking { answer: Taking, waiting: Option<Box<Waiting<S, ReqBody>>> },
        Answer { #[pin] answer: AnswerFuture<F> },
    }
}

/// A request that waits for the store, and the service that is ready for it.
struct Waiting<S, ReqBody> {
    service: S,
    request: Request<ReqBody>,
    limit: Arc<Limit>,
    config: Arc<Config>,
}

impl<S, ReqBody> RateLimitFuture<S, ReqBody>
where
    S: Service<Request<ReqBody>>,
{
    pub(super) fn service(future: S::Future, fields: Option<Fields>) -> Self {
        Self { state: State::Answer { answer: AnswerFuture::service(future) }, fields }
    }

    pub(super) fn refused(response: Box<Response<Bytes>>) -> Self {
        Self { state: State::Answer { answer: AnswerFuture::refused(response) }, fields: None }
    }

    pub(super) fn taking(
        answer: Taking,
        service: S,
        request: Request<ReqBody>,
        limit: Arc<Limit>,
        config: Arc<Config>,
    ) -> Self {
        let waiting = Some(Box::new(Waiting { service, request, limit, config }));
        Self { state: State::Taking { answer, waiting }, fields: None }
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
                    // Onto refusals of layers further in as well (RL-4).
                    if let (Ok(response), Some(fields)) = (&mut result, this.fields.take()) {
                        fields.append_to(response.headers_mut());
                    }
                    return Poll::Ready(result);
                }
                StateProj::Taking { answer, waiting } => {
                    let answer = ready!(answer.as_mut().poll(cx));
                    let Waiting { mut service, request, limit, config } =
                        *waiting.take().expect("polled after completion");
                    let answer = match config.settle(&limit, answer, &request) {
                        Ok(fields) => {
                            *this.fields = Some(fields);
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
