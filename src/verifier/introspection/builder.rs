use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use base64_simd::STANDARD;
use http::HeaderValue;
use thiserror::Error;

use crate::claims::{ClaimNames, TimeRules};
use crate::fetch::{ErasedFetch, Fetch, InvalidUrl, IssuerUrl};
use crate::token::BearerToken;
use crate::verifier::CachedVerifier;
use crate::verifier::introspection::answer::Policy;
use crate::verifier::introspection::endpoint::{Endpoint, form_encoded};
use crate::verifier::introspection::flights::Flights;
use crate::verifier::introspection::outage::Outage;
use crate::verifier::introspection::refused::RefusedTokens;
use crate::verifier::introspection::signed::{AnswerKeys, SignedAnswers};
use crate::verifier::introspection::{Asking, IntrospectionVerifier};
use crate::verifier::jwt::{InvalidConfig, MAX_LEEWAY, check_issuer, check_names, to_path};

/// The longest that a refusal may be remembered (OPAQUE-36).
const MAX_REFUSED_AGE: Duration = Duration::from_secs(10);

/// The longest that a question may take.
const MAX_TIMEOUT: Duration = Duration::from_secs(60);

/// A verifier without its issuer; only [`issuer`](Self::issuer) leads on.
#[must_use = "a builder does nothing until `build`"]
pub struct IssuerWanted {
    url: String,
    fetch: Arc<dyn ErasedFetch>,
}

/// A verifier without its audience; only [`audience`](Self::audience) leads on.
#[must_use = "a builder does nothing until `build`"]
pub struct AudienceWanted {
    endpoint: IssuerWanted,
    issuer: String,
}

/// A verifier with everything that it cannot do without but credentials.
#[must_use = "a builder does nothing until `build`"]
pub struct IntrospectionBuilder {
    url: String,
    fetch: Arc<dyn ErasedFetch>,
    issuer: String,
    audiences: Vec<String>,
    audience_optional: bool,
    credentials: Vec<Credentials>,
    leeway: Duration,
    names: ClaimNames,
    signed: Option<SignedAnswers>,
    timeout: Duration,
    max_age: Duration,
    max_refused_age: Duration,
    max_stale: Option<Duration>,
    max_tokens: usize,
    max_in_progress: usize,
}

/// How this API proves to the issuer who it is (RFC 7662 §2.1).
enum Credentials {
    Client { id: String, secret: String },
    Bearer(String),
    OfFetch,
}

/// Why an [`IntrospectionVerifier`] cannot be built.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum InvalidIntrospection {
    /// An address that must not be asked.
    #[error(transparent)]
    Url(#[from] InvalidUrl),
    /// An empty name would match a token that names nobody.
    #[error("issuer, audience and the name that signed answers are for must not be empty")]
    EmptyName,
    /// RFC 7662 §2.1 lets nobody ask who does not say who they are.
    #[error(
        "the endpoint must know who asks: use with_client or with_bearer, or \
         with_credentials_of_fetch where the fetcher has a certificate or adds a header"
    )]
    NoCredentials,
    /// One request proves one thing.
    #[error("the verifier has two kinds of credentials: keep one of them")]
    TwoCredentials,
    /// What cannot be sent, or proves nothing.
    #[error(
        "the credentials cannot be used: client and secret must not be empty, and a bearer token \
         must be one (RFC 6750 §2.1)"
    )]
    BrokenCredentials,
    /// Clocks that are further apart must be set.
    #[error("the leeway may be at most 300 seconds: synchronise the clocks")]
    LeewayTooLong,
    /// Times that cannot be kept.
    #[error(
        "the timeout must be more than zero and at most 60 seconds, and refusals may be remembered \
         for at most 10 seconds"
    )]
    Times,
    /// It would change nothing.
    #[error("with_stale_if_error must be longer than with_max_age, and that more than zero")]
    StaleTooShort,
    /// Nothing could be asked.
    #[error("at least one question must be allowed at a time")]
    NoQuestions,
    /// A claim has one meaning, and keys that were discovered are of this issuer.
    #[error(transparent)]
    Names(#[from] InvalidConfig),
}

impl IssuerWanted {
    pub(super) fn new(url: String, fetch: impl Fetch) -> Self {
        Self { url, fetch: Arc::new(fetch) }
    }

    /// Whose endpoint it is: the issuer of every principal. An answer that names one must name this,
    /// byte for byte.
    pub fn issuer(self, issuer: impl Into<String>) -> AudienceWanted {
        AudienceWanted { endpoint: self, issuer: issuer.into() }
    }
}

