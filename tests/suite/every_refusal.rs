//! An API that refuses in every way that there is, and a request for each way.

use std::convert::Infallible;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use axum::routing::{MethodRouter, any};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Request;
use serde_json::json;
use tower::{Layer, ServiceExt};
use tower_gate::audit::Audit;
use tower_gate::store::memory::MemoryStore;
use tower_gate::store::{
    RateLimitStore, Settlement, StoreError, Take, TakeRequest, UnlimitedStore,
};
use tower_gate::test_util::{TestIssuer, TestToken};
use tower_gate::verifier::jwt::JwtVerifier;
use tower_gate::verifier::{VerifyError, VerifyErrorKind, VerifyRequest};
use tower_gate::{
    AuditLayer, AuditSink, AuthenticateLayer, ClientIp, ConcurrencyLimitLayer, Decisions,
    FailureLimitLayer, FixedVerifier, Principal, Quota, RateLimitLayer, RequireScopeLayer,
    Requirement, TokenVerifier,
};

use crate::support::{Probe, TestBody, send, with_token};

/// Stands in every token, query and cookie that is sent, and in nothing that may be shown.
pub(crate) const CANARY: &str = "c4n4ry-0f-the-m1ne";

/// A request and what it comes to.
pub(crate) struct Refusal {
    /// The reason in its audit event.
    pub(crate) reason: &'static str,
    /// The HTTP status of its answer.
    pub(crate) status: u16,
    /// The subject in its audit event: only where an authentic token names it.
    pub(crate) subject: Option<&'static str>,
    pub(crate) request: Request<TestBody>,
}

pub(crate) fn issuer() -> TestIssuer {
    TestIssuer::new("https://issuer.example", "https://api.example")
}

/// A good token, which holds the canary.
pub(crate) fn token(issuer: &TestIssuer) -> TestToken<'_> {
    issuer.token("user-1").claim("card", CANARY)
}

/// The four layers around one route for each kind of refusal.
pub(crate) fn api(issuer: &TestIssuer, sink: impl AuditSink) -> Audit<Router> {
    let limit = |store| RateLimitLayer::new(store, Quota::per_minute(60)).with_name("calls");
    let handler = || any(|| async { "welcome" });
    let require = |requirement| handler().layer(RequireScopeLayer::new(requirement));
    let behind_authenticate = Router::new()
        .route("/", handler())
        .route("/scope", require(Requirement::scopes(["read", "write"])))
        .route("/role", require(Requirement::role("admin")))
        .route("/acr", require(Requirement::acr(["mfa"])))
        .route("/spent", handler().layer(limit(EitherStore::Spent(MemoryStore::new()))))
        .route("/crowded", twice(handler(), &ConcurrencyLimitLayer::new(1)))
        .route("/full", twice(handler(), &ConcurrencyLimitLayer::global(1)))
        .route("/down", handler().layer(limit(EitherStore::Down)))
        .layer(RateLimitLayer::new(UnlimitedStore, Quota::per_minute(60)))
        .layer(AuthenticateLayer::new(Verifier(issuer.verifier())));
    let router = behind_authenticate
        .route("/banned", any(guesses_twice))
        .route("/unwired", require(Requirement::scope("read")));
    AuditLayer::new(sink).layer(router)
}

/// Within the limit twice, where only one may be.
fn twice(handler: MethodRouter, limit: &ConcurrencyLimitLayer) -> MethodRouter {
    handler.layer::<_, Infallible>(limit.clone()).layer(limit.clone())
}

/// An address whose first guess was one too many.
async fn guesses_twice() -> Response {
    let limit = FailureLimitLayer::new(Quota::per_hour(1), Duration::from_secs(60))
        .with_client_ip(ClientIp::of_unix_socket());
    let gate = limit.layer(AuthenticateLayer::new(FixedVerifier::new()).layer(Probe::default()));
    send(&gate, with_token("guess")).await;
    let Ok(response) = gate.oneshot(with_token("guess")).await;
    response.map(Body::new)
}

/// Every kind of refusal, some of them in several ways.
pub(crate) fn all(issuer: &TestIssuer) -> Vec<Refusal> {
    let mut all = unauthenticated();
    all.extend(bad_tokens(issuer));
    all.extend(ended_tokens(issuer));
    all.extend(good_tokens(issuer));
    all
}

fn unauthenticated() -> Vec<Refusal> {
    let refusal = |reason, status, headers: &[&str]| {
        let mut request = request("/", None);
        for value in headers {
            request.headers_mut().append("authorization", value.parse().unwrap());
        }
        Refusal { reason, status, subject: None, request }
    };
    let bearer = format!("Bearer {CANARY}");
    let mut in_query = refusal("several_credentials", 400, &[&bearer]);
    *in_query.request.uri_mut() = format!("/?access_token={CANARY}").parse().unwrap();
    vec![
        refusal("missing_token", 401, &[]),
        refusal("missing_token", 401, &[&format!("Basic {CANARY}")]),
        refusal("broken_header", 400, &[&format!("Bearer {CANARY} {CANARY}")]),
        refusal("broken_header", 400, &[&format!("Bearer \"{CANARY}\"")]),
        refusal("several_credentials", 400, &[&bearer, &bearer]),
        in_query,
    ]
}

