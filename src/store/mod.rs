//! Where state lives that outlasts a request.
//!
//! [`MemoryStore`](memory::MemoryStore) keeps the state of rate limits in the process;
//! [`RateLimitStore`] is the port for anything else, such as limits that nodes share, and
//! [`FallbackStore`] puts one behind another. With the feature `opaque`, `TokenStore` is the
//! port for the records of opaque tokens: in memory, in SQLite or in PostgreSQL. With the feature
//! `revocation`, `RevocationStore` is the port for revocations, which nodes share.

mod fallback;
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

use smallvec::{SmallVec, smallvec};

use crate::partition::PartitionKey;
use crate::quota::{Decider, Decisions, INLINE, Quota};
use crate::rejection::{Rejection, RejectionKind};

pub use self::fallback::FallbackStore;
#[cfg(feature = "revocation")]
pub use self::revocation::{News, RevocationPage, RevocationStore, RevokeRequest};
pub use crate::quota::Take;

#[cfg(feature = "revocation")]
pub(crate) use self::revocation::ErasedRevocationStore;
#[cfg(feature = "opaque")]
pub(crate) use self::token::{ErasedTokenStore, Storing, whole_millis};
#[cfg(feature = "opaque")]
pub use self::token::{Replacement, TokenDigest, TokenFilter, TokenQuery, TokenRecord, TokenStore};

/// Keeps what rate limits need to remember, and decides.
///
/// **Contract.** One atomic step for each call: of all calls for a key, the units allowed in any
/// interval never exceed `burst + interval / period · units` of the quota, whatever runs at the
/// same time. The takes of one call, whose keys differ, are decided together: where one is limited,
/// nothing is taken from any. [`TakeRequest::decide`] is the definition. A store that several nodes
/// share uses one clock for all of them instead of [`now`](TakeRequest::now), which counts from a
/// moment of this process. Where that can go back, the store has to see to it that nobody waits for
/// it to catch up: it remembers the longest debt that it has ever written, of the key or of any, and
/// lowers a TAT that is further ahead. The quota that is asked for will not do, because a smaller one
/// would forgive what is owed under a greater.
///
/// Where the state is at hand, [`try_take`](Self::try_take) answers without waiting; otherwise it
/// says `None` and [`take`](Self::take) is awaited.
///
/// **Errors.** A [`StoreError`] means that nothing is known: the layer refuses with 503, never with
/// 429 and never with a pass. An answer with fewer decisions than takes is one as well.
///
/// **Concurrency.** Called from many tasks at once. The future may be dropped at any await; the
/// units may then be taken or not.
///
/// **Security.** A store that forgets a key gives its caller a full burst again, so it must not
/// forget one that is in debt while it could forget another.
///
/// A store over any engine that can compare and swap; one that runs a script or a statement does
/// there what [`TakeRequest::decide`] does, from [`interval`](Quota::interval) and
/// [`burst`](Quota::burst), and makes the [`Usage`](crate::Usage) of its answer:
///
/// ```
/// use std::sync::{Arc, Mutex};
/// use tower_gate::store::{RateLimitStore, Settlement, StoreError, TakeRequest};
/// use tower_gate::{Decision, Decisions, PartitionKey, Quota};
/// # use std::{collections::HashMap, io, time::Duration};
///
/// struct SwapStore {
///     engine: Arc<Engine>,
/// }
///
/// impl RateLimitStore for SwapStore {
///     async fn take(&self, request: &TakeRequest) -> Result<Decisions, StoreError> {
///         let keys: Vec<u128> = request.takes().iter().map(|take| take.key.to_u128()).collect();
///         loop {
///             // Zero for a key that is not there, and the time of the engine's own clock.
///             let (tats, now) = self.engine.read(&keys).await.map_err(StoreError::new)?;
///             let mut new_tats = tats.clone();
///             let decisions = request.decide(&mut new_tats, now);
///             // Somebody else may have written in the meantime.
///             if self.engine.swap(&keys, &tats, &new_tats).await.map_err(StoreError::new)? {
///                 return Ok(decisions);
///             }
///         }
///     }
///
///     fn settle(&self, settlement: &Settlement) {
///         let (engine, settlement) = (self.engine.clone(), *settlement);
///         tokio::spawn(async move {
///             let keys = [settlement.key.to_u128()];
///             // A correction that the engine cannot take is lost.
///             while let Ok((tats, now)) = engine.read(&keys).await {
///                 let new_tat = settlement.settle(tats[0], now);
///                 if !matches!(engine.swap(&keys, &tats, &[new_tat]).await, Ok(false)) {
///                     return;
///                 }
///             }
///         });
///     }
/// }
/// # struct Engine(Mutex<HashMap<u128, u64>>);
/// # impl Engine {
/// #     async fn read(&self, keys: &[u128]) -> io::Result<(Vec<u64>, u64)> {
/// #         let tats = self.0.lock().unwrap();
/// #         let tat = |key| tats.get(key).copied().unwrap_or(0);
/// #         Ok((keys.iter().map(tat).collect(), 1_000_000_000))
/// #     }
/// #     async fn swap(&self, keys: &[u128], from: &[u64], to: &[u64]) -> io::Result<bool> {
/// #         let mut tats = self.0.lock().unwrap();
/// #         let is_unchanged = |(key, from): (&_, &_)| tats.get(key).copied().unwrap_or(0) == *from;
/// #         let are_unchanged = keys.iter().zip(from).all(is_unchanged);
/// #         if are_unchanged {
/// #             tats.extend(keys.iter().copied().zip(to.iter().copied()));
/// #         }
/// #         Ok(are_unchanged)
/// #     }
/// # }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), StoreError> {
/// # let store = SwapStore { engine: Arc::new(Engine(Mutex::default())) };
/// let (caller, once) = (PartitionKey::new(["caller"]), Quota::per_minute(1));
/// let request = TakeRequest::new(caller, once, 1, Duration::ZERO);
/// assert!(store.take(&request).await?.are_allowed());
/// assert!(!store.take(&request).await?.are_allowed());
/// store.settle(&Settlement::new(caller, once, -1, Duration::ZERO).with_owed(once.interval()));
/// # tokio::task::yield_now().await;
/// assert!(store.take(&request).await?.are_allowed());
/// # Ok(())
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a `RateLimitStore`",
    note = "use `MemoryStore`, or implement `RateLimitStore`"
)]
pub trait RateLimitStore: Send + Sync + 'static {
    /// Answers at once where it can.
    fn try_take(&self, request: &TakeRequest) -> Option<Result<Decisions, StoreError>> {
        let _ = request;
        None
    }

    /// Answers, after waiting for whatever keeps the state.
    fn take(
        &self,
        request: &TakeRequest,
    ) -> impl Future<Output = Result<Decisions, StoreError>> + Send;

    /// Corrects what was taken once the cost is known, as [`Settlement::settle`] defines it.
    ///
    /// It may be called from `drop`: it neither waits nor fails. A store that has to wait hands the
    /// settlement on, to something with a bound, and counts what it loses.
    fn settle(&self, settlement: &Settlement);

    /// In which part of the store a key is, of those that can be gone while the others answer, as
    /// the nodes of a cluster can: a number below 64. Default: there is one.
    fn part_of(&self, key: &PartitionKey) -> u8 {
        let _ = key;
        0
    }
}

