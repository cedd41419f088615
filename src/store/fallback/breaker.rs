use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::random::random_word;

/// Whether a store that fails is worth asking, so that one that is gone costs nobody its timeout.
///
/// Closed, everybody asks. After a few failures in a row it opens, and nobody does but one request
/// now and then, whose success closes it again.
#[derive(Default)]
pub(super) struct Breaker {
    /// When the next request may ask, in nanoseconds; zero while it is closed.
    opens_at: AtomicU64,
    failures_in_a_row: AtomicU32,
    /// Requests that have asked in vain since it opened.
    probes: AtomicU32,
}

/// A request that asks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Call {
    /// Among all others.
    Usual,
    /// Alone, on behalf of all others.
    Probe,
}

/// One may be chance, and each of them is a request that has waited.
const FAILURES: u32 = 3;

/// Between probes, doubled each time up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A pause, and by how much requests may come in another order than that in which they read the clock.
const LONGER_THAN_ANY: Duration = Duration::from_secs(12);

impl Breaker {
    pub(super) fn is_open(&self) -> bool {
        self.opens_at.load(Ordering::Acquire) > 0
    }

    /// Whether a request at this time would be let through.
    pub(super) fn would_admit(&self, now: Duration) -> bool {
        is_due(self.opens_at.load(Ordering::Acquire), now)
    }

    /// Lets a request through, or not.
    pub(super) fn admit(&self, now: Duration) -> Option<Call> {
        let opens_at = self.opens_at.load(Ordering::Acquire);
        if opens_at == 0 {
            return Some(Call::Usual);
        }
        if !is_due(opens_at, now) {
            return None;
        }
        // Until this one has its answer, and also if nobody waits for that, the next has to wait.
        let next = self.next_probe(now);
        let won =
            self.opens_at.compare_exchange(opens_at, next, Ordering::AcqRel, Ordering::Relaxed);
        won.is_ok().then_some(Call::Probe)
    }

    /// Says whether this closed it.
    pub(super) fn succeeded(&self, call: Call) -> bool {
        if self.failures_in_a_row.load(Ordering::Relaxed) > 0 {
            self.failures_in_a_row.store(0, Ordering::Relaxed);
        }
        // An answer to a question from before the outage says nothing of now.
        if call == Call::Usual {
            return false;
        }
        self.close()
    }

    /// Says whether it was open.
    pub(super) fn close(&self) -> bool {
        self.failures_in_a_row.store(0, Ordering::Relaxed);
        self.probes.store(0, Ordering::Relaxed);
        self.opens_at.swap(0, Ordering::AcqRel) > 0
    }

    /// Says whether this opened it.
    pub(super) fn failed(&self, call: Call, now: Duration) -> bool {
        if call == Call::Probe {
            self.probes.fetch_add(1, Ordering::Relaxed);
            let next = self.next_probe(now);
            // Another one may have closed it in the meantime, or have been put off for longer.
            let put_off = |opens_at| (opens_at > 0 && opens_at < next).then_some(next);
            let _ = self.opens_at.fetch_update(Ordering::AcqRel, Ordering::Relaxed, put_off);
            return false;
        }
        if self.failures_in_a_row.fetch_add(1, Ordering::Relaxed) + 1 < FAILURES {
            return false;
        }
        let next = self.next_probe(now);
        self.opens_at.compare_exchange(0, next, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Between half of the pause and all of it, so that nodes do not ask a server that comes back
    /// all at once.
    fn next_probe(&self, now: Duration) -> u64 {
        let doublings = self.probes.load(Ordering::Relaxed).min(16);
        let pause = nanos((FIRST_PAUSE * 2u32.pow(doublings)).min(LONGEST_PAUSE));
        nanos(now) + pause / 2 + random_word() % (pause / 2)
    }
}

/// Whether a pause is over, or is longer than any: then the clock went back, and nobody waits until it
/// has caught up.
fn is_due(opens_at: u64, now: Duration) -> bool {
    let left = opens_at.saturating_sub(nanos(now));
    left == 0 || left > nanos(LONGER_THAN_ANY)
}

pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_not_after_as_many_with_successes_between() {
        let breaker = Breaker::default();
        for _ in 0..10 {
            assert!(!breaker.failed(Call::Usual, millis(1)));
            assert!(!breaker.failed(Call::Usual, millis(1)));
            assert!(!breaker.succeeded(Call::Usual));
        }
        assert!(!breaker.is_open());
        let opened: Vec<_> = (0..5).map(|_| breaker.failed(Call::Usual, millis(1))).collect();
        assert_eq!(opened, [false, false, true, false, false], "RL-70: and says so once");
    }

    #[test]
    fn it_lets_one_request_through_after_each_pause_and_closes_with_its_success() {
        let breaker = Breaker::default();
        (0..3).for_each(|_| {
            breaker.failed(Call::Usual, millis(0));
        });
        let mut now = millis(0);
        for longest in [100, 200, 400, 800, 1600, 2000, 2000] {
            assert_eq!(breaker.admit(now + millis(longest / 2 - 1)), None, "RL-70: {longest}");
            now += millis(longest);
            assert!(breaker.would_admit(now));
            assert_eq!(breaker.admit(now), Some(Call::Probe), "RL-70: {longest}");
            assert_eq!(breaker.admit(now), None, "RL-70: one at a time");
            assert!(!breaker.failed(Call::Probe, now));
        }
        now += millis(2000);
        assert_eq!(breaker.admit(now), Some(Call::Probe));
        assert!(!breaker.succeeded(Call::Usual), "an answer from before the outage");
        assert!(breaker.is_open());
        assert!(breaker.succeeded(Call::Probe));
        assert_eq!(breaker.admit(now), Some(Call::Usual));
    }

    #[test]
    fn a_clock_that_goes_back_keeps_nobody_from_asking() {
        let breaker = Breaker::default();
        (0..3).for_each(|_| {
            breaker.failed(Call::Usual, Duration::from_secs(7200));
        });
        assert_eq!(breaker.admit(Duration::from_secs(7200)), None);
        let back = Duration::from_secs(3600);
        assert!(breaker.would_admit(back), "RL-45");
        assert_eq!(breaker.admit(back), Some(Call::Probe), "RL-45");
        assert_eq!(breaker.admit(back), None, "RL-70: one at a time");
        assert!(!breaker.failed(Call::Probe, back));
        assert_eq!(breaker.admit(back + millis(2000)), Some(Call::Probe), "RL-45");
    }

    #[test]
    fn a_probe_that_nobody_waits_for_is_followed_by_another() {
        let breaker = Breaker::default();
        (0..3).for_each(|_| {
            breaker.failed(Call::Usual, millis(0));
        });
        for at in [100, 200, 300] {
            assert_eq!(breaker.admit(millis(at)), Some(Call::Probe));
        }
    }
}
