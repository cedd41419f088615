use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use thiserror::Error;

use crate::store::TokenDigest;

/// A secret of the application's, with a name, without which a digest of the store tells nothing.
///
/// It is kept where the application keeps its secrets, never in the database with the digests.
#[derive(Clone)]
pub struct Pepper {
    id: Arc<str>,
    /// HMAC with the key already in it.
    keyed: Hmac<Sha256>,
}

/// The peppers of an application: the newest makes the digests of new tokens, and tokens under any
/// of them are found. Clones are the same peppers.
///
/// A new pepper takes three steps where there are several nodes, none of which refuses a good token
/// or needs a restart: each node is told to [`accept`](Self::accept) it; then each to
/// [`add`](Self::add) it, after which new tokens are under it; and once the tokens under the old one
/// have ended or were replaced, each to [`retire`](Self::retire) that.
///
/// ```
/// use tower_gate::verifier::opaque::{Pepper, Peppers};
///
/// # let (old, new) = ([1; 32], [2; 32]);
/// let peppers = Peppers::new(Pepper::new("2026-01", &old)?);
/// peppers.add(Pepper::new("2026-07", &new)?)?;
/// peppers.retire("2026-01")?;
/// assert_eq!(peppers.ids(), ["2026-07"]);
/// # Ok::<(), tower_gate::verifier::opaque::InvalidPepper>(())
/// ```
#[derive(Clone)]
pub struct Peppers(Arc<Ring>);

struct Ring {
    /// The newest first.
    peppers: RwLock<Arc<[Pepper]>>,
    retired: AtomicU64,
}

/// Each one makes every verification of an unknown token longer.
const MAX_PEPPERS: usize = 8;

/// A pepper cannot be used, or the peppers cannot be changed so.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum InvalidPepper {
    /// It would be the ninth.
    #[error("there are eight peppers already: retire one")]
    TooMany,
    /// Fewer than 32 bytes.
    #[error("a pepper has at least 32 random bytes")]
    TooShort,
    /// The last one cannot be retired.
    #[error("the newest pepper cannot be retired: add another one first")]
    Newest,
    /// Two secrets cannot have one name.
    #[error("there is another pepper with this id")]
    SameId,
    /// No name.
    #[error("a pepper has an id")]
    WithoutId,
}

impl Pepper {
    /// A pepper of this name, of at least 32 random bytes. Records have its name, so it stays the
    /// same as long as the secret does.
    ///
    /// # Errors
    ///
    /// [`InvalidPepper::TooShort`] and [`InvalidPepper::WithoutId`].
    pub fn new(id: &str, secret: &[u8]) -> Result<Self, InvalidPepper> {
        if id.is_empty() {
            return Err(InvalidPepper::WithoutId);
        }
        if secret.len() < 32 {
            return Err(InvalidPepper::TooShort);
        }
        let keyed = Hmac::new_from_slice(secret).map_err(|_| InvalidPepper::TooShort)?;
        Ok(Self { id: id.into(), keyed })
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn digest(&self, token: &str) -> TokenDigest {
        let mut keyed = self.keyed.clone();
        keyed.update(token.as_bytes());
        TokenDigest::from_bytes(keyed.finalize().into_bytes().into())
    }

    fn is(&self, other: &Self) -> bool {
        self.id == other.id && self.digest("").is(&other.digest(""))
    }
}

impl Peppers {
    /// One pepper.
    #[must_use]
    pub fn new(pepper: Pepper) -> Self {
        Self(Arc::new(Ring { peppers: RwLock::new([pepper].into()), retired: AtomicU64::new(0) }))
    }

    /// Makes this the newest, under which new tokens are, whether it was accepted before or not.
    ///
    /// # Errors
    ///
    /// [`InvalidPepper::SameId`] and [`InvalidPepper::TooMany`].
    pub fn add(&self, pepper: Pepper) -> Result<(), InvalidPepper> {
        self.insert(pepper, |others, pepper| others.insert(0, pepper))
    }

    /// Finds tokens under this one too: one that other nodes use already or still.
    ///
    /// # Errors
    ///
    /// [`InvalidPepper::SameId`] and [`InvalidPepper::TooMany`].
    pub fn accept(&self, pepper: Pepper) -> Result<(), InvalidPepper> {
        if self.now().iter().any(|known| known.is(&pepper)) {
            return Ok(());
        }
        self.insert(pepper, Vec::push)
    }

