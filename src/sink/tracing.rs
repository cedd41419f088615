use ::tracing::info;

use crate::event::AuditEvent;
use crate::scope::ScopeSet;
use crate::sink::AuditSink;

/// A sink that makes an `INFO` event of each audit event, with the target `tower_gate::audit`.
///
/// The fields are those of [`AuditEvent`]'s JSON form, but for `time`, which the subscriber adds. A
/// subscriber's filter decides whether they are kept, so an audit trail that must be complete goes
/// to a sink of its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct TracingSink;

impl AuditSink for TracingSink {
    fn accept(&self, event: AuditEvent) {
        let principal = event.principal.as_ref();
        // As lists with quotes: a role is any text, and so is a name, and a comma may be part of it.
        let roles = principal.map(|principal| principal.roles().collect::<Vec<_>>());
        let would_limit = (!event.would_limit.is_empty()).then_some(&event.would_limit);
        let required: ScopeSet = event.required_scopes.iter().map(|scope| scope.as_str()).collect();
        info!(
            target: "tower_gate::audit",
            version = event.version,
            sequence = event.sequence,
            outcome = event.outcome.as_str(),
            reason = event.reason,
            anonymous = event.anonymous,
            issuer = principal.map(|principal| principal.issuer()),
            subject = principal.map(|principal| principal.subject()),
            client = principal.and_then(|principal| principal.client()),
            scopes = principal.map(|principal| principal.scopes().as_str()),
            roles = roles.map(::tracing::field::debug),
            token_kind = principal.map(|principal| principal.token_kind().as_str()),
            token_id = principal.and_then(|principal| principal.token_id()),
            key_id = principal.and_then(|principal| principal.key_id()),
            stale = principal.filter(|principal| principal.is_stale()).map(|_| true),
            address = event.address.map(::tracing::field::display),
            peer = event.peer.map(::tracing::field::display),
            method = event.method.as_str(),
            path = event.path,
            user_agent = event.user_agent,
            route = event.route,
            trace_id = event.trace_id,
            request_id = event.request_id,
            status = event.status.map(|status| status.as_u16()),
            grpc_status = event.grpc_status,
            required_scopes = required.as_str(),
            policy = event.policy.as_deref(),
            remaining = event.remaining,
            fallback = event.fallback.then_some(true),
            would_limit = would_limit.map(::tracing::field::debug),
            latency_ms = event.latency.as_secs_f64() * 1000.0,
        );
    }
}
