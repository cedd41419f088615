//! The JSON body of a refusal (RFC 9457).

use bytes::Bytes;
use http::{HeaderValue, Response, header};
use serde::Serialize;

use crate::rejection::{BANNED, Rejection, RejectionKind, status};
use crate::scope::Scope;

/// The problem type for a quota that is used up, and the title that goes with it.
const QUOTA_EXCEEDED: (&str, &str) =
    ("https://iana.org/assignments/http-problem-types#quota-exceeded", "Quota exceeded");

/// The same for callers that behave like an attacker.
const ABNORMAL_USAGE: (&str, &str) = (
    "https://iana.org/assignments/http-problem-types#abnormal-usage-detected",
    "Abnormal usage detected",
);

/// The problem type for a server with too much to do.
const REDUCED_CAPACITY: (&str, &str) = (
    "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity",
    "Temporarily reduced capacity",
);

#[derive(Serialize)]
struct Problem<'a> {
    error: &'a str,
    message: &'a str,
    r#type: &'a str,
    title: &'a str,
    status: u16,
    /// The scopes that the request needs.
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
    #[serde(rename = "violated-policies", skip_serializing_if = "Vec::is_empty")]
    violated_policies: Vec<&'a str>,
}

pub(super) fn respond(rejection: &Rejection) -> Response<Bytes> {
    let status = status::of(rejection.kind()).http;
    let (r#type, title) = match rejection.kind() {
        RejectionKind::RateLimited if rejection.reason() == BANNED => ABNORMAL_USAGE,
        RejectionKind::RateLimited => QUOTA_EXCEEDED,
        RejectionKind::Unavailable if rejection.policies().next().is_some() => REDUCED_CAPACITY,
        // BEARER-61: without a type of its own, a problem has the status phrase for a title.
        _ => ("about:blank", status.canonical_reason().unwrap_or_default()),
    };
    let scopes: Vec<&str> = rejection.scopes().iter().map(Scope::as_str).collect();
    let problem = Problem {
        error: rejection.error(),
        message: rejection.message(),
        r#type,
        title,
        status: status.as_u16(),
        scope: (!scopes.is_empty()).then(|| scopes.join(" ")),
        retry_after: rejection.retry_after_seconds(),
        violated_policies: rejection.policies().collect(),
    };
    // Strings and numbers always serialize.
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    let mut response = Response::new(body.into());
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    response
}
