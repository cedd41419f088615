use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::principal::Principal;
use crate::store::{ErasedTokenStore, TokenDigest, TokenRecord};
use crate::verifier::opaque::format::Format;
use crate::verifier::opaque::pepper::Peppers;
use crate::verifier::opaque::unknown::UnknownTokens;
use crate::verifier::opaque::used::LastUsed;
use crate::verifier::revocable::{RevocableVerifier, Revocations};
use crate::verifier::{
    CachedVerifier, TokenVerifier, VerifiedTokens, VerifyError, VerifyErrorKind, VerifyRequest,
};

/// The verifier of the tokens that [`OpaqueTokens`](super::OpaqueTokens) issues; see the
/// [module](crate::verifier::opaque). Clones share what they remember.
#[derive(Clone)]
pub struct OpaqueVerifier {
    tokens: VerifiedTokens,
    inner: Inner,
}

#[derive(Clone)]
enum Inner {
    /// What it remembers is as good as this node is the only one that revokes.
    Alone(Arc<Turns>),
    /// Other nodes tell it what they have revoked.
    Told(Arc<RevocableVerifier<Turns>>),
}

/// Has so many questions asked of the store at once. Who waited for a turn looks first at what was
/// remembered meanwhile: a token that everybody uses, and that is not remembered any more, is asked
/// about as often as there are turns, not by all who wait.
pub(super) struct Turns {
    pub(super) cached: CachedVerifier<Lookup>,
    pub(super) turns: Semaphore,
    /// For a turn and the answer together.
    pub(super) timeout: Duration,
}

/// Finds the record of a token, and judges it.
pub(super) struct Lookup {
    pub(super) issuer: Arc<str>,
    pub(super) format: Format,
    pub(super) peppers: Peppers,
    pub(super) store: Arc<dyn ErasedTokenStore>,
    pub(super) used: LastUsed,
    pub(super) unknown: UnknownTokens,
}

impl OpaqueVerifier {
    pub(super) fn new(turns: Turns, revocations: Option<&Revocations>) -> Self {
        let tokens = turns.cached.tokens();
        let inner = match revocations {
            Some(revocations) => Inner::Told(Arc::new(RevocableVerifier::new(turns, revocations))),
            None => Inner::Alone(Arc::new(turns)),
        };
        Self { tokens, inner }
    }

    /// The tokens that are remembered as good.
    #[must_use]
    pub fn tokens(&self) -> VerifiedTokens {
        self.tokens.clone()
    }
}

impl TokenVerifier for OpaqueVerifier {
    fn recall(&self, text: &[u8], now: SystemTime) -> Option<Principal> {
        match &self.inner {
            Inner::Alone(inner) => inner.recall(text, now),
            Inner::Told(inner) => inner.recall(text, now),
        }
    }

    fn try_verify(&self, request: &VerifyRequest) -> Option<Result<Principal, VerifyError>> {
        match &self.inner {
            Inner::Alone(inner) => inner.try_verify(request),
            Inner::Told(inner) => inner.try_verify(request),
        }
    }

    async fn verify(&self, request: &VerifyRequest) -> Result<Principal, VerifyError> {
        match &self.inner {
            Inner::Alone(inner) => inner.verify(request).await,
            Inner::Told(inner) => inner.verify(request).await,
        }
    }

    fn generation(&self) -> u64 {
        match &self.inner {
            Inner::Alone(inner) => inner.generation(),
            Inner::Told(inner) => inner.generation(),
        }
    }
}

impl TokenVerifier for Turns {
    fn recall(&self, text: &[u8], now: SystemTime) -> Option<Principal> {
        self.cached.recall(text, now)
    }

    fn try_verify(&self, request: &VerifyRequest) -> Option<Result<Principal, VerifyError>> {
        self.cached.try_verify(request)
    }

    async fn verify(&self, request: &VerifyRequest) -> Result<Principal, VerifyError> {
        if let Some(answer) = self.try_verify(request) {
            return answer;
        }
        let verified = async {
            let _turn = self.turns.acquire().await.map_err(VerifyError::unavailable)?;
            self.cached.verify(request).await
        };
        timeout(self.timeout, verified).await.map_err(VerifyError::unavailable)?
    }

    fn generation(&self) -> u64 {
        self.cached.generation()
    }
}

impl Lookup {
    async fn find(&self, request: &VerifyRequest) -> Result<TokenRecord, VerifyError> {
        let (token, known) = (request.token.as_str(), self.unknown.known(&self.peppers));
        let peppers = known.peppers();
        let digests: Vec<TokenDigest> = peppers.iter().map(|pepper| pepper.digest(token)).collect();
        let found = self.store.find(&digests).await.map_err(VerifyError::unavailable)?;
        let Some(record) = found else {
            self.unknown.insert(&request.token, known, request.now);
            return Err(VerifyErrorKind::UnknownToken.into());
        };
        // A store that answers with another record, for whatever reason, lets nobody in.
        let is_its = peppers
            .iter()
            .zip(&digests)
            .any(|(pepper, digest)| *pepper.id() == record.pepper && digest.is(&record.digest));
        if is_its { Ok(record) } else { Err(VerifyErrorKind::UnknownToken.into()) }
    }

    fn principal(&self, record: &TokenRecord) -> Principal {
        principal_of(record, &self.issuer)
    }
}

/// Whose token it is, where this issuer's name is at hand.
pub(super) fn principal_of(record: &TokenRecord, known: &Arc<str>) -> Principal {
    let issuer = if **known == record.issuer { known.clone() } else { (&*record.issuer).into() };
    let principal = Principal::builder(issuer, &record.subject)
        .scopes(record.scopes.as_str())
        .roles(record.roles.iter().map(String::as_str))
        .token_id(&record.id)
        .issued_at(record.issued_at)
        .expires_at(record.expires_at)
        .claims(record.metadata.as_bytes());
    match &record.client {
        Some(client) => principal.client(client).build(),
        None => principal.build(),
    }
}

impl TokenVerifier for Lookup {
    /// What is no token at all is told without the store, in the words for an unknown one; so is what
    /// was unknown a moment ago.
    fn try_verify(&self, request: &VerifyRequest) -> Option<Result<Principal, VerifyError>> {
        if !self.format.fits(request.token.as_str()) {
            return Some(Err(VerifyErrorKind::Malformed.into()));
        }
        let is_unknown = self.unknown.contains(&request.token, &self.peppers, request.now);
        is_unknown.then(|| Err(VerifyErrorKind::UnknownToken.into()))
    }

    async fn verify(&self, request: &VerifyRequest) -> Result<Principal, VerifyError> {
        if let Some(refused) = self.try_verify(request) {
            return refused;
        }
        let record = self.find(request).await?;
        let kind = if record.is_revoked() {
            VerifyErrorKind::Revoked
        } else if record.has_expired(request.now) {
            VerifyErrorKind::Expired
        } else if record.not_before.is_some_and(|begin| request.now < begin) {
            VerifyErrorKind::NotActive
        } else {
            self.used.mark(&record, request.now);
            return Ok(self.principal(&record));
        };
        Err(VerifyError::from(kind).with_principal(self.principal(&record)))
    }

    /// Grows when a pepper is retired, which ends tokens that are remembered.
    fn generation(&self) -> u64 {
        self.peppers.retired()
    }
}

impl fmt::Debug for OpaqueVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpaqueVerifier").field("tokens", &self.tokens()).finish_non_exhaustive()
    }
}
