//! An API behind the layers, at a time that stands still unless it is told to pass.

use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Body;
use http::{Request, Response};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tower::ServiceExt;
use tower_gate::verifier::jwks::Jwks;
use tower_gate::verifier::jwt::JwtVerifier;
use tower_gate::{AuditLayer, AuthenticateLayer, ManualClock, Principal, Rejection, TokenVerifier};

/// The seconds since 1970 at which every clock here starts.
pub(crate) const NOW: u64 = 1_800_000_000;

pub(crate) const AUDIENCE: &str = "https://api.example";

pub(crate) fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

/// The claims of an access token that is good for an hour.
pub(crate) fn claims(issuer: &str, subject: &str) -> Value {
    json!({
        "iss": issuer, "sub": subject, "aud": AUDIENCE, "client_id": "web", "jti": "1",
        "iat": NOW, "exp": NOW + 3600,
    })
}

/// The verifier of an issuer's tokens, with the keys that it publishes.
pub(crate) fn verifier(issuer: &str, jwks: &Jwks) -> JwtVerifier {
    JwtVerifier::builder().issuer(issuer).audience(AUDIENCE).with_jwks(jwks).build().unwrap()
}

/// An API that answers with the caller's subject.
#[derive(Clone)]
pub(crate) struct Gate {
    router: Router,
    pub(crate) clock: ManualClock,
}

impl Gate {
    pub(crate) fn new(verifier: impl TokenVerifier) -> Self {
        async fn subject(request: Request<Body>) -> String {
            Principal::of(request.extensions()).unwrap().subject().to_owned()
        }
        Self::with(verifier, Router::new().fallback(subject))
    }

    pub(crate) fn with(verifier: impl TokenVerifier, router: Router) -> Self {
        let clock = ManualClock::new(at(NOW));
        let layer = AuthenticateLayer::new(verifier).with_clock(clock.clone());
        let router = router.layer(layer).layer(axum::middleware::map_response(show_reason));
        Self { router, clock }
    }

    /// The same with a layer outside of all.
    pub(crate) fn audited(self, audit: AuditLayer) -> Self {
        Self { router: self.router.layer(audit), ..self }
    }

    /// Sends a request through the layers.
    pub(crate) async fn get(&self, token: &str) -> Answer {
        let request = Request::builder().header("authorization", format!("Bearer {token}"));
        self.send(request.body(Body::empty()).unwrap()).await
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request);
        let (head, body) = response.await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer::new(head.status.as_u16(), &head.headers, &body)
    }

    /// The same API on a port of the loopback interface.
    pub(crate) async fn serve(&self) -> Api {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let (router, mut server) = (self.router.clone(), JoinSet::new());
        server.spawn(async move { axum::serve(listener, router).await });
        Api { url, client: reqwest::Client::new(), _server: server }
    }
}

/// Makes the precise reason, which no client learns, visible over HTTP.
async fn show_reason(mut response: Response<Body>) -> Response<Body> {
    if let Some(rejection) = response.extensions().get::<Rejection>() {
        let reason = rejection.reason().parse().unwrap();
        response.headers_mut().insert("x-reason", reason);
    }
    response
}

/// The API as its clients reach it. The server ends with it.
pub(crate) struct Api {
    url: String,
    client: reqwest::Client,
    _server: JoinSet<std::io::Result<()>>,
}

impl Api {
    pub(crate) async fn get(&self, token: &str) -> Answer {
        self.try_get(token).await.unwrap()
    }

    /// `None` where the connection was closed before an answer came.
    pub(crate) async fn try_get(&self, token: &str) -> Option<Answer> {
        let response = self.client.get(&self.url).bearer_auth(token).send().await.ok()?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Some(Answer::new(status, &headers, &response.bytes().await.ok()?))
    }

    /// Asks until the answer is this one, which real servers may take a while to come to.
    pub(crate) async fn get_until(&self, token: &str, wanted: &str) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        loop {
            let answer = self.get(token).await.text;
            if answer == wanted {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "still {answer}, not {wanted}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// What one request came to.
#[derive(Debug)]
pub(crate) struct Answer {
    /// `200 <subject>`, or the status and the reason of the refusal.
    pub(crate) text: String,
    /// The word in the body of a refusal.
    pub(crate) word: String,
    /// The seconds in `Retry-After`.
    pub(crate) retry_after: Option<u64>,
    /// Whether the caller is told that the token is bad.
    pub(crate) challenged: bool,
}

impl Answer {
    fn new(status: u16, headers: &http::HeaderMap, body: &[u8]) -> Self {
        let header = |name| headers.get(name).map(|value| value.to_str().unwrap());
        let what = header("x-reason").unwrap_or_else(|| std::str::from_utf8(body).unwrap());
        let refusal: Option<Value> = serde_json::from_slice(body).ok();
        let word = refusal.as_ref().and_then(|refusal| refusal["error"].as_str());
        Self {
            text: format!("{status} {what}"),
            word: word.unwrap_or_default().to_owned(),
            retry_after: header("retry-after").map(|seconds| seconds.parse().unwrap()),
            challenged: headers.contains_key("www-authenticate"),
        }
    }

    /// Checks that it is what an outage of the issuer comes to: never 401, and when to come again.
    #[track_caller]
    pub(crate) fn is_outage(&self, why: &str) {
        assert_eq!(self.text, "503 verifier_unavailable", "{why}");
        assert!(!self.challenged, "{why}: an outage is no bad token");
        let wait = self.retry_after.unwrap_or_else(|| panic!("{why}: no Retry-After"));
        assert!((1..=60).contains(&wait), "{why}: {wait} seconds");
    }
}
