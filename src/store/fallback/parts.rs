use std::array;
use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use smallvec::SmallVec;

use crate::quota::INLINE;
use crate::store::fallback::breaker::{Breaker, Call, nanos};

/// The breaker of a store, and one for each of its parts, so that a node of a cluster that is gone
/// costs a few requests their time, and takes nothing from the callers of the others.
pub(super) struct Parts {
    whole: Breaker,
    each: Box<[Breaker; PARTS]>,
    /// How many breakers are open.
    open: AtomicI32,
    successes: AtomicU64,
    /// When the last of them came, in nanoseconds; zero before the first.
    succeeded_at: AtomicU64,
    /// The part whose failure the whole has counted last; at first, none.
    failed_last: AtomicU8,
}

/// As many as `RateLimitStore::part_of` may tell apart.
const PARTS: usize = 64;

/// How much sooner than a part that has failed the others may ask whether the store is back.
const HEAD_START: Duration = Duration::from_millis(50);

/// For how long nobody must have been answered before the whole is taken for gone. A node that is gone
/// refuses many at once, faster than the others answer one.
const SILENCE: Duration = Duration::from_millis(50);

/// The parts that a request asks, each of them once.
pub(super) type Asked = SmallVec<[u8; INLINE]>;

/// A request that asks.
pub(super) struct Asking {
    whole: Call,
    parts: SmallVec<[(u8, Call); INLINE]>,
    /// How many had succeeded before.
    successes: u64,
}

impl Parts {
    pub(super) fn new() -> Self {
        Self {
            whole: Breaker::default(),
            each: Box::new(array::from_fn(|_| Breaker::default())),
            open: AtomicI32::new(0),
            successes: AtomicU64::new(0),
            succeeded_at: AtomicU64::new(0),
            failed_last: AtomicU8::new(u8::MAX),
        }
    }

    pub(super) fn is_any_open(&self) -> bool {
        self.open.load(Ordering::Acquire) != 0
    }

    /// Whether one of the breakers on the way to these parts is open.
    pub(super) fn are_open(&self, asked: &Asked) -> bool {
        self.whole.is_open() || asked.iter().any(|&part| self.part(part).is_open())
    }

    /// Whether a request at this time would be let through.
    pub(super) fn would_admit(&self, asked: &Asked, now: Duration) -> bool {
        if self.whole.is_open() {
            return self.whole.would_admit(self.turn(asked, now));
        }
        asked.iter().all(|&part| self.part(part).would_admit(now))
    }

    /// Lets a request through, or not.
    pub(super) fn admit(&self, asked: &Asked, now: Duration) -> Option<Asking> {
        let whole = self.whole.admit(self.turn(asked, now))?;
        let parts = asked.iter().map(|&part| {
            let call = self.part(part).admit(now);
            // Whoever asks on behalf of all asks on behalf of these.
            Some((part, call.or((whole == Call::Probe).then_some(Call::Probe))?))
        });
        let parts = parts.collect::<Option<_>>()?;
        Some(Asking { whole, parts, successes: self.successes.load(Ordering::Acquire) })
    }

    /// Says whether this closed the last that was open.
    pub(super) fn succeeded(&self, asking: &Asking, now: Duration) -> bool {
        self.succeeded_at.store(nanos(now), Ordering::Relaxed);
        self.successes.fetch_add(1, Ordering::AcqRel);
        let mut closed = 0;
        if self.whole.succeeded(asking.whole) {
            // A part that is still gone opens again.
            closed += 1 + self.each.iter().map(|part| i32::from(part.close())).sum::<i32>();
        }
        for &(part, call) in &asking.parts {
            closed += i32::from(self.part(part).succeeded(call));
        }
        closed > 0 && self.open.fetch_sub(closed, Ordering::AcqRel) == closed
    }

    /// Says whether this opened the first. Where a request had less than its time, only those count
    /// it that wait for its answer.
    pub(super) fn failed(&self, asking: &Asking, now: Duration, was_hurried: bool) -> bool {
        let counts = |call| call == Call::Probe || !was_hurried;
        let mut opened = 0;
        for &(part, call) in &asking.parts {
            opened += i32::from(counts(call) && self.part(part).failed(call, now));
        }
        // If others were answered in the meantime, or just before, or it was known, only a part is
        // gone.
        let is_news = self.successes.load(Ordering::Acquire) == asking.successes
            && self.is_silent(now)
            && asking.parts.iter().all(|&(_, call)| call == Call::Usual);
        let counts = asking.whole == Call::Probe || is_news && !was_hurried;
        if let (true, Some(&(part, _))) = (counts, asking.parts.first()) {
            self.failed_last.store(part, Ordering::Relaxed);
            opened += i32::from(self.whole.failed(asking.whole, now));
        }
        opened > 0 && self.open.fetch_add(opened, Ordering::AcqRel) == 0
    }

    /// The time as far as a probe goes: a part that has failed comes after the others, because it may be
    /// the only one that is gone.
    fn turn(&self, asked: &Asked, now: Duration) -> Duration {
        let has_failed = asked.contains(&self.failed_last.load(Ordering::Relaxed));
        if has_failed { now.saturating_sub(HEAD_START) } else { now }
    }

    fn is_silent(&self, now: Duration) -> bool {
        let succeeded_at = self.succeeded_at.load(Ordering::Relaxed);
        succeeded_at == 0 || nanos(now).abs_diff(succeeded_at) >= nanos(SILENCE)
    }

    fn part(&self, part: u8) -> &Breaker {
        &self.each[usize::from(part) % PARTS]
    }
}
