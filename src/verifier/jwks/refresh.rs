//! The task that keeps keys fresh.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use crate::fetch::{ErasedFetch, IssuerUrl};
use crate::panics::caught;
use crate::trace;
use crate::verifier::jwks::discovery::{LoadError, Loaded, Location, load};
use crate::verifier::jwks::shared::{Shared, Times};

/// Fetches for ever. Every fetch happens here, so that there is never more than one.
pub(super) async fn keep_fresh(
    shared: Arc<Shared>,
    location: Location,
    fetch: Arc<dyn ErasedFetch>,
) {
    let _ending = Ending(shared.clone());
    let (mut document, mut before) = (None, Bytes::new());
    loop {
        let fetched =
            caught(once(&location, &*fetch, &mut document, &mut before, &shared.times)).await;
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

/// Where the document was found.
struct Found {
    url: IssuerUrl,
    /// When the metadata last said so.
    since: Instant,
    /// The operator knows that the metadata cannot be reached.
    is_told: bool,
}

/// One fetch of the document, which is looked for anew when it was not where it had been, and now and
/// then in any case: it may have moved and left another one behind.
async fn once(
    location: &Location,
    fetch: &dyn ErasedFetch,
    document: &mut Option<Found>,
    before: &mut Bytes,
    times: &Times,
) -> Result<Loaded, LoadError> {
    let found = match document.take() {
        Some(found) if found.since.elapsed() < times.longest => found,
        known => match (location.document(fetch, times.timeout).await, known) {
            (Ok(url), _) => Found { url, since: Instant::now(), is_told: false },
            (Err(error), Some(known)) if error.is_outage() && known.may_stand_in(times) => {
                if !known.is_told {
                    trace::metadata_not_fetched(&error);
                }
                Found { is_told: true, ..known }
            }
            (Err(error), _) => return Err(error),
        },
    };
    let loaded = load(fetch, &found.url, times.timeout, before).await?;
    *document = Some(found);
    Ok(loaded)
}

impl Found {
    /// Whether the document may be where it was although nobody says so any more (JWT-74).
    fn may_stand_in(&self, times: &Times) -> bool {
        self.since.elapsed() < times.longest + times.max_stale
    }
}
