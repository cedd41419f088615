//! The question to the issuer (RFC 7662 §2.1), and what has to be so before its answer is read.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Request};
use thiserror::Error;
use tokio::time::timeout;

use crate::fetch::{ErasedFetch, FetchError, FetchRequest, IssuerUrl};
use crate::principal::Principal;
use crate::trace;
use crate::verifier::introspection::answer::Policy;
use crate::verifier::introspection::outage::Outage;
use crate::verifier::introspection::signed::SignedAnswers;
use crate::verifier::{TokenVerifier, VerifyError, VerifyRequest};

/// The most bytes of an answer.
const MAX_BODY: usize = 64 * 1024;

const JSON: &str = "application/json";
const SIGNED: &str = "application/token-introspection+jwt";

/// The introspection endpoint of one issuer.
pub(super) struct Endpoint {
    pub(super) url: IssuerUrl,
    pub(super) fetch: Arc<dyn ErasedFetch>,
    /// How this API proves who it is, where the fetcher does not.
    pub(super) credentials: Option<HeaderValue>,
    pub(super) timeout: Duration,
    pub(super) policy: Policy,
    pub(super) signed: Option<SignedAnswers>,
    pub(super) outage: Arc<Outage>,
    /// The latest answer refused the credentials.
    pub(super) locked_out: AtomicBool,
}

/// Why a question brought no answer.
#[derive(Debug, Error)]
pub(super) enum AskError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("the introspection endpoint took too long to answer")]
    Timeout,
    #[error("the introspection endpoint answered {0}: check the credentials of this API")]
    Credentials(u16),
    #[error("the introspection endpoint answered {0}")]
    Status(u16),
    #[error("the answer is not {0}")]
    ContentType(&'static str),
    #[error("the answer does not say whether the token is active")]
    NotSaid,
    #[error("`token_type`, `token_use` or `typ` of the answer is no string")]
    Kind,
    /// Where the JSON is wrong, and not what stands there: the parser's own text quotes claims.
    #[error("the answer is not acceptable at byte {0}")]
    Json(usize),
    #[error("the signed answer is not ASCII")]
    Encoding,
    #[error("the answer is not signed as it must be")]
    Signature(#[source] VerifyError),
    #[error("`{0}` of the signed answer is missing or not as it must be")]
    Claim(&'static str),
}

impl AskError {
    #[expect(clippy::needless_pass_by_value, reason = "the signature that map_err asks for")]
    pub(super) fn at(error: serde_json::Error) -> Self {
        Self::Json(error.column())
    }
}

/// An answer that is none says nothing about the token, whatever is wrong with it.
impl From<AskError> for VerifyError {
    fn from(error: AskError) -> Self {
        Self::unavailable(error)
    }
}

impl TokenVerifier for Endpoint {
    async fn verify(&self, request: &VerifyRequest) -> Result<Principal, VerifyError> {
        let asked = self.ask(request.token.as_str(), request.now);
        let answer = timeout(self.timeout, asked).await.map_err(|_| AskError::Timeout)??;
        self.policy.check(&answer, request.now)
    }

    /// Grows when a key that signed answers is gone.
    fn generation(&self) -> u64 {
        self.signed.as_ref().map_or(0, |signed| signed.keys.generation())
    }
}

impl Endpoint {
    /// The JSON text of the answer.
    async fn ask(&self, token: &str, now: SystemTime) -> Result<Bytes, AskError> {
        let question = FetchRequest::new(self.question(token)?, MAX_BODY);
        let (head, body) = self.fetch.fetch(question).await?.into_parts();
        // Also where the answer is none, or the keys do not come that it is signed with.
        self.outage.answered();
        match head.status.as_u16() {
            200 => self.locked_out.store(false, Ordering::Relaxed),
            // RFC 7662 §2.3: it is this API that is refused, not its caller (OPAQUE-34).
            status @ (401 | 403) => {
                if !self.locked_out.swap(true, Ordering::Relaxed) {
                    trace::locked_out(&self.policy.issuer, status);
                }
                return Err(AskError::Credentials(status));
            }
            status => return Err(AskError::Status(status)),
        }
        if !is_of_type(&head.headers, self.accepted()) {
            return Err(AskError::ContentType(self.accepted()));
        }
        match &self.signed {
            None => Ok(body),
            Some(signed) => {
                signed.open(&body, &self.policy, now, self.timeout).await.map(Bytes::from)
            }
        }
    }

    fn question(&self, token: &str) -> Result<Request<Bytes>, AskError> {
        let form = format!("token={}&token_type_hint=access_token", form_encoded(token));
        let mut request = Request::post(self.url.uri().clone())
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(ACCEPT, self.accepted())
            .body(Bytes::from(form))
            .map_err(FetchError::new)?;
        if let Some(credentials) = &self.credentials {
            request.headers_mut().insert(AUTHORIZATION, credentials.clone());
        }
        Ok(request)
    }

    fn accepted(&self) -> &'static str {
        if self.signed.is_some() { SIGNED } else { JSON }
    }
}

/// Whether the media type is this one, whatever its parameters.
fn is_of_type(headers: &HeaderMap, expected: &str) -> bool {
    let named = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = named.and_then(|named| named.split(';').next()).unwrap_or_default();
    essence.trim().eq_ignore_ascii_case(expected)
}

/// `application/x-www-form-urlencoded` as RFC 6749 appendix B has it.
pub(super) fn form_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' ' => encoded.push('+'),
            b'*' | b'-' | b'.' | b'_' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => {
                encoded.push(char::from(byte));
            }
            _ => {
                // Writing to a string does not fail.
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_encoded_as_appendix_b_of_rfc_6749_does() {
        assert_eq!(form_encoded(" %&+£€"), "+%25%26%2B%C2%A3%E2%82%AC", "OAUTH-3");
        assert_eq!(form_encoded("aZ09-._~+/="), "aZ09-._%7E%2B%2F%3D", "OPAQUE-20");
    }

    #[test]
    fn a_media_type_counts_without_its_parameters_and_its_case() {
        let is_json = |value: &'static str| {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(value))]);
            is_of_type(&headers, JSON)
        };
        for value in ["application/json", "Application/JSON ; charset=UTF-8"] {
            assert!(is_json(value), "OPAQUE-34: {value}");
        }
        for value in ["", "text/html", "application/json+x", "application/jsonp", "json"] {
            assert!(!is_json(value), "OPAQUE-34: {value}");
        }
        assert!(!is_of_type(&HeaderMap::new(), JSON), "OPAQUE-34");
    }
}
