use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use crate::limit_fields::checked;
use crate::partition::Partition;
use crate::principal::Principal;
use crate::quota::Quota;
use crate::rejection::RequestHead;

/// A quota with a name, and how it is counted: one of those that a
/// [`RateLimitLayer`](crate::RateLimitLayer) decides on together.
///
/// ```
/// use std::time::Duration;
/// use tower_gate::rate_limit::Policy;
/// use tower_gate::{Partition, Quota};
///
/// // A principal whose user has bought more gets more, and nobody gets more than a thousand.
/// let minute = Policy::new("minute", Quota::per_minute(60))
///     .with_override(Quota::per_minute(1000), |principal| principal.get::<Quota>().copied());
/// // Large requests cost more, for everybody together.
/// let bytes = Policy::new("kilobytes", Quota::per_hour(1_000_000))
///     .with_partition(Partition::global())
///     .with_cost(|request| {
///         let length = request.headers.get("content-length");
///         length.and_then(|value| value.to_str().ok()?.parse().ok()).map_or(1, |n: u32| n / 1024)
///     });
/// # let _ = (minute, bytes);
/// ```
#[derive(Clone)]
#[must_use = "a policy does nothing until a layer has it"]
pub struct Policy {
    pub(super) name: Arc<str>,
    pub(super) quota: Source,
    /// `None` counts as the layer does.
    pub(super) partition: Option<Partition>,
    /// `None` is one unit a request.
    pub(super) cost: Option<Arc<CostOf>>,
    pub(super) afterwards: Afterwards,
    pub(super) is_shadow: bool,
    own: Option<Override>,
}

/// Where a policy's numbers are.
#[derive(Clone)]
pub(super) enum Source {
    Fixed(Quota),
    Live(LiveQuota),
}

/// What becomes of the units when the request has been answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Afterwards {
    Keep,
    RefundFailures,
    Settle,
}

