use std::fmt;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::Response;
use http::uri::Scheme;
use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder};

use crate::fetch::{Fetch, FetchError, FetchRequest};

/// A fetcher over a `reqwest` client: rustls with the platform's certificates, no redirects, no
/// cookies, two seconds to connect and five for everything.
///
/// A request whose connection is closed before an answer comes is sent once more: all that is asked of
/// an issuer may be asked twice.
///
/// It goes through the proxies that the environment names, but for plain http, which is for this
/// machine alone: a proxy would read the secrets in it, and answer in the issuer's place.
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
pub struct ReqwestFetch {
    client: Client,
    /// For addresses without TLS.
    plain: Client,
}

impl ReqwestFetch {
    /// A client of its own.
    ///
    /// # Errors
    ///
    /// When the platform has no certificates to check issuers by.
    pub fn new() -> Result<Self, FetchError> {
        let bounded = || {
            let builder = Client::builder().connect_timeout(Duration::from_secs(2));
            builder.timeout(Duration::from_secs(5))
        };
        Ok(Self { plain: build(bounded().no_proxy())?, client: build(bounded())? })
    }

    /// A client that the application has configured, with the times and the proxies that it set,
    /// also for plain http: where that is used, give it `no_proxy`. Redirects stay forbidden.
    ///
    /// # Errors
    ///
    /// When the client cannot be built.
    pub fn from_builder(client: ClientBuilder) -> Result<Self, FetchError> {
        build(client).map(|client| Self { plain: client.clone(), client })
    }
}

fn build(client: ClientBuilder) -> Result<Client, FetchError> {
    client.redirect(Policy::none()).build().map_err(without_url)
}

impl Fetch for ReqwestFetch {
    async fn fetch(&self, request: FetchRequest) -> Result<Response<Bytes>, FetchError> {
        let (head, body) = request.request.into_parts();
        let is_plain = head.uri.scheme() == Some(&Scheme::HTTP);
        let client = if is_plain { &self.plain } else { &self.client };
        let sent = client.request(head.method, head.uri.to_string()).headers(head.headers);
        let sent = sent.body(body);
        let again = sent.try_clone();
        let mut answer = match (sent.send().await, again) {
            (Err(error), Some(again)) if was_closed(&error) => again.send().await,
            (answer, _) => answer,
        }
        .map_err(without_url)?;
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

/// The issuer has closed the connection, as happens to one that was kept open just as it is used again.
fn was_closed(error: &reqwest::Error) -> bool {
    error.is_request() && !error.is_connect() && !error.is_timeout()
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
