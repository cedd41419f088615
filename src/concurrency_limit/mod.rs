//! Middleware that limits how many requests of a caller run at once.
//!
//! A caller that has as many running as it may sees 429 `rate_limited` with `Retry-After: 1`, or
//! over gRPC `RESOURCE_EXHAUSTED`. A limit on all callers together
//! ([`global`](ConcurrencyLimitLayer::global), or by route) is the service's matter and not the
//! caller's: it answers 503 `temporarily_unavailable`, or `UNAVAILABLE`. A request runs until the
//! body of its response has ended, failed or been dropped, so that downloads and streams count for
//! as long as they last; one that panics, or whose client goes away, ends there.
//!
//! Where the limit is a caller's own, every answer carries the fields of
//! draft-ietf-httpapi-ratelimit-headers-10, beside those of other limits, or those of the style that
//! these have ([`with_headers`](ConcurrencyLimitLayer::with_headers)):
//!
//! ```text
//! RateLimit-Policy: "concurrency";q=10;qu="concurrent-requests"
//! RateLimit: "concurrency";r=7
//! ```
//!
//! ```
//! use tower_gate::ConcurrencyLimitLayer;
//!
//! let layer = ConcurrencyLimitLayer::new(10);
//! # let _ = layer;
//! ```
//!
//! Tiers by role, with one that is not limited; and what all callers of a route may do together:
//!
//! ```
//! use axum::extract::MatchedPath;
//! use tower_gate::{ConcurrencyLimitLayer, Partition, Requirement};
//!
//! let callers = ConcurrencyLimitLayer::new(10)
//!     .with_unlimited("admin", Requirement::role("admin"))
//!     .with_tier("partner", Requirement::role("partner"), 2);
//! let routes = ConcurrencyLimitLayer::global(100)
//!     .with_name("route")
//!     .with_partition(Partition::route(|extensions| {
//!         Some(extensions.get::<MatchedPath>()?.as_str().into())
//!     }));
//! # let _ = (callers, routes);
//! ```
//!
//! # Order
//!
//! By principal, which is the default: inside [`AuthenticateLayer`](crate::AuthenticateLayer),
//! without which every request is refused with 500, and inside
//! [`RateLimitLayer`](crate::RateLimitLayer), whose refusals then hold no place. By address
//! ([`by_address`](ConcurrencyLimitLayer::by_address)): outside, against callers that keep verifiers
//! busy. A CORS layer goes outside of all.
//!
//! # Differences from tower
//!
//! `tower::limit::ConcurrencyLimit` has one limit for all, lets requests wait, and counts one as done
//! when the head of its response is there.
//!
//! # Security
//!
//! Whose request it is, is what was verified, or the address; see [`Partition`](crate::Partition). A
//! caller takes memory only while it has a request running. The requests that are running are those
//! of one process. After an upgrade, such as to a WebSocket, the connection outlives the response
//! and is not counted.

mod body;
mod future;
mod layer;
mod permit;
mod service;

pub use self::body::ConcurrencyLimitBody;
pub use self::future::ConcurrencyLimitFuture;
pub use self::layer::ConcurrencyLimitLayer;
pub use self::service::ConcurrencyLimit;
