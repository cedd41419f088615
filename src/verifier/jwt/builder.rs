use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::claims::TimeRules;
use crate::verifier::jwt::{JwtVerifier, KeySet, VerifyingKey};

/// The most that clocks may be apart (JWT-36).
const MAX_LEEWAY: Duration = Duration::from_secs(300);

/// A verifier without its issuer; only [`issuer`](Self::issuer) leads on.
#[derive(Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct IssuerWanted(());

/// A verifier without its audience; only [`audience`](Self::audience) leads on.
#[derive(Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct AudienceWanted {
    issuer: String,
}

/// A verifier with everything that it cannot do without but keys.
#[derive(Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct JwtVerifierBuilder {
    issuer: String,
    audiences: Vec<String>,
    keys: Vec<VerifyingKey>,
    times: TimeRules,
    plain: bool,
}

/// Why a [`JwtVerifier`] cannot be built.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum InvalidConfig {
    /// Every token would be refused.
    #[error("the verifier has no key: add one with with_key or with_keys")]
    NoKeys,
    /// More keys than a verifier looks through.
    #[error("a verifier may have at most 64 keys: remove those that are no longer in use")]
    TooManyKeys,
    /// An empty issuer or audience would match a token that names nobody.
    #[error("issuer and audience must not be empty")]
    EmptyName,
    /// Clocks that are further apart must be set.
    #[error("the leeway may be at most 300 seconds: synchronise the clocks")]
    LeewayTooLong,
    /// Every token would be refused.
    #[error("max_lifetime and max_age must be more than zero")]
    ZeroTime,
}

impl IssuerWanted {
    pub(super) fn new() -> Self {
        Self(())
    }

    /// The only issuer whose tokens are accepted, byte for byte as its tokens have it in `iss`.
    pub fn issuer(self, issuer: impl Into<String>) -> AudienceWanted {
        AudienceWanted { issuer: issuer.into() }
    }
}

impl AudienceWanted {
    /// The name of this API in the `aud` of tokens, byte for byte.
    pub fn audience(self, audience: impl Into<String>) -> JwtVerifierBuilder {
        JwtVerifierBuilder {
            issuer: self.issuer,
            audiences: vec![audience.into()],
            keys: Vec::new(),
            times: TimeRules {
                leeway: Duration::from_secs(30),
                max_lifetime: Duration::from_secs(86_400),
                max_age: None,
            },
            plain: false,
        }
    }
}

impl JwtVerifierBuilder {
    /// One more name of this API; a token needs one of them.
    pub fn with_audience(mut self, audience: impl Into<String>) -> Self {
        self.audiences.push(audience.into());
        self
    }

    /// One more key.
    pub fn with_key(mut self, key: VerifyingKey) -> Self {
        self.keys.push(key);
        self
    }

    /// More keys.
    pub fn with_keys(mut self, keys: KeySet) -> Self {
        self.keys.extend(keys.keys);
        self
    }

    /// How far the issuer's clock and this one may be apart. Default: 30 seconds; at most 300.
    pub fn with_leeway(mut self, leeway: Duration) -> Self {
        self.times.leeway = leeway;
        self
    }

    /// The longest time from `iat`, or from now without one, to `exp`. Default: 24 hours.
    pub fn with_max_lifetime(mut self, lifetime: Duration) -> Self {
        self.times.max_lifetime = lifetime;
        self
    }

    /// The longest time since `iat`. Default: none but the lifetime.
    pub fn with_max_age(mut self, age: Duration) -> Self {
        self.times.max_age = Some(age);
        self
    }

    /// Accepts tokens of issuers that predate RFC 9068 as well: `typ` may be `JWT` or absent, and
    /// of the claims only `iss`, `aud`, `exp` and one of `sub`, `client_id` and `azp` must be
    /// there. An ID token is still refused where it shows itself by `nonce`, `at_hash` or `c_hash`.
    ///
    /// Ask the issuer for an audience that it gives to no other kind of token.
    pub fn accept_plain_jwt(mut self) -> Self {
        self.plain = true;
        self
    }

    /// The verifier.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`] names what to change.
    pub fn build(self) -> Result<JwtVerifier, InvalidConfig> {
        if self.keys.is_empty() {
            return Err(InvalidConfig::NoKeys);
        }
        if self.keys.len() > 64 {
            return Err(InvalidConfig::TooManyKeys);
        }
        if self.issuer.is_empty() || self.audiences.iter().any(String::is_empty) {
            return Err(InvalidConfig::EmptyName);
        }
        if self.times.leeway > MAX_LEEWAY {
            return Err(InvalidConfig::LeewayTooLong);
        }
        if self.times.max_lifetime.is_zero() || self.times.max_age.is_some_and(|age| age.is_zero())
        {
            return Err(InvalidConfig::ZeroTime);
        }
        Ok(JwtVerifier {
            issuer: Arc::from(self.issuer),
            audiences: self.audiences,
            keys: self.keys,
            times: self.times,
            plain: self.plain,
        })
    }
}
