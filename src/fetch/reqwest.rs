use std::fmt;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::Response;
use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder};

use crate::fetch::{Fetch, FetchError, FetchRequest};

/// A fetcher over a `reqwest` client: rustls with the platform's certificates, no redirects, no
/// cookies, two seconds to connect and five for everything.
///
/// ```
/// use tower_gate::fetch::ReqwestFetch;
///
/// let fetch = ReqwestFetch::new()?;
/// // A proxy, a certificate authority of your own, other times:
/// let fetch = ReqwestFetch::from_builder(reqwest::Client::builder().https_only(true))?;
/// # let _ = fetch;
/// # Ok::<(), tower_gate::fetch::FetchError>(())
/// ```
#[derive(Clone)]
pub struct ReqwestFetch(Client);

impl ReqwestFetch {
    /// A client of its own.
    ///
    /// # Errors
    ///
    /// When the platform has no certificates to check issuers by.
    pub fn new() -> Result<Self, FetchError> {
        let times = Client::builder().connect_timeout(Duration::from_secs(2));
        Self::from_builder(times.timeout(Duration::from_secs(5)))
    }

    /// A client that the application has configured, with the times that it set. Redirects stay
    /// forbidden.
    ///
    /// # Errors
    ///
    /// When the client cannot be built.
    pub fn from_builder(client: ClientBuilder) -> Result<Self, FetchError> {
        client.redirect(Policy::none()).build().map(Self).map_err(without_url)
    }
}

impl Fetch for ReqwestFetch {
    async fn fetch(&self, request: FetchRequest) -> Result<Response<Bytes>, FetchError> {
        let (head, body) = request.request.into_parts();
        let sent = self.0.request(head.method, head.uri.to_string()).headers(head.headers);
        let mut answer = sent.body(body).send().await.map_err(without_url)?;
        let mut response = Response::new(BytesMut::new());
        *response.status_mut() = answer.status();
        *response.headers_mut() = std::mem::take(answer.headers_mut());
        while let Some(chunk) = answer.chunk().await.map_err(without_url)? {
            if response.body().len() + chunk.len() > request.max_body {
                let max = request.max_body;
                return Err(FetchError::new(format!("the answer has more than {max} bytes")));
            }
            response.body_mut().extend_from_slice(&chunk);
        }
        Ok(response.map(BytesMut::freeze))
    }
}

/// A URL may have secrets in its query.
fn without_url(error: reqwest::Error) -> FetchError {
    FetchError::new(error.without_url())
}

impl fmt::Debug for ReqwestFetch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReqwestFetch")
    }
}
