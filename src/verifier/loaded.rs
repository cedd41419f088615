use std::fmt;

use crate::principal::Principal;
use crate::verifier::{TokenVerifier, VerifyError, VerifyRequest};

/// A verifier that attaches what the application knows of a principal, such as its user; see
/// [`TokenVerifier::load`].
pub struct LoadedVerifier<V, F> {
    inner: V,
    load: F,
}

impl<V, F> LoadedVerifier<V, F> {
    pub(super) fn new(inner: V, load: F) -> Self {
        Self { inner, load }
    }
}

impl<V, F, Fut, T> TokenVerifier for LoadedVerifier<V, F>
where
    V: TokenVerifier,
    F: Fn(Principal) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<T, VerifyError>> + Send,
    T: Clone + Send + Sync + 'static,
{
    /// A refusal at once; loading takes its time.
    fn try_verify(&self, request: &VerifyRequest) -> Option<Result<Principal, VerifyError>> {
        self.inner.try_verify(request).filter(Result::is_err)
    }

    async fn verify(&self, request: &VerifyRequest) -> Result<Principal, VerifyError> {
        let principal = self.inner.verify(request).await?;
        let value = (self.load)(principal.clone()).await?;
        Ok(principal.with_value(value))
    }

    fn generation(&self) -> u64 {
        self.inner.generation()
    }
}

impl<V: fmt::Debug, F> fmt::Debug for LoadedVerifier<V, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadedVerifier").field("inner", &self.inner).finish_non_exhaustive()
    }
}
