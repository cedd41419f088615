use std::collections::{BTreeMap, BTreeSet};
use std::task::Waker;
use std::time::Duration;

use crate::partition::PartitionKey;
use crate::quota::{Decision, Quota};
use crate::sharded::{Keys, Sharded};

/// How addresses stand that have failed, or have an attempt under way.
pub(super) struct Failures {
    standings: Sharded<Standing>,
    max_keys_each: usize,
}

/// When an address is banned, and for how long. Times are nanoseconds of a clock that never goes
/// back.
#[derive(Clone, Copy)]
pub(super) struct Rule {
    pub(super) quota: Quota,
    pub(super) ban: u64,
    /// What a ban grows to that follows others; the first one where it does not grow.
    pub(super) longest_ban: u64,
    /// How many attempts from one address may wait.
    pub(super) max_waiting: usize,
}

/// How one address stands.
#[derive(Default)]
struct Standing {
    /// Of the quota of failures.
    tat: u64,
    banned_until: u64,
    /// When the bans so far are forgotten.
    remembered_until: u64,
    bans: u32,
    /// Attempts that may still fail.
    in_flight: u32,
    /// Attempts that would be too many if all of them failed, in the order in which they came.
    waiting: BTreeMap<u64, Waker>,
    /// Attempts that have waited and whose turn it is. They are under way already, so that none that
    /// comes later takes their turn.
    called: BTreeSet<u64>,
}

/// Whether an attempt may begin.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Start {
    Banned {
        wait: Duration,
    },
    Busy,
    /// As many as may wait are waiting.
    Crowded,
    Started,
}

/// Where a failure leaves its address.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Failed {
    /// How many more there may be before a ban.
    pub(super) remaining: u32,
    /// The ban that it has brought.
    pub(super) banned_for: Option<Duration>,
}

impl Failures {
    pub(super) fn new(max_keys: usize) -> Self {
        let max_keys_each = max_keys.div_ceil(Sharded::<Standing>::SHARDS).max(1);
        Self { standings: Sharded::new(), max_keys_each }
    }

    /// How long a ban still lasts, if there is one.
    pub(super) fn ban(&self, key: PartitionKey, now: u64) -> Option<Duration> {
        self.standings.lock(key).get(&key)?.ban(now)
    }

    /// How many bans last.
    pub(super) fn bans(&self, now: u64) -> usize {
        self.standings.count(|standing| standing.ban(now).is_some())
    }

    /// Forgets what a key has done so far, but not what it is doing. Answers whether it was banned.
    pub(super) fn lift(&self, key: PartitionKey, rule: &Rule, now: u64) -> bool {
        let (was_banned, woken) = {
            let mut standings = self.standings.lock(key);
            let Some(standing) = standings.get_mut(&key) else { return false };
            let was_banned = standing.ban(now).is_some();
            (standing.tat, standing.banned_until, standing.remembered_until) = (0, 0, 0);
            let woken = standing.next_waiting(rule, now);
            if !standing.is_in_use() {
                standings.remove(&key);
            }
            (was_banned, woken)
        };
        woken.into_iter().for_each(Waker::wake);
        was_banned
    }

    /// Begins an attempt, or takes this place among those that wait.
    pub(super) fn start(
        &self,
        key: PartitionKey,
        rule: &Rule,
        now: u64,
        place: Option<(u64, &Waker)>,
    ) -> Start {
        let (start, woken) = {
            let mut standings = self.standings.lock(key);
            let standing = self.standing(&mut standings, key, now);
            // Time alone may have made room, which is theirs who wait.
            let woken = standing.next_waiting(rule, now);
            (standing.start(rule, now, place), woken)
        };
        woken.into_iter().for_each(Waker::wake);
        start
    }

    /// Ends an attempt that may no longer fail, and lets others begin.
    pub(super) fn end(&self, key: PartitionKey, rule: &Rule, now: u64) {
        let woken = {
            let mut standings = self.standings.lock(key);
            let Some(standing) = standings.get_mut(&key) else { return };
            standing.in_flight = standing.in_flight.saturating_sub(1);
            let woken = standing.next_waiting(rule, now);
            if standing.until() <= now && !standing.is_in_use() {
                standings.remove(&key);
            }
            woken
        };
        woken.into_iter().for_each(Waker::wake);
    }

