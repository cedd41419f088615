use std::sync::Arc;
use std::time::Duration;

use quick_cache::UnitWeighter;
use quick_cache::sync::{Cache, DefaultLifecycle};

use crate::partition::PartitionKey;
use crate::prehashed::BuildPrehashed;
use crate::quota::{Decisions, Quota};
use crate::store::TakeRequest;
use crate::store::redis::script::Owed;

/// What keys owed when the server refused a request for them, so that whoever is limited and comes
/// again costs no round trip.
///
/// What a key owes grows with what anybody takes, and shrinks with time alone. So whoever is limited
/// by what is known here is limited in truth, but for units that were given back, which is why
/// nothing is known for long, and why this node forgets a key that it gives units back to.
#[derive(Clone)]
pub(super) struct Known(Arc<Cache<PartitionKey, Debt, UnitWeighter, BuildPrehashed>>);

#[derive(Clone, Copy)]
struct Debt {
    quota: Quota,
    /// In nanoseconds.
    owed: u64,
    /// Before the server was asked: what is owed is never thought to last longer than it does.
    asked: Duration,
}

/// How long a refund by another node may go unnoticed here.
const AT_MOST: Duration = Duration::from_secs(1);

/// Less than two megabytes.
const KEYS: usize = 10_000;

impl Known {
    pub(super) fn new() -> Self {
        let (hasher, lifecycle) = (BuildPrehashed::default(), DefaultLifecycle::default());
        Self(Arc::new(Cache::with(KEYS, KEYS as u64, UnitWeighter, hasher, lifecycle)))
    }

    /// The decisions on these takes, where they are known to be limited.
    pub(super) fn decide(&self, request: &TakeRequest) -> Option<Decisions> {
        let owed = request.takes().iter().map(|take| {
            let debt = self.0.get(&take.key).filter(|debt| debt.quota == take.quota)?;
            let elapsed = request.now.checked_sub(debt.asked).filter(|&time| time < AT_MOST)?;
            let elapsed = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
            Some(debt.owed.saturating_sub(elapsed))
        });
        let mut owed: Owed = owed.collect::<Option<_>>()?;
        Some(request.decide(&mut owed, 0)).filter(|decisions| !decisions.are_allowed())
    }

    /// Remembers what the keys of a refused request owe.
    pub(super) fn learn(&self, request: &TakeRequest, owed: &[u64]) {
        for (take, &owed) in request.takes().iter().zip(owed) {
            self.0.insert(take.key, Debt { quota: take.quota, owed, asked: request.now });
        }
    }

    pub(super) fn forget(&self, key: &PartitionKey) {
        self.0.remove(key);
    }
}
