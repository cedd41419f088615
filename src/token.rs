//! The bearer token of a request, and where it is looked for.

use std::fmt;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Uri};
use thiserror::Error;

/// The credentials of one request: the text after `Bearer` in its `Authorization` header.
///
/// The text is `b64token` of RFC 6750 §2.1: letters, digits and `-._~+/`, then any number of `=`.
/// It shares the bytes of the header value, so a clone copies nothing. It has no `Display`, no
/// `PartialEq` and no `Serialize`, and its `Debug` shows only its length: a token that reaches a
/// log is a token that somebody else can use.
#[derive(Clone)]
pub struct BearerToken {
    value: HeaderValue,
    start: usize,
    end: usize,
}

/// Why a request that presents credentials presents none that can be read.
///
/// The request is refused with 400 `invalid_request` (RFC 6750 §3.1): no reading of it is safe,
/// because a proxy in front may have picked another one.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum MalformedCredentials {
    /// The header says `Bearer`, then not exactly one token.
    #[error("the Authorization header must be `Bearer`, one space and one token")]
    BrokenHeader,
    /// Two `Authorization` headers, or a header and an `access_token` in the query.
    #[error("a request must carry exactly one token, in one Authorization header")]
    SeveralCredentials,
}

impl BearerToken {
    /// Finds the token of a request.
    ///
    /// `Ok(None)` means that no bearer token is presented: no `Authorization` header, an empty
    /// one, or another scheme (BEARER-8). The query is never a source of tokens (BEARER-11); an
    /// `access_token` in it is an error only beside a header that carries one (BEARER-13).
    ///
    /// # Errors
    ///
    /// [`MalformedCredentials`] when there is more than one credential or a broken one.
    pub fn find(headers: &HeaderMap, uri: &Uri) -> Result<Option<Self>, MalformedCredentials> {
        PresentedToken::find(headers, uri)?.map(PresentedToken::check).transpose()
    }

    /// A token from its text, for the tests of a [`TokenVerifier`](crate::TokenVerifier).
    ///
    /// # Errors
    ///
    /// [`MalformedCredentials::BrokenHeader`] when the text is not `b64token`.
    pub fn parse(text: &str) -> Result<Self, MalformedCredentials> {
        if !is_b64token(text.as_bytes()) {
            return Err(MalformedCredentials::BrokenHeader);
        }
        HeaderValue::from_str(text)
            .map(|value| Self { value, start: 0, end: text.len() })
            .map_err(|_| MalformedCredentials::BrokenHeader)
    }

    /// The text itself, for a verifier to work on. Keep it out of logs, errors and keys of maps.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // `find` and `parse` let ASCII only into a token.
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    /// The same without another look at every byte.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.value.as_bytes()[self.start..self.end]
    }
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BearerToken({} bytes)", self.end - self.start)
    }
}

/// What stands where a token belongs, before anybody has looked at its form: all that is needed to
/// recognise one that was accepted before.
pub(crate) struct PresentedToken<'a> {
    value: &'a HeaderValue,
    start: usize,
    end: usize,
}

impl<'a> PresentedToken<'a> {
    /// Finds it as [`BearerToken::find`] does.
    pub(crate) fn find(
        headers: &'a HeaderMap,
        uri: &Uri,
    ) -> Result<Option<Self>, MalformedCredentials> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let Some(value) = values.next() else {
            return Ok(None);
        };
        if values.next().is_some() {
            return Err(MalformedCredentials::SeveralCredentials);
        }
        let Some(credentials) = after_scheme(value.as_bytes()) else {
            return Ok(None);
        };
        let text = credentials.trim_ascii_end();
        let start = text.iter().take_while(|&&byte| byte == b' ').count();
        if start == 0 {
            return Err(MalformedCredentials::BrokenHeader);
        }
        if uri.query().is_some_and(has_access_token) {
            return Err(MalformedCredentials::SeveralCredentials);
        }
        // `credentials` is what the value ends with.
        let before = value.len() - credentials.len();
        let (start, end) = (before + start, before + text.len());
        Ok(Some(Self { value, start, end }))
    }

    pub(crate) fn as_bytes(&self) -> &'a [u8] {
        &self.value.as_bytes()[self.start..self.end]
    }

    /// The token, if it has the form of one.
    pub(crate) fn check(self) -> Result<BearerToken, MalformedCredentials> {
        if !is_b64token(self.as_bytes()) {
            return Err(MalformedCredentials::BrokenHeader);
        }
        Ok(BearerToken { value: self.value.clone(), start: self.start, end: self.end })
    }
}

