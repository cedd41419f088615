//! How late a busy machine wakes whoever waits: what a bound on waiting has to leave to it, and no more.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Measures in the runtime of whoever starts it, until that ends.
#[derive(Clone)]
pub(crate) struct Lateness(Arc<AtomicU64>);

/// What work may take that has nothing to wait for, on a machine that does other work in between.
const WORK: Duration = Duration::from_millis(50);

const NAP: Duration = Duration::from_millis(1);

impl Lateness {
    pub(crate) fn start() -> Self {
        let worst = Arc::new(AtomicU64::new(0));
        let found = worst.clone();
        tokio::spawn(async move {
            loop {
                let start = Instant::now();
                tokio::time::sleep(NAP).await;
                let late = start.elapsed().saturating_sub(NAP);
                found.fetch_max(late.as_micros().try_into().unwrap(), Ordering::Relaxed);
            }
        });
        Self(worst)
    }

    pub(crate) fn worst(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed))
    }

    /// Panics where somebody has waited for longer than this.
    #[track_caller]
    pub(crate) fn assert_no_longer(&self, took: Duration, timeout: Duration) {
        assert_in_time(took, timeout, self.worst());
    }
}

/// Panics where somebody has waited for longer than this, on a machine that is so late.
#[track_caller]
pub(crate) fn assert_in_time(took: Duration, timeout: Duration, late: Duration) {
    assert!(took <= timeout + WORK + late, "RL-70: {took:?}, on a machine that is {late:?} late");
}
