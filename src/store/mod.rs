//! Where state lives that outlasts a request.
//!
//! [`MemoryStore`](memory::MemoryStore) keeps the state of rate limits in the process;
//! [`RateLimitStore`] is the port for anything else.

pub mod memory;

use std::error::Error as StdError;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::quota::{Decision, PartitionKey, Quota};
use crate::rejection::{Rejection, RejectionKind};

/// Keeps what rate limits need to remember, and decides.
///
/// **Contract.** One atomic step for each call: of all calls for a key, the units allowed in any
/// interval never exceed `burst + interval / period · units` of the quota, whatever runs at the
/// same time. What is limited takes nothing. [`Quota`]'s documentation is the definition; a store
/// with a clock of its own uses that instead of [`now`](TakeRequest::now).
///
/// Where the state is at hand, [`try_take`](Self::try_take) answers without waiting; otherwise it
/// says `None` and [`take`](Self::take) is awaited.
///
/// **Errors.** A [`StoreError`] means that nothing is known: the layer refuses with 503, never with
/// 429 and never with a pass.
///
/// **Concurrency.** Called from many tasks at once. The future may be dropped at any await; the
/// units may then be taken or not.
///
/// **Security.** A store that forgets a key gives its caller a full burst again, so it must not
/// forget one that is in debt while it could forget another.
///
/// ```
/// use tower_gate::store::{RateLimitStore, StoreError, TakeRequest};
/// use tower_gate::Decision;
///
/// /// Asks a quota server.
/// struct RemoteStore {
///     server: Server,
/// }
///
/// impl RateLimitStore for RemoteStore {
///     async fn take(&self, request: &TakeRequest) -> Result<Decision, StoreError> {
///         let key = request.key.to_u128();
///         self.server.decide(key, &request.quota, request.cost).await.map_err(StoreError::new)
///     }
/// }
/// # struct Server;
/// # impl Server {
/// #     async fn decide(
/// #         &self, _: u128, _: &tower_gate::Quota, _: u32,
/// #     ) -> Result<Decision, std::io::Error> { Err(std::io::ErrorKind::Other.into()) }
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a `RateLimitStore`",
    note = "use `MemoryStore`, or implement `RateLimitStore`"
)]
pub trait RateLimitStore: Send + Sync + 'static {
    /// Answers at once where it can.
    fn try_take(&self, request: &TakeRequest) -> Option<Result<Decision, StoreError>> {
        let _ = request;
        None
    }

    /// Answers, after waiting for whatever keeps the state.
    fn take(
        &self,
        request: &TakeRequest,
    ) -> impl Future<Output = Result<Decision, StoreError>> + Send;
}

impl<S: RateLimitStore + ?Sized> RateLimitStore for Arc<S> {
    fn try_take(&self, request: &TakeRequest) -> Option<Result<Decision, StoreError>> {
        (**self).try_take(request)
    }

    async fn take(&self, request: &TakeRequest) -> Result<Decision, StoreError> {
        (**self).take(request).await
    }
}

/// What a [`RateLimitStore`] is asked.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct TakeRequest {
    /// Whose units.
    pub key: PartitionKey,
    /// How many there are.
    pub quota: Quota,
    /// How many to take; zero only looks.
    pub cost: u32,
    /// The time on a clock that never goes back.
    pub now: Duration,
}

impl TakeRequest {
    /// A request for this many units.
    #[must_use]
    pub fn new(key: PartitionKey, quota: Quota, cost: u32, now: Duration) -> Self {
        Self { key, quota, cost, now }
    }
}

/// A store cannot answer.
#[derive(Debug)]
pub struct StoreError(Box<dyn StdError + Send + Sync>);

impl StoreError {
    /// How long a client is told to wait out an outage.
    const RETRY_AFTER: Duration = Duration::from_secs(1);

    /// The store failed for this reason, which is logged and not shown to clients.
    pub fn new(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self(source.into())
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the store cannot answer")
    }
}

impl StdError for StoreError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.0)
    }
}

impl From<StoreError> for Rejection {
    fn from(_: StoreError) -> Self {
        Self::new(RejectionKind::Unavailable)
            .with_reason("store_unavailable")
            .with_retry_after(StoreError::RETRY_AFTER)
    }
}

/// The null store, which has units for everybody.
#[derive(Clone, Copy, Debug, Default)]
pub struct UnlimitedStore;

impl RateLimitStore for UnlimitedStore {
    fn try_take(&self, request: &TakeRequest) -> Option<Result<Decision, StoreError>> {
        let (decision, _) = request.quota.decide(0, 0, 0);
        Some(Ok(decision))
    }

    async fn take(&self, request: &TakeRequest) -> Result<Decision, StoreError> {
        let (decision, _) = request.quota.decide(0, 0, 0);
        Ok(decision)
    }
}

/// The answer of a store that has to wait, which may outlive the request that asked.
pub(crate) type Taking = Pin<Box<dyn Future<Output = Result<Decision, StoreError>> + Send>>;

/// A store without its type, so that a layer has no type parameter.
pub(crate) trait ErasedStore: Send + Sync {
    fn try_take(&self, request: &TakeRequest) -> Option<Result<Decision, StoreError>>;
    fn take(self: Arc<Self>, request: TakeRequest) -> Taking;
}

impl<S: RateLimitStore> ErasedStore for S {
    fn try_take(&self, request: &TakeRequest) -> Option<Result<Decision, StoreError>> {
        RateLimitStore::try_take(self, request)
    }

    fn take(self: Arc<Self>, request: TakeRequest) -> Taking {
        Box::pin(async move { RateLimitStore::take(&*self, &request).await })
    }
}
