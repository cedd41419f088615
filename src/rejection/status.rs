//! The refusal table: what each kind is called in HTTP, gRPC and OAuth.

use http::StatusCode;

use crate::rejection::RejectionKind;

/// One row of the table.
pub(super) struct Status {
    pub(super) http: StatusCode,
    pub(super) grpc: u8,
    /// `error` in the challenge (RFC 6750 §3.1, RFC 9470 §3).
    pub(super) challenge_error: Option<&'static str>,
    /// Whether the answer carries a challenge at all.
    pub(super) challenges: bool,
    /// `error` in the body.
    pub(super) error: &'static str,
    /// `message` in the body, `error_description` in the challenge, `grpc-message`: printable
    /// ASCII without quotes and backslashes (BEARER-24), and no help to an attacker (BEARER-27).
    pub(super) message: &'static str,
}

pub(super) const fn of(kind: RejectionKind) -> Status {
    let invalid_token = Some("invalid_token");
    let (http, grpc, challenge_error, error, message) = match kind {
        RejectionKind::MissingToken => (
            StatusCode::UNAUTHORIZED,
            16,
            None,
            "missing_token",
            "send a token in the Authorization header, as Bearer and the token",
        ),
        RejectionKind::MalformedRequest => (
            StatusCode::BAD_REQUEST,
            16,
            Some("invalid_request"),
            "invalid_request",
            "send exactly one token, in one Authorization header",
        ),
        RejectionKind::InvalidToken => (
            StatusCode::UNAUTHORIZED,
            16,
            invalid_token,
            "invalid_token",
            "the token is not valid here; get a new one from its issuer",
        ),
        RejectionKind::TokenExpired => (
            StatusCode::UNAUTHORIZED,
            16,
            invalid_token,
            "token_expired",
            "the token has expired; refresh it or get a new one",
        ),
        RejectionKind::TokenNotActive => (
            StatusCode::UNAUTHORIZED,
            16,
            invalid_token,
            "token_not_active",
            "the token is not valid yet; wait, or compare the clocks",
        ),
        RejectionKind::TokenRevoked => (
            StatusCode::UNAUTHORIZED,
            16,
            invalid_token,
            "token_revoked",
            "the token has been revoked; get a new one",
        ),
        RejectionKind::StepUpRequired => (
            StatusCode::UNAUTHORIZED,
            16,
            Some("insufficient_user_authentication"),
            "insufficient_user_authentication",
            "this needs a stronger or a more recent login; log in again as the challenge says",
        ),
        RejectionKind::InsufficientScope => (
            StatusCode::FORBIDDEN,
            7,
            Some("insufficient_scope"),
            "insufficient_scope",
            "the token lacks a scope; get one with the scopes that the challenge names",
        ),
        RejectionKind::Forbidden => (
            StatusCode::FORBIDDEN,
            7,
            None,
            "forbidden",
            "this caller may not do that; no other token of the same caller helps",
        ),
        RejectionKind::RateLimited => (
            StatusCode::TOO_MANY_REQUESTS,
            8,
            None,
            "rate_limited",
            "too many requests; wait as long as the answer says",
        ),
        RejectionKind::Unavailable => (
            StatusCode::SERVICE_UNAVAILABLE,
            14,
            None,
            "temporarily_unavailable",
            "the request cannot be checked right now; try again shortly",
        ),
        RejectionKind::LayerMissing => (
            StatusCode::INTERNAL_SERVER_ERROR,
            13,
            None,
            "misconfigured",
            "a layer of this service is missing or in the wrong order",
        ),
    };
    let challenges =
        matches!(http, StatusCode::UNAUTHORIZED | StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN);
    Status { http, grpc, challenge_error, challenges, error, message }
}
