//! Keys that an issuer publishes, fetched and kept fresh.
//!
//! [`Jwks`] reads a JWKS document (RFC 7517 §5), named or found by discovery (OpenID Connect
//! Discovery §4, RFC 8414 §3), in a task of its own. Verifiers read the keys without a lock and
//! without waiting.
//!
//! ```no_run
//! use tower_gate::AuthenticateLayer;
//! use tower_gate::fetch::ReqwestFetch;
//! use tower_gate::verifier::CachedVerifier;
//! use tower_gate::verifier::jwks::Jwks;
//! use tower_gate::verifier::jwt::JwtVerifier;
//!
//! # async fn serve() -> Result<(), Box<dyn std::error::Error>> {
//! let jwks = Jwks::discover("https://issuer.example", ReqwestFetch::new()?)?.start()?;
//! let verifier = JwtVerifier::builder()
//!     .issuer("https://issuer.example")
//!     .audience("https://api.example")
//!     .with_jwks(&jwks)
//!     .build()?;
//! let layer = AuthenticateLayer::new(CachedVerifier::new(verifier));
//! # let _ = layer;
//! # Ok(())
//! # }
//! ```
//!
//! A named document, with other times; and a start that waits for the first keys:
//!
//! ```no_run
//! use std::time::Duration;
//! use tower_gate::fetch::ReqwestFetch;
//! use tower_gate::verifier::jwks::Jwks;
//!
//! # async fn serve() -> Result<(), Box<dyn std::error::Error>> {
//! let jwks = Jwks::at("https://issuer.example/keys", ReqwestFetch::new()?)?
//!     .with_refresh(Duration::from_secs(60), Duration::from_secs(300))
//!     .with_max_stale(Duration::from_secs(600))
//!     .start()?;
//! jwks.ready().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # When keys change
//!
//! | event | what happens | within |
//! |---|---|---|
//! | time passes | the document is fetched again ahead of its end: `Cache-Control: max-age` less `Age`, at least one minute and at most ten | 10 minutes |
//! | a token names an unknown key | one fetch for all who wait; the token is then checked again | the fetch |
//! | … and the issuer is slow | at most 16 384 requests wait, for at most 256 names of keys, each as long as one address may take; whatever is more gets 503 with `Retry-After` at once, never 401 | 5 seconds |
//! | … less than 30 seconds after such a fetch | 503 with `Retry-After`, never 401: nobody has looked for the key yet. A fetch follows as soon as they are over | 30 seconds |
//! | … which that fetch has not found | 401, and no fetch, for 30 seconds, then 60, then always 120 | 2 minutes |
//! | a signature is not that of its key, or of another algorithm, and the key may have been replaced under its name | the token is refused, and a fetch follows, a minute after the last one at the earliest | 1 minute |
//! | the document moves, and discovery says so | it is asked again every ten minutes | 20 minutes |
//! | the metadata names another issuer, or is broken or gone | nothing is fetched, and the last good keys stay for an hour more; it is asked again after 1, 2, 4 … 60 seconds | |
//! | the metadata is out of reach | the document is fetched from where it was for an hour more, with a warning in the log; then it is as if the issuer were down | |
//! | a key is gone from the document | its tokens are refused, remembered ones included | 10 minutes |
//! | the issuer is down, or sends what is no set of keys | the last good keys stay for an hour more; it is asked again after 1, 2, 4 … 60 seconds | |
//! | no keys have come yet, or they are too old | 503 with `Retry-After`, never 401 | |
//! | … and the first fetch is under way | at most 256 requests wait for it, each as long as one address may take | 5 seconds |
//!
//! So unknown key names cause two fetches a minute beside the regular ones, whoever sends them and
//! however many. Random ones make the tokens of a new key wait for no longer than 30 seconds, and never
//! read 401; one who guesses the name of a key before the issuer publishes it keeps it out for no
//! longer than two minutes.
//!
//! # Security
//!
//! Only the configured addresses are asked, and the one that the issuer's metadata names, over https
//! (plain http towards the loopback interface alone); redirects are not followed. Metadata must name
//! the configured issuer byte for byte, or nothing of it is used. At most 256 KiB and 64 keys are
//! read; each key is parsed by itself, so that one that is broken, symmetric, private, weak or meant
//! for encryption is left out and the others work.

mod builder;
mod discovery;
mod missing;
mod refresh;
mod shared;
mod waiting;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;

use crate::fetch::Fetch;
use crate::verifier::VerifyError;
use crate::verifier::jwks::shared::Shared;
use crate::verifier::jwt::KeySource;

pub use self::builder::{InvalidJwks, JwksBuilder};

/// The published keys of one issuer; see the [module](crate::verifier::jwks).
///
/// Clones share the keys. The task that fetches them ends with the last clone and the last verifier
/// that uses it. When the runtime that it was started in ends before them, they have no keys any
/// more and answer 503.
#[derive(Clone)]
pub struct Jwks {
    shared: Arc<Shared>,
    /// Whose they are, where they were discovered.
    issuer: Option<Arc<str>>,
    /// Held, never read: with the last holder it ends.
    _task: Arc<Task>,
}

/// Ends the task with its last owner.
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Jwks {
    /// Keys from the document at this address, for a verifier of any issuer.
    ///
    /// # Errors
    ///
    /// When the address is not https, or http towards the loopback interface.
    pub fn at(url: &str, fetch: impl Fetch) -> Result<JwksBuilder, InvalidJwks> {
        JwksBuilder::at(url, fetch)
    }

    /// Keys of this issuer, wherever its metadata says: `.well-known/openid-configuration`, inserted
    /// before the issuer's path and then appended to it, and
    /// `.well-known/oauth-authorization-server` (RFC 8414 §3, §5).
    ///
    /// # Errors
    ///
    /// When the issuer is no https URL, or http one of the loopback interface, without a query.
    pub fn discover(issuer: &str, fetch: impl Fetch) -> Result<JwksBuilder, InvalidJwks> {
        JwksBuilder::discover(issuer, fetch)
    }

    /// Keys of this issuer, wherever the metadata at this address says.
    ///
    /// The metadata that Entra ID has for all tenants names
    /// `https://login.microsoftonline.com/{tenantid}/v2.0`: give it as the issuer so, and the tenant's
    /// own to the verifier.
    ///
    /// # Errors
    ///
    /// As [`Jwks::discover`], of either address.
    pub fn discover_at(
        metadata_url: &str,
        issuer: &str,
        fetch: impl Fetch,
    ) -> Result<JwksBuilder, InvalidJwks> {
        JwksBuilder::discover_at(metadata_url, issuer, fetch)
    }

    /// Waits for the first fetch, for programs that would rather not start without keys. Without
    /// it, requests are refused with 503 until keys have come.
    ///
    /// # Errors
    ///
    /// When the fetch failed; the cause says why. It is tried again all the same.
    pub async fn ready(&self) -> Result<(), VerifyError> {
        self.shared.first().await
    }

    /// How many fetches of the document have begun.
    #[must_use]
    pub fn fetches(&self) -> u64 {
        self.shared.fetches()
    }

    /// How many of the latest fetches failed in a row; zero while all is well.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.shared.failures()
    }

    /// How old the keys are; `None` before any have come.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        self.shared.age()
    }

    pub(crate) fn source(&self) -> Arc<dyn KeySource> {
        Arc::new(self.clone())
    }
}

impl fmt::Debug for Jwks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jwks")
            .field("fetches", &self.fetches())
            .field("failures", &self.failures())
            .finish_non_exhaustive()
    }
}
