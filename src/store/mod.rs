//! Where state lives that outlasts a request.
//!
//! [`MemoryStore`](memory::MemoryStore) keeps the state of rate limits in the process;
//! [`RateLimitStore`] is the port for anything else. With the feature `opaque`, `TokenStore` is the
//! port for the records of opaque tokens: in memory, in SQLite or in PostgreSQL. With the feature
//! `revocation`, `RevocationStore` is the port for revocations, which nodes share.

pub mod memory;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(feature = "revocation")]
mod revocation;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod sql;
#[cfg(feature = "sqlite")]
pub mod sqlite;
#[cfg(feature = "opaque")]
mod token;

use std::error::Error as StdError;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::quota::{Decision, PartitionKey, Quota};
use crate::rejection::{Rejection, RejectionKind};

#[cfg(feature = "revocation")]
pub use self::revocation::{News, RevocationPage, RevocationStore, RevokeRequest};

#[cfg(feature = "revocation")]
pub(crate) use self::revocation::ErasedRevocationStore;
#[cfg(feature = "opaque")]
pub(crate) use self::token::{ErasedTokenStore, whole_millis};
#[cfg(feature = "opaque")]
pub use self::token::{Replacement, TokenDigest, TokenFilter, TokenQuery, TokenRecord, TokenStore};

/// Keeps what rate limits need to remember, and decides.
///
/// **Contract.** One atomic step for each call: of all calls for a key, the units allowed in any
/// interval never exceed `burst + interval / period · units` of the quota, whatever runs at the
/// same time. What is limited takes nothing. [`Quota::decide`] is the definition. A store that
/// several nodes share uses one clock for all of them instead of [`now`](TakeRequest::now), which
/// counts from a moment of this process.
///
/// Where the state is at hand, [`try_take`](Self::try_take) answers without waiting; otherwise it
/// says `None` and [`take`](Self::take) is awaited.
///
/// **Errors.** A [`StoreError`] means that nothing is known: the layer refuses with 503, never with
/// 429 and never with a pass.
///
/// **Concurrency.** Called from many tasks at once. The future may be dropped at any await; the
/// units may then be taken or not.
///
/// **Security.** A store that forgets a key gives its caller a full burst again, so it must not
/// forget one that is in debt while it could forget another.
///
/// A store over any engine that can compare and swap; one that runs a script or a statement does
/// there what [`Quota::decide`] does, from [`interval`](Quota::interval) and
/// [`burst`](Quota::burst), and makes the [`Usage`](crate::Usage) of its answer:
///
/// ```
/// use std::sync::Mutex;
/// use tower_gate::store::{RateLimitStore, StoreError, TakeRequest};
/// use tower_gate::{Decision, PartitionKey, Quota};
/// # use std::{collections::HashMap, io, time::Duration};
///
/// struct SwapStore {
///     engine: Engine,
/// }
///
/// impl RateLimitStore for SwapStore {
///     async fn take(&self, request: &TakeRequest) -> Result<Decision, StoreError> {
///         let key = request.key.to_u128();
///         loop {
///             // Zero for a key that is not there, and the time of the engine's own clock.
///             let (tat, now) = self.engine.read(key).await.map_err(StoreError::new)?;
///             let (decision, new_tat) = request.quota.decide(tat, now, request.cost);
///             // Somebody else may have written in the meantime.
///             if self.engine.swap(key, tat, new_tat).await.map_err(StoreError::new)? {
///                 return Ok(decision);
///             }
///         }
///     }
/// }
/// # struct Engine(Mutex<HashMap<u128, u64>>);
/// # impl Engine {
/// #     async fn read(&self, key: u128) -> io::Result<(u64, u64)> {
/// #         Ok((self.0.lock().unwrap().get(&key).copied().unwrap_or(0), 1_000_000_000))
/// #     }
/// #     async fn swap(&self, key: u128, from: u64, to: u64) -> io::Result<bool> {
/// #         let mut tats = self.0.lock().unwrap();
/// #         let tat = tats.entry(key).or_insert(0);
/// #         let is_unchanged = *tat == from;
/// #         if is_unchanged {
/// #             *tat = to;
/// #         }
/// #         Ok(is_unchanged)
/// #     }
/// # }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), StoreError> {
/// # let store = SwapStore { engine: Engine(Mutex::default()) };
/// let request = TakeRequest::new(
///     PartitionKey::new(["caller"]), Quota::per_minute(1), 1, Duration::ZERO,
/// );
/// assert!(matches!(store.take(&request).await?, Decision::Allowed(_)));
/// assert!(matches!(store.take(&request).await?, Decision::Limited { .. }));
/// # Ok(())
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a `RateLimitStore`",
    note = "use `MemoryStore`, or implement `RateLimitStore`"
)]
pub trait RateLimitStore: Send + Sync + 'static {
    /// Answers at once where it can.
    fn try_take(&self, request: &TakeRequest) -> Option<Result<Decision, StoreError>> {
        let _ = request;
        None
    }

    /// Answers, after waiting for whatever keeps the state.
    fn take(
        &self,
        request: &TakeRequest,
    ) -> impl Future<Output = Result<Decision, StoreError>> + Send;
}

