use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use tokio::sync::Notify;

use crate::revocation::Revocation;
use crate::store::StoreError;

/// Keeps revocations for all nodes, and tells each what is new.
///
/// Nodes do not ask it about tokens: each holds all revocations in memory
/// ([`Revocations`](crate::verifier::revocable::Revocations)), loads what is new about once a second
/// with [`revoked_since`](Self::revoked_since), and at once when [`watch`](Self::watch) says that
/// there is something.
///
/// **Contract.** Once [`revoke`](Self::revoke) has returned, every `revoked_since` that begins
/// afterwards, on any node, has the revocations behind the position that it had before. Positions
/// grow: what is added later has a higher one, also where two nodes write at the same time. So a
/// position is given out only while nobody can still add something at a lower one. Position zero is
/// before everything. A store in whose place another came, which has not counted as far, answers with
/// the position that it has come to, and nodes load everything anew: what it adds may be below theirs.
/// Whoever cannot tell loads everything once a minute. A revocation is kept until its
/// [`end`](Revocation::end), by the store's own clock where it has one; the same one twice may be
/// kept once. Revocations of one subject do not replace each other.
///
/// **Errors.** A [`StoreError`] means that nothing is known. From `revoke`, it says that other nodes
/// may not learn of the revocation; the node itself enforces it all the same. From `revoked_since`,
/// that what is held is not known to be all; after a while the node then refuses requests with 503.
/// A revocation that cannot be read is an error too, never left out.
///
/// **Concurrency.** Called from many tasks at once, but for `watch`, which each node calls from one:
/// everything is loaded anew while what is new is loaded, too. A future may be dropped at any await;
/// the revocation may then be kept or not.
///
/// **Security.** A revocation that is forgotten before its end lets revoked tokens in, on nodes that
/// start afterwards. Whoever can write to the store can keep everybody out; who can read it learns
/// names of subjects, and no tokens.
///
/// A store over a log that only grows:
///
/// ```
/// use std::sync::{Arc, Mutex};
/// use tower_gate::Revocation;
/// use tower_gate::store::{
///     News, RevocationPage, RevocationStore, RevokeRequest, StoreError,
/// };
///
/// #[derive(Clone, Default)]
/// struct LogStore {
///     lines: Arc<Mutex<Vec<String>>>,
/// }
///
/// impl RevocationStore for LogStore {
///     async fn revoke(&self, request: &RevokeRequest) -> Result<(), StoreError> {
///         let new = request.revocations.iter().map(serde_json::to_string);
///         let new: Result<Vec<_>, _> = new.collect();
///         self.lines.lock().unwrap().extend(new.map_err(StoreError::new)?);
///         Ok(())
///     }
///
///     async fn revoked_since(&self, position: u64) -> Result<RevocationPage, StoreError> {
///         let lines = self.lines.lock().unwrap();
///         let new = lines.iter().skip(position as usize);
///         let new: Result<Vec<Revocation>, _> = new.map(|line| serde_json::from_str(line)).collect();
///         let is_last = true;
///         Ok(RevocationPage::new(new.map_err(StoreError::new)?, lines.len() as u64, is_last))
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), StoreError> {
/// # let store = LogStore::default();
/// let lost = Revocation::token("https://issuer.example", "9f2c");
/// store.revoke(&RevokeRequest::new(lost.clone(), std::time::SystemTime::now())).await?;
/// let page = store.revoked_since(0).await?;
/// assert_eq!(page.revocations, [lost]);
/// assert!(store.revoked_since(page.position).await?.revocations.is_empty());
/// # Ok(())
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a `RevocationStore`",
    note = "use `MemoryRevocations`, `RedisRevocations` or `PostgresRevocations`, or implement \
            `RevocationStore`"
)]
pub trait RevocationStore: Send + Sync + 'static {
    /// Keeps revocations until their ends, and tells all who watch. When it fails, it may have kept
    /// none of them, some or all.
    fn revoke(
        &self,
        request: &RevokeRequest,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// The revocations behind this position, or the first of them; zero for all.
    fn revoked_since(
        &self,
        position: u64,
    ) -> impl Future<Output = Result<RevocationPage, StoreError>> + Send;

    /// Says that there are [`News`] whenever there may be, and once as soon as it would not miss any
    /// more; returns only when it cannot go on. It is called again after a wait that grows, and what
    /// it then says first has everything loaded anew: another server may have taken over.
    ///
    /// By itself it says nothing, and news come with the next regular load.
    fn watch(&self, news: News) -> impl Future<Output = Result<(), StoreError>> + Send {
        drop(news);
        pending()
    }
}

