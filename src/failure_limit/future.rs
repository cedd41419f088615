use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::failure_limit::failures::Start;
use crate::failure_limit::layer::Config;
use crate::failure_limit::service::Watched;
use crate::partition::PartitionKey;
use crate::rejection::{AnswerFuture, ResponseBody};

pin_project! {
    /// Response future for [`FailureLimit`](crate::failure_limit::FailureLimit).
    pub struct FailureLimitFuture<S, ReqBody>
    where
        S: Service<Request<ReqBody>>,
    {
        #[pin]
        state: State<S, ReqBody, S::Future>,
        // Dropped after the state, so that an attempt ends after what it has called.
        watched: Option<Watched>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, ReqBody, F> {
        Waiting { waiting: Option<Box<Waiting<S, ReqBody>>> },
        Answer { #[pin] answer: AnswerFuture<F> },
    }
}

/// A request that waits until others from its address have succeeded, and the service that is ready
/// for it.
struct Waiting<S, ReqBody> {
    service: S,
    request: Request<ReqBody>,
    place: Place,
}

/// A place among those that wait, which is given up when it is dropped.
struct Place {
    config: Arc<Config>,
    key: PartitionKey,
    number: u64,
}

impl Place {
    fn new(config: Arc<Config>, key: PartitionKey) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self { config, key, number: NEXT.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Self { config, key, number } = self;
        config.failures.leave(*key, *number, &config.rule, config.now());
    }
}

impl<S, ReqBody> FailureLimitFuture<S, ReqBody>
where
    S: Service<Request<ReqBody>>,
{
    pub(super) fn service(future: S::Future, watched: Option<Watched>) -> Self {
        Self { state: State::Answer { answer: AnswerFuture::service(future) }, watched }
    }

    pub(super) fn refused(response: Box<Response<Bytes>>) -> Self {
        Self { state: State::Answer { answer: AnswerFuture::refused(response) }, watched: None }
    }

    pub(super) fn waiting(
        config: Arc<Config>,
        key: PartitionKey,
        service: S,
        request: Request<ReqBody>,
    ) -> Self {
        let waiting = Waiting { service, request, place: Place::new(config, key) };
        Self { state: State::Waiting { waiting: Some(Box::new(waiting)) }, watched: None }
    }
}

impl<S, ReqBody, ResBody> Future for FailureLimitFuture<S, ReqBody>
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
                    let result = ready!(answer.poll(cx));
                    if let (Ok(response), Some(watched)) = (&result, this.watched.take()) {
                        watched.finish(response);
                    }
                    return Poll::Ready(result);
                }
                StateProj::Waiting { waiting } => {
                    let place = &waiting.as_ref().expect("polled after completion").place;
                    let (config, key, now) = (place.config.clone(), place.key, place.config.now());
                    let here = Some((place.number, cx.waker()));
                    let start = config.failures.start(key, &config.rule, now, here);
                    if start == Start::Busy {
                        return Poll::Pending;
                    }
                    let Waiting { mut service, mut request, place } =
                        *waiting.take().expect("polled after completion");
                    let answer = match start {
                        Start::Banned { wait } => {
                            AnswerFuture::refused(config.banned(wait, &request))
                        }
                        Start::Crowded => AnswerFuture::refused(config.crowded(&request)),
                        _ => {
                            let watched = Watched::started(config, key, now, &mut request);
                            *this.watched = Some(watched);
                            AnswerFuture::service(service.call(request))
                        }
                    };
                    drop(place);
                    this.state.set(State::Answer { answer });
                }
            }
        }
    }
}

impl<S, ReqBody> fmt::Debug for FailureLimitFuture<S, ReqBody>
where
    S: Service<Request<ReqBody>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FailureLimitFuture").finish_non_exhaustive()
    }
}
