use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use base64_simd::URL_SAFE_NO_PAD;
use serde::Deserialize;

use crate::principal::Principal;
use crate::verifier::{ErasedVerifier, TokenVerifier, VerifyError, VerifyErrorKind, VerifyRequest};

/// The longest token whose issuer is looked for.
const MAX_TOKEN: usize = 64 * 1024;

/// A verifier that hands each token to exactly one of several others, by what the token looks like.
///
/// A token that begins with a configured prefix goes to that prefix's verifier, the longest prefix
/// first. Of the others, one with two dots is a JWT: it goes to the verifier of the issuer that it
/// names, or, when that has none, to the one for all other JWTs. What is left goes to the verifier
/// for opaque tokens. A token without a verifier is refused. No verifier is asked after another has
/// refused, so that no weak one can accept what was meant for a strict one (OPAQUE-5).
///
/// The issuer that a token names is not verified at that point; it only chooses. The verifier that
/// it chooses accepts its own issuer's tokens alone, with that issuer's keys alone (JWT-41).
///
/// To remember tokens, put one [`CachedVerifier`] around this verifier, or one inside for each that
/// is to remember:
///
/// - Around: a token that is remembered costs the same as with one verifier alone. All share the
///   bounds, and a key that one issuer withdraws makes the tokens of all be verified again.
/// - Inside: each has bounds of its own and forgets by itself. But who is to be asked is looked for in
///   every request, remembered or not, which for an issuer is to decode and read the payload.
///
/// [`CachedVerifier`]: crate::verifier::CachedVerifier
///
/// ```
/// use tower_gate::verifier::RoutedVerifier;
/// use tower_gate::{AuthenticateLayer, FixedVerifier};
///
/// # let (ours, partner, tools) = (FixedVerifier::new(), FixedVerifier::new(), FixedVerifier::new());
/// let verifier = RoutedVerifier::new()
///     .with_issuer("https://issuer.example", ours)
///     .with_issuer("https://partner.example", partner)
///     .with_prefix("tool_", tools);
/// let layer = AuthenticateLayer::new(verifier);
/// # let _ = layer;
/// ```
#[derive(Clone, Default)]
#[must_use = "a verifier does nothing until a layer asks it"]
pub struct RoutedVerifier {
    /// The longest first.
    prefixes: Vec<Route>,
    issuers: Vec<Route>,
    jwts: Option<Arc<dyn ErasedVerifier>>,
    opaque: Option<Arc<dyn ErasedVerifier>>,
}

#[derive(Clone)]
struct Route {
    name: Box<str>,
    verifier: Arc<dyn ErasedVerifier>,
}

impl RoutedVerifier {
    /// Refuses every token.
    pub fn new() -> Self {
        Self::default()
    }

    /// Tokens that begin with this text.
    ///
    /// # Panics
    ///
    /// When the prefix has a verifier already.
    pub fn with_prefix(mut self, prefix: &str, verifier: impl TokenVerifier) -> Self {
        panic_if_taken("prefix", &self.prefixes, prefix);
        self.prefixes.push(Route::new(prefix, verifier));
        self.prefixes.sort_by_key(|route| std::cmp::Reverse(route.name.len()));
        self
    }

    /// JWTs that name this issuer, byte for byte.
    ///
    /// # Panics
    ///
    /// When the issuer has a verifier already.
    pub fn with_issuer(mut self, issuer: &str, verifier: impl TokenVerifier) -> Self {
        panic_if_taken("issuer", &self.issuers, issuer);
        self.issuers.push(Route::new(issuer, verifier));
        self
    }

    /// JWTs that name no issuer that is known here.
    pub fn with_jwts(mut self, verifier: impl TokenVerifier) -> Self {
        self.jwts = Some(Arc::new(verifier));
        self
    }

    /// Tokens that are no JWTs.
    pub fn with_opaque(mut self, verifier: impl TokenVerifier) -> Self {
        self.opaque = Some(Arc::new(verifier));
        self
    }

    fn route(&self, token: &str) -> Result<&Arc<dyn ErasedVerifier>, VerifyErrorKind> {
        if let Some(route) = self.prefixes.iter().find(|route| token.starts_with(&*route.name)) {
            return Ok(&route.verifier);
        }
        let mut parts = token.split('.');
        let (_, Some(payload), Some(_), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return self.opaque.as_ref().ok_or(VerifyErrorKind::UnknownToken);
        };
        if !self.issuers.is_empty() && token.len() <= MAX_TOKEN {
            let payload = URL_SAFE_NO_PAD.decode_to_vec(payload).unwrap_or_default();
            // What is malformed reaches the verifier of the other JWTs, which says so.
            let claimed: Option<Claimed<'_>> = serde_json::from_slice(&payload).ok();
            let is_claimed =
                |route: &&Route| claimed.as_ref().is_some_and(|claimed| claimed.iss == *route.name);
            if let Some(route) = self.issuers.iter().find(is_claimed) {
                return Ok(&route.verifier);
            }
        }
        self.jwts.as_ref().ok_or(VerifyErrorKind::WrongIssuer)
    }

    fn all(&self) -> impl Iterator<Item = &Arc<dyn ErasedVerifier>> {
        let named = self.prefixes.iter().chain(&self.issuers).map(|route| &route.verifier);
        named.chain(&self.jwts).chain(&self.opaque)
    }
}

impl TokenVerifier for RoutedVerifier {
    fn recall(&self, text: &[u8], now: SystemTime) -> Option<Principal> {
        let verifier = self.route(std::str::from_utf8(text).ok()?).ok()?;
        verifier.recall(text, now)
    }

    fn try_verify(&self, request: &VerifyRequest) -> Option<Result<Principal, VerifyError>> {
        match self.route(request.token.as_str()) {
            Ok(verifier) => verifier.try_verify(request),
            Err(kind) => Some(Err(kind.into())),
        }
    }

    async fn verify(&self, request: &VerifyRequest) -> Result<Principal, VerifyError> {
        let verifier = self.route(request.token.as_str())?;
        verifier.clone().verify(request.clone()).await
    }

    fn generation(&self) -> u64 {
        self.all().map(|verifier| verifier.generation()).fold(0, u64::wrapping_add)
    }
}

impl Route {
    fn new(name: &str, verifier: impl TokenVerifier) -> Self {
        Self { name: name.into(), verifier: Arc::new(verifier) }
    }
}

/// Of two with one name, the second would never be asked, however strict it is.
#[expect(clippy::panic, reason = "a verifier that would never be asked must not start")]
fn panic_if_taken(kind: &str, routes: &[Route], name: &str) {
    if routes.iter().any(|route| *route.name == *name) {
        panic!(
            "two verifiers of one RoutedVerifier are for the {kind} {name:?}: remove one of them, the \
             second would never be asked",
        );
    }
}

impl fmt::Debug for RoutedVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |routes: &[Route]| routes.iter().map(|route| route.name.clone()).collect();
        let (prefixes, issuers): (Vec<_>, Vec<_>) = (names(&self.prefixes), names(&self.issuers));
        f.debug_struct("RoutedVerifier")
            .field("prefixes", &prefixes)
            .field("issuers", &issuers)
            .finish_non_exhaustive()
    }
}

/// What a token says of its issuer before anything is verified. Read with less care than its
/// verifier takes, because it costs everybody who sends anything.
#[derive(Deserialize)]
struct Claimed<'a> {
    #[serde(borrow)]
    iss: Cow<'a, str>,
}
