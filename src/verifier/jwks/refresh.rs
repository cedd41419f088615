//! The task that keeps keys fresh.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use tokio::time::{Instant, timeout};

use crate::fetch::{ErasedFetch, IssuerUrl};
use crate::verifier::jwks::discovery::{LoadError, Loaded, Location, load};
use crate::verifier::jwks::shared::Shared;

/// Fetches for ever. Every fetch happens here, so that there is never more than one.
pub(super) async fn keep_fresh(
    shared: Arc<Shared>,
    location: Location,
    fetch: Arc<dyn ErasedFetch>,
) {
    let _ending = Ending(shared.clone());
    let mut document = None;
    loop {
        let fetched = without_panic(once(&location, &*fetch, &mut document));
        let next_at = match timeout(shared.times.timeout, fetched).await {
            Ok(Ok(loaded)) => shared.publish(loaded),
            Ok(Err(error)) => shared.keep(&error),
            Err(_) => shared.keep(&LoadError::Timeout),
        };
        shared.due(next_at).await;
    }
}

/// Keys that nobody refreshes any more must not outlive their time: a runtime may end before the
/// verifiers do.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        let failures = self.0.failures().saturating_add(1);
        self.0.withdraw();
        let error = "the task that fetches keys has ended with its runtime";
        self.0.fail(error.to_owned(), failures, Instant::now());
    }
}

/// A panic of the fetcher is a fetch that failed.
async fn without_panic<F>(fetched: F) -> Result<Loaded, LoadError>
where
    F: Future<Output = Result<Loaded, LoadError>>,
{
    let mut fetched = pin!(fetched);
    poll_fn(|cx| {
        let polled = catch_unwind(AssertUnwindSafe(|| fetched.as_mut().poll(cx)));
        polled.unwrap_or(Poll::Ready(Err(LoadError::Panic)))
    })
    .await
}

/// One fetch of the document, which is looked for anew when it was not where it had been.
async fn once(
    location: &Location,
    fetch: &dyn ErasedFetch,
    document: &mut Option<IssuerUrl>,
) -> Result<Loaded, LoadError> {
    let url = match document.take() {
        Some(url) => url,
        None => location.document(fetch).await?,
    };
    let loaded = load(fetch, &url).await?;
    *document = Some(url);
    Ok(loaded)
}
