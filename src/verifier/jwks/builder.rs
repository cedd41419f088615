use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::runtime::Handle;

use crate::fetch::{ErasedFetch, Fetch, InvalidUrl, IssuerUrl};
use crate::verifier::jwks::discovery::Location;
use crate::verifier::jwks::refresh::keep_fresh;
use crate::verifier::jwks::shared::{Shared, Times};
use crate::verifier::jwks::{Jwks, Task};

/// Keys that are not fetched yet; see [`Jwks::at`] and [`Jwks::discover`].
#[must_use = "nothing is fetched until `start`"]
pub struct JwksBuilder {
    location: Location,
    fetch: Arc<dyn ErasedFetch>,
    times: Times,
}

/// Why keys cannot be fetched.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum InvalidJwks {
    /// An address that must not be asked.
    #[error(transparent)]
    Url(#[from] InvalidUrl),
    /// The task has nowhere to run.
    #[error("keys are kept fresh by a task: call `start` inside a tokio runtime")]
    NoRuntime,
    /// Times that cannot be kept.
    #[error(
        "the shortest refresh must be a second at least and no longer than the longest, the \
         cooldown a second at least, the timeout more than zero, and none longer than a day"
    )]
    Times,
}

impl JwksBuilder {
    pub(super) fn at(url: &str, fetch: impl Fetch) -> Result<Self, InvalidJwks> {
        Ok(Self::new(Location::Document(IssuerUrl::parse(url)?), fetch))
    }

    pub(super) fn discover(issuer: &str, fetch: impl Fetch) -> Result<Self, InvalidJwks> {
        Ok(Self::new(Location::discover(issuer)?, fetch))
    }

    pub(super) fn discover_at(
        metadata_url: &str,
        issuer: &str,
        fetch: impl Fetch,
    ) -> Result<Self, InvalidJwks> {
        Ok(Self::new(Location::discover_at(metadata_url, issuer)?, fetch))
    }

    fn new(location: Location, fetch: impl Fetch) -> Self {
        Self { location, fetch: Arc::new(fetch), times: Times::default() }
    }

    /// How long keys are used before they are fetched again: what `Cache-Control` says, less a tenth
    /// or two, within these bounds; the longest, where it says nothing. Default: one minute to ten.
    pub fn with_refresh(mut self, shortest: Duration, longest: Duration) -> Self {
        self.times.shortest = shortest;
        self.times.longest = longest;
        self
    }

    /// How long the last good keys are used beyond that while the issuer cannot be reached, or its
    /// metadata is wrong; and before that, how long they are fetched from where they were while only
    /// the metadata is out of reach. Default: one hour.
    pub fn with_max_stale(mut self, max_stale: Duration) -> Self {
        self.times.max_stale = max_stale;
        self
    }

    /// The shortest time between two fetches for keys that tokens name and nobody knows. Default:
    /// 30 seconds. Tokens that name one meanwhile are answered 503, with the rest of that time in
    /// `Retry-After`. A name that such a fetch did not find is not fetched for in that time, when it
    /// happens again in twice that, and from then on in four times that.
    pub fn with_cooldown(mut self, cooldown: Duration) -> Self {
        self.times.cooldown = cooldown;
        self
    }

    /// How long each address may take to answer. Default: 5 seconds. Discovery asks at up to three
    /// before the document's own, so that the first fetch may take four times as long; no request
    /// waits longer than once, or twice where the first keys lack the one that it names. The fetcher
    /// may have a shorter time of its own.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.times.timeout = timeout;
        self
    }

    /// Starts the task, which fetches the keys at once. It does not wait for them: an issuer that
    /// is down keeps no program from starting.
    ///
    /// # Errors
    ///
    /// [`InvalidJwks`] when it is called outside a tokio runtime, or with times that cannot be kept.
    pub fn start(self) -> Result<Jwks, InvalidJwks> {
        if !self.times.can_be_kept() {
            return Err(InvalidJwks::Times);
        }
        let runtime = Handle::try_current().map_err(|_| InvalidJwks::NoRuntime)?;
        let shared = Arc::new(Shared::new(self.times));
        let issuer = self.location.issuer().map(Arc::from);
        let task = runtime.spawn(keep_fresh(shared.clone(), self.location, self.fetch));
        Ok(Jwks { shared, issuer, _task: Arc::new(Task(task.abort_handle())) })
    }
}

impl fmt::Debug for JwksBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwksBuilder")
            .field("location", &self.location)
            .field("times", &self.times)
            .finish_non_exhaustive()
    }
}
