//! Middleware that finds out who is calling.
//!
//! It takes the bearer token of a request (RFC 6750 §2.1), asks a
//! [`TokenVerifier`](crate::TokenVerifier), and puts the [`Principal`](crate::Principal) into the
//! request. The client sees 401 `missing_token` without a token, 400 `invalid_request` with two or
//! with a broken header, 401 `invalid_token`, `token_expired`, `token_not_active` or
//! `token_revoked` with one that is not good, and 503 `temporarily_unavailable` while the verifier
//! cannot answer. None of these requests reaches the inner service.
//!
//! ```
//! use tower_gate::{AuthenticateLayer, FixedVerifier};
//!
//! let layer = AuthenticateLayer::new(FixedVerifier::new());
//! # let _ = layer;
//! ```
//!
//! Callers without a token let in as anonymous, a realm, bodies of the application's own, and the
//! token kept from the handler:
//!
//! ```
//! use bytes::Bytes;
//! use http::Response;
//! use tower_gate::{AuthenticateLayer, Challenge, FixedVerifier, Rejection, RequestHead};
//!
//! let layer = AuthenticateLayer::new(FixedVerifier::new())
//!     .optional()
//!     .with_challenge(Challenge::new("reports")?)
//!     .with_responder(|rejection: &Rejection, _: &RequestHead<'_>| {
//!         Response::new(Bytes::from(rejection.message()))
//!     })
//!     .with_token_stripped();
//! # let _ = layer;
//! # Ok::<(), tower_gate::InvalidChallenge>(())
//! ```
//!
//! # Order
//!
//! Inside [`AuditLayer`](crate::AuditLayer), so that refusals are written down; outside
//! [`RateLimitLayer`](crate::RateLimitLayer) by principal and
//! [`RequireScopeLayer`](crate::RequireScopeLayer), which need the principal. A CORS layer goes
//! outside of all: browsers send their preflight requests without a token, and this layer refuses
//! them like any other request without one.
//!
//! # Security
//!
//! Tokens come from the `Authorization` header alone, never from the query or the body. An optional
//! layer lets in requests *without* a token; a token that is there and not good is refused all the
//! same. Headers in which proxies assert an identity (`X-Forwarded-User`, `Remote-Groups` and the
//! like) are removed from every request, because a client can send them too; see
//! [`with_scrubbed_headers`](AuthenticateLayer::with_scrubbed_headers).

mod future;
mod layer;
mod scrub;
mod service;

pub use self::future::AuthenticateFuture;
pub use self::layer::AuthenticateLayer;
pub use self::service::Authenticate;
