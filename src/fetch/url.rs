use std::fmt;
use std::net::IpAddr;

use http::Uri;
use thiserror::Error;

/// Where an issuer is asked: `https`, or `http` towards this machine alone (OPAQUE-22, JWT-65).
#[derive(Clone)]
pub(crate) struct IssuerUrl(Uri);

/// The text is no address to ask an issuer at.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error(
    "{text:?} is not an address of an issuer: it must be an https URL without user and \
     fragment, or an http one of the loopback interface; the name of an issuer has no query either"
)]
pub struct InvalidUrl {
    text: String,
}

impl InvalidUrl {
    /// Without a user, who may come with a password, and a query, which may hold a secret.
    pub(crate) fn new(text: &str) -> Self {
        let place = text.split(['?', '#']).next().unwrap_or_default();
        let shown = match place.rsplit_once('@') {
            Some((_, shown)) => shown,
            // The rest of a password that has such a character in it.
            None if text.contains('@') => "",
            None => place,
        };
        Self { text: shown.to_owned() }
    }
}

impl IssuerUrl {
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidUrl> {
        let invalid = || InvalidUrl::new(text);
        // `Uri` drops a fragment without a word.
        let uri: Uri = Some(text)
            .filter(|text| !text.contains('#'))
            .and_then(|text| text.parse().ok())
            .ok_or_else(invalid)?;
        let secure = match (uri.scheme_str(), uri.host()) {
            (Some("https"), Some(_)) => true,
            (Some("http"), Some(host)) => is_loopback(host),
            _ => false,
        };
        let has_user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
        if secure && !has_user { Ok(Self(uri)) } else { Err(invalid()) }
    }

    pub(crate) fn uri(&self) -> &Uri {
        &self.0
    }

    pub(crate) fn is_https(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }
}

/// Without the query, which may hold a secret.
impl fmt::Display for IssuerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = self.0.authority().map_or("", |authority| authority.as_str());
        write!(f, "{}://{authority}{}", self.0.scheme_str().unwrap_or_default(), self.0.path())
    }
}

impl fmt::Debug for IssuerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_and_the_loopback_interface_are_asked() {
        for text in [
            "https://issuer.example",
            "https://issuer.example:8443/t1/jwks.json",
            "https://issuer.example/keys?v=2",
            "http://127.0.0.1:8080/jwks",
            "http://[::1]/jwks",
            "http://localhost:1/",
        ] {
            assert!(IssuerUrl::parse(text).is_ok(), "{text}");
        }
        for text in [
            "",
            "issuer.example",
            "/jwks",
            "http://issuer.example",
            "http://10.0.0.1/jwks",
            "http://localhost.evil.example/",
            "http://127.0.0.1.evil.example/",
            "https://user:secret@issuer.example/",
            "https://issuer.example/#x",
            "ftp://127.0.0.1/",
            "file:///etc/passwd",
        ] {
            assert!(IssuerUrl::parse(text).is_err(), "OPAQUE-22, JWT-65: {text}");
        }
    }

    #[test]
    fn an_address_is_shown_without_its_query() {
        let url = IssuerUrl::parse("https://issuer.example:8443/keys?code=secret").unwrap();
        assert_eq!(url.to_string(), "https://issuer.example:8443/keys");
        assert_eq!(format!("{url:?}"), "https://issuer.example:8443/keys");
        assert_eq!(url.uri().query(), Some("code=secret"), "it is asked with it");
    }

    #[test]
    fn an_error_shows_no_password_and_no_query() {
        for text in [
            "https://user:secret@issuer.example/keys",
            "http://issuer.example/keys?code=secret",
            "https://issuer.example/keys#secret",
            "https://user:secret@issuer.example/keys?code=secret",
        ] {
            let error = IssuerUrl::parse(text).unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(shown.contains("issuer.example/keys"), "{shown}");
            assert!(!shown.contains("secret"), "{shown}");
        }
        for text in ["https://user:secret?x@issuer.example/", "http://h/?code=x@secret"] {
            assert!(!InvalidUrl::new(text).to_string().contains("secret"), "{text}");
        }
    }
}
