//! Tokens that say nothing by themselves, which an issuer is asked about (RFC 7662).
//!
//! An [`IntrospectionVerifier`] sends the token to the issuer's introspection endpoint and accepts it
//! when the answer says `"active": true`, names one of the configured audiences and, where it names
//! an issuer, the configured one, is within its times, and is about a bearer token. The
//! [`Principal`] has what the answer says, and all of it as its claims.
//!
//! | what the endpoint does | what the client sees |
//! |---|---|
//! | answers `true`, and the rest is right | the request is let in |
//! | answers `false` | 401 `invalid_token` |
//! | answers `true` about a token for another audience, from another issuer, of another kind, bound to a key (`cnf`, DPoP) | 401 `invalid_token` |
//! | answers `true` about a token whose `exp` has passed, or whose `nbf` has not come | 401 `token_expired`, `token_not_active` |
//! | answers anything else: `"true"`, no `active`, HTML, two members of one name, a registered member of the wrong type, more than 64 KiB | 503 |
//! | refuses this API's credentials, redirects, fails, is slow or down | 503 with `Retry-After` |
//!
//! ```no_run
//! use tower_gate::AuthenticateLayer;
//! use tower_gate::fetch::ReqwestFetch;
//! use tower_gate::verifier::introspection::IntrospectionVerifier;
//!
//! # fn serve(secret: String) -> Result<(), Box<dyn std::error::Error>> {
//! let url = "https://issuer.example/introspect";
//! let verifier = IntrospectionVerifier::builder(url, ReqwestFetch::new()?)
//!     .issuer("https://issuer.example")
//!     .audience("https://api.example")
//!     .with_client("reports-api", secret)
//!     .build()?;
//! let layer = AuthenticateLayer::new(verifier);
//! # let _ = layer;
//! # Ok(())
//! # }
//! ```
//!
//! Signed answers (RFC 9701), other times, and a token that is revoked at once:
//!
//! ```no_run
//! use std::time::{Duration, SystemTime};
//! use tower_gate::fetch::ReqwestFetch;
//! use tower_gate::verifier::introspection::IntrospectionVerifier;
//! use tower_gate::verifier::jwks::Jwks;
//! use tower_gate::{AuthenticateLayer, BearerToken};
//!
//! # async fn serve(secret: String, revoked: BearerToken) -> Result<(), Box<dyn std::error::Error>> {
//! let fetch = ReqwestFetch::new()?;
//! let jwks = Jwks::discover("https://issuer.example", fetch.clone())?.start()?;
//! let verifier = IntrospectionVerifier::builder("https://issuer.example/introspect", fetch)
//!     .issuer("https://issuer.example")
//!     .audience("https://api.example")
//!     .with_client("reports-api", secret)
//!     .with_signed_answers(&jwks, "reports-api")
//!     .with_roles_at(["realm_access", "roles"])
//!     .with_timeout(Duration::from_secs(2))
//!     .with_max_age(Duration::from_secs(30))
//!     .build()?;
//! let remembered = verifier.tokens();
//! let layer = AuthenticateLayer::new(verifier);
//!
//! // The issuer has revoked it: it is asked again from here on.
//! remembered.forget_token(&revoked);
//! # let _ = layer;
//! # Ok(())
//! # }
//! ```
//!
//! # Times
//!
//! | what | how long | set by |
//! |---|---|---|
//! | a good answer is remembered | 10 seconds, never beyond `exp` | [`with_max_age`](IntrospectionBuilder::with_max_age) |
//! | a refusal is remembered | 1 second, in a megabyte of its own | [`with_max_refused_age`](IntrospectionBuilder::with_max_refused_age) |
//! | a failure is remembered | not at all: the first good answer is used | |
//! | … because nothing was said for a second or longer | 1 second for this token, and then one request at a time asks about it | |
//! | … about four different tokens, and no other has been answered since | 1 second for all tokens, and then four at a time are asked about | |
//! | a good answer stands in during an outage | not at all | [`with_stale_if_error`](IntrospectionBuilder::with_stale_if_error) |
//! | a question takes | 5 seconds | [`with_timeout`](IntrospectionBuilder::with_timeout) |
//! | the clocks are apart | 30 seconds | [`with_leeway`](IntrospectionBuilder::with_leeway) |
//! | a signed answer is on its way | 60 seconds | |
//!
//! **A revoked token is accepted for up to the first of these times**, unless it is forgotten:
//! [`IntrospectionVerifier::tokens`]. Another cache around this verifier does not make it longer, and
//! forgets what this one is told to forget.
//!
//! There is one question for each token at a time, and all requests with that token wait for its
//! answer, whichever of them leaves; at most 16 384 requests wait in all. At most 256 questions are on
//! their way at once; beyond that, a token that is not remembered is refused with 503. The last 64 are
//! for tokens that were accepted before and have to be asked about again, so that made-up ones do not
//! keep those out. A question that failed is not repeated, but once by `ReqwestFetch` where the
//! connection was closed before anything was said.
//!
//! An endpoint that is silent holds up those who asked before that was known, and then four requests
//! at a time: all others are refused at once, with 503 and `Retry-After`, or let in on an earlier
//! answer. Whatever it answers, a 500 or nonsense included, it is not silent. So whoever has one token
//! that it is slow about, or three, holds up nobody else; with four at a time they can, until anybody
//! else's is answered.
//!
//! # Security
//!
//! The audience is mandatory, in answers too, for the same reason as in signed tokens: without it, a
//! token that a user gave to any other API of the issuer is good here. Whom an answer without `sub`
//! is about is not known, and it is refused; the client never takes the subject's place.
//!
//! Only the configured address is asked, over https (plain http towards the loopback interface
//! alone); redirects are not followed. The token travels in the body of the question, never in an
//! address; tokens are remembered under a keyed hash. The credentials are in no `Debug`, error or
//! log. An endpoint that refuses them is logged as a warning, once for each row of refusals.
//!
//! It runs inside a tokio runtime whose time is enabled.

