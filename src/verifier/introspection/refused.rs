use std::time::{Duration, SystemTime};

use quick_cache::Weighter;
use quick_cache::sync::{Cache, DefaultLifecycle};

use crate::prehashed::BuildPrehashed;
use crate::principal::Principal;
use crate::verifier::VerifyError;
use crate::verifier::cached::TokenId;

/// How many bytes of refusals are remembered at most, and how many bytes one counts at least.
const MAX_BYTES: u64 = 1 << 20;
const LEAST_BYTES: u64 = 256;

/// Tokens that were refused a moment ago, apart from the good ones, which they cannot evict
/// (OPAQUE-36).
pub(super) struct RefusedTokens {
    cache: Cache<TokenId, Refused, Weights, BuildPrehashed>,
    max_age: Duration,
}

#[derive(Clone)]
struct Refused {
    error: VerifyError,
    since: SystemTime,
    until: SystemTime,
}

impl RefusedTokens {
    pub(super) fn new(max_age: Duration) -> Self {
        let number = usize::try_from(MAX_BYTES / LEAST_BYTES).unwrap_or(usize::MAX);
        let (hasher, lifecycle) = (BuildPrehashed::default(), DefaultLifecycle::default());
        Self { cache: Cache::with(number, MAX_BYTES, Weights, hasher, lifecycle), max_age }
    }

    pub(super) fn get(&self, id: TokenId, now: SystemTime) -> Option<VerifyError> {
        let found = self.cache.get(&id)?;
        (found.since <= now && now < found.until).then_some(found.error)
    }

    pub(super) fn insert(&self, id: TokenId, error: &VerifyError, now: SystemTime) {
        if let Some(until) = now.checked_add(self.max_age).filter(|&until| now < until) {
            self.cache.insert(id, Refused { error: error.clone(), since: now, until });
        }
    }
}

#[derive(Clone)]
struct Weights;

impl Weighter<TokenId, Refused> for Weights {
    fn weight(&self, _: &TokenId, refused: &Refused) -> u64 {
        LEAST_BYTES + refused.error.principal().map_or(0, Principal::bytes) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::BearerToken;
    use crate::verifier::VerifyErrorKind;

    #[test]
    fn refusals_take_bounded_memory() {
        let refused = RefusedTokens::new(Duration::from_secs(1));
        let unknown = VerifyErrorKind::UnknownToken.into();
        let long = Principal::builder("https://issuer.example", "user").claims(vec![b'x'; 60_000]);
        let expired = VerifyError::from(VerifyErrorKind::Expired).with_principal(long.build());
        let now = SystemTime::UNIX_EPOCH;
        for n in 0..20_000 {
            let id = TokenId::of(&BearerToken::parse(&format!("junk-{n}")).unwrap());
            refused.insert(id, if n % 2 == 0 { &unknown } else { &expired }, now);
            assert!(refused.cache.weight() <= MAX_BYTES, "OPAQUE-36, attack 24");
        }
        assert!(refused.cache.len() > 10, "OPAQUE-36");
    }
}
