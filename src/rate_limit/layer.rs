use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use http::{Extensions, HeaderMap, Request};
use tower_layer::Layer;

use crate::client_ip::{ClientIp, host_part};
use crate::clock::{Clock, SystemClock};
use crate::principal::{Authenticated, Principal};
use crate::quota::{PartitionKey, Quota};
use crate::rate_limit::RateLimit;
use crate::rate_limit::headers::Policy;
use crate::rejection::Rejection;
use crate::requirement::Requirement;
use crate::store::{ErasedStore, RateLimitStore};

/// Layer that applies [`RateLimit`]; see the [module](crate::rate_limit).
#[derive(Clone)]
#[must_use = "a layer does nothing until it is applied"]
pub struct RateLimitLayer {
    config: Config,
}

/// What every request's limit needs.
#[derive(Clone)]
pub(super) struct Config {
    pub(super) store: Arc<dyn ErasedStore>,
    pub(super) clock: Arc<dyn Clock>,
    partition: Partition,
    client_ip: ClientIp,
    name: Arc<str>,
    tiers: Vec<Tier>,
    rest: Tier,
}

/// Whose units are counted together.
#[derive(Clone, Copy)]
enum Partition {
    Address,
    Principal,
}

/// Callers with one quota.
#[derive(Clone)]
struct Tier {
    name: Arc<str>,
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
        Self::with_partition(store, quota, Partition::Principal)
    }

    /// Gives every address this quota: an IPv4 address, or the /64 network of an IPv6 address,
    /// which is what one host has.
    pub fn by_address(store: impl RateLimitStore, quota: Quota) -> Self {
        Self::with_partition(store, quota, Partition::Address).with_name("address")
    }

    fn with_partition(store: impl RateLimitStore, quota: Quota, partition: Partition) -> Self {
        Self {
            config: Config {
                store: Arc::new(store),
                clock: Arc::new(SystemClock),
                partition,
                client_ip: ClientIp::default(),
                name: "default".into(),
                tiers: Vec::new(),
                rest: Tier::limited("default", None, quota),
            },
        }
    }

    /// The name of the quota for everybody else, as clients see it. Layers that share a store and a
    /// name share their units; give layers with different quotas different names. Default:
    /// `default`, or `address`.
    ///
    /// # Panics
    ///
    /// When the name is not printable ASCII.
    pub fn with_name(mut self, name: &str) -> Self {
        if let Some(limit) = &self.config.rest.limit {
            self.config.rest = Tier::limited(name, None, limit.quota);
        }
        self.config.name = name.into();
        self
    }

    /// Gives principals that meet the requirement a quota of their own. The first tier that fits
    /// counts. An anonymous caller is in none.
    ///
    /// # Panics
    ///
    /// When the name, which clients see, is not printable ASCII.
    pub fn with_tier(mut self, name: &str, requirement: Requirement, quota: Quota) -> Self {
        self.config.tiers.push(Tier::limited(name, Some(requirement), quota));
        self
    }

    /// Does not limit principals that meet the requirement. The first tier that fits counts.
    pub fn with_unlimited(mut self, name: &str, requirement: Requirement) -> Self {
        let requirement = Some(requirement);
        self.config.tiers.push(Tier { name: name.into(), requirement, limit: None });
        self
    }

    /// How the client's address is learned. Default: the [`PeerAddr`](crate::PeerAddr) extension.
    pub fn with_client_ip(mut self, client_ip: ClientIp) -> Self {
        self.config.client_ip = client_ip;
        self
    }

    /// Where the time comes from. Default: [`SystemClock`].
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.config.clock = Arc::new(clock);
        self
    }
}

impl<S> Layer<S> for RateLimitLayer {
    type Service = RateLimit<S>;

    fn layer(&self, inner: S) -> RateLimit<S> {
        RateLimit::new(inner, Arc::new(self.config.clone()))
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
        let name: Arc<str> = name.into();
        let limit = Some(Arc::new(Limit { name: name.clone(), quota, policy }));
        Self { name, requirement, limit }
    }
}

/// The bucket that a request takes from.
pub(super) struct Bucket<'a> {
    pub(super) limit: &'a Arc<Limit>,
    pub(super) key: PartitionKey,
}

impl Config {
    /// What the request takes from; `None` when it is not limited.
    pub(super) fn bucket<B>(&self, request: &Request<B>) -> Result<Option<Bucket<'_>>, Rejection> {
        let extensions = request.extensions();
        let authenticated = Authenticated::of(extensions);
        let principal = authenticated.and_then(|authenticated| authenticated.principal.as_ref());
        let tier = self.tier(principal);
        let Some(limit) = &tier.limit else {
            return Ok(None);
        };
        let key = match (self.partition, authenticated, principal) {
            (Partition::Principal, None, _) => {
                return Err(Rejection::layer_missing(
                    "RateLimitLayer needs an AuthenticateLayer outside of it; \
                     or use RateLimitLayer::by_address",
                ));
            }
            (Partition::Principal, Some(_), Some(principal)) => {
                let (issuer, subject) = (principal.issuer(), principal.subject());
                PartitionKey::new([&*self.name, &*tier.name, "principal", issuer, subject])
            }
            (Partition::Principal, Some(_), None) | (Partition::Address, ..) => {
                self.address_key(tier, request.headers(), extensions)?
            }
        };
        Ok(Some(Bucket { limit, key }))
    }

    fn tier(&self, principal: Option<&Principal>) -> &Tier {
        let Some(principal) = principal.filter(|_| !self.tiers.is_empty()) else {
            return &self.rest;
        };
        let now = self.clock.now();
        self.tiers.iter().find(|tier| tier.takes(principal, now)).unwrap_or(&self.rest)
    }

    fn address_key(
        &self,
        tier: &Tier,
        headers: &HeaderMap,
        extensions: &Extensions,
    ) -> Result<PartitionKey, Rejection> {
        let found = self.client_ip.find(headers, extensions).ok_or_else(|| {
            Rejection::layer_missing(
                "RateLimitLayer cannot see the peer's address: insert PeerAddr into requests, \
                 or say where it is with ClientIp",
            )
        })?;
        let parts = [self.name.as_bytes(), tier.name.as_bytes()];
        Ok(match host_part(found.client) {
            IpAddr::V4(v4) => PartitionKey::new([parts[0], parts[1], b"v4", &v4.octets()]),
            IpAddr::V6(v6) => PartitionKey::new([parts[0], parts[1], b"v6", &v6.octets()]),
        })
    }
}

impl Tier {
    fn takes(&self, principal: &Principal, now: SystemTime) -> bool {
        self.requirement.as_ref().is_none_or(|requirement| requirement.is_met_by(principal, now))
    }
}
