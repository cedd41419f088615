//! A node of an API, whose tokens are names of principals.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use serde_json::Value;
use tower::util::BoxCloneSyncService;
use tower::{ServiceBuilder, ServiceExt};
use tower_gate::store::RevocationStore;
use tower_gate::verifier::revocable::{RevocableVerifier, Revocations, RevocationsBuilder};
use tower_gate::verifier::{CachedVerifier, VerifyErrorKind, VerifyRequest};
use tower_gate::{
    AuditEvent, AuditLayer, AuthenticateLayer, Clock, Principal, Rejection, Revocation,
    SystemClock, TokenKind, TokenVerifier,
};

pub(crate) const ISSUER: &str = "https://issuer.example";
pub(crate) const PARTNER: &str = "https://partner.example";

type Service = BoxCloneSyncService<Request<Full<Bytes>>, Response<Bytes>, Infallible>;

/// A service behind the layers, and what this node knows to be revoked.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) revocations: Revocations,
    service: Service,
    events: Arc<Mutex<Vec<AuditEvent>>>,
    verified: Arc<AtomicUsize>,
}

/// What one request came to.
#[derive(Debug)]
pub(crate) struct Answer {
    /// `200`, or the status, the word in the body and the reason in the audit event.
    pub(crate) text: String,
    pub(crate) retry_after: Option<u64>,
    pub(crate) challenged: bool,
    pub(crate) event: Value,
}

impl Node {
    /// A node with the default times, which knows what is revoked.
    pub(crate) async fn start(store: impl RevocationStore) -> Self {
        let node = Self::of(Revocations::builder(store), principals());
        node.revocations.ready().await.unwrap();
        node
    }

    /// One that learns of revocations only when it is told, for as long as a test takes.
    pub(crate) async fn told(store: impl RevocationStore) -> Self {
        let minute = Duration::from_secs(60);
        let builder = Revocations::builder(store).with_poll_interval(minute);
        let node = Self::of(builder.with_max_age(minute * 10), principals());
        node.revocations.ready().await.unwrap();
        node
    }

    /// With the verifications remembered, as in production.
    pub(crate) fn of(builder: RevocationsBuilder, principals: HashMap<String, Principal>) -> Self {
        Self::at(builder, principals, SystemClock)
    }

    pub(crate) fn at(
        builder: RevocationsBuilder,
        principals: HashMap<String, Principal>,
        clock: impl Clock + Clone,
    ) -> Self {
        let verified = Arc::<AtomicUsize>::default();
        let count = verified.clone();
        let inner = move |request: VerifyRequest| {
            count.fetch_add(1, Ordering::SeqCst);
            let found = principals.get(request.token.as_str()).cloned();
            async move { found.ok_or(VerifyErrorKind::UnknownToken.into()) }
        };
        let revocations = builder.with_clock(clock.clone()).start().unwrap();
        let verifier = RevocableVerifier::new(CachedVerifier::new(inner), &revocations);
        Self { verified, ..Self::behind(revocations, verifier, clock) }
    }