impl<S: RateLimitStore + ?Sized> RateLimitStore for Arc<S> {
    fn try_take(&self, request: &TakeRequest) -> Option<Result<Decision, StoreError>> {
        (**self).try_take(request)
    }

    async fn take(&self, request: &TakeRequest) -> Result<Decision, StoreError> {
        (**self).take(request).await
    }
}

/// What a [`RateLimitStore`] is asked.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct TakeRequest {
    /// Whose units.
    pub key: PartitionKey,
    /// How many there are.
    pub quota: Quota,
    /// How many to take; zero only looks.
    pub cost: u32,
    /// The time on a clock that never goes back.
    pub now: Duration,
}

impl TakeRequest {
    /// A request for this many units.
    #[must_use]
    pub fn new(key: PartitionKey, quota: Quota, cost: u32, now: Duration) -> Self {
        Self { key, quota, cost, now }
    }
}

/// A store cannot answer.
#[derive(Debug)]
pub struct StoreError(Box<dyn StdError + Send + Sync>);

impl StoreError {
    /// How long a client is told to wait out an outage.
    const RETRY_AFTER: Duration = Duration::from_secs(1);

    /// The store failed for this reason, which is logged and not shown to clients.
    pub fn new(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self(source.into())
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the store cannot answer")
    }
}

impl StdError for StoreError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.0)
    }
}

impl From<StoreError> for Rejection {
    fn from(_: StoreError) -> Self {
        Self::new(RejectionKind::Unavailable)
            .with_reason("store_unavailable")
            .with_retry_after(StoreError::RETRY_AFTER)
    }
}

/// The null store, which has units for everybody.
#[derive(Clone, Copy, Debug, Default)]
pub struct UnlimitedStore;

impl RateLimitStore for UnlimitedStore {
    fn try_take(&self, request: &TakeRequest) -> Option<Result<Decision, StoreError>> {
        let (decision, _) = request.quota.decide(0, 0, 0);
        Some(Ok(decision))
    }

    async fn take(&self, request: &TakeRequest) -> Result<Decision, StoreError> {
        let (decision, _) = request.quota.decide(0, 0, 0);
        Ok(decision)
    }
}

/// The answer of a store that has to wait, which may outlive the request that asked.
pub(crate) type Taking = Pin<Box<dyn Future<Output = Result<Decision, StoreError>> + Send>>;

/// A store without its type, so that a layer has no type parameter.
pub(crate) trait ErasedStore: Send + Sync {
    fn try_take(&self, request: &TakeRequest) -> Option<Result<Decision, StoreError>>;
    fn take(self: Arc<Self>, request: TakeRequest) -> Taking;
}

impl<S: RateLimitStore> ErasedStore for S {
    fn try_take(&self, request: &TakeRequest) -> Option<Result<Decision, StoreError>> {
        RateLimitStore::try_take(self, request)
    }

    fn take(self: Arc<Self>, request: TakeRequest) -> Taking {
        Box::pin(async move { RateLimitStore::take(&*self, &request).await })
    }
}
