//! The routes, who may use them, and the layers around them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{ConnectInfo, MatchedPath, Path};
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
use crate::flags::Flags;
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
    let audit = AuditLayer::new(sink)
        .with_client_ip(client_ip(flags))
        .with_route(|extensions| extensions.get::<MatchedPath>().map(MatchedPath::as_str));
    let authenticate = AuthenticateLayer::new(verifier);
    let authenticate = match &metadata {
        Some(metadata) => authenticate.with_challenge(metadata.challenge()?),
        None => authenticate,
    };
    let layers = ServiceBuilder::new()
        .layer(limits.by_address)
        .layer(authenticate)
        .layer(limits.by_principal);
    let admins = RequireScopeLayer::new(Requirement::role("admin"));
    let mut for_admins = revocations::routes(flags, revocations);
    if let Some(tokens) = tokens {
        for_admins = for_admins.merge(tokens.routes());
    }
    let mut protected = protected().merge(for_admins.route_layer(admins));
    if let Some(concurrency) = limits.concurrency {
        protected = protected.route_layer(concurrency);
    }
    protected = protected.route_layer(layers);
    if let Some(failures) = limits.failures {
        protected = protected.route_layer(failures);
    }
    let open = Router::new().route("/health", get(async || "ok\n"));
    let open = match metadata {
        Some(metadata) => {
            let path = metadata.path().to_owned();
            open.route(&path, get(async move || metadata.response().map(Body::from)))
        }
        None => open,
    };
    Ok(open.merge(protected).layer(audit))
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

/// Where clients without a token learn who issues them: at a name of this API that is a URL, and
/// nowhere where it has none.
fn metadata(flags: &Flags) -> Result<Option<ResourceMetadata>, Error> {
    let Some(url) = flags.url() else {
        return Ok(None);
    };
    let scopes = ["read:reports", "write:reports", "payouts:read"];
    let metadata = ResourceMetadata::new(url)?.with_name("Reports").with_scopes(scopes)?;
    Ok(Some(match flags.issuer.as_deref().filter(|issuer| issuer.starts_with("https://")) {
        Some(issuer) => metadata.with_issuer(issuer)?,
        None => metadata,
    }))
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
