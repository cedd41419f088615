use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use smallvec::SmallVec;

use crate::partition::PartitionKey;
use crate::quota::{Decision, Decisions};
use crate::store::memory::table::Table;
use crate::store::{RateLimitStore, Settlement, StoreError, Take, TakeRequest};

/// Rate limits in memory: exact on one node, within a fixed number of keys.
///
/// Clones share their state. A key takes 24 bytes and its share of free places, 54 bytes at most and
/// 36 at the bound: two million keys, which are the default bound, take 72 MB. Keys that anybody can
/// have as many of as they like, which are those of addresses, have a bound of their own, as large by
/// default: however many addresses there are in a flood, verified callers' limits stay exact.
///
/// Nothing runs in the background. The place of a key whose quota has come back whole, which equals
/// one never seen, is free for another; a shard that is full of others forgets, counted by
/// [`evicted`](Self::evicted), the eighth of its keys that is closest to that. One request in many
/// pays for this, with time in proportion to one shard.
///
/// A clock that goes back by more than ten seconds locks nobody out: nobody owes more than anybody
/// ever has.
///
/// ```
/// use tower_gate::store::memory::MemoryStore;
/// use tower_gate::{Quota, RateLimitLayer};
///
/// let store = MemoryStore::with_max_keys(100_000);
/// let layer = RateLimitLayer::new(store, Quota::per_minute(60).with_burst(20));
/// # let _ = layer;
/// ```
#[derive(Clone)]
pub struct MemoryStore(Arc<Shards>);

struct Shards {
    /// Those of verified callers, and then as many for anonymous ones.
    shards: Box<[Shard]>,
    max_keys_each: usize,
    max_anonymous_keys_each: usize,
    evicted: AtomicU64,
}

/// TATs by key, aligned so that two shards never share a cache line.
#[repr(align(64))]
#[derive(Default)]
struct Shard(Mutex<Tats>);

#[derive(Default)]
struct Tats {
    by_key: Table,
    /// How far ahead of its time a TAT was ever put.
    furthest: u64,
}

/// By how much requests may come in another order than that in which they read the clock: they wait
/// for other stores in between.
const DISORDER: u64 = 10_000_000_000;

/// Tasks on different keys seldom meet in a shard.
const SHARDS: usize = 256;

/// More quotas at once than a request needs.
const MANY: usize = 8;

impl MemoryStore {
    /// At most a million keys of verified callers, and a million of addresses.
    #[must_use]
    pub fn new() -> Self {
        Self::with_max_keys(1_000_000)
    }

    /// At most this many keys of verified callers, and as many of addresses, rounded up to a
    /// multiple of 256.
    #[must_use]
    pub fn with_max_keys(max_keys: usize) -> Self {
        Self::with_max_keys_apart(max_keys, max_keys)
    }

    /// At most so many keys of verified callers and so many of addresses, each rounded up to a
    /// multiple of 256.
    #[must_use]
    pub fn with_max_keys_apart(max_keys: usize, max_anonymous_keys: usize) -> Self {
        let each = |max_keys: usize| max_keys.div_ceil(SHARDS).max(1);
        Self(Arc::new(Shards {
            shards: (0..2 * SHARDS).map(|_| Shard::default()).collect(),
            max_keys_each: each(max_keys),
            max_anonymous_keys_each: each(max_anonymous_keys),
            evicted: AtomicU64::new(0),
        }))
    }

    /// How many keys there are now.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.0.shards.iter().map(|shard| shard.lock().by_key.len()).sum()
    }

    /// How many keys were forgotten while their quota had not come back whole. More than a few
    /// means that the bound is too low for the traffic.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.0.evicted.load(Ordering::Relaxed)
    }
}

impl Shards {
    fn take(&self, request: &TakeRequest) -> Decisions {
        let now = nanos(request.now);
        match request.takes() {
            [take] => self.take_one(take, now).into(),
            takes => self.take_together(takes, now),
        }
    }

    fn take_one(&self, take: &Take, now: u64) -> Decision {
        let mut tats = self.shards[place(take.key)].lock();
        self.change(&mut tats, take.key, now, |tat| take.quota.decide(tat, now, take.cost))
    }

    fn take_together(&self, takes: &[Take], now: u64) -> Decisions {
        let mut shards: SmallVec<[usize; MANY]> =
            takes.iter().map(|take| place(take.key)).collect();
        // In one order everywhere, so that no two requests wait for each other.
        shards.sort_unstable();
        shards.dedup();
        let mut locked: SmallVec<[_; MANY]> =
            shards.iter().map(|&shard| self.shards[shard].lock()).collect();
        let places: SmallVec<[usize; MANY]> = takes
            .iter()
            .map(|take| shards.partition_point(|&shard| shard < place(take.key)))
            .collect();
        let each = takes.iter().zip(&places);
        let mut tats: SmallVec<[u64; MANY]> =
            each.map(|(take, &at)| locked[at].tat(take.key, now)).collect();
        let decisions = Take::decide(takes, &mut tats, now);
        for ((take, at), tat) in takes.iter().zip(places).zip(tats) {
            self.change(&mut locked[at], take.key, now, |_| ((), tat));
        }
        decisions
    }

