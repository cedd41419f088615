//! Middleware that writes down every request: who, from where, what, and what became of it.
//!
//! The client sees nothing of it. Every request makes one [`AuditEvent`](crate::AuditEvent), also
//! one that is refused, that is dropped because its client went away, or whose handler panics.
//!
//! ```
//! use tower_gate::AuditLayer;
//! use tower_gate::sink::{JsonLinesSink, QueueSink};
//!
//! let layer = AuditLayer::new(QueueSink::new(JsonLinesSink::new(std::io::stdout()), 8192)?);
//! # let _ = layer;
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! With the peer's address from axum, without which the address is `null`:
//!
//! ```
//! use std::net::SocketAddr;
//! use axum::extract::ConnectInfo;
//! use tower_gate::sink::NullSink;
//! use tower_gate::{AuditLayer, ClientIp};
//!
//! let layer = AuditLayer::new(NullSink).with_client_ip(ClientIp::from_extensions(|extensions| {
//!     extensions.get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip())
//! }));
//! # let _ = layer;
//! ```
//!
//! With the route's template, which a request has inside of axum's router alone:
//!
//! ```
//! use axum::Router;
//! use axum::extract::MatchedPath;
//! use axum::routing::get;
//! use tower_gate::AuditLayer;
//! use tower_gate::sink::NullSink;
//!
//! let layer = AuditLayer::new(NullSink)
//!     .with_route(|extensions| extensions.get::<MatchedPath>().map(MatchedPath::as_str));
//! let app: Router = Router::new().route("/reports/{id}", get(|| async {})).layer(layer);
//! # let _ = app;
//! ```
//!
//! # Order
//!
//! Outermost of this crate's layers, so that refusals of the others are in the trail. The layers
//! inside tell it who calls; without an [`AuthenticateLayer`](crate::AuthenticateLayer) inside,
//! nobody does.
//!
//! It also opens a `tracing` span named `request` with the fields `method`, `path`, `subject`,
//! `client` and `scopes`, in which everything inside runs; the last three are filled in when the
//! caller is known. Turn the span off by a filter on the target `tower_gate`; the events do not
//! depend on it.
//!
//! # Security
//!
//! An event names a principal only when one was verified: what a refused token claims about itself
//! is not written down. Events hold no token, no query and no body. The names `trace_id` and
//! `request_id` are the client's unless a proxy replaces them: they help to find a request, and prove
//! nothing.
//!
//! # gRPC
//!
//! A refusal has its `grpc-status` in its head, and its event has it too. A method that answers sends
//! it in trailers, after its event is made: that event has the HTTP status alone.

mod correlation;
mod future;
mod layer;
mod service;

pub use self::future::AuditFuture;
pub use self::layer::AuditLayer;
pub use self::service::Audit;
