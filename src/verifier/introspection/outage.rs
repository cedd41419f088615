use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long an endpoint is left alone that does not answer. A failure that comes sooner than this
/// holds nobody up, and the endpoint is asked on: it is known at once when it is back (OPAQUE-36).
pub(super) const PAUSE: Duration = Duration::from_secs(1);

/// An endpoint that does not answer, which must not hold up every request for as long as a question
/// may take: it is left alone for a pause, and then asked one question at a time.
pub(super) struct Outage {
    /// How long a question has to have come to nothing.
    least: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Questions that were answered.
    answers: u64,
    /// The end of the pause, until an answer comes.
    until: Option<Instant>,
    /// The one question is on its way.
    trying: bool,
}

impl Outage {
    pub(super) fn new(timeout: Duration) -> Self {
        Self { least: timeout.min(PAUSE), state: Mutex::default() }
    }

    /// `None` while the endpoint is left to others, or alone.
    pub(super) fn attempt(self: &Arc<Self>) -> Option<Attempt> {
        let now = Instant::now();
        let mut state = self.state();
        let alone = state.until.is_some();
        if state.until.is_some_and(|until| state.trying || now < until) {
            return None;
        }
        state.trying |= alone;
        Some(Attempt { outage: self.clone(), began: now, answers: state.answers, alone })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Leave to ask one question. Dropped without a word, it makes room for the next.
pub(super) struct Attempt {
    outage: Arc<Outage>,
    began: Instant,
    answers: u64,
    alone: bool,
}

impl Attempt {
    pub(super) fn succeed(&self) {
        let mut state = self.outage.state();
        state.answers += 1;
        state.until = None;
    }

    pub(super) fn fail(&self) {
        let now = Instant::now();
        let mut state = self.outage.state();
        // An endpoint that has answered others meanwhile is not down: whoever has a token that it is
        // slow about must not keep everybody out.
        if state.answers == self.answers && now >= self.began + self.outage.least {
            state.until = Some(now + PAUSE);
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if self.alone {
            self.outage.state().trying = false;
        }
    }
}