    /// Counts a failure.
    pub(super) fn fail(&self, key: PartitionKey, rule: &Rule, now: u64) -> Failed {
        let (failed, woken) = {
            let mut standings = self.standings.lock(key);
            let standing = self.standing(&mut standings, key, now);
            let failed = standing.fail(rule, now);
            let is_ban = failed.banned_for.is_some();
            (failed, if is_ban { std::mem::take(&mut standing.waiting) } else { BTreeMap::new() })
        };
        woken.into_values().for_each(Waker::wake);
        failed
    }

    /// Gives up a place. Whose turn it was and who has gone leaves it to the next.
    pub(super) fn leave(&self, key: PartitionKey, place: u64, rule: &Rule, now: u64) {
        let woken = {
            let mut standings = self.standings.lock(key);
            let Some(standing) = standings.get_mut(&key) else { return };
            standing.waiting.remove(&place);
            if standing.called.remove(&place) {
                standing.in_flight = standing.in_flight.saturating_sub(1);
            }
            standing.next_waiting(rule, now)
        };
        woken.into_iter().for_each(Waker::wake);
    }

    fn standing<'a>(
        &self,
        standings: &'a mut Keys<Standing>,
        key: PartitionKey,
        now: u64,
    ) -> &'a mut Standing {
        if standings.len() >= self.max_keys_each && !standings.contains_key(&key) {
            make_room(standings, self.max_keys_each, now);
        }
        standings.entry(key).or_default()
    }
}

/// Forgets who is in good standing; failing that, an eighth, those that would be soonest, and who is
/// banned last: else a flood of addresses with a failure each would lift a ban. Who has an attempt
/// under way stays: there are no more of them than the server has requests.
fn make_room(standings: &mut Keys<Standing>, max_keys: usize, now: u64) {
    standings.retain(|_, standing| standing.is_in_use() || standing.until() > now);
    let mut excess = standings.len().saturating_sub(max_keys - max_keys.div_ceil(8));
    let idle = standings.values().filter(|standing| !standing.is_in_use());
    let mut sorted: Vec<_> = idle.map(|standing| standing.rank(now)).collect();
    excess = excess.min(sorted.len());
    if excess == 0 {
        return;
    }
    let (_, &mut last, _) = sorted.select_nth_unstable(excess - 1);
    standings.retain(|_, standing| {
        let goes = !standing.is_in_use() && standing.rank(now) <= last && excess > 0;
        excess -= usize::from(goes);
        !goes
    });
}

impl Standing {
    fn ban(&self, now: u64) -> Option<Duration> {
        (self.banned_until > now).then(|| Duration::from_nanos(self.banned_until - now))
    }

    /// From when on it equals that of an address never seen.
    fn until(&self) -> u64 {
        self.tat.max(self.remembered_until)
    }

    /// Who is forgotten first has the lowest.
    fn rank(&self, now: u64) -> (bool, u64) {
        (self.banned_until > now, self.until())
    }

    fn is_in_use(&self) -> bool {
        self.in_flight > 0 || !self.waiting.is_empty()
    }

    /// How many attempts may begin: all under way may fail, and the one that brings the ban must be
    /// the last.
    fn free(&self, rule: &Rule, now: u64) -> u32 {
        let (decision, _) = rule.quota.decide(self.tat, now, 0);
        decision.usage().remaining.max(1).saturating_sub(self.in_flight)
    }

    fn start(&mut self, rule: &Rule, now: u64, place: Option<(u64, &Waker)>) -> Start {
        if let Some(wait) = self.ban(now) {
            return Start::Banned { wait };
        }
        if place.is_some_and(|(place, _)| self.called.remove(&place)) {
            return Start::Started;
        }
        if self.free(rule, now) > 0 {
            self.in_flight += 1;
            return Start::Started;
        }
        if let Some((place, waker)) = place {
            let is_new = !self.waiting.contains_key(&place);
            if is_new && self.waiting.len() >= rule.max_waiting {
                return Start::Crowded;
            }
            self.waiting.insert(place, waker.clone());
        }
        Start::Busy
    }

