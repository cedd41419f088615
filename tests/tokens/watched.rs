//! A store in memory that can be counted, held up and broken.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::SystemTime;

use tokio::sync::Semaphore;
use tower_gate::store::memory::MemoryTokenStore;
use tower_gate::store::{
    Replacement, StoreError, TokenDigest, TokenFilter, TokenQuery, TokenRecord, TokenStore,
};

/// Clones are the same store.
#[derive(Clone, Debug)]
pub(crate) struct Watched(Arc<State>);

#[derive(Debug)]
struct State {
    inner: MemoryTokenStore,
    finds: AtomicUsize,
    touches: AtomicUsize,
    broken: AtomicBool,
    /// One permit for each answer that may leave.
    answers: Semaphore,
}

impl Watched {
    pub(crate) fn new() -> Self {
        Self(Arc::new(State {
            inner: MemoryTokenStore::new(),
            finds: AtomicUsize::new(0),
            touches: AtomicUsize::new(0),
            broken: AtomicBool::new(false),
            answers: Semaphore::new(1_000_000),
        }))
    }

    /// How often it was asked for a token.
    pub(crate) fn finds(&self) -> usize {
        self.0.finds.load(Ordering::SeqCst)
    }

    /// How often it was told when tokens were used.
    pub(crate) fn touches(&self) -> usize {
        self.0.touches.load(Ordering::SeqCst)
    }

    /// It has done what it is asked for, and does not say so.
    pub(crate) fn hold(&self) {
        self.0.answers.forget_permits(usize::MAX);
    }

    pub(crate) fn release(&self) {
        self.0.answers.add_permits(1_000_000);
    }

    pub(crate) fn set_broken(&self, broken: bool) {
        self.0.broken.store(broken, Ordering::SeqCst);
    }

    fn inner(&self) -> Result<&MemoryTokenStore, StoreError> {
        match self.0.broken.load(Ordering::SeqCst) {
            true => Err(StoreError::new("broken by the test")),
            false => Ok(&self.0.inner),
        }
    }
}

impl TokenStore for Watched {
    async fn insert(&self, record: &TokenRecord) -> Result<(), StoreError> {
        self.inner()?.insert(record).await
    }

    async fn find(&self, digests: &[TokenDigest]) -> Result<Option<TokenRecord>, StoreError> {
        self.0.finds.fetch_add(1, Ordering::SeqCst);
        let found = self.inner()?.find(digests).await;
        self.0.answers.acquire().await.unwrap().forget();
        found
    }

    async fn describe(&self, id: &str) -> Result<Option<TokenRecord>, StoreError> {
        self.inner()?.describe(id).await
    }

    async fn list(&self, query: &TokenQuery) -> Result<Vec<TokenRecord>, StoreError> {
        self.inner()?.list(query).await
    }

    async fn replace(&self, replacement: &Replacement) -> Result<bool, StoreError> {
        let replaced = self.inner()?.replace(replacement).await;
        self.0.answers.acquire().await.unwrap().forget();
        replaced
    }

    async fn revoke(&self, which: &TokenFilter, at: SystemTime) -> Result<u64, StoreError> {
        self.inner()?.revoke(which, at).await
    }

    async fn set_enabled(&self, id: &str, enabled: bool) -> Result<bool, StoreError> {
        self.inner()?.set_enabled(id, enabled).await
    }

    async fn expire(&self, id: &str, at: SystemTime) -> Result<bool, StoreError> {
        self.inner()?.expire(id, at).await
    }

    async fn purge(&self, before: SystemTime, most: usize) -> Result<u64, StoreError> {
        self.inner()?.purge(before, most).await
    }

    async fn touch(&self, used: &[(String, SystemTime)]) -> Result<(), StoreError> {
        self.0.touches.fetch_add(1, Ordering::SeqCst);
        self.inner()?.touch(used).await
    }
}
