//! Saying no: one value for a refusal, rendered as HTTP or gRPC.
//!
//! Every layer of this crate that refuses a request makes a [`Rejection`] and answers with it. What
//! the client sees depends on the kind alone, and on what it spoke: gRPC calls, which are POST
//! requests with a `content-type` of their own, get a trailers-only reply, all others get a status,
//! headers and a JSON body.
//!
//! | kind | HTTP | gRPC | `error` in the challenge | `error` in the body |
//! |---|---|---|---|---|
//! | [`MissingToken`](RejectionKind::MissingToken) | 401 | 16 | – | `missing_token` |
//! | [`MalformedRequest`](RejectionKind::MalformedRequest) | 400 | 16 | `invalid_request` | `invalid_request` |
//! | [`InvalidToken`](RejectionKind::InvalidToken) | 401 | 16 | `invalid_token` | `invalid_token` |
//! | [`TokenExpired`](RejectionKind::TokenExpired) | 401 | 16 | `invalid_token` | `token_expired` |
//! | [`TokenNotActive`](RejectionKind::TokenNotActive) | 401 | 16 | `invalid_token` | `token_not_active` |
//! | [`TokenRevoked`](RejectionKind::TokenRevoked) | 401 | 16 | `invalid_token` | `token_revoked` |
//! | [`StepUpRequired`](RejectionKind::StepUpRequired) | 401 | 16 | `insufficient_user_authentication` | the same |
//! | [`InsufficientScope`](RejectionKind::InsufficientScope) | 403 | 7 | `insufficient_scope` | `insufficient_scope` |
//! | [`Forbidden`](RejectionKind::Forbidden) | 403 | 7 | – | `forbidden` |
//! | [`RateLimited`](RejectionKind::RateLimited) | 429 | 8 | – | `rate_limited` |
//! | [`Unavailable`](RejectionKind::Unavailable) | 503 | 14 | – | `temporarily_unavailable` |
//! | [`LayerMissing`](RejectionKind::LayerMissing) | 500 | 13 | – | `misconfigured` |
//!
//! The body is a problem document (RFC 9457) that begins with `error`, a stable word, and
//! `message`, a sentence for the developer of the client. A 401, 400 or 403 carries a challenge
//! (RFC 6750 §3), a 429 or 503 `Retry-After` where waiting helps, and every refusal
//! `Cache-Control: no-store`. The [`Rejection`] itself is in the response's extensions, for layers
//! outside that count or log.
//!
//! An application that wants bodies of its own gives a [`Responder`] to its
//! [`AuthenticateLayer`](crate::AuthenticateLayer); the layers inside use it too.
//!
//! # Security
//!
//! An expired, early or revoked token is told apart from an invalid one only by verifiers that
//! know it to be authentic, and with
//! [`with_uniform_errors`](crate::AuthenticateLayer::with_uniform_errors) not even then. The reason
//! that an audit event has is never shown to the client.

mod answer;
mod body;
mod challenge;
#[cfg(feature = "tonic")]
mod convert;
mod grpc;
mod headers;
mod problem;
mod responder;
mod status;

use std::sync::Arc;
use std::time::Duration;

use crate::partition::UnknownCaller;
use crate::requirement::{Requirement, Unmet};
use crate::scope::Scope;
use crate::token::MalformedCredentials;

pub use self::body::ResponseBody;
pub use self::challenge::{Challenge, InvalidChallenge};
pub use self::responder::{RequestHead, Responder};

pub(crate) use self::answer::AnswerFuture;
pub(crate) use self::grpc::{has_failed, status_of as grpc_status};
pub(crate) use self::headers::whole_seconds;
pub(crate) use self::responder::RefusalStyle;

/// When one of many running requests will have ended, as far as anybody knows.
const SHORTLY: Duration = Duration::from_secs(1);

/// The reason of a refusal of an address, whatever it sends.
const BANNED: &str = "banned";

/// The reasons of refusals of authentic tokens.
const AUTHENTIC: [&str; 7] = [
    "expired",
    "invalid_claims",
    "missing_claim",
    "not_active",
    "revoked",
    "sender_constrained",
    "wrong_audience",
];

