//! What the task that fetches keys and the verifiers share.

use std::error::Error;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout, timeout_at};

use crate::random::random_word;
use crate::trace;
use crate::verifier::VerifyError;
use crate::verifier::jwks::Jwks;
use crate::verifier::jwks::discovery::{LoadError, Loaded};
use crate::verifier::jwks::missing::{Fetched, Missing};
use crate::verifier::jwks::waiting::Waiting;
use crate::verifier::jwt::{KeySet, KeySource, NewerKeys};

/// The longest wait between two tries at an issuer that is down.
const MAX_BACKOFF: Duration = Duration::from_secs(60);

/// How many requests may wait for the first keys.
const MAX_WAITING: usize = 256;

/// How many addresses a fetch asks at: three of discovery, and the document's own.
const MAX_ADDRESSES: u32 = 4;

/// How long a client is told to wait when too many requests wait for new keys, or when these are on
/// their way.
const RETRY_AFTER_BURST: Duration = Duration::from_secs(1);

/// The longest that any of the times may be: a key that the issuer withdraws must go (JWT-73,
/// JWT-74).
const MAX_TIME: Duration = Duration::from_secs(86_400);

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

impl Times {
    pub(super) fn can_be_kept(&self) -> bool {
        let Self { shortest, longest, max_stale, cooldown, timeout } = *self;
        let second = Duration::from_secs(1);
        shortest >= second
            && longest >= shortest
            && cooldown >= second
            && !timeout.is_zero()
            && [longest, max_stale, cooldown, timeout].iter().all(|time| *time <= MAX_TIME)
    }
}

/// What the task and the verifiers share.
pub(super) struct Shared {
    pub(super) times: Times,
    keys: ArcSwapOption<KeySet>,
    generation: AtomicU64,
    progress: watch::Sender<Progress>,
    missing: Mutex<Missing>,
    /// Places for requests that wait for the first keys.
    places: Semaphore,
    /// Those that wait for new ones.
    waiting: Waiting,
}

/// How the fetches go.
struct Progress {
    /// Fetches that have begun.
    begun: u64,
    /// Fetches that have ended, well or not: one less while one is under way.
    done: u64,
    /// A token has named a key that nobody knows, and no fetch has begun since.
    wanted: bool,
    /// No key at hand has made a signature, and no fetch has begun since.
    doubted: bool,
    /// When a fetch may begin for such a token.
    cool_at: Instant,
    /// When the next is due by itself.
    next_at: Instant,
    failures: u32,
    /// The last good one.
    fetched: Option<Fetched>,
    /// Why the last one failed.
    error: Option<Arc<str>>,
}

impl Shared {
    pub(super) fn new(times: Times) -> Self {
        let now = Instant::now();
        let progress = Progress {
            // The first fetch begins with the task.
            begun: 1,
            done: 0,
            wanted: false,
            doubted: false,
            cool_at: now,
            next_at: now,
            failures: 0,
            fetched: None,
            error: None,
        };
        Self {
            times,
            keys: ArcSwapOption::empty(),
            generation: AtomicU64::new(0),
            progress: watch::Sender::new(progress),
            missing: Mutex::new(Missing::new(times.cooldown)),
            places: Semaphore::new(MAX_WAITING),
            waiting: Waiting::default(),
        }
    }

    pub(super) fn fetches(&self) -> u64 {
        self.progress.borrow().begun
    }

    pub(super) fn failures(&self) -> u32 {
        self.progress.borrow().failures
    }

    pub(super) fn age(&self) -> Option<Duration> {
        self.progress.borrow().fetched.map(|fetched| fetched.at.elapsed())
    }

    /// Waits until the first fetch has ended.
    pub(super) async fn first(&self) -> Result<(), VerifyError> {
        // A task whose runtime has ended before it ran ends no fetch.
        let _ = timeout(self.times.timeout * (MAX_ADDRESSES + 1), self.ended(1)).await;
        self.at_hand().map(drop)
    }