mod answer;
mod builder;
mod endpoint;
mod flights;
mod outage;
mod refused;
mod signed;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::fetch::Fetch;
use crate::panics::caught;
use crate::principal::Principal;
use crate::trace;
use crate::verifier::cached::TokenId;
use crate::verifier::introspection::endpoint::Endpoint;
use crate::verifier::introspection::flights::Flights;
use crate::verifier::introspection::outage::{Attempt, Outage, PAUSE};
use crate::verifier::introspection::refused::RefusedTokens;
use crate::verifier::{
    CachedVerifier, TokenVerifier, VerifiedTokens, VerifyError, VerifyErrorKind, VerifyRequest,
};

pub use self::builder::{AudienceWanted, IntrospectionBuilder, InvalidIntrospection, IssuerWanted};
pub use self::signed::AnswerKeys;

/// How long a client is told to wait when too many questions are on their way.
const RETRY_AFTER_BURST: Duration = Duration::from_secs(1);

/// A verifier that asks an issuer; see the [module](crate::verifier::introspection).
///
/// Clones share what they remember.
#[derive(Clone)]
pub struct IntrospectionVerifier {
    asking: Arc<Asking>,
    flights: Arc<Flights>,
}

/// What a question needs, and what is remembered of its answer.
struct Asking {
    cached: CachedVerifier<Endpoint>,
    refused: RefusedTokens,
    outage: Arc<Outage>,
    max_stale: Option<Duration>,
    leeway: Duration,
}

impl IntrospectionVerifier {
    /// Starts a verifier that asks at this address, which needs an issuer, then an audience, then
    /// credentials.
    pub fn builder(url: impl Into<String>, fetch: impl Fetch) -> IssuerWanted {
        IssuerWanted::new(url.into(), fetch)
    }

    /// The tokens that are remembered as good, to forget those that are revoked. A question that was
    /// on its way then does not answer for them either.
    #[must_use]
    pub fn tokens(&self) -> VerifiedTokens {
        self.asking.cached.tokens()
    }
}

