//! The task that keeps keys fresh, and what it shares with the verifiers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout, timeout_at};

use crate::fetch::{ErasedFetch, IssuerUrl};
use crate::random::random_word;
use crate::trace;
use crate::verifier::VerifyError;
use crate::verifier::jwks::Jwks;
use crate::verifier::jwks::discovery::{LoadError, Loaded, Location, load};
use crate::verifier::jwks::missing::Missing;
use crate::verifier::jwt::{KeySet, KeySource, NewerKeys};

/// The longest wait between two tries at an issuer that is down.
const MAX_BACKOFF: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) shortest: Duration,
    pub(super) longest: Duration,
    pub(super) max_stale: Duration,
    pub(super) cooldown: Duration,
    pub(super) timeout: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            shortest: Duration::from_secs(60),
            longest: Duration::from_secs(600),
            max_stale: Duration::from_secs(3600),
            cooldown: Duration::from_secs(30),
            timeout: Duration::from_secs(5),
        }
    }
}

/// What the task and the verifiers share.
pub(super) struct Shared {
    times: Times,
    keys: ArcSwapOption<KeySet>,
    generation: AtomicU64,
    progress: watch::Sender<Progress>,
    /// A verifier has met a name that is not known.
    wanted: Notify,
    missing: Mutex<Missing>,
}

/// How the fetches go.
#[derive(Clone, Debug)]
struct Progress {
    /// A fetch is under way.
    fetching: bool,
    /// Fetches that have ended, well or not.
    done: u64,
    failures: u32,
    /// When the last good one ended.
    fetched_at: Option<Instant>,
    /// When the last one of any kind ended.
    ended_at: Instant,
    /// When the next is due by itself.
    next_at: Instant,
    /// Why the last one failed.
    error: Option<Arc<str>>,
}

impl Shared {
    pub(super) fn new(times: Times) -> Self {
        let now = Instant::now();
        let progress = Progress {
            fetching: true,
            done: 0,
            failures: 0,
            fetched_at: None,
            ended_at: now,
            next_at: now,
            error: None,
        };
        Self {
            times,
            keys: ArcSwapOption::empty(),
            generation: AtomicU64::new(0),
            progress: watch::Sender::new(progress),
            wanted: Notify::new(),
            missing: Mutex::new(Missing::new(times.cooldown * 4)),
        }
    }

    pub(super) fn fetches(&self) -> u64 {
        let progress = self.progress.borrow();
        progress.done + u64::from(progress.fetching)
    }

    pub(super) fn failures(&self) -> u32 {
        self.progress.borrow().failures
    }

    pub(super) fn age(&self) -> Option<Duration> {
        self.progress.borrow().fetched_at.map(|at| at.elapsed())
    }

    /// Waits until the first fetch has ended.
    pub(super) async fn first(&self) -> Result<(), VerifyError> {
        self.ended_after(0).await?;
        if self.keys.load().is_some() { Ok(()) } else { Err(self.unavailable()) }
    }

    /// Waits until more than this many fetches have ended.
    async fn ended_after(&self, done: u64) -> Result<(), VerifyError> {
        let mut progress = self.progress.subscribe();
        // The task drops what it shares only when it is aborted with its last owner.
        let limit = self.times.timeout * 2;
        match timeout(limit, progress.wait_for(|progress| progress.done > done)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(self.unavailable()),
        }
    }

    fn unavailable(&self) -> VerifyError {
        let progress = self.progress.borrow();
        let wait = progress.next_at.saturating_duration_since(Instant::now());
        let error = progress.error.as_deref().unwrap_or("no keys have come yet");
        VerifyError::unavailable(error.to_owned()).with_retry_after(wait)
    }

    fn is_missing(&self, kid: &str) -> bool {
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        missing.has(kid, Instant::now())
    }

    fn add_missing(&self, kid: &str) {
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        missing.add(kid, Instant::now());
    }

    /// Whether the last fetch is long enough ago for another one.
    fn is_cool(&self, progress: &Progress) -> bool {
        progress.ended_at.elapsed() >= self.times.cooldown
    }

    /// Takes over what a fetch has brought, and says when the next is due.
    fn publish(&self, loaded: Loaded) -> Instant {
        let now = Instant::now();
        let old = self.keys.swap(Some(Arc::new(loaded.keys)));
        if let (Some(old), Some(new)) = (old, &*self.keys.load())
            && !old.is_part_of(new)
        {
            self.generation.fetch_add(1, Ordering::SeqCst);
        }
        let Times { shortest, longest, .. } = self.times;
        let lifetime = loaded.max_age.unwrap_or(longest).clamp(shortest, longest);
        // Ahead of the end, and not at the same moment as everybody else.
        let next_at = now + jittered(lifetime);
        self.progress.send_modify(|progress| {
            progress.failures = 0;
            progress.fetched_at = Some(now);
            progress.error = None;
            progress.end(now, next_at);
        });
        next_at
    }

