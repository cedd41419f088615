mod breaker;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::quota::Decisions;
use crate::store::fallback::breaker::{Breaker, Call};
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
/// its time, but for one at a time that asks whether it is back: within a tenth of a second of the
/// last, and then in pauses that double up to two seconds. The first answer ends the outage.
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
    breaker: Breaker,
    errors: AtomicU64,
    fallbacks: AtomicU64,
    outages: AtomicU64,
}

impl<S, F> FallbackStore<S, F> {
    /// Asks the second store where the first cannot answer.
    #[must_use]
    pub fn new(first: S, second: F) -> Self {
        let breaker = Breaker::default();
        let (errors, fallbacks, outages) = Default::default();
        Self { shared: Arc::new(Shared { first, second, breaker, errors, fallbacks, outages }) }
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

    /// How often the first store was left alone.
    #[must_use]
    pub fn outages(&self) -> u64 {
        self.shared.outages.load(Ordering::Relaxed)
    }

    /// Whether the first store is left alone now.
    #[must_use]
    pub fn is_out(&self) -> bool {
        self.shared.breaker.is_open()
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
    fn judge(
        &self,
        answer: Result<Decisions, StoreError>,
        call: Call,
        request: &TakeRequest,
    ) -> Option<Decisions> {
        match answer {
            Ok(decisions) => {
                if self.breaker.succeeded(call) {
                    trace::store_is_back(self.fallbacks.load(Ordering::Relaxed));
                }
                Some(decisions)
            }
            Err(error) => {
                self.errors.fetch_add(1, Ordering::Relaxed);
                if self.breaker.failed(call, request.now) {
                    self.outages.fetch_add(1, Ordering::Relaxed);
                    trace::store_is_out(&error);
                }
                None
            }
        }
    }

    fn fell_back(&self, answer: Result<Decisions, StoreError>) -> Result<Decisions, StoreError> {
        self.fallbacks.fetch_add(1, Ordering::Relaxed);
        answer.map(Decisions::by_fallback)
    }
}

impl<S: RateLimitStore, F: RateLimitStore> RateLimitStore for FallbackStore<S, F> {
    fn try_take(&self, request: &TakeRequest) -> Option<Result<Decisions, StoreError>> {
        let shared = &*self.shared;
        if !shared.breaker.is_open() {
            // Errors are counted where there is something to wait for.
            return shared.first.try_take(request).filter(Result::is_ok);
        }
        if shared.breaker.would_admit(request.now) {
            return None;
        }
        shared.second.try_take(request).map(|answer| shared.fell_back(answer))
    }

    async fn take(&self, request: &TakeRequest) -> Result<Decisions, StoreError> {
        let shared = &*self.shared;
        if let Some(call) = shared.breaker.admit(request.now) {
            let answer = shared.first.take(request).await;
            if let Some(decisions) = shared.judge(answer, call, request) {
                return Ok(decisions);
            }
        }
        let answer = match shared.second.try_take(request) {
            Some(answer) => answer,
            None => shared.second.take(request).await,
        };
        shared.fell_back(answer)
    }

    /// Goes to the store that decides now, which in the moment of a change is not always the one
    /// that has decided.
    fn settle(&self, settlement: &Settlement) {
        if self.shared.breaker.is_open() {
            self.shared.second.settle(settlement);
        } else {
            self.shared.first.settle(settlement);
        }
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