    /// The keys after the first fetch, for a request: an issuer that is down must not gather requests
    /// that wait. They are few, wait as long as one address may take, and never for another one.
    async fn first_at_hand(&self) -> Result<Arc<KeySet>, VerifyError> {
        if let Ok(_place) = self.places.try_acquire() {
            // Whichever way it ends, the keys are there or they are not.
            let _ = timeout(self.times.timeout, self.ended(1)).await;
        }
        self.at_hand()
    }

    fn at_hand(&self) -> Result<Arc<KeySet>, VerifyError> {
        self.keys.load_full().ok_or_else(|| self.unavailable())
    }

    /// Waits until this many fetches have ended.
    async fn ended(&self, count: u64) {
        let mut progress = self.progress.subscribe();
        // It fails where the sender is gone, which is here.
        let _ = progress.wait_for(|progress| progress.done >= count).await;
    }

    fn unavailable(&self) -> VerifyError {
        let progress = self.progress.borrow();
        // While a fetch is under way, that is when the next had been due without it.
        let wait = match progress.is_fetching() {
            true => RETRY_AFTER_BURST,
            false => progress.next_at.saturating_duration_since(Instant::now()),
        };
        let error = progress.error.as_deref().unwrap_or("no keys have come yet");
        VerifyError::unavailable(error.to_owned()).with_retry_after(wait)
    }

