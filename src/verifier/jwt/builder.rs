use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::claims::{ClaimNames, Path, TimeRules};
use crate::verifier::jwt::source::KeySource;
use crate::verifier::jwt::verify::{Kind, Policy};
use crate::verifier::jwt::{JwtVerifier, KeySet, VerifyingKey};

/// The most that clocks may be apart (JWT-36).
pub(crate) const MAX_LEEWAY: Duration = Duration::from_secs(300);

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
#[must_use = "a builder does nothing until `build`"]
pub struct JwtVerifierBuilder {
    issuer: String,
    audiences: Vec<String>,
    keys: Vec<VerifyingKey>,
    source: Option<Arc<dyn KeySource>>,
    times: TimeRules,
    names: ClaimNames,
    kind: Kind,
    /// How audiences end that belong to applications and not to APIs.
    foreign_audience: Option<&'static str>,
}

/// Why a [`JwtVerifier`] cannot be built.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
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
    /// ID tokens of that application would let its users, and whoever they trusted, into the API.
    #[error("{0:?} is the audience of an application's ID tokens, not that of an API")]
    ForeignAudience(Box<str>),
    /// Clocks that are further apart must be set.
    #[error("the leeway may be at most 300 seconds: synchronise the clocks")]
    LeewayTooLong,
    /// Every token would be refused.
    #[error("max_lifetime and max_age must be more than zero")]
    ZeroTime,
    /// Keys that are given and keys that are fetched cannot be told apart when one must go.
    #[error("the verifier has keys of its own beside those it fetches: use one or the other")]
    TwoKeySources,
    /// Whoever has those keys could sign in the name of this issuer.
    #[error(
        "the keys were discovered for the issuer {0:?}, which is not the verifier's: discover them for \
         the verifier's, or name their document with Jwks::at"
    )]
    ForeignKeys(Box<str>),
    /// A claim has one meaning.
    #[error(
        "two purposes want the claim {0:?}: scopes, each kind of role, the client and required \
         claims must begin with names of their own, which RFC 9068 has not taken"
    )]
    TakenClaim(Box<str>),
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
            source: None,
            times: TimeRules {
                leeway: Duration::from_secs(30),
                max_lifetime: Duration::from_secs(86_400),
                max_age: None,
            },
            names: ClaimNames::default(),
            kind: Kind::default(),
            foreign_audience: None,
        }
    }
}

impl JwtVerifierBuilder {
    /// The issuer as its tokens and its metadata spell it, from which its keys can be found.
    #[must_use]
    pub fn issuer_name(&self) -> &str {
        &self.issuer
    }

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

    /// Keys that are fetched from the issuer and kept fresh, in place of fixed ones. Those that were
    /// discovered must be this issuer's.
    #[cfg(feature = "jwks")]
    pub fn with_jwks(self, jwks: &crate::verifier::jwks::Jwks) -> Self {
        Self { source: Some(jwks.source()), ..self }
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
    /// of the claims only `iss`, `sub`, `aud` and `exp` must be there. An ID token is still refused
    /// where it shows itself by `nonce`, `at_hash` or `c_hash`, and a logout token by `events`. A token
    /// of the type `at+jwt` may name its client otherwise than by `client_id`.
    ///
    /// Ask the issuer for an audience that it gives to no other kind of token.
    pub fn accept_plain_jwt(mut self) -> Self {
        self.kind.plain = true;
        self
    }

    /// Where the scopes are, when not in `scope`: the names that lead there, such as `["scp"]`. A
    /// text with spaces between, or a list.
    pub fn with_scopes_at<'a>(mut self, path: impl IntoIterator<Item = &'a str>) -> Self {
        self.names.scopes = to_path(path);
        self
    }

