use std::fmt;
use std::time::{Duration, Instant};

use redis::aio::ConnectionLike;
use smallvec::SmallVec;

use crate::partition::PartitionKey;
use crate::quota::{Decisions, INLINE, Quota, Take};
use crate::store::redis::known::Known;
use crate::store::redis::script::{Change, Engine, Mode, Owed, slot_range};
use crate::store::redis::settling::Settling;
use crate::store::{RateLimitStore, Settlement, StoreError, TakeRequest};

/// Rate limits in Redis or Valkey: exact across all nodes that share a server.
///
/// ```
/// use tower_gate::store::FallbackStore;
/// use tower_gate::store::memory::MemoryStore;
/// use tower_gate::store::redis::RedisStore;
/// use tower_gate::{Quota, RateLimitLayer};
///
/// # fn layer<C>(connection: C, secret: [u8; 16]) -> RateLimitLayer
/// # where
/// #     C: redis::aio::ConnectionLike + Clone + Send + Sync + 'static,
/// # {
/// // `connection` is a `redis::aio::ConnectionManager`, which connects again by itself.
/// let store = FallbackStore::new(RedisStore::new(connection), MemoryStore::new());
/// RateLimitLayer::new(store, Quota::per_minute(60).with_burst(20)).with_partition_secret(secret)
/// # }
/// ```
///
/// Every node needs the same [partition secret](crate::RateLimitLayer::with_partition_secret), or
/// each of them gives every caller a quota of its own.
///
/// # How it decides
///
/// One script decides on all quotas of a request in one round trip, by the server's clock, in whole
/// microseconds: an interval is rounded up to one. What is limited and comes again is answered
/// without a round trip until the units may be back, and for a second at most: a caller, and everybody
/// while a quota is used up that all share. Such an answer shows only the quotas that are known to
/// this node.
///
/// On a **cluster**, all quotas of one partition, such as those of a caller for a minute and for a
/// day, lie on one node and are decided together; callers are shared out over the nodes. A request
/// that also takes from another partition, such as everybody's, asks the nodes one after the other,
/// in the order of its quotas, and when one refuses, what those before it took is given back right
/// after. So the units of each key are exact, a global quota is one counter for all callers, on one
/// node, and nothing is ever allowed that a quota forbids. What is not atomic is such a refusal:
/// until its units are back, others may find a few fewer than there are. Put the narrow quotas
/// first, so that a caller who is limited does not touch what all share.
///
/// # When the server is gone
///
/// A call that is not answered in [time](Self::with_timeout) is an error, and is not repeated: it
/// may have taken its units. So is what a server says that cannot write: a replica, one that is
/// loading or out of memory, a cluster without a slot. Behind a
/// [`FallbackStore`](crate::store::FallbackStore) such errors cost no request its answer.
///
/// A cluster that has lost a master and all its replicas goes on for the callers of the others only
/// where it is set to, by `cluster-require-full-coverage no`.
///
/// The `ClusterConnection` of the crate `redis` 1.8 may fall silent for good when it loses a master
/// with some fifty calls under way, also if a replica stands in for that. Until the process has
/// connected anew, its callers are limited by the other store alone: where
/// [`fallbacks`](crate::store::FallbackStore::fallbacks) goes on growing after the cluster has
/// recovered, connect anew.
///
/// Replication is asynchronous. A failover may forget what was taken last, and a server without
/// persistence forgets all: a key that is forgotten has its burst again, once. Decisions never come
/// from a replica.
///
/// Keys are `tower-gate:1:{…}:…` with 128 bits of a keyed hash: no name, token or address is in
/// them. Each is gone once it owes nothing. A server that evicts keys (`maxmemory-policy`) gives
/// their callers a burst again; `noeviction` does not.
///
/// # Settling
///
/// Corrections go through a queue of 4096 to a task of this store, which ends when the last clone is
/// dropped. What finds the queue full or the server gone is [counted](Self::lost), and lost.
#[derive(Clone)]
pub struct RedisStore<C> {
    engine: Engine<C>,
    known: Known,
    settling: Settling,
}

type Changes = SmallVec<[Change; INLINE]>;

impl<C> RedisStore<C> {
    /// Limits over a connection of the application, which is cloned for every call. Clones share
    /// the task that settles.
    #[must_use]
    pub fn new(connection: C) -> Self {
        Self { engine: Engine::new(connection), known: Known::new(), settling: Settling::default() }
    }

    /// How long the server may take to answer; a request waits no longer, however many nodes of a
    /// cluster it asks and whatever policies it has in shadow. Default: 100 ms.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.engine.timeout = timeout;
        self
    }

    /// What keys begin with, for applications that share a server. Default: `tower-gate`.
    #[must_use]
    pub fn with_prefix(mut self, prefix: &str) -> Self {
        self.engine.prefix = prefix.into();
        self
    }

    /// How many corrections have not reached the server.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.settling.lost()
    }
}

