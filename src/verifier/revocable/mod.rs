//! Tokens that are revoked before their end, on every node at once.
//!
//! [`RevocableVerifier`] goes around any verifier, outside of all others, and asks about every token
//! that those accept, remembered ones included, whether it was revoked. [`Revocations`] answers from
//! memory: it holds what a [`RevocationStore`] keeps for all nodes.
//!
//! ```
//! use std::time::SystemTime;
//! use tower_gate::store::memory::MemoryRevocations;
//! use tower_gate::verifier::CachedVerifier;
//! use tower_gate::verifier::revocable::{RevocableVerifier, Revocations};
//! use tower_gate::{AuthenticateLayer, FixedVerifier, Revocation};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let verifier = FixedVerifier::new();
//! let revocations = Revocations::builder(MemoryRevocations::new()).start()?;
//! let verifier = RevocableVerifier::new(CachedVerifier::new(verifier), &revocations);
//! let layer = AuthenticateLayer::new(verifier);
//!
//! // The user logs out everywhere.
//! let logged_out = Revocation::subject("https://issuer.example", "user-1")
//!     .with_issued_until(SystemTime::now());
//! revocations.revoke(logged_out).await?;
//! # let _ = layer;
//! # Ok(())
//! # }
//! ```
//!
//! With other times, and a start that waits until everything revoked is known:
//!
//! ```
//! use std::time::Duration;
//! use tower_gate::verifier::revocable::{Revocations, WhenStale};
//! # use tower_gate::store::memory::MemoryRevocations;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let store = MemoryRevocations::new();
//! let revocations = Revocations::builder(store)
//!     .with_poll_interval(Duration::from_millis(200))
//!     .with_max_age(Duration::from_secs(3))
//!     .with_when_stale(WhenStale::Ask)
//!     .start()?;
//! revocations.ready().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # When a revocation is enforced
//!
//! | where, and how it goes | from when on |
//! |---|---|
//! | on the node that revokes | before [`Revocations::revoke`] returns, also for tokens that are being verified |
//! | on the others, told by the store | as soon as they have loaded it: a few milliseconds |
//! | … while the store cannot tell them | the poll interval, one second by default |
//! | … while they cannot reach the store | the age, ten seconds by default: from then on nobody comes in |
//!
//! # What the client sees
//!
//! 401 with `token_revoked` for a revoked token. While what is revoked is too long known to be
//! certain, 503 with `Retry-After` for all others that are good by themselves; [`WhenStale`] has the
//! other ways. A store that is back is used again without a restart.
//!
//! # Security
//!
//! Put it outside of a [`CachedVerifier`](crate::verifier::CachedVerifier). One that goes around it, as
//! to keep what was [loaded](crate::TokenVerifier::load) for a principal, forgets everything at each
//! revocation, and answers nothing from memory while what is revoked is not known for certain.
//!
//! Nodes that run enforce what they know also where the store has lost it, and load everything anew
//! where another server has taken over. Those that start afterwards know nothing of what was lost.
//!
//! [`RevocationStore`]: crate::store::RevocationStore

mod builder;
mod revoked;
mod shared;
mod tasks;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::task::AbortHandle;

use crate::principal::Principal;
use crate::revocation::Revocation;
use crate::store::{RevocationStore, StoreError};
use crate::verifier::revocable::shared::{Shared, Standing};
use crate::verifier::{TokenVerifier, VerifyError, VerifyErrorKind, VerifyRequest};

pub use self::builder::{InvalidRevocations, RevocationsBuilder};

/// All that is revoked, as one node knows it; see the [module](crate::verifier::revocable).
///
/// It is held in memory: about 60 bytes and its name for each client, key, subject and token. What
/// has ended leaves within a minute or two; what has no end stays, unless
/// [`with_longest_life`](RevocationsBuilder::with_longest_life) gives it one.
///
/// Clones are the same. The tasks that keep it fresh end with the last clone and the last verifier
/// that uses it. When the runtime that it was started in ends before them, it grows stale.
#[derive(Clone)]
pub struct Revocations {
    shared: Arc<Shared>,
    /// Held, never read: with the last holder they end.
    _tasks: Arc<Tasks>,
}

/// Ends the tasks with their last owner.
struct Tasks([AbortHandle; 3]);

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

/// What becomes of a token that is good by itself and not known to be revoked, while what is known
/// is older than [`RevocationsBuilder::with_max_age`] allows.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum WhenStale {
    /// It is accepted, for an API that would rather let revoked callers in than keep everybody out.
    /// [`Principal::is_stale`] and the audit event say so, and [`Revocations::accepted_stale`] counts.
    Accept,
    /// The request waits until the store has been asked for what is new after it came, once for all
    /// who wait. When it does not answer, 503.
    Ask,
    /// 503, at once.
    #[default]
    Refuse,
}

impl Revocations {
    /// What this store keeps, and this node adds to it.
    pub fn builder(store: impl RevocationStore) -> RevocationsBuilder {
        RevocationsBuilder::new(store)
    }