impl TokenVerifier for IntrospectionVerifier {
    fn recall(&self, text: &[u8], now: SystemTime) -> Option<Principal> {
        self.asking.cached.recall(text, now)
    }

    /// What is remembered.
    fn try_verify(&self, request: &VerifyRequest) -> Option<Result<Principal, VerifyError>> {
        let known = self.asking.cached.try_verify(request);
        known.or_else(|| self.asking.refused(request).map(Err))
    }

    async fn verify(&self, request: &VerifyRequest) -> Result<Principal, VerifyError> {
        // What is remembered says nothing of the endpoint, and is no attempt.
        if let Some(known) = self.try_verify(request) {
            return known;
        }
        let id = TokenId::of(&request.token);
        let Some(attempt) = self.asking.outage.attempt(id) else {
            let error = VerifyError::unavailable("the endpoint did not answer a moment ago");
            return self.asking.or_stale(request, error.with_retry_after(PAUSE));
        };
        // A trial that joined a question from before would try nothing, and hold up whoever comes next.
        let may_join = !attempt.is_trial;
        let epoch = self.tokens().epoch();
        let place = self.flights.place();
        let was_accepted = self.asking.cached.has_accepted(id);
        let join = || {
            self.flights.join(id, epoch, may_join, was_accepted, || {
                let (asking, request) = (self.asking.clone(), request.clone());
                Box::pin(async move { asking.ask(&request, &attempt).await })
            })
        };
        let Some(answer) = place.as_ref().and_then(|_| join()) else {
            let error = VerifyError::unavailable("too many questions are on their way");
            return self.asking.or_stale(request, error.with_retry_after(RETRY_AFTER_BURST));
        };
        let principal = answer.await?;
        // Whoever joined may have come after the end of a token that was good when it was asked about.
        if self.asking.has_ended(&principal, request.now) {
            return Err(VerifyError::from(VerifyErrorKind::Expired).with_principal(principal));
        }
        Ok(principal)
    }

    fn generation(&self) -> u64 {
        self.asking.cached.generation()
    }
}

impl Asking {
    fn refused(&self, request: &VerifyRequest) -> Option<VerifyError> {
        self.refused.get(TokenId::of(&request.token), request.now)
    }

    /// Asks, unless the answer has come since somebody looked, and remembers it.
    async fn ask(
        &self,
        request: &VerifyRequest,
        attempt: &Attempt,
    ) -> Result<Principal, VerifyError> {
        if let Some(error) = self.refused(request) {
            return Err(error);
        }
        // Everybody who waits for this answer would panic with the application's fetcher.
        let answer = caught(self.cached.verify(request)).await;
        let error = match answer {
            Some(Ok(principal)) => return Ok(principal),
            Some(Err(error)) => error,
            None => VerifyError::unavailable("the question panicked"),
        };
        // Of a token that nothing was said about, nothing is remembered.
        if error.kind() != VerifyErrorKind::Unavailable {
            // An earlier answer must not stand in for this one when the endpoint is down next.
            self.cached.remove(&request.token);
            self.refused.insert(TokenId::of(&request.token), &error, request.now);
            return Err(error);
        }
        attempt.fail();
        self.or_stale(request, error)
    }

    /// An earlier answer in place of this outage, where one may stand in.
    fn or_stale(
        &self,
        request: &VerifyRequest,
        error: VerifyError,
    ) -> Result<Principal, VerifyError> {
        let stale = self
            .max_stale
            .and_then(|max_stale| self.cached.stale(&request.token, request.now, max_stale));
        match stale {
            Some(principal) => {
                trace::stale_answer(&principal, &error);
                Ok(principal.gone_stale())
            }
            None => Err(error),
        }
    }

    fn has_ended(&self, principal: &Principal, now: SystemTime) -> bool {
        let end = principal.expires_at().and_then(|end| end.checked_add(self.leeway));
        end.is_some_and(|end| end <= now)
    }
}

impl fmt::Debug for IntrospectionVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IntrospectionVerifier")
            .field("tokens", &self.tokens())
            .finish_non_exhaustive()
    }
}
