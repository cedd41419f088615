//! What the application knows of a principal.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use http::Request;
use tower_gate::test_util::TestIssuer;
use tower_gate::verifier::{CachedVerifier, VerifyError, VerifyErrorKind};
use tower_gate::{AuditEvent, AuditLayer, Principal, TokenVerifier};

use crate::cached::Counted;
use crate::gate::{AUDIENCE, Gate, NOW, at};
use crate::memory::NAME;

#[derive(Clone)]
struct User {
    name: String,
}

#[derive(Clone, Default)]
struct Users(Arc<AtomicUsize>);

impl Users {
    async fn find(self, principal: Principal) -> Result<User, VerifyError> {
        self.0.fetch_add(1, Ordering::SeqCst);
        match principal.subject() {
            "stranger" => Err(VerifyErrorKind::UnknownToken.into()),
            "banned" => Err(VerifyErrorKind::Revoked.into()),
            "lost" => Err(VerifyError::unavailable("the database is down")),
            subject => Ok(User { name: format!("The User {subject}") }),
        }
    }
}

fn token(issuer: &TestIssuer, subject: &str) -> String {
    issuer.token(subject).issued_at(at(NOW)).sign()
}

async fn name(request: Request<Body>) -> String {
    let principal = Principal::of(request.extensions()).unwrap();
    principal.get::<User>().unwrap().name.clone()
}

#[tokio::test]
async fn a_handler_finds_the_user_who_is_loaded_once_for_each_verification() {
    let (issuer, users) = (TestIssuer::new(NAME, AUDIENCE), Users::default());
    let inner = Counted::new(issuer.verifier());
    let load = {
        let users = users.clone();
        move |principal| users.clone().find(principal)
    };
    let loaded = Arc::new(inner.clone().load(load));
    let token = token(&issuer, "user-1");

    let gate = Gate::with(loaded.clone(), Router::new().fallback(name));
    for _ in 0..3 {
        assert_eq!(gate.get(&token).await.text, "200 The User user-1");
    }
    let counts = || (inner.count(), users.0.load(Ordering::SeqCst));
    assert_eq!(counts(), (3, 3), "one signature and one look-up each");

    let gate = Gate::with(CachedVerifier::new(loaded), Router::new().fallback(name));
    for _ in 0..3 {
        assert_eq!(gate.get(&token).await.text, "200 The User user-1");
    }
    assert_eq!(counts(), (4, 4), "kept with the token");
}

#[tokio::test]
async fn an_error_of_loading_refuses_and_the_audit_trail_knows_whom() {
    let issuer = TestIssuer::new(NAME, AUDIENCE);
    let users = Users::default();
    let loaded = issuer.verifier().load(move |principal| users.clone().find(principal));
    let events = Arc::new(Mutex::new(Vec::new()));
    let trail = events.clone();
    let mut gate = Gate::new(CachedVerifier::new(loaded));
    gate = gate.audited(AuditLayer::new(move |event: AuditEvent| {
        trail.lock().unwrap().push(event);
    }));
    for (subject, expected) in [("stranger", "401 unknown_token"), ("banned", "401 revoked")] {
        for _ in 0..2 {
            let answer = gate.get(&token(&issuer, subject)).await;
            assert_eq!(answer.text, expected);
        }
        let event = events.lock().unwrap().pop().unwrap();
        assert_eq!(event.principal.unwrap().subject(), subject, "an authentic token has a holder");
    }
    gate.get(&token(&issuer, "lost")).await.is_outage("nobody knows");
    let forged = token(&TestIssuer::new(NAME, AUDIENCE), "user-1");
    assert_eq!(gate.get(&forged).await.text, "401 bad_signature");
    assert!(events.lock().unwrap().pop().unwrap().principal.is_none(), "and a forged one none");
}
