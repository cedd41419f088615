//! From the issue of a token to its end, through the layers.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;
use tokio::sync::Barrier;
use tower::Layer;
use tower_gate::store::{TokenFilter, TokenQuery, TokenStore};
use tower_gate::verifier::opaque::{
    InvalidOpaqueTokens, NewToken, OpaqueTokens, Peppers, TokenError,
};
use tower_gate::verifier::{CachedVerifier, VerifyRequest};
use tower_gate::{
    AuthenticateLayer, BearerToken, Clock, ManualClock, Principal, TokenKind, TokenVerifier,
};

use crate::scene::{ISSUER, Scene, at, pepper, with_every_store};
use crate::support::{Probe, send, with_token};
use crate::watched::Watched;

const HOUR: Duration = Duration::from_secs(3600);

with_every_store! {
    a_token_has_a_beginning_and_an_end
    what_is_revoked_here_is_refused_at_once
    a_principal_is_what_the_record_says
    both_tokens_are_good_while_they_overlap
    of_all_that_rotate_one_token_one_gets_its_successor
    nobody_who_rotates_meanwhile_escapes_a_revocation_of_all
    a_token_that_has_not_begun_begins_no_sooner_when_it_is_replaced
    a_token_can_be_told_to_end_sooner_and_never_later
    what_cannot_be_a_name_is_nobodys
    what_has_ended_is_purged_and_nothing_else
    tokens_are_listed_without_their_texts
    last_uses_are_written_behind_and_coarse
}

async fn a_token_has_a_beginning_and_an_end(store: impl TokenStore) {
    let scene = Scene::new(store);
    let new = NewToken::new("user-1").not_before(at(100)).expires_at(at(200));
    let issued = scene.tokens.issue(new).await.unwrap();
    let (token, id) = (issued.token.expose(), issued.record.id);
    let early = ("token_not_active", format!("not_active {id}"));
    let good = ("", id.clone());
    let over = ("token_expired", format!("expired {id}"));
    for (seconds, status, (word, trail)) in [
        (0, 401, &early),
        (99, 401, &early),
        (100, 200, &good),
        (150, 200, &good),
        (199, 200, &good),
        (200, 401, &over),
        (9999, 401, &over),
        // A clock that is set back makes nothing of it.
        (150, 200, &good),
        (99, 401, &early),
    ] {
        scene.clock.set_now(at(seconds));
        let expected = (status, (*word).to_owned(), trail.clone());
        assert_eq!(scene.outcome(token).await, expected, "OPAQUE-13, attack 23: at {seconds}");
    }
    let events = scene.trail.events();
    let is_known = |event: &tower_gate::AuditEvent| {
        event.principal.as_ref().is_some_and(|principal| principal.subject() == "user-1")
    };
    assert!(events.iter().all(is_known), "AUDIT: whose token it was");
}

