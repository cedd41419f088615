//! Who is calling: the outcome of a verification.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use http::Extensions;
use serde::Deserialize;

use crate::scope::ScopeSet;

/// The verified caller of a request.
///
/// One `Arc`: a clone costs a counter. Two principals are the same caller when issuer and subject
/// are both equal, because two issuers may use one subject for two people (OpenID Connect Core
/// §5.7); limits, audit and revocation count by that pair.
///
/// Only [`AuthenticateLayer`](crate::AuthenticateLayer) puts a principal into a request, under a
/// key that nothing outside this crate can name, so one found there has been verified. Read it in
/// an inner service with [`Principal::of`], in an axum handler as an argument.
///
/// ```
/// use tower_gate::Principal;
///
/// #[derive(Clone, Debug, PartialEq)]
/// struct Tenant(u32);
///
/// let principal = Principal::builder("https://issuer.example", "user-1")
///     .client("web")
///     .scopes("read:reports write:reports")
///     .roles(["editor"])
///     .value(Tenant(7))
///     .build();
/// assert_eq!(principal.subject(), "user-1");
/// assert_eq!(principal.get::<Tenant>(), Some(&Tenant(7)));
/// ```
#[derive(Clone)]
pub struct Principal(Arc<Inner>);

#[derive(Clone)]
pub(crate) struct Inner {
    pub(crate) issuer: Arc<str>,
    pub(crate) subject: Box<str>,
    pub(crate) client: Option<Box<str>>,
    pub(crate) scopes: ScopeSet,
    pub(crate) roles: Vec<Box<str>>,
    pub(crate) token_kind: TokenKind,
    pub(crate) token_id: Option<Box<str>>,
    pub(crate) key_id: Option<Arc<str>>,
    pub(crate) issued_at: Option<SystemTime>,
    pub(crate) expires_at: Option<SystemTime>,
    pub(crate) verify_again_at: Option<SystemTime>,
    pub(crate) acr: Option<Box<str>>,
    pub(crate) auth_time: Option<SystemTime>,
    pub(crate) stale: bool,
    /// Whether an issuer's claims describe it, which may leave out what it is.
    #[cfg_attr(not(feature = "revocation"), allow(dead_code, reason = "only revocations ask"))]
    pub(crate) foreign: bool,
    pub(crate) claims: Box<[u8]>,
    pub(crate) values: Extensions,
}

/// What kind of token proved the principal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum TokenKind {
    /// One of the application's fixed tokens.
    Fixed,
    /// A signed JSON Web Token.
    Jwt,
    /// A text that says nothing by itself and was looked up.
    Opaque,
}

impl TokenKind {
    /// The kind's name in audit events: `fixed`, `jwt`, `opaque`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fixed => "fixed",
            Self::Jwt => "jwt",
            Self::Opaque => "opaque",
        }
    }
}

impl Principal {
    /// Starts a principal, in a [`TokenVerifier`](crate::TokenVerifier) or a test.
    pub fn builder(issuer: impl Into<Arc<str>>, subject: &str) -> PrincipalBuilder {
        PrincipalBuilder(Inner {
            issuer: issuer.into(),
            subject: subject.into(),
            client: None,
            scopes: ScopeSet::default(),
            roles: Vec::new(),
            token_kind: TokenKind::Opaque,
            token_id: None,
            key_id: None,
            issued_at: None,
            expires_at: None,
            verify_again_at: None,
            acr: None,
            auth_time: None,
            stale: false,
            foreign: false,
            claims: Box::default(),
            values: Extensions::new(),
        })
    }

    /// The principal that the layers verified for this request; `None` for an anonymous one, and
    /// where no [`AuthenticateLayer`](crate::AuthenticateLayer) stands in front.
    ///
    /// The extensions are those of an `http` or `tonic` request.
    #[must_use]
    pub fn of(extensions: &Extensions) -> Option<&Self> {
        Authenticated::of(extensions)?.principal.as_ref()
    }

