use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{Shared, WeakShared};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::verifier::Verifying;
use crate::verifier::cached::TokenId;

/// How many requests may wait for answers in all, mostly those with the tokens that everybody uses.
const MAX_WAITING: usize = 16_384;

/// The questions that are on their way: one for each token, for all who wait for its answer.
///
/// Whoever waits carries the question on, so that it goes on when another one leaves, and ends with
/// the last (OPAQUE-37).
pub(super) struct Flights {
    max: usize,
    /// How many of these are for tokens that were accepted before: strangers who make tokens up must
    /// not keep out whoever has to be asked about again.
    kept_free: usize,
    state: Mutex<State>,
    places: Semaphore,
}

#[derive(Default)]
struct State {
    by_token: HashMap<TokenId, Flight>,
    /// Those that nobody joins any more included.
    in_progress: usize,
    started: u64,
}

struct Flight {
    number: u64,
    epoch: u64,
    answer: WeakShared<Verifying>,
}

impl Flights {
    pub(super) fn new(max: usize, kept_free: usize) -> Self {
        Self { max, kept_free, state: Mutex::default(), places: Semaphore::new(MAX_WAITING) }
    }

    /// A place to wait at; `None` when there is none left.
    pub(super) fn place(&self) -> Option<SemaphorePermit<'_>> {
        self.places.try_acquire().ok()
    }

    /// The answer that is on its way to this token, or else the one to a question that is asked now;
    /// `None` when too many are.
    ///
    /// A question from an epoch that is over is not joined: the token may have been revoked since.
    pub(super) fn join(
        self: &Arc<Self>,
        id: TokenId,
        epoch: u64,
        may_join: bool,
        was_accepted: bool,
        question: impl FnOnce() -> Verifying,
    ) -> Option<Shared<Verifying>> {
        let mut state = self.state();
        if may_join
            && let Some(flight) = state.by_token.get(&id)
            && flight.epoch == epoch
            && let Some(answer) = flight.answer.upgrade()
        {
            return Some(answer);
        }
        let kept_free = if was_accepted { 0 } else { self.kept_free };
        if state.in_progress >= self.max - kept_free {
            return None;
        }
        state.in_progress += 1;
        state.started += 1;
        let number = state.started;
        let landing = Landing { flights: self.clone(), id, number };
        let question = question();
        let flying: Verifying = Box::pin(async move {
            let answer = question.await;
            // What is remembered of the answer is in its place by now, so that whoever comes too
            // late to join finds it there.
            drop(landing);
            answer
        });
        let shared = flying.shared();
        if let Some(answer) = shared.downgrade() {
            state.by_token.insert(id, Flight { number, epoch, answer });
        }
        Some(shared)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a flight, whether its answer has come or everybody has left.
struct Landing {
    flights: Arc<Flights>,
    id: TokenId,
    number: u64,
}

impl Drop for Landing {
    fn drop(&mut self) {
        let mut state = self.flights.state();
        state.in_progress -= 1;
        if state.by_token.get(&self.id).is_some_and(|flight| flight.number == self.number) {
            state.by_token.remove(&self.id);
        }
    }
}
