//! Tower layers that stand at the boundary of an HTTP or gRPC API.
//!
//! They answer five questions for every request: who is calling, what may the caller do, how often,
//! what is written down about it, and what exactly is said when the answer is no. Any service whose
//! requests and responses are those of the [`http`] crate can stand behind them: hyper, axum,
//! tonic.
//!
//! ```
//! use tower::ServiceBuilder;
//! use tower_gate::sink::{JsonLinesSink, QueueSink};
//! use tower_gate::store::memory::MemoryStore;
//! use tower_gate::{
//!     AuditLayer, AuthenticateLayer, FixedVerifier, Principal, Quota, RateLimitLayer,
//!     RequireScopeLayer, Requirement,
//! };
//! # use http::{Request, Response};
//! # use http_body_util::Empty;
//!
//! let viewer = Principal::builder("https://tools.example", "viewer").scopes("read:reports").build();
//! let verifier = FixedVerifier::new().with("the-token-of-the-viewer", viewer)?;
//!
//! // A thread of its own writes the trail: a slow disk holds up nobody.
//! let trail = QueueSink::new(JsonLinesSink::new(std::io::stdout()), 8192)?;
//! let service = ServiceBuilder::new()
//!     .layer(AuditLayer::new(trail))
//!     .layer(AuthenticateLayer::new(verifier))
//!     .layer(
//!         RateLimitLayer::new(MemoryStore::new(), Quota::per_minute(60).with_burst(20))
//!             .with_unlimited("admin", Requirement::role("admin")),
//!     )
//!     .layer(RequireScopeLayer::scope("read:reports"))
//!     .service_fn(|request: Request<Empty<bytes::Bytes>>| async move {
//!         let principal = Principal::of(request.extensions());
//!         assert!(principal.is_some(), "no handler runs without one");
//!         Ok::<_, std::convert::Infallible>(Response::new(Empty::<bytes::Bytes>::new()))
//!     });
//! # let _ = service;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The layers
//!
//! | layer | asks | refuses with |
//! |---|---|---|
//! | [`AuditLayer`] | – (writes down every request) | – |
//! | [`FailureLimitLayer`] | how often in vain? | 429 |
//! | [`AuthenticateLayer`] | who is calling? | 401, 400, 503 |
//! | [`RateLimitLayer`] | how often? | 429, 503 |
//! | [`ConcurrencyLimitLayer`] | how many at once? | 429, 503 |
//! | [`RequireScopeLayer`] | may the caller? | 403, 401 |
//!
//! They are met in this order, which [`ServiceBuilder`] keeps and axum's `Router::layer` reverses:
//! there, the last one that is added is the outermost. A layer that meets a request without the one
//! that it relies on refuses it with 500 and says which is missing; it never lets it through. A CORS
//! layer goes outside of all.
//!
//! An address, in audit events and in limits, is that of the [`PeerAddr`] that the server puts into
//! its requests; for axum and tonic, which have extensions of their own, see [`ClientIp`].
//!
//! Layers talk through the extensions of requests and responses alone: a [`Principal`] in a request
//! proves that it was verified, and a [`Rejection`] in a response says why it was refused.
//!
//! The [`guide`] has more: the [order of the stack](guide::ordering), a chapter for those who [come from
//! Phoenix](guide::from_phoenix), and one on [operating several nodes](guide::operating).
//!
//! # Features
//!
//! | feature | default | what |
//! |---|---|---|
//! | `jwt` | yes | `JwtVerifier` over aws-lc-rs |
//! | `tracing` | yes | the request span, refusals at debug level, `TracingSink` |
//! | `jwks` | | `Jwks`: keys from an issuer's endpoint, found by discovery and kept fresh |
//! | `reqwest` | | `ReqwestFetch`, the HTTP client that fetches them |
//! | `introspection` | | `IntrospectionVerifier`, which asks an issuer about opaque tokens |
//! | `revocation` | | `RevocableVerifier`: tokens revoked before their end, on all nodes at once |
//! | `opaque` | | `OpaqueTokens` and `OpaqueVerifier`: tokens of your own, kept as digests |
//! | `sqlite` | | `SqliteTokenStore`; needs Rust 1.94 |
//! | `postgres` | | `PostgresTokenStore`, `PostgresRevocations`; needs Rust 1.94 |
//! | `redis` | | `RedisStore`, `RedisRevocations`: limits and revocations in Redis or Valkey |
//! | `axum` | | extractors: `Principal`, `Option<Principal>`, `Claims<T>` |
//! | `tonic` | | a [`Rejection`] as a `tonic::Status` |
//! | `rust-crypto` | | `JwtVerifier` without a C compiler; slower, and of no effect beside `jwt` |
//! | `test-util` | | an issuer that signs tokens, for tests |
//! | `full` | | all but `test-util` |
//!
//! # Differences from other middleware
//!
//! - A refusal is a response. The inner service's error type never changes, so no error handler is
//!   needed, and none can turn a refusal into something else.
//! - The service that was polled ready is the one that is called, also where an answer had to be
//!   waited for.
//! - Layers have no type parameters, whatever they are configured with.
//!
//! [`ServiceBuilder`]: https://docs.rs/tower/latest/tower/struct.ServiceBuilder.html
#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