    /// Another place of roles, beside `roles`: the names that lead there, such as
    /// `["realm_access", "roles"]`. A list of texts.
    pub fn with_roles_at<'a>(mut self, path: impl IntoIterator<Item = &'a str>) -> Self {
        self.names.roles.push(to_path(path));
        self
    }

    /// Another name of the client, beside `client_id` and `azp`.
    pub fn with_client_at(mut self, name: &str) -> Self {
        self.names.clients.push(name.into());
        self
    }

    /// A claim that must be there with this value, such as `token_use` with that of `access`.
    pub fn with_required_claim(mut self, name: &str, value: &str) -> Self {
        self.names.fixed.push((name.into(), value.into()));
        self
    }

    /// Takes the client for the audience, for issuers whose access tokens have no `aud`: the
    /// audiences are then the clients that may call.
    pub fn with_client_as_audience(mut self) -> Self {
        self.kind.audience_is_client = true;
        self
    }

    /// Refuses plain tokens that name no client, for issuers whose ID tokens name none.
    pub fn with_client_required(mut self) -> Self {
        self.kind.client_required = true;
        self
    }

    /// Refuses to be built for an audience that ends so.
    pub(super) fn without_audiences_like(mut self, end: &'static str) -> Self {
        self.foreign_audience = Some(end);
        self
    }

    /// The verifier.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`] names what to change.
    pub fn build(self) -> Result<JwtVerifier, InvalidConfig> {
        if self.keys.len() > 64 {
            return Err(InvalidConfig::TooManyKeys);
        }
        if self.issuer.is_empty() || self.audiences.iter().any(String::is_empty) {
            return Err(InvalidConfig::EmptyName);
        }
        let is_foreign = |name: &&String| {
            self.foreign_audience.is_some_and(|end| name.trim_end_matches('/').ends_with(end))
        };
        if let Some(audience) = self.audiences.iter().find(is_foreign) {
            return Err(InvalidConfig::ForeignAudience(audience.as_str().into()));
        }
        if self.times.leeway > MAX_LEEWAY {
            return Err(InvalidConfig::LeewayTooLong);
        }
        if self.times.max_lifetime.is_zero() || self.times.max_age.is_some_and(|age| age.is_zero())
        {
            return Err(InvalidConfig::ZeroTime);
        }
        check_names(&self.names)?;
        let keys = match (self.source, self.keys.is_empty()) {
            (Some(source), true) => source,
            (Some(_), false) => return Err(InvalidConfig::TwoKeySources),
            (None, false) => Arc::new(Arc::new(KeySet { keys: self.keys })),
            (None, true) => return Err(InvalidConfig::NoKeys),
        };
        check_issuer(&*keys, &self.issuer)?;
        let policy = Policy {
            issuer: Arc::from(self.issuer),
            audiences: self.audiences,
            times: self.times,
            names: self.names,
            kind: self.kind,
        };
        Ok(JwtVerifier { keys, policy })
    }
}

impl fmt::Debug for JwtVerifierBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtVerifierBuilder")
            .field("issuer", &self.issuer)
            .field("audiences", &self.audiences)
            .field("keys", &self.keys)
            .finish_non_exhaustive()
    }
}

/// Keys that were discovered are of the issuer whose tokens they check (JWT-41).
pub(crate) fn check_issuer(keys: &dyn KeySource, issuer: &str) -> Result<(), InvalidConfig> {
    let Some(discovered) = keys.issuer() else {
        return Ok(());
    };
    let is_of_it = match discovered.split_once("{tenantid}") {
        // So Entra ID's metadata for all tenants says it.
        Some((start, end)) => {
            let tenant = issuer.strip_prefix(start).and_then(|rest| rest.strip_suffix(end));
            tenant.is_some_and(|tenant| !tenant.is_empty() && !tenant.contains('/'))
        }
        // Some tokens of Google name it without the scheme.
        None => discovered == issuer || discovered.strip_prefix("https://") == Some(issuer),
    };
    if is_of_it { Ok(()) } else { Err(InvalidConfig::ForeignKeys(discovered.into())) }
}

pub(crate) fn to_path<'a>(names: impl IntoIterator<Item = &'a str>) -> Path {
    names.into_iter().map(Into::into).collect()
}

/// Claims are read once, in one pass, so that each can serve one purpose.
pub(crate) fn check_names(names: &ClaimNames) -> Result<(), InvalidConfig> {
    const TAKEN: [&str; 15] = [
        "iss",
        "sub",
        "aud",
        "exp",
        "nbf",
        "iat",
        "jti",
        "client_id",
        "acr",
        "auth_time",
        "cnf",
        "nonce",
        "at_hash",
        "c_hash",
        "events",
    ];
    let paths = names.roles.iter().chain([&names.scopes]);
    let firsts = paths.map(|path| path.first().map_or("", |first| &**first));
    let singles = names.clients.iter().chain(names.fixed.iter().map(|(name, _)| name));
    let mut seen = Vec::from(TAKEN);
    for name in firsts.chain(singles.map(|name| &**name)) {
        if name.is_empty() || seen.contains(&name) {
            return Err(InvalidConfig::TakenClaim(name.into()));
        }
        seen.push(name);
    }
    Ok(())
}
