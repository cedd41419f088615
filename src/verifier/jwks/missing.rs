use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::time::Instant;

/// How many names are remembered.
const PLACES: usize = 256;

/// Names of keys that a fetch did not find, so that a client which goes on with a withdrawn key
/// causes a fetch ever more rarely. It begins with a short time, because an issuer may sign with a
/// key a moment before it publishes it.
///
/// A name has one place, which the hash chooses; another name that is given the same place takes
/// it. So memory is fixed, and a flood can only make names be forgotten, which costs no more than
/// the fetches that the cooldown allows.
pub(super) struct Missing {
    hasher: RandomState,
    places: Box<[Option<Place>]>,
    shortest: Duration,
}

#[derive(Clone, Copy)]
struct Place {
    hash: u64,
    until: Instant,
    lasting: Duration,
}

impl Missing {
    pub(super) fn new(shortest: Duration) -> Self {
        let places = vec![None; PLACES].into_boxed_slice();
        Self { hasher: RandomState::new(), places, shortest }
    }

    /// Remembers a name for the shortest time, then for twice and four times that.
    pub(super) fn add(&mut self, kid: &str, now: Instant) {
        let (hash, shortest) = (self.hasher.hash_one(kid), self.shortest);
        let place = self.place(hash);
        let before = place.filter(|place| place.hash == hash);
        let lasting = before.map_or(shortest, |before| (before.lasting * 2).min(shortest * 4));
        *place = Some(Place { hash, until: now + lasting, lasting });
    }

    pub(super) fn has(&mut self, kid: &str, now: Instant) -> bool {
        let hash = self.hasher.hash_one(kid);
        self.place(hash).is_some_and(|place| place.hash == hash && now < place.until)
    }

    fn place(&mut self, hash: u64) -> &mut Option<Place> {
        // One byte of the hash is an index of one of 256 places.
        &mut self.places[usize::from(hash.to_le_bytes()[0])]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_name_is_remembered_ever_longer_in_bounded_memory() {
        let mut now = Instant::now();
        let mut missing = Missing::new(Duration::from_secs(30));
        assert!(!missing.has("gone", now), "JWT-71");
        for seconds in [30, 60, 120, 120] {
            missing.add("gone", now);
            assert!(missing.has("gone", now + Duration::from_secs(seconds - 1)), "JWT-71");
            now += Duration::from_secs(seconds);
            assert!(!missing.has("gone", now), "JWT-71");
        }
        assert!(!missing.has("other", now), "JWT-71");
        for n in 0..10_000 {
            missing.add(&format!("random {n}"), now);
        }
        assert_eq!(missing.places.len(), PLACES, "attack 18");
    }
}
