//! What `trace.rs` does, without the feature `tracing`: nothing.

use std::error::Error;
use std::fmt::Display;
use std::time::Duration;

use crate::principal::Principal;
use crate::rejection::Rejection;

#[derive(Clone, Debug)]
pub(crate) struct RequestSpan;

impl RequestSpan {
    pub(crate) fn open(_: &str, _: &str) -> Self {
        Self
    }

    pub(crate) fn in_scope<T>(&self, f: impl FnOnce() -> T) -> T {
        f()
    }

    pub(crate) fn is_current(&self) -> bool {
        false
    }

    pub(crate) fn record(&self, _: &Principal) {}
}

pub(crate) fn record_on_current(_: &Principal) {}

pub(crate) fn refused(_: &Rejection) {}

pub(crate) fn banned(_: &str, _: Duration) {}

pub(crate) fn not_verified(_: &dyn Error) {}

pub(crate) fn unavailable(_: &dyn Error) {}

pub(crate) fn store_is_out(_: &dyn Error) {}

pub(crate) fn store_is_back(_: u64) {}

pub(crate) fn not_placed(_: &str) {}

pub(crate) fn would_limit(_: &str) {}

pub(crate) fn never_passes(_: &str, _: u32, _: u32) {}

#[cfg(feature = "axum")]
pub(crate) fn claims_misfit(_: usize) {}

pub(crate) fn audit_lost(_: &(impl Display + ?Sized)) {}

pub(crate) fn audit_recovered(_: u64) {}

#[cfg(any(feature = "jwt", feature = "rust-crypto"))]
pub(crate) fn key_skipped(_: usize, _: &(impl Display + ?Sized)) {}

#[cfg(any(feature = "jwt", feature = "rust-crypto"))]
pub(crate) fn key_for_encryption(_: usize) {}

#[cfg(feature = "jwks")]
pub(crate) fn keys_not_fetched(_: &dyn Error) {}

#[cfg(feature = "jwks")]
pub(crate) fn metadata_not_fetched(_: &dyn Error) {}

#[cfg(feature = "introspection")]
pub(crate) fn locked_out(_: &str, _: u16) {}

#[cfg(feature = "introspection")]
pub(crate) fn stale_answer(_: &Principal, _: &dyn Error) {}

#[cfg(feature = "jwks")]
pub(crate) fn keys_too_old() {}

#[cfg(feature = "revocation")]
pub(crate) fn revocations_not_loaded(_: &dyn Error) {}

#[cfg(feature = "revocation")]
pub(crate) fn revocations_too_old() {}

#[cfg(feature = "revocation")]
pub(crate) fn revocations_unwatched(_: &dyn Error) {}

#[cfg(feature = "opaque")]
pub(crate) fn nodes_not_told(_: &dyn Error) {}

#[cfg(feature = "opaque")]
pub(crate) fn last_used_lost(_: usize, _: &dyn Error) {}
