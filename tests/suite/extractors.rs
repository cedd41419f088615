//! What handlers of axum take as arguments, and how they refuse.

use std::net::SocketAddr;

use axum::Router;
use axum::routing::{get, post};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use serde::Deserialize;
use tower_gate::extract::Claims;
use tower_gate::rejection::RejectionKind;
use tower_gate::test_util::TestIssuer;
use tower_gate::{
    AuditLayer, AuthenticateLayer, Challenge, Outcome, Principal, Rejection, RequestHead,
};

use crate::support::{TestBody, Trail, anonymous, send, with_token};
use crate::wire::{http1, serve};

/// What the application wants of a token.
#[derive(Deserialize)]
struct Tenant {
    tenant: u32,
}

fn issuer() -> TestIssuer {
    TestIssuer::new("https://issuer.example", "https://api.example")
}

/// One route for each argument.
fn routes() -> Router {
    Router::new()
        .route(
            "/principal",
            get(|principal: Principal| async move { principal.subject().to_owned() }),
        )
        .route(
            "/option",
            get(|principal: Option<Principal>| async move {
                principal.map_or("nobody".to_owned(), |principal| principal.subject().to_owned())
            }),
        )
        .route(
            "/claims",
            get(|Claims(claims): Claims<Tenant>| async move { claims.tenant.to_string() }),
        )
        .route("/call", post(|_: Principal| async { "in" }))
}

fn at(path: &str, mut request: Request<TestBody>) -> Request<TestBody> {
    *request.uri_mut() = path.parse().unwrap();
    request
}

#[tokio::test]
async fn arguments_are_what_the_layer_has_verified() {
    let issuer = issuer();
    let app = routes().layer(AuthenticateLayer::new(issuer.verifier()).optional());
    let token = issuer.token("ada").claim("tenant", 7).sign();
    for (path, token, status, body) in [
        ("/principal", &*token, 200, "ada"),
        ("/principal", "", 401, "missing_token"),
        ("/principal", "evil", 401, "invalid_token"),
        ("/option", &*token, 200, "ada"),
        ("/option", "", 200, "nobody"),
        ("/option", "evil", 401, "invalid_token"),
        ("/claims", &*token, 200, "7"),
        ("/claims", "", 401, "missing_token"),
        ("/claims", "evil", 401, "invalid_token"),
    ] {
        let request = if token.is_empty() { anonymous() } else { with_token(token) };
        let answer = send(&app, at(path, request)).await;
        assert_eq!(answer.status, status, "{path} {body}");
        if status == 200 {
            assert_eq!(answer.body, body, "{path}");
        } else {
            assert_eq!(answer.error(), body, "{path}");
            assert!(answer.header("www-authenticate").starts_with("Bearer realm="), "BEARER-20");
        }
    }
}

#[tokio::test]
async fn claims_of_another_shape_are_forbidden_and_not_shown() {
    let issuer = issuer();
    let trail = Trail::default();
    let app = routes()
        .layer(AuthenticateLayer::new(issuer.verifier()))
        .layer(AuditLayer::new(trail.clone()));
    let token = issuer.token("ada");
    let shapes = [
        token.claim("tenant", "canary"),
        issuer.token("ada"),
        issuer.token("ada").claim("tenant", [1, 2]),
        issuer.token("ada").claim("tenant", u64::MAX),
    ];
    for token in shapes {
        let answer = send(&app, at("/claims", with_token(&token.sign()))).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "BEARER-32: the token is good");
        assert_eq!(answer.error(), "forbidden");
        assert_eq!(answer.header("www-authenticate"), "Bearer realm=\"api\"");
        let body = String::from_utf8(answer.body.to_vec()).unwrap();
        assert!(!body.contains("canary") && !body.contains("tenant"), "BEARER-62: {body}");
    }
    for event in trail.events() {
        assert_eq!((event.outcome, event.reason), (Outcome::Refused, Some("forbidden")));
        assert_eq!(event.principal.unwrap().subject(), "ada");
    }
    assert_eq!(trail.events().len(), 4);
}

/// A forgotten layer is not an anonymous caller.
#[tokio::test]
async fn without_the_layer_every_argument_refuses_and_names_it() {
    let by_hand = Principal::builder("https://issuer.example", "root").build();
    for app in [routes(), routes().layer(axum::Extension(by_hand))] {
        for path in ["/principal", "/option", "/claims"] {
            for request in [anonymous(), with_token("good")] {
                let answer = send(&app, at(path, request)).await;
                assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR, "attack 33: {path}");
                assert_eq!(answer.error(), "misconfigured", "attack 33: {path}");
                let message = "the handler needs an AuthenticateLayer around its route";
                assert_eq!(answer.json()["message"], message, "attack 33: {path}");
                assert!(!answer.headers.contains_key("www-authenticate"), "{path}");
                let kind = answer.extensions.get().map(Rejection::kind);
                assert_eq!(kind, Some(RejectionKind::LayerMissing), "{path}");
            }
        }
    }
}