impl<S: RateLimitStore + ?Sized> RateLimitStore for Arc<S> {
    fn try_take(&self, request: &TakeRequest) -> Option<Result<Decisions, StoreError>> {
        (**self).try_take(request)
    }

    async fn take(&self, request: &TakeRequest) -> Result<Decisions, StoreError> {
        (**self).take(request).await
    }

    fn settle(&self, settlement: &Settlement) {
        (**self).settle(settlement);
    }

    fn part_of(&self, key: &PartitionKey) -> u8 {
        (**self).part_of(key)
    }
}

/// What a [`RateLimitStore`] is asked: one take or several, to be decided together.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TakeRequest {
    takes: SmallVec<[Take; INLINE]>,
    /// The time on a clock that never goes back.
    pub now: Duration,
    /// How long the request has waited since, for earlier answers of this store: a store that gives
    /// up after a time counts from `now`.
    pub waited: Duration,
}

impl TakeRequest {
    /// A request for this many units of one quota.
    #[must_use]
    pub fn new(key: PartitionKey, quota: Quota, cost: u32, now: Duration) -> Self {
        Self { takes: smallvec![Take::new(key, quota, cost)], now, waited: Duration::ZERO }
    }

    /// A request for units of several quotas. Their keys must differ: two takes from one key are
    /// one take of both costs.
    #[must_use]
    pub fn together(takes: impl IntoIterator<Item = Take>, now: Duration) -> Self {
        Self { takes: takes.into_iter().collect(), now, waited: Duration::ZERO }
    }

