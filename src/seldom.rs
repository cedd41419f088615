//! What is logged once in a while.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What is said once in a while, however often it happens.
#[derive(Default)]
pub(crate) struct Seldom {
    /// When it may be said again, in nanoseconds.
    next: AtomicU64,
}

const PAUSE: Duration = Duration::from_secs(10);

impl Seldom {
    pub(crate) fn is_due(&self, now: Duration) -> bool {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let next = self.next.load(Ordering::Relaxed);
        let after = nanos(now.saturating_add(PAUSE));
        nanos(now) >= next
            && self.next.compare_exchange(next, after, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}
