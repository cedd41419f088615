use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::authenticate::layer::Config;
use crate::rejection::{AnswerFuture, ResponseBody};
use crate::verifier::Verifying;

pin_project! {
    /// Response future for [`Authenticate`](crate::authenticate::Authenticate).
    pub struct AuthenticateFuture<S, ReqBody>
    where
        S: Service<Request<ReqBody>>,
    {
        #[pin]
        state: State<S, ReqBody, S::Future>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, ReqBody, F> {
        Verifying { answer: Verifying, waiting: Option<Box<Waiting<S, ReqBody>>> },
        Answer { #[pin] answer: AnswerFuture<F> },
    }
}

/// A request that waits for the verifier, and the service that is ready for it.
struct Waiting<S, ReqBody> {
    service: S,
    request: Request<ReqBody>,
    config: Arc<Config>,
}

impl<S, ReqBody> AuthenticateFuture<S, ReqBody>
where
    S: Service<Request<ReqBody>>,
{
    pub(super) fn service(future: S::Future) -> Self {
        Self { state: State::Answer { answer: AnswerFuture::service(future) } }
    }

    pub(super) fn refused(response: Box<Response<Bytes>>) -> Self {
        Self { state: State::Answer { answer: AnswerFuture::refused(response) } }
    }

    pub(super) fn verifying(
        answer: Verifying,
        service: S,
        request: Request<ReqBody>,
        config: Arc<Config>,
    ) -> Self {
        let waiting = Some(Box::new(Waiting { service, request, config }));
        Self { state: State::Verifying { answer, waiting } }
    }
}

impl<S, ReqBody, ResBody> Future for AuthenticateFuture<S, ReqBody>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
{
    type Output = Result<Response<ResponseBody<ResBody>>, S::Error>;

    #[expect(clippy::expect_used, reason = "a future is not polled after it is done")]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            match state.as_mut().project() {
                StateProj::Answer { answer } => return answer.poll(cx),
                StateProj::Verifying { answer, waiting } => {
                    let answer = ready!(answer.as_mut().poll(cx));
                    let Waiting { mut service, mut request, config } =
                        *waiting.take().expect("polled after completion");
                    let answer = match answer {
                        Ok(principal) => {
                            config.let_in(&mut request, Some(principal));
                            AnswerFuture::service(service.call(request))
                        }
                        Err(error) => AnswerFuture::refused(config.not_verified(error, &request)),
                    };
                    state.set(State::Answer { answer });
                }
            }
        }
    }
}

impl<S, ReqBody> fmt::Debug for AuthenticateFuture<S, ReqBody>
where
    S: Service<Request<ReqBody>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthenticateFuture").finish_non_exhaustive()
    }
}
