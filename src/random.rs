//! Numbers that nobody can guess.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

/// 64 random bits. The standard library seeds its maps from the system's randomness and lets nobody
/// read the seed; the hash of nothing under it is as random.
pub(crate) fn random_word() -> u64 {
    RandomState::new().build_hasher().finish()
}
