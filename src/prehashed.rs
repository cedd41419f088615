//! Maps whose keys are keyed hashes already, which nobody outside can choose.

use std::hash::{BuildHasherDefault, Hasher};

/// Takes a key as it is. The key hashes itself as one `u64`.
pub(crate) type BuildPrehashed = BuildHasherDefault<Prehashed>;

#[derive(Default)]
pub(crate) struct Prehashed(u64);

impl Hasher for Prehashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = word;
    }

    fn write(&mut self, _: &[u8]) {
        // Keys of another shape would all share a bucket.
    }
}
