//! An API that asks an endpoint, and the time there.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};
use tower::ServiceBuilder;
use tower_gate::audit::Audit;
use tower_gate::authenticate::Authenticate;
use tower_gate::fetch::ReqwestFetch;
use tower_gate::verifier::introspection::{IntrospectionBuilder, IntrospectionVerifier};
use tower_gate::{
    AuditEvent, AuditLayer, AuthenticateLayer, Clock, ManualClock, Principal, TokenVerifier,
};

use crate::endpoint::{Endpoint, Reply};
use crate::support::{Answer, Probe, Trail, send, with_token};

pub(crate) const ISSUER: &str = "https://issuer.example";
pub(crate) const API: &str = "https://api.example";

/// An API behind the layers.
#[derive(Clone)]
pub(crate) struct Api {
    service: Audit<Authenticate<Probe>>,
    trail: Trail,
}

impl Api {
    pub(crate) fn new(verifier: impl TokenVerifier, clock: &ManualClock) -> Self {
        let trail = Trail::default();
        let service = ServiceBuilder::new()
            .layer(AuditLayer::new(trail.clone()))
            .layer(AuthenticateLayer::new(verifier).with_clock(clock.clone()))
            .service(Probe::default());
        Self { service, trail }
    }

    pub(crate) async fn get(&self, token: &str) -> Answer {
        send(&self.service, with_token(token)).await
    }

    /// The status and the word of the answer; `ok` for a request that was let in.
    pub(crate) async fn says(&self, token: &str) -> (u16, String) {
        let answer = self.get(token).await;
        let word = if answer.status == 200 { "ok".to_owned() } else { answer.error() };
        (answer.status.as_u16(), word)
    }

    /// The event of the latest request.
    pub(crate) fn event(&self) -> AuditEvent {
        self.trail.events().pop().unwrap()
    }

    pub(crate) fn reason(&self) -> &'static str {
        self.event().reason.unwrap_or("none")
    }

    pub(crate) fn principal(&self) -> Principal {
        self.event().principal.unwrap()
    }
}

/// An endpoint, a clock, and the API that asks the one by the other.
pub(crate) struct Scene {
    pub(crate) endpoint: Endpoint,
    pub(crate) clock: ManualClock,
    pub(crate) verifier: IntrospectionVerifier,
    pub(crate) api: Api,
}

impl Scene {
    /// The endpoint knows every token as one of `user-1`.
    pub(crate) fn new() -> Self {
        Self::with(|builder| builder)
    }

    pub(crate) fn with(
        configure: impl FnOnce(IntrospectionBuilder) -> IntrospectionBuilder,
    ) -> Self {
        let clock = ManualClock::default();
        let endpoint = Endpoint::start(Reply::json(&active(&clock, json!({}))));
        let verifier = configure(builder(&endpoint.url())).build().unwrap();
        let api = Api::new(verifier.clone(), &clock);
        Self { endpoint, clock, verifier, api }
    }

    /// From now on the endpoint answers with these members in place of the usual ones; `null` takes
    /// one away.
    pub(crate) fn answers(&self, members: Value) {
        self.endpoint.reply(Reply::json(&active(&self.clock, members)));
    }

    pub(crate) fn pass(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    /// Seconds since 1970 in this many seconds.
    pub(crate) fn in_seconds(&self, seconds: i64) -> i64 {
        i64::try_from(unix(self.clock.now())).unwrap() + seconds
    }
}

pub(crate) fn fetch() -> ReqwestFetch {
    ReqwestFetch::new().unwrap()
}

pub(crate) fn builder(url: &str) -> IntrospectionBuilder {
    IntrospectionVerifier::builder(url, fetch())
        .issuer(ISSUER)
        .audience(API)
        .with_client("reports-api", "s3cret")
}

/// An answer about a good token, with these members in place of the usual ones.
pub(crate) fn active(clock: &ManualClock, members: Value) -> Value {
    let now = unix(clock.now());
    let mut answer = json!({
        "active": true, "sub": "user-1", "aud": API, "iss": ISSUER, "exp": now + 3600,
        "client_id": "web", "scope": "read:reports", "token_type": "Bearer",
    });
    let all: &mut Map<_, _> = answer.as_object_mut().unwrap();
    let Value::Object(members) = members else { panic!("members are an object") };
    all.extend(members);
    all.retain(|_, value| !value.is_null());
    answer
}

pub(crate) fn inactive() -> Reply {
    Reply::json(&json!({ "active": false }))
}

pub(crate) fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap().as_secs()
}

pub(crate) fn ok() -> (u16, String) {
    (200, "ok".to_owned())
}

pub(crate) fn invalid() -> (u16, String) {
    (401, "invalid_token".to_owned())
}

pub(crate) fn unavailable() -> (u16, String) {
    (503, "temporarily_unavailable".to_owned())
}