    /// The authority that vouches for the subject (`iss`).
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.0.issuer
    }

    /// The caller's name at the issuer (`sub`).
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.0.subject
    }

    /// The application that the token was given to (`client_id`).
    #[must_use]
    pub fn client(&self) -> Option<&str> {
        self.0.client.as_deref()
    }

    /// Whether an application calls for itself, with no user behind it: subject and client are one
    /// (RFC 9068 §5).
    #[must_use]
    pub fn is_client(&self) -> bool {
        self.client() == Some(self.subject())
    }

    /// What the token may be used for.
    #[must_use]
    pub fn scopes(&self) -> &ScopeSet {
        &self.0.scopes
    }

    /// The roles of the caller, in the issuer's order.
    pub fn roles(&self) -> impl Iterator<Item = &str> {
        self.0.roles.iter().map(AsRef::as_ref)
    }

    /// Whether the caller has this role, byte for byte.
    #[must_use]
    pub fn has_role(&self, role: &str) -> bool {
        self.roles().any(|had| had == role)
    }

    /// What kind of token proved the principal.
    #[must_use]
    pub fn token_kind(&self) -> TokenKind {
        self.0.token_kind
    }

    /// The public name of the token, safe to show and to write down (`jti`).
    #[must_use]
    pub fn token_id(&self) -> Option<&str> {
        self.0.token_id.as_deref()
    }

    /// The name of the key that signed the token (`kid`); `None` where that key has none.
    #[must_use]
    pub fn key_id(&self) -> Option<&str> {
        self.0.key_id.as_deref()
    }

    /// When the token was made (`iat`).
    #[must_use]
    pub fn issued_at(&self) -> Option<SystemTime> {
        self.0.issued_at
    }

    /// When the token ends (`exp`).
    #[must_use]
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.0.expires_at
    }

    /// When the verification has to be repeated at the latest: the end of the token, or whatever
    /// the verifier says comes before it.
    #[must_use]
    pub fn verify_again_at(&self) -> Option<SystemTime> {
        match (self.0.expires_at, self.0.verify_again_at) {
            (Some(end), Some(again)) => Some(end.min(again)),
            (end, again) => end.or(again),
        }
    }

    /// How the user proved who they are (`acr`, RFC 9470).
    #[must_use]
    pub fn acr(&self) -> Option<&str> {
        self.0.acr.as_deref()
    }

    /// When the user did so (`auth_time`).
    #[must_use]
    pub fn auth_time(&self) -> Option<SystemTime> {
        self.0.auth_time
    }

    /// Whether an earlier answer stood in for one that could not be had, of the issuer or of a store of
    /// revocations, which only a verifier that was told to do so accepts.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.0.stale
    }

    /// The token's claims as the application's own type, which may borrow from the principal.
    ///
    /// # Errors
    ///
    /// When the claims do not fit the type. A principal without claims fits only types whose every
    /// member has a default.
    pub fn claims<'a, T: Deserialize<'a>>(&'a self) -> Result<T, serde_json::Error> {
        match &*self.0.claims {
            [] => serde_json::from_slice(b"{}"),
            claims => serde_json::from_slice(claims),
        }
    }

    /// A value that the application attached to this principal.
    #[must_use]
    pub fn get<T: Clone + Send + Sync + 'static>(&self) -> Option<&T> {
        self.0.values.get()
    }

    pub(crate) fn of_kind(mut self, kind: TokenKind) -> Self {
        Arc::make_mut(&mut self.0).token_kind = kind;
        self
    }

    #[cfg(feature = "revocation")]
    pub(crate) fn is_foreign(&self) -> bool {
        self.0.foreign
    }

    #[cfg(any(feature = "introspection", feature = "revocation"))]
    pub(crate) fn gone_stale(mut self) -> Self {
        Arc::make_mut(&mut self.0).stale = true;
        self
    }

    /// About how much memory it takes, without the application's values.
    pub(crate) fn bytes(&self) -> usize {
        let inner = &*self.0;
        let texts = [&inner.client, &inner.token_id, &inner.acr];
        let texts: usize = texts.into_iter().flatten().map(|text| text.len()).sum();
        let roles: usize = inner.roles.iter().map(|role| role.len() + size_of_val(role)).sum();
        let names = inner.subject.len() + inner.scopes.as_str().len();
        size_of::<Inner>() + inner.claims.len() + names + texts + roles
    }

    /// The same principal with one more value, such as the user that the subject names.
    #[must_use]
    pub fn with_value<T: Clone + Send + Sync + 'static>(mut self, value: T) -> Self {
        Arc::make_mut(&mut self.0).values.insert(value);
        self
    }
}

