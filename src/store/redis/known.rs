use std::sync::Arc;
use std::time::Duration;

use quick_cache::UnitWeighter;
use quick_cache::sync::{Cache, DefaultLifecycle};
use smallvec::SmallVec;

use crate::partition::PartitionKey;
use crate::prehashed::BuildPrehashed;
use crate::quota::{Decision, Decisions, INLINE, Quota, Take, Usage};
use crate::store::TakeRequest;

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

    /// The decisions on these takes, where one of them is known to be limited: nothing is taken then,
    /// whatever the others owe.
    pub(super) fn decide(&self, request: &TakeRequest) -> Option<Decisions> {
        let takes = request.takes();
        let owed: SmallVec<[Option<u64>; INLINE]> =
            takes.iter().map(|take| self.owed(take, request.now)).collect();
        let mut tats: SmallVec<[u64; INLINE]> =
            owed.iter().map(|owed| owed.unwrap_or_default()).collect();
        let decisions = request.decide(&mut tats, 0);
        if decisions.are_allowed() {
            return None;
        }
        let each = owed.iter().zip(&*decisions);
        each.map(|(owed, decision)| match (owed, decision) {
            (Some(_), _) => Some(*decision),
            (None, Decision::Allowed(_)) => Some(Decision::Allowed(Usage::UNKNOWN)),
            // It costs too much whatever is owed, and the server says how it stands.
            (None, Decision::Limited { .. }) => None,
        })
        .collect()
    }

    /// What a take's key owes, where that is known.
    fn owed(&self, take: &Take, now: Duration) -> Option<u64> {
        let debt = self.0.get(&take.key).filter(|debt| debt.quota == take.quota)?;
        let elapsed = now.checked_sub(debt.asked).filter(|&time| time < AT_MOST)?;
        let elapsed = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        Some(debt.owed.saturating_sub(elapsed))
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
