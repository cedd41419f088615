//! Tokens that are remembered.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use http::Request;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tower_gate::test_util::TestIssuer;
use tower_gate::verifier::jwt::JwtVerifier;
use tower_gate::verifier::{CachedVerifier, VerifyError, VerifyErrorKind, VerifyRequest};
use tower_gate::{BearerToken, Principal, TokenVerifier};

use crate::gate::{AUDIENCE, Gate, NOW, at, claims, verifier};
use crate::memory::{MemoryIssuer, NAME};
use crate::signer::{Signer, jwks};

/// Passes questions on, and counts the tokens that were verified. Clones count together.
pub(crate) struct Counted<V> {
    inner: Arc<V>,
    count: Arc<AtomicUsize>,
}

impl<V> Counted<V> {
    pub(crate) fn new(inner: V) -> Self {
        Self { inner: Arc::new(inner), count: Arc::default() }
    }

    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }
}

impl<V> Clone for Counted<V> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), count: self.count.clone() }
    }
}

impl<V: TokenVerifier> TokenVerifier for Counted<V> {
    fn try_verify(&self, request: &VerifyRequest) -> Option<Result<Principal, VerifyError>> {
        let answer = self.inner.try_verify(request)?;
        self.count.fetch_add(1, Ordering::SeqCst);
        Some(answer)
    }

    async fn verify(&self, request: &VerifyRequest) -> Result<Principal, VerifyError> {
        self.count.fetch_add(1, Ordering::SeqCst);
        self.inner.verify(request).await
    }

    fn generation(&self) -> u64 {
        self.inner.generation()
    }
}

/// A verifier without signatures: a token is its holder's name.
async fn by_name(request: VerifyRequest) -> Result<Principal, VerifyError> {
    match request.token.as_str() {
        "down" => Err(VerifyError::unavailable("down")),
        name if name.starts_with("bad") => Err(VerifyErrorKind::UnknownToken.into()),
        name => Ok(Principal::builder(NAME, name).build()),
    }
}

fn test_issuer() -> TestIssuer {
    TestIssuer::new(NAME, AUDIENCE)
}

fn token(issuer: &TestIssuer, subject: &str) -> String {
    issuer.token(subject).issued_at(at(NOW)).lifetime(Duration::from_secs(600)).sign()
}

#[tokio::test]
async fn a_token_that_was_seen_is_not_verified_again_for_a_minute() {
    let issuer = test_issuer();
    let inner = Counted::new(issuer.verifier());
    let gate = Gate::new(CachedVerifier::new(inner.clone()));
    let token = token(&issuer, "user-1");
    for _ in 0..100 {
        assert_eq!(gate.get(&token).await.text, "200 user-1");
    }
    assert_eq!(inner.count(), 1, "hits are answered from memory");
    gate.clock.advance(Duration::from_millis(59_999));
    assert_eq!(gate.get(&token).await.text, "200 user-1");
    assert_eq!(inner.count(), 1);
    gate.clock.advance(Duration::from_millis(1));
    assert_eq!(gate.get(&token).await.text, "200 user-1");
    assert_eq!(inner.count(), 2, "JWT-76: the age is bounded");
}

/// A token that was seen is recognised before anybody looks at its form, and after these.
#[tokio::test]
async fn a_token_that_was_seen_comes_alone_like_any_other() {
    let issuer = test_issuer();
    let gate = Gate::new(CachedVerifier::new(issuer.verifier()));
    let token = token(&issuer, "user-1");
    assert_eq!(gate.get(&token).await.text, "200 user-1");
    let bearer = format!("Bearer {token}");
    let request = || Request::builder().header("authorization", &bearer);
    for (request, what) in [
        (request().header("authorization", &bearer), "BEARER-7"),
        (request().uri("/?access_token=x"), "BEARER-13"),
        (Request::builder().header("authorization", format!("{bearer}, {token}")), "BEARER-4"),
        (Request::builder().header("authorization", format!("Bearer\t{token}")), "BEARER-3"),
    ] {
        let answer = gate.send(request.body(Body::empty()).unwrap()).await;
        assert!(answer.text.starts_with("400 "), "{what}: {}", answer.text);
    }
    let other = gate.get(&token.to_uppercase()).await.text;
    assert!(other.starts_with("401 "), "attack 22: {other}");
}