/// Shows who, never the claims: they may hold what the issuer meant for nobody else.
impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Principal")
            .field("issuer", &self.issuer())
            .field("subject", &self.subject())
            .field("client", &self.client())
            .field("scopes", self.scopes())
            .field("roles", &self.0.roles)
            .field("token_kind", &self.token_kind())
            .field("token_id", &self.token_id())
            .field("key_id", &self.key_id())
            .finish_non_exhaustive()
    }
}

/// What the authentication of a request came to, as the extension that proves it took place.
#[derive(Clone)]
pub(crate) struct Authenticated {
    /// `None`: no token was presented, and the layer lets such requests through.
    pub(crate) principal: Option<Principal>,
}

impl Authenticated {
    /// `None`: no layer has authenticated the request.
    pub(crate) fn of(extensions: &Extensions) -> Option<&Self> {
        extensions.get()
    }
}

/// The parts of a [`Principal`], all optional but issuer and subject.
#[must_use = "a builder does nothing until `build`"]
pub struct PrincipalBuilder(pub(crate) Inner);

impl PrincipalBuilder {
    /// The application that the token was given to.
    pub fn client(mut self, client: &str) -> Self {
        self.0.client = Some(client.into());
        self
    }

    /// The granted scopes as one text with spaces between. Default: none.
    pub fn scopes(mut self, scopes: &str) -> Self {
        self.0.scopes = ScopeSet::from_text(scopes);
        self
    }

    /// The roles. Default: none.
    pub fn roles<R: Into<Box<str>>>(mut self, roles: impl IntoIterator<Item = R>) -> Self {
        self.0.roles = roles.into_iter().map(Into::into).collect();
        self
    }

    /// What kind of token proves the principal. Default: [`TokenKind::Opaque`].
    pub fn token_kind(mut self, kind: TokenKind) -> Self {
        self.0.token_kind = kind;
        self
    }

    /// The public name of the token; never the token or a part of it.
    pub fn token_id(mut self, token_id: &str) -> Self {
        self.0.token_id = Some(token_id.into());
        self
    }

    /// The name of the key that signed the token.
    pub fn key_id(mut self, key_id: &str) -> Self {
        self.0.key_id = Some(key_id.into());
        self
    }

    /// When the token was made.
    pub fn issued_at(mut self, at: impl Into<Option<SystemTime>>) -> Self {
        self.0.issued_at = at.into();
        self
    }

    /// When the token ends.
    pub fn expires_at(mut self, at: impl Into<Option<SystemTime>>) -> Self {
        self.0.expires_at = at.into();
        self
    }

    /// When the token must be verified again, where that comes before its end. Default: at its end.
    pub fn verify_again_at(mut self, at: impl Into<Option<SystemTime>>) -> Self {
        self.0.verify_again_at = at.into();
        self
    }

    /// How the user proved who they are.
    pub fn acr(mut self, acr: &str) -> Self {
        self.0.acr = Some(acr.into());
        self
    }

    /// When the user did so.
    pub fn auth_time(mut self, at: impl Into<Option<SystemTime>>) -> Self {
        self.0.auth_time = at.into();
        self
    }

    /// The claims, as the text of one JSON object, for [`Principal::claims`].
    pub fn claims(mut self, json: impl Into<Box<[u8]>>) -> Self {
        self.0.claims = json.into();
        self
    }

    /// A value of the application's, for [`Principal::get`]; one for each type.
    pub fn value<T: Clone + Send + Sync + 'static>(mut self, value: T) -> Self {
        self.0.values.insert(value);
        self
    }

    /// The principal.
    #[must_use]
    pub fn build(self) -> Principal {
        Principal(Arc::new(self.0))
    }
}

impl fmt::Debug for PrincipalBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrincipalBuilder").field("subject", &self.0.subject).finish_non_exhaustive()
    }
}
