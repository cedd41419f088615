//! What is written down about a request.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use http::{Extensions, Method, Request, StatusCode, Uri};
use serde::{Serialize, Serializer};

use crate::principal::{Authenticated, Principal};
use crate::scope::Scope;
use crate::trace::RequestSpan;

/// The longest text from a client that an event holds, in bytes (AUDIT-31).
const MAX_TEXT: usize = 256;
const MAX_PATH: usize = 1024;
const MAX_METHOD: usize = 32;

/// One request and what became of it.
///
/// An event has no token, no query, no body, and of the headers no more than the `User-Agent` and the
/// two that name the request. As JSON it is one
/// object with these members, `null` where unknown; they are part of this crate's API:
///
/// | member | what |
/// |---|---|
/// | `version` | [`AuditEvent::VERSION`]: which members there are, and what they mean |
/// | `time` | when the request came, RFC 3339 in UTC with milliseconds |
/// | `sequence` | the event's number in this process, from 1 |
/// | `outcome`, `reason` | [`Outcome`]; why, for a refusal: `wrong_audience`, `missing_token` … |
/// | `anonymous` | whether the caller was let in without a token, where that is allowed |
/// | `issuer`, `subject`, `client`, `scopes`, `roles` | the principal, only ever a verified one |
/// | `token_kind`, `token_id`, `key_id` | which token, by its public name, and which key signed it |
/// | `stale` | `true` where [`Principal::is_stale`] is, and absent otherwise |
/// | `address` | the client's address |
/// | `peer` | the transport's peer, where that is a proxy, and absent otherwise |
/// | `method`, `path`, `user_agent` | the request; the path without its query |
/// | `route` | the [route's template](crate::AuditLayer::with_route); absent where none is known |
/// | `trace_id` | the trace of a well-formed `traceparent`, and absent otherwise |
/// | `request_id` | a well-formed `x-request-id`, and absent otherwise |
/// | `status`, `grpc_status` | the answer; the second only of one that [ended with its head](Self::grpc_status) |
/// | `required_scopes` | the scopes that a refused request needed |
/// | `policy`, `remaining` | the limit that was asked last, and what it left |
/// | `fallback` | `true` where it was [decided in place of a store that could not](Self::fallback), and absent otherwise |
/// | `would_limit` | the limits in shadow that would have refused it; absent where none would |
/// | `latency_ms` | until the response's head was ready |
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct AuditEvent {
    /// Always [`VERSION`](Self::VERSION).
    pub version: u32,
    /// When the request came.
    #[serde(serialize_with = "rfc3339")]
    pub time: SystemTime,
    /// The event's number in this process, from 1, in the order in which requests ended.
    pub sequence: u64,
    /// What became of the request.
    pub outcome: Outcome,
    /// Why, for a request that was refused.
    pub reason: Option<&'static str>,
    /// Whether an [`AuthenticateLayer`](crate::AuthenticateLayer) let the caller in without a token.
    /// Where this is false and there is no principal, nobody was let in, or nobody was asked.
    pub anonymous: bool,
    /// Who called, when that was verified; also for an authentic token that had ended, was early or
    /// was revoked.
    #[serde(flatten, serialize_with = "who")]
    pub principal: Option<Principal>,
    /// Where the request came from.
    pub address: Option<IpAddr>,
    /// The transport's peer, where that is another: the nearest proxy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<IpAddr>,
    /// The request's method, cut to 32 bytes.
    #[serde(serialize_with = "display")]
    pub method: Method,
    /// The request's path, cut to 1024 bytes.
    pub path: String,
    /// The client's description of itself, cut to 256 bytes.
    pub user_agent: Option<String>,
    /// The template of the route, such as `/reports/{id}`, cut to 1024 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// The trace that the client says the request belongs to: 32 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// What the client or a proxy calls the request: up to 128 letters, digits, `.`, `_` and `-`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The status of the answer; `None` where there was none.
    #[serde(serialize_with = "code")]
    pub status: Option<StatusCode>,
    /// The `grpc-status` of an answer that ended with its head, as refusals do. That of a call which
    /// has begun to answer comes in its trailers, after the event, and is not seen.
    pub grpc_status: Option<u16>,
    /// The scopes that a refused request needed.
    #[serde(serialize_with = "scopes")]
    pub required_scopes: Vec<Scope>,
    /// The policy of the limit that was asked last, of several the strictest: of requests, of what runs
    /// at once, or of failures.
    pub policy: Option<Arc<str>>,
    /// What that policy had left.
    pub remaining: Option<u32>,
    /// Whether a [`FallbackStore`](crate::store::FallbackStore) decided on the rate limit in place of
    /// a store that could not.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub fallback: bool,
    /// The limits [in shadow](crate::rate_limit::Policy::in_shadow) that would have refused it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub would_limit: Vec<Arc<str>>,
    /// How long the response's head took.
    #[serde(rename = "latency_ms", serialize_with = "millis")]
    pub latency: Duration,
}