async fn what_is_revoked_here_is_refused_at_once(store: impl TokenStore) {
    // Remembered for a day: nothing but the revocation takes them out of memory.
    let scene = Scene::with(store, |builder| builder.with_max_age(24 * HOUR));
    let mut issued = Vec::new();
    for (subject, client) in
        [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y"), ("c", "z"), ("d", "z")]
    {
        let new = NewToken::new(subject).client(client);
        issued.push(scene.tokens.issue(new).await.unwrap());
    }
    let tokens = &scene.tokens;
    let id = |n: usize| &*issued[n].record.id;
    let statuses = async || {
        let mut statuses = Vec::new();
        for issued in &issued {
            statuses.push(scene.outcome(issued.token.expose()).await.1);
        }
        statuses
    };
    let (good, over) = ("", "token_revoked");
    assert_eq!(statuses().await, [good; 6]);
    assert!(tokens.revoke(id(0)).await.unwrap());
    assert_eq!(statuses().await, [over, good, good, good, good, good], "OPAQUE-70");
    assert!(!tokens.revoke(id(0)).await.unwrap(), "it was before");
    assert_eq!(tokens.revoke_all(TokenFilter::subject(ISSUER, "b")).await.unwrap(), 2);
    assert_eq!(statuses().await, [over, good, over, over, good, good], "OPAQUE-70");
    assert_eq!(tokens.revoke_all(TokenFilter::client("y")).await.unwrap(), 1);
    assert_eq!(statuses().await, [over, over, over, over, good, good], "OPAQUE-70");
    assert!(tokens.disable(id(4)).await.unwrap());
    assert_eq!(statuses().await, [over, over, over, over, over, good]);
    assert!(tokens.enable(id(4)).await.unwrap());
    assert!(tokens.enable(id(0)).await.unwrap());
    assert_eq!(statuses().await, [over, over, over, over, good, good], "revoked is for good");
    for stranger in ["", "x", "0123456789abcdefghjkmnpqrs", issued[5].token.expose(), "\0"] {
        assert!(!tokens.revoke(stranger).await.unwrap(), "{stranger}");
        assert!(!tokens.disable(stranger).await.unwrap(), "{stranger}");
        assert!(tokens.describe(stranger).await.unwrap().is_none(), "{stranger}");
    }
    assert_eq!(statuses().await, [over, over, over, over, good, good]);
}

async fn a_principal_is_what_the_record_says(store: impl TokenStore) {
    #[derive(serde::Deserialize)]
    struct Metadata<'a> {
        plan: &'a str,
    }
    let scene = Scene::new(store);
    let new = NewToken::new("user-1")
        .issuer("https://people.example")
        .client("ci")
        .scopes("read:reports write:reports")
        .roles(["editor", "team lead"])
        .metadata(json!({ "plan": "pro" }).as_object().unwrap().clone())
        .expires_in(HOUR);
    let issued = scene.tokens.issue(new).await.unwrap();
    let token = issued.token.expose();
    assert_eq!(scene.status(token).await, 200);
    let event = scene.trail.event();
    let principal = event.principal.unwrap();
    assert_eq!((principal.issuer(), principal.subject()), ("https://people.example", "user-1"));
    assert_eq!(principal.client(), Some("ci"));
    assert_eq!(principal.scopes().as_str(), "read:reports write:reports");
    assert_eq!(principal.roles().collect::<Vec<_>>(), ["editor", "team lead"]);
    assert_eq!(principal.token_kind(), TokenKind::Opaque);
    assert_eq!(principal.token_id(), Some(&*issued.record.id), "OPAQUE-14");
    assert_eq!(principal.issued_at(), Some(at(0)));
    assert_eq!(principal.expires_at(), Some(at(3600)));
    assert_eq!(principal.claims::<Metadata<'_>>().unwrap().plan, "pro");

    let plain = scene.issue("user-2").await;
    let end = at(0) + Duration::from_secs(90 * 24 * 3600);
    assert_eq!(plain.record.expires_at, Some(end), "nothing lasts for ever by itself");
    let found = scene.tokens.describe(&plain.record.id).await.unwrap();
    assert_eq!(found, Some(plain.record), "OPAQUE-14");
    let endless = scene.tokens.issue(NewToken::new("user-3").without_expiry()).await.unwrap();
    scene.clock.advance(Duration::from_secs(100 * 365 * 86_400));
    assert_eq!(scene.status(endless.token.expose()).await, 200);
}

async fn both_tokens_are_good_while_they_overlap(store: impl TokenStore) {
    let scene = Scene::with(store, |builder| builder.with_max_age(24 * HOUR));
    let new =
        NewToken::new("user-1").client("ci").scopes("read").roles(["r"]).expires_in(10 * HOUR);
    let first = scene.tokens.issue(new).await.unwrap();
    assert_eq!(scene.status(first.token.expose()).await, 200);
    scene.clock.set_now(at(1000));
    let second = scene.tokens.rotate(&first.record.id, HOUR).await.unwrap();
    let like = |record: &tower_gate::store::TokenRecord| {
        let (scopes, roles) = (record.scopes.clone(), record.roles.clone());
        (record.subject.clone(), record.client.clone(), scopes, roles, record.metadata.clone())
    };
    assert_eq!(like(&second.record), like(&first.record));
    assert_eq!(second.record.issued_at, at(1000));
    assert_eq!(second.record.expires_at, Some(at(1000 + 36_000)), "as much time as the first had");
    let both = async || {
        let [first, second] = [&first, &second].map(|issued| issued.token.expose());
        [scene.outcome(first).await.1, scene.outcome(second).await.1]
    };
    assert_eq!(both().await, ["", ""]);
    scene.clock.set_now(at(1000 + 3599));
    assert_eq!(both().await, ["", ""]);
    scene.clock.set_now(at(1000 + 3600));
    assert_eq!(both().await, ["token_expired", ""], "attack 23: the overlap is over");

    let third = scene.tokens.rotate(&second.record.id, Duration::ZERO).await.unwrap();
    assert_eq!(both().await, ["token_expired", "token_revoked"], "without an overlap");
    assert_eq!(scene.status(third.token.expose()).await, 200);

    // The end of a token stays its end, however long the overlap.
    scene.clock.set_now(at(1000 + 3600 + 35_000));
    let fourth = scene.tokens.rotate(&third.record.id, 99 * HOUR).await.unwrap();
    scene.clock.set_now(at(1000 + 3600 + 36_000));
    assert_eq!(scene.outcome(third.token.expose()).await.1, "token_expired");
    assert_eq!(scene.status(fourth.token.expose()).await, 200);

    let rotate = async |id: &str| scene.tokens.rotate(id, HOUR).await.unwrap_err();
    assert!(matches!(rotate(&first.record.id).await, TokenError::Replaced));
    assert!(matches!(rotate("nobody's").await, TokenError::Unknown));
    scene.tokens.disable(&fourth.record.id).await.unwrap();
    assert!(matches!(rotate(&fourth.record.id).await, TokenError::Ended));
}

/// PostgreSQL takes no text with a NUL, and no number is too great to ask for.
async fn what_cannot_be_a_name_is_nobodys(store: impl TokenStore) {
    let scene = Scene::new(store);
    scene.issue("user-1").await;
    for filter in [
        TokenFilter::subject(ISSUER, "user-1\0"),
        TokenFilter::subject("\0", "user-1"),
        TokenFilter::client("\0"),
        TokenFilter::Id("\0".to_owned()),
    ] {
        let page = scene.tokens.list(TokenQuery::new(filter.clone())).await.unwrap();
        assert!(page.records.is_empty() && page.next.is_none(), "{filter:?}");
        assert_eq!(scene.tokens.revoke_all(filter.clone()).await.unwrap(), 0, "{filter:?}");
    }
    let mut query = TokenQuery::new(TokenFilter::subject(ISSUER, "user-1"));
    let after_nul = scene.tokens.list(query.clone().after("\0".to_owned())).await.unwrap();
    assert!(after_nul.records.is_empty(), "no id has one");
    query.limit = usize::MAX;
    assert_eq!(scene.tokens.list(query).await.unwrap().records.len(), 1);
}

async fn of_all_that_rotate_one_token_one_gets_its_successor(store: impl TokenStore) {
    let scene = Scene::new(store);
    for overlap in [HOUR, Duration::ZERO] {
        let old = scene.issue("user-1").await;
        let barrier = Arc::new(Barrier::new(16));
        let tasks: Vec<_> = (0..16)
            .map(|_| {
                let (tokens, barrier) = (scene.tokens.clone(), barrier.clone());
                let id = old.record.id.clone();
                tokio::spawn(async move {
                    barrier.wait().await;
                    tokens.rotate(&id, overlap).await
                })
            })
            .collect();
        let mut winners = Vec::new();
        for task in tasks {
            match task.await.unwrap() {
                Ok(issued) => winners.push(issued),
                Err(error) => assert!(matches!(error, TokenError::Replaced), "{error:?}"),
            }
        }
        assert_eq!(winners.len(), 1, "exactly one successor");
        let found = scene.tokens.describe(&old.record.id).await.unwrap().unwrap();
        assert_eq!(found.replaced_by.as_ref(), Some(&winners[0].record.id));
        assert_eq!(scene.status(winners[0].token.expose()).await, 200);
    }
}

async fn nobody_who_rotates_meanwhile_escapes_a_revocation_of_all(store: impl TokenStore) {
    let scene = Arc::new(Scene::new(store));
    for round in 0..10 {
        let subject = format!("user-{round}");
        let mut rotations = tokio::task::JoinSet::new();
        for n in 0..4 {
            let (scene, mut last) = (scene.clone(), scene.issue(&subject).await);
            rotations.spawn(async move {
                // On and on, until there is nothing left to replace.
                let mut texts = vec![last.token.expose().to_owned()];
                loop {
                    let overlap = Duration::from_secs(3600 * (n % 2));
                    match scene.tokens.rotate(&last.record.id, overlap).await {
                        Ok(next) => last = next,
                        Err(TokenError::Ended) => return texts,
                        Err(error) => panic!("{error:?}"),
                    }
                    texts.push(last.token.expose().to_owned());
                }
            });
        }
        for _ in 0..20 * round {
            tokio::task::yield_now().await;
        }
        scene.tokens.revoke_all(TokenFilter::subject(ISSUER, &subject)).await.unwrap();
        let deadline = tokio::time::timeout(Duration::from_secs(60), rotations.join_all());
        let texts = deadline.await.expect("a successor has escaped, and is replaced for ever");
        for text in texts.iter().flatten() {
            assert_eq!(scene.status(text).await, 401, "OPAQUE-70, attack 38: round {round}");
        }
    }
}

async fn a_token_that_has_not_begun_begins_no_sooner_when_it_is_replaced(store: impl TokenStore) {
    let scene = Scene::new(store);
    let new = NewToken::new("user-1").not_before(at(100)).expires_at(at(200));
    let issued = scene.tokens.issue(new).await.unwrap();
    let next = scene.tokens.rotate(&issued.record.id, Duration::ZERO).await.unwrap();
    let token = next.token.expose();
    assert_eq!(scene.outcome(token).await.1, "token_not_active");
    scene.clock.set_now(at(100));
    assert_eq!(scene.status(token).await, 200);
    let after = scene.tokens.rotate(&next.record.id, Duration::ZERO).await.unwrap();
    assert_eq!(scene.status(after.token.expose()).await, 200, "a beginning that is past is none");
}

async fn a_token_can_be_told_to_end_sooner_and_never_later(store: impl TokenStore) {
    // Remembered for a day: nothing but the change takes it out of memory.
    let scene = Scene::with(store, |builder| builder.with_max_age(24 * HOUR));
    let endless = scene.tokens.issue(NewToken::new("user-1").without_expiry()).await.unwrap();
    let (token, id) = (endless.token.expose(), &*endless.record.id);
    assert_eq!(scene.status(token).await, 200);
    for (end, expected) in [(100, 100), (200, 100), (50, 50)] {
        assert!(scene.tokens.expire(id, at(end)).await.unwrap());
        let record = scene.tokens.describe(id).await.unwrap().unwrap();
        assert_eq!(record.expires_at, Some(at(expected)));
    }
    assert_eq!(scene.status(token).await, 200);
    scene.clock.set_now(at(50));
    assert_eq!(scene.outcome(token).await.1, "token_expired");
    assert!(scene.tokens.revoke(id).await.unwrap());
    assert!(!scene.tokens.expire(id, at(10)).await.unwrap(), "it was revoked");
    for stranger in ["", "\0", "0123456789abcdefghjkmnpqrs"] {
        assert!(!scene.tokens.expire(stranger, at(10)).await.unwrap(), "{stranger:?}");
    }
}

async fn what_has_ended_is_purged_and_nothing_else(store: impl TokenStore) {
    let scene = Scene::new(store);
    let mut ended = Vec::new();
    // More than are purged in one step.
    for n in 0..1100 {
        let new = NewToken::new("short").expires_at(at(1 + n % 10));
        ended.push(scene.tokens.issue(new).await.unwrap().record.id);
    }
    let [endless, long, disabled, revoked] =
        [(); 4].map(|()| NewToken::new("user-1").without_expiry());
    let endless = scene.tokens.issue(endless).await.unwrap();
    let long = scene.tokens.issue(long.expires_at(at(100))).await.unwrap();
    let disabled = scene.tokens.issue(disabled).await.unwrap();
    assert!(scene.tokens.disable(&disabled.record.id).await.unwrap());
    let revoked = scene.tokens.issue(revoked).await.unwrap();
    scene.clock.set_now(at(50));
    assert!(scene.tokens.revoke(&revoked.record.id).await.unwrap());
    assert_eq!(scene.tokens.purge(at(1)).await.unwrap(), 0);
    assert_eq!(scene.tokens.purge(at(50)).await.unwrap(), 1100);
    scene.clock.set_now(at(51));
    assert_eq!(scene.tokens.purge(at(9999)).await.unwrap(), 1, "the one that was revoked");
    assert!(scene.tokens.describe(&ended[0]).await.unwrap().is_none());
    assert_eq!(scene.outcome(revoked.token.expose()).await.2, "unknown_token");
    for kept in [&endless, &long] {
        assert_eq!(scene.status(kept.token.expose()).await, 200);
    }
    assert!(scene.tokens.enable(&disabled.record.id).await.unwrap(), "it is not over");
    assert_eq!(scene.status(disabled.token.expose()).await, 200);
}

async fn tokens_are_listed_without_their_texts(store: impl TokenStore) {
    let scene = Scene::new(store);
    let mut issued = Vec::new();
    for n in 0..11 {
        scene.clock.advance(Duration::from_millis(5));
        let new = NewToken::new("user-1").client(if n % 2 == 0 { "web" } else { "ci" });
        issued.push(scene.tokens.issue(new).await.unwrap());
    }
    scene.issue("user-2").await;
    scene.tokens.revoke(&issued[3].record.id).await.unwrap();
    for (filter, expected) in [
        (TokenFilter::subject(ISSUER, "user-1"), (0..11).collect::<Vec<_>>()),
        (TokenFilter::client("web"), vec![0, 2, 4, 6, 8, 10]),
        (TokenFilter::subject("https://other.example", "user-1"), vec![]),
    ] {
        for limit in [1, 3, 6, 11, 100] {
            let (mut listed, mut after, mut pages) = (Vec::new(), None, 0);
            loop {
                let query = TokenQuery::new(filter.clone()).limit(limit).after(after);
                let page = scene.tokens.list(query).await.unwrap();
                listed.extend(page.records);
                (after, pages) = (page.next, pages + 1);
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(pages, expected.len().div_ceil(limit).max(1), "no empty page");
            let ids: Vec<_> = listed.iter().map(|record| &*record.id).collect();
            let expected: Vec<_> = expected.iter().map(|&n| &*issued[n].record.id).collect();
            assert_eq!(ids, expected, "the oldest first, whatever has become of it");
            let shown = format!("{listed:?}");
            for issued in &issued {
                assert!(!shown.contains(&issued.token.expose()[10..]), "OPAQUE-12");
            }
        }
    }
}

async fn last_uses_are_written_behind_and_coarse(store: impl TokenStore) {
    // Without a memory, so that the store is asked each time.
    let scene = Scene::with(store, |builder| builder.with_max_age(Duration::ZERO));
    let issued = scene.issue("user-1").await;
    for (seconds, expected) in [(5, 5), (6, 5), (64, 5), (65, 65), (70, 65), (500, 500), (400, 500)]
    {
        scene.clock.set_now(at(seconds));
        assert_eq!(scene.status(issued.token.expose()).await, 200);
        scene.tokens.write_last_used().await;
        let record = scene.tokens.describe(&issued.record.id).await.unwrap().unwrap();
        assert_eq!(record.last_used, Some(at(expected)), "OPAQUE-13: at {seconds}");
    }
}

#[tokio::test(start_paused = true)]
async fn last_uses_are_written_by_themselves_in_one_batch() {
    let store = Watched::new();
    let scene = Scene::new(store.clone());
    for round in 0..3 {
        for n in 0..100 {
            let issued = scene.issue(&n.to_string()).await;
            assert_eq!(scene.status(issued.token.expose()).await, 200);
        }
        assert_eq!(store.touches(), round, "no request waits for it");
        tokio::time::sleep(Duration::from_secs(6)).await;
        assert_eq!(store.touches(), round + 1, "one batch");
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(store.touches(), round + 1, "nothing waits, nothing is written");
    }
    let listed = scene.tokens.list(TokenQuery::new(TokenFilter::subject(ISSUER, "7"))).await;
    let used = listed.unwrap().records.iter().map(|record| record.last_used).collect::<Vec<_>>();
    assert_eq!(used, [Some(at(0)); 3]);
}

#[tokio::test]
async fn a_use_that_cannot_be_written_down_fails_nothing() {
    let store = Watched::new();
    let scene = Scene::new(store.clone());
    let issued = scene.issue("user-1").await;
    assert_eq!(scene.status(issued.token.expose()).await, 200);
    store.set_broken(true);
    scene.tokens.write_last_used().await;
    assert_eq!(store.touches(), 1);
    store.set_broken(false);
    assert_eq!(scene.status(issued.token.expose()).await, 200);
    // More tokens than are gathered: the rest is not waited for, and not kept.
    for n in 0..10_500 {
        let issued = scene.issue(&n.to_string()).await;
        assert_eq!(scene.status(issued.token.expose()).await, 200);
    }
    scene.tokens.write_last_used().await;
    let mut used = 0;
    for n in 0..10_500 {
        let query = TokenQuery::new(TokenFilter::subject(ISSUER, &n.to_string()));
        let page = scene.tokens.list(query).await.unwrap();
        used += usize::from(page.records[0].last_used.is_some());
        if n == 10_000 {
            assert_eq!(used, 10_000, "within a bound");
            break;
        }
    }
}

#[tokio::test]
async fn a_good_token_is_remembered_and_not_beyond_its_time() {
    let store = Watched::new();
    let scene = Scene::new(store.clone());
    let new = NewToken::new("user-1").expires_at(at(15));
    let issued = scene.tokens.issue(new).await.unwrap();
    for (seconds, finds, status) in
        [(0, 1, 200), (9, 1, 200), (10, 2, 200), (14, 2, 200), (15, 3, 401), (15, 4, 401)]
    {
        scene.clock.set_now(at(seconds));
        assert_eq!(scene.status(issued.token.expose()).await, status);
        assert_eq!(store.finds(), finds, "attack 23: at {seconds}");
    }
}

#[tokio::test]
async fn a_verification_on_its_way_does_not_bring_back_what_was_revoked() {
    for disable in [false, true] {
        let store = Watched::new();
        let scene = Scene::with(store.clone(), |builder| builder.with_max_age(24 * HOUR));
        let issued = scene.issue("user-1").await;
        store.hold();
        let request = VerifyRequest::new(BearerToken::parse(issued.token.expose()).unwrap(), at(0));
        let verifier = scene.tokens.verifier();
        let mut verifying = pin!(verifier.verify(&request));
        assert!(verifying.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        if disable {
            assert!(scene.tokens.disable(&issued.record.id).await.unwrap());
        } else {
            assert!(scene.tokens.revoke(&issued.record.id).await.unwrap());
        }
        store.release();
        verifying.await.expect("it was asked before");
        assert_eq!(scene.outcome(issued.token.expose()).await.1, "token_revoked", "attack 23");
    }
}

#[tokio::test]
async fn a_revocation_that_nobody_waits_for_is_not_remembered_away() {
    let store = Watched::new();
    let scene = Scene::with(store.clone(), |builder| builder.with_max_age(24 * HOUR));
    let issued = scene.issue("user-1").await;
    assert_eq!(scene.status(issued.token.expose()).await, 200);
    drop(scene.tokens.revoke(&issued.record.id));
    assert_eq!(scene.status(issued.token.expose()).await, 200, "it was not even asked for");
    // The store is told, fails to say so, and the token is asked about again.
    {
        let mut revoking = pin!(scene.tokens.revoke(&issued.record.id));
        let _ = revoking.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    }
    assert_eq!(scene.outcome(issued.token.expose()).await.1, "token_revoked");
}

#[tokio::test]
async fn another_memory_around_the_verifier_forgets_with_it() {
    let scene = Scene::new(Watched::new());
    let verifier = CachedVerifier::new(scene.tokens.verifier().load(|principal: Principal| {
        let name = principal.subject().to_uppercase();
        async move { Ok(name) }
    }));
    let issued = scene.issue("user-1").await;
    let request = VerifyRequest::new(BearerToken::parse(issued.token.expose()).unwrap(), at(0));
    let principal = verifier.verify(&request).await.unwrap();
    assert_eq!(principal.get::<String>().map(String::as_str), Some("USER-1"));
    assert!(verifier.try_verify(&request).unwrap().is_ok(), "remembered");
    scene.tokens.revoke(&issued.record.id).await.unwrap();
    let error = verifier.verify(&request).await.unwrap_err();
    assert_eq!(error.kind().as_str(), "revoked", "attack 23");
}

/// As the time of day is that the kernel keeps between two ticks.
struct Late(ManualClock);

impl Clock for Late {
    fn now(&self) -> SystemTime {
        self.0.now()
    }

    fn coarse_now(&self) -> SystemTime {
        self.0.now() - Duration::from_millis(10)
    }

    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }
}

#[tokio::test]
async fn a_clock_that_is_late_lets_tokens_neither_begin_nor_end_late() {
    let scene = Scene::new(Watched::new());
    let late =
        AuthenticateLayer::new(scene.tokens.verifier()).with_clock(Late(scene.clock.clone()));
    let service = late.layer(Probe::default());
    let begin = scene.clock.now();
    let issued = scene.tokens.issue(NewToken::new("user-1").not_before(begin)).await.unwrap();
    let status = async || send(&service, with_token(issued.token.expose())).await.status;
    assert_eq!(status().await, 200, "it has begun");
    scene.clock.advance(Duration::from_secs(1));
    assert_eq!(status().await, 200, "from memory");
    assert!(scene.tokens.expire(&issued.record.id, scene.clock.now()).await.unwrap());
    assert_eq!(status().await, 401, "attack 23: it has ended once that returns");
}

#[tokio::test]
async fn what_cannot_be_a_token_is_not_issued() {
    let scene = Scene::new(Watched::new());
    let year_10_000 = UNIX_EPOCH + Duration::from_secs(253_402_300_800);
    for (new, never_good) in [
        (NewToken::new(""), false),
        (NewToken::new("a\0b"), false),
        (NewToken::new("a").client(""), false),
        (NewToken::new("a").issuer(""), false),
        (NewToken::new(&"a".repeat(851)), false),
        (NewToken::new("a").client(&"a".repeat(851)), false),
        (NewToken::new("a").roles(["x\0"]), false),
        (NewToken::new("a").scopes("x\0"), false),
        (NewToken::new("a").expires_in(Duration::ZERO), true),
        (NewToken::new("a").expires_in(Duration::MAX), true),
        (NewToken::new("a").expires_at(at(0)), true),
        (NewToken::new("a").expires_at(year_10_000), true),
        (NewToken::new("a").not_before(year_10_000).without_expiry(), true),
        (NewToken::new("a").not_before(at(10)).expires_at(at(10)), true),
    ] {
        let shown = format!("{new:?}");
        match scene.tokens.issue(new).await {
            Err(TokenError::InvalidName) => assert!(!never_good, "{shown}"),
            Err(TokenError::NeverGood) => assert!(never_good, "{shown}"),
            other => panic!("{shown}: {other:?}"),
        }
    }
}

#[test]
fn what_cannot_be_right_is_not_built() {
    let builder =
        |issuer: &str| OpaqueTokens::builder(issuer, Watched::new(), Peppers::new(pepper(1)));
    let errors = [
        builder("").build(),
        builder("i").with_prefix("a b").build(),
        builder("i").with_timeout(Duration::ZERO).build(),
        builder("i").with_timeout(Duration::from_secs(61)).build(),
    ]
    .map(|built| built.unwrap_err());
    assert_eq!(errors[0], InvalidOpaqueTokens::EmptyIssuer);
    assert!(matches!(errors[1], InvalidOpaqueTokens::Prefix(_)));
    assert_eq!(errors[2..], [InvalidOpaqueTokens::Timeout, InvalidOpaqueTokens::Timeout]);
}