/// Why a request was refused, and everything the client is told about it.
///
/// A handler that finds out for itself that a caller may not do something answers with one: with
/// the feature `axum` it is a response, with `tonic` a status.
///
/// ```
/// use std::time::Duration;
/// use tower_gate::{Rejection, RejectionKind, Requirement};
///
/// let not_theirs = Rejection::new(RejectionKind::Forbidden).with_reason("report_of_another_tenant");
/// let too_little = Rejection::insufficient_scope(&Requirement::scope("read:archive"));
/// let too_busy = Rejection::new(RejectionKind::Unavailable)
///     .with_retry_after(Duration::from_secs(5))
///     .with_reason("archive_is_moving");
/// assert_eq!(not_theirs.reason(), "report_of_another_tenant");
/// assert_eq!(too_little.scopes()[0].as_str(), "read:archive");
/// assert_eq!(too_busy.error(), "temporarily_unavailable");
/// ```
#[derive(Clone, Debug)]
pub struct Rejection {
    kind: RejectionKind,
    reason: &'static str,
    message: Option<&'static str>,
    retry_after: Option<Duration>,
    lack: Option<Unmet>,
    policies: Vec<Arc<str>>,
}

/// The kinds of refusal; the [module](self) shows what the client sees of each.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum RejectionKind {
    /// The caller may not do this, whatever its scopes: a role or a policy is against it.
    Forbidden,
    /// The token lacks a scope.
    InsufficientScope,
    /// The token is unknown, malformed, wrongly signed or meant for somebody else.
    InvalidToken,
    /// A layer met a request that the layer it relies on has not seen: a wiring mistake.
    LayerMissing,
    /// More than one credential, or a header that cannot be read.
    MalformedRequest,
    /// No token.
    MissingToken,
    /// The quota is used up.
    RateLimited,
    /// The login behind the token is too weak or too old.
    StepUpRequired,
    /// The token was authentic and has ended.
    TokenExpired,
    /// The token is authentic and not valid yet.
    TokenNotActive,
    /// The token was authentic and has been revoked.
    TokenRevoked,
    /// Whatever must answer first, a verifier or a store, cannot.
    Unavailable,
}

impl Rejection {
    /// A refusal of this kind, for layers and handlers of the application's own.
    #[must_use]
    pub fn new(kind: RejectionKind) -> Self {
        let reason = status::error(kind);
        Self { kind, reason, message: None, retry_after: None, lack: None, policies: Vec::new() }
    }

    /// A refusal of a token that lacks the scopes of this requirement, which the challenge names.
    /// Of alternatives, it names the first that a client can ask for.
    #[must_use]
    pub fn insufficient_scope(needed: &Requirement) -> Self {
        Self::unmet(Unmet::Scopes(needed.named_scopes()))
    }

    /// The wait after which the request may succeed, for a refusal that waiting helps against.
    #[must_use]
    pub fn with_retry_after(self, retry_after: impl Into<Option<Duration>>) -> Self {
        Self { retry_after: retry_after.into(), ..self }
    }

    /// The reason for audit and metrics: one of a few words that the program knows. Default: the
    /// word in the body.
    #[must_use]
    pub fn with_reason(self, reason: &'static str) -> Self {
        Self { reason, ..self }
    }

    /// The kind.
    #[must_use]
    pub fn kind(&self) -> RejectionKind {
        self.kind
    }

