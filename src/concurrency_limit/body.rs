use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::concurrency_limit::permit::Permit;
use crate::rejection::ResponseBody;

pin_project! {
    /// Response body for [`ConcurrencyLimit`](crate::concurrency_limit::ConcurrencyLimit): its
    /// request runs until it ends.
    pub struct ConcurrencyLimitBody<B> {
        #[pin]
        inner: ResponseBody<B>,
        // Dropped after the body.
        permit: Option<Permit>,
    }
}

impl<B> ConcurrencyLimitBody<B>
where
    B: Body,
    B::Data: From<Bytes>,
{
    pub(super) fn new(inner: ResponseBody<B>, permit: Option<Permit>) -> Self {
        // A server does not ask a body for frames that says that it has none.
        let permit = permit.filter(|_| !inner.is_end_stream());
        Self { inner, permit }
    }
}

impl<B> Body for ConcurrencyLimitBody<B>
where
    B: Body,
    B::Data: From<Bytes>,
{
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let frame = ready!(this.inner.as_mut().poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) || this.inner.is_end_stream() {
            *this.permit = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A body that is empty by default, for frameworks that ask for one.
impl<B: Default> Default for ConcurrencyLimitBody<B> {
    fn default() -> Self {
        Self { inner: ResponseBody::default(), permit: None }
    }
}

impl<B> fmt::Debug for ConcurrencyLimitBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConcurrencyLimitBody").finish_non_exhaustive()
    }
}
