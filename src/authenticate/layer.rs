use std::fmt;
use std::sync::Arc;

use http::HeaderName;
use tower_layer::Layer;

use crate::authenticate::Authenticate;
use crate::clock::{Clock, SystemClock};
use crate::rejection::{Challenge, RefusalStyle, Responder};
use crate::verifier::{ErasedVerifier, TokenVerifier};

/// Layer that applies [`Authenticate`]; see the [module](crate::authenticate).
#[derive(Clone)]
#[must_use = "a layer does nothing until it is applied"]
pub struct AuthenticateLayer {
    config: Config,
}

/// What every request's authentication needs.
#[derive(Clone)]
pub(super) struct Config {
    pub(super) verifier: Arc<dyn ErasedVerifier>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) style: Arc<RefusalStyle>,
    pub(super) scrubbed_headers: Vec<HeaderName>,
    pub(super) max_token_bytes: usize,
    pub(super) optional: bool,
    pub(super) strip_token: bool,
}

/// Headers in which proxies tell an application who calls.
const IDENTITY_HEADERS: [HeaderName; 6] = [
    HeaderName::from_static("remote-user"),
    HeaderName::from_static("x-auth-request-user"),
    HeaderName::from_static("x-authenticated-user"),
    HeaderName::from_static("x-forwarded-user"),
    HeaderName::from_static("x-remote-user"),
    HeaderName::from_static("x-user-id"),
];

impl AuthenticateLayer {
    /// Asks this verifier about every token, and refuses requests without one.
    pub fn new(verifier: impl TokenVerifier) -> Self {
        Self {
            config: Config {
                verifier: Arc::new(verifier),
                clock: Arc::new(SystemClock),
                style: Arc::default(),
                scrubbed_headers: IDENTITY_HEADERS.to_vec(),
                max_token_bytes: 8 * 1024,
                optional: false,
                strip_token: false,
            },
        }
    }

    /// Lets requests without a bearer token through, as anonymous. A token that is there must still
    /// be good. Default: they are refused.
    pub fn optional(mut self) -> Self {
        self.config.optional = true;
        self
    }

    /// The realm and the metadata of the challenges, for this layer and those inside it. Default:
    /// the realm `api`.
    pub fn with_challenge(mut self, challenge: Challenge) -> Self {
        Arc::make_mut(&mut self.config.style).challenge = challenge;
        self
    }

    /// Who writes the bodies of refusals, for this layer and those inside it. Default: problem
    /// documents; see [`rejection`](crate::rejection).
    pub fn with_responder(mut self, responder: impl Responder) -> Self {
        Arc::make_mut(&mut self.config.style).responder = Some(Arc::new(responder));
        self
    }

    /// Tells clients `invalid_token` for expired, early and revoked tokens as well. Default: they
    /// are told apart once they are known to be authentic.
    pub fn with_uniform_errors(mut self) -> Self {
        Arc::make_mut(&mut self.config.style).uniform = true;
        self
    }

    /// The longest token that the verifier is asked about, in bytes. Longer ones are refused with
    /// 401 `invalid_token`. Default: 8192.
    pub fn with_max_token_bytes(mut self, max: usize) -> Self {
        self.config.max_token_bytes = max;
        self
    }

    /// The request headers that are removed before the inner service sees them, in place of the
    /// default: `Remote-User`, `X-Auth-Request-User`, `X-Authenticated-User`, `X-Forwarded-User`,
    /// `X-Remote-User` and `X-User-Id`.
    pub fn with_scrubbed_headers(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.config.scrubbed_headers = names.into_iter().collect();
        self
    }

    /// Removes the `Authorization` header before the inner service sees it. Default: it stays as it
    /// came, marked as sensitive (BEARER-16).
    pub fn with_token_stripped(mut self) -> Self {
        self.config.strip_token = true;
        self
    }

    /// Where the time comes from. Default: [`SystemClock`].
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.config.clock = Arc::new(clock);
        self
    }
}

impl<S> Layer<S> for AuthenticateLayer {
    type Service = Authenticate<S>;

    fn layer(&self, inner: S) -> Authenticate<S> {
        Authenticate::new(inner, Arc::new(self.config.clone()))
    }
}

impl fmt::Debug for AuthenticateLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthenticateLayer")
            .field("optional", &self.config.optional)
            .field("style", &self.config.style)
            .finish_non_exhaustive()
    }
}
