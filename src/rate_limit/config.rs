//! What all requests of a layer share, and what each is decided by.

use std::collections::HashSet;
use std::iter;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Request, Response};

use crate::client_ip::ClientIp;
use crate::clock::Clock;
use crate::event::AuditSlot;
use crate::limit_fields::{Fields, HeaderStyle, Shown, strictest};
use crate::partition::{Caller, Partition, PartitionHasher, UnknownCaller};
use crate::principal::Principal;
use crate::quota::{Decision, Decisions, Take};
use crate::rate_limit::cost::{Cost, Taken};
use crate::rate_limit::policy::{Afterwards, Policy};
use crate::rate_limit::question::{Answers, Question};
use crate::rejection::{RefusalStyle, Rejection, RequestHead, has_failed};
use crate::requirement::Requirement;
use crate::seldom::Seldom;
use crate::store::{ErasedStore, StoreError, TakeRequest};
use crate::trace;

/// What every request's limit needs.
#[derive(Clone)]
pub(super) struct Config {
    pub(super) store: Arc<dyn ErasedStore>,
    pub(super) clock: Arc<dyn Clock>,
    /// `None` refuses in the style that the request carries.
    pub(super) style: Option<Arc<RefusalStyle>>,
    pub(super) headers: HeaderStyle,
    pub(super) partition: Partition,
    pub(super) hasher: PartitionHasher,
    pub(super) client_ip: ClientIp,
    pub(super) name: Arc<str>,
    /// Policies of everybody, whatever the tier.
    pub(super) common: Vec<Policy>,
    pub(super) tiers: Vec<Tier>,
    /// Callers without a token, where they are told from the rest.
    pub(super) anonymous: Option<Tier>,
    pub(super) rest: Tier,
}

/// Callers with one set of policies.
#[derive(Clone)]
pub(super) struct Tier {
    pub(super) name: Arc<str>,
    /// `None` takes everybody.
    requirement: Option<Requirement>,
    /// `None` is not limited.
    pub(super) policies: Option<Vec<Policy>>,
    limits: Arc<Limits>,
}

/// The policies of a tier and those of everybody, ready to be asked.
pub(super) struct Limits {
    enforced: Vec<Limit>,
    shadows: Vec<Limit>,
    shown: Shown,
    /// Whether a request that passes leaves more behind than fields.
    have_more_to_do: bool,
    /// An operator is told of these, and not once for every request.
    says_unavailable: Seldom,
    says_never_passes: Seldom,
}

struct Limit {
    policy: Policy,
    partition: Partition,
    /// Has the names of layer, tier and policy behind it already.
    hasher: PartitionHasher,
}

/// What a request that is let through leaves to be done.
#[derive(Default)]
pub(super) struct Passed {
    pub(super) fields: Option<Fields>,
    /// What is given back if the inner service fails.
    pub(super) refunds: Option<Box<Refunds>>,
}

pub(super) struct Refunds {
    taken: Vec<Taken>,
    config: Arc<Config>,
}

impl Config {
    /// Puts the policies of each tier and those of everybody together, after every change of them
    /// and not for every request.
    pub(super) fn prepare(&mut self) {
        self.panic_if_a_name_is_taken();
        let prepared: Vec<_> = self.all_tiers().map(|tier| self.limits_of(tier)).collect();
        let tiers = self.tiers.iter_mut().chain(&mut self.anonymous).chain([&mut self.rest]);
        for (tier, limits) in tiers.zip(prepared) {
            tier.limits = Arc::new(limits);
        }
    }

    /// What the request is decided by, and what to ask about it; `None` when it is not limited.
    pub(super) fn question<B>(
        &self,
        request: &Request<B>,
    ) -> Result<Option<(&Arc<Limits>, Question)>, Rejection> {
        let caller = Caller::of(request.headers(), request.extensions(), &self.client_ip);
        let knows_tiers = !self.tiers.is_empty() || self.anonymous.is_some();
        if caller.authenticated.is_none() && knows_tiers {
            return Err(UnknownCaller::Principal.into());
        }
        let tier = self.tier(caller.principal());
        let limits = &tier.limits;
        if limits.enforced.is_empty() && limits.shadows.is_empty() {
            return Ok(None);
        }
        let now = self.clock.monotonic();
        let takes_of = |limit: &Limit| limit.takes(&caller, request);
        let mut with_own = Vec::new();
        let enforced = match &*limits.enforced {
            [limit] if !limit.policy.has_own_quotas() => {
                let (Take { key, quota, cost, .. }, _) = takes_of(limit)?;
                TakeRequest::new(key, quota, cost, now)
            }
            limits => {
                let (mut takes, mut of_all_own) = (Vec::with_capacity(limits.len()), Vec::new());
                for (at, limit) in limits.iter().enumerate() {
                    let (take, own) = takes_of(limit)?;
                    takes.push(take);
                    if let Some(own) = own {
                        with_own.push(at);
                        of_all_own.push(own);
                    }
                }
                TakeRequest::together(takes.into_iter().chain(of_all_own), now)
            }
        };
        let mut shadows = Vec::new();
        for limit in &limits.shadows {
            // Of a caller whom it cannot place, a policy in shadow asks nothing.
            let takes = takes_of(limit).inspect_err(|_| trace::not_placed(&limit.policy.name)).ok();
            let takes = takes.into_iter().flat_map(|(take, own)| iter::once(take).chain(own));
            shadows.push(TakeRequest::together(takes, now));
        }
        Ok(Some((limits, Question { enforced, with_own, shadows })))
    }

