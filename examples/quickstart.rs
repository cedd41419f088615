//! An API behind the four layers, with tokens to try it with.
//!
//! ```text
//! cargo run --example quickstart --features axum,test-util
//! ```
//!
//! It makes a key, prints tokens and the lines to paste into another terminal, and then one line of
//! JSON for each request: the audit trail. Another address to listen on goes after `--`.
#![expect(clippy::print_stdout, reason = "it talks to the person who tries it")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::ConnectInfo;
use axum::handler::Handler;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tower::ServiceBuilder;
use tower_gate::sink::{JsonLinesSink, QueueSink};
use tower_gate::store::memory::MemoryStore;
use tower_gate::test_util::{TestIssuer, TestToken};
use tower_gate::{
    AuditLayer, AuditSink, AuthenticateLayer, ClientIp, Principal, Quota, RateLimitLayer,
    RequireScopeLayer, Requirement,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:3000".to_owned());
    let listener = TcpListener::bind(&address).await.map_err(|error| {
        format!(
            "cannot listen on {address} ({error}): name another address, as in `-- 127.0.0.1:3001`"
        )
    })?;
    // Your issuer is somebody else; see `JwtVerifier::builder` for its keys.
    let issuer = TestIssuer::new("https://issuer.example", "https://api.example");
    print_tokens(&issuer, listener.local_addr()?);
    let trail = Arc::new(QueueSink::new(JsonLinesSink::new(std::io::stdout()), 8192)?);
    let app = api(&issuer, trail.clone()).into_make_service_with_connect_info::<SocketAddr>();
    tokio::select! {
        served = axum::serve(listener, app).into_future() => served?,
        stopped = tokio::signal::ctrl_c() => stopped?,
    }
    // The last requests may still be in the queue.
    if !trail.flush(Duration::from_secs(5)) || trail.lost() > 0 {
        println!("# the audit trail is not complete: {} events were lost", trail.lost());
    }
    Ok(())
}

/// The routes, and who may use them.
fn api(issuer: &TestIssuer, trail: impl AuditSink) -> Router {
    let client_ip = ClientIp::from_extensions(|extensions| {
        extensions.get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip())
    });
    let audit = AuditLayer::new(trail).with_client_ip(client_ip);
    let authenticate = AuthenticateLayer::new(issuer.verifier());
    let limit = RateLimitLayer::new(MemoryStore::new(), Quota::per_minute(60).with_burst(20))
        .with_unlimited("admin", Requirement::role("admin"))
        .with_tier("partner", Requirement::role("partner"), Quota::per_minute(12).with_burst(3));

    let readers = RequireScopeLayer::scope("read:reports");
    let writers = RequireScopeLayer::all_scopes(["read:reports", "write:reports"]);
    let admins = RequireScopeLayer::new(Requirement::role("admin"));
    let protected = Router::new()
        .route("/me", get(me))
        .route("/reports", get(list.layer(readers)).post(publish.layer(writers)))
        .route("/admin", get(list.layer(admins)))
        .route_layer(ServiceBuilder::new().layer(authenticate).layer(limit));
    Router::new()
        .route("/", get("This is public. The rest wants a token.\n"))
        .merge(protected)
        .layer(audit)
}

async fn me(principal: Principal) -> Json<Value> {
    Json(json!({
        "subject": principal.subject(),
        "client": principal.client(),
        "scopes": principal.scopes().as_str(),
        "roles": principal.roles().collect::<Vec<_>>(),
    }))
}

async fn list(principal: Principal) -> Json<Value> {
    Json(json!({ "for": principal.subject(), "reports": ["Q3", "Q4"] }))
}

async fn publish(principal: Principal) -> Json<Value> {
    Json(json!({ "published_by": principal.subject() }))
}

fn print_tokens(issuer: &TestIssuer, address: SocketAddr) {
    let token = |name, scopes, role: &'static str| -> TestToken<'_> {
        issuer.token(name).client("quickstart").scopes(scopes).roles([role])
    };
    let yesterday = SystemTime::now() - Duration::from_secs(86_400);
    for (name, token) in [
        ("VIEWER", token("viewer", "read:reports", "viewer")),
        ("EDITOR", token("editor", "read:reports write:reports", "editor")),
        ("ADMIN", token("admin", "read:reports", "admin")),
        ("PARTNER", token("partner", "read:reports", "partner")),
        ("EXPIRED", token("viewer", "read:reports", "viewer").issued_at(yesterday)),
    ] {
        println!("{name}={}", token.sign());
    }
    println!("\n# Paste the tokens above into another terminal, then these, one by one:\n");
    let curl = format!("curl -i http://{address}");
    for (expected, request, token) in [
        ("200, no token needed", "/", ""),
        ("401 missing_token", "/me", ""),
        ("200, who you are", "/me", "VIEWER"),
        ("401 token_expired", "/me", "EXPIRED"),
        ("200", "/reports", "VIEWER"),
        ("403 insufficient_scope", "/reports -X POST", "VIEWER"),
        ("200", "/reports -X POST", "EDITOR"),
        ("403 forbidden", "/admin", "EDITOR"),
        ("200", "/admin", "ADMIN"),
    ] {
        let header = format!(" -H \"Authorization: Bearer ${token}\"");
        println!("{curl}{request}{}  # {expected}", if token.is_empty() { "" } else { &header });
    }
    println!("\n# Four at once: the partner's quota ends (429), the admin's never does:\n");
    for name in ["PARTNER", "ADMIN"] {
        println!("for i in 1 2 3 4; do {curl}/reports -H \"Authorization: Bearer ${name}\"; done");
    }
    println!("\n# The audit trail:\n");
}
