//! State by key, for layers that keep some.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::partition::PartitionKey;
use crate::prehashed::BuildPrehashed;

/// Maps, so many that tasks on different keys seldom meet in one.
pub(crate) struct Sharded<V>(Box<[Shard<V>]>);

/// The keys of one map.
pub(crate) type Keys<V> = HashMap<PartitionKey, V, BuildPrehashed>;

/// Aligned so that two shards never share a cache line.
#[repr(align(64))]
struct Shard<V>(Mutex<Keys<V>>);

impl<V> Sharded<V> {
    pub(crate) const SHARDS: usize = 256;

    pub(crate) fn new() -> Self {
        Self((0..Self::SHARDS).map(|_| Shard(Mutex::default())).collect())
    }

    /// How many keys there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.count(|_| true)
    }

    /// How many keys have a state like this, one map after the other.
    pub(crate) fn count(&self, is_one: impl Fn(&V) -> bool) -> usize {
        self.0.iter().map(|shard| shard.lock().values().filter(|state| is_one(state)).count()).sum()
    }

    /// The map that the key is in or would be.
    pub(crate) fn lock(&self, key: PartitionKey) -> MutexGuard<'_, Keys<V>> {
        self.0[usize::from(key.shard_bits())].lock()
    }
}

impl<V> Shard<V> {
    fn lock(&self) -> MutexGuard<'_, Keys<V>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
