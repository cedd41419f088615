//! Middleware that asks callers for scopes, roles or a strong login.
//!
//! A caller whose token lacks a scope sees 403 `insufficient_scope`, with the scopes to ask for in
//! the challenge; one that lacks a role 403 `forbidden`; one whose login is too weak or too old 401
//! `insufficient_user_authentication` with what is wanted (RFC 9470); and an anonymous one 401
//! `missing_token`.
//!
//! ```
//! use tower_gate::RequireScopeLayer;
//!
//! let layer = RequireScopeLayer::scope("read:reports");
//! # let _ = layer;
//! ```
//!
//! Several scopes, a role, and a login within the last five minutes:
//!
//! ```
//! use std::time::Duration;
//! use tower_gate::{RequireScopeLayer, Requirement};
//!
//! let layer = RequireScopeLayer::new(
//!     Requirement::scopes(["read:payouts", "write:payouts"])
//!         .and(Requirement::role("treasurer"))
//!         .and(Requirement::max_age(Duration::from_secs(300))),
//! );
//! # let _ = layer;
//! ```
//!
//! # Order
//!
//! Innermost, around a route or a group of routes, inside
//! [`AuthenticateLayer`](crate::AuthenticateLayer). Without that outside of it, every request is
//! refused with 500, because nobody has found out who is calling. In axum, use `route_layer`, so
//! that a path that does not exist stays 404.
//!
//! # Security
//!
//! It sees the caller, and not the thing that the request is about: whether *this* report belongs
//! to *this* caller is for the handler to decide, which may answer with a
//! [`Rejection`](crate::Rejection) of its own.

mod future;
mod layer;
mod service;

pub use self::future::RequireScopeFuture;
pub use self::layer::RequireScopeLayer;
pub use self::service::RequireScope;
