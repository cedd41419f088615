use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use pin_project_lite::pin_project;

use crate::rejection::ResponseBody;

pin_project! {
    /// The inner service's answer, or a refusal in its place: where every layer's future ends.
    #[project = AnswerProj]
    pub(crate) enum AnswerFuture<F> {
        Service { #[pin] future: F },
        // Boxed, because every request moves its future several times and few are refused.
        Refused { response: Option<Box<Response<Bytes>>> },
    }
}

impl<F> AnswerFuture<F> {
    pub(crate) fn service(future: F) -> Self {
        Self::Service { future }
    }

    pub(crate) fn refused(response: Box<Response<Bytes>>) -> Self {
        Self::Refused { response: Some(response) }
    }
}

impl<F, B, E> Future for AnswerFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<ResponseBody<B>>, E>;

    #[expect(clippy::expect_used, reason = "a future is not polled after it is done")]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            AnswerProj::Service { future } => {
                future.poll(cx).map_ok(|response| response.map(ResponseBody::service))
            }
            AnswerProj::Refused { response } => {
                let response = response.take().expect("polled after completion");
                Poll::Ready(Ok(response.map(ResponseBody::refusal)))
            }
        }
    }
}