    /// The same after so long a wait.
    #[must_use]
    pub fn after(self, waited: Duration) -> Self {
        Self { waited, ..self }
    }

    /// What is to be taken; the answer has its decisions in this order.
    #[must_use]
    pub fn takes(&self) -> &[Take] {
        &self.takes
    }

    /// The decisions at `now`, in nanoseconds of whatever clock the store has, where the keys have
    /// these TATs: zero for a key never seen. What is left in `tats` is to be kept. See
    /// [`Take::decide`].
    pub fn decide(&self, tats: &mut [u64], now: u64) -> Decisions {
        Take::decide(&self.takes, tats, now)
    }
}

/// A correction of what was taken.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Settlement {
    /// Whose units.
    pub key: PartitionKey,
    /// How many there are.
    pub quota: Quota,
    /// How many more to take; negative to give back.
    pub units: i64,
    /// The time on a clock that never goes back.
    pub now: Duration,
    /// How long from now until all is there of what was owed after the units were taken: no more
    /// than that is given back.
    pub owed: Duration,
    by: Decider,
}

impl Settlement {
    /// So many more units. Of fewer, nothing is given back before it is said
    /// [what is owed](Self::with_owed).
    #[must_use]
    pub fn new(key: PartitionKey, quota: Quota, units: i64, now: Duration) -> Self {
        Self { key, quota, units, now, owed: Duration::ZERO, by: Decider::default() }
    }

    /// The same where this is still owed of what was taken.
    #[must_use]
    pub fn with_owed(self, owed: Duration) -> Self {
        Self { owed, ..self }
    }

    /// The TAT to keep for a key that has this one, at `now` in nanoseconds of whatever clock the
    /// store has. See [`Quota::settle`].
    #[must_use]
    pub fn settle(&self, tat: u64, now: u64) -> u64 {
        let owed = u64::try_from(self.owed.as_nanos()).unwrap_or(u64::MAX);
        self.quota.settle(tat, now, self.units, owed)
    }

    /// The same for the store that has taken the units.
    pub(crate) fn to(self, by: Decider) -> Self {
        Self { by, ..self }
    }

    pub(crate) fn by(&self) -> Decider {
        self.by
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
    fn try_take(&self, request: &TakeRequest) -> Option<Result<Decisions, StoreError>> {
        let untouched = request.takes.iter().map(|take| take.quota.decide(0, 0, 0).0);
        Some(Ok(untouched.collect()))
    }

    async fn take(&self, request: &TakeRequest) -> Result<Decisions, StoreError> {
        let untouched = request.takes.iter().map(|take| take.quota.decide(0, 0, 0).0);
        Ok(untouched.collect())
    }

    fn settle(&self, _: &Settlement) {}
}

/// The store that is closed: every request is refused with 503.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClosedStore;

impl RateLimitStore for ClosedStore {
    fn try_take(&self, _: &TakeRequest) -> Option<Result<Decisions, StoreError>> {
        Some(Err(StoreError::new("it is closed")))
    }

    async fn take(&self, _: &TakeRequest) -> Result<Decisions, StoreError> {
        Err(StoreError::new("it is closed"))
    }

    fn settle(&self, _: &Settlement) {}
}

/// The answer of a store that has to wait, which may outlive the request that asked.
pub(crate) type Taking = Pin<Box<dyn Future<Output = Result<Decisions, StoreError>> + Send>>;

/// A store without its type, so that a layer has no type parameter.
pub(crate) trait ErasedStore: Send + Sync {
    fn try_take(&self, request: &TakeRequest) -> Option<Result<Decisions, StoreError>>;
    fn take(self: Arc<Self>, request: TakeRequest) -> Taking;
    fn settle(&self, settlement: &Settlement);
}

impl<S: RateLimitStore> ErasedStore for S {
    fn try_take(&self, request: &TakeRequest) -> Option<Result<Decisions, StoreError>> {
        RateLimitStore::try_take(self, request)
    }

    fn take(self: Arc<Self>, request: TakeRequest) -> Taking {
        Box::pin(async move { RateLimitStore::take(&*self, &request).await })
    }

    fn settle(&self, settlement: &Settlement) {
        RateLimitStore::settle(self, settlement);
    }
}
