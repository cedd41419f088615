//! Middleware that bans addresses that send bad tokens.
//!
//! Each address has a quota of failures. The one that uses it up brings a ban: for as long as that
//! lasts, everything from the address is refused with 429 `rate_limited` and `Retry-After`, or over
//! gRPC with `RESOURCE_EXHAUSTED`, before any token is verified. Other addresses notice nothing.
//!
//! ```
//! use std::time::Duration;
//! use tower_gate::{FailureLimitLayer, Quota};
//!
//! let ban = Duration::from_secs(15 * 60);
//! let layer = FailureLimitLayer::new(Quota::per_minute(10), ban);
//! # let _ = layer;
//! ```
//!
//! Bans that grow up to a day, an own gateway that is never banned, and requests without a token
//! counted as well:
//!
//! ```
//! use std::time::Duration;
//! use tower_gate::{FailureLimitLayer, Network, Quota, Rejection, RejectionKind};
//!
//! let layer = FailureLimitLayer::new(Quota::per_hour(20), Duration::from_secs(60))
//!     .with_escalation(Duration::from_secs(86_400))
//!     .with_exempt([Network::parse("192.0.2.10")?])
//!     .with_failures(|rejection: &Rejection| {
//!         matches!(rejection.kind(), RejectionKind::InvalidToken | RejectionKind::MissingToken)
//!     });
//! # let _ = layer;
//! # Ok::<(), tower_gate::InvalidNetwork>(())
//! ```
//!
//! # What is a failure
//!
//! A response with a [`Rejection`](crate::Rejection) in its extensions that says so, whichever layer
//! or handler inside has made it. By default that is a token which is not known to be authentic:
//! forged, unknown or malformed. A request without a token is none, nor is one whose token has
//! expired, has been revoked or is meant for another API: those are the mistakes of honest clients.
//!
//! # Order
//!
//! Inside [`AuditLayer`](crate::AuditLayer), which names the policy and, for a refusal, the reason
//! `banned`; outside [`AuthenticateLayer`](crate::AuthenticateLayer), inside of which it refuses
//! every request with 500. A CORS layer goes outside of all. A request whose address is not known is
//! refused with 500; see [`ClientIp`](crate::ClientIp).
//!
//! # Security
//!
//! A ban is one of an address, before anybody is authenticated: a good token from there is refused
//! too. Counting by client or subject instead would let strangers lock out whomever they name;
//! [`with_client`](FailureLimitLayer::with_client) counts them behind each address alone. Where
//! many callers share an address, choose a generous quota and a short ban, or exempt it. An IPv4
//! address and a /64 network of IPv6 are one address.
//!
//! Guesses that are sent all at once do not slip past the count. While the requests from an address that
//! are being verified would bring a ban if all of them failed, further ones wait, in the order in which
//! they came, and go on as soon as one of them has been let in; so that the burst of the quota is also
//! how many tokens of one address are verified at once.
//!
//! What is held back like that has an `Authorization` header, or is an attempt by what
//! [`with_attempts`](FailureLimitLayer::with_attempts) says: without it, secrets elsewhere, in a body, a
//! cookie or another header, are counted as they fail, and as many may be tried meanwhile as are sent
//! at once. Credentials that are no bearer token are held back as well, because a handler may judge them.
//! A place is given back when an `AuthenticateLayer` finds a token good, when a handler says so
//! ([`Attempt`]), or when the request is answered: on a slow route where nobody judges anything, let no
//! request be an attempt. A client that goes away before it is answered has learned nothing, and is not
//! counted.
//!
//! Bans are kept in the memory of each process. [`bans`](FailureLimitLayer::bans) says who is banned, and
//! lifts a ban.

mod bans;
mod failures;
mod future;
mod layer;
mod service;

pub use self::bans::Bans;
pub use self::future::FailureLimitFuture;
pub use self::layer::FailureLimitLayer;
pub use self::service::FailureLimit;
pub use crate::attempt::Attempt;
