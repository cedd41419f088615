//! Opaque tokens that one node revokes, and others remember as good.

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::Response;
use serde_json::json;
use tower_gate::fetch::FetchRequest;
use tower_gate::store::memory::{MemoryRevocations, MemoryTokenStore};
use tower_gate::store::{RevocationStore, TokenFilter};
use tower_gate::verifier::introspection::IntrospectionVerifier;
use tower_gate::verifier::opaque::{
    InvalidOpaqueTokens, NewToken, OpaqueTokens, Pepper, Peppers, TokenError,
};
use tower_gate::verifier::revocable::{RevocableVerifier, Revocations};
use tower_gate::{Clock, ManualClock, Principal, Revocation, SystemClock};

use crate::node::{ISSUER, Node};
use crate::stale::{Mood, Moody};

const SOON: Duration = Duration::from_secs(5);

/// It remembers tokens for longer than the test takes.
async fn node(store: &MemoryTokenStore, shared: &Moody) -> (OpaqueTokens, Node) {
    node_at(store, shared, SystemClock, Duration::from_secs(300)).await
}

async fn node_at(
    store: &MemoryTokenStore,
    shared: &Moody,
    clock: impl Clock + Clone,
    max_age: Duration,
) -> (OpaqueTokens, Node) {
    let builder = Revocations::builder(shared.clone()).with_clock(clock.clone());
    let revocations = builder.start().unwrap();
    revocations.ready().await.unwrap();
    let peppers = Peppers::new(Pepper::new("1", &[7; 32]).unwrap());
    let tokens = OpaqueTokens::builder(ISSUER, store.clone(), peppers)
        .with_max_age(max_age)
        .with_clock(clock.clone())
        .with_revocations(&revocations)
        .build()
        .unwrap();
    let verifier = tokens.verifier();
    (tokens, Node::behind(revocations, verifier, clock))
}

#[tokio::test]
async fn tokens_that_are_revoked_on_one_node_are_refused_on_the_others() {
    let (store, shared) = (MemoryTokenStore::new(), Moody::default());
    let (tokens, one) = node(&store, &shared).await;
    let (_, other) = node(&store, &shared).await;
    let new = |subject, client| tokens.issue(NewToken::new(subject).client(client));
    let issued = [
        new("ada", "web").await.unwrap(),
        new("ada", "app").await.unwrap(),
        new("bob", "app").await.unwrap(),
        new("bob", "web").await.unwrap(),
        new("eve", "web").await.unwrap(),
    ];
    let text = |n: usize| issued[n].token.expose();
    let expect = async |good: [bool; 5]| {
        for (n, good) in good.into_iter().enumerate() {
            assert_eq!(one.accepts(text(n)).await, good, "OPAQUE-70: {n}");
            match good {
                true => assert!(other.accepts(text(n)).await, "OPAQUE-70: {n}"),
                false => drop(other.refuses_within(text(n), SOON).await),
            }
        }
    };
    expect([true; 5]).await;
    assert!(tokens.revoke(&issued[0].record.id).await.unwrap());
    expect([false, true, true, true, true]).await;
    let app = TokenFilter::client("app");
    assert_eq!(tokens.revoke_all(app).await.unwrap(), 2);
    expect([false, false, false, true, true]).await;
    let bob = TokenFilter::Subject { issuer: ISSUER.to_owned(), subject: "bob".to_owned() };
    assert_eq!(tokens.revoke_all(bob).await.unwrap(), 1);
    expect([false, false, false, false, true]).await;
    // With an overlap, both are good; without, the old one is not.
    let next = tokens.rotate(&issued[4].record.id, Duration::from_secs(600)).await.unwrap();
    expect([false, false, false, false, true]).await;
    assert!(other.accepts(next.token.expose()).await);
    let last = tokens.rotate(&next.record.id, Duration::ZERO).await.unwrap();
    other.refuses_within(next.token.expose(), SOON).await;
    assert!(other.accepts(last.token.expose()).await);
}