    /// The stable word in the body, such as `token_expired`.
    #[must_use]
    pub fn error(&self) -> &'static str {
        status::error(self.kind)
    }

    /// The sentence in the body.
    #[must_use]
    pub fn message(&self) -> &'static str {
        self.message.unwrap_or(status::message(self.kind))
    }

    /// The precise reason, such as `wrong_audience`, for audit and metrics. The client never sees
    /// it.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        self.reason
    }

    /// The wait after which the request may succeed.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The scopes that the request needs, where it failed for a scope.
    #[must_use]
    pub fn scopes(&self) -> &[Scope] {
        match &self.lack {
            Some(Unmet::Scopes(scopes)) => scopes,
            _ => &[],
        }
    }

    /// The names of the policies that ran out, where the request was limited.
    pub fn policies(&self) -> impl Iterator<Item = &str> {
        self.policies.iter().map(AsRef::as_ref)
    }

    /// A layer relies on another that has not seen the request; the message names it.
    pub(crate) fn layer_missing(message: &'static str) -> Self {
        Self { message: Some(message), ..Self::new(RejectionKind::LayerMissing) }
    }

    pub(crate) fn limited(policies: Vec<Arc<str>>, retry_after: Option<Duration>) -> Self {
        Self { policies, retry_after, ..Self::new(RejectionKind::RateLimited) }
    }

    /// An address has failed too often.
    pub(crate) fn banned(policy: Arc<str>, wait: Duration) -> Self {
        let message = "too many bad tokens from this address; wait as long as the answer says";
        let rejection = Self::limited(vec![policy], Some(wait)).with_reason(BANNED);
        Self { message: Some(message), ..rejection }
    }

    /// A caller has as many requests running as it may.
    pub(crate) fn too_many_at_once(policy: Arc<str>) -> Self {
        let message = "too many requests at once; wait for the answer to another one";
        let rejection = Self::limited(vec![policy], Some(SHORTLY)).with_reason("too_many_at_once");
        Self { message: Some(message), ..rejection }
    }

    /// All callers together have as many requests running as there may be.
    pub(crate) fn at_capacity(policy: Arc<str>) -> Self {
        let message = "the service has as many requests as it can serve; try again shortly";
        let rejection = Self::new(RejectionKind::Unavailable).with_reason("at_capacity");
        let rejection = rejection.with_retry_after(SHORTLY);
        Self { message: Some(message), policies: vec![policy], ..rejection }
    }

    /// Whether the token may have been a guess: it was not good, and not known to be authentic.
    pub(crate) fn is_guess(&self) -> bool {
        // The reason tells, because an API may call every token invalid.
        self.kind == RejectionKind::InvalidToken && !AUTHENTIC.contains(&self.reason)
    }

    pub(crate) fn unmet(lack: Unmet) -> Self {
        let kind = match lack {
            Unmet::Policy => RejectionKind::Forbidden,
            Unmet::Scopes(_) => RejectionKind::InsufficientScope,
            Unmet::StepUp { .. } => RejectionKind::StepUpRequired,
        };
        Self { lack: Some(lack), ..Self::new(kind) }
    }

    /// What an unauthenticated caller of a protected route will need.
    pub(crate) fn missing_token_for(scopes: Vec<Scope>) -> Self {
        Self { lack: Some(Unmet::Scopes(scopes)), ..Self::new(RejectionKind::MissingToken) }
    }

    /// The wait as clients see it: whole seconds, at least one (RL-21) and at most what a protocol
    /// buffers `Duration` holds.
    fn retry_after_seconds(&self) -> Option<u64> {
        const TEN_THOUSAND_YEARS: u64 = 315_576_000_000;
        self.retry_after.map(|wait| whole_seconds(wait).clamp(1, TEN_THOUSAND_YEARS))
    }

    /// The same refusal without a hint that the token was ever good.
    fn uniform(self) -> Self {
        match self.kind {
            RejectionKind::TokenExpired
            | RejectionKind::TokenNotActive
            | RejectionKind::TokenRevoked => Self { kind: RejectionKind::InvalidToken, ..self },
            _ => self,
        }
    }
}

impl From<UnknownCaller> for Rejection {
    fn from(unknown: UnknownCaller) -> Self {
        Self::layer_missing(match unknown {
            UnknownCaller::Address => {
                "the limit cannot see the peer's address: insert PeerAddr into requests, or say \
                 where it is with ClientIp"
            }
            UnknownCaller::Principal => {
                "the limit needs an AuthenticateLayer outside of it; or count by address, without \
                 tiers"
            }
            UnknownCaller::Value => {
                "the limit cannot see the extension that it counts by: insert it further out"
            }
        })
    }
}

impl From<MalformedCredentials> for Rejection {
    fn from(malformed: MalformedCredentials) -> Self {
        let (reason, message) = match malformed {
            MalformedCredentials::BrokenHeader => (
                "broken_header",
                "the Authorization header must be the word Bearer, one space and one token",
            ),
            MalformedCredentials::SeveralCredentials => (
                "several_credentials",
                "send exactly one token, in one Authorization header and nowhere else",
            ),
        };
        let rejection = Self::new(RejectionKind::MalformedRequest).with_reason(reason);
        Self { message: Some(message), ..rejection }
    }
}
