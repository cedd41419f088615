use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, LazyLock, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use highway::{HighwayHash, HighwayHasher, Key};
use quick_cache::Weighter;
use quick_cache::sync::{Cache, DefaultLifecycle};

use crate::prehashed::BuildPrehashed;
use crate::principal::Principal;
use crate::random::random_word;
use crate::token::BearerToken;
use crate::verifier::{TokenVerifier, VerifyError, VerifyRequest};

/// A verifier that remembers the tokens which another one has accepted.
///
/// A token that was seen before costs a hash and a look-up instead of a signature check or a round
/// trip. It is remembered until it ends, until the verifier wants it verified again
/// ([`Principal::verify_again_at`]), or for a minute, whichever comes first; the time is compared on
/// every hit. A key that the inner verifier withdraws takes all that is remembered with it.
///
/// The key is a 128-bit hash of the whole token, keyed at random: tokens are not in the cache, and
/// nobody can make two of them meet. What one `CachedVerifier` remembers is never used by another,
/// so that a token accepted for one API is not thereby accepted for the next.
///
/// Only accepted tokens are remembered. A flood of bad ones evicts nothing.
///
/// Nobody waits for the verification of another: requests that come at once with a token that is not
/// remembered verify it each by itself. The verifiers here that ask elsewhere ask once for all of them,
/// or within bounds of their own; what [`TokenVerifier::load`] asks is the application's to bound.
///
/// ```
/// use std::time::Duration;
/// use tower_gate::verifier::{CachedVerifier, VerifiedTokens};
/// use tower_gate::{AuthenticateLayer, FixedVerifier};
///
/// let verifier = CachedVerifier::new(FixedVerifier::new());
/// // Or, with other bounds:
/// let verifier = CachedVerifier::new(FixedVerifier::new())
///     .with_max_age(Duration::from_secs(10))
///     .with_max_tokens(1_000)
///     .with_max_bytes(1 << 20);
/// let remembered: VerifiedTokens = verifier.tokens();
/// let layer = AuthenticateLayer::new(verifier);
///
/// // The account was closed: none of its tokens is answered from memory any more.
/// remembered.forget(|principal| principal.subject() == "user-1");
/// # let _ = layer;
/// ```
///
/// # Security
///
/// For as long as a token is remembered, the inner verifier is not asked: whatever ends a token
/// early has to call [`VerifiedTokens::forget`], or wait for the age set here.
pub struct CachedVerifier<V> {
    inner: V,
    tokens: VerifiedTokens,
    max_age: Duration,
    max_tokens: usize,
    max_bytes: u64,
}

impl<V: TokenVerifier> CachedVerifier<V> {
    /// Remembers what this verifier accepts: at most 10 000 tokens with 32 MiB of claims, each for
    /// at most 60 seconds.
    pub fn new(inner: V) -> Self {
        let (max_tokens, max_bytes) = (10_000, 32 << 20);
        let tokens = VerifiedTokens::new(max_tokens, max_bytes);
        Self { inner, tokens, max_age: Duration::from_secs(60), max_tokens, max_bytes }
    }

    /// How long a token is remembered at most. Zero remembers nothing. Default: 60 seconds.
    #[must_use]
    pub fn with_max_age(mut self, max_age: Duration) -> Self {
        self.max_age = max_age;
        self
    }

    /// How many tokens are remembered at most. Default: 10 000.
    #[must_use]
    pub fn with_max_tokens(mut self, max_tokens: usize) -> Self {
        self.max_tokens = max_tokens;
        self.tokens = VerifiedTokens::new(max_tokens, self.max_bytes);
        self
    }

    /// How many bytes of claims and names are remembered at most; values that the application
    /// attached are not counted. Default: 32 MiB.
    #[must_use]
    pub fn with_max_bytes(mut self, max_bytes: u64) -> Self {
        self.max_bytes = max_bytes;
        self.tokens = VerifiedTokens::new(self.max_tokens, max_bytes);
        self
    }

