//! Policies follow the route that is matched: nothing about a path or a method goes round them, and
//! nothing replaces one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::routing::{any, get};
use http::{Request, StatusCode};
use tower_gate::store::memory::MemoryStore;
use tower_gate::{Quota, RateLimitLayer, RequireScopeLayer};

use crate::stacking::{authenticate, limit};
use crate::support::{TestBody, anonymous, send, with_token};
use crate::wire::{http1, serve};

/// Asked at `/team/report`.
fn at_report(token: &str) -> Request<TestBody> {
    let mut request = if token.is_empty() { anonymous() } else { with_token(token) };
    *request.uri_mut() = "/team/report".parse().unwrap();
    request
}

#[tokio::test]
async fn policies_of_nested_routers_accumulate() {
    let handler = || get(|| async { "in" });
    let (inner, outer) = (RequireScopeLayer::scope("inner"), RequireScopeLayer::scope("outer"));
    let report = || Router::new().route("/report", handler()).route_layer(inner.clone());
    let both = handler().route_layer(inner.clone()).route_layer(outer.clone());
    for (how, app) in [
        ("nest, route_layer", Router::new().nest("/team", report()).route_layer(outer.clone())),
        ("nest, layer", Router::new().nest("/team", report()).layer(outer.clone())),
        ("nest_service", Router::new().nest_service("/team", report()).layer(outer.clone())),
        ("merge", Router::new().merge(Router::new().nest("/team", report())).layer(outer.clone())),
        (
            "fallback_service",
            Router::new()
                .fallback_service(Router::new().nest("/team", report()))
                .layer(outer.clone()),
        ),
        ("method", Router::new().route("/team/report", both)),
    ] {
        let app = app.layer(authenticate());
        for (token, status, scope) in [
            ("good", 200, ""),
            ("outer", 403, "inner"),
            ("inner", 403, "outer"),
            ("bare", 403, "outer"),
        ] {
            let answer = send(&app, at_report(token)).await;
            assert_eq!(answer.status, status, "attack 34: {how}, {token}");
            if status == 403 {
                assert_eq!(answer.json()["scope"], scope, "attack 34: {how}, {token}");
            }
        }
        assert_eq!(send(&app, at_report("")).await.status, 401, "attack 34: {how}");
    }
}

#[tokio::test]
async fn an_inner_authenticate_layer_takes_nothing_back() {
    let handler = || get(|| async { "in" });
    let scope = RequireScopeLayer::scope("inner");
    let report = || Router::new().route("/report", handler()).route_layer(scope.clone());
    let (required, optional) = (authenticate(), authenticate().optional());
    let stripping = authenticate().with_token_stripped();
    for (how, inner, outer, with_good) in [
        ("optional in required", &optional, &required, 200),
        ("required in optional", &required, &optional, 200),
        // The inner one sees no token, and says so.
        ("optional in one that strips", &optional, &stripping, 401),
        ("required in one that strips", &required, &stripping, 401),
    ] {
        let app = Router::new().nest("/team", report().layer(inner.clone())).layer(outer.clone());
        for (token, status) in [("good", with_good), ("evil", 401), ("", 401)] {
            let answer = send(&app, at_report(token)).await;
            assert_eq!(answer.status, status, "attack 34: {how}, {token:?}");
        }
    }
}

#[tokio::test]
async fn limits_of_nested_routers_accumulate() {
    let report = get(|| async { "in" });
    let tight = RateLimitLayer::new(MemoryStore::new(), Quota::per_hour(1)).with_name("reports");
    let team = Router::new().route("/report", report).route_layer(tight);
    let app = Router::new().nest("/team", team).layer(limit(3)).layer(authenticate());
    for (status, policies) in [
        (200, &["\"reports\";q=1;w=3600", "\"default\";q=3;w=3600"]),
        (429, &["\"reports\";q=1;w=3600", "\"default\";q=3;w=3600"]),
    ] {
        let answer = send(&app, at_report("good")).await;
        assert_eq!(answer.status, status, "attack 34");
        let found: Vec<_> = answer.headers.get_all("ratelimit-policy").iter().collect();
        assert_eq!(found, policies, "attack 34, RL-1");
    }
}

