mod breaker;
mod parts;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::partition::PartitionKey;
use crate::quota::Decisions;
use crate::store::fallback::parts::{Asked, Asking, Parts};
use crate::store::{
    ClosedStore, RateLimitStore, Settlement, StoreError, TakeRequest, UnlimitedStore,
};
use crate::trace;

/// A store, and another one that decides while the first cannot.
///
/// What happens when the store of all nodes is gone is a choice:
///
/// | | while the first store is gone |
/// |---|---|
/// | `FallbackStore::new(shared, MemoryStore::new())` | each node limits by itself |
/// | [`FallbackStore::open`] | nobody is limited |
/// | [`FallbackStore::closed`] | everybody is refused with 503 |
///
/// In memory, each of *n* nodes gives every caller the whole quota: all together at most *n* times
/// the quota, and at most *n* bursts on top of what was taken before. What was taken meanwhile is
/// not told to the first store, whose own state goes on from where it was.
///
/// ```
/// use tower_gate::store::memory::MemoryStore;
/// use tower_gate::store::{FallbackStore, RateLimitStore};
/// use tower_gate::{Quota, RateLimitLayer};
///
/// fn layer(shared: impl RateLimitStore) -> RateLimitLayer {
///     let store = FallbackStore::new(shared, MemoryStore::new());
///     // Clones share their counters: keep one to read them.
///     let _for_metrics = store.clone();
///     RateLimitLayer::new(store, Quota::per_minute(60).with_burst(20))
/// }
/// # let _ = layer(MemoryStore::new());
/// ```
///
/// After three errors in a row the first store is left alone, so that an outage costs no request
/// its time, but for one at a time that asks whether it is back: within 150 ms of the last, and then
/// in pauses that double up to two seconds. The first answer ends the outage.
///
/// A node of a cluster that is gone while others answer is left alone by itself: each of the
/// [parts](RateLimitStore::part_of) that it has costs three requests their time, and the callers of
/// other nodes nothing. Of a `RedisStore` these are 64 ranges of slots, so that one master of three
/// costs about 60 requests of a node of the API their time, and then one every two seconds for each
/// range, until a replica stands in for it. A client that is busy looking for a node may hold up
/// calls to the others meanwhile, which then count as errors of theirs.
///
/// The store must give up by itself, as `RedisStore` does. Both
/// changes of state are logged, and audit events say which decisions were not the first store's:
/// [`AuditEvent::fallback`](crate::AuditEvent::fallback).
pub struct FallbackStore<S, F> {
    shared: Arc<Shared<S, F>>,
}

struct Shared<S, F> {
    first: S,
    second: F,
    parts: Parts,
    errors: AtomicU64,
    fallbacks: AtomicU64,
    outages: AtomicU64,
}

impl<S, F> FallbackStore<S, F> {
    /// Asks the second store where the first cannot answer.
    #[must_use]
    pub fn new(first: S, second: F) -> Self {
        let parts = Parts::new();
        let (errors, fallbacks, outages) = Default::default();
        Self { shared: Arc::new(Shared { first, second, parts, errors, fallbacks, outages }) }
    }

    /// How many requests the first store has failed.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.shared.errors.load(Ordering::Relaxed)
    }

    /// How many requests were decided by the second store.
    #[must_use]
    pub fn fallbacks(&self) -> u64 {
        self.shared.fallbacks.load(Ordering::Relaxed)
    }

    /// How often the first store was left alone, or parts of it at the same time.
    #[must_use]
    pub fn outages(&self) -> u64 {
        self.shared.outages.load(Ordering::Relaxed)
    }

    /// Whether the first store is left alone now, or a part of it. It stays so until the part is asked
    /// again, by a request that has to do with it: one that nobody asks may have been back for long.
    #[must_use]
    pub fn is_out(&self) -> bool {
        self.shared.parts.is_any_open()
    }
}

