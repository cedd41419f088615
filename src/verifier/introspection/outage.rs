use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::verifier::cached::TokenId;

/// How long an endpoint is left alone that does not answer. A failure that comes sooner than this
/// holds nobody up, and the endpoint is asked on: it is known at once when it is back (OPAQUE-36).
pub(super) const PAUSE: Duration = Duration::from_secs(1);

/// How many tokens in a row must be met with silence before it is the endpoint that is silent, and
/// about how many it is then asked at a time: one who has fewer that it is slow about keeps nobody
/// else out.
const MAX_SILENCES: usize = 4;

/// An endpoint that does not answer, which must not hold up every request for as long as a question
/// may take. Whatever it answers, it is there; a token that it is silent about is left alone for a
/// pause, and so is the endpoint when it is silent about several.
pub(super) struct Outage {
    /// How long a question has to have come to nothing.
    least: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Questions that were answered.
    answers: u64,
    /// Different tokens that were met with silence since then, and those that are tried in their
    /// place.
    silences: Vec<Silence>,
}

#[derive(Clone, Copy)]
struct Silence {
    id: TokenId,
    /// The end of the pause.
    until: Instant,
    /// The one question about it is on its way.
    trying: bool,
}

impl Outage {
    pub(super) fn new(timeout: Duration) -> Self {
        Self { least: timeout.min(PAUSE), state: Mutex::default() }
    }

    /// `None` while the question is left to others, or the endpoint alone.
    pub(super) fn attempt(self: &Arc<Self>, id: TokenId) -> Option<Attempt> {
        let now = Instant::now();
        let mut state = self.state();
        let is_down = state.silences.len() == MAX_SILENCES;
        let is_own = |silence: &Silence| silence.id == id;
        let was_silent = state.silences.iter().any(is_own);
        let is_trial = was_silent || is_down;
        if is_trial {
            let concerns = |silence: &Silence| is_down || is_own(silence);
            if state.silences.iter().any(|silence| concerns(silence) && now < silence.until) {
                return None;
            }
            let is_free = |silence: &Silence| !silence.trying && (!was_silent || is_own(silence));
            let place = state.silences.iter_mut().find(|silence| is_free(silence))?;
            *place = Silence { id, until: now, trying: true };
        }
        let answers = state.answers;
        Some(Attempt { outage: self.clone(), id, began: now, answers, is_trial })
    }

    /// The endpoint has said something, whatever it is.
    pub(super) fn answered(&self) {
        let mut state = self.state();
        state.answers += 1;
        state.silences.clear();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Leave to ask one question. Dropped without a word, it makes room for the next.
pub(super) struct Attempt {
    outage: Arc<Outage>,
    id: TokenId,
    began: Instant,
    answers: u64,
    pub(super) is_trial: bool,
}

impl Attempt {
    pub(super) fn fail(&self) {
        let now = Instant::now();
        let mut state = self.outage.state();
        // An endpoint that has answered anybody meanwhile is not silent.
        if state.answers != self.answers || now < self.began + self.outage.least {
            return;
        }
        let until = now + PAUSE;
        if let Some(silence) = state.silence_of(self.id) {
            silence.until = until;
        } else if state.silences.len() < MAX_SILENCES {
            state.silences.push(Silence { id: self.id, until, trying: false });
        }
    }
}

impl State {
    fn silence_of(&mut self, id: TokenId) -> Option<&mut Silence> {
        self.silences.iter_mut().find(|silence| silence.id == id)
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let mut state = self.outage.state();
        if self.is_trial
            && self.answers == state.answers
            && let Some(silence) = state.silence_of(self.id)
        {
            silence.trying = false;
        }
    }
}
