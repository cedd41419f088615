//! What `trace.rs` does, without the feature `tracing`: nothing.

use std::error::Error;
use std::fmt::Display;

use http::{Method, Uri};

use crate::principal::Principal;
use crate::rejection::Rejection;

#[derive(Clone, Debug)]
pub(crate) struct RequestSpan;

impl RequestSpan {
    pub(crate) fn open(_: &Method, _: &Uri) -> Self {
        Self
    }

    pub(crate) fn in_scope<T>(&self, f: impl FnOnce() -> T) -> T {
        f()
    }

    pub(crate) fn record(&self, _: &Principal) {}
}

pub(crate) fn record_on_current(_: &Principal) {}

pub(crate) fn refused(_: &Rejection) {}

pub(crate) fn not_verified(_: &dyn Error) {}

pub(crate) fn unavailable(_: &dyn Error) {}

#[cfg(feature = "axum")]
pub(crate) fn claims_misfit(_: usize) {}

pub(crate) fn audit_lost(_: &(impl Display + ?Sized)) {}

#[cfg(any(feature = "jwt", feature = "rust-crypto"))]
pub(crate) fn key_skipped(_: usize, _: &(impl Display + ?Sized)) {}

#[cfg(feature = "jwks")]
pub(crate) fn keys_not_fetched(_: &dyn Error) {}

#[cfg(feature = "jwks")]
pub(crate) fn keys_too_old() {}