#[tokio::test]
async fn a_subject_keeps_the_signed_tokens_of_the_same_name() {
    let (store, shared) = (MemoryTokenStore::new(), Moody::default());
    let (tokens, one) = node(&store, &shared).await;
    tokens.issue(NewToken::new("ada")).await.unwrap();
    let signed = |_| async { Ok(Principal::builder(ISSUER, "ada").token_id("jti").build()) };
    let verifier = RevocableVerifier::new(signed, &one.revocations);
    let jwts = Node::behind(one.revocations.clone(), verifier, SystemClock);
    let ada = TokenFilter::Subject { issuer: ISSUER.to_owned(), subject: "ada".to_owned() };
    assert_eq!(tokens.revoke_all(ada).await.unwrap(), 1);
    assert_eq!(one.revocations.len(), 1);
    assert!(jwts.accepts("signed").await);
}

#[tokio::test]
async fn nodes_that_could_not_be_told_are_told_by_the_next_try() {
    let (store, shared) = (MemoryTokenStore::new(), Moody::default());
    let (tokens, _) = node(&store, &shared).await;
    let (_, other) = node(&store, &shared).await;
    let issued = tokens.issue(NewToken::new("ada")).await.unwrap();
    let (id, text) = (&issued.record.id, issued.token.expose());
    assert!(other.accepts(text).await);
    shared.is(Mood::Down);
    tokens.revoke(id).await.unwrap_err();
    shared.is(Mood::Good);
    assert!(other.accepts(text).await, "it is remembered, and nobody has told");
    assert!(!tokens.revoke(id).await.unwrap(), "it was revoked the first time");
    other.refuses_within(text, SOON).await;

    // A successor that its holder never sees would lock them out: it is answered all the same.
    let issued = tokens.issue(NewToken::new("ada")).await.unwrap();
    shared.is(Mood::Down);
    let next = tokens.rotate(&issued.record.id, Duration::ZERO).await.unwrap();
    assert!(other.accepts(next.token.expose()).await);
}

/// From then on every node asks the store of tokens, so that nothing of it is kept for ever.
#[tokio::test]
async fn what_nodes_are_told_of_a_token_ends_when_none_remembers_it_any_more() {
    let (clock, kept) = (ManualClock::default(), MemoryRevocations::new());
    let revocations = Revocations::builder(kept.clone()).with_clock(clock.clone()).start().unwrap();
    revocations.ready().await.unwrap();
    let peppers = Peppers::new(Pepper::new("1", &[7; 32]).unwrap());
    let tokens = OpaqueTokens::builder(ISSUER, MemoryTokenStore::new(), peppers)
        .with_max_age(Duration::from_secs(300))
        .with_clock(clock.clone())
        .with_revocations(&revocations)
        .build()
        .unwrap();
    let id = tokens.issue(NewToken::new("ada")).await.unwrap().record.id;
    let revoked_at = clock.now();
    assert!(tokens.revoke(&id).await.unwrap());
    // Whoever tries again says the same.
    clock.advance(Duration::from_secs(60));
    assert!(!tokens.revoke(&id).await.unwrap());
    let told = kept.revoked_since(0).await.unwrap().revocations;
    assert_eq!(told.first(), told.last(), "OPAQUE-70: a store may keep it once");
    let lasts = told[0].end().unwrap().duration_since(revoked_at).unwrap();
    assert!((630..=631).contains(&lasts.as_secs()), "OPAQUE-70: {lasts:?}");
}