#[tokio::test]
async fn the_end_of_a_token_is_seen_on_every_hit() {
    let issuer = test_issuer();
    let builder = issuer.verifier_builder().with_leeway(Duration::ZERO);
    let gate = Gate::new(CachedVerifier::new(builder.build().unwrap()));
    let token = issuer.token("user-1").issued_at(at(NOW)).lifetime(Duration::from_secs(10)).sign();
    assert_eq!(gate.get(&token).await.text, "200 user-1");
    gate.clock.advance(Duration::from_millis(9_999));
    assert_eq!(gate.get(&token).await.text, "200 user-1", "JWT-76");
    gate.clock.advance(Duration::from_millis(1));
    assert_eq!(gate.get(&token).await.text, "401 expired", "JWT-76, attack 23");
}

#[tokio::test]
async fn the_age_that_a_verifier_allows_is_kept() {
    let issuer = test_issuer();
    let builder = issuer.verifier_builder().with_leeway(Duration::ZERO);
    let verifier = builder.with_max_age(Duration::from_secs(30)).build().unwrap();
    let gate = Gate::new(CachedVerifier::new(verifier));
    let token = token(&issuer, "user-1");
    assert_eq!(gate.get(&token).await.text, "200 user-1");
    gate.clock.advance(Duration::from_secs(31));
    assert_eq!(gate.get(&token).await.text, "401 invalid_claims", "JWT-38, JWT-76");

    // An age beyond all times is none, and no panic.
    let boundless = issuer.verifier_builder().with_max_age(Duration::MAX).build().unwrap();
    let gate = Gate::new(CachedVerifier::new(boundless));
    assert_eq!(gate.get(&token).await.text, "200 user-1", "JWT-37");
}

#[tokio::test]
async fn a_clock_that_goes_back_finds_no_token_from_later() {
    let issuer = test_issuer();
    let gate = Gate::new(CachedVerifier::new(issuer.verifier()));
    let early = issuer.token("user-1").claim("nbf", NOW).issued_at(at(NOW)).sign();
    assert_eq!(gate.get(&early).await.text, "200 user-1");
    gate.clock.set_now(at(NOW - 100));
    assert_eq!(gate.get(&early).await.text, "401 not_active", "JWT-76");
    gate.clock.set_now(at(NOW));
    assert_eq!(gate.get(&early).await.text, "200 user-1");
}

#[tokio::test]
async fn the_age_is_what_was_set() {
    let issuer = test_issuer();
    let token = token(&issuer, "user-1");
    for (age, later, verified) in [
        (Duration::ZERO, 0, 2),
        (Duration::from_secs(5), 4, 1),
        (Duration::from_secs(5), 5, 2),
        (Duration::MAX, 599, 1),
        (Duration::MAX, 600, 2),
    ] {
        let inner = Counted::new(issuer.verifier());
        let gate = Gate::new(CachedVerifier::new(inner.clone()).with_max_age(age));
        assert_eq!(gate.get(&token).await.text, "200 user-1");
        gate.clock.advance(Duration::from_secs(later));
        // 600 seconds later it is within the leeway, and verified each time.
        assert_eq!(gate.get(&token).await.text, "200 user-1", "{age:?} {later}");
        assert_eq!(inner.count(), verified, "JWT-76: {age:?} after {later} s");
    }
}

#[tokio::test]
async fn what_was_refused_is_not_remembered() {
    let is_up = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let verifier = {
        let is_up = is_up.clone();
        move |request: VerifyRequest| {
            let is_up = is_up.load(Ordering::SeqCst);
            async move { if is_up { by_name(request).await } else { Err(VerifyError::unavailable("")) } }
        }
    };
    let gate = Gate::new(CachedVerifier::new(verifier));
    gate.get("user-1").await.is_outage("the verifier is down");
    is_up.store(true, Ordering::SeqCst);
    assert_eq!(gate.get("user-1").await.text, "200 user-1", "attack 24");
    assert_eq!(gate.get("bad").await.text, "401 unknown_token");
}