impl AudienceWanted {
    /// The name of this API in the `aud` of answers, byte for byte.
    pub fn audience(self, audience: impl Into<String>) -> IntrospectionBuilder {
        IntrospectionBuilder {
            url: self.endpoint.url,
            fetch: self.endpoint.fetch,
            issuer: self.issuer,
            audiences: vec![audience.into()],
            audience_optional: false,
            credentials: Vec::new(),
            leeway: Duration::from_secs(30),
            names: ClaimNames::default(),
            signed: None,
            timeout: Duration::from_secs(5),
            max_age: Duration::from_secs(10),
            max_refused_age: Duration::from_secs(1),
            max_stale: None,
            max_tokens: 10_000,
            max_in_progress: 256,
        }
    }
}

// How the question is asked.
impl IntrospectionBuilder {
    /// Says who asks with a client and its secret, in an `Authorization: Basic` header
    /// (`client_secret_basic`, RFC 6749 §2.3.1).
    pub fn with_client(mut self, id: impl Into<String>, secret: impl Into<String>) -> Self {
        self.credentials.push(Credentials::Client { id: id.into(), secret: secret.into() });
        self
    }

    /// Says who asks with a token of this API's own.
    pub fn with_bearer(mut self, token: impl Into<String>) -> Self {
        self.credentials.push(Credentials::Bearer(token.into()));
        self
    }

    /// Leaves it to the fetcher to say who asks: with a client certificate, or a header that it adds.
    pub fn with_credentials_of_fetch(mut self) -> Self {
        self.credentials.push(Credentials::OfFetch);
        self
    }

    /// Wants answers that the issuer has signed for this API (RFC 9701), and takes no others. The
    /// name is what the issuer puts into their `aud`: mostly the client that asks.
    pub fn with_signed_answers(
        mut self,
        keys: impl Into<AnswerKeys>,
        name: impl Into<Box<str>>,
    ) -> Self {
        self.signed = Some(SignedAnswers { keys: keys.into().0, name: name.into() });
        self
    }

    /// How long a question may take. Default: 5 seconds; at most 60. The fetcher may have a shorter
    /// time of its own, as `ReqwestFetch::new` has of 5 seconds.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How many questions may be on their way at once, a quarter of them only about tokens that were
    /// accepted before; more are refused with 503. Default: 256.
    pub fn with_max_in_progress(mut self, max: usize) -> Self {
        self.max_in_progress = max;
        self
    }
}

// What is accepted.
impl IntrospectionBuilder {
    /// One more name of this API; a token needs one of them.
    pub fn with_audience(mut self, audience: impl Into<String>) -> Self {
        self.audiences.push(audience.into());
        self
    }

    /// Accepts answers that name no audience, for issuers that do not send it. One that is there must
    /// still be this API's.
    ///
    /// Nothing but the issuer then keeps tokens for other APIs out: make sure that it answers
    /// `"active": false` to this client for them (RFC 7662 §4).
    pub fn accept_missing_audience(mut self) -> Self {
        self.audience_optional = true;
        self
    }

    /// How far the issuer's clock and this one may be apart. Default: 30 seconds; at most 300.
    pub fn with_leeway(mut self, leeway: Duration) -> Self {
        self.leeway = leeway;
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
}

// What is remembered.
impl IntrospectionBuilder {
    /// How long an answer is good for: the time within which a revoked token may still be accepted.
    /// Never beyond `exp`. Zero asks every time. Default: 10 seconds.
    pub fn with_max_age(mut self, max_age: Duration) -> Self {
        self.max_age = max_age;
        self
    }

    /// How long a refusal is remembered. Zero asks every time. Default: one second; at most 10.
    pub fn with_max_refused_age(mut self, max_age: Duration) -> Self {
        self.max_refused_age = max_age;
        self
    }

    /// How many good tokens are remembered at most. Default: 10 000.
    pub fn with_max_tokens(mut self, max_tokens: usize) -> Self {
        self.max_tokens = max_tokens;
        self
    }

    /// Accepts a token on an earlier answer, at most this old, while the endpoint gives none. Each
    /// use is marked: [`Principal::is_stale`](crate::Principal::is_stale), `stale` in the audit
    /// event, a warning in the log. Default: never; the request is refused with 503.
    ///
    /// For as long as the endpoint is down, or made to look so, a revoked token stays good up to
    /// this age.
    pub fn with_stale_if_error(mut self, max_age: Duration) -> Self {
        self.max_stale = Some(max_age);
        self
    }

