//! What an API says about itself to clients that have no token yet (RFC 9728).
//!
//! [`ResourceMetadata`] is a small JSON document that names the issuers whose tokens are good and
//! the scopes there are. It is served without authentication at a well-known path, and challenges
//! point to it:
//!
//! ```
//! use tower_gate::metadata::ResourceMetadata;
//! use tower_gate::{AuthenticateLayer, FixedVerifier};
//!
//! let metadata = ResourceMetadata::new("https://api.example/v1")?
//!     .with_issuer("https://issuer.example")?
//!     .with_scopes(["read:reports", "write:reports"])?;
//! assert_eq!(metadata.path(), "/.well-known/oauth-protected-resource/v1");
//! let layer = AuthenticateLayer::new(FixedVerifier::new()).with_challenge(metadata.challenge()?);
//! # let _ = layer;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! In axum, with an hour in caches instead of five minutes:
//!
//! ```
//! use std::time::Duration;
//! use axum::Router;
//! use axum::body::Body;
//! use axum::routing::get;
//! use tower_gate::metadata::ResourceMetadata;
//!
//! let metadata = ResourceMetadata::new("https://api.example")?
//!     .with_issuer("https://issuer.example")?
//!     .with_max_age(Duration::from_secs(3600));
//! let path = metadata.path().to_owned();
//! let router: Router =
//!     Router::new().route(&path, get(async move || metadata.response().map(Body::from)));
//! # let _ = router;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Security
//!
//! Everybody can read it. It says which issuers are trusted, not how tokens are checked.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response, Uri};
use serde::Serialize;
use thiserror::Error;

use crate::rejection::{Challenge, InvalidChallenge};
use crate::scope::{InvalidScope, Scope};

const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

/// The metadata of one API; see the [module](crate::metadata).
#[derive(Clone, Debug)]
#[must_use = "a document that is not served helps nobody"]
pub struct ResourceMetadata {
    document: Document,
    path: String,
    url: String,
    max_age: Duration,
}

#[derive(Clone, Debug, Serialize)]
struct Document {
    resource: String,
    // Empty lists are left out (RFC 9728 §3.2).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    authorization_servers: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    scopes_supported: Vec<String>,
    /// The only way in which AuthenticateLayer takes tokens.
    bearer_methods_supported: [&'static str; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    resource_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource_documentation: Option<String>,
}

/// Why a document cannot be made.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum InvalidMetadata {
    /// RFC 9728 §1.2.
    #[error("{0:?} is no identifier of a resource: it must be an https URL without a fragment")]
    Resource(String),
    /// RFC 8414 §2.
    #[error("{0:?} is no issuer: it must be an https URL without query and fragment")]
    Issuer(String),
    /// A scope with a character that scopes do not have.
    #[error(transparent)]
    Scope(#[from] InvalidScope),
}

impl ResourceMetadata {
    /// The metadata of the API with this identifier, which is the URL that clients know it by.
    ///
    /// # Errors
    ///
    /// When that is no https URL, or has a fragment.
    pub fn new(resource: &str) -> Result<Self, InvalidMetadata> {
        let uri = https(resource).ok_or_else(|| InvalidMetadata::Resource(resource.to_owned()))?;
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        // RFC 9728 §3: the well-known part goes between host and path, and a slash that only ends
        // the host is dropped.
        let rest = match uri.path_and_query().map_or("/", |rest| rest.as_str()) {
            "/" => "",
            rest => rest,
        };
        let separator = if rest.starts_with('?') || rest.is_empty() { "" } else { "/" };
        let target = format!("{WELL_KNOWN}{separator}{}", rest.trim_start_matches('/'));
        let path = target.split('?').next().unwrap_or_default().to_owned();
        let document = Document {
            resource: resource.to_owned(),
            authorization_servers: Vec::new(),
            scopes_supported: Vec::new(),
            bearer_methods_supported: ["header"],
            resource_name: None,
            resource_documentation: None,
        };
        let url = format!("https://{authority}{target}");
        Ok(Self { document, path, url, max_age: Duration::from_secs(300) })
    }

    /// An issuer whose tokens are good here.
    ///
    /// # Errors
    ///
    /// When it is no https URL, or has a query or a fragment.
    pub fn with_issuer(mut self, issuer: &str) -> Result<Self, InvalidMetadata> {
        let uri = https(issuer).filter(|uri| uri.query().is_none());
        uri.ok_or_else(|| InvalidMetadata::Issuer(issuer.to_owned()))?;
        self.document.authorization_servers.push(issuer.to_owned());
        Ok(self)
    }