impl<C> RedisStore<C>
where
    C: ConnectionLike + Clone + Send + Sync + 'static,
{
    /// Whether the units were taken, and what each key owed before.
    async fn ask(&self, request: &TakeRequest) -> Result<(bool, Owed), StoreError> {
        let takes = request.takes().iter();
        let changes: Changes =
            takes.map(|take| Change::new(take.key, &take.quota, take.cost.into())).collect();
        let mut owed = Owed::from_elem(0, changes.len());
        let mut asked = SmallVec::<[bool; INLINE]>::from_elem(false, changes.len());
        // All nodes together answer in time, or it is as if the last had not.
        let patience = self.engine.timeout.saturating_sub(request.waited);
        // What several nodes have taken, one after the other.
        let mut taken = Taken { store: self, asked: Instant::now(), changes: SmallVec::new() };
        let mut passes = true;
        while let Some(first) = asked.iter().position(|&asked| !asked) {
            let is_next = |at: &usize| self.engine.are_together(&changes[first], &changes[*at]);
            let places: SmallVec<[usize; INLINE]> =
                (first..changes.len()).filter(is_next).collect();
            let group = places.iter().map(|&at| changes[at]);
            let group: Changes =
                if passes { group.collect() } else { group.map(Change::look).collect() };
            let left = patience.saturating_sub(taken.asked.elapsed());
            let reply = self.engine.run(Mode::Decide, &group, left).await;
            let reply = reply.map_err(StoreError::new)?;
            let Some((pass, owes)) = reply else {
                // They lie on several nodes, and are asked about again.
                continue;
            };
            if pass && passes {
                let owed_after = group.iter().zip(&owes).map(|(one, &owed)| one.owed_after(owed));
                taken.changes.extend(group.iter().copied().zip(owed_after));
            }
            for (&at, owes) in places.iter().zip(owes) {
                (owed[at], asked[at]) = (owes, true);
            }
            passes &= pass;
        }
        if passes {
            taken.changes.clear();
        }
        Ok((passes, owed))
    }
}

impl<C> RateLimitStore for RedisStore<C>
where
    C: ConnectionLike + Clone + Send + Sync + 'static,
{
    fn try_take(&self, request: &TakeRequest) -> Option<Result<Decisions, StoreError>> {
        self.known.decide(&in_micros(request).ok()?).map(Ok)
    }

    async fn take(&self, request: &TakeRequest) -> Result<Decisions, StoreError> {
        let request = in_micros(request)?;
        self.settling.start(&self.engine, &self.known);
        let (pass, owed) = self.ask(&request).await?;
        let decisions = request.decide(&mut owed.clone(), 0);
        if decisions.are_allowed() != pass {
            return Err(StoreError::new("the script decides otherwise than this crate"));
        }
        if !pass {
            self.known.learn(&request, &owed);
        }
        Ok(decisions)
    }

    fn part_of(&self, key: &PartitionKey) -> u8 {
        slot_range(key)
    }

    fn settle(&self, settlement: &Settlement) {
        if let Ok(quota) = quota_in_micros(settlement.quota) {
            self.known.forget(&settlement.key);
            let change = Change::new(settlement.key, &quota, settlement.units);
            self.settling.push(change, settlement.owed);
        }
    }
}

impl<C> fmt::Debug for RedisStore<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("prefix", &self.engine.prefix)
            .field("timeout", &self.engine.timeout)
            .field("lost", &self.lost())
            .finish_non_exhaustive()
    }
}

/// Units that are given back unless every node passes: when one refuses, when one fails, and when
/// nobody waits for the answer any more.
struct Taken<'a, C> {
    store: &'a RedisStore<C>,
    asked: Instant,
    /// Each with what its key has owed since.
    changes: SmallVec<[(Change, Duration); INLINE]>,
}

impl<C> Drop for Taken<'_, C> {
    fn drop(&mut self) {
        let elapsed = self.asked.elapsed();
        for (change, owed) in self.changes.drain(..) {
            self.store.settling.push(change.back(), owed.saturating_sub(elapsed));
        }
    }
}

fn in_micros(request: &TakeRequest) -> Result<TakeRequest, StoreError> {
    let takes = request.takes().iter();
    let takes = takes.map(|take| Ok(Take { quota: quota_in_micros(take.quota)?, ..*take }));
    let takes: SmallVec<[Take; INLINE]> = takes.collect::<Result<_, StoreError>>()?;
    Ok(TakeRequest::together(takes, request.now).after(request.waited))
}

/// The quota as the script counts it, whose rounding never grants more.
fn quota_in_micros(quota: Quota) -> Result<Quota, StoreError> {
    let interval = quota.interval();
    if interval.subsec_nanos().is_multiple_of(1000) {
        return Ok(quota);
    }
    let micros = Duration::from_micros(1);
    let interval =
        interval + micros - Duration::from_nanos((interval.subsec_nanos() % 1000).into());
    Quota::new(1, interval, quota.burst()).map_err(StoreError::new)
}
