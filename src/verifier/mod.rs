//! Turning a token into a principal.
//!
//! [`JwtVerifier`](jwt::JwtVerifier) checks signed tokens, with keys that are given or, with the
//! feature `jwks`, fetched; with the feature `introspection`, `IntrospectionVerifier` asks an issuer
//! about tokens that say nothing themselves; with the feature `opaque`, `OpaqueTokens` issues such
//! tokens and its `OpaqueVerifier` accepts them; [`FixedVerifier`] knows a few fixed ones;
//! [`TokenVerifier`] is the port for everything else. [`RoutedVerifier`] chooses between several,
//! [`CachedVerifier`] remembers what was accepted, and [`TokenVerifier::load`] attaches the
//! application's user. With the feature `revocation`, `RevocableVerifier` around all of them refuses
//! what was revoked.

mod cached;
mod fixed;
#[cfg(feature = "introspection")]
pub mod introspection;
#[cfg(feature = "jwks")]
pub mod jwks;
#[cfg(any(feature = "jwt", feature = "rust-crypto"))]
pub mod jwt;
mod loaded;
#[cfg(feature = "opaque")]
pub mod opaque;
#[cfg(feature = "revocation")]
pub mod revocable;
mod routed;

use std::error::Error as StdError;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::principal::Principal;
use crate::rejection::{Rejection, RejectionKind};
use crate::token::BearerToken;

pub use self::cached::{CachedVerifier, VerifiedTokens};
pub use self::fixed::FixedVerifier;
pub use self::loaded::LoadedVerifier;
pub use self::routed::RoutedVerifier;

/// Decides whether a token is good, and whose it is.
///
/// **Contract.** `Ok` only for a token that is authentic, meant for this API and valid at
/// [`now`](VerifyRequest::now); the principal's issuer and subject name its holder. Where the
/// answer is at hand, [`try_verify`](Self::try_verify) gives it without waiting; otherwise it says
/// `None` and [`verify`](Self::verify) is awaited. The clock is never read: `now` is the time.
///
/// **Errors.** The kind of a [`VerifyError`] decides what the client sees: 503 for
/// [`Unavailable`](VerifyErrorKind::Unavailable), 401 for all others. Say
/// [`Expired`](VerifyErrorKind::Expired), [`NotActive`](VerifyErrorKind::NotActive) or
/// [`Revoked`](VerifyErrorKind::Revoked) only once the token is known to be authentic, and
/// `Unavailable` whenever the answer is not known: an outage is neither a good nor a bad token.
///
/// **Concurrency.** Called from many tasks at once. The future may be dropped at any await.
///
/// **Security.** A wrong `Ok` lets a stranger in. Compare secrets in constant time, look tokens up
/// by a digest, keep them out of errors and logs.
///
/// A closure from [`VerifyRequest`] to such a future is a verifier too. A complete one by hand:
///
/// ```
/// use tower_gate::verifier::{VerifyError, VerifyErrorKind, VerifyRequest};
/// use tower_gate::{Principal, TokenVerifier};
///
/// /// Asks another service about every token.
/// struct SessionVerifier {
///     sessions: Sessions,
/// }
///
/// impl TokenVerifier for SessionVerifier {
///     async fn verify(&self, request: &VerifyRequest) -> Result<Principal, VerifyError> {
///         let found = self.sessions.find(request.token.as_str()).await;
///         match found.map_err(VerifyError::unavailable)? {
///             Some(user) => Ok(Principal::builder("https://sessions.example", &user).build()),
///             None => Err(VerifyErrorKind::UnknownToken.into()),
///         }
///     }
/// }
/// # struct Sessions;
/// # impl Sessions {
/// #     async fn find(&self, _: &str) -> Result<Option<String>, std::io::Error> { Ok(None) }
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a `TokenVerifier`",
    note = "use `JwtVerifier` or `FixedVerifier`, implement `TokenVerifier`, or pass a closure \
            `Fn(VerifyRequest) -> impl Future<Output = Result<Principal, VerifyError>> + Send`"
)]
pub trait TokenVerifier: Send + Sync + 'static {
    /// The principal of a text that was accepted before, byte for byte, and still would be: asked
    /// ahead of [`try_verify`](Self::try_verify), before anybody has looked at the text's form, at a
    /// time that may be [a little late](crate::Clock::coarse_now). `None` says nothing. A verifier that
    /// remembers gives this shortcut; one that stands around others passes it on if it would add nothing
    /// of its own to the answer.
    fn recall(&self, text: &[u8], now: SystemTime) -> Option<Principal> {
        let _ = (text, now);
        None
    }

    /// Answers at once where it can: a key in memory, a token seen before.
    fn try_verify(&self, request: &VerifyRequest) -> Option<Result<Principal, VerifyError>> {
        let _ = request;
        None
    }

    /// Answers, after waiting for whatever knows.
    fn verify(
        &self,
        request: &VerifyRequest,
    ) -> impl Future<Output = Result<Principal, VerifyError>> + Send;

    /// A number that is another one whenever a token that was good before may not be any more, as when a
    /// key is withdrawn. A [`CachedVerifier`] asks for it on every hit, so it must be cheap.
    fn generation(&self) -> u64 {
        0
    }

    /// Attaches what the application knows of a principal, such as its user, for
    /// [`Principal::get`]. An error refuses the token, or says that nobody knows.
    ///
    /// It is loaded for every verification; put a [`CachedVerifier`] around it, so that it is
    /// loaded once and kept as long as the token is remembered. Requests that come at once with a
    /// token that is not remembered yet load each by itself: where a burst of those, once a minute, is
    /// too much for what is asked, let `load` ask through something that asks once for all who wait.
    ///
    /// ```
    /// use tower_gate::verifier::{CachedVerifier, VerifyError, VerifyErrorKind};
    /// use tower_gate::{AuthenticateLayer, FixedVerifier, Principal, TokenVerifier};
    ///
    /// #[derive(Clone)]
    /// struct User {
    ///     name: String,
    /// }
    ///
    /// let verifier = FixedVerifier::new().load(|principal: Principal| async move {
    ///     # let find = async |_: &str| Ok::<_, std::io::Error>(None::<User>);
    ///     let found = find(principal.subject()).await.map_err(VerifyError::unavailable)?;
    ///     found.ok_or(VerifyErrorKind::UnknownToken.into())
    /// });
    /// let layer = AuthenticateLayer::new(CachedVerifier::new(verifier));
    /// # let _ = (layer, |user: User| user.name);
    /// ```
    fn load<F, Fut, T>(self, load: F) -> LoadedVerifier<Self, F>
    where
        Self: Sized,
        F: Fn(Principal) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, VerifyError>> + Send,
        T: Clone + Send + Sync + 'static,
    {
        LoadedVerifier::new(self, load)
    }
}