impl AuditEvent {
    /// Grows by one when a member goes or means something else; not when one is added.
    pub const VERSION: u32 = 1;
}

/// What became of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// The client went away, or a layer outside gave up: the request was dropped unanswered.
    Aborted,
    /// It reached the inner service, which answered. So does one that is between `AuditLayer` and the
    /// layers that refuse, such as a time limit.
    Allowed,
    /// It could not be decided on, or the inner service failed.
    Error,
    /// The inner service panicked.
    Panicked,
    /// A layer refused it.
    Refused,
}

impl Outcome {
    /// The outcome as the text that events carry.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Aborted => "aborted",
            Self::Allowed => "allowed",
            Self::Error => "error",
            Self::Panicked => "panicked",
            Self::Refused => "refused",
        }
    }
}

/// The part of a request's event that layers further in know, as a request extension.
#[derive(Clone)]
pub(crate) struct AuditSlot {
    span: RequestSpan,
    findings: Arc<Mutex<Findings>>,
}

/// What layers further in have found.
#[derive(Clone, Default)]
pub(crate) struct Findings {
    pub(crate) anonymous: bool,
    pub(crate) principal: Option<Principal>,
    pub(crate) policy: Option<Arc<str>>,
    pub(crate) remaining: Option<u32>,
    pub(crate) fallback: bool,
    pub(crate) would_limit: Vec<Arc<str>>,
}

impl AuditSlot {
    /// The slot of this request: the one that an AuditLayer further out has opened, so that both
    /// learn what the layers inside find, or a new one.
    pub(crate) fn on<B>(request: &mut Request<B>) -> Self {
        if let Some(slot) = Self::of(request.extensions()) {
            return slot.clone();
        }
        let method = bounded_method(request.method());
        let span = RequestSpan::open(method.as_str(), &bounded_path(request.uri()));
        let slot = Self { span, findings: Arc::default() };
        // An AuthenticateLayer further out has found its answer already.
        if let Some(authenticated) = Authenticated::of(request.extensions()) {
            slot.let_in(authenticated.principal.as_ref());
        }
        request.extensions_mut().insert(slot.clone());
        slot
    }

    /// The slot of a request that is audited.
    pub(crate) fn of(extensions: &Extensions) -> Option<&Self> {
        extensions.get()
    }

    /// Says whom an AuthenticateLayer lets in.
    pub(crate) fn let_in(&self, principal: Option<&Principal>) {
        match principal {
            Some(principal) => self.authenticated(principal),
            None => self.findings().anonymous = true,
        }
    }

    /// Says whose token the request carries, in the event and on the request's span.
    pub(crate) fn authenticated(&self, principal: &Principal) {
        self.span.record(principal);
        self.findings().principal = Some(principal.clone());
    }

    /// Says how a rate limit stands.
    pub(crate) fn limited(&self, policy: Arc<str>, remaining: u32) {
        let mut findings = self.findings();
        findings.policy = Some(policy);
        findings.remaining = Some(remaining);
    }

    /// Says that a limit was decided on in place of a store that could not.
    pub(crate) fn fell_back(&self) {
        self.findings().fallback = true;
    }

    /// Names a limit in shadow that would have refused the request.
    pub(crate) fn would_limit(&self, policy: Arc<str>) {
        self.findings().would_limit.push(policy);
    }

