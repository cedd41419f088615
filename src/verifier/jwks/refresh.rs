//! The task that keeps keys fresh.

use std::sync::Arc;

use tokio::time::Instant;

use crate::fetch::{ErasedFetch, IssuerUrl};
use crate::panics::caught;
use crate::verifier::jwks::discovery::{LoadError, Loaded, Location, load};
use crate::verifier::jwks::shared::{Shared, Times};

/// Fetches for ever. Every fetch happens here, so that there is never more than one.
pub(super) async fn keep_fresh(
    shared: Arc<Shared>,
    location: Location,
    fetch: Arc<dyn ErasedFetch>,
) {
    let _ending = Ending(shared.clone());
    let mut document = None;
    loop {
        let fetched = caught(once(&location, &*fetch, &mut document, &shared.times)).await;
        let fetched = fetched.unwrap_or(Err(LoadError::Panic));
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

/// Where the document was found, and when.
type Found = (IssuerUrl, Instant);

/// One fetch of the document, which is looked for anew when it was not where it had been, and now and
/// then in any case: it may have moved and left another one behind.
async fn once(
    location: &Location,
    fetch: &dyn ErasedFetch,
    document: &mut Option<Found>,
    times: &Times,
) -> Result<Loaded, LoadError> {
    let (url, since) = match document.take() {
        Some((url, since)) if since.elapsed() < times.longest => (url, since),
        known => match (location.document(fetch, times.timeout).await, known) {
            (Ok(url), _) => (url, Instant::now()),
            (Err(_), Some(known)) => known,
            (Err(error), None) => return Err(error),
        },
    };
    let loaded = load(fetch, &url, times.timeout).await?;
    *document = Some((url, since));
    Ok(loaded)
}