/// What follows the scheme, when the scheme is Bearer in any case (RFC 9110 §11.1).
fn after_scheme(value: &[u8]) -> Option<&[u8]> {
    let value = value.trim_ascii_start();
    let (scheme, rest) = value.split_at_checked(6)?;
    let ends = rest.first().is_none_or(|byte| matches!(byte, b' ' | b'\t'));
    // As nearly all write it, in one comparison.
    (ends && (scheme == b"Bearer" || scheme.eq_ignore_ascii_case(b"bearer"))).then_some(rest)
}

fn is_b64token(text: &[u8]) -> bool {
    let padding = text.iter().rev().take_while(|&&byte| byte == b'=').count();
    let body = &text[..text.len() - padding];
    // From `-` to `9` stand `-./` and the digits.
    let allowed =
        |byte| matches!(byte, b'A'..=b'Z' | b'a'..=b'z' | b'-'..=b'9' | b'+' | b'_' | b'~');
    // Looking at every byte lets the compiler look at many at once, six times as fast as `all`.
    !body.is_empty() && body.iter().fold(true, |valid, &byte| valid & allowed(byte))
}

fn has_access_token(query: &str) -> bool {
    query.as_bytes().split(|&byte| byte == b'&').any(|pair| {
        let rest = pair.strip_prefix(b"access_token");
        rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'=')))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(values: &[&str], uri: &str) -> Result<Option<String>, MalformedCredentials> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let found = BearerToken::find(&headers, &uri.parse().unwrap())?;
        Ok(found.map(|token| token.as_str().to_owned()))
    }

    #[test]
    fn the_scheme_is_case_insensitive_and_the_token_is_not() {
        for value in ["Bearer aB1", "bearer aB1", "BEARER aB1", "bEaReR  aB1", "  Bearer aB1 \t"] {
            assert_eq!(find(&[value], "/"), Ok(Some("aB1".into())), "BEARER-2, 3, 6: {value:?}");
        }
    }

    #[test]
    fn other_schemes_are_no_bearer_credentials() {
        for value in ["", "Basic Zm9vOmJhcg==", "Bearerabc", "Bear", "Bearer-x abc"] {
            assert_eq!(find(&[value], "/"), Ok(None), "BEARER-8: {value:?}");
        }
        assert_eq!(find(&[], "/?access_token=abc"), Ok(None), "BEARER-11");
    }

    #[test]
    fn a_broken_header_is_malformed() {
        let broken = MalformedCredentials::BrokenHeader;
        let values = [
            "Bearer",
            "Bearer ",
            "Bearer\tabc",
            "Bearer \tabc",
            "Bearer ===",
            "Bearer a=b",
            "Bearer \"x\"",
            "Bearer a,b",
            "Bearer a b",
            "Bearer tök",
            "Bearer a%20b",
            "Bearer a:b",
        ];
        for value in values {
            assert_eq!(find(&[value], "/"), Err(broken), "BEARER-3, 4: {value:?}");
        }
    }

    #[test]
    fn more_than_one_credential_is_malformed() {
        let several = MalformedCredentials::SeveralCredentials;
        assert_eq!(find(&["Bearer a", "Bearer a"], "/"), Err(several), "BEARER-7");
        assert_eq!(find(&["Basic a", "Bearer a"], "/"), Err(several), "BEARER-7");
        assert_eq!(find(&["Bearer a"], "/?x=1&access_token=a"), Err(several), "BEARER-13");
        assert_eq!(find(&["Bearer a"], "/?my_access_token=a"), Ok(Some("a".into())));
    }

    /// A token is looked for before it is known to be short enough.
    #[test]
    fn a_token_is_found_without_a_copy_of_it() {
        for value in ["Bearer good", "  Bearer  good", "Bearer good \t"] {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, HeaderValue::from_static(value));
            let token = BearerToken::find(&headers, &Uri::from_static("/")).unwrap().unwrap();
            assert_eq!(token.as_str(), "good", "BEARER-6: {value:?}");
            let header = value.as_bytes().as_ptr_range();
            assert!(header.contains(&token.as_str().as_ptr()), "attack 11: {value:?}");
        }
    }

    #[test]
    fn debug_shows_the_length_alone() {
        let token = BearerToken::parse("s3cr3t-token").unwrap();
        assert_eq!(format!("{token:?}"), "BearerToken(12 bytes)");
    }
}