#[tokio::test]
async fn tokens_that_look_alike_are_told_apart() {
    let inner = Counted::new(by_name);
    let gate = Gate::new(CachedVerifier::new(inner.clone()));
    let prefix = "p".repeat(64);
    let long = "l".repeat(4_000);
    for name in [
        prefix.clone(),
        format!("{prefix}1"),
        format!("{prefix}2"),
        format!("1{prefix}"),
        format!("2{prefix}"),
        format!("{long}1{long}"),
        format!("{long}2{long}"),
    ] {
        for _ in 0..2 {
            assert_eq!(gate.get(&name).await.text, format!("200 {name}"), "attack 22");
        }
    }
    assert_eq!(inner.count(), 7, "attack 22");
}

/// LiteLLM, Oathkeeper: a token that one API had accepted was good for the next.
#[tokio::test]
async fn a_token_remembered_for_one_api_is_not_good_for_another() {
    let issuer = test_issuer();
    let ours = Gate::new(CachedVerifier::new(issuer.verifier()));
    let key = tower_gate::verifier::jwt::KeySet::from_jwks(&issuer.jwks()).unwrap();
    let theirs = JwtVerifier::builder().issuer(NAME).audience("https://other.example");
    let theirs = Gate::new(CachedVerifier::new(theirs.with_keys(key).build().unwrap()));
    let token = token(&issuer, "user-1");
    for _ in 0..2 {
        assert_eq!(ours.get(&token).await.text, "200 user-1");
        assert_eq!(theirs.get(&token).await.text, "401 wrong_audience", "attack 22");
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_withdrawn_takes_its_remembered_tokens_with_it() {
    let (kept, withdrawn) = (Signer::new("kept"), Signer::new("withdrawn"));
    let issuer = MemoryIssuer::new(&jwks(&[&kept, &withdrawn]));
    let keys = issuer.jwks().start().unwrap();
    keys.ready().await.unwrap();
    let inner = Counted::new(verifier(NAME, &keys));
    let gate = Gate::new(CachedVerifier::new(inner.clone()).with_max_age(Duration::MAX));
    let [kept, gone] = [&kept, &withdrawn].map(|signer| signer.token(&claims(NAME, "user-1")));
    for token in [&kept, &gone, &kept, &gone] {
        assert_eq!(gate.get(token).await.text, "200 user-1");
    }
    assert_eq!(inner.count(), 2);
    sleep(Duration::from_secs(540)).await;
    assert_eq!(gate.get(&gone).await.text, "200 user-1");
    assert_eq!(inner.count(), 2, "a refresh that takes nothing away costs nothing");

    let signer = Signer::new("kept");
    issuer.publish(&json!({ "keys": [signer.jwk()] }));
    let fetches = issuer.fetches();
    while issuer.fetches() == fetches {
        assert_eq!(gate.get(&gone).await.text, "200 user-1");
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(gate.get(&gone).await.text, "401 unknown_key", "attack 23: with the fetch");
    // The same name for another key is another key.
    assert_eq!(gate.get(&kept).await.text, "401 bad_signature", "attack 23");
}

#[tokio::test]
async fn what_is_forgotten_is_verified_again() {
    let inner = Counted::new(by_name);
    let cached = CachedVerifier::new(inner.clone());
    let tokens = cached.tokens();
    let gate = Gate::new(cached);
    let all = async || {
        for name in ["a", "b", "c"] {
            assert_eq!(gate.get(name).await.text, format!("200 {name}"));
        }
        inner.count()
    };
    assert_eq!((all().await, all().await, tokens.len()), (3, 3, 3));
    tokens.forget(|principal| principal.subject() == "b");
    assert_eq!((tokens.len(), all().await), (2, 4));
    tokens.forget_token(&BearerToken::parse("c").unwrap());
    assert_eq!((tokens.len(), all().await), (2, 5));
    tokens.forget_all();
    assert!(tokens.is_empty());
    assert_eq!(all().await, 8);
}

/// Around a verifier that remembers by itself, as an introspection is.
#[tokio::test]
async fn what_an_inner_cache_forgets_an_outer_one_forgets_as_well() {
    let counted = Counted::new(by_name);
    let inner = CachedVerifier::new(counted.clone());
    let tokens = inner.tokens();
    let gate = Gate::new(CachedVerifier::new(inner));
    assert_eq!((gate.get("a").await.text, counted.count()), ("200 a".to_owned(), 1));
    assert_eq!((gate.get("a").await.text, counted.count()), ("200 a".to_owned(), 1));
    tokens.forget_token(&BearerToken::parse("a").unwrap());
    assert_eq!((gate.get("a").await.text, counted.count()), ("200 a".to_owned(), 2));
    tokens.forget(|principal| principal.subject() == "a");
    assert_eq!((gate.get("a").await.text, counted.count()), ("200 a".to_owned(), 3));
}

/// The account is closed while the last of its tokens is being looked up.
#[tokio::test]
async fn a_verification_that_is_under_way_is_forgotten_too() {
    for forget_one in [false, true] {
        let (entered, release) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let inner = Counted::new({
            let (entered, release) = (entered.clone(), release.clone());
            move |request: VerifyRequest| {
                let (entered, release) = (entered.clone(), release.clone());
                async move {
                    entered.add_permits(1);
                    release.acquire().await.unwrap().forget();
                    by_name(request).await
                }
            }
        });
        let cached = CachedVerifier::new(inner.clone());
        let tokens = cached.tokens();
        let gate = Gate::new(cached);
        let request = tokio::spawn({
            let gate = gate.clone();
            async move { gate.get("user-1").await.text }
        });
        entered.acquire().await.unwrap().forget();
        if forget_one {
            tokens.forget_token(&BearerToken::parse("user-1").unwrap());
        } else {
            tokens.forget(|principal| principal.subject() == "user-1");
        }
        release.add_permits(1);
        assert_eq!(request.await.unwrap(), "200 user-1");
        assert!(tokens.is_empty(), "attack 23: its outcome came after");
        release.add_permits(1);
        assert_eq!(gate.get("user-1").await.text, "200 user-1");
        assert_eq!((inner.count(), tokens.len()), (2, 1), "attack 23");
    }
}

#[tokio::test]
async fn no_more_tokens_are_kept_than_were_allowed() {
    for max in [0, 7, 100, 333] {
        let cached = CachedVerifier::new(by_name).with_max_tokens(max);
        let tokens = cached.tokens();
        let gate = Gate::new(cached);
        for n in 0..1_000 {
            assert_eq!(gate.get(&format!("user-{n}")).await.text, format!("200 user-{n}"));
        }
        let kept = tokens.len();
        assert!(kept <= max, "{kept} of {max}");
        assert!(kept * 4 >= max * 3, "the room is used: {kept} of {max}");
    }
}

#[tokio::test]
async fn no_more_bytes_are_kept_than_were_allowed() {
    let claims = format!("{{\"x\":\"{}\"}}", "x".repeat(10_000));
    let verifier = move |request: VerifyRequest| {
        let principal = Principal::builder(NAME, request.token.as_str()).claims(claims.as_bytes());
        std::future::ready(Ok::<_, VerifyError>(principal.build()))
    };
    let cached = CachedVerifier::new(verifier).with_max_bytes(8 << 20);
    let tokens = cached.tokens();
    let gate = Gate::new(cached);
    for n in 0..2_000 {
        gate.get(&format!("user-{n}")).await;
    }
    let kept = tokens.len();
    assert!((400..=838).contains(&kept), "{kept} tokens of 10 KB in 8 MiB");
}

#[tokio::test]
async fn garbage_evicts_no_good_token() {
    let inner = Counted::new(by_name);
    let cached = CachedVerifier::new(inner.clone()).with_max_tokens(100);
    let tokens = cached.tokens();
    let cached = Arc::new(cached);
    let gate = Gate::new(cached.clone());
    let good: Vec<_> = (0..50).map(|n| format!("user-{n}")).collect();
    for name in &good {
        gate.get(name).await;
    }
    assert_eq!(gate.get("bad").await.text, "401 unknown_token");
    for n in 0..200_000 {
        let garbage = BearerToken::parse(&format!("bad-{n}")).unwrap();
        assert!(cached.verify(&VerifyRequest::new(garbage, at(NOW))).await.is_err());
    }
    assert_eq!(tokens.len(), 50, "attack 24");
    let verified = inner.count();
    for name in &good {
        assert_eq!(gate.get(name).await.text, format!("200 {name}"));
    }
    assert_eq!(inner.count(), verified, "attack 24: every one is still remembered");
}