/// Three protected routes, one of which takes any path below it, and one public route.
async fn guarded() -> (SocketAddr, Arc<AtomicUsize>) {
    let reached = Arc::new(AtomicUsize::new(0));
    let counter = reached.clone();
    let secret = move || {
        counter.fetch_add(1, Ordering::SeqCst);
        async { "secret" }
    };
    let app = Router::new()
        .route("/reports", get(secret.clone()))
        .route("/reports/{id}", get(secret.clone()).post(secret.clone()))
        .route("/files/{*path}", any(secret))
        .route_layer(RequireScopeLayer::scope("read"))
        .route_layer(authenticate())
        .route("/public", get(|| async { "public" }));
    (serve(app).await, reached)
}

#[tokio::test]
async fn no_spelling_of_a_request_reaches_a_protected_route_without_a_token() {
    let (server, reached) = guarded().await;
    for (first, status) in [
        ("GET /reports", 401),
        ("HEAD /reports", 401),
        ("OPTIONS /reports", 401),
        ("OPTIONS *", 404),
        ("TRACE /reports", 401),
        ("POST /reports", 401),
        ("PROPFIND /reports", 401),
        ("get /reports", 401),
        ("GET /reports?", 401),
        ("GET /reports?_method=OPTIONS", 401),
        ("GET /reports?/../public", 401),
        ("GET /reports#/public", 401),
        ("GET http://api.example/reports", 401),
        ("GET http://elsewhere.example/reports", 401),
        ("GET //reports", 404),
        ("GET /reports/", 404),
        ("GET /reports//", 404),
        ("GET /./reports", 404),
        ("GET /public/../reports", 404),
        ("GET /public/%2e%2e/reports", 404),
        ("GET /%72eports", 404),
        ("GET /reports%2F", 404),
        ("GET /reports%2f..%2fpublic", 404),
        ("GET /reports;a=b", 404),
        ("GET /public;/reports", 404),
        ("GET /Reports", 404),
        ("GET /REPORTS", 404),
        ("GET /reports%00", 404),
        ("GET /reports%20", 404),
        ("GET /reports.json", 404),
        ("GET /reports/1", 401),
        ("GET /reports/..", 401),
        ("GET /reports/%2e%2e%2fpublic", 401),
        ("DELETE /reports/1", 401),
        ("GET /files/../public", 401),
        ("GET /files/%2e%2e/public", 401),
        ("GET /files//", 401),
        ("GET \\reports", 400),
        ("GET reports", 404),
        ("CONNECT /reports", 401),
    ] {
        let answer = http1(server, first, &[]).await;
        assert_eq!(answer.status, status, "attack 32: {first}");
    }
    for header in [
        "X-HTTP-Method-Override: OPTIONS",
        "X-HTTP-Method: HEAD",
        "X-Original-URL: /public",
        "X-Rewrite-URL: /public",
        "X-Forwarded-Uri: /public",
        "X-Forwarded-Prefix: /public",
        "X-Forwarded-Host: public.example",
        "X-Forwarded-For: 127.0.0.1",
        "Forwarded: for=127.0.0.1",
        "Content-Type: application/grpc",
        "Upgrade: h2c",
        "Upgrade: websocket",
    ] {
        for first in ["GET /reports", "GET /files/a", "HEAD /reports", "OPTIONS /reports"] {
            let answer = http1(server, first, &[header]).await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "attack 32: {first}, {header}");
        }
    }
    assert_eq!(reached.load(Ordering::SeqCst), 0, "attack 32");
    let answer = http1(server, "GET /public", &[]).await;
    assert_eq!(answer.body, "public", "a route that was added after the layer is public");
    let answer = http1(server, "GET /reports", &["Authorization: Bearer good"]).await;
    assert_eq!(answer.body, "secret");
}
