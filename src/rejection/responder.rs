//! Turning a rejection into a response.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::request::Parts;
use http::{Extensions, HeaderMap, HeaderValue, Method, Request, Response, Uri};

use crate::rejection::{Challenge, Rejection, grpc, headers, problem, status};
use crate::trace;

/// Writes the bodies of refusals in the application's own form.
///
/// The response's body and headers are sent as they are, but for four things that stay with this
/// crate, so that a page can be changed and a refusal cannot: the status, `WWW-Authenticate`,
/// `Retry-After` and `Cache-Control`. A gRPC call has no body to write; its refusals never come
/// here. Any closure of this shape is a responder.
///
/// ```
/// use bytes::Bytes;
/// use http::{HeaderValue, Response, header};
/// use tower_gate::{Rejection, RequestHead};
///
/// let plain_text = |rejection: &Rejection, _request: &RequestHead<'_>| {
///     let mut response = Response::new(Bytes::from(rejection.message()));
///     let content_type = HeaderValue::from_static("text/plain; charset=utf-8");
///     response.headers_mut().insert(header::CONTENT_TYPE, content_type);
///     response
/// };
/// # fn is_responder(_: impl tower_gate::Responder) {}
/// # is_responder(plain_text);
/// ```
///
/// It runs on the request's task and must not block. A responder that writes parts of the request
/// into the body must escape them as its format asks.
pub trait Responder: Send + Sync + 'static {
    /// The body and headers for this rejection of this request.
    fn respond(&self, rejection: &Rejection, request: &RequestHead<'_>) -> Response<Bytes>;
}

impl<F> Responder for F
where
    F: Fn(&Rejection, &RequestHead<'_>) -> Response<Bytes> + Send + Sync + 'static,
{
    fn respond(&self, rejection: &Rejection, request: &RequestHead<'_>) -> Response<Bytes> {
        self(rejection, request)
    }
}

/// The part of a refused request that an answer may depend on.
///
/// For the test of a responder it is made of any request: `RequestHead::from(&request)`.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct RequestHead<'a> {
    /// The method.
    pub method: &'a Method,
    /// The target.
    pub uri: &'a Uri,
    /// The headers, with the token still in them.
    pub headers: &'a HeaderMap,
    extensions: &'a Extensions,
}

impl<'a, B> From<&'a Request<B>> for RequestHead<'a> {
    fn from(request: &'a Request<B>) -> Self {
        Self {
            method: request.method(),
            uri: request.uri(),
            headers: request.headers(),
            extensions: request.extensions(),
        }
    }
}

impl<'a> From<&'a Parts> for RequestHead<'a> {
    fn from(parts: &'a Parts) -> Self {
        Self {
            method: &parts.method,
            uri: &parts.uri,
            headers: &parts.headers,
            extensions: &parts.extensions,
        }
    }
}

/// Without the query and the headers: they may hold secrets.
impl fmt::Debug for RequestHead<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestHead")
            .field("method", self.method)
            .field("path", &self.uri.path())
            .finish_non_exhaustive()
    }
}

/// How an API refuses. An AuthenticateLayer that was told how leaves that on the request, for the
/// layers inside it.
#[derive(Clone, Default)]
pub(crate) struct RefusalStyle {
    pub(crate) challenge: Challenge,
    pub(crate) responder: Option<Arc<dyn Responder>>,
    pub(crate) uniform: bool,
}

impl RefusalStyle {
    /// Refuses in the style that the request carries, or in the default one.
    pub(crate) fn refuse<'a>(
        rejection: Rejection,
        request: impl Into<RequestHead<'a>>,
    ) -> Box<Response<Bytes>> {
        let request = request.into();
        match request.extensions.get::<Arc<Self>>() {
            Some(style) => style.respond(rejection, request),
            None => Self::default().respond(rejection, request),
        }
    }

    /// The whole answer, with the rejection in its extensions.
    pub(crate) fn respond<'a>(
        &self,
        rejection: Rejection,
        request: impl Into<RequestHead<'a>>,
    ) -> Box<Response<Bytes>> {
        let request = request.into();
        trace::refused(&rejection);
        let rejection = if self.uniform { rejection.uniform() } else { rejection };
        let mut response = match grpc::respond(&rejection, &request) {
            Some(trailers_only) => trailers_only,
            None => self.http(&rejection, &request),
        };
        headers::set(response.headers_mut(), &rejection, &self.challenge);
        response.extensions_mut().insert(rejection);
        Box::new(response)
    }

    fn http(&self, rejection: &Rejection, request: &RequestHead<'_>) -> Response<Bytes> {
        let mut response = match &self.responder {
            Some(responder) => responder.respond(rejection, request),
            None => problem::respond(rejection),
        };
        // Whatever the responder says: a refusal with a 200 would be a pass to a cache or a proxy.
        *response.status_mut() = status::of(rejection.kind()).http;
        let length = HeaderValue::from(response.body().len());
        response.headers_mut().insert(CONTENT_LENGTH, length);
        if request.method == Method::HEAD {
            // BEARER-33: the headers of a GET, and no body.
            response.body_mut().clear();
        }
        response
    }
}

impl fmt::Debug for RefusalStyle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RefusalStyle")
            .field("challenge", &self.challenge)
            .field("custom_responder", &self.responder.is_some())
            .field("uniform", &self.uniform)
            .finish()
    }
}
