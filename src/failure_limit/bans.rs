use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::failure_limit::layer::Config;

/// The bans of a [`FailureLimitLayer`](crate::FailureLimitLayer) in this process, for whoever operates
/// it. Clones of the layer have them in common.
///
/// Addresses are kept as hashes, so that there is no list of those that are banned: audit events with
/// the reason `banned` name them.
///
/// ```
/// use std::time::Duration;
/// use tower_gate::{FailureLimitLayer, Quota};
///
/// let layer = FailureLimitLayer::new(Quota::per_minute(10), Duration::from_secs(900));
/// let bans = layer.bans();
/// let address = "203.0.113.7".parse()?;
/// assert_eq!(bans.left(address), None);
/// assert!(!bans.lift(address), "there was none");
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Clone)]
pub struct Bans {
    config: Arc<Config>,
    client: Option<Arc<str>>,
}

impl Bans {
    pub(super) fn new(config: Arc<Config>) -> Self {
        Self { config, client: None }
    }

    /// Those of a client, where the layer counts them [apart](crate::FailureLimitLayer::with_client).
    #[must_use]
    pub fn of_client(&self, client: &str) -> Self {
        Self { client: Some(client.into()), ..self.clone() }
    }

    /// How many bans there are now, of all clients. Looks at everything that is kept in mind.
    #[must_use]
    pub fn count(&self) -> usize {
        self.config.failures.bans(self.config.now())
    }

    /// How much longer this address is banned, or the network that stands for it; `None` where it is
    /// not.
    #[must_use]
    pub fn left(&self, address: IpAddr) -> Option<Duration> {
        let key = self.config.key_of(address, self.client.as_deref());
        self.config.failures.ban(key, self.config.now())
    }

    /// Forgets the ban of this address, those before it, and its failures. Answers whether it was
    /// banned.
    pub fn lift(&self, address: IpAddr) -> bool {
        let Self { config, client } = self;
        let key = config.key_of(address, client.as_deref());
        config.failures.lift(key, &config.rule, config.now())
    }
}

impl fmt::Debug for Bans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bans")
            .field("name", &self.config.name)
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}
