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
    // `try_verify` stays as it is: it would verify good tokens twice, for an answer that has to
    // wait for the value.
    async fn verify(&self, request: &VerifyRequest) -> Result<Principal, VerifyError> {
        let principal = self.inner.verify(request).await?;
        match (self.load)(principal.clone()).await {
            Ok(value) => Ok(principal.with_value(value)),
            Err(error) => Err(error.with_principal(principal)),
        }
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
