//! How often: quotas, and the arithmetic that decides.
//!
//! The algorithm is GCRA, the generic cell rate algorithm: a token bucket that keeps one number for
//! each key, the theoretical arrival time (TAT) at which the bucket would be full again. It has no
//! windows, so there is no edge at which a caller gets two of them.

use std::cmp::Reverse;
use std::num::NonZeroU8;
use std::ops::Deref;
use std::time::Duration;

use smallvec::SmallVec;
use thiserror::Error;

use crate::partition::PartitionKey;

/// So many units in a period, and how many of them at once.
///
/// A caller that has been idle may take `burst` units at once; after that they come back evenly,
/// one every `period / units`. Long-run usage never exceeds `units / period`.
///
/// ```
/// use std::time::Duration;
/// use tower_gate::Quota;
///
/// // 60 a minute: one a second on average, at most 20 at once.
/// const DEFAULT: Quota = Quota::per_minute(60).with_burst(20);
/// let configured = Quota::new(60, Duration::from_secs(60), 20)?;
/// assert_eq!(configured, DEFAULT);
/// # Ok::<(), tower_gate::InvalidQuota>(())
/// ```
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Quota {
    /// Nanoseconds between two units, rounded up, so that rounding never grants more.
    interval: u64,
    burst: u32,
}

/// Why numbers are not a quota.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum InvalidQuota {
    /// No units, no burst or no period: nobody would ever pass.
    #[error("units, burst and period of a quota must be more than zero")]
    Zero,
    /// More than one unit a nanosecond.
    #[error("a quota cannot give more than one unit a nanosecond: lengthen the period")]
    TooFast,
    /// A burst takes longer to come back than can be counted.
    #[error("a quota's burst must come back within a hundred years: lower it")]
    TooSlow,
}

/// A hundred years in nanoseconds, which leaves 64-bit sums room for twice that again.
const LONGEST: u64 = 100 * 365 * 86_400 * NANOS;
const NANOS: u64 = 1_000_000_000;

impl Quota {
    /// `units` every `period`, at most `burst` at once.
    ///
    /// # Errors
    ///
    /// [`InvalidQuota`] says which number to change.
    pub const fn new(units: u32, period: Duration, burst: u32) -> Result<Self, InvalidQuota> {
        let nanos = period.as_nanos();
        if units == 0 || burst == 0 || nanos == 0 {
            return Err(InvalidQuota::Zero);
        }
        if units as u128 > nanos {
            return Err(InvalidQuota::TooFast);
        }
        let interval = nanos.div_ceil(units as u128);
        if interval * burst as u128 > LONGEST as u128 {
            return Err(InvalidQuota::TooSlow);
        }
        #[expect(clippy::cast_possible_truncation, reason = "at most LONGEST")]
        Ok(Self { interval: interval as u64, burst })
    }

    /// So many a second, all of them at once if need be.
    ///
    /// # Panics
    ///
    /// When `units` is zero or more than a thousand million; in a `const`, the program does not
    /// compile.
    #[must_use]
    pub const fn per_second(units: u32) -> Self {
        Self::or_panic(Self::new(units, Duration::from_secs(1), units))
    }

    /// So many a minute, all of them at once if need be.
    ///
    /// # Panics
    ///
    /// When `units` is zero; in a `const`, the program does not compile.
    #[must_use]
    pub const fn per_minute(units: u32) -> Self {
        Self::or_panic(Self::new(units, Duration::from_secs(60), units))
    }

    /// So many an hour, all of them at once if need be.
    ///
    /// # Panics
    ///
    /// When `units` is zero; in a `const`, the program does not compile.
    #[must_use]
    pub const fn per_hour(units: u32) -> Self {
        Self::or_panic(Self::new(units, Duration::from_secs(3600), units))
    }

    /// The same rate with another burst.
    ///
    /// # Panics
    ///
    /// When `burst` is zero or takes more than a hundred years to come back; in a `const`, the
    /// program does not compile.
    #[must_use]
    pub const fn with_burst(self, burst: u32) -> Self {
        assert!(burst > 0, "units, burst and period of a quota must be more than zero");
        assert!(
            self.interval as u128 * burst as u128 <= LONGEST as u128,
            "a quota's burst must come back within a hundred years: lower it"
        );
        Self { burst, ..self }
    }

    /// The most units at once.
    #[must_use]
    pub const fn burst(&self) -> u32 {
        self.burst
    }

    /// How long one unit takes to come back: `period / units`, rounded up to a nanosecond.
    #[must_use]
    pub const fn interval(&self) -> Duration {
        Duration::from_nanos(self.interval)
    }

