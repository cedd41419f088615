use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{Request, Response};
use tower_layer::Layer;

use crate::client_ip::{ClientIp, Network};
use crate::clock::{Clock, SystemClock};
use crate::failure_limit::failures::{Failures, Rule};
use crate::failure_limit::{Bans, FailureLimit};
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
    pub(super) is_shadow: bool,
    clock: Arc<dyn Clock>,
    /// `None` refuses in the style that the request carries.
    style: Option<Arc<RefusalStyle>>,
    is_attempt: Arc<dyn Fn(&RequestHead<'_>) -> bool + Send + Sync>,
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
                is_shadow: false,
                clock: Arc::new(SystemClock),
                style: None,
                is_attempt: Arc::new(|request| request.headers.contains_key(AUTHORIZATION)),
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

    /// Which requests may turn out to be failures, by what they bring. Of these, no more are under way
    /// at once from one address than would bring a ban if all of them failed; the others wait, until
    /// one has been let in or answered ([`Attempt`](crate::failure_limit::Attempt)). A failure counts
    /// whether its request was said to be an attempt or not. Default: those with an `Authorization`
    /// header.
    ///
    /// Secrets elsewhere belong in it, and public routes do not, where nobody looks at what is sent: ten
    /// slow answers there would hold up all others behind an address.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use http::header::AUTHORIZATION;
    /// use tower_gate::{FailureLimitLayer, Quota};
    ///
    /// let layer = FailureLimitLayer::new(Quota::per_minute(10), Duration::from_secs(900))
    ///     .with_attempts(|request| match request.uri.path() {
    ///         "/login" => true,
    ///         path => !path.starts_with("/public/") && request.headers.contains_key(AUTHORIZATION),
    ///     });
    /// # let _ = layer;
    /// ```
    pub fn with_attempts<F>(mut self, is_attempt: F) -> Self
    where
        F: Fn(&RequestHead<'_>) -> bool + Send + Sync + 'static,
    {
        self.config_mut().is_attempt = Arc::new(is_attempt);
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

    /// How many attempts may wait for others from their address; further ones are
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

    /// Counts, bans and writes down, and neither refuses nor holds up anybody: to see whom a ban would
    /// meet before it does. Audit events name it in `would_limit`.
    pub fn in_shadow(mut self) -> Self {
        self.config_mut().is_shadow = true;
        self
    }

    /// A handle on the bans, to look at them and to lift them. It knows what the layer was told so far:
    /// take it last.
    #[must_use]
    pub fn bans(&self) -> Bans {
        Bans::new(self.config.clone())
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
        let claimed = self.client.as_ref().and_then(|find| find(&RequestHead::from(request)));
        Ok(Some(self.partition.key(hasher(claimed.as_deref()), &caller)?))
    }

    /// The key of this address, or of a client behind it.
    pub(super) fn key_of(&self, address: IpAddr, client: Option<&str>) -> PartitionKey {
        self.partition.key_of_address(hasher(client), address)
    }

    /// Whether the request waits until others from its address cannot fail any more.
    pub(super) fn is_attempt<B>(&self, request: &Request<B>) -> bool {
        !self.is_shadow && (self.is_attempt)(&RequestHead::from(request))
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

fn hasher(client: Option<&str>) -> PartitionHasher {
    let addresses = PartitionHasher::default();
    client.map_or(addresses.clone(), |client| addresses.with(["client", client]))
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