    /// Turns the store's answers into what is left to be done, or into a refusal.
    pub(super) fn conclude<B>(
        self: &Arc<Self>,
        limits: &Limits,
        question: &Question,
        answers: &mut Answers,
        request: &mut Request<B>,
    ) -> Result<Passed, Box<Response<Bytes>>> {
        let Some(Ok(decisions)) = &answers.enforced else {
            let error = answers.enforced.take().and_then(Result::err);
            let error = error.unwrap_or_else(|| StoreError::new("the store has not answered"));
            limits.unavailable(&error, question.enforced.now);
            return Err(self.refuse(error.into(), request));
        };
        let takes = &question.enforced.takes()[..limits.enforced.len()];
        let each = question.on_each(decisions);
        if let Some(slot) = AuditSlot::of(request.extensions()) {
            limits.note(slot, takes, &each);
            if decisions.are_fallback() {
                slot.fell_back();
            }
        }
        let fields = limits.shown.fields(takes, &each, || self.clock.now());
        if !decisions.are_allowed() {
            let rejection = limits.rejection(takes, &each, question.enforced.now);
            let mut response = self.refuse(rejection, request);
            if let Some(fields) = fields {
                fields.add_to(&mut response);
            }
            return Err(response);
        }
        if !limits.have_more_to_do {
            return Ok(Passed { fields, refunds: None });
        }
        let shadows = limits.shadows(question, &answers.shadows, request);
        let with_own = question.with_own.iter().map(|&at| &limits.enforced[at]);
        let enforced = limits.enforced.iter().chain(with_own);
        let enforced = enforced.zip(Taken::all(&question.enforced, decisions));
        let (mut settled, mut refunded) = (Vec::new(), Vec::new());
        for (limit, taken) in enforced.chain(shadows) {
            match limit.policy.afterwards {
                Afterwards::Keep => {}
                Afterwards::RefundFailures => refunded.push(taken),
                Afterwards::Settle => settled.push(taken),
            }
        }
        Cost::charge(request, settled.into_iter(), &self.store, &self.clock);
        let refunds = (!refunded.is_empty())
            .then(|| Box::new(Refunds { taken: refunded, config: self.clone() }));
        Ok(Passed { fields, refunds })
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
            return self.anonymous.as_ref().unwrap_or(&self.rest);
        };
        let now = || self.clock.now();
        self.tiers.iter().find(|tier| tier.takes(principal, &now)).unwrap_or(&self.rest)
    }

    fn all_tiers(&self) -> impl Iterator<Item = &Tier> {
        self.tiers.iter().chain(&self.anonymous).chain([&self.rest])
    }

    fn limits_of(&self, tier: &Tier) -> Limits {
        let own = tier.policies.iter().flatten().map(|policy| (&*tier.name, policy));
        // No tier has an empty name, whose policies would share their units with these.
        let common = self.common.iter().filter(|_| tier.policies.is_some());
        let all = own.chain(common.map(|policy| ("", policy)));
        let limits = all.map(|(tier, policy)| Limit {
            policy: policy.clone(),
            partition: policy.partition.as_ref().unwrap_or(&self.partition).clone(),
            hasher: self.hasher.with([&*self.name, tier, &*policy.name]),
        });
        let (shadows, enforced): (Vec<_>, Vec<_>) =
            limits.partition(|limit| limit.policy.is_shadow);
        let shown = enforced.iter().map(|limit| (&*limit.policy.name, limit.policy.fixed_quota()));
        let shown = Shown::new(self.headers, shown);
        let is_final = |limit: &Limit| limit.policy.afterwards == Afterwards::Keep;
        let have_more_to_do = !shadows.is_empty() || !enforced.iter().all(is_final);
        Limits { enforced, shadows, have_more_to_do, ..Limits::new(shown) }
    }

    /// Two quotas of one name would take from one bucket, and clients could not tell them apart.
    #[expect(clippy::panic, reason = "limits that get in each other's way must not start")]
    fn panic_if_a_name_is_taken(&self) {
        let mut tiers = HashSet::new();
        for tier in iter::once(&self.rest).chain(&self.tiers).chain(&self.anonymous) {
            let policies = tier.policies.iter().flatten().chain(&self.common);
            let mut names = HashSet::new();
            let mut policies = policies.map(|policy| &policy.name);
            let taken = policies.find(|&name| !names.insert(name));
            if let Some(name) = taken.or((!tiers.insert(&tier.name)).then_some(&tier.name)) {
                panic!(
                    "two quotas of one RateLimitLayer are called {name:?}: rename the tier, or call \
                     with_name before it",
                );
            }
        }
    }
}

