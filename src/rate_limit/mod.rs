//! Middleware that limits how often each caller comes.
//!
//! A caller over its quota sees 429 `rate_limited` with `Retry-After`, or over gRPC
//! `RESOURCE_EXHAUSTED` with the wait in a `RetryInfo`. Every answer, refusals of layers further in
//! included, carries two fields of draft-ietf-httpapi-ratelimit-headers-10:
//!
//! ```text
//! RateLimit-Policy: "partner";q=5;w=30
//! RateLimit: "partner";r=3;t=6
//! ```
//!
//! Policy *partner* has 5 units at once, which take 30 seconds to come back; 3 are left, and there
//! will be one more in 6 seconds.
//!
//! ```
//! use tower_gate::store::memory::MemoryStore;
//! use tower_gate::{Quota, RateLimitLayer};
//!
//! let layer = RateLimitLayer::new(MemoryStore::new(), Quota::per_minute(60).with_burst(20));
//! # let _ = layer;
//! ```
//!
//! Tiers by role, each with units of its own, and one that is not limited:
//!
//! ```
//! use tower_gate::store::memory::MemoryStore;
//! use tower_gate::{Quota, RateLimitLayer, Requirement};
//!
//! let layer = RateLimitLayer::new(MemoryStore::new(), Quota::per_minute(60).with_burst(20))
//!     .with_unlimited("admin", Requirement::role("admin"))
//!     .with_tier("internal", Requirement::role("internal"), Quota::per_minute(600).with_burst(100))
//!     .with_tier("partner", Requirement::role("partner"), Quota::per_minute(10).with_burst(5));
//! # let _ = layer;
//! ```
//!
//! Several quotas at once, of which a refused request takes nothing; one of them for all callers of
//! a tenant, and one that is tried out in shadow:
//!
//! ```
//! use tower_gate::rate_limit::{HeaderStyle, Policy, Reset};
//! use tower_gate::store::memory::MemoryStore;
//! use tower_gate::{Partition, Quota, RateLimitLayer};
//!
//! #[derive(Clone)]
//! struct Tenant(u64);
//!
//! let tenant = Partition::tenant(|principal| Some(principal.get::<Tenant>()?.0.into()));
//! let policies = [
//!     Policy::new("burst", Quota::per_second(10)),
//!     Policy::new("hour", Quota::per_hour(1000)).with_failures_refunded(),
//!     Policy::new("tenant", Quota::per_minute(6000)).with_partition(tenant),
//!     Policy::new("strict", Quota::per_minute(30)).in_shadow(),
//! ];
//! let layer = RateLimitLayer::of(MemoryStore::new(), policies)
//!     .with_anonymous("anonymous", Quota::per_minute(10))
//!     .with_headers(HeaderStyle::XRateLimit(Reset::Delta));
//! # let _ = layer;
//! ```
//!
//! A request costs one unit of each, or what [`with_cost`](Policy::with_cost) makes of its head; a
//! handler that finds out more says so with [`Cost`]. Quotas may differ by principal
//! ([`with_override`](Policy::with_override)) and change while the program runs ([`LiveQuota`]).
//!
//! # Order
//!
//! By principal, which is the default: inside [`AuthenticateLayer`](crate::AuthenticateLayer),
//! without which every request is refused with 500. By address
//! ([`by_address`](RateLimitLayer::by_address)): outside of it, against callers that send bad
//! tokens; there it does not know the application's [`Responder`](crate::Responder), which is given
//! to it by [`with_responder`](RateLimitLayer::with_responder). Tiers are tiers of principals, and
//! belong inside in both cases. A CORS layer goes outside of all, so that preflight requests, which
//! it answers itself, are not counted.
//!
//! # Security
//!
//! A caller is the pair of issuer and subject, as verified; nothing that a client merely says
//! chooses its bucket. Anonymous callers, whom an optional AuthenticateLayer lets through, are
//! counted by address. A request without an address is refused with 500 and not counted in a
//! bucket that all of them share. A store that cannot answer refuses with 503;
//! a [`FallbackStore`](crate::store::FallbackStore) lets each node limit by itself meanwhile.
//!
//! Whoever can make a handler fail is not limited by a policy that refunds failures, and whoever can
//! make one cost more than was taken owes a burst at most: let a policy take what a request usually
//! costs, and settle the rest.

mod config;
mod cost;
mod future;
mod layer;
mod policy;
mod question;
mod service;

pub use self::cost::Cost;
pub use self::future::RateLimitFuture;
pub use self::layer::RateLimitLayer;
pub use self::policy::{LiveQuota, Policy};
pub use self::service::RateLimit;
pub use crate::limit_fields::{HeaderStyle, Reset};