fn bad_tokens(issuer: &TestIssuer) -> Vec<Refusal> {
    let impostor = TestIssuer::new("https://issuer.example", "https://api.example");
    let with_header = |header| with_header(&token(issuer).sign(), &header);
    let tokens = [
        ("bad_signature", token(&impostor).sign()),
        ("invalid_claims", token(issuer).claim("exp", CANARY).sign()),
        ("invalid_claims", token(issuer).claim("aud", json!({ "secret": CANARY })).sign()),
        ("malformed_token", format!("{CANARY}.{CANARY}")),
        ("malformed_token", format!("{CANARY}.{CANARY}.{CANARY}")),
        ("malformed_token", format!("{CANARY}.{}", "x".repeat(9000))),
        ("missing_claim", token(issuer).claim("jti", ()).sign()),
        ("sender_constrained", token(issuer).claim("cnf", json!({ "jkt": CANARY })).sign()),
        ("unknown_key", with_header(json!({ "typ": "at+jwt", "alg": "EdDSA", "kid": CANARY }))),
        ("unsupported_algorithm", with_header(json!({ "typ": "at+jwt", "alg": CANARY }))),
        ("wrong_audience", token(issuer).claim("aud", CANARY).sign()),
        ("wrong_issuer", token(issuer).claim("iss", CANARY).sign()),
        ("wrong_type", with_header(json!({ "typ": CANARY, "alg": "EdDSA", "kid": "test" }))),
        ("unknown_token", format!("unknown-{CANARY}")),
    ];
    let refusal = |(reason, token): (_, String)| Refusal {
        reason,
        status: 401,
        subject: None,
        request: request("/", Some(&token)),
    };
    tokens.map(refusal).into()
}

/// Of an outage nobody knows whose token it met; of the others the issuer's word stands.
fn ended_tokens(issuer: &TestIssuer) -> Vec<Refusal> {
    let (now, day) = (SystemTime::now(), Duration::from_secs(86_400));
    let tomorrow = (now + day).duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let early = token(issuer).claim("nbf", tomorrow).lifetime(day).sign();
    let tokens = [
        ("expired", 401, Some("user-1"), token(issuer).issued_at(now - day).sign()),
        ("not_active", 401, Some("user-1"), early),
        ("revoked", 401, Some("user-1"), format!("revoked-{CANARY}")),
        ("verifier_unavailable", 503, None, format!("outage-{CANARY}")),
    ];
    let refusal = |(reason, status, subject, token): (_, _, _, String)| Refusal {
        reason,
        status,
        subject,
        request: request("/", Some(&token)),
    };
    tokens.map(refusal).into()
}

fn good_tokens(issuer: &TestIssuer) -> Vec<Refusal> {
    let routes = [
        ("insufficient_scope", 403, Some("user-1"), "/scope"),
        ("forbidden", 403, Some("user-1"), "/role"),
        ("insufficient_user_authentication", 401, Some("user-1"), "/acr"),
        ("rate_limited", 429, Some("user-1"), "/spent"),
        ("too_many_at_once", 429, Some("user-1"), "/crowded"),
        ("at_capacity", 503, Some("user-1"), "/full"),
        ("banned", 429, None, "/banned"),
        ("store_unavailable", 503, Some("user-1"), "/down"),
        ("misconfigured", 500, None, "/unwired"),
    ];
    let token = token(issuer).sign();
    let refusal = |(reason, status, subject, path)| Refusal {
        reason,
        status,
        subject,
        request: request(path, Some(&token)),
    };
    routes.map(refusal).into()
}

/// A request with the canary wherever a client may put a secret.
pub(crate) fn request(path: &str, token: Option<&str>) -> Request<TestBody> {
    let mut request = Request::post(format!("{path}?state={CANARY}"))
        .header("cookie", format!("session={CANARY}"))
        .header("x-api-key", CANARY)
        .body(TestBody::from(CANARY))
        .unwrap();
    if let Some(token) = token {
        let value = format!("Bearer {token}").parse().unwrap();
        request.headers_mut().insert("authorization", value);
    }
    request
}

/// The same token under another header, which nobody has signed.
pub(crate) fn with_header(token: &str, header: &serde_json::Value) -> String {
    let (_, rest) = token.split_once('.').unwrap();
    format!("{}.{rest}", URL_SAFE_NO_PAD.encode(header.to_string()))
}

/// Checks signed tokens at once, and takes its time for the others.
struct Verifier(JwtVerifier);

impl TokenVerifier for Verifier {
    fn try_verify(&self, request: &VerifyRequest) -> Option<Result<Principal, VerifyError>> {
        let is_signed = request.token.as_str().contains('.');
        if is_signed { self.0.try_verify(request) } else { None }
    }

    async fn verify(&self, request: &VerifyRequest) -> Result<Principal, VerifyError> {
        tokio::task::yield_now().await;
        let (kind, _) = request.token.as_str().split_once('-').unwrap();
        Err(match kind {
            "outage" => VerifyError::unavailable(std::io::Error::other("nobody at home")),
            "revoked" => VerifyError::new(VerifyErrorKind::Revoked, "withdrawn by its owner")
                .with_principal(Principal::builder("https://issuer.example", "user-1").build()),
            _ => VerifyErrorKind::UnknownToken.into(),
        })
    }
}

/// A store whose units are gone, or one that is gone itself.
enum EitherStore {
    Down,
    Spent(MemoryStore),
}

impl RateLimitStore for EitherStore {
    async fn take(&self, request: &TakeRequest) -> Result<Decisions, StoreError> {
        tokio::task::yield_now().await;
        match self {
            Self::Down => Err(StoreError::new("connection refused")),
            Self::Spent(store) => {
                let Take { key, quota, .. } = request.takes()[0];
                let all = TakeRequest::new(key, quota, quota.burst(), request.now);
                let _ = store.take(&all).await?;
                store.take(request).await
            }
        }
    }

    fn settle(&self, _: &Settlement) {}
}