    /// Keeps the last good keys while they may be kept, and says when to try again.
    fn keep(&self, error: &LoadError) -> Instant {
        let now = Instant::now();
        let (failures, fetched_at) = {
            let progress = self.progress.borrow();
            (progress.failures.saturating_add(1), progress.fetched_at)
        };
        if failures == 1 {
            trace::keys_not_fetched(error);
        }
        let backoff = Duration::from_secs(1) * 2_u32.saturating_pow(failures - 1).min(64);
        let mut next_at = now + jittered(backoff.min(MAX_BACKOFF));
        if let Some(end) = fetched_at.map(|at| at + self.times.longest + self.times.max_stale) {
            if now >= end {
                if self.keys.swap(None).is_some() {
                    self.generation.fetch_add(1, Ordering::SeqCst);
                }
            } else {
                // The keys must go when they are too old, not when the issuer is tried next.
                next_at = next_at.min(end);
            }
        }
        self.progress.send_modify(|progress| {
            progress.failures = failures;
            progress.error = Some(error.to_string().into());
            progress.end(now, next_at);
        });
        next_at
    }
}

impl Progress {
    fn end(&mut self, now: Instant, next_at: Instant) {
        self.fetching = false;
        self.done += 1;
        self.ended_at = now;
        self.next_at = next_at;
    }
}

/// Fetches for ever. Every fetch happens here, so that there is never more than one.
pub(super) async fn keep_fresh(
    shared: Arc<Shared>,
    location: Location,
    fetch: Arc<dyn ErasedFetch>,
) {
    let mut document = None;
    loop {
        shared.progress.send_modify(|progress| progress.fetching = true);
        let fetched = once(&location, &*fetch, &mut document);
        let next_at = match timeout(shared.times.timeout, fetched).await {
            Ok(Ok(loaded)) => shared.publish(loaded),
            Ok(Err(error)) => shared.keep(&error),
            Err(_) => shared.keep(&LoadError::Timeout),
        };
        // A wish that comes within the cooldown is kept until it is over.
        let cooled = Instant::now() + shared.times.cooldown;
        if timeout_at(next_at, shared.wanted.notified()).await.is_ok() {
            tokio::time::sleep_until(cooled.min(next_at)).await;
        }
    }
}

/// One fetch of the document, which is looked for anew when it was not where it had been.
async fn once(
    location: &Location,
    fetch: &dyn ErasedFetch,
    document: &mut Option<IssuerUrl>,
) -> Result<Loaded, LoadError> {
    let url = match document.take() {
        Some(url) => url,
        None => location.document(fetch).await?,
    };
    let loaded = load(fetch, &url).await?;
    *document = Some(url);
    Ok(loaded)
}

/// Between eight and nine tenths of a time.
fn jittered(time: Duration) -> Duration {
    let tenth = time / 10;
    let nanos = u64::try_from(tenth.as_nanos()).unwrap_or(u64::MAX).max(1);
    tenth * 8 + Duration::from_nanos(random_word() % nanos)
}

impl KeySource for Jwks {
    fn keys(&self) -> Option<Arc<KeySet>> {
        self.shared.keys.load_full()
    }

    fn may_bring(&self, kid: &str) -> bool {
        if self.shared.is_missing(kid) {
            return false;
        }
        self.shared.wanted.notify_one();
        let progress = self.shared.progress.borrow();
        // While the issuer cannot be reached, it is not known whether it has the key.
        progress.fetching || progress.failures > 0 || self.shared.is_cool(&progress)
    }

    fn newer<'a>(&'a self, kid: Option<&'a str>) -> NewerKeys<'a> {
        Box::pin(async move {
            let shared = &*self.shared;
            let (done, will_fetch) = {
                let progress = shared.progress.borrow();
                let asked = kid.is_some() && shared.is_cool(&progress);
                (progress.done, progress.fetching || asked)
            };
            if will_fetch {
                shared.ended_after(done).await?;
            }
            let keys = shared.keys.load_full().ok_or_else(|| shared.unavailable())?;
            if let Some(kid) = kid.filter(|kid| !keys.names(kid)) {
                if shared.failures() > 0 {
                    return Err(shared.unavailable());
                }
                shared.add_missing(kid);
            }
            Ok(keys)
        })
    }

    fn generation(&self) -> u64 {
        self.shared.generation.load(Ordering::SeqCst)
    }
}
