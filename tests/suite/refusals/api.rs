//! An API that refuses in every way that there is.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::routing::any;
use tower::util::MapResponseLayer;
use tower_gate::store::{RateLimitStore, Settlement, StoreError, TakeRequest, UnlimitedStore};
use tower_gate::verifier::{VerifyError, VerifyErrorKind, VerifyRequest};
use tower_gate::{
    AuthenticateLayer, Decision, Decisions, Principal, Quota, RateLimitLayer, Rejection,
    RequireScopeLayer, Requirement,
};

/// Each token is the name of what is wrong with it.
pub(super) async fn verify(request: VerifyRequest) -> Result<Principal, VerifyError> {
    Err(match request.token.as_str() {
        "good" => {
            let an_hour_ago = SystemTime::now() - Duration::from_secs(3600);
            let principal = Principal::builder("https://issuer.example", "ada")
                .scopes("read")
                .roles(["viewer"])
                .acr("low")
                .auth_time(an_hour_ago);
            return Ok(principal.build());
        }
        "expired" => VerifyErrorKind::Expired.into(),
        "early" => VerifyErrorKind::NotActive.into(),
        "revoked" => VerifyErrorKind::Revoked.into(),
        "outage" => VerifyError::unavailable("https://10.0.0.1 does not answer"),
        "long-outage" => VerifyError::unavailable("https://10.0.0.1 does not answer")
            .with_retry_after(Duration::from_millis(30_001)),
        "leaky" => VerifyError::new(VerifyErrorKind::BadSignature, "bad \"kid-7\" é\r\n"),
        other => match other.strip_prefix("kind.").and_then(|n| n.parse::<usize>().ok()) {
            Some(n) => WRONG[n].into(),
            None => VerifyErrorKind::UnknownToken.into(),
        },
    })
}

/// Every way in which a token is nothing to this API.
pub(super) const WRONG: &[VerifyErrorKind] = &[
    VerifyErrorKind::BadSignature,
    VerifyErrorKind::InvalidClaims,
    VerifyErrorKind::Malformed,
    VerifyErrorKind::MissingClaim,
    VerifyErrorKind::SenderConstrained,
    VerifyErrorKind::UnknownKey,
    VerifyErrorKind::UnknownToken,
    VerifyErrorKind::UnsupportedAlgorithm,
    VerifyErrorKind::WrongAudience,
    VerifyErrorKind::WrongIssuer,
    VerifyErrorKind::WrongType,
];

/// A store that has no units, or no answer.
enum Dry {
    Empty { retry_after: Option<Duration> },
    Down,
}

impl RateLimitStore for Dry {
    async fn take(&self, request: &TakeRequest) -> Result<Decisions, StoreError> {
        match self {
            Self::Empty { retry_after } => {
                let usage = *UnlimitedStore.take(request).await?[0].usage();
                Ok(Decision::Limited { usage, retry_after: *retry_after }.into())
            }
            Self::Down => Err(StoreError::new("10.0.0.1 refuses the connection")),
        }
    }

    fn settle(&self, _: &Settlement) {}
}

/// An API on whose every route somebody is refused, and what it saw.
pub(super) struct Api {
    pub(super) router: Router,
    /// How many requests reached the handler.
    pub(super) reached: Arc<AtomicU32>,
    /// The rejections in the extensions of the answers.
    pub(super) rejections: Arc<Mutex<Vec<Rejection>>>,
}

impl Api {
    pub(super) fn new(configure: impl Fn(AuthenticateLayer) -> AuthenticateLayer) -> Self {
        let reached = Arc::new(AtomicU32::new(0));
        let counter = reached.clone();
        let handler = any(move || {
            counter.fetch_add(1, Ordering::SeqCst);
            async { ([("cache-control", "max-age=60")], "in") }
        });
        let require = |requirement| handler.clone().layer(RequireScopeLayer::new(requirement));
        let limit = |store| {
            let quota = Quota::per_minute(60);
            handler.clone().layer(RateLimitLayer::new(store, quota).with_name("trial"))
        };
        let both = || Requirement::scopes(["read", "write"]);
        let empty = |retry_after| Dry::Empty { retry_after };
        let protected = Router::new()
            .route("/test.Api/Open", handler.clone())
            .route("/test.Api/Scope", require(both()))
            .route("/test.Api/Role", require(Requirement::role("admin")))
            .route("/test.Api/StrongLogin", require(Requirement::acr(["mfa", "hw"])))
            .route("/test.Api/FreshLogin", require(Requirement::max_age(Duration::from_secs(300))))
            .route("/test.Api/Limited", limit(empty(Some(Duration::from_millis(1001)))))
            .route("/test.Api/NeverAllowed", limit(empty(None)))
            .route("/test.Api/StoreDown", limit(Dry::Down))
            .route_layer(configure(AuthenticateLayer::new(verify)));
        let optional = Router::new()
            .route("/test.Api/OptionalScope", require(both()))
            .route_layer(configure(AuthenticateLayer::new(verify)).optional());
        let miswired = Router::new()
            .route("/test.Api/Miswired", require(both()))
            .route("/test.Api/MiswiredLimit", limit(Dry::Down));
        let rejections = Arc::new(Mutex::new(Vec::new()));
        let sink = rejections.clone();
        let look = MapResponseLayer::new(move |response: axum::response::Response| {
            sink.lock().unwrap().extend(response.extensions().get::<Rejection>().cloned());
            response
        });
        let router = protected.merge(optional).merge(miswired).layer(look);
        Self { router, reached, rejections }
    }

    /// The rejection of the one answer since the last time.
    pub(super) fn rejection(&self) -> Rejection {
        let mut rejections = std::mem::take(&mut *self.rejections.lock().unwrap());
        assert_eq!(rejections.len(), 1, "an answer has its rejection in its extensions");
        rejections.remove(0)
    }

    #[track_caller]
    pub(super) fn assert_nobody_got_in(&self) {
        assert_eq!(self.reached.load(Ordering::SeqCst), 0, "BEARER-34");
    }
}
