use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Extensions, Request};

use crate::clock::Clock;
use crate::quota::{Decider, Decisions, Take};
use crate::store::{ErasedStore, Settlement, TakeRequest};

/// What a request turns out to cost, for policies
/// [with a settled cost](crate::rate_limit::Policy::with_settled_cost): an extension of requests
/// that a handler takes out.
///
/// The units that were taken before are corrected when the last clone is gone. A handler that knows
/// the cost only at the end of its response keeps one in the response's body. Where nobody says
/// anything, because a handler does not care, panics or is given up, what was taken stays taken.
///
/// ```
/// use http::Request;
/// use tower_gate::rate_limit::Cost;
///
/// fn handle(request: &Request<()>) {
///     let cost = Cost::of(request.extensions());
///     let rows = 250;
///     if let Some(cost) = cost {
///         cost.set(rows / 100 + 1);
///     }
/// }
/// # handle(&Request::new(()));
/// ```
#[derive(Clone)]
pub struct Cost(Arc<Account>);

struct Account {
    units: AtomicU64,
    bills: Mutex<Vec<Bill>>,
}

/// What one policy has taken.
struct Bill {
    taken: Taken,
    store: Arc<dyn ErasedStore>,
    clock: Arc<dyn Clock>,
}

/// Units that may have to be corrected.
pub(super) struct Taken {
    take: Take,
    /// When all will be there of what was owed after the take, these units last.
    reset: Duration,
    by: Decider,
}

/// No number of units, which are 32 bits.
const UNSAID: u64 = u64::MAX;

impl Cost {
    /// That of this request, if a policy asks for it.
    #[must_use]
    pub fn of(extensions: &Extensions) -> Option<&Self> {
        extensions.get()
    }

    /// Says so many units, in place of what was said before.
    pub fn set(&self, units: u32) {
        self.0.units.store(units.into(), Ordering::Relaxed);
    }

    /// Says so many more units.
    pub fn add(&self, units: u32) {
        let sum = |said| {
            let said = if said == UNSAID { 0 } else { said };
            Some((said + u64::from(units)).min(u32::MAX.into()))
        };
        // The closure never gives up.
        let _ = self.0.units.fetch_update(Ordering::Relaxed, Ordering::Relaxed, sum);
    }

    /// Puts what was taken on the request's account, which a limit further out may have opened.
    pub(super) fn charge<B>(
        request: &mut Request<B>,
        taken: impl Iterator<Item = Taken>,
        store: &Arc<dyn ErasedStore>,
        clock: &Arc<dyn Clock>,
    ) {
        let mut taken = taken.peekable();
        if taken.peek().is_none() {
            return;
        }
        let bills = taken.map(|taken| Bill { taken, store: store.clone(), clock: clock.clone() });
        let cost = request.extensions_mut().get_or_insert_with(Self::new);
        cost.0.bills.lock().unwrap_or_else(PoisonError::into_inner).extend(bills);
    }

    fn new() -> Self {
        Self(Arc::new(Account { units: AtomicU64::new(UNSAID), bills: Mutex::default() }))
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let Ok(units) = u32::try_from(*self.units.get_mut()) else {
            return;
        };
        let bills = self.bills.get_mut().unwrap_or_else(PoisonError::into_inner);
        for Bill { taken, store, clock } in bills {
            taken.settle(units, &**store, &**clock);
        }
    }
}

impl Taken {
    /// What was taken of each policy by a request that passes.
    pub(super) fn all(asked: &TakeRequest, decisions: &Decisions) -> impl Iterator<Item = Self> {
        let (now, by) = (asked.now, decisions.by());
        asked.takes().iter().zip(&**decisions).map(move |(&take, decision)| Self {
            take,
            reset: now.saturating_add(decision.usage().reset_after),
            by,
        })
    }

    /// Corrects it to so many units.
    pub(super) fn settle(&self, units: u32, store: &dyn ErasedStore, clock: &dyn Clock) {
        let Take { key, quota, cost, .. } = self.take;
        let more = i64::from(units) - i64::from(cost);
        if more != 0 {
            let now = clock.monotonic();
            let settlement = Settlement::new(key, quota, more, now);
            store.settle(&settlement.with_owed(self.reset.saturating_sub(now)).to(self.by));
        }
    }
}

impl fmt::Debug for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = u32::try_from(self.0.units.load(Ordering::Relaxed)).ok();
        f.debug_struct("Cost").field("units", &units).finish_non_exhaustive()
    }
}
