//! The store in memory alone.

use std::time::Duration;

use allocation_counter::measure;
use tower_gate::store::memory::MemoryStore;
use tower_gate::store::{RateLimitStore, TakeRequest};
use tower_gate::{PartitionKey, Quota};

use crate::harness::Subject;
use crate::stack::QUOTA;

/// One decision, among so many keys.
pub(crate) fn subjects() -> Vec<Subject> {
    let mut subjects: Vec<Subject> = [("1 key", 1), ("1 k keys", 1_000), ("1 M keys", 1_000_000)]
        .map(|(name, keys)| known_keys(name, keys))
        .into();
    subjects.push(new_keys());
    subjects
}

/// The most bytes a key that a store takes on its way to a million.
pub(crate) fn bytes_a_key() -> f64 {
    let store = MemoryStore::with_max_keys(2_000_000);
    let mut bytes = 0;
    let mut most: f64 = 0.0;
    for chunk in 0..100 {
        let fill = || (0..10_000).for_each(|n| take(&store, key(chunk * 10_000 + n), DEBT));
        bytes += measure(fill).bytes_current;
        // The shards themselves do not count among a few keys.
        if chunk >= 10 {
            most = most.max(bytes as f64 / store.keys() as f64);
        }
    }
    most
}

/// A quota that outlasts the bench once it is touched.
const DEBT: Quota = Quota::per_hour(60);

fn known_keys(name: &str, keys: u32) -> Subject {
    let store = MemoryStore::with_max_keys(2_000_000);
    // Read in the order in which they stand here, so that only the store misses a cache.
    let keys: Vec<PartitionKey> = (0..keys).map(key).collect();
    keys.iter().for_each(|&key| take(&store, key, QUOTA));
    let mut next = 0;
    Subject::new(format!("MemoryStore, {name}"), move || {
        next = (next + 1) % keys.len();
        take(&store, keys[next], QUOTA);
    })
}

/// A flood of keys never seen into a store that is full of debtors: evictions included.
fn new_keys() -> Subject {
    let store = MemoryStore::new();
    (0..1_100_000).for_each(|n| take(&store, key(n), DEBT));
    let mut next = 1_100_000;
    Subject::new("MemoryStore, full, every key new", move || {
        next += 1;
        take(&store, key(next), DEBT);
    })
}

fn key(n: u32) -> PartitionKey {
    PartitionKey::new([n.to_le_bytes()])
}

fn take(store: &MemoryStore, key: PartitionKey, quota: Quota) {
    let now = Duration::from_secs(1);
    let decision = store.try_take(&TakeRequest::new(key, quota, 1, now));
    assert!(matches!(&decision, Some(Ok(allowed)) if allowed.are_allowed()), "{decision:?}");
}