type CostOf = dyn Fn(&RequestHead<'_>) -> u32 + Send + Sync;
type OwnQuota = dyn Fn(&Principal) -> Option<Quota> + Send + Sync;

/// Quotas of principals' own.
#[derive(Clone)]
struct Override {
    at_most: Quota,
    find: Arc<OwnQuota>,
}

impl Policy {
    /// This quota for each caller. Clients see the name.
    ///
    /// # Panics
    ///
    /// When the name is not printable ASCII.
    pub fn new(name: &str, quota: Quota) -> Self {
        Self::with_source(name, Source::Fixed(quota))
    }

    /// The same with numbers that may be changed while the program runs.
    ///
    /// # Panics
    ///
    /// When the name is not printable ASCII.
    pub fn live(name: &str, quota: &LiveQuota) -> Self {
        Self::with_source(name, Source::Live(quota.clone()))
    }

    fn with_source(name: &str, quota: Source) -> Self {
        Self {
            name: checked(name),
            quota,
            partition: None,
            cost: None,
            afterwards: Afterwards::Keep,
            is_shadow: false,
            own: None,
        }
    }

    /// Whose units are counted together. Default: as the layer counts.
    pub fn with_partition(self, partition: Partition) -> Self {
        Self { partition: Some(partition), ..self }
    }

    /// How many units a request takes, from its head. Default: one. One that costs more than the
    /// burst is refused and not told to wait; one that costs nothing passes unless its caller is in
    /// debt.
    pub fn with_cost<F>(self, cost: F) -> Self
    where
        F: Fn(&RequestHead<'_>) -> u32 + Send + Sync + 'static,
    {
        Self { cost: Some(Arc::new(cost)), ..self }
    }

    /// Corrects the cost by what the handler says with [`Cost`](crate::rate_limit::Cost), which may
    /// be less than was taken, or more, into a debt of one burst at most.
    ///
    /// # Panics
    ///
    /// After [`with_failures_refunded`](Self::with_failures_refunded): a handler that fails says a
    /// cost of 0.
    pub fn with_settled_cost(self) -> Self {
        self.with_afterwards(Afterwards::Settle)
    }

    /// Gives the units back when the inner service fails: with an error, a status of 500 or more, or
    /// a gRPC call that ends at once in `UNKNOWN`, `DEADLINE_EXCEEDED`, `INTERNAL`,
    /// `UNAVAILABLE` or `DATA_LOSS`. A call that fails after it has begun to answer, in its trailers,
    /// is no failure here. A client that can make it fail at will is not limited then.
    ///
    /// What time has given back by then is not given back again.
    ///
    /// # Panics
    ///
    /// After [`with_settled_cost`](Self::with_settled_cost): a handler that fails says a cost of 0.
    pub fn with_failures_refunded(self) -> Self {
        self.with_afterwards(Afterwards::RefundFailures)
    }

    /// Both at once would correct what was taken twice.
    fn with_afterwards(self, afterwards: Afterwards) -> Self {
        assert!(
            matches!(self.afterwards, Afterwards::Keep) || self.afterwards == afterwards,
            "a policy settles its cost or refunds failures: choose with_settled_cost, and let the \
             handler say a Cost of 0 where it fails",
        );
        Self { afterwards, ..self }
    }

    /// Gives a principal for which the closure finds one a quota of its own, from a claim or from
    /// what the application has [loaded](crate::TokenVerifier::load).
    ///
    /// Each different quota is counted by itself, and all of a principal together give no more at
    /// once, and bring units back no faster, than `at_most`: whatever its tokens name, they are bounded.
    /// Where nothing is found, the policy's own quota counts, beside these.
    pub fn with_override<F>(self, at_most: Quota, find: F) -> Self
    where
        F: Fn(&Principal) -> Option<Quota> + Send + Sync + 'static,
    {
        Self { own: Some(Override { at_most, find: Arc::new(find) }), ..self }
    }

    /// Decides, counts and writes down, and refuses nobody: to see whom a limit would meet before it
    /// does. Clients see nothing of it. Audit events name it in `would_limit`.
    pub fn in_shadow(self) -> Self {
        Self { is_shadow: true, ..self }
    }

    pub(super) fn rename(&mut self, name: &str) {
        self.name = checked(name);
    }

    /// The quota of everybody who has none of their own.
    pub(super) fn quota(&self) -> Quota {
        match &self.quota {
            Source::Fixed(quota) => *quota,
            Source::Live(quota) => quota.get(),
        }
    }

    /// What this caller has in its place, and the most that it has of all such quotas.
    pub(super) fn own_quota_of(&self, principal: Option<&Principal>) -> Option<(Quota, Quota)> {
        let (own, principal) = self.own.as_ref().zip(principal)?;
        Some(((own.find)(principal)?.at_most(&own.at_most), own.at_most))
    }

    /// Whether callers may have quotas of their own.
    pub(super) fn has_own_quotas(&self) -> bool {
        self.own.is_some()
    }

    /// The quota of every caller at all times.
    pub(super) fn fixed_quota(&self) -> Option<Quota> {
        match self.quota {
            Source::Fixed(quota) if self.own.is_none() => Some(quota),
            _ => None,
        }
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("name", &self.name)
            .field("quota", &self.quota())
            .field("partition", &self.partition)
            .field("afterwards", &self.afterwards)
            .field("is_shadow", &self.is_shadow)
            .finish_non_exhaustive()
    }
}

/// A quota that can be changed while the program runs. Clones are one.
///
/// Callers keep what they have used: a change says how fast units come back from now on, and how
/// many there can be.
///
/// ```
/// use tower_gate::Quota;
/// use tower_gate::rate_limit::{LiveQuota, Policy};
///
/// let quota = LiveQuota::new(Quota::per_minute(60));
/// let policy = Policy::live("minute", &quota);
/// quota.set(Quota::per_minute(600).with_burst(20));
/// # let _ = policy;
/// ```
#[derive(Clone, Debug)]
pub struct LiveQuota(Arc<RwLock<Quota>>);

impl LiveQuota {
    /// A quota that begins with these numbers.
    #[must_use]
    pub fn new(quota: Quota) -> Self {
        Self(Arc::new(RwLock::new(quota)))
    }

    /// The quota now.
    #[must_use]
    pub fn get(&self) -> Quota {
        *self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes it, for every request from now on.
    pub fn set(&self, quota: Quota) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = quota;
    }
}
