//! What verifiers, and the tasks that keep a node's revocations fresh, share.

use std::error::Error;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, timeout};

use crate::clock::Clock;
use crate::panics::caught;
use crate::principal::Principal;
use crate::revocation::Revocation;
use crate::store::{ErasedRevocationStore, News, RevokeRequest, StoreError};
use crate::trace;
use crate::verifier::revocable::WhenStale;
use crate::verifier::revocable::revoked::{Revoked, Verdict};

/// The longest that any of the times may be, but for the life of a token.
const MAX_TIME: Duration = Duration::from_secs(86_400);

/// Beyond any number of revocations, and not made up for by others where generations are added up.
const UNCERTAIN: u64 = 1 << 40;

/// How many revocations the store is told of in one request.
const TOLD_AT_ONCE: usize = 1000;

/// Whoever says that tokens live for less has mistaken the unit, and would let revoked ones in.
const SHORTEST_LIFE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) poll: Duration,
    pub(super) max_age: Duration,
    pub(super) timeout: Duration,
    /// `None` where some token may live for ever.
    pub(super) longest_life: Option<Duration>,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            poll: Duration::from_secs(1),
            max_age: Duration::from_secs(10),
            timeout: Duration::from_secs(2),
            longest_life: None,
        }
    }
}

impl Times {
    pub(super) fn can_be_kept(&self) -> bool {
        let Self { poll, max_age, timeout, longest_life } = *self;
        let is_sound = |time: &Duration| !time.is_zero() && *time <= MAX_TIME;
        let is_alive = longest_life.is_none_or(|life| life >= SHORTEST_LIFE);
        [poll, max_age, timeout].iter().all(is_sound) && poll < max_age && is_alive
    }
}

/// What verifiers and tasks share.
pub(super) struct Shared {
    pub(super) store: Arc<dyn ErasedRevocationStore>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) times: Times,
    pub(super) when_stale: WhenStale,
    pub(super) news: News,
    revoked: RwLock<Revoked>,
    generation: AtomicU64,
    accepted_stale: AtomicU64,
    started: Instant,
    /// When the latest good load began, in nanoseconds since the start; `u64::MAX` before the first.
    loaded_at: AtomicU64,
    /// The same by the time of day, in nanoseconds since 1970; written first.
    loaded_at_day: AtomicU64,
    /// The number of the latest load that has begun.
    begun: AtomicU64,
    loads: watch::Sender<Loads>,
    cursor: Mutex<Cursor>,
}

/// How the loads go.
#[derive(Default)]
struct Loads {
    /// The number of the latest.
    ended: u64,
    failures: u32,
    /// Why the last one failed.
    error: Option<Arc<StoreError>>,
}

/// Where a load goes on. Whoever holds it loads.
struct Cursor {
    position: u64,
    /// Whether this outage has been logged as one that refuses requests.
    said_too_old: bool,
}

/// What is known of a token that is good by itself.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(super) enum Standing {
    Good,
    Revoked,
    /// Not revoked, and what is remembered of it may be out of date.
    Doubtful,
    /// Not revoked as far as is known, which is too long ago.
    Unknown,
}

impl Shared {
    pub(super) fn new(
        store: Arc<dyn ErasedRevocationStore>,
        clock: Arc<dyn Clock>,
        times: Times,
        when_stale: WhenStale,
    ) -> Self {
        Self {
            store,
            clock,
            times,
            when_stale,
            news: News::default(),
            revoked: RwLock::default(),
            generation: AtomicU64::new(0),
            accepted_stale: AtomicU64::new(0),
            started: Instant::now(),
            loaded_at: AtomicU64::new(u64::MAX),
            loaded_at_day: AtomicU64::new(0),
            begun: AtomicU64::new(0),
            loads: watch::Sender::default(),
            cursor: Mutex::new(Cursor { position: 0, said_too_old: false }),
        }
    }

    /// Of a principal that may be remembered, or is newly verified.
    pub(super) fn standing(
        &self,
        principal: &Principal,
        now: SystemTime,
        is_new: bool,
    ) -> Standing {
        // Asked first: what is revoked is then at least as fresh as this says.
        let is_fresh = self.is_fresh();
        match self.revoked().verdict(principal, now) {
            Verdict::Revoked => Standing::Revoked,
            Verdict::Doubtful if !is_new => Standing::Doubtful,
            _ if is_fresh => Standing::Good,
            _ => Standing::Unknown,
        }
    }

    /// By the clock by which it is longer: one stands still while the machine sleeps, the other may
    /// be set back.
    pub(super) fn age(&self) -> Option<Duration> {
        let loaded_at = self.loaded_at.load(Ordering::Acquire);
        if loaded_at == u64::MAX {
            return None;
        }
        let awake = self.started.elapsed().saturating_sub(Duration::from_nanos(loaded_at));
        let loaded_at_day = Duration::from_nanos(self.loaded_at_day.load(Ordering::Acquire));
        Some(awake.max(since_1970(self.clock.coarse_now()).saturating_sub(loaded_at_day)))
    }

    fn is_fresh(&self) -> bool {
        self.age().is_some_and(|age| age <= self.times.max_age)
    }

    /// Another one while what is known is too old: what a cache remembers from before is not good by
    /// itself then.
    pub(super) fn generation(&self) -> u64 {
        let uncertain = if self.is_fresh() { 0 } else { UNCERTAIN };
        self.generation.load(Ordering::Acquire).wrapping_add(uncertain)
    }

    pub(super) fn failures(&self) -> u32 {
        self.loads.borrow().failures
    }