    fn settle(&self, settlement: &Settlement) {
        let (key, now) = (settlement.key, nanos(settlement.now));
        let mut tats = self.shards[place(key)].lock();
        self.change(&mut tats, key, now, |tat| ((), settlement.settle(tat, now)));
    }

    /// Puts another TAT in place of a key's.
    fn change<T>(
        &self,
        tats: &mut Tats,
        key: PartitionKey,
        now: u64,
        change: impl FnOnce(u64) -> (T, u64),
    ) -> T {
        let Tats { by_key, furthest } = tats;
        let kept = by_key.get_mut(key);
        let before = kept.as_deref().map_or(0, |&tat| in_reach(tat, now, *furthest));
        let (answer, after) = change(before);
        if after > before {
            *furthest = (*furthest).max(after.saturating_sub(now));
        }
        match kept {
            Some(tat) => *tat = after,
            None => self.insert(tats, key, after, now),
        }
        answer
    }

    fn insert(&self, tats: &mut Tats, key: PartitionKey, tat: u64, now: u64) {
        if tat <= now {
            return;
        }
        let max_keys =
            if key.is_anonymous() { self.max_anonymous_keys_each } else { self.max_keys_each };
        let evicted = tats.by_key.insert(key, tat, now, max_keys);
        if evicted > 0 {
            self.evicted.fetch_add(evicted as u64, Ordering::Relaxed);
        }
    }
}

/// Which shard keeps a key.
fn place(key: PartitionKey) -> usize {
    usize::from(key.shard_bits()) + if key.is_anonymous() { SHARDS } else { 0 }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// A TAT as it was put there, or, where it is further ahead than any ever was, what is owed at most:
/// the clock went back, and nobody waits until it has caught up (RL-45). While it goes forward,
/// nothing is forgiven by this, whatever the quotas are that one key is asked for.
fn in_reach(tat: u64, now: u64, furthest: u64) -> u64 {
    let most = now.saturating_add(furthest);
    if tat > most.saturating_add(DISORDER) { most } else { tat }
}

impl Tats {
    /// A key's TAT; zero for one never seen.
    fn tat(&self, key: PartitionKey, now: u64) -> u64 {
        self.by_key.get(key).map_or(0, |tat| in_reach(tat, now, self.furthest))
    }
}

impl Shard {
    fn lock(&self) -> MutexGuard<'_, Tats> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RateLimitStore for MemoryStore {
    fn try_take(&self, request: &TakeRequest) -> Option<Result<Decisions, StoreError>> {
        Some(Ok(self.0.take(request)))
    }

    async fn take(&self, request: &TakeRequest) -> Result<Decisions, StoreError> {
        Ok(self.0.take(request))
    }

    fn settle(&self, settlement: &Settlement) {
        self.0.settle(settlement);
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("max_keys", &(self.0.max_keys_each * SHARDS))
            .field("max_anonymous_keys", &(self.0.max_anonymous_keys_each * SHARDS))
            .field("evicted", &self.evicted())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quota::Quota;

    const MINUTE: Quota = Quota::per_minute(60);

    fn take(store: &MemoryStore, name: &str, cost: u32, seconds: u64) -> Decision {
        let key = PartitionKey::new([name]);
        let now = Duration::from_secs(seconds);
        store.0.take(&TakeRequest::new(key, MINUTE, cost, now))[0]
    }

    fn is_allowed(decision: Decision) -> bool {
        matches!(decision, Decision::Allowed(_))
    }

    #[test]
    fn keys_that_owe_nothing_are_forgotten_first() {
        let store = MemoryStore::with_max_keys(25_600);
        for n in 0..15_000 {
            let _ = take(&store, &format!("idle {n}"), 1, 0);
        }
        for n in 0..15_000 {
            let _ = take(&store, &format!("live {n}"), 60, 10);
        }
        assert!(store.keys() <= 25_600, "RL-47: {}", store.keys());
        assert_eq!(store.evicted(), 0, "RL-47: only keys that owed nothing were forgotten");
        for n in 0..15_000 {
            assert!(!is_allowed(take(&store, &format!("live {n}"), 1, 10)), "RL-47: {n}");
        }
    }

    #[test]
    fn the_keys_that_owe_most_are_forgotten_last() {
        let store = MemoryStore::with_max_keys(2560);
        for _ in 0..60 {
            assert!(is_allowed(take(&store, "hot", 1, 0)));
        }
        for n in 0..100_000 {
            let _ = take(&store, &format!("random {n}"), 1, 0);
        }
        assert!(store.keys() <= 2560, "attack 43: {}", store.keys());
        assert!(store.evicted() > 0);
        assert!(!is_allowed(take(&store, "hot", 1, 0)), "RL-47: a hot key survives");
    }

    #[test]
    fn a_key_that_took_nothing_is_not_kept() {
        let store = MemoryStore::new();
        let _ = take(&store, "looks", 0, 5);
        let _ = take(&store, "asks too much", 61, 5);
        assert_eq!(store.keys(), 0);
    }
}
