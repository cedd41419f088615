use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use pin_project_lite::pin_project;

use crate::rejection::{AnswerFuture, ResponseBody};

pin_project! {
    /// Response future for [`RequireScope`](crate::require_scope::RequireScope).
    pub struct RequireScopeFuture<F> {
        #[pin]
        answer: AnswerFuture<F>,
    }
}

impl<F> RequireScopeFuture<F> {
    pub(super) fn service(future: F) -> Self {
        Self { answer: AnswerFuture::service(future) }
    }

    pub(super) fn refused(response: Box<Response<Bytes>>) -> Self {
        Self { answer: AnswerFuture::refused(response) }
    }
}

impl<F, B, E> Future for RequireScopeFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<ResponseBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().answer.poll(cx)
    }
}

impl<F> fmt::Debug for RequireScopeFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequireScopeFuture").finish_non_exhaustive()
    }
}
