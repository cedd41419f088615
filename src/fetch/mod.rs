//! How verifiers reach an issuer over HTTP.
//!
//! [`Fetch`] is the port; with the feature `reqwest`, `ReqwestFetch` is a ready adapter.

#[cfg(feature = "reqwest")]
mod reqwest;
mod url;

use std::error::Error as StdError;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};

#[cfg(feature = "reqwest")]
pub use self::reqwest::ReqwestFetch;
pub use self::url::InvalidUrl;

pub(crate) use self::url::IssuerUrl;

/// Sends one request to an issuer and reads its whole answer.
///
/// **Contract.** The answer whatever its status, redirects included: they are not followed, because
/// keys and introspection answers are trusted for the host that they come from. Certificates are
/// checked. No more than [`max_body`](FetchRequest::max_body) bytes of a body are read.
///
/// **Errors.** A [`FetchError`] where there is no answer. Callers turn it into 503 for their own
/// clients, never into 401.
///
/// **Concurrency.** Called from many tasks at once. The caller sets a limit on the time and drops
/// the future when that is over.
///
/// **Security.** Whoever can answer in the issuer's place lets strangers in.
///
/// A closure from [`FetchRequest`] to such a future is a fetcher too:
///
/// ```
/// use bytes::Bytes;
/// use http::Response;
/// use tower_gate::fetch::{Fetch, FetchError, FetchRequest};
///
/// /// Serves a document from memory.
/// let fetch = |request: FetchRequest| async move {
///     match request.request.uri().path() {
///         "/jwks.json" => Ok(Response::new(Bytes::from_static(b"{\"keys\":[]}"))),
///         other => Err(FetchError::new(format!("nothing is served at {other}"))),
///     }
/// };
/// # fn is_fetch(_: impl Fetch) {}
/// # is_fetch(fetch);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot fetch",
    note = "use `ReqwestFetch` (feature `reqwest`), implement `Fetch`, or pass a closure \
            `Fn(FetchRequest) -> impl Future<Output = Result<Response<Bytes>, FetchError>> + Send`"
)]
pub trait Fetch: Send + Sync + 'static {
    /// Sends the request.
    fn fetch(
        &self,
        request: FetchRequest,
    ) -> impl Future<Output = Result<Response<Bytes>, FetchError>> + Send;
}

impl<F, Fut> Fetch for F
where
    F: Fn(FetchRequest) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Response<Bytes>, FetchError>> + Send,
{
    async fn fetch(&self, request: FetchRequest) -> Result<Response<Bytes>, FetchError> {
        self(request).await
    }
}

impl<F: Fetch + ?Sized> Fetch for Arc<F> {
    async fn fetch(&self, request: FetchRequest) -> Result<Response<Bytes>, FetchError> {
        (**self).fetch(request).await
    }
}

/// What a [`Fetch`] is asked.
#[non_exhaustive]
pub struct FetchRequest {
    /// The request. Its headers and body may hold secrets.
    pub request: Request<Bytes>,
    /// The most bytes of the answer's body that are read; a longer one is an error.
    pub max_body: usize,
}

impl FetchRequest {
    /// A request whose answer has at most `max_body` bytes.
    #[must_use]
    pub fn new(request: Request<Bytes>, max_body: usize) -> Self {
        Self { request, max_body }
    }
}

/// Without the headers, the query and the body: they may hold secrets.
impl fmt::Debug for FetchRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FetchRequest")
            .field("method", self.request.method())
            .field("host", &self.request.uri().host())
            .field("path", &self.request.uri().path())
            .finish_non_exhaustive()
    }
}

/// There is no answer that could be used.
#[derive(Debug)]
pub struct FetchError(Box<dyn StdError + Send + Sync>);

impl FetchError {
    /// It failed for this reason, which is logged and must hold no secret.
    pub fn new(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self(source.into())
    }
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the issuer cannot be reached")
    }
}

impl StdError for FetchError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.0)
    }
}

/// The answer to a [`FetchRequest`], on its way.
pub(crate) type Fetching<'a> =
    Pin<Box<dyn Future<Output = Result<Response<Bytes>, FetchError>> + Send + 'a>>;

/// A fetcher without its type.
pub(crate) trait ErasedFetch: Send + Sync {
    fn fetch(&self, request: FetchRequest) -> Fetching<'_>;
}

impl<F: Fetch> ErasedFetch for F {
    fn fetch(&self, request: FetchRequest) -> Fetching<'_> {
        Box::pin(Fetch::fetch(self, request))
    }
}