impl<S> FallbackStore<S, UnlimitedStore> {
    /// Limits nobody where the store cannot answer.
    #[must_use]
    pub fn open(store: S) -> Self {
        Self::new(store, UnlimitedStore)
    }
}

impl<S> FallbackStore<S, ClosedStore> {
    /// Refuses everybody with 503 where the store cannot answer, without making them wait for it.
    #[must_use]
    pub fn closed(store: S) -> Self {
        Self::new(store, ClosedStore)
    }
}

impl<S: RateLimitStore, F: RateLimitStore> Shared<S, F> {
    /// What the first store says, or nothing where the second is to be asked.
    async fn ask_first(&self, request: &TakeRequest, asking: &Asking) -> Option<Decisions> {
        let started = Instant::now();
        let answer = self.first.take(request).await;
        // A pause begins when it is known that one is needed.
        let now = request.now + request.waited + started.elapsed();
        match answer {
            Ok(decisions) => {
                if self.parts.succeeded(asking, now) {
                    trace::store_is_back(self.fallbacks.load(Ordering::Relaxed));
                }
                Some(decisions.of_store(false))
            }
            Err(error) => {
                self.errors.fetch_add(1, Ordering::Relaxed);
                if self.parts.failed(asking, now, !request.waited.is_zero()) {
                    self.outages.fetch_add(1, Ordering::Relaxed);
                    trace::store_is_out(&error);
                }
                None
            }
        }
    }

    fn asked(&self, request: &TakeRequest) -> Asked {
        let mut asked: Asked =
            request.takes().iter().map(|take| self.first.part_of(&take.key)).collect();
        asked.sort_unstable();
        asked.dedup();
        asked
    }

    fn fell_back(&self, answer: Result<Decisions, StoreError>) -> Result<Decisions, StoreError> {
        self.fallbacks.fetch_add(1, Ordering::Relaxed);
        answer.map(|decisions| decisions.of_store(true))
    }
}

impl<S: RateLimitStore, F: RateLimitStore> RateLimitStore for FallbackStore<S, F> {
    fn try_take(&self, request: &TakeRequest) -> Option<Result<Decisions, StoreError>> {
        let shared = &*self.shared;
        if shared.parts.is_any_open() {
            let asked = shared.asked(request);
            if shared.parts.are_open(&asked) {
                if shared.parts.would_admit(&asked, request.now + request.waited) {
                    return None;
                }
                return shared.second.try_take(request).map(|answer| shared.fell_back(answer));
            }
        }
        // Errors are counted where there is something to wait for.
        let answer = shared.first.try_take(request)?.ok()?;
        Some(Ok(answer.of_store(false)))
    }

    async fn take(&self, request: &TakeRequest) -> Result<Decisions, StoreError> {
        let shared = &*self.shared;
        if let Some(asking) =
            shared.parts.admit(&shared.asked(request), request.now + request.waited)
            && let Some(decisions) = shared.ask_first(request, &asking).await
        {
            return Ok(decisions);
        }
        let answer = match shared.second.try_take(request) {
            Some(answer) => answer,
            None => shared.second.take(request).await,
        };
        shared.fell_back(answer)
    }

    /// Goes to the store that has taken the units, whichever decides now.
    fn settle(&self, settlement: &Settlement) {
        let (is_second, within) = settlement.by().split();
        if is_second {
            self.shared.second.settle(&settlement.to(within));
        } else {
            self.shared.first.settle(&settlement.to(within));
        }
    }

    fn part_of(&self, key: &PartitionKey) -> u8 {
        self.shared.first.part_of(key)
    }
}

impl<S, F> Clone for FallbackStore<S, F> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<S: fmt::Debug, F: fmt::Debug> fmt::Debug for FallbackStore<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FallbackStore")
            .field("first", &self.shared.first)
            .field("second", &self.shared.second)
            .field("is_out", &self.is_out())
            .field("errors", &self.errors())
            .field("fallbacks", &self.fallbacks())
            .field("outages", &self.outages())
            .finish()
    }
}
