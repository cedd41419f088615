use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::Semaphore;

use crate::clock::{Clock, SystemClock};
use crate::store::{ErasedTokenStore, TokenStore};
use crate::verifier::CachedVerifier;
use crate::verifier::opaque::format::{Format, InvalidPrefix};
use crate::verifier::opaque::lookup::{Lookup, OpaqueVerifier, Turns};
use crate::verifier::opaque::nodes::APART;
use crate::verifier::opaque::unknown::UnknownTokens;
use crate::verifier::opaque::used::LastUsed;
use crate::verifier::opaque::{OpaqueTokens, Peppers};
use crate::verifier::revocable::Revocations;

/// The parts of [`OpaqueTokens`].
#[must_use = "a builder does nothing until `build`"]
pub struct OpaqueTokensBuilder {
    issuer: String,
    store: Arc<dyn ErasedTokenStore>,
    peppers: Peppers,
    prefix: String,
    max_age: Duration,
    max_tokens: usize,
    max_lookups: usize,
    timeout: Duration,
    admin_timeout: Duration,
    clock: Arc<dyn Clock>,
    revocations: Option<Revocations>,
}

/// The longest time that a request waits for the store.
const MAX_TIMEOUT: Duration = Duration::from_secs(60);

/// The longest time that somebody who manages tokens waits for it.
const MAX_ADMIN_TIMEOUT: Duration = Duration::from_secs(3600);

/// Why there is no [`OpaqueTokens`].
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum InvalidOpaqueTokens {
    /// The issuer has no name.
    #[error("the issuer of tokens needs a name")]
    EmptyIssuer,
    /// The prefix is no prefix.
    #[error(transparent)]
    Prefix(#[from] InvalidPrefix),
    /// No token could ever be looked up.
    #[error("at least one token is looked up at once")]
    NoLookups,
    /// Nodes that are told what ends would remember tokens for longer than that lasts.
    #[error(
        "with revocations, tokens are remembered for at most 300 seconds: lower `with_max_age`"
    )]
    LongMemory,
    /// A timeout is zero or too long.
    #[error(
        "the store has more than no time and at most 60 seconds to answer, or an hour if asked by an admin"
    )]
    Timeout,
}

impl OpaqueTokensBuilder {
    pub(super) fn new(issuer: &str, store: impl TokenStore, peppers: Peppers) -> Self {
        Self {
            issuer: issuer.to_owned(),
            store: Arc::new(store),
            peppers,
            prefix: "tg".to_owned(),
            max_age: Duration::from_secs(10),
            max_tokens: 10_000,
            max_lookups: 64,
            timeout: Duration::from_secs(2),
            admin_timeout: Duration::from_secs(30),
            clock: Arc::new(SystemClock),
            revocations: None,
        }
    }

    /// What tokens begin with, so that people and secret scanners know them: the product and the
    /// kind of token, as in `acme_live`. Tokens with another prefix are refused. Default: `tg`.
    pub fn with_prefix(mut self, prefix: &str) -> Self {
        prefix.clone_into(&mut self.prefix);
        self
    }

    /// How long a good token is remembered without the store, and so the longest time for which a
    /// token that *another* node has revoked is accepted by this one. Zero asks every time. Default:
    /// 10 seconds; at most 5 minutes [with revocations](Self::with_revocations).
    pub fn with_max_age(mut self, max_age: Duration) -> Self {
        self.max_age = max_age;
        self
    }

    /// How many tokens are remembered at most. Default: 10 000.
    pub fn with_max_tokens(mut self, max_tokens: usize) -> Self {
        self.max_tokens = max_tokens;
        self
    }

    /// How long a request waits for the store before it is refused with 503. Default: 2 seconds; at
    /// most 60.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How many tokens are looked up in the store at once at most. Others wait for their turn, within
    /// the timeout, and need none where the answer was found meanwhile. Anybody can make texts that
    /// look like tokens; this is what they can ask of the store. Default: 64.
    pub fn with_max_lookups(mut self, max_lookups: usize) -> Self {
        self.max_lookups = max_lookups;
        self
    }

    /// How long the store may take to issue, list, replace, revoke or purge tokens before that fails.
    /// Default: 30 seconds; at most an hour.
    pub fn with_admin_timeout(mut self, timeout: Duration) -> Self {
        self.admin_timeout = timeout;
        self
    }

    /// Where the time comes from at which tokens are issued, replaced and revoked. Default:
    /// [`SystemClock`].
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Also tells other nodes at once what ends here, and is told by them: the
    /// [verifier](OpaqueTokens::verifier) asks these revocations about every token, as a
    /// [`RevocableVerifier`](crate::verifier::revocable::RevocableVerifier) does, and needs none
    /// around it.
    ///
    /// What is told lasts for as long as [tokens are remembered](Self::with_max_age) here and five
    /// minutes more. So much may the clocks of the nodes and of the store be apart, and so much longer
    /// may another node remember tokens, both together.
    ///
    /// Whoever drops the future that revokes, before it is ready, may leave other nodes untold: they
    /// then accept the token until they have to ask the store again.
    pub fn with_revocations(mut self, revocations: &Revocations) -> Self {
        self.revocations = Some(revocations.clone());
        self
    }

    /// The tokens.
    ///
    /// # Errors
    ///
    /// [`InvalidOpaqueTokens`] names what to change.
    pub fn build(self) -> Result<OpaqueTokens, InvalidOpaqueTokens> {
        if self.issuer.is_empty() {
            return Err(InvalidOpaqueTokens::EmptyIssuer);
        }
        let timeouts = [(self.timeout, MAX_TIMEOUT), (self.admin_timeout, MAX_ADMIN_TIMEOUT)];
        if timeouts.iter().any(|(timeout, longest)| timeout.is_zero() || timeout > longest) {
            return Err(InvalidOpaqueTokens::Timeout);
        }
        if self.max_lookups == 0 {
            return Err(InvalidOpaqueTokens::NoLookups);
        }
        if self.revocations.is_some() && self.max_age > APART {
            return Err(InvalidOpaqueTokens::LongMemory);
        }
        let issuer: Arc<str> = self.issuer.into();
        let format = Format::new(&self.prefix)?;
        let (used, unknown) = (LastUsed::new(self.store.clone()), UnknownTokens::new(self.max_age));
        let lookup = Lookup {
            issuer: issuer.clone(),
            format: format.clone(),
            peppers: self.peppers.clone(),
            store: self.store.clone(),
            used: used.clone(),
            unknown: unknown.clone(),
        };
        let turns = Turns {
            cached: CachedVerifier::new(lookup)
                .with_max_age(self.max_age)
                .with_max_tokens(self.max_tokens),
            turns: Semaphore::new(self.max_lookups.min(Semaphore::MAX_PERMITS)),
            timeout: self.timeout,
        };
        Ok(OpaqueTokens {
            issuer,
            format,
            peppers: self.peppers,
            store: self.store,
            timeout: self.admin_timeout,
            clock: self.clock,
            used,
            unknown,
            max_age: self.max_age,
            verifier: OpaqueVerifier::new(turns, self.revocations.as_ref()),
            revocations: self.revocations,
        })
    }
}

impl fmt::Debug for OpaqueTokensBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpaqueTokensBuilder")
            .field("issuer", &self.issuer)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}
