use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use tower_layer::Layer;

use crate::client_ip::ClientIp;
use crate::clock::{Clock, SystemClock};
use crate::concurrency_limit::ConcurrencyLimit;
use crate::concurrency_limit::permit::Permits;
use crate::limit_fields::{HeaderStyle, Shown, checked};
use crate::partition::{Caller, Partition, PartitionHasher, PartitionKey, UnknownCaller};
use crate::principal::Principal;
use crate::rejection::{RefusalStyle, Rejection, Responder};
use crate::requirement::Requirement;

/// Layer that applies [`ConcurrencyLimit`]; see the [module](crate::concurrency_limit).
#[derive(Clone)]
#[must_use = "a layer does nothing until it is applied"]
pub struct ConcurrencyLimitLayer {
    config: Arc<Config>,
}

/// What every request's limit needs.
#[derive(Clone)]
pub(super) struct Config {
    pub(super) permits: Permits,
    pub(super) clock: Arc<dyn Clock>,
    /// `None` refuses in the style that the request carries.
    style: Option<Arc<RefusalStyle>>,
    partition: Partition,
    hasher: PartitionHasher,
    client_ip: ClientIp,
    headers: HeaderStyle,
    pub(super) is_shadow: bool,
    pub(super) name: Arc<str>,
    tiers: Vec<Tier>,
    rest: Tier,
}

/// Callers with one limit.
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

/// A limit and how it is shown.
pub(super) struct Limit {
    pub(super) name: Arc<str>,
    pub(super) at_once: u32,
    pub(super) shown: Shown,
}

impl ConcurrencyLimitLayer {
    /// Lets every principal run so many requests at once.
    ///
    /// # Panics
    ///
    /// When that is none.
    pub fn new(at_once: u32) -> Self {
        Self::counting(at_once, Partition::principal(), "concurrency")
    }

    /// Lets every address run so many requests at once: an IPv4 address, or the /64 network of an
    /// IPv6 address, which is what one host has.
    ///
    /// # Panics
    ///
    /// When that is none.
    pub fn by_address(at_once: u32) -> Self {
        Self::counting(at_once, Partition::address(), "address-concurrency")
    }

    /// Lets all callers together run so many requests at once. Clients are not told of this limit.
    ///
    /// # Panics
    ///
    /// When that is none.
    pub fn global(at_once: u32) -> Self {
        Self::counting(at_once, Partition::global(), "capacity")
    }

    fn counting(at_once: u32, partition: Partition, name: &str) -> Self {
        let config = Config {
            permits: Permits::new(),
            clock: Arc::new(SystemClock),
            style: None,
            partition,
            hasher: PartitionHasher::default(),
            client_ip: ClientIp::default(),
            headers: HeaderStyle::default(),
            is_shadow: false,
            name: name.into(),
            tiers: Vec::new(),
            rest: Tier::limited(name, None, at_once),
        };
        Self { config: Arc::new(config) }.prepared()
    }

    /// Whose requests are counted together. Default: each principal's.
    pub fn with_partition(mut self, partition: Partition) -> Self {
        self.config_mut().partition = partition;
        self
    }

    /// The name of the limit for everybody else, as clients see it. Clones of a layer count together
    /// while they have one name. Default: `concurrency`, `address-concurrency` or `capacity`.
    ///
    /// # Panics
    ///
    /// When the name is not printable ASCII, or a tier has it.
    pub fn with_name(mut self, name: &str) -> Self {
        if let Some(limit) = &self.config.rest.limit {
            self.config_mut().rest = Tier::limited(name, None, limit.at_once);
        }
        self.config_mut().name = name.into();
        self.config.panic_if_a_name_is_taken();
        self.prepared()
    }

    /// Gives principals that meet the requirement a limit of their own. The first tier that fits
    /// counts. An anonymous caller is in none. Tiers need an
    /// [`AuthenticateLayer`](crate::AuthenticateLayer) outside, without which every request is
    /// refused with 500.
    ///
    /// # Panics
    ///
    /// When the limit is none, or when the name, which clients see, is not printable ASCII or taken.
    pub fn with_tier(mut self, name: &str, requirement: Requirement, at_once: u32) -> Self {
        self.config_mut().tiers.push(Tier::limited(name, Some(requirement), at_once));
        self.config.panic_if_a_name_is_taken();
        self.prepared()
    }

    /// Does not limit principals that meet the requirement. The first tier that fits counts.
    ///
    /// # Panics
    ///
    /// When the name is taken.
    pub fn with_unlimited(mut self, name: &str, requirement: Requirement) -> Self {
        self.config_mut().tiers.push(Tier::unlimited(name, Some(requirement)));
        self.config.panic_if_a_name_is_taken();
        self.prepared()
    }