    /// The scopes that requests may need.
    ///
    /// # Errors
    ///
    /// When one is not a scope.
    pub fn with_scopes<'a>(
        mut self,
        scopes: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, InvalidMetadata> {
        for scope in scopes {
            self.document.scopes_supported.push(Scope::parse(scope)?.as_str().to_owned());
        }
        Ok(self)
    }

    /// What people call the API.
    pub fn with_name(mut self, name: &str) -> Self {
        self.document.resource_name = Some(name.to_owned());
        self
    }

    /// The URL of documentation for developers.
    pub fn with_documentation(mut self, url: &str) -> Self {
        self.document.resource_documentation = Some(url.to_owned());
        self
    }

    /// How long caches may keep it. Default: five minutes.
    pub fn with_max_age(mut self, max_age: Duration) -> Self {
        self.max_age = max_age;
        self
    }

    /// The path to serve it at, without authentication.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Its whole address, for the `resource_metadata` of challenges.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A challenge that points to it, in the default realm.
    ///
    /// # Errors
    ///
    /// When the identifier has a character that no challenge can carry.
    pub fn challenge(&self) -> Result<Challenge, InvalidChallenge> {
        Challenge::default().with_resource_metadata(&self.url)
    }

    /// The answer to a GET.
    #[must_use]
    pub fn response(&self) -> Response<Bytes> {
        // Strings and lists of strings always serialize.
        let body = serde_json::to_vec(&self.document).unwrap_or_default();
        let mut response = Response::new(body.into());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let cached = format!("public, max-age={}", self.max_age.as_secs());
        if let Ok(cached) = HeaderValue::try_from(cached) {
            headers.insert(CACHE_CONTROL, cached);
        }
        response
    }
}

fn https(text: &str) -> Option<Uri> {
    let uri: Uri = Some(text).filter(|text| !text.contains('#'))?.parse().ok()?;
    (uri.scheme_str() == Some("https") && uri.host().is_some_and(|host| !host.is_empty()))
        .then_some(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_well_known_part_stands_between_host_and_path() {
        for (resource, path, url) in [
            ("https://h", "", ""),
            ("https://h/", "", ""),
            ("https://h:8443/r1", "/r1", "/r1"),
            ("https://h/r1/", "/r1/", "/r1/"),
            ("https://h/r?x=1", "/r", "/r?x=1"),
            ("https://h?x=1", "", "?x=1"),
        ] {
            let metadata = ResourceMetadata::new(resource).unwrap();
            assert_eq!(metadata.path(), format!("{WELL_KNOWN}{path}"), "BEARER-40: {resource}");
            let host = if resource.contains("8443") { "https://h:8443" } else { "https://h" };
            assert_eq!(metadata.url(), format!("{host}{WELL_KNOWN}{url}"), "BEARER-40");
        }
    }

    #[test]
    fn what_is_no_resource_no_issuer_and_no_scope_is_refused() {
        for text in ["http://h", "https://h/#x", "h", "", "https://"] {
            assert!(ResourceMetadata::new(text).is_err(), "BEARER-42: {text}");
        }
        let metadata = || ResourceMetadata::new("https://h").unwrap();
        assert!(metadata().with_issuer("https://i?x=1").is_err(), "BEARER-43");
        assert!(metadata().with_issuer("http://i").is_err(), "BEARER-43");
        assert!(metadata().with_scopes(["a b"]).is_err(), "BEARER-43");
    }

    #[test]
    fn the_document_says_what_there_is_and_nothing_empty() {
        let metadata = ResourceMetadata::new("https://api/v1").unwrap();
        let bare = metadata.response();
        assert_eq!(
            bare.body(),
            r#"{"resource":"https://api/v1","bearer_methods_supported":["header"]}"#,
            "BEARER-41, BEARER-42"
        );
        assert_eq!(bare.headers()[CONTENT_TYPE], "application/json", "BEARER-41");
        assert_eq!(bare.headers()[CACHE_CONTROL], "public, max-age=300", "BEARER-45");
        let full = metadata.with_issuer("https://i").unwrap().with_scopes(["a", "b"]).unwrap();
        let full = full.with_name("Reports").with_documentation("https://docs").response();
        let json: serde_json::Value = serde_json::from_slice(full.body()).unwrap();
        assert_eq!(json["authorization_servers"], serde_json::json!(["https://i"]));
        assert_eq!(json["scopes_supported"], serde_json::json!(["a", "b"]), "BEARER-43");
        assert_eq!(json["resource_name"], "Reports");
    }
}
