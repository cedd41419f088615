use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::runtime::Handle;

use crate::clock::{Clock, SystemClock};
use crate::store::{ErasedRevocationStore, RevocationStore};
use crate::verifier::revocable::shared::{Shared, Times};
use crate::verifier::revocable::tasks::{keep_fresh, keep_whole, watch};
use crate::verifier::revocable::{Revocations, Tasks, WhenStale};

/// Revocations that nobody keeps fresh yet.
#[must_use = "nothing is revoked until it is started"]
pub struct RevocationsBuilder {
    store: Arc<dyn ErasedRevocationStore>,
    clock: Arc<dyn Clock>,
    times: Times,
    when_stale: WhenStale,
}

/// Why revocations cannot be started.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum InvalidRevocations {
    /// There is no tokio runtime here whose tasks could keep them fresh.
    #[error("revocations are started inside a tokio runtime, which keeps them fresh")]
    NoRuntime,
    /// A time is zero or more than a day, the poll is not more often than the age allows, or the
    /// longest life is less than a minute.
    #[error(
        "times are more than zero and at most a day, the poll interval is below the age, and the \
         longest life at least a minute"
    )]
    Times,
}

impl RevocationsBuilder {
    pub(super) fn new(store: impl RevocationStore) -> Self {
        Self {
            store: Arc::new(store),
            clock: Arc::new(SystemClock),
            times: Times::default(),
            when_stale: WhenStale::default(),
        }
    }

    /// How often the store is asked for what is new, beside whenever it says that there is something.
    /// Default: once a second, or up to twice.
    pub fn with_poll_interval(mut self, interval: Duration) -> Self {
        self.times.poll = interval;
        self
    }

    /// How long ago the latest good load may be before [`WhenStale`] applies. Default: 10 seconds.
    ///
    /// The time for which a machine was suspended counts. So does that by which its clock is set
    /// forward, until the next load.
    pub fn with_max_age(mut self, max_age: Duration) -> Self {
        self.times.max_age = max_age;
        self
    }

    /// What happens to tokens while the latest good load is longer ago. Default:
    /// [`WhenStale::Refuse`].
    pub fn with_when_stale(mut self, when_stale: WhenStale) -> Self {
        self.when_stale = when_stale;
        self
    }

    /// How long the store may take for one answer. Default: 2 seconds.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.times.timeout = timeout;
        self
    }

    /// How long the longest-lived token that any verifier here accepts may live, the leeway
    /// included; at least a minute. Revocations of what was issued by now, and without an end of
    /// their own, then last as long, and are forgotten. Default: for ever, because a revocation that
    /// ends before a token lets it in again.
    ///
    /// Where all tokens are a `JwtVerifier`'s with its defaults, it is a day and five minutes. Where
    /// there are opaque tokens or API keys that live for years, leave the default: a million of
    /// revocations by id takes 100 MB on each node.
    pub fn with_longest_life(mut self, longest_life: Duration) -> Self {
        self.times.longest_life = Some(longest_life);
        self
    }

    /// The clock by which revocations end, and what is known grows old beside monotonic time, which
    /// stands still with a machine. Default: the machine's.
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Starts the tasks, which load all revocations at once. It does not wait for them: a store that
    /// is down keeps no program from starting.
    ///
    /// # Errors
    ///
    /// [`InvalidRevocations`] when it is called outside a tokio runtime, or with times that cannot be
    /// kept.
    pub fn start(self) -> Result<Revocations, InvalidRevocations> {
        let Self { store, clock, times, when_stale } = self;
        if !times.can_be_kept() {
            return Err(InvalidRevocations::Times);
        }
        let runtime = Handle::try_current().map_err(|_| InvalidRevocations::NoRuntime)?;
        let shared = Arc::new(Shared::new(store, clock, times, when_stale));
        let tasks = Tasks([
            runtime.spawn(keep_fresh(shared.clone())).abort_handle(),
            runtime.spawn(keep_whole(shared.clone())).abort_handle(),
            runtime.spawn(watch(shared.clone())).abort_handle(),
        ]);
        Ok(Revocations { shared, _tasks: Arc::new(tasks) })
    }
}

impl fmt::Debug for RevocationsBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RevocationsBuilder")
            .field("times", &self.times)
            .field("when_stale", &self.when_stale)
            .finish_non_exhaustive()
    }
}
