//! All logging of this crate. Without the feature `tracing`, `trace_off.rs` stands in its place.

use std::error::Error;
use std::fmt::Display;

use http::{Method, Uri};
use tracing::{Span, debug, error, field, info_span, warn};

use crate::principal::Principal;
use crate::rejection::{Rejection, RejectionKind};

/// The span of one request, whose fields the layers inside fill in.
#[derive(Clone, Debug)]
pub(crate) struct RequestSpan(Span);

impl RequestSpan {
    pub(crate) fn open(method: &Method, uri: &Uri) -> Self {
        Self(info_span!(
            "request",
            method = method.as_str(),
            path = uri.path(),
            subject = field::Empty,
            client = field::Empty,
            scopes = field::Empty,
        ))
    }

    pub(crate) fn in_scope<T>(&self, f: impl FnOnce() -> T) -> T {
        self.0.in_scope(f)
    }

    pub(crate) fn record(&self, principal: &Principal) {
        record(&self.0, principal);
    }
}

/// Puts the principal on the span that the application has opened, if that declares the fields.
pub(crate) fn record_on_current(principal: &Principal) {
    record(&Span::current(), principal);
}

fn record(span: &Span, principal: &Principal) {
    if span.is_disabled() {
        return;
    }
    span.record("subject", principal.subject());
    span.record("scopes", principal.scopes().as_str());
    if let Some(client) = principal.client() {
        span.record("client", client);
    }
}

/// Why a request was refused: for the operator, who may know more than the client.
pub(crate) fn refused(rejection: &Rejection) {
    let (error, reason) = (rejection.error(), rejection.reason());
    if rejection.kind() == RejectionKind::LayerMissing {
        error!(reason, "{}", rejection.message());
    } else {
        debug!(error, reason, "request refused");
    }
}

/// What a verifier says of a token that it does not accept.
pub(crate) fn not_verified(error: &dyn Error) {
    debug!(%error, cause = error.source().map(field::display), "token not verified");
}

/// A verifier or a store cannot answer.
pub(crate) fn unavailable(error: &dyn Error) {
    warn!(%error, cause = error.source().map(field::display), "a request could not be checked");
}

/// The claims of a good token are not what a handler asks for.
#[cfg(feature = "axum")]
pub(crate) fn claims_misfit(column: usize) {
    debug!(column, "the claims do not fit the type of the handler");
}

/// An audit event is gone.
pub(crate) fn audit_lost(error: &(impl Display + ?Sized)) {
    warn!(%error, "audit events are being lost");
}

/// A key of a set that cannot be used, and why.
#[cfg(any(feature = "jwt", feature = "rust-crypto"))]
pub(crate) fn key_skipped(index: usize, error: &(impl Display + ?Sized)) {
    warn!(index, %error, "a key of the set is not used");
}

/// The keys of an issuer cannot be brought up to date.
#[cfg(feature = "jwks")]
pub(crate) fn keys_not_fetched(error: &dyn Error) {
    warn!(%error, cause = error.source().map(field::display), "an issuer's keys were not fetched");
}

/// There are no keys any more: everybody is refused until some come.
#[cfg(feature = "jwks")]
pub(crate) fn keys_too_old() {
    error!("an issuer's keys are too old to be used");
}
