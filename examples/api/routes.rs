//! The routes, who may use them, and the layers around them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{ConnectInfo, Path};
use axum::handler::Handler;
use axum::http::StatusCode;
use axum::routing::{delete, get};
use axum::{Json, Router};
use serde_json::{Value, json};
use tower::ServiceBuilder;
use tower_gate::metadata::ResourceMetadata;
use tower_gate::verifier::revocable::Revocations;
use tower_gate::{
    AuditLayer, AuditSink, AuthenticateLayer, ClientIp, Principal, RequireScopeLayer, Requirement,
    TokenVerifier,
};

use crate::Error;
use crate::demo::{AUDIENCE, ISSUER};
use crate::flags::{Flags, Keys};
use crate::limits::Limits;
use crate::revocations;
use crate::tokens::Tokens;

pub(crate) fn router(
    flags: &Flags,
    verifier: impl TokenVerifier,
    tokens: Option<Tokens>,
    revocations: Revocations,
    limits: Limits,
    sink: Arc<dyn AuditSink>,
) -> Result<Router, Error> {
    let metadata = metadata(flags)?;
    let audit = AuditLayer::new(sink).with_client_ip(client_ip(flags));
    let authenticate = AuthenticateLayer::new(verifier).with_challenge(metadata.challenge()?);
    let layers = ServiceBuilder::new()
        .layer(limits.by_address)
        .layer(authenticate)
        .layer(limits.by_principal);
    let admins = RequireScopeLayer::new(Requirement::role("admin"));
    let mut for_admins = revocations::routes(flags, revocations);
    if let Some(tokens) = tokens {
        for_admins = for_admins.merge(tokens.routes());
    }
    let protected = protected().merge(for_admins.route_layer(admins));
    let well_known = metadata.path().to_owned();
    Ok(Router::new()
        .merge(protected.route_layer(layers))
        .route("/health", get(async || "ok\n"))
        .route(&well_known, get(async move || metadata.response().map(Body::from)))
        .layer(audit))
}

fn protected() -> Router {
    let readers = RequireScopeLayer::scope("read:reports");
    let writers = RequireScopeLayer::scope("write:reports");
    let admins = RequireScopeLayer::new(Requirement::role("admin"));
    let payers = RequireScopeLayer::new(
        Requirement::scope("payouts:read")
            .and(Requirement::acr(["mfa"]))
            .and(Requirement::max_age(Duration::from_secs(300))),
    );
    Router::new()
        .route("/api/v1/me", get(me))
        .route("/api/v1/reports", get(reports.layer(readers)).post(publish.layer(writers)))
        .route("/api/v1/reports/{id}", delete(remove.layer(admins)))
        .route("/api/v1/payouts", get(payouts.layer(payers)))
}

/// The peer, as axum leaves it on requests, or whoever trusted proxies speak for.
pub(crate) fn client_ip(flags: &Flags) -> ClientIp {
    let client_ip = ClientIp::from_extensions(|extensions| {
        extensions.get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip())
    });
    if flags.proxies.is_empty() {
        client_ip
    } else {
        client_ip.behind_x_forwarded_for(flags.proxies.iter().copied())
    }
}

/// Clients know the API by its audience where that is a URL.
fn metadata(flags: &Flags) -> Result<ResourceMetadata, Error> {
    let audience = flags.audiences.iter().find(|audience| audience.starts_with("https://"));
    let resource = audience.map_or(AUDIENCE, String::as_str);
    let metadata = ResourceMetadata::new(resource)?.with_name("Reports").with_scopes([
        "read:reports",
        "write:reports",
        "payouts:read",
    ])?;
    let demo = matches!(*flags.keys, [Keys::Demo]).then_some(ISSUER);
    let issuer = flags.issuer.as_deref().or(demo);
    match issuer.filter(|issuer| issuer.starts_with("https://")) {
        Some(issuer) => Ok(metadata.with_issuer(issuer)?),
        None => Ok(metadata),
    }
}

async fn me(principal: Principal) -> Json<Value> {
    Json(json!({
        "issuer": principal.issuer(),
        "subject": principal.subject(),
        "client": principal.client(),
        "scopes": principal.scopes().iter().collect::<Vec<_>>(),
        "roles": principal.roles().collect::<Vec<_>>(),
        "token_id": principal.token_id(),
        "kind": principal.token_kind().as_str(),
    }))
}

async fn reports() -> Json<Value> {
    Json(json!({ "reports": ["Q3", "Q4"] }))
}

async fn publish(principal: Principal) -> (StatusCode, Json<Value>) {
    (StatusCode::CREATED, Json(json!({ "published_by": principal.subject() })))
}

async fn remove(Path(id): Path<String>) -> Json<Value> {
    Json(json!({ "removed": id }))
}

async fn payouts() -> Json<Value> {
    Json(json!({ "payouts": [] }))
}
