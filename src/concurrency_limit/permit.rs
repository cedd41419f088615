use std::sync::Arc;

use crate::partition::PartitionKey;
use crate::sharded::Sharded;

/// How many requests run, by caller. A caller with none is not there.
#[derive(Clone)]
pub(super) struct Permits(Arc<Sharded<u32>>);

/// The right to run, given back when it is dropped.
pub(super) struct Permit {
    permits: Permits,
    key: PartitionKey,
}

impl Permits {
    pub(super) fn new() -> Self {
        Self(Arc::new(Sharded::new()))
    }

    /// A permit, and how many are left; `None` when there are none.
    pub(super) fn take(&self, key: PartitionKey, limit: u32) -> Option<(Permit, u32)> {
        let mut keys = self.0.lock(key);
        let running = keys.entry(key).or_insert(0);
        let left = limit.checked_sub(*running)?.checked_sub(1)?;
        *running += 1;
        Some((Permit { permits: self.clone(), key }, left))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut keys = self.permits.0.lock(self.key);
        if let Some(running) = keys.get_mut(&self.key) {
            *running -= 1;
            if *running == 0 {
                keys.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_kept_while_it_has_a_permit() {
        let permits = Permits::new();
        let take = |name: u32| permits.take(PartitionKey::new([name.to_le_bytes()]), 2);
        let mut held: Vec<_> = (0..1000).map(|name| take(name).unwrap()).collect();
        held.extend((0..1000).map(|name| take(name).unwrap()));
        assert!((0..1000).all(|name| take(name).is_none()), "RL-52");
        assert_eq!(permits.0.len(), 1000, "a refusal keeps nobody");
        held.truncate(1000);
        assert_eq!(permits.0.len(), 1000);
        held.truncate(500);
        assert_eq!(permits.0.len(), 500, "attack 43");
        drop(held);
        assert_eq!(permits.0.len(), 0, "attack 43");
    }
}
