use std::pin::Pin;
use std::sync::Arc;

use crate::verifier::VerifyError;
use crate::verifier::jwt::KeySet;

/// Where a verifier finds the keys of its issuer: a fixed set, or one that is fetched.
pub(crate) trait KeySource: Send + Sync {
    /// The keys at hand, found without waiting and without a lock; `None` before any have come and
    /// after they have become too old.
    fn keys(&self) -> Option<Arc<KeySet>>;

    /// Whether waiting for newer keys could bring one of this name. An error while neither that nor
    /// the contrary is known; it says when to come again.
    fn may_bring(&self, kid: &str) -> Result<bool, VerifyError>;

    /// A signature is not that of the keys it could be of, or there are none for its algorithm. One of
    /// them may have been replaced under its name, which newer keys would show.
    fn doubt(&self);

    /// Newer keys, for a token that names one that is not known, or for want of any.
    fn newer<'a>(&'a self, kid: Option<&'a str>) -> NewerKeys<'a>;

    /// Grows when a key is gone.
    fn generation(&self) -> u64;

    /// The issuer whose metadata led to the keys, where that is how they were found.
    fn issuer(&self) -> Option<&str> {
        None
    }
}

pub(crate) type NewerKeys<'a> =
    Pin<Box<dyn Future<Output = Result<Arc<KeySet>, VerifyError>> + Send + 'a>>;

/// The keys that a verifier was built with.
impl KeySource for Arc<KeySet> {
    fn keys(&self) -> Option<Arc<KeySet>> {
        Some(self.clone())
    }

    fn may_bring(&self, _: &str) -> Result<bool, VerifyError> {
        Ok(false)
    }

    fn doubt(&self) {}

    fn newer<'a>(&'a self, _: Option<&'a str>) -> NewerKeys<'a> {
        Box::pin(std::future::ready(Ok(self.clone())))
    }

    fn generation(&self) -> u64 {
        0
    }
}