    /// The tokens that are remembered, to forget some of them. Ask once every bound is set.
    pub fn tokens(&self) -> VerifiedTokens {
        self.tokens.clone()
    }

    fn remembered(&self, id: TokenId, now: SystemTime) -> Option<Principal> {
        let found = self.tokens.0.cache.get(&id)?;
        // A clock that went back may stand before the token's beginning, which is not kept.
        let in_time = found.since <= now && now < found.until;
        (in_time && found.generation == self.inner.generation()).then_some(found.principal)
    }

    fn remember(&self, id: TokenId, principal: &Principal, now: SystemTime, began: Began) {
        let ends = [now.checked_add(self.max_age), principal.verify_again_at()];
        if let Some(until) = ends.into_iter().flatten().min()
            && now < until
        {
            let generation = began.generation;
            let verified = Verified { principal: principal.clone(), since: now, until, generation };
            self.tokens.insert(id, verified, began.epoch);
        }
    }

    /// What was accepted at most this long ago, although it would have to be verified again by now;
    /// never beyond the token's end, and nothing that was forgotten or whose key is gone.
    #[cfg(feature = "introspection")]
    pub(super) fn stale(
        &self,
        token: &BearerToken,
        now: SystemTime,
        max_stale: Duration,
    ) -> Option<Principal> {
        let found = self.tokens.0.cache.get(&TokenId::of(token))?;
        let young = found.since <= now && now < found.since.checked_add(max_stale)?;
        let ended = found.principal.expires_at().is_some_and(|end| end <= now);
        let holds = found.generation == self.inner.generation();
        (young && !ended && holds).then_some(found.principal)
    }

    /// Whether this token was accepted, however long ago, and neither forgotten nor refused since.
    #[cfg(feature = "introspection")]
    pub(super) fn has_accepted(&self, id: TokenId) -> bool {
        self.tokens.0.cache.contains_key(&id)
    }

    /// Forgets a token that the inner verifier has just refused. Unlike
    /// [`VerifiedTokens::forget_token`], this leaves other verifications that have begun alone:
    /// anybody can have tokens refused.
    #[cfg(feature = "introspection")]
    pub(super) fn remove(&self, token: &BearerToken) {
        self.tokens.0.cache.remove(&TokenId::of(token));
    }

    /// The state of affairs before a verification, to tell whether it still holds afterwards.
    fn began(&self) -> Began {
        Began { generation: self.inner.generation(), epoch: self.tokens.epoch() }
    }
}

impl<V: TokenVerifier> TokenVerifier for CachedVerifier<V> {
    fn recall(&self, text: &[u8], now: SystemTime) -> Option<Principal> {
        self.remembered(TokenId::of_text(text), now)
    }

    fn try_verify(&self, request: &VerifyRequest) -> Option<Result<Principal, VerifyError>> {
        let id = TokenId::of(&request.token);
        if !request.anew
            && let Some(principal) = self.remembered(id, request.now)
        {
            return Some(Ok(principal));
        }
        let began = self.began();
        let answer = self.inner.try_verify(request)?;
        if let Ok(principal) = &answer {
            self.remember(id, principal, request.now, began);
        }
        Some(answer)
    }

    async fn verify(&self, request: &VerifyRequest) -> Result<Principal, VerifyError> {
        let id = TokenId::of(&request.token);
        if !request.anew
            && let Some(principal) = self.remembered(id, request.now)
        {
            return Ok(principal);
        }
        let began = self.began();
        let principal = self.inner.verify(request).await?;
        self.remember(id, &principal, request.now, began);
        Ok(principal)
    }

    /// Also grows when something is forgotten, which another cache around this one must not outlive.
    fn generation(&self) -> u64 {
        self.inner.generation().wrapping_add(self.tokens.epoch())
    }
}

