//! Finding the document: metadata of an issuer (OpenID Connect Discovery §4, RFC 8414 §3).

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AGE, CACHE_CONTROL};
use http::{HeaderMap, Request};
use serde::Deserialize;
use thiserror::Error;
use tokio::time::timeout;

use crate::fetch::{ErasedFetch, FetchError, FetchRequest, InvalidUrl, IssuerUrl};
use crate::verifier::jwt::{InvalidKey, KeySet};

/// The most bytes of a document.
const MAX_BODY: usize = 256 * 1024;

/// Where the keys are.
#[derive(Clone, Debug)]
pub(super) enum Location {
    Document(IssuerUrl),
    /// Wherever the first of these that has this issuer's metadata says.
    Metadata {
        issuer: Box<str>,
        urls: Vec<IssuerUrl>,
    },
}

/// Why a fetch brought no keys.
#[derive(Debug, Error)]
pub(super) enum LoadError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("{url} answered {status}")]
    Status { url: IssuerUrl, status: u16 },
    #[error("the metadata at {0} is no JSON object with `issuer` and `jwks_uri`")]
    Metadata(IssuerUrl),
    #[error("the metadata at {0} names another issuer: it must be the configured one to the byte")]
    Issuer(IssuerUrl),
    #[error("the metadata gives a `jwks_uri` that must not be asked")]
    JwksUri(#[source] InvalidUrl),
    #[error(transparent)]
    Keys(#[from] InvalidKey),
    #[error("the fetcher panicked")]
    Panic,
    #[error("the issuer took too long to answer")]
    Timeout,
}

impl LoadError {
    /// Nobody has answered: whatever was true before may still be.
    pub(super) fn is_outage(&self) -> bool {
        match self {
            Self::Fetch(_) | Self::Timeout => true,
            Self::Status { status, .. } => *status == 429 || *status >= 500,
            _ => false,
        }
    }

    /// How much it says: that something wrong was there more than an outage, and that more than that
    /// nothing was there, as it is at all addresses but one.
    fn weight(&self) -> u8 {
        match self {
            outage if outage.is_outage() => 1,
            Self::Status { .. } => 0,
            _ => 2,
        }
    }
}

/// A document and how long it says that it is good for.
pub(super) struct Loaded {
    pub(super) keys: KeySet,
    pub(super) max_age: Option<Duration>,
}

#[derive(Deserialize)]
struct Metadata {
    issuer: String,
    jwks_uri: String,
}

impl Location {
    /// Whose metadata says where the keys are.
    pub(super) fn issuer(&self) -> Option<&str> {
        match self {
            Self::Document(_) => None,
            Self::Metadata { issuer, .. } => Some(issuer),
        }
    }

    pub(super) fn discover(issuer: &str) -> Result<Self, InvalidUrl> {
        let url = parse_issuer(issuer)?;
        // RFC 8414 §3.1: a slash that ends the issuer does not count.
        let path = url.uri().path().trim_end_matches('/');
        let authority = url.uri().authority().map_or("", |authority| authority.as_str());
        let host = format!("{}://{authority}", url.uri().scheme_str().unwrap_or("https"));
        let mut texts = vec![format!("{host}/.well-known/openid-configuration{path}")];
        if !path.is_empty() {
            texts.push(format!("{host}{path}/.well-known/openid-configuration"));
        }
        texts.push(format!("{host}/.well-known/oauth-authorization-server{path}"));
        let urls = texts.iter().map(|text| IssuerUrl::parse(text)).collect::<Result<_, _>>()?;
        Ok(Self::Metadata { issuer: issuer.into(), urls })
    }

    pub(super) fn discover_at(metadata_url: &str, issuer: &str) -> Result<Self, InvalidUrl> {
        parse_issuer(issuer)?;
        let urls = vec![IssuerUrl::parse(metadata_url)?];
        Ok(Self::Metadata { issuer: issuer.into(), urls })
    }

    /// Where the document is, which discovery has to ask for.
    pub(super) async fn document(
        &self,
        fetch: &dyn ErasedFetch,
        limit: Duration,
    ) -> Result<IssuerUrl, LoadError> {
        let (issuer, urls) = match self {
            Self::Document(url) => return Ok(url.clone()),
            Self::Metadata { issuer, urls } => (issuer, urls),
        };
        let mut telling = None;
        for url in urls {
            // Some hosts answer every path, with a page or with the metadata of another issuer.
            match metadata(fetch, url, issuer, limit).await {
                Ok(document) => return Ok(document),
                Err(error) => telling = Some(heavier(telling, error)),
            }
        }
        Err(telling.unwrap_or(LoadError::Timeout))
    }
}

/// The first of those that say most.
fn heavier(first: Option<LoadError>, second: LoadError) -> LoadError {
    match first {
        Some(first) if first.weight() >= second.weight() => first,
        _ => second,
    }
}

/// An issuer has no query (RFC 8414 §2).
fn parse_issuer(issuer: &str) -> Result<IssuerUrl, InvalidUrl> {
    let url = IssuerUrl::parse(issuer)?;
    if url.uri().query().is_some() { Err(InvalidUrl::new(issuer)) } else { Ok(url) }
}

/// The `jwks_uri` of the metadata at this address, if it is this issuer's (JWT-60, JWT-64).
async fn metadata(
    fetch: &dyn ErasedFetch,
    url: &IssuerUrl,
    issuer: &str,
    limit: Duration,
) -> Result<IssuerUrl, LoadError> {
    let (_, body) = get(fetch, url, limit).await?;
    let metadata: Metadata =
        serde_json::from_slice(&body).map_err(|_| LoadError::Metadata(url.clone()))?;
    if metadata.issuer != issuer {
        return Err(LoadError::Issuer(url.clone()));
    }
    let document = IssuerUrl::parse(&metadata.jwks_uri).map_err(LoadError::JwksUri)?;
    // What came over https must not lead to a service of this machine.
    if url.is_https() && !document.is_https() {
        return Err(LoadError::JwksUri(InvalidUrl::new(&metadata.jwks_uri)));
    }
    Ok(document)
}

/// The keys at this address. What is wrong with some of them is told where the document is not the
/// same as before.
pub(super) async fn load(
    fetch: &dyn ErasedFetch,
    url: &IssuerUrl,
    limit: Duration,
    before: &mut Bytes,
) -> Result<Loaded, LoadError> {
    let (headers, body) = get(fetch, url, limit).await?;
    let is_news = std::mem::replace(before, body.clone()) != body;
    let text = std::str::from_utf8(&body).map_err(|_| InvalidKey::NotASet)?;
    Ok(Loaded { keys: KeySet::read(text, is_news)?, max_age: max_age(&headers) })
}

/// Each address has its own time, so that one which never answers does not hide the next.
async fn get(
    fetch: &dyn ErasedFetch,
    url: &IssuerUrl,
    limit: Duration,
) -> Result<(HeaderMap, Bytes), LoadError> {
    let request = Request::get(url.uri().clone())
        .header(ACCEPT, "application/jwk-set+json, application/json")
        .body(Bytes::new())
        .map_err(FetchError::new)?;
    let answer = timeout(limit, fetch.fetch(FetchRequest::new(request, MAX_BODY))).await;
    let (head, body) = answer.map_err(|_| LoadError::Timeout)??.into_parts();
    if body.len() > MAX_BODY {
        return Err(FetchError::new(format!("the answer has more than {MAX_BODY} bytes")).into());
    }
    if head.status.as_u16() != 200 {
        return Err(LoadError::Status { url: url.clone(), status: head.status.as_u16() });
    }
    Ok((head.headers, body))
}

/// What `Cache-Control` allows (RFC 9111 §5.2.2), less the `Age` that the document came with (§5.1);
/// zero where it forbids.
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let mut max_age = None;
    for directive in values.flat_map(|value| value.split(',')).map(str::trim) {
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        if name.eq_ignore_ascii_case("no-store") || name.eq_ignore_ascii_case("no-cache") {
            return Some(Duration::ZERO);
        }
        if name.eq_ignore_ascii_case("max-age") {
            max_age = value.trim_matches('"').parse().ok().map(Duration::from_secs);
        }
    }
    let age = headers.get(AGE).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let age = Duration::from_secs(age.unwrap_or(0));
    max_age.map(|max_age: Duration| max_age.saturating_sub(age))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(issuer: &str) -> Vec<String> {
        match Location::discover(issuer).unwrap() {
            Location::Metadata { urls, .. } => urls.iter().map(ToString::to_string).collect(),
            Location::Document(_) => Vec::new(),
        }
    }

    #[test]
    fn metadata_is_looked_for_in_the_order_of_rfc_8414() {
        assert_eq!(
            urls("https://h/t1"),
            [
                "https://h/.well-known/openid-configuration/t1",
                "https://h/t1/.well-known/openid-configuration",
                "https://h/.well-known/oauth-authorization-server/t1",
            ],
            "JWT-61, JWT-62, JWT-63"
        );
        for issuer in ["https://h", "https://h/"] {
            assert_eq!(
                urls(issuer),
                [
                    "https://h/.well-known/openid-configuration",
                    "https://h/.well-known/oauth-authorization-server",
                ],
                "JWT-61, JWT-62"
            );
        }
        for issuer in ["https://h/t1?x=1", "http://h/t1", "https://h/#x", "h"] {
            assert!(Location::discover(issuer).is_err(), "JWT-60: {issuer}");
        }
    }

    #[test]
    fn the_time_that_a_document_is_good_for_is_what_the_issuer_says() {
        let said = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(CACHE_CONTROL, value.parse().unwrap());
            max_age(&headers).map(|age| age.as_secs())
        };
        assert_eq!(said("public, max-age=300"), Some(300), "JWT-73");
        assert_eq!(said("Max-Age=\"60\""), Some(60), "JWT-73");
        assert_eq!(said("max-age=300, no-store"), Some(0), "JWT-73");
        for silent in ["public", "max-age=soon", "max-age=-1", "s-maxage=9"] {
            assert_eq!(said(silent), None, "JWT-73: {silent}");
        }
    }
}
