use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::{Request, Response};
use tower_layer::Layer;

use crate::client_ip::ClientIp;
use crate::clock::{Clock, SystemClock};
use crate::partition::{Caller, Partition, PartitionHasher, PartitionKey, UnknownCaller};
use crate::principal::Principal;
use crate::quota::Quota;
use crate::rate_limit::RateLimit;
use crate::rate_limit::headers::Policy;
use crate::rejection::{RefusalStyle, Rejection, Responder};
use crate::requirement::Requirement;
use crate::store::{ErasedStore, RateLimitStore};

/// Layer that applies [`RateLimit`]; see the [module](crate::rate_limit).
#[derive(Clone)]
#[must_use = "a layer does nothing until it is applied"]
pub struct RateLimitLayer {
    config: Arc<Config>,
}

/// What every request's limit needs.
#[derive(Clone)]
pub(super) struct Config {
    pub(super) store: Arc<dyn ErasedStore>,
    pub(super) clock: Arc<dyn Clock>,
    /// `None` refuses in the style that the request carries.
    style: Option<Arc<RefusalStyle>>,
    partition: Partition,
    hasher: PartitionHasher,
    client_ip: ClientIp,
    name: Arc<str>,
    tiers: Vec<Tier>,
    rest: Tier,
}

/// Callers with one quota.
#[derive(Clone)]
struct Tier {
    name: Arc<str>,
    /// Has the names of the layer and of the tier behind it already.
    hasher: PartitionHasher,
    /// `None` takes everybody.
    requirement: Option<Requirement>,
    /// `None` is not limited.
    limit: Option<Arc<Limit>>,
}

/// A quota and how it is shown.
pub(super) struct Limit {
    pub(super) name: Arc<str>,
    pub(super) quota: Quota,
    pub(super) policy: Policy,
}

impl RateLimitLayer {
    /// Gives every principal this quota, and callers in a tier another one.
    pub fn new(store: impl RateLimitStore, quota: Quota) -> Self {
        Self::counting(store, quota, Partition::principal())
    }

    /// Gives every address this quota: an IPv4 address, or the /64 network of an IPv6 address,
    /// which is what one host has.
    pub fn by_address(store: impl RateLimitStore, quota: Quota) -> Self {
        Self::counting(store, quota, Partition::address()).with_name("address")
    }

    fn counting(store: impl RateLimitStore, quota: Quota, partition: Partition) -> Self {
        let config = Config {
            store: Arc::new(store),
            clock: Arc::new(SystemClock),
            style: None,
            partition,
            hasher: PartitionHasher::default(),
            client_ip: ClientIp::default(),
            name: "default".into(),
            tiers: Vec::new(),
            rest: Tier::limited("default", None, quota),
        };
        Self { config: Arc::new(config) }.with_names_hashed()
    }

    /// The name of the quota for everybody else, as clients see it. Layers that share a store and a
    /// name share their units; give layers with different quotas different names. Default:
    /// `default`, or `address`.
    ///
    /// # Panics
    ///
    /// When the name is not printable ASCII, or a tier has it.
    pub fn with_name(mut self, name: &str) -> Self {
        if let Some(limit) = &self.config.rest.limit {
            self.config_mut().rest = Tier::limited(name, None, limit.quota);
        }
        self.config_mut().name = name.into();
        self.config.panic_if_a_name_is_taken();
        self.with_names_hashed()
    }

    /// Gives principals that meet the requirement a quota of their own. The first tier that fits
    /// counts. An anonymous caller is in none. Tiers need an
    /// [`AuthenticateLayer`](crate::AuthenticateLayer) outside, without which every request is
    /// refused with 500, also [by address](Self::by_address).
    ///
    /// # Panics
    ///
    /// When the name, which clients see, is not printable ASCII, or is that of another tier or of
    /// the quota for everybody else: the two would share their units.
    pub fn with_tier(mut self, name: &str, requirement: Requirement, quota: Quota) -> Self {
        self.config_mut().tiers.push(Tier::limited(name, Some(requirement), quota));
        self.config.panic_if_a_name_is_taken();
        self.with_names_hashed()
    }

    /// Does not limit principals that meet the requirement. The first tier that fits counts.
    ///
    /// # Panics
    ///
    /// When another tier has the name.
    pub fn with_unlimited(mut self, name: &str, requirement: Requirement) -> Self {
        self.config_mut().tiers.push(Tier::unlimited(name, Some(requirement)));
        self.config.panic_if_a_name_is_taken();
        self.with_names_hashed()
    }