    /// Ends all tokens under this pepper, on this node at once. One that is not known is retired.
    ///
    /// # Errors
    ///
    /// [`InvalidPepper::Newest`].
    pub fn retire(&self, id: &str) -> Result<(), InvalidPepper> {
        let mut peppers = self.0.peppers.write().unwrap_or_else(PoisonError::into_inner);
        if &*peppers[0].id == id {
            return Err(InvalidPepper::Newest);
        }
        *peppers = peppers.iter().filter(|pepper| &*pepper.id != id).cloned().collect();
        self.0.retired.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// The names, that of the newest first.
    #[must_use]
    pub fn ids(&self) -> Vec<String> {
        self.now().iter().map(|pepper| pepper.id.to_string()).collect()
    }

    /// All, the newest first.
    pub(super) fn now(&self) -> Arc<[Pepper]> {
        self.0.peppers.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often one was retired.
    pub(super) fn retired(&self) -> u64 {
        self.0.retired.load(Ordering::SeqCst)
    }

    fn insert(
        &self,
        pepper: Pepper,
        place: impl FnOnce(&mut Vec<Pepper>, Pepper),
    ) -> Result<(), InvalidPepper> {
        let mut peppers = self.0.peppers.write().unwrap_or_else(PoisonError::into_inner);
        if peppers.iter().any(|known| known.id == pepper.id && !known.is(&pepper)) {
            return Err(InvalidPepper::SameId);
        }
        let mut others: Vec<_> =
            peppers.iter().filter(|known| known.id != pepper.id).cloned().collect();
        if others.len() >= MAX_PEPPERS {
            return Err(InvalidPepper::TooMany);
        }
        place(&mut others, pepper);
        *peppers = others.into();
        Ok(())
    }
}

impl fmt::Debug for Pepper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pepper").field("id", &self.id).finish_non_exhaustive()
    }
}

impl fmt::Debug for Peppers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.now().iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pepper(id: &str, byte: u8) -> Pepper {
        Pepper::new(id, &[byte; 32]).unwrap()
    }

    #[test]
    fn a_digest_is_hmac_sha_256() {
        // RFC 4231 has no key of 32 bytes or more but one of 131: test case 6.
        let pepper = Pepper::new("rfc", &[0xaa; 131]).unwrap();
        let digest = pepper.digest("Test Using Larger Than Block-Size Key - Hash Key First");
        let hex: String = digest.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        let expected = "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54";
        assert_eq!(hex, expected, "OPAQUE-10");
    }

    #[test]
    fn a_weak_pepper_is_none() {
        assert_eq!(Pepper::new("1", &[7; 31]).unwrap_err(), InvalidPepper::TooShort);
        assert_eq!(Pepper::new("", &[7; 32]).unwrap_err(), InvalidPepper::WithoutId);
    }

    #[test]
    fn the_newest_stands_first_and_stays() {
        let peppers = Peppers::new(pepper("a", 1));
        peppers.accept(pepper("b", 2)).unwrap();
        assert_eq!(peppers.ids(), ["a", "b"], "accepted, and not used yet");
        peppers.add(pepper("b", 2)).unwrap();
        peppers.accept(pepper("b", 2)).unwrap();
        assert_eq!(peppers.ids(), ["b", "a"]);
        assert_eq!(peppers.add(pepper("a", 3)), Err(InvalidPepper::SameId));
        assert_eq!(peppers.accept(pepper("a", 3)), Err(InvalidPepper::SameId));
        assert_eq!(peppers.retire("b"), Err(InvalidPepper::Newest));
        peppers.retire("unknown").unwrap();
        peppers.retire("a").unwrap();
        assert_eq!((peppers.ids(), peppers.retired()), (vec!["b".to_owned()], 2));
        for n in 0..7 {
            peppers.accept(pepper(&n.to_string(), n)).unwrap();
        }
        assert_eq!(peppers.accept(pepper("x", 9)), Err(InvalidPepper::TooMany));
        assert_eq!(peppers.add(pepper("6", 6)), Ok(()), "it is one of the eight");
    }

    #[test]
    fn a_pepper_shows_its_name_alone() {
        let peppers = Peppers::new(pepper("2026-01", 7));
        assert_eq!(format!("{peppers:?}"), "[Pepper { id: \"2026-01\", .. }]", "attack 38");
    }
}