    /// How answers tell clients where their limit stands. Default: as draft 10 has it. Of the others,
    /// none has words for the policy: they show how many more may run, and that a second is to be
    /// waited.
    pub fn with_headers(mut self, style: HeaderStyle) -> Self {
        self.config_mut().headers = style;
        self.prepared()
    }

    /// Decides, counts and writes down, and refuses nobody: to see whom a limit would meet before it
    /// does. Clients see nothing of it. Audit events name it in `would_limit`. What it would have refused
    /// is not counted among what runs.
    pub fn in_shadow(mut self) -> Self {
        self.config_mut().is_shadow = true;
        self
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

    /// Where the time comes from that the requirements of tiers ask for. Default: [`SystemClock`].
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.config_mut().clock = Arc::new(clock);
        self
    }

    /// Hashes names and writes fields after every change of them, and not for every request.
    fn prepared(mut self) -> Self {
        let config = self.config_mut();
        for tier in config.tiers.iter_mut().chain([&mut config.rest]) {
            tier.hasher = config.hasher.with([&*config.name, &*tier.name]);
            if let Some(limit) = &mut tier.limit {
                *limit = Arc::new(Limit::new(limit.name.clone(), limit.at_once, config.headers));
            }
        }
        self
    }

    /// What the services made so far share stays as it is.
    fn config_mut(&mut self) -> &mut Config {
        Arc::make_mut(&mut self.config)
    }
}

impl<S> Layer<S> for ConcurrencyLimitLayer {
    type Service = ConcurrencyLimit<S>;

    fn layer(&self, inner: S) -> ConcurrencyLimit<S> {
        ConcurrencyLimit::new(inner, self.config.clone())
    }
}

impl fmt::Debug for ConcurrencyLimitLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tiers: Vec<_> = self.config.tiers.iter().map(|tier| &tier.name).collect();
        f.debug_struct("ConcurrencyLimitLayer")
            .field("name", &self.config.name)
            .field("tiers", &tiers)
            .finish_non_exhaustive()
    }
}

impl Tier {
    fn limited(name: &str, requirement: Option<Requirement>, at_once: u32) -> Self {
        assert!(at_once > 0, "a limit of no requests at once lets nobody in");
        let limit = Limit::new(checked(name), at_once, HeaderStyle::default());
        Self { limit: Some(Arc::new(limit)), ..Self::unlimited(name, requirement) }
    }

    fn unlimited(name: &str, requirement: Option<Requirement>) -> Self {
        Self { name: name.into(), hasher: PartitionHasher::default(), requirement, limit: None }
    }
}

impl Limit {
    fn new(name: Arc<str>, at_once: u32, style: HeaderStyle) -> Self {
        let shown = Shown::at_once(style, &name, at_once);
        Self { name, at_once, shown }
    }
}

impl Config {
    /// Two limits of one name would count together, and clients could not tell them apart.
    #[expect(clippy::panic, reason = "limits that get in each other's way must not start")]
    fn panic_if_a_name_is_taken(&self) {
        let mut names = HashSet::from([&self.rest.name]);
        if let Some(tier) = self.tiers.iter().find(|tier| !names.insert(&tier.name)) {
            panic!(
                "two limits of one ConcurrencyLimitLayer are called {:?}: rename the tier, or call \
                 with_name before it",
                tier.name,
            );
        }
    }

    /// What the request is limited by and whose it is; `None` when it is not limited.
    pub(super) fn limit<B>(
        &self,
        request: &Request<B>,
    ) -> Result<Option<(&Arc<Limit>, PartitionKey)>, Rejection> {
        let caller = Caller::of(request.headers(), request.extensions(), &self.client_ip);
        if caller.authenticated.is_none() && !self.tiers.is_empty() {
            return Err(UnknownCaller::Principal.into());
        }
        let tier = self.tier(caller.principal());
        let Some(limit) = &tier.limit else {
            return Ok(None);
        };
        let key = self.partition.key(tier.hasher.clone(), &caller)?;
        Ok(Some((limit, key)))
    }

    /// Whether a refusal is the caller's own doing, and the limit something to tell it.
    pub(super) fn is_of_callers(&self) -> bool {
        self.partition.is_of_callers()
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
        let now = || self.clock.now();
        let is_met = |requirement: &Requirement| {
            principal.is_some_and(|principal| requirement.is_met(principal, &now))
        };
        let mut tiers = self.tiers.iter();
        tiers.find(|tier| tier.requirement.as_ref().is_some_and(is_met)).unwrap_or(&self.rest)
    }
}