    /// The verifier.
    ///
    /// # Errors
    ///
    /// [`InvalidIntrospection`] names what to change.
    pub fn build(self) -> Result<IntrospectionVerifier, InvalidIntrospection> {
        let url = IssuerUrl::parse(&self.url)?;
        let name = self.signed.as_ref().map(|signed| &*signed.name);
        let names = self.audiences.iter().chain([&self.issuer]).map(String::as_str).chain(name);
        if names.into_iter().any(str::is_empty) {
            return Err(InvalidIntrospection::EmptyName);
        }
        if self.leeway > MAX_LEEWAY {
            return Err(InvalidIntrospection::LeewayTooLong);
        }
        let bad_timeout = self.timeout.is_zero() || self.timeout > MAX_TIMEOUT;
        if bad_timeout || self.max_refused_age > MAX_REFUSED_AGE {
            return Err(InvalidIntrospection::Times);
        }
        let remembers = |longest| longest > self.max_age && !self.max_age.is_zero();
        if self.max_stale.is_some_and(|max_stale| !remembers(max_stale)) {
            return Err(InvalidIntrospection::StaleTooShort);
        }
        if self.max_in_progress == 0 {
            return Err(InvalidIntrospection::NoQuestions);
        }
        check_names(&self.names)?;
        if let Some(signed) = &self.signed {
            check_issuer(&*signed.keys, &self.issuer)?;
        }
        let credentials = match &*self.credentials {
            [] => return Err(InvalidIntrospection::NoCredentials),
            [one] => one.header()?,
            _ => return Err(InvalidIntrospection::TwoCredentials),
        };
        // The issuer is asked again within seconds, so that no lifetime is too long.
        let times = TimeRules { leeway: self.leeway, max_lifetime: Duration::MAX, max_age: None };
        let policy = Policy {
            issuer: self.issuer.into(),
            audiences: self.audiences,
            audience_optional: self.audience_optional,
            times,
            names: self.names,
            max_age: self.max_age,
        };
        // Where nothing is remembered, no token is known to have been accepted.
        let kept_free = if self.max_age.is_zero() { 0 } else { self.max_in_progress / 4 };
        let outage = Arc::new(Outage::new(self.timeout));
        let endpoint = Endpoint {
            url,
            fetch: self.fetch,
            credentials,
            timeout: self.timeout,
            policy,
            signed: self.signed,
            outage: outage.clone(),
            locked_out: AtomicBool::new(false),
        };
        Ok(IntrospectionVerifier {
            asking: Arc::new(Asking {
                cached: CachedVerifier::new(endpoint)
                    .with_max_age(self.max_age)
                    .with_max_tokens(self.max_tokens),
                refused: RefusedTokens::new(self.max_refused_age),
                outage,
                max_stale: self.max_stale,
                leeway: self.leeway,
            }),
            flights: Arc::new(Flights::new(self.max_in_progress, kept_free)),
        })
    }
}

impl Credentials {
    /// The value of `Authorization`, if it is for us to send.
    fn header(&self) -> Result<Option<HeaderValue>, InvalidIntrospection> {
        let broken = InvalidIntrospection::BrokenCredentials;
        let text = match self {
            Self::OfFetch => return Ok(None),
            Self::Client { id, secret } if id.is_empty() || secret.is_empty() => {
                return Err(broken);
            }
            Self::Client { id, secret } => {
                let pair = format!("{}:{}", form_encoded(id), form_encoded(secret));
                format!("Basic {}", STANDARD.encode_to_string(pair))
            }
            Self::Bearer(token) => match BearerToken::parse(token) {
                Ok(token) => format!("Bearer {}", token.as_str()),
                Err(_) => return Err(broken),
            },
        };
        let mut header = HeaderValue::try_from(text).map_err(|_| broken)?;
        header.set_sensitive(true);
        Ok(Some(header))
    }
}

impl fmt::Debug for IssuerWanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IssuerWanted")
    }
}

impl fmt::Debug for AudienceWanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AudienceWanted").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

/// Without the address, whose query may hold a secret, and the credentials.
impl fmt::Debug for IntrospectionBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IntrospectionBuilder")
            .field("issuer", &self.issuer)
            .field("audiences", &self.audiences)
            .finish_non_exhaustive()
    }
}
