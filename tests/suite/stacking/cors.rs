//! A CORS layer outside of all, so that browsers may ask, and may read refusals.

use axum::Router;
use axum::routing::get;
use http::header::{AUTHORIZATION, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use tower_gate::RequireScopeLayer;
use tower_http::cors::CorsLayer;

use crate::stacking::{authenticate, limit};
use crate::support::Answer;
use crate::wire::{http1, serve};

const ORIGIN: &str = "Origin: https://app.example";
const GOOD: &str = "Authorization: Bearer good";

/// What a browser sends before a request with a token.
const PREFLIGHT: [&str; 3] =
    [ORIGIN, "Access-Control-Request-Method: GET", "Access-Control-Request-Headers: authorization"];

/// An API that gives everybody two requests an hour.
fn api() -> Router {
    let handler = || get(|| async { "in" });
    Router::new()
        .route("/", handler())
        .route("/scope", handler().layer(RequireScopeLayer::scope("write")))
        .layer(limit(2))
        .layer(authenticate())
}

/// For the pages of two origins.
fn cors() -> CorsLayer {
    let exposed = [
        WWW_AUTHENTICATE,
        RETRY_AFTER,
        HeaderName::from_static("ratelimit"),
        HeaderName::from_static("ratelimit-policy"),
    ];
    CorsLayer::new()
        .allow_origin(["https://app.example", "https://www.example"].map(HeaderValue::from_static))
        .allow_methods([Method::GET])
        .allow_headers([AUTHORIZATION])
        .expose_headers(exposed)
}

/// A page of the origin may read the answer, and whoever keeps it knows that others may not.
#[track_caller]
fn assert_readable(answer: &Answer, origin: &str) {
    assert_eq!(answer.header("access-control-allow-origin"), origin, "BEARER-82");
    let exposed = answer.header("access-control-expose-headers");
    let exposed: Vec<_> = exposed.split(',').map(str::trim).collect();
    for name in ["www-authenticate", "retry-after", "ratelimit", "ratelimit-policy"] {
        assert!(exposed.contains(&name), "BEARER-83: {name}");
    }
    assert!(answer.header("vary").to_ascii_lowercase().contains("origin"), "BEARER-84");
}

#[tokio::test]
async fn preflight_requests_need_no_token_and_cost_nothing() {
    let server = serve(api().layer(cors())).await;
    for _ in 0..20 {
        let answer = http1(server, "OPTIONS /", &PREFLIGHT).await;
        assert_eq!(answer.status, StatusCode::OK, "BEARER-80, RL-25");
        assert_eq!(answer.header("access-control-allow-origin"), "https://app.example");
        assert_eq!(answer.header("access-control-allow-headers"), "authorization", "BEARER-81");
        assert!(answer.body.is_empty(), "BEARER-80: the handler has not been asked");
    }
    let answer = http1(server, "GET /", &[ORIGIN, GOOD]).await;
    assert_eq!(answer.header("ratelimit").split(';').nth(1), Some("r=1"), "RL-25");
}

#[tokio::test]
async fn a_page_of_another_origin_can_read_every_refusal() {
    let server = serve(api().layer(cors())).await;
    for (path, headers, status, error) in [
        ("/", &[ORIGIN][..], 401, "missing_token"),
        ("/", &[ORIGIN, "Authorization: Bearer"], 400, "invalid_request"),
        ("/", &[ORIGIN, "Authorization: Bearer evil"], 401, "invalid_token"),
        ("/scope", &[ORIGIN, GOOD], 403, "insufficient_scope"),
        ("/scope", &[ORIGIN, GOOD], 403, "insufficient_scope"),
        ("/", &[ORIGIN, GOOD], 429, "rate_limited"),
    ] {
        let answer = http1(server, &format!("GET {path}"), headers).await;
        assert_eq!(answer.status, status, "{path} {headers:?}");
        assert_eq!(answer.error(), error, "{path} {headers:?}");
        assert_eq!(answer.headers.contains_key("www-authenticate"), status != 429);
        assert_eq!(answer.headers.contains_key("retry-after"), status == 429);
        assert_readable(&answer, "https://app.example");
    }
    for (origin, allowed) in
        [("https://www.example", "https://www.example"), ("https://evil.example", "")]
    {
        let answer = http1(server, "GET /", &[&format!("Origin: {origin}")]).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{origin}");
        assert_readable(&answer, allowed);
    }
}

#[tokio::test]
async fn without_a_cors_layer_outside_a_preflight_is_refused_like_any_other_request() {
    let inside = api().layer(cors()).layer(authenticate());
    for app in [api(), inside] {
        let server = serve(app).await;
        for headers in [&PREFLIGHT[..], &[]] {
            let answer = http1(server, "OPTIONS /", headers).await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "BEARER-80: {headers:?}");
            assert_eq!(answer.error(), "missing_token", "BEARER-80: {headers:?}");
        }
    }
}
