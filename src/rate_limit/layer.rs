use std::fmt;
use std::sync::Arc;

use tower_layer::Layer;

use crate::client_ip::ClientIp;
use crate::clock::{Clock, SystemClock};
use crate::partition::{Partition, PartitionHasher};
use crate::quota::Quota;
use crate::rate_limit::config::{Config, Tier};
use crate::rate_limit::{HeaderStyle, Policy, RateLimit};
use crate::rejection::{RefusalStyle, Responder};
use crate::requirement::Requirement;
use crate::store::RateLimitStore;

/// The name of what has none.
const DEFAULT: &str = "default";

/// Layer that applies [`RateLimit`]; see the [module](crate::rate_limit).
#[derive(Clone)]
#[must_use = "a layer does nothing until it is applied"]
pub struct RateLimitLayer {
    config: Arc<Config>,
}

impl RateLimitLayer {
    /// Gives every principal this quota, and callers in a tier another one.
    pub fn new(store: impl RateLimitStore, quota: Quota) -> Self {
        Self::of(store, [Policy::new(DEFAULT, quota)])
    }

    /// Gives every address this quota: an IPv4 address, or the /64 network of an IPv6 address,
    /// which is what one host has.
    pub fn by_address(store: impl RateLimitStore, quota: Quota) -> Self {
        let policies = vec![Policy::new(DEFAULT, quota)];
        Self::counting(store, policies, Partition::address()).with_name("address")
    }

    /// Gives every principal these quotas, which are decided on together: a request passes if all
    /// of them let it, and takes nothing from any if one does not.
    ///
    /// # Panics
    ///
    /// When two of them have one name.
    pub fn of(store: impl RateLimitStore, policies: impl IntoIterator<Item = Policy>) -> Self {
        Self::counting(store, policies.into_iter().collect(), Partition::principal())
    }

    fn counting(store: impl RateLimitStore, policies: Vec<Policy>, partition: Partition) -> Self {
        let config = Config {
            store: Arc::new(store),
            clock: Arc::new(SystemClock),
            style: None,
            headers: HeaderStyle::default(),
            partition,
            hasher: PartitionHasher::default(),
            client_ip: ClientIp::default(),
            name: DEFAULT.into(),
            common: Vec::new(),
            tiers: Vec::new(),
            anonymous: None,
            rest: Tier::new(DEFAULT, None, Some(policies)),
        };
        Self { config: Arc::new(config) }.prepared()
    }

    /// The name of the layer, and of the one quota for everybody else, as clients see it. Layers
    /// that share a store and a name share their units; give layers with different quotas different
    /// names. Default: `default`, or `address`.
    ///
    /// # Panics
    ///
    /// When the name is not printable ASCII, or a tier has it.
    pub fn with_name(mut self, name: &str) -> Self {
        let config = self.config_mut();
        if let Some([policy]) = config.rest.policies.as_deref_mut()
            && policy.name == config.rest.name
        {
            policy.rename(name);
        }
        config.rest.name = name.into();
        config.name = name.into();
        self.prepared()
    }

    /// One more quota for everybody who is limited, whatever the tier, such as one for all callers
    /// of a tenant.
    ///
    /// # Panics
    ///
    /// When another policy has its name.
    pub fn with_policy(mut self, policy: Policy) -> Self {
        self.config_mut().common.push(policy);
        self.prepared()
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
    pub fn with_tier(self, name: &str, requirement: Requirement, quota: Quota) -> Self {
        self.with_tier_of(name, requirement, [Policy::new(name, quota)])
    }

    /// Gives principals that meet the requirement several quotas of their own.
    ///
    /// # Panics
    ///
    /// When another tier has the name of this one, or two policies have one name.
    pub fn with_tier_of(
        mut self,
        name: &str,
        requirement: Requirement,
        policies: impl IntoIterator<Item = Policy>,
    ) -> Self {
        let policies = policies.into_iter().collect();
        self.config_mut().tiers.push(Tier::new(name, Some(requirement), Some(policies)));
        self.prepared()
    }

    /// Gives callers without a token, whom an
    /// [optional](crate::AuthenticateLayer::optional) AuthenticateLayer lets through, a quota of
    /// their own, for each address. Default: the quota for everybody else.
    ///
    /// # Panics
    ///
    /// When the name, which clients see, is not printable ASCII, or a tier has it.
    pub fn with_anonymous(mut self, name: &str, quota: Quota) -> Self {
        let policies = vec![Policy::new(name, quota).with_partition(Partition::address())];
        self.config_mut().anonymous = Some(Tier::new(name, None, Some(policies)));
        self.prepared()
    }

    /// Does not limit principals that meet the requirement. The first tier that fits counts.
    ///
    /// # Panics
    ///
    /// When another tier has the name.
    pub fn with_unlimited(mut self, name: &str, requirement: Requirement) -> Self {
        self.config_mut().tiers.push(Tier::new(name, Some(requirement), None));
        self.prepared()
    }

    /// How answers tell clients where their limits stand. Default: as draft 10 has it.
    pub fn with_headers(mut self, style: HeaderStyle) -> Self {
        self.config_mut().headers = style;
        self.prepared()
    }

    /// Whose units are counted together. Default: each principal's, or each address's.
    pub fn with_partition(mut self, partition: Partition) -> Self {
        self.config_mut().partition = partition;
        self.prepared()
    }

    /// The secret under which callers are hashed before a store sees them: 128 bits that nobody
    /// else can know or guess. Nodes that share a store need the same one, or each of them gives
    /// every caller a quota of its own. Default: a random one for each process.
    pub fn with_partition_secret(mut self, secret: [u8; 16]) -> Self {
        self.config_mut().hasher = PartitionHasher::new(&secret);
        self.prepared()
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

    fn prepared(mut self) -> Self {
        self.config_mut().prepare();
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
