use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use crate::concurrency_limit::ConcurrencyLimitBody;
use crate::concurrency_limit::permit::Permit;
use crate::limit_fields::Fields;
use crate::rejection::AnswerFuture;

pin_project! {
    /// Response future for [`ConcurrencyLimit`](crate::concurrency_limit::ConcurrencyLimit).
    pub struct ConcurrencyLimitFuture<F> {
        #[pin]
        answer: AnswerFuture<F>,
        // Dropped after the answer.
        permit: Option<Permit>,
        fields: Option<Fields>,
    }
}

impl<F> ConcurrencyLimitFuture<F> {
    pub(super) fn service(future: F, permit: Option<Permit>, fields: Option<Fields>) -> Self {
        Self { answer: AnswerFuture::service(future), permit, fields }
    }

    pub(super) fn refused(response: Box<Response<Bytes>>) -> Self {
        Self { answer: AnswerFuture::refused(response), permit: None, fields: None }
    }
}

impl<F, B, E> Future for ConcurrencyLimitFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
    B::Data: From<Bytes>,
{
    type Output = Result<Response<ConcurrencyLimitBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut result = ready!(this.answer.poll(cx));
        let permit = this.permit.take();
        if let (Ok(response), Some(fields)) = (&mut result, this.fields.take()) {
            fields.add_to(response);
        }
        Poll::Ready(
            result.map(|response| response.map(|body| ConcurrencyLimitBody::new(body, permit))),
        )
    }
}

impl<F> fmt::Debug for ConcurrencyLimitFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConcurrencyLimitFuture").finish_non_exhaustive()
    }
}