    /// How long a spent burst takes to come back.
    #[must_use]
    pub const fn refill_time(&self) -> Duration {
        Duration::from_nanos(self.tolerance())
    }

    /// Decides on `cost` units at `now`, in nanoseconds of any clock, for a key whose theoretical
    /// arrival time is `tat`: zero for a key never seen. Answers the decision and the TAT to keep.
    ///
    /// This is the definition that every store must agree with (RL-40 to RL-46). It keeps no state
    /// and reads no clock, so a store calls it with what it has read and keeps what comes back, in
    /// one atomic step. From the moment that its TAT is past, a key equals one never seen, and can
    /// be forgotten. What is owed under a greater quota is owed under a smaller one, too: a TAT is
    /// taken as it is, however far ahead. Where a clock may go back, it is the store that lowers one
    /// which is further ahead than the longest of its quotas can have put it (RL-45).
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_gate::{Decision, Quota};
    ///
    /// let quota = Quota::per_second(1);
    /// let (first, tat) = quota.decide(0, 0, 1);
    /// assert!(matches!(first, Decision::Allowed(_)));
    /// let (second, tat) = quota.decide(tat, 400_000_000, 1);
    /// let Decision::Limited { retry_after, .. } = second else { panic!() };
    /// assert_eq!(retry_after, Some(Duration::from_millis(600)));
    /// assert_eq!(tat, 1_000_000_000);
    /// ```
    pub fn decide(&self, tat: u64, now: u64, cost: u32) -> (Decision, u64) {
        let base = tat.max(now);
        let new_tat = base.saturating_add(self.interval.saturating_mul(u64::from(cost)));
        let wait = new_tat.saturating_sub(now).saturating_sub(self.tolerance());
        if cost <= self.burst && wait == 0 {
            return (Decision::Allowed(self.usage(new_tat - now)), new_tat);
        }
        let retry_after = (cost <= self.burst).then(|| Duration::from_nanos(wait));
        (Decision::Limited { usage: self.usage(base - now), retry_after }, tat)
    }

    /// Takes more units, or gives some back where `units` is negative, without asking whether they
    /// are there: what a request turned out to cost after it was decided on. Answers the TAT to
    /// keep.
    ///
    /// What time has given back is not given back again: `owed` is how long from `now`, in
    /// nanoseconds, until all is there of what was owed after the units were taken, the
    /// [`reset_after`](Usage::reset_after) of that decision less the time since. Nobody comes to owe
    /// more than another burst on top of the one that is spent, so that whoever is in debt waits
    /// twice the [`refill_time`](Self::refill_time) at most until all is there again, unless a
    /// greater quota has left more. A key that owes is limited whatever the cost, also for a cost of
    /// zero.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_gate::{Decision, Quota};
    ///
    /// let quota = Quota::per_second(10);
    /// let (_, tat) = quota.decide(0, 0, 2);
    /// assert_eq!(quota.settle(tat, 0, -2, tat), 0, "both are given back");
    /// assert_eq!(quota.settle(tat, tat, -2, 0), tat, "time has done so");
    /// let (decision, _) = quota.decide(quota.settle(tat, 0, 10, 0), 0, 0);
    /// let Decision::Limited { retry_after, .. } = decision else { panic!() };
    /// assert_eq!(retry_after, Some(Duration::from_millis(200)), "two units are owed");
    /// ```
    #[must_use]
    pub fn settle(&self, tat: u64, now: u64, units: i64, owed: u64) -> u64 {
        let time = self.interval.saturating_mul(units.unsigned_abs());
        if units < 0 {
            return tat.saturating_sub(time.min(owed));
        }
        let deepest_debt = now.saturating_add(2 * self.tolerance());
        // What is owed already may be due to a greater quota, which this one does not forgive.
        tat.max(now).saturating_add(time).min(deepest_debt).max(tat)
    }

    /// How much so many units of a take still owe, which left its key `reset_after` from full and was
    /// `elapsed` ago: what of them has not come back by itself.
    ///
    /// Evenly less until nothing is after a refill time, because what was taken before may have been
    /// given back, too, and these have come back in its place. Else whoever gives the oldest back and
    /// takes it again has all that is open come back last, and saves up a burst in each refill time.
    /// So a key has one burst at most on top of what RL-42 grants, whatever is given back when.
    pub(crate) fn still_owed(
        &self,
        units: u32,
        reset_after: Duration,
        elapsed: Duration,
    ) -> Duration {
        let (tolerance, elapsed_nanos) = (u128::from(self.tolerance()), elapsed.as_nanos());
        let time = u128::from(self.interval) * u128::from(units);
        let nanos = time * tolerance.saturating_sub(elapsed_nanos) / tolerance;
        let evenly = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        evenly.min(reset_after.saturating_sub(elapsed))
    }

