use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use tower_layer::Layer;

use crate::client_ip::{ClientIp, Network};
use crate::clock::{Clock, SystemClock};
use crate::failure_limit::FailureLimit;
use crate::failure_limit::failures::{Failures, Rule};
use crate::partition::{Caller, Partition, PartitionHasher, PartitionKey, UnknownCaller};
use crate::quota::Quota;
use crate::rejection::{RefusalStyle, Rejection, RequestHead, Responder};

/// Layer that applies [`FailureLimit`]; see the [module](crate::failure_limit).
#[derive(Clone)]
#[must_use = "a layer does nothing until it is applied"]
pub struct FailureLimitLayer {
    config: Arc<Config>,
}

/// What every request's limit needs.
#[derive(Clone)]
pub(super) struct Config {
    pub(super) failures: Arc<Failures>,
    pub(super) rule: Rule,
    pub(super) name: Arc<str>,
    clock: Arc<dyn Clock>,
    /// `None` refuses in the style that the request carries.
    style: Option<Arc<RefusalStyle>>,
    is_failure: Arc<dyn Fn(&Rejection) -> bool + Send + Sync>,
    client_ip: ClientIp,
    exempt: Arc<[Network]>,
    partition: Partition,
    /// Whom a request claims to come from; `None` asks for nobody.
    client: Option<Arc<ClientOf>>,
}

type ClientOf = dyn Fn(&RequestHead<'_>) -> Option<String> + Send + Sync;

impl FailureLimitLayer {
    /// Bans an address for so long once it has used up its quota of failures: with
    /// `Quota::per_minute(10)`, at the tenth in a row. One comes back every six seconds then, so that
    /// it takes more of them where they are farther apart, and those that are six seconds apart never
    /// bring a ban.
    ///
    /// # Panics
    ///
    /// When the ban has no length.
    pub fn new(failures: Quota, ban: Duration) -> Self {
        assert!(!ban.is_zero(), "a ban must last for a while");
        let ban = nanos(ban);
        Self {
            config: Arc::new(Config {
                failures: Arc::new(Failures::new(100_000)),
                rule: Rule { quota: failures, ban, longest_ban: ban, max_waiting: 1000 },
                name: "failures".into(),
                clock: Arc::new(SystemClock),
                style: None,
                is_failure: Arc::new(Rejection::is_guess),
                client_ip: ClientIp::default(),
                exempt: Arc::default(),
                partition: Partition::address(),
                client: None,
            }),
        }
    }

    /// Makes each ban twice as long as the one before, up to this length. Bans are forgotten once an
    /// address has been in good standing for as long as the longest. Default: all have one length.
    pub fn with_escalation(mut self, longest: Duration) -> Self {
        let rule = &mut self.config_mut().rule;
        rule.longest_ban = nanos(longest).max(rule.ban);
        self
    }

    /// What counts as a failure. Default: refusals with 401 `invalid_token` of tokens that are not
    /// known to be authentic. Neither a request without a token nor an expired, revoked or
    /// misdirected token counts: those are mistakes, and a ban would not help against them.
    pub fn with_failures<F>(mut self, is_failure: F) -> Self
    where
        F: Fn(&Rejection) -> bool + Send + Sync + 'static,
    {
        self.config_mut().is_failure = Arc::new(is_failure);
        self
    }

    /// Addresses that are never banned, such as those of a gateway that many callers share and that
    /// does not say whom it speaks for.
    pub fn with_exempt(mut self, networks: impl IntoIterator<Item = Network>) -> Self {
        self.config_mut().exempt = networks.into_iter().collect();
        self
    }

    /// How many addresses are kept in mind, rounded up to a multiple of 256; none of them takes more
    /// than 200 bytes. Beyond that, those whose bans end first are forgotten. Clones of the layer
    /// made before share nothing with it. Default: 100 000.
    pub fn with_max_addresses(mut self, max: usize) -> Self {
        self.config_mut().failures = Arc::new(Failures::new(max));
        self
    }

    /// How many requests with credentials may wait for others from their address; further ones are
    /// refused with 429 `rate_limited` and `Retry-After`. Default: 1000.
    pub fn with_max_waiting(mut self, max: usize) -> Self {
        self.config_mut().rule.max_waiting = max;
        self
    }

    /// How many bits of an address tell hosts apart. Default: 32 of IPv4 and 64 of IPv6.
    ///
    /// # Panics
    ///
    /// When an address does not have that many.
    pub fn with_prefixes(mut self, v4: u8, v6: u8) -> Self {
        self.config_mut().partition = Partition::address().with_prefixes(v4, v6);
        self
    }

    /// Counts apart the failures of each client that requests of an address claim to come from. A ban
    /// is one of that client behind that address: strangers elsewhere lock out nobody whom they name.
    ///
    /// What is claimed is not verified, and who makes up a client for each guess has a quota for
    /// each: put this layer inside of one that counts addresses, or behind a gateway that checks who
    /// its clients are. Requests for which nothing is found are counted by address. Default: all are.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_gate::{FailureLimitLayer, Quota};
    ///
    /// let ban = Duration::from_secs(15 * 60);
    /// let addresses = FailureLimitLayer::new(Quota::per_minute(100), ban);
    /// let clients = FailureLimitLayer::new(Quota::per_minute(10), ban)
    ///     .with_name("client-failures")
    ///     .with_client(|request| {
    ///         let client = request.headers.get("x-client-id")?;
    ///         Some(client.to_str().ok()?.to_owned())
    ///     });
    /// let layers = tower::ServiceBuilder::new().layer(addresses).layer(clients);
    /// # let _ = layers;
    /// ```
    pub fn with_client<F>(mut self, find: F) -> Self
    where
        F: Fn(&RequestHead<'_>) -> Option<String> + Send + Sync + 'static,
    {
        self.config_mut().client = Some(Arc::new(find));
        self
    }

    /// The name of the policy in audit events and in refusals. Default: `failures`.
    pub fn with_name(mut self, name: &str) -> Self {
        self.config_mut().name = name.into();
        self
    }

    /// How the client's address is learned. Default: the [`PeerAddr`](crate::PeerAddr) extension.
    pub fn with_client_ip(mut self, client_ip: ClientIp) -> Self {
        self.config_mut().client_ip = client_ip;
        self
    }

    /// Who writes the bodies of this layer's refusals. Default: problem documents.
    pub fn with_responder(mut self, responder: impl Responder) -> Self {
        let responder: Option<Arc<dyn Responder>> = Some(Arc::new(responder));
        self.config_mut().style =
            Some(Arc::new(RefusalStyle { responder, ..RefusalStyle::default() }));
        self
    }

    /// Where the time comes from. Default: [`SystemClock`].
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.config_mut().clock = Arc::new(clock);
        self
    }

    /// What the services made so far share stays as it is.
    fn config_mut(&mut self) -> &mut Config {
        Arc::make_mut(&mut self.config)
    }
}

impl<S> Layer<S> for FailureLimitLayer {
    type Service = FailureLimit<S>;

    fn layer(&self, inner: S) -> FailureLimit<S> {
        FailureLimit::new(inner, self.config.clone())
    }
}

impl fmt::Debug for FailureLimitLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FailureLimitLayer")
            .field("name", &self.config.name)
            .field("exempt", &self.config.exempt)
            .finish_non_exhaustive()
    }
}