    pub(crate) fn span(&self) -> &RequestSpan {
        &self.span
    }

    pub(crate) fn findings(&self) -> MutexGuard<'_, Findings> {
        self.findings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The method, within bounds: a client may make up one of any length.
pub(crate) fn bounded_method(method: &Method) -> Method {
    match method.as_str().get(..MAX_METHOD) {
        // What begins a method is one, and so is what ends in dots.
        Some(start) if start.len() < method.as_str().len() => {
            Method::from_bytes(format!("{start}...").as_bytes()).unwrap_or_default()
        }
        _ => method.clone(),
    }
}

/// The path of a target, within bounds.
pub(crate) fn bounded_path(uri: &Uri) -> Cow<'_, str> {
    truncated(uri.path(), MAX_PATH)
}

/// The template of a route, within bounds: the application finds it, perhaps in a path.
pub(crate) fn bounded_route(route: &str) -> String {
    truncated(route, MAX_PATH).into_owned()
}

/// A header's text, within bounds; bytes that are not UTF-8 are replaced.
pub(crate) fn bounded_text(value: &[u8]) -> String {
    let start = &value[..value.len().min(MAX_TEXT + 4)];
    truncated(&String::from_utf8_lossy(start), MAX_TEXT).into_owned()
}

/// At most `max` bytes, cut between characters and marked where cut.
fn truncated(text: &str, max: usize) -> Cow<'_, str> {
    if text.len() <= max {
        return Cow::Borrowed(text);
    }
    let end = (0..=max).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    Cow::Owned(format!("{}…", &text[..end]))
}

fn rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_millis(*time))
}

fn display<S: Serializer>(value: &impl fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

#[expect(clippy::ref_option, reason = "the signature that serde asks for")]
fn code<S: Serializer>(status: &Option<StatusCode>, serializer: S) -> Result<S::Ok, S::Error> {
    status.map(|status| status.as_u16()).serialize(serializer)
}

fn millis<S: Serializer>(latency: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    // Whole microseconds, so that no digits are noise.
    let micros = u32::try_from(latency.as_micros()).unwrap_or(u32::MAX);
    serializer.serialize_f64(f64::from(micros) / 1000.0)
}

fn scopes<S: Serializer>(scopes: &[Scope], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(scopes.iter().map(Scope::as_str))
}

#[derive(Default, Serialize)]
struct Who<'a> {
    issuer: Option<&'a str>,
    subject: Option<&'a str>,
    client: Option<&'a str>,
    scopes: Vec<&'a str>,
    roles: Vec<&'a str>,
    token_kind: Option<&'static str>,
    token_id: Option<&'a str>,
    key_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stale: Option<bool>,
}

#[expect(clippy::ref_option, reason = "the signature that serde asks for")]
fn who<S: Serializer>(principal: &Option<Principal>, serializer: S) -> Result<S::Ok, S::Error> {
    let who = principal.as_ref().map_or_else(Who::default, |principal| Who {
        issuer: Some(principal.issuer()),
        subject: Some(principal.subject()),
        client: principal.client(),
        scopes: principal.scopes().iter().collect(),
        roles: principal.roles().collect(),
        token_kind: Some(principal.token_kind().as_str()),
        token_id: principal.token_id(),
        key_id: principal.key_id(),
        stale: principal.is_stale().then_some(true),
    });
    who.serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_between_characters_and_marked() {
        assert_eq!(bounded_text(b"curl/8.5"), "curl/8.5");
        let long = "é".repeat(10_000);
        let cut = bounded_text(long.as_bytes());
        assert_eq!(cut, format!("{}…", "é".repeat(128)), "AUDIT-31");
        assert_eq!(bounded_text(b"a\xffb"), "a\u{fffd}b", "AUDIT-30");

        let method = |length| Method::from_bytes("M".repeat(length).as_bytes()).unwrap();
        for (length, expected) in [(3, "M".repeat(3)), (32, "M".repeat(32))] {
            assert_eq!(bounded_method(&method(length)), *expected, "AUDIT-31");
        }
        assert_eq!(bounded_method(&method(5000)), *format!("{}...", "M".repeat(32)), "AUDIT-31");
    }
}