    fn next_waiting(&mut self, rule: &Rule, now: u64) -> Vec<Waker> {
        if self.waiting.is_empty() {
            return Vec::new();
        }
        let mut woken = Vec::new();
        for (place, waker) in (0..self.free(rule, now)).map_while(|_| self.waiting.pop_first()) {
            self.in_flight += 1;
            self.called.insert(place);
            woken.push(waker);
        }
        woken
    }

    fn fail(&mut self, rule: &Rule, now: u64) -> Failed {
        if self.banned_until > now {
            // Refused by a handler, long after the attempt has begun.
            return Failed { remaining: 0, banned_for: None };
        }
        let (decision, tat) = rule.quota.decide(self.tat, now, 1);
        self.tat = tat;
        if let Decision::Allowed(usage) = decision
            && usage.remaining > 0
        {
            return Failed { remaining: usage.remaining, banned_for: None };
        }
        if self.remembered_until <= now {
            self.bans = 0;
        }
        let factor = 1_u64.checked_shl(self.bans).unwrap_or(u64::MAX);
        let length = rule.ban.saturating_mul(factor).min(rule.longest_ban);
        self.bans = self.bans.saturating_add(1);
        // Whoever has sat out a ban begins anew, but for the length of the next one.
        self.tat = 0;
        self.banned_until = now.saturating_add(length);
        let grows = rule.longest_ban > rule.ban;
        self.remembered_until =
            self.banned_until.saturating_add(if grows { rule.longest_ban } else { 0 });
        Failed { remaining: 0, banned_for: Some(Duration::from_nanos(length)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const RULE: Rule = Rule {
        quota: Quota::per_minute(3),
        ban: 600 * SECOND,
        longest_ban: 600 * SECOND,
        max_waiting: 100,
    };

    fn key(name: u32) -> PartitionKey {
        PartitionKey::new([name.to_le_bytes()])
    }

    #[test]
    fn an_address_in_good_standing_without_an_attempt_is_not_kept() {
        let failures = Failures::new(1000);
        for name in 0..10 {
            assert_eq!(failures.start(key(name), &RULE, SECOND, None), Start::Started);
        }
        assert_eq!(failures.standings.len(), 10);
        failures.fail(key(0), &RULE, SECOND);
        for name in 0..10 {
            failures.end(key(name), &RULE, SECOND);
        }
        assert_eq!(failures.standings.len(), 1, "the one that failed");
        assert_eq!(failures.ban(key(1), SECOND), None);
        assert_eq!(failures.start(key(0), &RULE, 21 * SECOND, None), Start::Started);
        failures.end(key(0), &RULE, 21 * SECOND);
        assert_eq!(failures.standings.len(), 0, "its failure is forgotten");
    }

    #[test]
    fn a_flood_of_addresses_stays_within_the_bound_and_takes_nobody_who_is_under_way() {
        let failures = Failures::new(2560);
        for _ in 0..3 {
            failures.fail(key(0), &RULE, SECOND);
        }
        for name in 1..=100 {
            assert_eq!(failures.start(key(name), &RULE, SECOND, None), Start::Started);
        }
        for name in 1000..200_000 {
            failures.fail(key(name), &RULE, SECOND);
        }
        let len = failures.standings.len();
        assert!(len <= 2560, "attack 43: {len}");
        assert!(failures.ban(key(0), SECOND).is_some(), "attack 43: a ban outlasts failures");
        for name in 1..=100 {
            for _ in 0..2 {
                assert_eq!(failures.start(key(name), &RULE, SECOND, None), Start::Started);
            }
            assert_eq!(failures.start(key(name), &RULE, SECOND, None), Start::Busy, "{name}");
        }
    }
}
