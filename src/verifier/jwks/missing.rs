use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::time::Instant;

/// How many names are remembered.
const PLACES: usize = 256;

/// Names of keys that were asked for, of which those that a fetch did not find are missing for a
/// while: so a client which goes on with a withdrawn key causes a fetch ever more rarely. It begins
/// with a short time, because an issuer may sign with a key a moment before it publishes it.
///
/// A name has one place, which the hash chooses; another name that is given the same place takes
/// it. So memory is fixed, and a flood can only make names be forgotten, which costs no more than
/// the fetches that the cooldown allows.
pub(super) struct Missing {
    hasher: RandomState,
    places: Box<[Option<Place>]>,
    shortest: Duration,
}

/// The last good fetch.
#[derive(Clone, Copy)]
pub(super) struct Fetched {
    /// How many had begun with it.
    pub(super) number: u64,
    /// When it ended.
    pub(super) at: Instant,
}

#[derive(Clone, Copy)]
struct Place {
    hash: u64,
    /// How many fetches had begun when it was asked for, until a later one has not found it.
    asked: Option<u64>,
    missing_until: Option<Instant>,
    lasting: Duration,
}

impl Missing {
    pub(super) fn new(shortest: Duration) -> Self {
        let places = vec![None; PLACES].into_boxed_slice();
        Self { hasher: RandomState::new(), places, shortest }
    }

    /// Remembers that no key had this name when so many fetches had begun.
    pub(super) fn ask(&mut self, kid: &str, begun: u64) {
        let hash = self.hasher.hash_one(kid);
        match self.place(hash) {
            Some(place) if place.hash == hash => _ = place.asked.get_or_insert(begun),
            place => {
                let (asked, lasting) = (Some(begun), Duration::ZERO);
                *place = Some(Place { hash, asked, missing_until: None, lasting });
            }
        }
    }

    /// Whether a fetch that began after this name was asked for has not found it: not longer ago than
    /// the shortest time, then twice and four times that. The keys at hand must not have the name.
    pub(super) fn has(&mut self, kid: &str, fetched: Option<Fetched>, now: Instant) -> bool {
        let (hash, shortest) = (self.hasher.hash_one(kid), self.shortest);
        let Some(place) = self.place(hash).as_mut().filter(|place| place.hash == hash) else {
            return false;
        };
        if let (Some(asked), Some(fetched)) = (place.asked, fetched)
            && fetched.number > asked
        {
            place.asked = None;
            place.lasting = (place.lasting * 2).clamp(shortest, shortest * 4);
            place.missing_until = Some(fetched.at + place.lasting);
        }
        place.missing_until.is_some_and(|until| now < until)
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
        let mut at = Instant::now();
        let mut missing = Missing::new(Duration::from_secs(30));
        for (number, seconds) in [(1, 30), (2, 60), (3, 120), (4, 120)] {
            let (before, fetched) =
                (Some(Fetched { number, at }), Some(Fetched { number: number + 1, at }));
            assert!(!missing.has("gone", fetched, at), "JWT-71: nobody has asked");
            // Of those who ask at once, the first counts.
            for begun in [number, number, number + 1] {
                missing.ask("gone", begun);
                assert!(!missing.has("gone", before, at), "JWT-71: no fetch has begun since");
            }
            let last = at + Duration::from_secs(seconds - 1);
            assert!(missing.has("gone", fetched, last), "JWT-71");
            at += Duration::from_secs(seconds);
            assert!(!missing.has("gone", fetched, at), "JWT-71");
            assert!(!missing.has("other", fetched, at), "JWT-71");
        }
        for n in 0..10_000 {
            missing.ask(&format!("random {n}"), 9);
        }
        assert_eq!(missing.places.len(), PLACES, "attack 18");
    }
}
