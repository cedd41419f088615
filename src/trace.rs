//! All logging of this crate. Without the feature `tracing`, `trace_off.rs` stands in its place.

use std::error::Error;
use std::fmt::Display;
use std::time::Duration;

use tracing::{Span, debug, error, field, info_span, warn};

use crate::principal::Principal;
use crate::rejection::{Rejection, RejectionKind};

/// The span of one request, whose fields the layers inside fill in.
#[derive(Clone, Debug)]
pub(crate) struct RequestSpan(Span);

impl RequestSpan {
    pub(crate) fn open(method: &str, path: &str) -> Self {
        Self(info_span!(
            "request",
            method,
            path,
            subject = field::Empty,
            client = field::Empty,
            scopes = field::Empty,
        ))
    }

    pub(crate) fn in_scope<T>(&self, f: impl FnOnce() -> T) -> T {
        self.0.in_scope(f)
    }

    pub(crate) fn is_current(&self) -> bool {
        self.0 == Span::current()
    }

    pub(crate) fn record(&self, principal: &Principal) {
        record(&self.0, principal);
    }
}

/// Puts the principal on the span that the application has opened, if that declares the fields.
pub(crate) fn record_on_current(principal: &Principal) {
    if tracing::dispatcher::has_been_set() {
        record(&Span::current(), principal);
    }
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

/// An address has failed too often. Which one, the audit event of the request says.
pub(crate) fn banned(policy: &str, length: Duration) {
    warn!(policy, seconds = length.as_secs_f64(), "an address is banned");
}

/// What a verifier says of a token that it does not accept.
pub(crate) fn not_verified(error: &dyn Error) {
    debug!(%error, cause = causes(error), "token not verified");
}

/// A verifier or a store cannot answer.
pub(crate) fn unavailable(error: &dyn Error) {
    warn!(%error, cause = causes(error), "a request could not be checked");
}

/// A store is left alone, and another one decides in its place.
pub(crate) fn store_is_out(error: &dyn Error) {
    warn!(cause = causes(error), "a rate limit store cannot answer: another decides in its place");
}

/// It decides again, after the other has done so for so many requests since the program started.
pub(crate) fn store_is_back(fallbacks: u64) {
    warn!(fallbacks, "a rate limit store answers again");
}

/// A limit in shadow does not know whose a request is.
pub(crate) fn not_placed(policy: &str) {
    debug!(policy, "a limit in shadow cannot tell whose a request is");
}

/// A limit in shadow would have refused a request.
pub(crate) fn would_limit(policy: &str) {
    debug!(policy, "a limit in shadow would have refused the request");
}

/// A request costs more than its policy ever has.
pub(crate) fn never_passes(policy: &str, cost: u32, burst: u32) {
    warn!(policy, cost, burst, "a request costs more than the burst, and can never pass");
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

/// Audit events go where they should again, after so many did not.
pub(crate) fn audit_recovered(lost: u64) {
    warn!(lost, "audit events were lost; no more are");
}

/// A key of a set that cannot be used, and why.
#[cfg(any(feature = "jwt", feature = "rust-crypto"))]
pub(crate) fn key_skipped(index: usize, error: &(impl Display + ?Sized)) {
    warn!(index, %error, "a key of the set is not used");
}

/// A key of a set that nobody expects to be used.
#[cfg(any(feature = "jwt", feature = "rust-crypto"))]
pub(crate) fn key_for_encryption(index: usize) {
    debug!(index, "a key of the set is for encryption, and not used");
}

/// The keys of an issuer cannot be brought up to date.
#[cfg(feature = "jwks")]
pub(crate) fn keys_not_fetched(error: &dyn Error) {
    warn!(%error, cause = causes(error), "an issuer's keys were not fetched");
}

/// Keys are fetched from where an issuer's metadata last said that they are.
#[cfg(feature = "jwks")]
pub(crate) fn metadata_not_fetched(error: &dyn Error) {
    warn!(%error, cause = causes(error), "an issuer's metadata was not fetched; its keys still are");
}

/// An introspection endpoint takes this API for somebody else. Said once, however often it happens.
#[cfg(feature = "introspection")]
pub(crate) fn locked_out(issuer: &str, status: u16) {
    warn!(issuer, status, "the introspection endpoint refuses the credentials of this API");
}

/// An earlier answer stood in for one that the issuer could not give.
#[cfg(feature = "introspection")]
pub(crate) fn stale_answer(principal: &Principal, error: &dyn Error) {
    let (issuer, subject) = (principal.issuer(), principal.subject());
    warn!(issuer, subject, cause = causes(error), "a token was accepted on an earlier answer");
}

/// What is revoked cannot be brought up to date.
#[cfg(feature = "revocation")]
pub(crate) fn revocations_not_loaded(error: &dyn Error) {
    warn!(%error, cause = causes(error), "revocations were not loaded");
}

/// It is too long ago that all revocations were known.
#[cfg(feature = "revocation")]
pub(crate) fn revocations_too_old() {
    error!("revocations are too old to be relied on");
}

/// The store of revocations does not say what is new.
#[cfg(feature = "revocation")]
pub(crate) fn revocations_unwatched(error: &dyn Error) {
    warn!(%error, cause = causes(error), "new revocations are seen by polling alone");
}

/// Other nodes could not be told that a token was replaced.
#[cfg(feature = "opaque")]
pub(crate) fn nodes_not_told(error: &dyn Error) {
    warn!(%error, cause = causes(error), "other nodes were not told of a token that was replaced");
}

/// When tokens were used could not be written down.
#[cfg(feature = "opaque")]
pub(crate) fn last_used_lost(tokens: usize, error: &dyn Error) {
    debug!(tokens, %error, cause = causes(error), "last uses of tokens were not written down");
}

/// All that stands behind an error, the nearest first.
fn causes(error: &dyn Error) -> Option<String> {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.map(ToString::to_string).reduce(|all, cause| format!("{all}: {cause}"))
}

/// There are no keys any more: everybody is refused until some come.
#[cfg(feature = "jwks")]
pub(crate) fn keys_too_old() {
    error!("an issuer's keys are too old to be used");
}