impl<F, Fut> TokenVerifier for F
where
    F: Fn(VerifyRequest) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Principal, VerifyError>> + Send,
{
    async fn verify(&self, request: &VerifyRequest) -> Result<Principal, VerifyError> {
        self(request.clone()).await
    }
}

impl<V: TokenVerifier + ?Sized> TokenVerifier for Arc<V> {
    fn recall(&self, text: &[u8], now: SystemTime) -> Option<Principal> {
        (**self).recall(text, now)
    }

    fn try_verify(&self, request: &VerifyRequest) -> Option<Result<Principal, VerifyError>> {
        (**self).try_verify(request)
    }

    async fn verify(&self, request: &VerifyRequest) -> Result<Principal, VerifyError> {
        (**self).verify(request).await
    }

    fn generation(&self) -> u64 {
        (**self).generation()
    }
}

/// What a verifier is asked.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct VerifyRequest {
    /// The token.
    pub token: BearerToken,
    /// The time against which its times are checked.
    pub now: SystemTime,
    /// Whether what is remembered of it does not count.
    pub(crate) anew: bool,
}

impl VerifyRequest {
    /// A question about this token at this time.
    #[must_use]
    pub fn new(token: BearerToken, now: SystemTime) -> Self {
        Self { token, now, anew: false }
    }

    /// The same question to whoever remembers the answer, and is to ask again.
    #[cfg(feature = "revocation")]
    pub(crate) fn anew(&self) -> Self {
        Self { anew: true, ..self.clone() }
    }
}

/// A token was not accepted, or nobody knows.
#[derive(Clone, Debug)]
pub struct VerifyError {
    kind: VerifyErrorKind,
    principal: Option<Principal>,
    retry_after: Option<Duration>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// Why a token was not accepted. Clients see three of these, and an outage; the rest read
/// `invalid_token` to them and are told apart in the audit event only.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum VerifyErrorKind {
    /// The signature is not that of a known key.
    BadSignature,
    /// Authentic, and over.
    Expired,
    /// Authentic, and a claim is there that has the wrong type or breaks a rule.
    InvalidClaims,
    /// Not a token of the expected form.
    Malformed,
    /// Authentic, and a required claim is not there.
    MissingClaim,
    /// Authentic, and not valid yet.
    NotActive,
    /// Authentic, and withdrawn.
    Revoked,
    /// Authentic, and bound to a key whose possession a bearer token does not prove.
    SenderConstrained,
    /// Whatever knows cannot be asked.
    Unavailable,
    /// No key that is known could have signed it.
    UnknownKey,
    /// Nobody knows this token.
    UnknownToken,
    /// Signed in a way that is not accepted.
    UnsupportedAlgorithm,
    /// Authentic, and meant for another API.
    WrongAudience,
    /// From an issuer that is not trusted here.
    WrongIssuer,
    /// A signed text of another kind, such as an ID token.
    WrongType,
}