    pub(super) fn len(&self) -> usize {
        self.revoked().len()
    }

    pub(super) fn accepted_stale(&self) -> u64 {
        self.accepted_stale.load(Ordering::Relaxed)
    }

    pub(super) fn count_stale(&self) {
        self.accepted_stale.fetch_add(1, Ordering::Relaxed);
    }

    /// Why what is known is too old.
    pub(super) fn outage(&self) -> Outage {
        Outage(self.loads.borrow().error.clone())
    }

    /// Waits until the first load has ended.
    pub(super) async fn first(&self) -> Result<(), Outage> {
        let mut loads = self.loads.subscribe();
        // The sender is as alive as this.
        let _ = loads.wait_for(|loads| loads.ended > 0).await;
        if self.age().is_some() { Ok(()) } else { Err(self.outage()) }
    }

    /// Enforces them here, and then everywhere.
    pub(super) async fn revoke(&self, mut revocations: Vec<Revocation>) -> Result<(), StoreError> {
        let now = self.clock.now();
        if let Some(longest_life) = self.times.longest_life {
            let ending = revocations.into_iter();
            revocations = ending.map(|one| one.with_default_end(now, longest_life)).collect();
        }
        self.add(&revocations);
        for some in revocations.chunks(TOLD_AT_ONCE) {
            let request = RevokeRequest::of(some.to_vec(), now);
            within(self.times.timeout, self.store.revoke(&request)).await?;
        }
        Ok(())
    }

    /// Loads what is new, unless somebody has begun to and done so by the time it is this one's turn.
    /// One that is under way does not count: the store may have answered it before something came.
    pub(super) async fn catch_up(&self) {
        let begun = self.begun.load(Ordering::SeqCst);
        let mut cursor = self.cursor.lock().await;
        let is_done = self.loads.borrow().ended > begun;
        if !is_done {
            self.load(&mut cursor).await;
        }
    }

    /// Loads what is new, whoever else does.
    pub(super) async fn refresh(&self) {
        let mut cursor = self.cursor.lock().await;
        self.load(&mut cursor).await;
    }

    /// Loads all, and forgets what has ended. How fresh what is known is, it does not say: it is what
    /// is new that must not be late.
    pub(super) async fn load_anew(&self) -> Result<(), StoreError> {
        self.load_pages(&mut 0).await?;
        self.revoked_mut().drop_ended(self.clock.now());
        Ok(())
    }

    async fn load(&self, cursor: &mut Cursor) {
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let (began, began_day) = (Instant::now(), since_1970(self.clock.now()));
        let loaded = self.load_pages(&mut cursor.position).await;
        if loaded.is_ok() {
            let since_start = began.duration_since(self.started);
            self.loaded_at_day.store(nanos(began_day), Ordering::Release);
            self.loaded_at.store(nanos(since_start), Ordering::Release);
            cursor.said_too_old = false;
        } else {
            cursor.position = 0;
        }
        let error = loaded.err().map(Arc::new);
        if let Some(error) = &error {
            if self.failures() == 0 {
                trace::revocations_not_loaded(&**error);
            }
            if !self.is_fresh() && !std::mem::replace(&mut cursor.said_too_old, true) {
                trace::revocations_too_old();
            }
        }
        self.loads.send_modify(|loads| {
            loads.ended = number;
            loads.failures = if error.is_some() { loads.failures.saturating_add(1) } else { 0 };
            loads.error = error;
        });
    }

    async fn load_pages(&self, position: &mut u64) -> Result<(), StoreError> {
        let mut begins_anew = false;
        loop {
            // A store that panics once must not leave the node without revocations for good.
            let page = caught(async {
                within(self.times.timeout, self.store.revoked_since(*position)).await
            });
            let page = page.await.unwrap_or_else(|| Err(StoreError::new("the store panicked")))?;
            self.add(&page.revocations);
            let was = std::mem::replace(position, page.position);
            if page.position < was {
                if std::mem::replace(&mut begins_anew, true) {
                    return Err(StoreError::new("the store counts back again and again"));
                }
                *position = 0;
            } else if page.is_last {
                return Ok(());
            } else if page.position == was {
                return Err(StoreError::new(
                    "the store says that there is more, and gives nothing",
                ));
            }
        }
    }

    fn add(&self, revocations: &[Revocation]) {
        // Readers get their turn between the parts of a long page.
        for revocations in revocations.chunks(256) {
            let mut revoked = self.revoked_mut();
            let mut is_more = false;
            for revocation in revocations {
                is_more |= revoked.add(revocation);
            }
            // Before the lock is given up: who sees the new number sees what it stands for.
            if is_more {
                self.generation.fetch_add(1, Ordering::Release);
            }
        }
    }

    fn revoked(&self) -> RwLockReadGuard<'_, Revoked> {
        self.revoked.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn revoked_mut(&self) -> RwLockWriteGuard<'_, Revoked> {
        self.revoked.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn since_1970(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Less than the greatest number, which is no time.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX - 1)
}

async fn within<T>(
    limit: Duration,
    answer: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    match timeout(limit, answer).await {
        Ok(answer) => answer,
        Err(elapsed) => Err(StoreError::new(elapsed)),
    }
}

/// Why revocations are not known, as the cause of a refusal.
#[derive(Clone, Debug)]
pub(super) struct Outage(Option<Arc<StoreError>>);

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("what is revoked is not known for certain")
    }
}

impl Error for Outage {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.as_deref().map(|error| error as &(dyn Error + 'static))
    }
}