#[tokio::test]
async fn arguments_refuse_in_the_style_of_the_layer() {
    fn page(rejection: &Rejection, request: &RequestHead<'_>) -> Response<Bytes> {
        let path = request.uri.path();
        Response::new(format!("{} at {path}", rejection.error()).into())
    }
    let issuer = issuer();
    let layer = AuthenticateLayer::new(issuer.verifier())
        .optional()
        .with_challenge(Challenge::new("reports").unwrap())
        .with_responder(page);
    let app = routes().layer(layer);
    let misfit = issuer.token("ada").sign();
    for (path, request, status, page) in [
        ("/principal", anonymous(), 401, "missing_token at /principal"),
        ("/claims", anonymous(), 401, "missing_token at /claims"),
        ("/claims", with_token(&misfit), 403, "forbidden at /claims"),
    ] {
        let answer = send(&app, at(path, request)).await;
        assert_eq!(answer.status, status, "BEARER-63: {path}");
        assert_eq!(answer.body, page, "BEARER-63: {path}");
        assert_eq!(answer.header("www-authenticate"), "Bearer realm=\"reports\"", "{path}");
        assert_eq!(answer.header("cache-control"), "no-store", "BEARER-70: {path}");
        let word = answer.extensions.get().map(Rejection::error);
        assert_eq!(word, page.split(' ').next(), "{path}");
    }

    let mut call = at("/call", anonymous());
    *call.method_mut() = http::Method::POST;
    call.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    let answer = send(&app, call).await;
    assert_eq!(answer.status, StatusCode::OK, "GRPC-10");
    assert_eq!(answer.header("grpc-status"), "16", "GRPC-13");
    assert!(answer.body.is_empty(), "GRPC-10");
}

/// Whether this report belongs to this caller is for the handler to say.
async fn report(principal: Principal) -> Result<&'static str, Rejection> {
    match principal.subject() {
        "ada" => Ok("a report"),
        "bob" => Err(Rejection::new(RejectionKind::Forbidden)),
        _ => Err(Rejection::new(RejectionKind::Unavailable)),
    }
}

async fn reports() -> (SocketAddr, TestIssuer, Trail) {
    let issuer = issuer();
    let trail = Trail::default();
    let app = Router::new()
        .route("/", get(report))
        .layer(AuthenticateLayer::new(issuer.verifier()))
        .layer(AuditLayer::new(trail.clone()));
    (serve(app).await, issuer, trail)
}

#[tokio::test]
async fn a_handler_refuses_with_a_rejection() {
    let (server, issuer, trail) = reports().await;
    for (subject, status, word, challenge, outcome) in [
        ("bob", 403, "forbidden", "Bearer realm=\"api\"", Outcome::Refused),
        ("eve", 503, "temporarily_unavailable", "", Outcome::Error),
    ] {
        let header = format!("Authorization: Bearer {}", issuer.token(subject).sign());
        let answer = http1(server, "GET /", &[&header]).await;
        assert_eq!(answer.status, status, "{subject}");
        assert_eq!(answer.error(), word, "{subject}");
        assert_eq!(answer.json()["status"], status, "BEARER-60: {subject}");
        assert_eq!(answer.header("content-type"), "application/problem+json", "BEARER-60");
        assert_eq!(answer.header("www-authenticate"), challenge, "BEARER-30: {subject}");
        assert_eq!(answer.header("cache-control"), "no-store", "BEARER-70: {subject}");
        let head = http1(server, "HEAD /", &[&header]).await;
        assert_eq!(head.status, status, "BEARER-33: {subject}");
        assert_eq!(head.header("content-length"), answer.header("content-length"), "BEARER-33");
        assert!(head.body.is_empty(), "BEARER-33: {subject}");

        let events = trail.events();
        let event = events.last().unwrap();
        assert_eq!((event.outcome, event.reason), (outcome, Some(word)), "{subject}");
        assert_eq!(event.principal.as_ref().unwrap().subject(), subject);
    }
    let header = format!("Authorization: Bearer {}", issuer.token("ada").sign());
    assert_eq!(http1(server, "GET /", &[&header]).await.body, "a report");
}