// Vocabulary: plain data and pure rules.
#[cfg(any(feature = "jwt", feature = "rust-crypto"))]
mod claims;
mod client_ip;
mod clock;
#[cfg(any(feature = "jwt", feature = "rust-crypto"))]
mod json;
#[cfg(any(feature = "introspection", feature = "jwks", feature = "revocation"))]
mod panics;
mod partition;
mod prehashed;
mod principal;
mod quota;
mod random;
mod requirement;
#[cfg(feature = "revocation")]
mod revocation;
mod scope;
mod seldom;
mod sharded;
mod token;

// Outcomes.
mod attempt;
mod event;
mod limit_fields;
pub mod rejection;
#[cfg_attr(not(feature = "tracing"), path = "trace_off.rs")]
mod trace;

// Ports and their adapters.
#[cfg(feature = "jwks")]
pub mod fetch;
pub mod sink;
pub mod store;
pub mod verifier;

// Layers, in the order in which a request meets them.
pub mod audit;
pub mod authenticate;
pub mod concurrency_limit;
pub mod failure_limit;
pub mod rate_limit;
pub mod require_scope;

// Edges.
#[cfg(feature = "axum")]
pub mod extract;
pub mod guide;
pub mod metadata;
#[cfg(feature = "test-util")]
pub mod test_util;

pub use self::client_ip::{
    ClientAddr, ClientIp, ForwardedOrigin, InvalidNetwork, Network, PeerAddr,
};
pub use self::clock::{Clock, ManualClock, SystemClock};
pub use self::event::{AuditEvent, Outcome};
pub use self::partition::{Partition, PartitionKey, PartitionValue};
pub use self::principal::{Principal, PrincipalBuilder, TokenKind};
pub use self::quota::{Decision, Decisions, InvalidQuota, Quota, Usage};
pub use self::requirement::Requirement;
#[cfg(feature = "revocation")]
pub use self::revocation::Revocation;
pub use self::scope::{InvalidScope, Scope, ScopeSet};
pub use self::token::{BearerToken, MalformedCredentials};

// The paved path through the rooms.
pub use self::audit::AuditLayer;
pub use self::authenticate::AuthenticateLayer;
pub use self::concurrency_limit::ConcurrencyLimitLayer;
pub use self::failure_limit::FailureLimitLayer;
pub use self::rate_limit::RateLimitLayer;
pub use self::rejection::{
    Challenge, InvalidChallenge, Rejection, RejectionKind, RequestHead, Responder,
};
pub use self::require_scope::RequireScopeLayer;
pub use self::sink::AuditSink;
pub use self::verifier::{FixedVerifier, TokenVerifier};

/// Compiles the example that the repository shows first.
#[cfg(all(doctest, feature = "axum", feature = "jwt"))]
#[doc = include_str!("../README.md")]
struct Readme;
