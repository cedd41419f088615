use std::fmt;
use std::sync::Arc;

use http::HeaderName;
use tower_layer::Layer;

use crate::authenticate::Authenticate;
use crate::authenticate::scrub::Scrub;
use crate::clock::{Clock, SystemClock};
use crate::rejection::{Challenge, RefusalStyle, Responder};
use crate::seldom::Seldom;
use crate::verifier::{ErasedVerifier, TokenVerifier};

/// Layer that applies [`Authenticate`]; see the [module](crate::authenticate).
#[derive(Clone)]
#[must_use = "a layer does nothing until it is applied"]
pub struct AuthenticateLayer {
    config: Arc<Config>,
}

/// What every request's authentication needs.
#[derive(Clone)]
pub(super) struct Config {
    pub(super) verifier: Arc<dyn ErasedVerifier>,
    pub(super) clock: Arc<dyn Clock>,
    /// `None` refuses in the style of an AuthenticateLayer outside, or in the default one.
    pub(super) style: Option<Arc<RefusalStyle>>,
    pub(super) scrub: Scrub,
    pub(super) max_token_bytes: usize,
    pub(super) optional: bool,
    pub(super) strip_token: bool,
    pub(super) says_unavailable: Arc<Seldom>,
}

impl AuthenticateLayer {
    /// Asks this verifier about every token, and refuses requests without one.
    pub fn new(verifier: impl TokenVerifier) -> Self {
        Self {
            config: Arc::new(Config {
                verifier: Arc::new(verifier),
                clock: Arc::new(SystemClock),
                style: None,
                scrub: Scrub::default(),
                max_token_bytes: 8 * 1024,
                optional: false,
                strip_token: false,
                says_unavailable: Arc::default(),
            }),
        }
    }

    /// Lets requests without a bearer token through, as anonymous. A token that is there must still
    /// be good. Default: they are refused.
    pub fn optional(mut self) -> Self {
        self.config_mut().optional = true;
        self
    }

    /// The realm and the metadata of the challenges, for this layer and those inside it. Default:
    /// the realm `api`.
    pub fn with_challenge(mut self, challenge: Challenge) -> Self {
        self.style_mut().challenge = challenge;
        self
    }

    /// Who writes the bodies of refusals, for this layer and those inside it. Default: problem
    /// documents; see [`rejection`](crate::rejection).
    pub fn with_responder(mut self, responder: impl Responder) -> Self {
        self.style_mut().responder = Some(Arc::new(responder));
        self
    }

    /// Tells clients `invalid_token` for expired, early and revoked tokens as well. Default: they
    /// are told apart once they are known to be authentic.
    pub fn with_uniform_errors(mut self) -> Self {
        self.style_mut().uniform = true;
        self
    }

    /// The longest token that the verifier is asked about, in bytes. Longer ones are refused with
    /// 401 `invalid_token`. Default: 8192.
    pub fn with_max_token_bytes(mut self, max: usize) -> Self {
        self.config_mut().max_token_bytes = max;
        self
    }

    /// The request headers that are removed before the inner service sees them, in place of the
    /// default, those in which proxies assert an identity: `Remote-`, `X-Remote-`, `X-Forwarded-`
    /// and `X-Auth-Request-` with `User`, `Groups`, `Email`, `Name` or `Preferred-Username` where
    /// they have it, `X-Remote-Group`, `X-Authenticated-User`, `X-User-Id`, `-Email`, `-Name` and
    /// `-Roles`, and the like of authentik, Google, Cloudflare, Amazon and Tailscale.
    pub fn with_scrubbed_headers(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.config_mut().scrub = Scrub::new(names);
        self
    }

    /// Removes the `Authorization` header before the inner service sees it. Default: it stays as it
    /// came, marked as sensitive (BEARER-16).
    pub fn with_token_stripped(mut self) -> Self {
        self.config_mut().strip_token = true;
        self
    }

    /// Where the time comes from. Default: [`SystemClock`].
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.config_mut().clock = Arc::new(clock);
        self
    }

    fn style_mut(&mut self) -> &mut RefusalStyle {
        Arc::make_mut(self.config_mut().style.get_or_insert_default())
    }

    /// What the services made so far share stays as it is.
    fn config_mut(&mut self) -> &mut Config {
        Arc::make_mut(&mut self.config)
    }
}

impl<S> Layer<S> for AuthenticateLayer {
    type Service = Authenticate<S>;

    fn layer(&self, inner: S) -> Authenticate<S> {
        Authenticate::new(inner, self.config.clone())
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