    /// This quota, but for no more at once and no faster than the other.
    pub(crate) fn at_most(&self, other: &Self) -> Self {
        Self { interval: self.interval.max(other.interval), burst: self.burst.min(other.burst) }
    }

    const fn tolerance(&self) -> u64 {
        self.interval * self.burst as u64
    }

    fn usage(&self, used: u64) -> Usage {
        let free = self.tolerance().saturating_sub(used);
        // A quotient of a tolerance is at most the burst, which is a u32.
        let remaining = u32::try_from(free / self.interval).unwrap_or(self.burst);
        let owed = used.saturating_sub(self.tolerance());
        let next_unit = match used {
            0 => 0,
            _ => owed.saturating_add(self.interval - free % self.interval),
        };
        Usage {
            remaining,
            next_unit: Duration::from_nanos(next_unit),
            reset_after: Duration::from_nanos(used),
        }
    }

    #[expect(clippy::panic, reason = "a limit that cannot work must not start")]
    const fn or_panic(quota: Result<Self, InvalidQuota>) -> Self {
        match quota {
            Ok(quota) => quota,
            Err(InvalidQuota::Zero) => {
                panic!("units, burst and period of a quota must be more than zero")
            }
            Err(InvalidQuota::TooFast) => {
                panic!("a quota cannot give more than one unit a nanosecond: lengthen the period")
            }
            Err(InvalidQuota::TooSlow) => {
                panic!("a quota's burst must come back within a hundred years: lower it")
            }
        }
    }
}

/// Where a key stands after a decision.
///
/// [`Quota::decide`] makes it; a store whose engine decides by itself makes it from what that says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Usage {
    /// Units that could be taken right now.
    pub remaining: u32,
    /// How long until one more unit is there; zero when all are.
    pub next_unit: Duration,
    /// How long until all units are there.
    pub reset_after: Duration,
}

impl Usage {
    /// Where nobody has looked: of several quotas decided on together, one that is used up refuses
    /// whatever is left of the others. Clients are not told of those.
    pub const UNKNOWN: Self = Self::new(0, Duration::MAX, Duration::MAX);

    /// So many units now, one more in `next_unit`, and all of them in `reset_after`.
    #[must_use]
    pub const fn new(remaining: u32, next_unit: Duration, reset_after: Duration) -> Self {
        Self { remaining, next_unit, reset_after }
    }
}

/// A store's answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use = "a decision that is not looked at limits nobody"]
pub enum Decision {
    /// The units were taken.
    Allowed(Usage),
    /// Nothing was taken.
    Limited {
        /// Where the key stands.
        usage: Usage,
        /// The wait after which the same request would pass if nothing else came; `None` when it
        /// costs more than the burst and never will.
        retry_after: Option<Duration>,
    },
}

impl Decision {
    /// What is left to one who has to pass both: the wait of the longer, and where the stricter stands
    /// that is known.
    pub(crate) fn and(self, other: Self) -> Self {
        let usages = [*self.usage(), *other.usage()].into_iter();
        let strictness = |usage: &Usage| (usage.remaining, Reverse(usage.next_unit));
        let known = usages.filter(|&usage| usage != Usage::UNKNOWN);
        let usage = known.min_by_key(strictness).unwrap_or(Usage::UNKNOWN);
        match (self, other) {
            (Self::Allowed(_), Self::Allowed(_)) => Self::Allowed(usage),
            (Self::Limited { retry_after, .. }, Self::Allowed(_))
            | (Self::Allowed(_), Self::Limited { retry_after, .. }) => {
                Self::Limited { usage, retry_after }
            }
            (Self::Limited { retry_after: one, .. }, Self::Limited { retry_after: other, .. }) => {
                let retry_after = one.zip(other).map(|(one, other)| one.max(other));
                Self::Limited { usage, retry_after }
            }
        }
    }

    /// Where the key stands.
    #[must_use]
    pub fn usage(&self) -> &Usage {
        match self {
            Self::Allowed(usage) | Self::Limited { usage, .. } => usage,
        }
    }
}

/// Units of one quota, for one key: a part of what a store is asked.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Take {
    /// Whose units.
    pub key: PartitionKey,
    /// How many there are.
    pub quota: Quota,
    /// How many to take; zero only looks.
    pub cost: u32,
}

