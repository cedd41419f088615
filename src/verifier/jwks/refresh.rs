//! The task that keeps keys fresh.

use std::sync::Arc;

use tokio::time::{Instant, timeout};

use crate::fetch::{ErasedFetch, IssuerUrl};
use crate::panics::caught;
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
        let fetched = caught(once(&location, &*fetch, &mut document));
        let fetched = match timeout(shared.times.timeout, fetched).await {
            Ok(fetched) => fetched.unwrap_or(Err(LoadError::Panic)),
            Err(_) => Err(LoadError::Timeout),
        };
        let next_at = match fetched {
            Ok(loaded) => shared.publish(loaded),
            Err(error) => shared.keep(&error),
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