impl Config {
    pub(super) fn now(&self) -> u64 {
        nanos(self.clock.monotonic())
    }

    /// Whose failures the request's would be; `None` for an address that is exempt.
    pub(super) fn key<B>(&self, request: &Request<B>) -> Result<Option<PartitionKey>, Rejection> {
        let caller = Caller::of(request.headers(), request.extensions(), &self.client_ip);
        if caller.authenticated.is_some() {
            return Err(Rejection::layer_missing(
                "FailureLimitLayer sees no failures inside of an AuthenticateLayer: put it outside",
            ));
        }
        if !self.exempt.is_empty() {
            let found = self.client_ip.find(request.headers(), request.extensions());
            let client = found.ok_or(UnknownCaller::Address)?.client;
            if self.exempt.iter().any(|network| network.contains(client)) {
                return Ok(None);
            }
        }
        let addresses = PartitionHasher::default();
        let claimed = self.client.as_ref().and_then(|find| find(&RequestHead::from(request)));
        let hasher = match claimed {
            Some(client) => addresses.with(["client", &*client]),
            None => addresses,
        };
        Ok(Some(self.partition.key(hasher, &caller)?))
    }

    pub(super) fn is_failure(&self, rejection: &Rejection) -> bool {
        (self.is_failure)(rejection)
    }

    pub(super) fn refuse<B>(
        &self,
        rejection: Rejection,
        request: &Request<B>,
    ) -> Box<Response<Bytes>> {
        match &self.style {
            Some(style) => style.respond(rejection, request),
            None => RefusalStyle::refuse(rejection, request),
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
