//! The refusal table: what each kind is called in HTTP, gRPC and OAuth.

use http::StatusCode;

use crate::rejection::RejectionKind;

/// One row of the table.
pub(super) struct Status {
    pub(super) http: StatusCode,
    pub(super) grpc: u8,
    /// `error` in the challenge (RFC 6750 §3.1, RFC 9470 §3).
    pub(super) challenge_error: Option<&'static str>,
    /// Whether the answer carries a challenge at all: where another token could help, or where the
    /// one that is there cannot be read.
    pub(super) challenges: bool,
}

pub(super) const fn of(kind: RejectionKind) -> Status {
    let (http, grpc, challenge_error) = match kind {
        RejectionKind::Forbidden => (StatusCode::FORBIDDEN, 7, None),
        RejectionKind::InsufficientScope => (StatusCode::FORBIDDEN, 7, Some(error(kind))),
        RejectionKind::InvalidToken
        | RejectionKind::TokenExpired
        | RejectionKind::TokenNotActive
        | RejectionKind::TokenRevoked => {
            // RFC 6750 has one word for all of them; the body tells them apart.
            (StatusCode::UNAUTHORIZED, 16, Some(error(RejectionKind::InvalidToken)))
        }
        RejectionKind::LayerMissing => (StatusCode::INTERNAL_SERVER_ERROR, 13, None),
        // 16 rather than 3: a gRPC client refreshes its credentials on 16.
        RejectionKind::MalformedRequest => (StatusCode::BAD_REQUEST, 16, Some(error(kind))),
        RejectionKind::MissingToken => (StatusCode::UNAUTHORIZED, 16, None),
        RejectionKind::RateLimited => (StatusCode::TOO_MANY_REQUESTS, 8, None),
        RejectionKind::StepUpRequired => (StatusCode::UNAUTHORIZED, 16, Some(error(kind))),
        RejectionKind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, 14, None),
    };
    let challenges =
        matches!(http, StatusCode::UNAUTHORIZED | StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN);
    Status { http, grpc, challenge_error, challenges }
}

/// `error` in the body: a stable word, part of this crate's API.
pub(super) const fn error(kind: RejectionKind) -> &'static str {
    match kind {
        RejectionKind::Forbidden => "forbidden",
        RejectionKind::InsufficientScope => "insufficient_scope",
        RejectionKind::InvalidToken => "invalid_token",
        RejectionKind::LayerMissing => "misconfigured",
        RejectionKind::MalformedRequest => "invalid_request",
        RejectionKind::MissingToken => "missing_token",
        RejectionKind::RateLimited => "rate_limited",
        RejectionKind::StepUpRequired => "insufficient_user_authentication",
        RejectionKind::TokenExpired => "token_expired",
        RejectionKind::TokenNotActive => "token_not_active",
        RejectionKind::TokenRevoked => "token_revoked",
        RejectionKind::Unavailable => "temporarily_unavailable",
    }
}

/// `message` in the body, `error_description` in the challenge, `grpc-message`: printable ASCII
/// without quotes and backslashes (BEARER-24), and no help to an attacker (BEARER-27).
pub(super) const fn message(kind: RejectionKind) -> &'static str {
    match kind {
        RejectionKind::Forbidden => {
            "this caller may not do that; no other token of the same caller helps"
        }
        RejectionKind::InsufficientScope => {
            "the token lacks a scope; get one with the scopes that the challenge names"
        }
        RejectionKind::InvalidToken => "the token is not valid here; get a new one from its issuer",
        RejectionKind::LayerMissing => "a layer of this service is missing or in the wrong order",
        RejectionKind::MalformedRequest => "send exactly one token, in one Authorization header",
        RejectionKind::MissingToken => {
            "send a token in the Authorization header, as Bearer and the token"
        }
        RejectionKind::RateLimited => "too many requests; wait as long as the answer says",
        RejectionKind::StepUpRequired => {
            "this needs a stronger or a more recent login; log in again as the challenge says"
        }
        RejectionKind::TokenExpired => "the token has expired; refresh it or get a new one",
        RejectionKind::TokenNotActive => "the token is not valid yet; wait, or compare the clocks",
        RejectionKind::TokenRevoked => "the token has been revoked; get a new one",
        RejectionKind::Unavailable => "the request cannot be checked right now; try again shortly",
    }
}