    /// Revokes tokens, on this node before it returns and on the others as soon as they learn of it.
    ///
    /// # Errors
    ///
    /// When the store does not say that it has kept it. This node enforces it all the same, from the
    /// beginning of the call, for as long as it runs; the others may not. Try again until it succeeds.
    pub async fn revoke(&self, revocation: Revocation) -> Result<(), StoreError> {
        self.revoke_all(vec![revocation]).await
    }

    /// Revokes as [`revoke`](Self::revoke) does, a thousand with each request to the store.
    ///
    /// # Errors
    ///
    /// When the store does not say that it has kept all of them. This node enforces all the same.
    pub async fn revoke_all(&self, revocations: Vec<Revocation>) -> Result<(), StoreError> {
        self.shared.revoke(revocations).await
    }

    /// Waits for the first load, for programs that would rather not start without knowing what is
    /// revoked. Without it, requests are refused with 503 until then.
    ///
    /// # Errors
    ///
    /// When the load failed; the cause says why. It is tried again all the same.
    pub async fn ready(&self) -> Result<(), VerifyError> {
        self.shared.first().await.map_err(VerifyError::unavailable)
    }

    /// How long ago the latest good load began: what was revoked elsewhere before then is enforced
    /// here. `None` before the first.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        self.shared.age()
    }

    /// Whether this node knows that a token of this principal is revoked.
    #[cfg(feature = "opaque")]
    pub(crate) fn cover(&self, principal: &Principal, now: SystemTime) -> bool {
        self.shared.standing(principal, now, true) == Standing::Revoked
    }

    /// How many of the latest loads failed in a row; zero while all is well.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.shared.failures()
    }

    /// How many names are revoked here. What has ended may still count for a minute or two.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many tokens were accepted although what is revoked was not certain, because of
    /// [`WhenStale::Accept`].
    #[must_use]
    pub fn accepted_stale(&self) -> u64 {
        self.shared.accepted_stale()
    }
}

impl fmt::Debug for Revocations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Revocations")
            .field("len", &self.len())
            .field("age", &self.age())
            .field("failures", &self.failures())
            .finish_non_exhaustive()
    }
}

/// A verifier that accepts what another one does, unless it is revoked; see the
/// [module](crate::verifier::revocable).
pub struct RevocableVerifier<V> {
    inner: V,
    revocations: Revocations,
}

impl<V: TokenVerifier> RevocableVerifier<V> {
    /// Asks these revocations about every token that the inner verifier accepts.
    pub fn new(inner: V, revocations: &Revocations) -> Self {
        Self { inner, revocations: revocations.clone() }
    }

    fn answer(&self, standing: Standing, principal: Principal) -> Result<Principal, VerifyError> {
        let shared = &self.revocations.shared;
        match standing {
            Standing::Good => Ok(principal),
            Standing::Revoked => {
                Err(VerifyError::from(VerifyErrorKind::Revoked).with_principal(principal))
            }
            Standing::Unknown if shared.when_stale == WhenStale::Accept => {
                shared.count_stale();
                Ok(principal.gone_stale())
            }
            Standing::Doubtful | Standing::Unknown => {
                Err(VerifyError::unavailable(shared.outage())
                    .with_principal(principal)
                    .with_retry_after(shared.times.poll.min(VerifyError::RETRY_AFTER)))
            }
        }
    }
}

impl<V: TokenVerifier> TokenVerifier for RevocableVerifier<V> {
    fn recall(&self, text: &[u8], now: SystemTime) -> Option<Principal> {
        let principal = self.inner.recall(text, now)?;
        let standing = self.revocations.shared.standing(&principal, now, false);
        (standing == Standing::Good).then_some(principal)
    }

    fn try_verify(&self, request: &VerifyRequest) -> Option<Result<Principal, VerifyError>> {
        let principal = match self.inner.try_verify(request)? {
            Ok(principal) => principal,
            refused => return Some(refused),
        };
        let shared = &self.revocations.shared;
        let standing = shared.standing(&principal, request.now, request.anew);
        let asks = standing == Standing::Unknown && shared.when_stale == WhenStale::Ask;
        if asks || standing == Standing::Doubtful {
            return None;
        }
        Some(self.answer(standing, principal))
    }

    async fn verify(&self, request: &VerifyRequest) -> Result<Principal, VerifyError> {
        let mut principal = self.inner.verify(request).await?;
        let shared = &self.revocations.shared;
        let mut standing = shared.standing(&principal, request.now, request.anew);
        if standing == Standing::Doubtful {
            principal = self.inner.verify(&request.anew()).await?;
            standing = shared.standing(&principal, request.now, true);
        }
        if standing == Standing::Unknown && shared.when_stale == WhenStale::Ask {
            shared.catch_up().await;
            standing = shared.standing(&principal, request.now, true);
        }
        self.answer(standing, principal)
    }

    /// Also grows with every revocation, which a cache around this verifier must not outlive, and is
    /// another one while what is revoked is not known for certain.
    fn generation(&self) -> u64 {
        self.inner.generation().wrapping_add(self.revocations.shared.generation())
    }
}

impl<V: fmt::Debug> fmt::Debug for RevocableVerifier<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RevocableVerifier")
            .field("inner", &self.inner)
            .field("revocations", &self.revocations)
            .finish()
    }
}