    fn missing(&self) -> MutexGuard<'_, Missing> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn may_bring(&self, kid: &str) -> Result<bool, VerifyError> {
        // Before the keys: those of a fetch are in their place before it has ended.
        let (begun, fetched, comes_soon) = {
            let progress = self.progress.borrow();
            // While the issuer cannot be reached, it is not known whether it has the key.
            let comes_soon = progress.is_fetching() || progress.failures > 0 || progress.is_cool();
            (progress.begun, progress.fetched, comes_soon)
        };
        // A fetch may have brought it since somebody looked, and have used up the cooldown.
        if self.keys.load().as_ref().is_some_and(|keys| keys.names(kid)) {
            return Ok(true);
        }
        if self.missing().has(kid, fetched, Instant::now()) {
            return Ok(false);
        }
        if comes_soon { Ok(true) } else { Err(self.later(kid, begun)) }
    }

    /// Asks for a key that nobody knows, once the cooldown is over. Until then its tokens are not
    /// known to be bad: a client would throw away what was signed with the key of today.
    fn later(&self, kid: &str, begun: u64) -> VerifyError {
        self.missing().ask(kid, begun);
        self.want(begun);
        let wait = self.progress.borrow().cool_at.saturating_duration_since(Instant::now());
        VerifyError::unavailable("the key is not known, and it is too soon to fetch it")
            .with_retry_after(wait)
    }

    /// Asks for one more fetch than had begun, which comes once the cooldown is over; says whether it
    /// has come, or does so now.
    fn want(&self, begun: u64) -> bool {
        {
            // A flood of strays has nothing to write.
            let progress = self.progress.borrow();
            if progress.wanted && progress.begun == begun {
                return progress.is_cool();
            }
        }
        let mut at_once = false;
        self.progress.send_if_modified(|progress| {
            let has_come = progress.begun > begun;
            at_once = has_come || progress.is_cool();
            !has_come && !std::mem::replace(&mut progress.wanted, true)
        });
        at_once
    }

    /// Fetches ahead of time, though not within the shortest time between two: anybody can sign
    /// badly. So this takes no fetch away from tokens that name new keys.
    fn doubt(&self) {
        if !self.progress.borrow().doubted {
            self.progress.send_modify(|progress| progress.doubted = true);
        }
    }

    async fn newer(&self, kid: Option<&str>) -> Result<Arc<KeySet>, VerifyError> {
        let keys = match (self.keys.load_full(), kid) {
            (None, _) => return self.first_at_hand().await,
            (Some(keys), None) => return Ok(keys),
            (Some(keys), Some(kid)) if keys.names(kid) => return Ok(keys),
            (Some(_), Some(kid)) => self.having(kid),
        };
        // An issuer that hangs must not gather requests that wait.
        timeout(self.times.timeout, keys).await.unwrap_or_else(|_| Err(self.unavailable()))
    }

    /// Keys that have this name, or else those after a fetch that has begun from now on; an error
    /// where that has to wait for the cooldown.
    async fn having(&self, kid: &str) -> Result<Arc<KeySet>, VerifyError> {
        let Some(_place) = self.waiting.enter(kid) else {
            let error = VerifyError::unavailable("too many requests wait for new keys");
            return Err(error.with_retry_after(RETRY_AFTER_BURST));
        };
        let (asked, is_fetching) = {
            let progress = self.progress.borrow();
            (progress.begun, progress.is_fetching())
        };
        self.missing().ask(kid, asked);
        if is_fetching {
            self.ended(asked).await;
        }
        // What was under way may have been answered before the issuer had the key.
        if !self.at_hand()?.names(kid) && self.want(asked) {
            self.ended(asked + 1).await;
        }
        // Before the keys, as above.
        let (failures, fetched) = {
            let progress = self.progress.borrow();
            (progress.failures, progress.fetched)
        };
        let keys = self.at_hand()?;
        if keys.names(kid) {
            return Ok(keys);
        }
        if failures > 0 {
            return Err(self.unavailable());
        }
        if fetched.is_none_or(|fetched| fetched.number <= asked) {
            return Err(self.later(kid, asked));
        }
        // Its time begins now, and not when the next one asks.
        self.missing().has(kid, fetched, Instant::now());
        Ok(keys)
    }

    /// Takes over what a fetch has brought, and says when the next is due.
    pub(super) fn publish(&self, loaded: Loaded) -> Instant {
        let now = Instant::now();
        let new = Arc::new(loaded.keys);
        let old = self.keys.swap(Some(new.clone()));
        if old.is_some_and(|old| !old.is_part_of(&new)) {
            self.generation.fetch_add(1, Ordering::SeqCst);
        }
        let Times { shortest, longest, .. } = self.times;
        let lifetime = loaded.max_age.unwrap_or(longest).clamp(shortest, longest);
        // Ahead of the end where that is not too soon, and not at the same moment as everybody else.
        let next_at = now + jittered(lifetime).max(shortest);
        self.progress.send_modify(|progress| {
            progress.failures = 0;
            progress.fetched = Some(Fetched { number: progress.begun, at: now });
            progress.error = None;
            progress.end(next_at);
        });
        next_at
    }

    /// Keeps the last good keys while they may be kept, and says when to try again.
    pub(super) fn keep(&self, error: &LoadError) -> Instant {
        let now = Instant::now();
        let (failures, fetched_at) = {
            let progress = self.progress.borrow();
            let fetched_at = progress.fetched.map(|fetched| fetched.at);
            (progress.failures.saturating_add(1), fetched_at)
        };
        if failures == 1 {
            trace::keys_not_fetched(error);
        }
        let backoff = Duration::from_secs(1) * 2_u32.saturating_pow(failures - 1).min(64);
        let mut next_at = now + jittered(backoff.min(MAX_BACKOFF));
        if let Some(end) = fetched_at.map(|at| at + self.times.longest + self.times.max_stale) {
            if now >= end {
                if self.withdraw() {
                    trace::keys_too_old();
                }
            } else {
                // The keys must go when they are too old, not when the issuer is tried next.
                next_at = next_at.min(end);
            }
        }
        self.fail(with_causes(error), failures, next_at);
        next_at
    }

    pub(super) fn fail(&self, error: String, failures: u32, next_at: Instant) {
        self.progress.send_modify(|progress| {
            progress.failures = failures;
            progress.error = Some(error.into());
            progress.end(next_at);
        });
    }

    /// Takes the keys away; says whether there were any.
    pub(super) fn withdraw(&self) -> bool {
        let had_keys = self.keys.swap(None).is_some();
        if had_keys {
            self.generation.fetch_add(1, Ordering::SeqCst);
        }
        had_keys
    }

    /// Waits until a fetch is due: by itself, or for a token once that is allowed.
    pub(super) async fn due(&self, next_at: Instant) {
        let mut seen = self.progress.subscribe();
        let doubtful_at = Instant::now() + self.times.shortest;
        let for_token = loop {
            let (wanted_at, at) = {
                let progress = seen.borrow_and_update();
                let wanted_at = progress.wanted.then_some(progress.cool_at);
                let doubtful_at = progress.doubted.then_some(doubtful_at);
                let times = [wanted_at, doubtful_at, Some(next_at)];
                (wanted_at, times.into_iter().flatten().min().unwrap_or(next_at))
            };
            if timeout_at(at, seen.changed()).await.is_err() {
                break wanted_at == Some(at);
            }
        };
        self.progress.send_modify(|progress| {
            progress.begun += 1;
            progress.wanted = false;
            progress.doubted = false;
            if for_token {
                progress.cool_at = Instant::now() + self.times.cooldown;
            }
        });
    }
}