impl Tier {
    pub(super) fn new(
        name: &str,
        requirement: Option<Requirement>,
        policies: Option<Vec<Policy>>,
    ) -> Self {
        let shown = Shown::new(HeaderStyle::None, iter::empty());
        let limits = Arc::new(Limits::new(shown));
        Self { name: name.into(), requirement, policies, limits }
    }

    fn takes(&self, principal: &Principal, now: &dyn Fn() -> SystemTime) -> bool {
        self.requirement.as_ref().is_none_or(|requirement| requirement.is_met(principal, now))
    }
}

impl Limit {
    /// What a request takes, and of whom has a quota of its own, what it takes of all of these.
    fn takes<B>(
        &self,
        caller: &Caller<'_>,
        request: &Request<B>,
    ) -> Result<(Take, Option<Take>), UnknownCaller> {
        let cost = self.policy.cost.as_ref().map_or(1, |cost| cost(&RequestHead::from(request)));
        let take = |hasher, quota| Ok(Take::new(self.partition.key(hasher, caller)?, quota, cost));
        let Some((own, at_most)) = self.policy.own_quota_of(caller.principal()) else {
            return Ok((take(self.hasher.clone(), self.policy.quota())?, None));
        };
        let of_all = take(self.hasher.with_all_quotas(), at_most)?;
        if own == at_most {
            return Ok((of_all, None));
        }
        Ok((take(self.hasher.with_quota(&own), own)?, Some(of_all)))
    }
}

impl Limits {
    /// None yet.
    fn new(shown: Shown) -> Self {
        Self {
            enforced: Vec::new(),
            shadows: Vec::new(),
            shown,
            have_more_to_do: false,
            says_unavailable: Seldom::default(),
            says_never_passes: Seldom::default(),
        }
    }

    fn unavailable(&self, error: &StoreError, now: Duration) {
        if self.says_unavailable.is_due(now) {
            trace::unavailable(error);
        }
    }

    /// Tells the audit trail of the policy that decides: the strictest of those that refuse, or of
    /// all.
    fn note(&self, slot: &AuditSlot, takes: &[Take], decisions: &[Decision]) {
        let pass = !decisions.iter().any(is_limited);
        if let Some(n) = strictest(takes, decisions, |decision| pass || is_limited(decision)) {
            slot.limited(self.enforced[n].policy.name.clone(), decisions[n].usage().remaining);
        }
    }

    /// A refusal for all that are violated: whoever waits for the longest passes (RL-5). One of
    /// them that nothing can pass makes waiting useless (RL-22).
    fn rejection(&self, takes: &[Take], decisions: &[Decision], now: Duration) -> Rejection {
        let mut violated = Vec::new();
        let mut longest = Some(Duration::ZERO);
        for ((limit, take), decision) in self.enforced.iter().zip(takes).zip(decisions) {
            let Decision::Limited { usage, retry_after } = decision else {
                continue;
            };
            if retry_after.is_none() && self.says_never_passes.is_due(now) {
                trace::never_passes(&limit.policy.name, take.cost, take.quota.burst());
            }
            violated.push(limit.policy.name.clone());
            // What costs nothing passes before there is a unit, and is not told to come so early.
            let wait = retry_after.map(|wait| wait.max(usage.next_unit));
            longest = longest.zip(wait).map(|(one, other)| one.max(other));
        }
        Rejection::limited(violated, longest)
    }

    /// What the policies in shadow have taken. Those that would have refused are written down.
    fn shadows<B>(
        &self,
        question: &Question,
        answers: &[Result<Decisions, StoreError>],
        request: &Request<B>,
    ) -> Vec<(&Limit, Taken)> {
        let mut taken = Vec::new();
        let each = self.shadows.iter().zip(&question.shadows).zip(answers);
        for ((limit, asked), answer) in each {
            match answer {
                Ok(decisions) if decisions.are_allowed() => {
                    taken.extend(Taken::all(asked, decisions).map(|taken| (limit, taken)));
                }
                Ok(_) => {
                    trace::would_limit(&limit.policy.name);
                    if let Some(slot) = AuditSlot::of(request.extensions()) {
                        slot.would_limit(limit.policy.name.clone());
                    }
                }
                Err(error) => self.unavailable(error, asked.now),
            }
        }
        taken
    }
}

impl Passed {
    /// Shows how the limits stand, also on refusals of layers further in (RL-4), and gives back what
    /// a failure has not used.
    pub(super) fn finish<B, E>(&mut self, answer: &mut Result<Response<B>, E>) {
        let refunds = self.refunds.take();
        if let Some(refunds) = refunds.filter(|_| answer.as_ref().map_or(true, has_failed)) {
            refunds.pay();
        }
        if let (Ok(response), Some(fields)) = (answer, self.fields.take()) {
            fields.add_to(response);
        }
    }
}

impl Refunds {
    /// Gives everything back.
    pub(super) fn pay(&self) {
        for taken in &self.taken {
            taken.settle(0, &*self.config.store, &*self.config.clock);
        }
    }
}

fn is_limited(decision: &Decision) -> bool {
    matches!(decision, Decision::Limited { .. })
}