    /// Whose units are counted together. Default: each principal's, or each address's.
    pub fn with_partition(mut self, partition: Partition) -> Self {
        self.config_mut().partition = partition;
        self
    }

    /// The secret under which callers are hashed before a store sees them: 128 bits that nobody
    /// else can know or guess. Nodes that share a store need the same one, or each of them gives
    /// every caller a quota of its own. Default: a random one for each process.
    pub fn with_partition_secret(mut self, secret: [u8; 16]) -> Self {
        self.config_mut().hasher = PartitionHasher::new(&secret);
        self.with_names_hashed()
    }

    /// How the client's address is learned. Default: the [`PeerAddr`](crate::PeerAddr) extension.
    pub fn with_client_ip(mut self, client_ip: ClientIp) -> Self {
        self.config_mut().client_ip = client_ip;
        self
    }

    /// Who writes the bodies of this layer's refusals. Default: the responder of the
    /// [`AuthenticateLayer`](crate::AuthenticateLayer) outside of it; problem documents where there
    /// is none.
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

    /// Hashes the names in a key after every change of them, and not for every request.
    fn with_names_hashed(mut self) -> Self {
        let config = self.config_mut();
        for tier in config.tiers.iter_mut().chain([&mut config.rest]) {
            tier.hasher = config.hasher.with([&*config.name, &*tier.name]);
        }
        self
    }

    /// What the services made so far share stays as it is.
    fn config_mut(&mut self) -> &mut Config {
        Arc::make_mut(&mut self.config)
    }
}

impl<S> Layer<S> for RateLimitLayer {
    type Service = RateLimit<S>;

    fn layer(&self, inner: S) -> RateLimit<S> {
        RateLimit::new(inner, self.config.clone())
    }
}

impl fmt::Debug for RateLimitLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tiers: Vec<_> = self.config.tiers.iter().map(|tier| &tier.name).collect();
        f.debug_struct("RateLimitLayer")
            .field("name", &self.config.name)
            .field("tiers", &tiers)
            .finish_non_exhaustive()
    }
}

impl Tier {
    fn limited(name: &str, requirement: Option<Requirement>, quota: Quota) -> Self {
        let policy = Policy::new(name, &quota);
        let tier = Self::unlimited(name, requirement);
        let limit = Arc::new(Limit { name: tier.name.clone(), quota, policy });
        Self { limit: Some(limit), ..tier }
    }

    fn unlimited(name: &str, requirement: Option<Requirement>) -> Self {
        Self { name: name.into(), hasher: PartitionHasher::default(), requirement, limit: None }
    }
}

/// The bucket that a request takes from.
pub(super) struct Bucket<'a> {
    pub(super) limit: &'a Arc<Limit>,
    pub(super) key: PartitionKey,
}

impl Config {
    /// Two quotas of one name would take from one bucket, and clients could not tell them apart.
    #[expect(clippy::panic, reason = "limits that get in each other's way must not start")]
    fn panic_if_a_name_is_taken(&self) {
        let mut names = HashSet::from([&self.rest.name]);
        if let Some(tier) = self.tiers.iter().find(|tier| !names.insert(&tier.name)) {
            panic!(
                "two quotas of one RateLimitLayer are called {:?}: rename the tier, or call \
                 with_name before it",
                tier.name,
            );
        }
    }

    /// What the request takes from; `None` when it is not limited.
    pub(super) fn bucket<B>(&self, request: &Request<B>) -> Result<Option<Bucket<'_>>, Rejection> {
        let caller = Caller::of(request.headers(), request.extensions(), &self.client_ip);
        if caller.authenticated.is_none() && !self.tiers.is_empty() {
            return Err(UnknownCaller::Principal.into());
        }
        let tier = self.tier(caller.principal());
        let Some(limit) = &tier.limit else {
            return Ok(None);
        };
        let key = self.partition.key(tier.hasher.clone(), &caller)?;
        Ok(Some(Bucket { limit, key }))
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

    fn tier(&self, principal: Option<&Principal>) -> &Tier {
        let Some(principal) = principal else {
            return &self.rest;
        };
        let now = || self.clock.now();
        self.tiers.iter().find(|tier| tier.takes(principal, &now)).unwrap_or(&self.rest)
    }
}

impl Tier {
    fn takes(&self, principal: &Principal, now: &dyn Fn() -> SystemTime) -> bool {
        self.requirement.as_ref().is_none_or(|requirement| requirement.is_met(principal, now))
    }
}