impl<S: RevocationStore + ?Sized> RevocationStore for Arc<S> {
    async fn revoke(&self, request: &RevokeRequest) -> Result<(), StoreError> {
        (**self).revoke(request).await
    }

    async fn revoked_since(&self, position: u64) -> Result<RevocationPage, StoreError> {
        (**self).revoked_since(position).await
    }

    async fn watch(&self, news: News) -> Result<(), StoreError> {
        (**self).watch(news).await
    }
}

/// What a [`RevocationStore`] is told to keep.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RevokeRequest {
    /// Which tokens: one revocation or more, at most a thousand.
    pub revocations: Vec<Revocation>,
    /// The time, for stores without a clock of their own: what has ended by then may go.
    pub now: SystemTime,
}

impl RevokeRequest {
    /// A request to keep this revocation.
    #[must_use]
    pub fn new(revocation: Revocation, now: SystemTime) -> Self {
        Self::of(vec![revocation], now)
    }

    /// A request to keep all of these.
    #[must_use]
    pub fn of(revocations: Vec<Revocation>, now: SystemTime) -> Self {
        Self { revocations, now }
    }
}

/// Some revocations of a store, in the order in which they came.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RevocationPage {
    /// The revocations.
    pub revocations: Vec<Revocation>,
    /// Where to go on: behind the last of them, or where nothing was behind before; a lower one where
    /// the store has not come so far, and counts anew.
    pub position: u64,
    /// Whether there are no more behind it.
    pub is_last: bool,
}

impl RevocationPage {
    /// These revocations, up to this position.
    #[must_use]
    pub fn new(revocations: Vec<Revocation>, position: u64, is_last: bool) -> Self {
        Self { revocations, position, is_last }
    }
}

/// Where a [`RevocationStore`] says that there may be new revocations. Clones reach the same node.
#[derive(Clone, Debug, Default)]
pub struct News(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    new: Notify,
    /// Whether the next that arrive are the first after a break.
    was_broken: AtomicBool,
    anew: Notify,
}

impl News {
    /// There may be new revocations. Said several times before anybody looks, it counts once.
    pub fn arrived(&self) {
        self.0.new.notify_one();
        if self.0.was_broken.swap(false, Ordering::Relaxed) {
            self.0.anew.notify_one();
        }
    }

    /// They come no more until they are watched again, perhaps from another server.
    pub(crate) fn broke(&self) {
        self.0.was_broken.store(true, Ordering::Relaxed);
    }

    /// Waits until there may be some, or returns at once if there were since it was last asked.
    pub(crate) async fn next(&self) {
        self.0.new.notified().await;
    }

    /// Waits until some arrive after a break, in the same way.
    pub(crate) async fn anew(&self) {
        self.0.anew.notified().await;
    }
}

type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// A store without its type, so that the verifiers around it have no further parameter.
pub(crate) trait ErasedRevocationStore: Send + Sync {
    fn revoke<'a>(&'a self, request: &'a RevokeRequest) -> Answer<'a, ()>;
    fn revoked_since(&self, position: u64) -> Answer<'_, RevocationPage>;
    fn watch(&self, news: News) -> Answer<'_, ()>;
}

impl<S: RevocationStore> ErasedRevocationStore for S {
    fn revoke<'a>(&'a self, request: &'a RevokeRequest) -> Answer<'a, ()> {
        Box::pin(RevocationStore::revoke(self, request))
    }

    fn revoked_since(&self, position: u64) -> Answer<'_, RevocationPage> {
        Box::pin(RevocationStore::revoked_since(self, position))
    }

    fn watch(&self, news: News) -> Answer<'_, ()> {
        Box::pin(RevocationStore::watch(self, news))
    }
}