impl VerifyErrorKind {
    /// The kind as the `reason` of audit events.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadSignature => "bad_signature",
            Self::Expired => "expired",
            Self::InvalidClaims => "invalid_claims",
            Self::Malformed => "malformed_token",
            Self::MissingClaim => "missing_claim",
            Self::NotActive => "not_active",
            Self::Revoked => "revoked",
            Self::SenderConstrained => "sender_constrained",
            Self::Unavailable => "verifier_unavailable",
            Self::UnknownKey => "unknown_key",
            Self::UnknownToken => "unknown_token",
            Self::UnsupportedAlgorithm => "unsupported_algorithm",
            Self::WrongAudience => "wrong_audience",
            Self::WrongIssuer => "wrong_issuer",
            Self::WrongType => "wrong_type",
        }
    }
}

impl VerifyError {
    /// How long a client is told to wait out an outage, unless the verifier knows better.
    const RETRY_AFTER: Duration = Duration::from_secs(5);

    /// An error of this kind with its cause, which is logged at debug level and must not hold the
    /// token.
    pub fn new(kind: VerifyErrorKind, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { source: Some(source.into().into()), ..kind.into() }
    }

    /// The verifier cannot ask whatever knows the token.
    pub fn unavailable(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::new(VerifyErrorKind::Unavailable, source)
    }

    /// Whose token it is, for the audit trail: only for a token that is authentic all the same, as an
    /// expired or revoked one is.
    #[must_use]
    pub fn with_principal(self, principal: Principal) -> Self {
        Self { principal: Some(principal), ..self }
    }

    /// When it is worth trying again, where the verifier knows. Default for an outage: 5 seconds.
    #[must_use]
    pub fn with_retry_after(self, wait: Duration) -> Self {
        Self { retry_after: Some(wait), ..self }
    }

    /// The kind.
    #[must_use]
    pub fn kind(&self) -> VerifyErrorKind {
        self.kind
    }

    /// Whose token it is, where that is known.
    #[must_use]
    pub fn principal(&self) -> Option<&Principal> {
        self.principal.as_ref()
    }
}

impl From<VerifyErrorKind> for VerifyError {
    fn from(kind: VerifyErrorKind) -> Self {
        let retry_after = (kind == VerifyErrorKind::Unavailable).then_some(Self::RETRY_AFTER);
        Self { kind, principal: None, retry_after, source: None }
    }
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            VerifyErrorKind::BadSignature => "the signature does not match",
            VerifyErrorKind::Expired => "the token has expired",
            VerifyErrorKind::InvalidClaims => "a claim is not acceptable",
            VerifyErrorKind::Malformed => "the text is not a token of the expected form",
            VerifyErrorKind::MissingClaim => "a required claim is missing",
            VerifyErrorKind::NotActive => "the token is not valid yet",
            VerifyErrorKind::Revoked => "the token has been revoked",
            VerifyErrorKind::SenderConstrained => "the token is bound to a key of its holder",
            VerifyErrorKind::Unavailable => "the token cannot be verified right now",
            VerifyErrorKind::UnknownKey => "no known key fits the token",
            VerifyErrorKind::UnknownToken => "the token is unknown",
            VerifyErrorKind::UnsupportedAlgorithm => "the algorithm is not accepted",
            VerifyErrorKind::WrongAudience => "the token is meant for another audience",
            VerifyErrorKind::WrongIssuer => "the token is from another issuer",
            VerifyErrorKind::WrongType => "the token is of another type",
        })
    }
}

impl StdError for VerifyError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

/// Whatever is not known to be an authentic token's own end reads `invalid_token`.
impl From<VerifyError> for Rejection {
    fn from(error: VerifyError) -> Self {
        let kind = match error.kind {
            VerifyErrorKind::Expired => RejectionKind::TokenExpired,
            VerifyErrorKind::NotActive => RejectionKind::TokenNotActive,
            VerifyErrorKind::Revoked => RejectionKind::TokenRevoked,
            VerifyErrorKind::Unavailable => RejectionKind::Unavailable,
            _ => RejectionKind::InvalidToken,
        };
        Self::new(kind).with_reason(error.kind.as_str()).with_retry_after(error.retry_after)
    }
}

/// The answer of a verifier that has to wait, which may outlive the request that asked.
pub(crate) type Verifying = Pin<Box<dyn Future<Output = Result<Principal, VerifyError>> + Send>>;

/// A verifier without its type, so that a layer has no type parameter.
pub(crate) trait ErasedVerifier: Send + Sync {
    fn recall(&self, text: &[u8], now: SystemTime) -> Option<Principal>;
    fn try_verify(&self, request: &VerifyRequest) -> Option<Result<Principal, VerifyError>>;
    fn verify(self: Arc<Self>, request: VerifyRequest) -> Verifying;
    fn generation(&self) -> u64;
}

impl<V: TokenVerifier> ErasedVerifier for V {
    fn recall(&self, text: &[u8], now: SystemTime) -> Option<Principal> {
        TokenVerifier::recall(self, text, now)
    }

    fn try_verify(&self, request: &VerifyRequest) -> Option<Result<Principal, VerifyError>> {
        TokenVerifier::try_verify(self, request)
    }

    fn verify(self: Arc<Self>, request: VerifyRequest) -> Verifying {
        Box::pin(async move { TokenVerifier::verify(&*self, &request).await })
    }

    fn generation(&self) -> u64 {
        TokenVerifier::generation(self)
    }
}