impl<V: fmt::Debug> fmt::Debug for CachedVerifier<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedVerifier")
            .field("inner", &self.inner)
            .field("tokens", &self.tokens)
            .field("max_age", &self.max_age)
            .finish_non_exhaustive()
    }
}

/// The tokens that a [`CachedVerifier`] remembers. Clones are the same tokens.
#[derive(Clone)]
pub struct VerifiedTokens(Arc<Tokens>);

struct Tokens {
    cache: Cache<TokenId, Verified, Weights, BuildPrehashed>,
    /// How often something was forgotten. Written only while `forget` looks through the cache, so
    /// that a verification which began before cannot put its outcome behind its back.
    epoch: RwLock<u64>,
}

impl VerifiedTokens {
    fn new(max_tokens: usize, max_bytes: u64) -> Self {
        // No token weighs less than its share of the bytes, which bounds their number too.
        let weights = Weights { least: max_bytes.div_ceil(max_tokens.max(1) as u64).max(1) };
        let hasher = BuildPrehashed::default();
        let lifecycle = DefaultLifecycle::default();
        let cache = Cache::with(max_tokens, max_bytes, weights, hasher, lifecycle);
        Self(Arc::new(Tokens { cache, epoch: RwLock::new(0) }))
    }

    /// Forgets every token of a principal that this says yes to. Once it returns, none of them is
    /// answered from memory, not even one whose verification had begun before.
    pub fn forget(&self, which: impl Fn(&Principal) -> bool) {
        let mut epoch = self.0.epoch.write().unwrap_or_else(PoisonError::into_inner);
        *epoch += 1;
        self.0.cache.retain(|_, verified| !which(&verified.principal));
    }

    /// Forgets one token.
    pub fn forget_token(&self, token: &BearerToken) {
        let mut epoch = self.0.epoch.write().unwrap_or_else(PoisonError::into_inner);
        *epoch += 1;
        self.0.cache.remove(&TokenId::of(token));
    }

    /// Forgets all.
    pub fn forget_all(&self) {
        self.forget(|_| true);
    }

    /// How many there are now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.cache.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.cache.is_empty()
    }

    /// How often something was forgotten.
    pub(super) fn epoch(&self) -> u64 {
        *self.0.epoch.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, id: TokenId, verified: Verified, began: u64) {
        let epoch = self.0.epoch.read().unwrap_or_else(PoisonError::into_inner);
        if *epoch == began {
            self.0.cache.insert(id, verified);
        }
    }
}

impl fmt::Debug for VerifiedTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedTokens").field("len", &self.len()).finish_non_exhaustive()
    }
}

#[derive(Clone, Copy)]
struct Began {
    generation: u64,
    epoch: u64,
}

#[derive(Clone)]
struct Verified {
    principal: Principal,
    since: SystemTime,
    until: SystemTime,
    generation: u64,
}

/// A token as the cache knows it. HighwayHash is a keyed pseudorandom function that takes a tenth
/// of the time of SHA-256 for the length of a token.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(super) struct TokenId([u64; 2]);

impl TokenId {
    pub(super) fn of(token: &BearerToken) -> Self {
        Self::of_text(token.as_bytes())
    }

    fn of_text(text: &[u8]) -> Self {
        // A copy of one that is ready costs less than a new one.
        static READY: LazyLock<HighwayHasher> = LazyLock::new(|| {
            HighwayHasher::new(Key([random_word(), random_word(), random_word(), random_word()]))
        });
        let mut hasher = READY.clone();
        hasher.append(text);
        Self(hasher.finalize128())
    }
}

impl Hash for TokenId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0[0]);
    }
}

#[derive(Clone)]
struct Weights {
    least: u64,
}

impl Weighter<TokenId, Verified> for Weights {
    fn weight(&self, _: &TokenId, verified: &Verified) -> u64 {
        (verified.principal.bytes() as u64).max(self.least)
    }
}
