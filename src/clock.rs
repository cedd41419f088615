//! Where the layers read the time.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// The two times that the layers ask for.
///
/// Only layers read a clock; verifiers, stores and rules get the time as an argument.
pub trait Clock: Send + Sync + 'static {
    /// The time of day, against which the claims of a token are checked. It may jump.
    fn now(&self) -> SystemTime;

    /// The time of day, up to 10 ms late where that is cheaper to learn: whether a token that was accepted
    /// before still is need not be asked with more care. Default: [`now`](Self::now).
    fn coarse_now(&self) -> SystemTime {
        self.now()
    }

    /// Time since some fixed moment, which never goes back: what limits and latencies count in.
    fn monotonic(&self) -> Duration;
}

/// The clock of the machine. Every instance shares one monotonic origin. On Linux,
/// [`coarse_now`](Clock::coarse_now) is the time of the kernel's last tick.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    #[cfg(target_os = "linux")]
    fn coarse_now(&self) -> SystemTime {
        use nix::time::{ClockId, clock_gettime};

        let since_1970 = clock_gettime(ClockId::CLOCK_REALTIME_COARSE).ok().map(Duration::from);
        // A time before 1970 reads as one that is too far ahead.
        let time = since_1970.and_then(|since| SystemTime::UNIX_EPOCH.checked_add(since));
        time.unwrap_or_else(|| self.now())
    }

    fn monotonic(&self) -> Duration {
        static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
        ORIGIN.elapsed()
    }
}

/// A clock that moves when it is told to, for tests. Clones show the same time.
///
/// ```
/// use std::time::Duration;
/// use tower_gate::{Clock, ManualClock};
///
/// let clock = ManualClock::default();
/// let before = clock.now();
/// clock.advance(Duration::from_secs(90));
/// assert_eq!(clock.now().duration_since(before)?, Duration::from_secs(90));
/// # Ok::<(), std::time::SystemTimeError>(())
/// ```
#[derive(Clone)]
pub struct ManualClock(Arc<Times>);

struct Times {
    now: Mutex<SystemTime>,
    monotonic_nanos: AtomicU64,
}

impl ManualClock {
    /// A clock that shows this time of day, at a monotonic time of zero.
    #[must_use]
    pub fn new(now: SystemTime) -> Self {
        Self(Arc::new(Times { now: Mutex::new(now), monotonic_nanos: AtomicU64::new(0) }))
    }

    /// Lets time pass.
    pub fn advance(&self, by: Duration) {
        self.set_now(self.now() + by);
        let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        self.0.monotonic_nanos.fetch_add(nanos, Ordering::SeqCst);
    }

    /// Sets the time of day, forwards or back, as an operator does; monotonic time stays.
    pub fn set_now(&self, now: SystemTime) {
        *self.0.now.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> SystemTime {
        *self.0.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_nanos(self.0.monotonic_nanos.load(Ordering::SeqCst))
    }
}

/// Starts at the machine's time of day.
impl Default for ManualClock {
    fn default() -> Self {
        Self::new(SystemTime::now())
    }
}

impl fmt::Debug for ManualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManualClock")
            .field("now", &self.now())
            .field("monotonic", &self.monotonic())
            .finish()
    }
}

impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn now(&self) -> SystemTime {
        (**self).now()
    }

    fn coarse_now(&self) -> SystemTime {
        (**self).coarse_now()
    }

    fn monotonic(&self) -> Duration {
        (**self).monotonic()
    }
}