/// Others may remember a token for longer than it has left by then.
#[tokio::test]
async fn an_end_that_comes_soon_is_told_to_other_nodes() {
    let soon = Duration::from_secs(30);
    for end in ["expired", "replaced"] {
        let (store, shared) = (MemoryTokenStore::new(), Moody::default());
        let (clock, max_age) = (ManualClock::new(SystemTime::now()), Duration::from_secs(300));
        let (tokens, one) = node_at(&store, &shared, clock.clone(), max_age).await;
        let (_, other) = node_at(&store, &shared, clock.clone(), max_age).await;
        let issued = tokens.issue(NewToken::new("ada")).await.unwrap();
        let (id, text) = (&issued.record.id, issued.token.expose());
        assert!(other.accepts(text).await, "and it is remembered");
        match end {
            "expired" => drop(tokens.expire(id, clock.now() + soon).await.unwrap()),
            _ => drop(tokens.rotate(id, soon).await.unwrap()),
        }
        let began = Instant::now();
        while other.revocations.is_empty() {
            assert!(began.elapsed() < SOON, "OPAQUE-70: {end}: nobody has told it");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert!(one.accepts(text).await && other.accepts(text).await, "{end}: not yet");
        clock.advance(soon);
        for node in [&one, &other] {
            node.catches_up().await;
            let answer = node.get(text).await.text;
            assert_eq!(answer, "401 token_expired expired", "OPAQUE-70: {end}");
        }
    }
}

/// The successor would be issued after the moment up to which tokens are revoked.
#[tokio::test]
async fn a_token_that_is_revoked_with_others_has_no_successor() {
    let (store, shared) = (MemoryTokenStore::new(), Moody::default());
    let (tokens, node) = node(&store, &shared).await;
    let issued = tokens.issue(NewToken::new("ada").client("web")).await.unwrap();
    let bob = tokens.issue(NewToken::new("bob")).await.unwrap();
    let now = SystemTime::now();
    node.revoke(Revocation::subject(ISSUER, "ada").with_issued_until(now)).await;
    let refused = tokens.rotate(&issued.record.id, SOON).await.unwrap_err();
    assert!(matches!(refused, TokenError::Ended), "attack 23: {refused:?}");
    assert!(tokens.rotate(&bob.record.id, SOON).await.is_ok());
}

/// A node that did would let a revoked token in again, once what it was told has ended.
#[tokio::test]
async fn a_node_that_is_told_what_ends_does_not_remember_tokens_for_longer_than_that_lasts() {
    let revocations = Revocations::builder(MemoryRevocations::new()).start().unwrap();
    let built = |max_age| {
        let peppers = Peppers::new(Pepper::new("1", &[7; 32]).unwrap());
        OpaqueTokens::builder(ISSUER, MemoryTokenStore::new(), peppers)
            .with_max_age(Duration::from_secs(max_age))
            .with_revocations(&revocations)
            .build()
    };
    assert!(built(300).is_ok());
    let error = built(301).unwrap_err();
    assert_eq!(error, InvalidOpaqueTokens::LongMemory, "OPAQUE-70");
    assert!(error.to_string().contains("lower `with_max_age`"));
}

/// An issuer that answers without naming the client has not said that there is none; a record that
/// this application wrote has.
#[tokio::test]
async fn a_client_that_is_not_named_may_be_any_but_for_tokens_that_were_issued_here() {
    let answer = json!({"active": true, "sub": "ada", "aud": "api", "iss": ISSUER}).to_string();
    let fetch = move |_: FetchRequest| {
        let answer = answer.clone();
        async move {
            let response = Response::builder().header("content-type", "application/json");
            Ok(response.body(Bytes::from(answer)).unwrap())
        }
    };
    let introspected = IntrospectionVerifier::builder("https://issuer.example/introspect", fetch)
        .issuer(ISSUER)
        .audience("api")
        .with_client("api", "secret")
        .build()
        .unwrap();
    let (store, shared) = (MemoryTokenStore::new(), Moody::default());
    let (tokens, here) = node(&store, &shared).await;
    let introspected = RevocableVerifier::new(introspected, &here.revocations);
    let elsewhere = Node::behind(here.revocations.clone(), introspected, SystemClock);
    let issued = tokens.issue(NewToken::new("ada")).await.unwrap();
    assert!(here.accepts(issued.token.expose()).await && elsewhere.accepts("introspected").await);
    here.revoke(Revocation::client(ISSUER, "web")).await;
    assert!(here.accepts(issued.token.expose()).await, "OPAQUE-70: it is nobody's");
    assert!(!elsewhere.accepts("introspected").await, "OPAQUE-70: it may be anybody's");
}

/// What nodes are told ends by their own clocks, and must not do so while one of them remembers the
/// token.
#[tokio::test]
async fn a_node_whose_clock_is_ahead_refuses_what_another_one_has_ended() {
    for end in ["disabled", "expired", "replaced", "revoked"] {
        let (store, shared) = (MemoryTokenStore::new(), Moody::default());
        let (clock, max_age) = (ManualClock::default(), Duration::from_secs(60));
        let (tokens, _) = node_at(&store, &shared, clock.clone(), max_age).await;
        let ahead = ManualClock::new(clock.now() + Duration::from_secs(299));
        let (_, other) = node_at(&store, &shared, ahead.clone(), max_age).await;
        let issued = tokens.issue(NewToken::new("ada")).await.unwrap();
        let (id, text) = (&issued.record.id, issued.token.expose());
        assert!(other.accepts(text).await, "and it is remembered");
        match end {
            "disabled" => drop(tokens.disable(id).await.unwrap()),
            "expired" => drop(tokens.expire(id, clock.now()).await.unwrap()),
            "replaced" => drop(tokens.rotate(id, Duration::ZERO).await.unwrap()),
            _ => drop(tokens.revoke(id).await.unwrap()),
        }
        other.refuses_within(text, SOON).await;
        ahead.advance(max_age - Duration::from_nanos(1));
        other.catches_up().await;
        assert!(!other.accepts(text).await, "OPAQUE-70: {end}, and it is still remembered");
        ahead.advance(Duration::from_nanos(1));
        assert!(other.get(text).await.text.starts_with("401"), "OPAQUE-70: {end}");
    }
}

/// One call for each would take a minute for those of a busy subject.
#[tokio::test]
async fn many_tokens_are_told_of_at_once() {
    let (store, shared) = (MemoryTokenStore::new(), Moody::default());
    let (tokens, one) = node(&store, &shared).await;
    let (_, other) = node(&store, &shared).await;
    let mut issued = Vec::new();
    for _ in 0..1500 {
        issued.push(tokens.issue(NewToken::new("ada")).await.unwrap().token);
    }
    let ends = [0, 999, 1000, 1499].map(|n| issued[n].expose());
    for text in ends {
        assert!(other.accepts(text).await);
    }
    let ada = TokenFilter::subject(ISSUER, "ada");
    assert_eq!(tokens.revoke_all(ada).await.unwrap(), 1500);
    assert_eq!(shared.told(), 2, "a thousand at once at most");
    assert_eq!(one.revocations.len(), 1500);
    for text in ends {
        assert!(!one.accepts(text).await, "OPAQUE-70");
        other.refuses_within(text, SOON).await;
    }
    assert_eq!(other.revocations.len(), 1500, "OPAQUE-73");
}

#[tokio::test]
async fn a_token_that_is_disabled_on_one_node_is_refused_on_the_others_and_comes_back() {
    let (store, shared) = (MemoryTokenStore::new(), Moody::default());
    let (clock, max_age) = (ManualClock::new(SystemTime::now()), Duration::from_secs(60));
    let (tokens, one) = node_at(&store, &shared, clock.clone(), max_age).await;
    let (_, other) = node_at(&store, &shared, clock.clone(), max_age).await;
    let issued = tokens.issue(NewToken::new("ada")).await.unwrap();
    let (id, text) = (&issued.record.id, issued.token.expose());
    assert!(other.accepts(text).await, "and it is remembered");
    assert!(tokens.disable(id).await.unwrap());
    other.refuses_within(text, SOON).await;
    clock.advance(max_age);
    assert!(!other.accepts(text).await, "OPAQUE-70: it is still disabled");
    one.catches_up().await;
    other.catches_up().await;
    // Nobody waits until what was told has ended, in which time what is remembered does not count.
    for again in ["once", "twice"] {
        assert!(tokens.enable(id).await.unwrap());
        assert!(one.accepts(text).await && other.accepts(text).await, "{again}: it is back");
        assert!(tokens.disable(id).await.unwrap());
        assert!(!one.accepts(text).await && !other.accepts(text).await, "OPAQUE-70: {again}");
    }
    assert!(tokens.enable(id).await.unwrap());
    clock.advance(Duration::from_secs(301));
    other.catches_up().await;
    assert!(other.accepts(text).await, "nothing of it is left");
    assert!(tokens.expire(id, clock.now()).await.unwrap());
    other.refuses_within(text, SOON).await;
    clock.advance(max_age + Duration::from_secs(301));
    other.catches_up().await;
    assert_eq!(other.get(text).await.text, "401 token_expired expired", "OPAQUE-70");
}
