use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use quick_cache::UnitWeighter;
use quick_cache::sync::{Cache, DefaultLifecycle};

use crate::prehashed::BuildPrehashed;
use crate::token::BearerToken;
use crate::verifier::cached::TokenId;
use crate::verifier::opaque::pepper::{Pepper, Peppers};

/// How long an unknown token stays one without the store. No longer, because another node may have
/// got it from somewhere else than from its issue.
const MAX_AGE: Duration = Duration::from_secs(1);
/// How many are remembered, at some 100 bytes each.
const MAX_TOKENS: usize = 4096;

/// Texts that the store was asked about a moment ago, and that are no token's: whoever repeats one
/// does not keep the store busy. Clones are the same.
#[derive(Clone)]
pub(super) struct UnknownTokens {
    cache: Arc<Cache<TokenId, Unknown, UnitWeighter, BuildPrehashed>>,
    /// How many were issued here: each of them may have been unknown before.
    issued: Arc<AtomicU64>,
}

/// What was known when the store was asked.
#[derive(Clone)]
pub(super) struct Known {
    peppers: Arc<[Pepper]>,
    issued: u64,
}

#[derive(Clone)]
struct Unknown {
    known: Known,
    since: SystemTime,
    until: SystemTime,
}

impl UnknownTokens {
    pub(super) fn new() -> Self {
        let (hasher, lifecycle) = (BuildPrehashed::default(), DefaultLifecycle::default());
        let cache = Cache::with(MAX_TOKENS, MAX_TOKENS as u64, UnitWeighter, hasher, lifecycle);
        Self { cache: Arc::new(cache), issued: Arc::default() }
    }

    /// Before the store is asked.
    pub(super) fn known(&self, peppers: &Peppers) -> Known {
        Known { issued: self.issued.load(Ordering::SeqCst), peppers: peppers.now() }
    }

    /// After the store was told of a token that is new.
    pub(super) fn count_issued(&self) {
        self.issued.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn insert(&self, token: &BearerToken, known: Known, now: SystemTime) {
        if let Some(until) = now.checked_add(MAX_AGE) {
            self.cache.insert(TokenId::of(token), Unknown { known, since: now, until });
        }
    }

    pub(super) fn contains(&self, token: &BearerToken, peppers: &Peppers, now: SystemTime) -> bool {
        let Some(found) = self.cache.get(&TokenId::of(token)) else {
            return false;
        };
        let now_known = self.known(peppers);
        let same = found.known.issued == now_known.issued
            && Arc::ptr_eq(&found.known.peppers, &now_known.peppers);
        same && found.since <= now && now < found.until
    }
}

impl Known {
    pub(super) fn peppers(&self) -> &[Pepper] {
        &self.peppers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_tokens_take_bounded_memory() {
        let unknown = UnknownTokens::new();
        let peppers = Peppers::new(Pepper::new("1", &[7; 32]).unwrap());
        let token = |n: u32| BearerToken::parse(&format!("garbage-{n}")).unwrap();
        for n in 0..50_000 {
            unknown.insert(&token(n), unknown.known(&peppers), SystemTime::UNIX_EPOCH);
        }
        assert!(unknown.cache.len() <= MAX_TOKENS, "attack 24: {}", unknown.cache.len());
        assert!(unknown.contains(&token(49_999), &peppers, SystemTime::UNIX_EPOCH));
    }
}
