use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::Response;
use http_body::Frame;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::time::{Interval, interval};

/// What an issuer answers at one path.
#[derive(Clone)]
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    content: Content,
    /// Nothing is answered before this has a permit.
    held: Option<Arc<Semaphore>>,
}

#[derive(Clone)]
enum Content {
    Text(String),
    /// A gibibyte, as fast as it is taken; counts the bytes that were.
    Huge(Arc<AtomicUsize>),
    /// A byte now and then, for ever.
    Trickle,
}

impl Reply {
    pub(crate) fn text(status: u16, content_type: &str, body: &str) -> Self {
        Self {
            status,
            headers: vec![("content-type", content_type.to_owned())],
            content: Content::Text(body.to_owned()),
            held: None,
        }
    }

    pub(crate) fn json(value: &Value) -> Self {
        Self::text(200, "application/json", &value.to_string())
    }

    pub(crate) fn broken() -> Self {
        Self::text(200, "application/json", "{\"keys\":[{\"kty\":")
    }

    pub(crate) fn page() -> Self {
        Self::text(200, "text/html", "<!doctype html><title>Welcome</title>")
    }

    pub(crate) fn status(status: u16) -> Self {
        Self::text(status, "text/plain", "")
    }

    pub(crate) fn redirect(to: &str) -> Self {
        Self::status(302).with("location", to)
    }

    pub(crate) fn huge(taken: &Arc<AtomicUsize>) -> Self {
        Self { content: Content::Huge(taken.clone()), ..Self::status(200) }
    }

    pub(crate) fn trickle() -> Self {
        Self { content: Content::Trickle, ..Self::status(200) }
    }

    pub(crate) fn never() -> Self {
        Self::status(200).held(&Arc::new(Semaphore::new(0)))
    }

    /// The same, once the semaphore has a permit, which stays in it.
    pub(crate) fn held(self, until: &Arc<Semaphore>) -> Self {
        Self { held: Some(until.clone()), ..self }
    }

    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    pub(super) async fn into_response(self) -> Response<Body> {
        if let Some(held) = &self.held {
            let _ = held.acquire().await;
        }
        let mut response = Response::builder().status(self.status);
        for (name, value) in self.headers {
            response = response.header(name, value);
        }
        let body = match self.content {
            Content::Text(text) => Body::from(text),
            Content::Huge(taken) => {
                Body::new(Chunks { left: 1 << 14, len: 1 << 16, taken, tick: None })
            }
            Content::Trickle => {
                let tick = Some(interval(Duration::from_millis(50)));
                Body::new(Chunks { left: usize::MAX, len: 1, taken: Arc::default(), tick })
            }
        };
        response.body(body).unwrap()
    }
}

/// A body in pieces of spaces, which JSON may begin with.
struct Chunks {
    left: usize,
    len: usize,
    taken: Arc<AtomicUsize>,
    tick: Option<Interval>,
}

impl http_body::Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(tick) = &mut self.tick {
            std::task::ready!(tick.poll_tick(cx));
        }
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        self.taken.fetch_add(self.len, Ordering::SeqCst);
        Poll::Ready(Some(Ok(Frame::data(vec![b' '; self.len].into()))))
    }
}