impl Take {
    /// This many units.
    #[must_use]
    pub const fn new(key: PartitionKey, quota: Quota, cost: u32) -> Self {
        Self { key, quota, cost }
    }

    /// Decides on several takes together, all or nothing: [`Quota::decide`] for more than one. Each
    /// take's key has its TAT at the same place of `tats`, and what is left there is to be kept.
    ///
    /// Where one is limited, nothing is taken from any, and those that would have passed say where
    /// they stand untouched (RL-24, RL-66).
    ///
    /// ```
    /// use tower_gate::store::Take;
    /// use tower_gate::{Decision, PartitionKey, Quota};
    ///
    /// let second = Take::new(PartitionKey::new(["second"]), Quota::per_second(1), 1);
    /// let minute = Take::new(PartitionKey::new(["minute"]), Quota::per_minute(10), 1);
    /// let mut tats = [0, 0];
    /// assert!(Take::decide(&[second, minute], &mut tats, 0).are_allowed());
    /// let decisions = Take::decide(&[second, minute], &mut tats, 0);
    /// assert!(matches!(decisions[0], Decision::Limited { .. }));
    /// assert_eq!(decisions[1].usage().remaining, 9);
    /// assert_eq!(tats, [1_000_000_000, 6_000_000_000]);
    /// ```
    pub fn decide(takes: &[Self], tats: &mut [u64], now: u64) -> Decisions {
        let each = takes.iter().zip(&*tats);
        let decided: SmallVec<[(Decision, u64); INLINE]> =
            each.map(|(take, &tat)| take.quota.decide(tat, now, take.cost)).collect();
        let pass = decided.iter().all(|(decision, _)| matches!(decision, Decision::Allowed(_)));
        let each = decided.into_iter().zip(takes).zip(tats);
        each.map(|(((decision, new_tat), take), tat)| match decision {
            Decision::Allowed(_) if !pass => take.quota.decide(*tat, now, 0).0,
            _ => {
                *tat = new_tat;
                decision
            }
        })
        .collect()
    }
}

/// A store's answer to several takes: one decision for each, in their order.
#[derive(Clone, Debug)]
#[must_use = "a decision that is not looked at limits nobody"]
pub struct Decisions {
    each: SmallVec<[Decision; INLINE]>,
    by: Decider,
}

/// Which of several stores has decided: of one in front of another, the lowest bit says whether it
/// was the other, and the rest is for the stores within, below a leading one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Decider(NonZeroU8);

impl Decider {
    fn within(self, is_second: bool) -> Self {
        let bits = self.0.get() << 1 | u8::from(is_second);
        Self(NonZeroU8::new(bits).unwrap_or(self.0))
    }

    /// Whether the second store has decided, and which one within.
    pub(crate) fn split(self) -> (bool, Self) {
        let bits = self.0.get();
        // Nobody has: the first.
        let within = NonZeroU8::new(bits >> 1);
        (within.is_some() && bits & 1 == 1, within.map_or(self, Self))
    }

    fn is_fallback(self) -> bool {
        !self.0.is_power_of_two()
    }
}

impl Default for Decider {
    fn default() -> Self {
        Self(NonZeroU8::MIN)
    }
}

/// So many quotas at once need no memory of their own.
pub(crate) const INLINE: usize = 2;

impl Decisions {
    /// Whether all takes were allowed, so that their units were taken.
    #[must_use]
    pub fn are_allowed(&self) -> bool {
        self.iter().all(|decision| matches!(decision, Decision::Allowed(_)))
    }

    /// Whether a [`FallbackStore`](crate::store::FallbackStore) decided in place of a store that
    /// could not.
    #[must_use]
    pub fn are_fallback(&self) -> bool {
        self.by.is_fallback()
    }

    pub(crate) fn by(&self) -> Decider {
        self.by
    }

    pub(crate) fn of_store(self, is_second: bool) -> Self {
        Self { by: self.by.within(is_second), ..self }
    }
}

impl Deref for Decisions {
    type Target = [Decision];

    fn deref(&self) -> &[Decision] {
        &self.each
    }
}

impl From<Decision> for Decisions {
    fn from(decision: Decision) -> Self {
        Self { each: smallvec::smallvec![decision], by: Decider::default() }
    }
}

impl FromIterator<Decision> for Decisions {
    fn from_iter<I: IntoIterator<Item = Decision>>(decisions: I) -> Self {
        Self { each: decisions.into_iter().collect(), by: Decider::default() }
    }
}

#[cfg(test)]
mod tests;