    pub(crate) fn behind(
        revocations: Revocations,
        verifier: impl TokenVerifier,
        clock: impl Clock,
    ) -> Self {
        let events = Arc::<Mutex<Vec<AuditEvent>>>::default();
        let trail = events.clone();
        let audit = AuditLayer::new(move |event| trail.lock().unwrap().push(event));
        let service = ServiceBuilder::new()
            .layer(audit)
            .layer(AuthenticateLayer::new(verifier).with_clock(clock))
            .service_fn(async |_| Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())))
            .then(async |answer: Result<Response<_>, Infallible>| {
                let (head, body) = answer.unwrap().into_parts();
                let body: Result<_, _> = BodyExt::collect(body).await;
                Ok(Response::from_parts(head, body.unwrap().to_bytes()))
            });
        let service = BoxCloneSyncService::new(service);
        Self { revocations, service, events, verified: Arc::default() }
    }

    pub(crate) async fn get(&self, token: &str) -> Answer {
        let request = Request::builder().header("authorization", format!("Bearer {token}"));
        let response = self.service.clone().oneshot(request.body(Full::default()).unwrap());
        let response = response.await.unwrap();
        let header = |name| response.headers().get(name).map(|value| value.to_str().unwrap());
        let mut text = response.status().as_str().to_owned();
        if let Some(rejection) = response.extensions().get::<Rejection>() {
            text = format!("{text} {} {}", rejection.error(), rejection.reason());
        }
        let event = self.events.lock().unwrap().pop();
        Answer {
            text,
            retry_after: header("retry-after").map(|seconds| seconds.parse().unwrap()),
            challenged: header("www-authenticate").is_some(),
            event: serde_json::to_value(event).unwrap(),
        }
    }

    /// Whether the token is accepted; if not, it is because it was revoked.
    pub(crate) async fn accepts(&self, token: &str) -> bool {
        let answer = self.get(token).await;
        match answer.text.as_str() {
            "200" => true,
            "401 token_revoked revoked" => false,
            other => panic!("{token}: {other}"),
        }
    }

    /// Waits until a token is refused, and says how long it took.
    pub(crate) async fn refuses_within(&self, token: &str, limit: Duration) -> Duration {
        self.answers_within(token, "401 token_revoked revoked", limit).await
    }

    pub(crate) async fn answers_within(
        &self,
        token: &str,
        text: &str,
        limit: Duration,
    ) -> Duration {
        let began = std::time::Instant::now();
        loop {
            let answer = self.get(token).await.text;
            let took = began.elapsed();
            if answer == text {
                return took;
            }
            assert!(took < limit, "{token}: still {answer} after {took:?}, not {text}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Waits for a load after time has passed by the clock.
    pub(crate) async fn catches_up(&self) {
        while self.revocations.age().unwrap() > Duration::from_secs(10) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub(crate) async fn revoke(&self, revocation: Revocation) {
        self.revocations.revoke(revocation).await.unwrap();
    }

    /// How often the inner verifier was asked.
    pub(crate) fn verified(&self) -> usize {
        self.verified.load(Ordering::SeqCst)
    }
}

impl Answer {
    /// Checks that it is an outage: never 401, never a pass, and when to come again.
    #[track_caller]
    pub(crate) fn is_outage(&self, why: &str) {
        let expected = "503 temporarily_unavailable verifier_unavailable";
        assert_eq!(self.text, expected, "OPAQUE-72: {why}");
        assert!(!self.challenged, "OPAQUE-72: {why}: an outage is no bad token");
        let wait = self.retry_after.unwrap_or_else(|| panic!("{why}: no Retry-After"));
        assert!((1..=10).contains(&wait), "{why}: {wait} seconds");
    }
}

/// When all tokens were issued that are not said to be younger: some seconds ago.
pub(crate) fn issued_at() -> SystemTime {
    static AT: std::sync::LazyLock<SystemTime> =
        std::sync::LazyLock::new(|| SystemTime::now() - Duration::from_secs(10));
    *AT
}

/// Tokens by name: `base`, and others each of which differs in what it is named after.
pub(crate) fn principals() -> HashMap<String, Principal> {
    fn token(
        name: &str,
        [issuer, subject, client, token_id, key_id]: [&str; 5],
        kind: TokenKind,
        issued_at: Option<SystemTime>,
    ) -> (String, Principal) {
        let mut principal =
            Principal::builder(issuer, subject).token_kind(kind).issued_at(issued_at);
        if !client.is_empty() {
            principal = principal.client(client);
        }
        if !token_id.is_empty() {
            principal = principal.token_id(token_id);
        }
        if !key_id.is_empty() {
            principal = principal.key_id(key_id);
        }
        (name.to_owned(), principal.build())
    }
    let at = Some(issued_at());
    let later = |seconds: u64| Some(issued_at() + Duration::from_secs(seconds));
    let base = [ISSUER, "ada", "web", "t-1", "k-1"];
    let jwt = TokenKind::Jwt;
    HashMap::from([
        token("base", base, jwt, at),
        token("issuer", [PARTNER, "ada", "web", "t-1", "k-1"], jwt, at),
        token("subject", [ISSUER, "bob", "web", "t-2", "k-1"], jwt, at),
        token("client", [ISSUER, "ada", "app", "t-3", "k-1"], jwt, at),
        token("token", [ISSUER, "ada", "web", "t-4", "k-1"], jwt, at),
        token("key", [ISSUER, "ada", "web", "t-5", "k-2"], jwt, at),
        token("young", [ISSUER, "ada", "web", "t-6", "k-1"], jwt, later(2)),
        token("no-time", [ISSUER, "ada", "web", "t-7", "k-1"], jwt, None),
        token("no-client", [ISSUER, "ada", "", "t-8", "k-1"], jwt, at),
        token("no-id", [ISSUER, "ada", "web", "", "k-1"], jwt, at),
        token("no-key", [ISSUER, "ada", "web", "t-9", ""], jwt, at),
        token("opaque", [ISSUER, "ada", "web", "t-10", ""], TokenKind::Opaque, at),
        token("nobodys", [ISSUER, "ada", "", "t-11", ""], TokenKind::Opaque, at),
    ])
}
