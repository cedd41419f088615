use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How many names of keys may be waited for at once. Whoever makes names up makes up a new one for
/// each token; a rotation brings one or two.
const MAX_NAMES: usize = 256;

/// How many requests may wait in all, mostly for the one name that an issuer has begun to sign with.
const MAX_WAITING: usize = 16_384;

/// Requests that wait for keys which nobody knows yet: few names, and many requests for each.
#[derive(Default)]
pub(super) struct Waiting(Mutex<State>);

#[derive(Default)]
struct State {
    by_name: HashMap<Box<str>, usize>,
    all: usize,
}

impl Waiting {
    /// A place to wait at, until it is dropped; `None` where there is none left.
    pub(super) fn enter<'a>(&'a self, kid: &'a str) -> Option<Place<'a>> {
        let mut state = self.state();
        if state.all >= MAX_WAITING {
            return None;
        }
        if let Some(number) = state.by_name.get_mut(kid) {
            *number += 1;
        } else if state.by_name.len() < MAX_NAMES {
            state.by_name.insert(kid.into(), 1);
        } else {
            return None;
        }
        state.all += 1;
        Some(Place { waiting: self, kid })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct Place<'a> {
    waiting: &'a Waiting,
    kid: &'a str,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.waiting.state();
        state.all -= 1;
        if let Some(number) = state.by_name.get_mut(self.kid) {
            *number -= 1;
            if *number == 0 {
                state.by_name.remove(self.kid);
            }
        }
    }
}