impl Progress {
    fn is_fetching(&self) -> bool {
        self.begun > self.done
    }

    fn is_cool(&self) -> bool {
        Instant::now() >= self.cool_at
    }

    fn end(&mut self, next_at: Instant) {
        self.done = self.begun;
        self.next_at = next_at;
    }
}

/// Between eight and nine tenths of a time.
fn jittered(time: Duration) -> Duration {
    let tenth = time / 10;
    let nanos = u64::try_from(tenth.as_nanos()).unwrap_or(u64::MAX).max(1);
    tenth * 8 + Duration::from_nanos(random_word() % nanos)
}

fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Writing to a string does not fail.
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

impl KeySource for Jwks {
    fn keys(&self) -> Option<Arc<KeySet>> {
        self.shared.keys.load_full()
    }

    fn may_bring(&self, kid: &str) -> Result<bool, VerifyError> {
        self.shared.may_bring(kid)
    }

    fn doubt(&self) {
        self.shared.doubt();
    }

    fn newer<'a>(&'a self, kid: Option<&'a str>) -> NewerKeys<'a> {
        Box::pin(self.shared.newer(kid))
    }

    fn generation(&self) -> u64 {
        self.shared.generation.load(Ordering::SeqCst)
    }

    fn issuer(&self) -> Option<&str> {
        self.issuer.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verifier::VerifyErrorKind;

    const KEYS: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"new",
        "x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

    /// A token that was looked at with the keys from before a fetch is asked about after it.
    #[test]
    fn a_key_that_came_just_now_is_not_unknown() {
        let shared = Shared::new(Times::default());
        let keys = KeySet::from_jwks(KEYS).unwrap();
        shared.publish(Loaded { keys, max_age: None });
        let cool_at = Instant::now() + Duration::from_secs(30);
        shared.progress.send_modify(|progress| progress.cool_at = cool_at);
        assert!(shared.may_bring("new").unwrap(), "JWT-70: it is at hand");
        assert!(!shared.progress.borrow().wanted, "JWT-71: and nobody has to fetch it");
        let later = shared.may_bring("other").unwrap_err();
        assert_eq!(later.kind(), VerifyErrorKind::Unavailable, "JWT-71: the cooldown");
        assert!(shared.progress.borrow().wanted, "attack 19");
    }

    /// The fetch for one token begins while another one asks for it too.
    #[test]
    fn a_fetch_that_has_just_begun_is_waited_for() {
        let shared = Shared::new(Times::default());
        let begun = shared.fetches();
        shared.progress.send_modify(|progress| {
            progress.begun += 1;
            progress.cool_at = Instant::now() + Duration::from_secs(30);
        });
        assert!(shared.want(begun), "JWT-72: it is the one that was asked for");
        assert!(!shared.progress.borrow().wanted, "JWT-71: and no other is needed");
        assert!(!shared.want(begun + 1), "JWT-71: the next has to wait");
    }
}
