//! A hash table of TATs, which finds a key in one line of cache.

use crate::partition::PartitionKey;

/// TATs by key. Open addressing with linear probing: a look-up reads one slot, or a few beside each
/// other, where a map with tags of its own reads two places far apart. A slot whose TAT is past is
/// free for another key, so that a table at its bound has room without being swept.
pub(super) struct Table {
    slots: Box<[Slot]>,
    /// How many of them are not empty.
    used: usize,
}

#[derive(Clone, Copy)]
struct Slot {
    key: PartitionKey,
    tat: u64,
}

/// The chance that a caller has this key is that of finding another's.
const EMPTY: Slot = Slot { key: PartitionKey::ZERO, tat: 0 };

/// At most two slots in three are used: a run of used slots stays short, and some slot ends it.
const fn max_used(slots: usize) -> usize {
    slots * 2 / 3
}

const fn slots_for(keys: usize) -> usize {
    keys * 3 / 2 + 1
}

/// A table that has any keys has room for so many.
const FEWEST: usize = 4;

impl Table {
    pub(super) fn len(&self) -> usize {
        self.used
    }

    pub(super) fn get(&self, key: PartitionKey) -> Option<u64> {
        Some(self.slots[self.find(key)?].tat)
    }

    pub(super) fn get_mut(&mut self, key: PartitionKey) -> Option<&mut u64> {
        let at = self.find(key)?;
        Some(&mut self.slots[at].tat)
    }

    /// Adds a key that is not there, and answers how many had to go for it whose quota had not come
    /// back.
    pub(super) fn insert(
        &mut self,
        key: PartitionKey,
        tat: u64,
        now: u64,
        max_keys: usize,
    ) -> usize {
        let mut evicted = 0;
        let mut at = self.free(key, now);
        if self.slots[at].key == EMPTY.key {
            if self.used >= max_used(self.slots.len()) {
                evicted = self.make_room(now, max_keys);
                at = self.free(key, now);
            }
            self.used += 1;
        }
        self.slots[at] = Slot { key, tat };
        evicted
    }

    /// Forgets what may be forgotten and grows to half as many keys again; at the bound, an eighth
    /// goes, those that owe least first (RL-47). Answers how many of these there were.
    fn make_room(&mut self, now: u64, max_keys: usize) -> usize {
        let mut live: Vec<Slot> =
            self.slots.iter().filter(|slot| slot.tat > now).copied().collect();
        let mut evicted = 0;
        let kept = max_keys - max_keys.div_ceil(8);
        if self.used >= max_keys && live.len() > kept {
            evicted = live.len() - kept;
            // Of those that owe the same, any but neighbours, whom the rest would pile up beside.
            let order = |slot: &Slot| (slot.tat, slot.key.map_hash().swap_bytes());
            live.select_nth_unstable_by_key(evicted - 1, order);
        }
        let live = &live[evicted..];
        let keys = (live.len() + live.len().div_ceil(2)).max(FEWEST).min(max_keys);
        self.slots = vec![EMPTY; slots_for(keys)].into();
        self.used = live.len();
        for &slot in live {
            let at = self.free(slot.key, now);
            self.slots[at] = slot;
        }
        evicted
    }

    fn find(&self, key: PartitionKey) -> Option<usize> {
        let mut at = self.home(key);
        loop {
            let found = self.slots[at].key;
            if found == key {
                return Some(at);
            }
            if found == EMPTY.key {
                return None;
            }
            at = self.after(at);
        }
    }

    /// The first slot for a key that is not there. An empty one has a TAT of zero.
    fn free(&self, key: PartitionKey, now: u64) -> usize {
        let mut at = self.home(key);
        while self.slots[at].tat > now {
            at = self.after(at);
        }
        at
    }

    /// Where a key's run of slots begins: its hash as a fraction of all of them.
    fn home(&self, key: PartitionKey) -> usize {
        #[expect(clippy::cast_possible_truncation, reason = "less than the length of a slice")]
        let home = ((u128::from(key.map_hash()) * self.slots.len() as u128) >> 64) as usize;
        home
    }

    fn after(&self, at: usize) -> usize {
        if at + 1 == self.slots.len() { 0 } else { at + 1 }
    }
}

/// One slot, which is never used.
impl Default for Table {
    fn default() -> Self {
        Self { slots: vec![EMPTY].into(), used: 0 }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn key(n: u32) -> PartitionKey {
        PartitionKey::new([n.to_le_bytes()])
    }

    proptest! {
        #[test]
        fn a_table_keeps_what_a_map_keeps_until_it_is_past(
            steps in prop::collection::vec((0..256_u32, 0..50_u64, 0..3_u64), 1..2000),
        ) {
            let (mut table, mut map, mut now) = (Table::default(), HashMap::new(), 0);
            for (n, ahead, passes) in steps {
                now += passes;
                let tat = now + ahead;
                match table.get_mut(key(n)) {
                    Some(kept) => *kept = tat,
                    None => prop_assert_eq!(table.insert(key(n), tat, now, 256), 0),
                }
                map.insert(n, tat);
                for (&n, &tat) in &map {
                    let kept = table.get(key(n)).filter(|&tat| tat > now);
                    prop_assert_eq!(kept, Some(tat).filter(|&tat| tat > now), "{} at {}", n, now);
                }
                prop_assert!(table.len() <= 256, "{}", table.len());
            }
        }
    }

    #[test]
    fn a_table_at_its_bound_forgets_those_that_owe_least_and_counts_them() {
        let mut table = Table::default();
        let evicted: usize = (1..=100).map(|n| table.insert(key(n), n.into(), 0, 16)).sum();
        assert_eq!(table.len() + evicted, 100, "RL-47");
        assert!((8..=16).contains(&table.len()), "RL-47");
        let kept = (1..=100).filter(|&n| table.get(key(n)).is_some());
        assert!(kept.eq(u32::try_from(evicted).unwrap() + 1..=100), "RL-47");
    }

    #[test]
    fn keys_that_owe_the_same_are_forgotten_all_over_the_table() {
        let mut table = Table::default();
        for n in 0..100_000 {
            table.insert(key(n), 1, 0, 4096);
        }
        let quarters = table.slots.chunks(table.slots.len().div_ceil(4));
        for slots in quarters {
            let used = slots.iter().filter(|slot| slot.tat > 0).count();
            assert!((700..1200).contains(&used), "{used} in a quarter of {}", table.len());
        }
    }
}
