//! What is remembered and what is asked again, on a clock that is told to move.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;
use tower_gate::fetch::{Fetch, FetchRequest};
use tower_gate::verifier::introspection::IntrospectionVerifier;
use tower_gate::verifier::{CachedVerifier, RoutedVerifier};
use tower_gate::{BearerToken, TokenVerifier};

use crate::endpoint::Reply;
use crate::scene::{
    API, Api, ISSUER, Scene, active, builder, fetch, inactive, invalid, ok, unavailable,
};

/// Polls once, for a future that has to wait.
async fn begins(future: &mut (impl Future + Unpin)) {
    let mut future = pin!(future);
    poll_fn(|cx| {
        assert!(future.as_mut().poll(cx).is_pending(), "it had nothing to wait for");
        Poll::Ready(())
    })
    .await;
}

fn bearer(token: &str) -> BearerToken {
    BearerToken::parse(token).unwrap()
}

#[tokio::test]
async fn a_good_answer_is_remembered_for_ten_seconds() {
    let scene = Scene::new();
    for (pass, asked) in [(0, 1), (9, 1), (1, 2), (9, 2), (1, 3)] {
        scene.pass(pass);
        assert_eq!(scene.api.says("token").await, ok());
        assert_eq!(scene.endpoint.asked(), asked, "OPAQUE-35: {pass} seconds later");
    }
}

#[tokio::test]
async fn a_good_answer_is_not_remembered_beyond_the_end_of_the_token() {
    let scene = Scene::with(|builder| builder.with_max_age(Duration::from_secs(3600)));
    scene.answers(json!({ "exp": scene.in_seconds(60) }));
    assert_eq!(scene.api.says("token").await, ok());
    scene.pass(58);
    assert_eq!(scene.api.says("token").await, ok());
    assert_eq!(scene.endpoint.asked(), 1, "OPAQUE-35");
    scene.endpoint.reply(inactive());
    scene.pass(2);
    assert_eq!(scene.api.says("token").await, invalid(), "OPAQUE-35, attack 23");
    assert_eq!(scene.endpoint.asked(), 2, "OPAQUE-35: asked again, whatever the leeway");
}

#[tokio::test]
async fn zero_asks_every_time() {
    let scene = Scene::with(|builder| {
        builder.with_max_age(Duration::ZERO).with_max_refused_age(Duration::ZERO)
    });
    for asked in 1..=3 {
        assert_eq!(scene.api.says("token").await, ok());
        assert_eq!(scene.endpoint.asked(), asked, "OPAQUE-35");
    }
    scene.endpoint.reply(inactive());
    for asked in 4..=6 {
        assert_eq!(scene.api.says("token").await, invalid());
        assert_eq!(scene.endpoint.asked(), asked, "OPAQUE-36");
    }
}

#[tokio::test]
async fn another_cache_around_it_makes_the_window_no_longer() {
    let scene = Scene::new();
    let loaded = scene.verifier.clone().load(async |_| Ok("user"));
    let api =
        Api::new(CachedVerifier::new(loaded).with_max_age(Duration::from_secs(600)), &scene.clock);
    assert_eq!(api.says("token").await, ok());
    scene.endpoint.reply(inactive());
    scene.pass(9);
    assert_eq!(api.says("token").await, ok());
    scene.pass(1);
    assert_eq!(api.says("token").await, invalid(), "OPAQUE-38");
}

#[tokio::test]
async fn what_one_api_accepted_is_not_thereby_accepted_by_another() {
    let scene = Scene::new();
    assert_eq!(scene.api.says("token").await, ok());
    let other = IntrospectionVerifier::builder(scene.endpoint.url(), fetch());
    let other = other.issuer(ISSUER).audience("https://other.example");
    let other = Api::new(other.with_client("other", "s3cret").build().unwrap(), &scene.clock);
    assert_eq!(other.says("token").await, invalid(), "attack 22");
}

#[tokio::test]
async fn tokens_with_one_beginning_are_not_taken_for_each_other() {
    let scene = Scene::new();
    let token = |last| format!("{}{last}", "a".repeat(45));
    assert_eq!(scene.api.says(&token(1)).await, ok());
    scene.endpoint.reply(inactive());
    assert_eq!(scene.api.says(&token(2)).await, invalid(), "attack 22");
}

#[tokio::test]
async fn a_refusal_is_remembered_for_a_second() {
    let scene = Scene::new();
    scene.endpoint.reply(inactive());
    let clock = scene.clock.clone();
    for (pass, asked) in [(0, 1), (999, 1), (1, 2)] {
        clock.advance(Duration::from_millis(pass));
        assert_eq!(scene.api.says("token").await, invalid());
        assert_eq!(scene.endpoint.asked(), asked, "OPAQUE-36: {pass} ms later");
    }
    scene.answers(json!({}));
    scene.pass(1);
    assert_eq!(scene.api.says("token").await, ok(), "OPAQUE-36");
}

#[tokio::test]
async fn an_outage_is_over_the_moment_that_the_endpoint_is_back() {
    let mut scene = Scene::new();
    for reply in [Reply::status(500), Reply::status(401), Reply::Cut, Reply::text("{}")] {
        scene.endpoint.reply(reply.clone());
        assert_eq!(scene.api.says("token").await, unavailable(), "OPAQUE-36: {reply:?}");
    }
    scene.endpoint.stop();
    let answer = scene.api.get("token").await;
    assert_eq!(answer.status, 503, "attack 26: the endpoint is down");
    assert_eq!(answer.header("retry-after"), "5", "attack 26");
    scene.answers(json!({}));
    scene.endpoint.restart();
    assert_eq!(scene.api.says("token").await, ok(), "OPAQUE-36: recovery is seen at once");
}

#[tokio::test]
async fn an_outage_lets_in_what_is_remembered_and_nothing_else() {
    let mut scene = Scene::new();
    assert_eq!(scene.api.says("known").await, ok());
    scene.endpoint.stop();
    assert_eq!(scene.api.says("unknown").await, unavailable(), "attack 26");
    scene.pass(9);
    assert_eq!(scene.api.says("known").await, ok(), "attack 26");
    scene.pass(1);
    assert_eq!(scene.api.says("known").await, unavailable(), "attack 26: it fails closed");
}

#[tokio::test]
async fn an_earlier_answer_stands_in_during_an_outage_where_that_is_wanted() {
    let mut scene = Scene::with(|builder| builder.with_stale_if_error(Duration::from_secs(300)));
    scene.answers(json!({ "exp": scene.in_seconds(200) }));
    assert_eq!(scene.api.says("ends").await, ok());
    scene.answers(json!({}));
    for token in ["known", "forgotten", "revoked"] {
        assert_eq!(scene.api.says(token).await, ok());
    }
    scene.pass(20);
    scene.endpoint.reply(inactive());
    assert_eq!(scene.api.says("revoked").await, invalid());
    scene.verifier.tokens().forget_token(&bearer("forgotten"));
    scene.endpoint.stop();
    scene.pass(10);

    assert_eq!(scene.api.says("known").await, ok(), "attack 26");
    assert!(scene.api.principal().is_stale(), "attack 26");
    let event = serde_json::to_value(scene.api.event()).unwrap();
    assert_eq!(event["stale"], true, "attack 26: it is marked in the audit event");
    assert_eq!(scene.api.says("ends").await, ok(), "attack 26");
    for token in ["unknown", "forgotten", "revoked"] {
        assert_eq!(scene.api.says(token).await, unavailable(), "attack 26: {token}");
    }

    scene.pass(170);
    assert_eq!(scene.api.says("ends").await, unavailable(), "attack 23: never beyond exp");
    scene.pass(99);
    assert_eq!(scene.api.says("known").await, ok(), "attack 26: 299 seconds after the answer");
    scene.pass(1);
    assert_eq!(scene.api.says("known").await, unavailable(), "attack 26: the bound");

    scene.answers(json!({}));
    scene.endpoint.restart();
    assert_eq!(scene.api.says("known").await, ok());
    assert!(!scene.api.principal().is_stale());
    let event = serde_json::to_value(scene.api.event()).unwrap();
    assert!(event.get("stale").is_none());
}

/// 1 000 tokens of a stranger evict no good one, and the same one again asks nobody.
#[tokio::test]
async fn junk_does_not_evict_what_is_good() {
    let scene = Scene::with(|builder| builder.with_max_tokens(16));
    assert_eq!(scene.api.says("good").await, ok());
    scene.endpoint.reply(inactive());
    for n in 0..1_000 {
        assert_eq!(scene.api.says(&format!("junk-{n}")).await, invalid());
    }
    assert_eq!(scene.endpoint.asked(), 1_001);
    assert_eq!(scene.verifier.tokens().len(), 1, "OPAQUE-36, attack 24: junk is kept apart");
    assert_eq!(scene.api.says("good").await, ok(), "OPAQUE-36, attack 24");
    assert_eq!(scene.api.says("junk-999").await, invalid());
    assert_eq!(scene.endpoint.asked(), 1_001, "OPAQUE-36, attack 24: both are remembered");
}

#[tokio::test(flavor = "multi_thread")]
async fn parallel_requests_with_one_token_ask_once() {
    let scene = Scene::new();
    for (round, reply) in
        [Reply::json(&active(&scene.clock, json!({}))), inactive()].into_iter().enumerate()
    {
        scene.endpoint.reply(reply);
        scene.endpoint.hold();
        let mut calls = JoinSet::new();
        for _ in 0..50 {
            let api = scene.api.clone();
            calls.spawn(async move { api.says(&format!("token-{round}")).await });
        }
        scene.endpoint.was_asked(round + 1).await;
        scene.endpoint.release();
        let said = calls.join_all().await;
        assert_eq!(said, vec![[ok(), invalid()][round].clone(); 50], "OPAQUE-37");
        assert_eq!(scene.endpoint.asked(), round + 1, "OPAQUE-37");
    }
}

#[tokio::test]
async fn whoever_leaves_does_not_take_the_answer_from_the_others() {
    let scene = Scene::new();
    scene.endpoint.hold();
    let first_api = scene.api.clone();
    let mut first = Box::pin(first_api.says("token"));
    tokio::select! {
        _ = &mut first => panic!("the endpoint holds its answer back"),
        () = scene.endpoint.was_asked(1) => {}
    }
    let mut others = JoinSet::new();
    for _ in 0..3 {
        let api = scene.api.clone();
        others.spawn(async move { api.says("token").await });
    }
    // They run until they wait as well.
    tokio::task::yield_now().await;
    drop(first);
    scene.endpoint.release();
    assert_eq!(others.join_all().await, vec![ok(); 3], "OPAQUE-37");
    assert_eq!(scene.endpoint.asked(), 1, "OPAQUE-37");
    assert_eq!(scene.api.says("token").await, ok());
    assert_eq!(scene.endpoint.asked(), 1, "OPAQUE-37: and it is remembered");
}

#[tokio::test]
async fn only_so_many_questions_are_on_their_way() {
    let scene = Scene::with(|builder| builder.with_max_in_progress(2));
    scene.endpoint.hold();
    let (one, two) = (scene.api.clone(), scene.api.clone());
    let (mut first, mut second) = (Box::pin(one.says("one")), Box::pin(two.says("two")));
    begins(&mut first).await;
    begins(&mut second).await;
    let answer = scene.api.get("three").await;
    assert_eq!(answer.status, 503, "attack 24");
    assert_eq!(answer.header("retry-after"), "1", "attack 24");
    // The same tokens again are no more questions.
    let again = scene.api.clone();
    let mut joined = Box::pin(again.says("two"));
    begins(&mut joined).await;
    // A question that nobody waits for any more makes room.
    drop(first);
    scene.endpoint.release();
    assert_eq!(scene.api.says("three").await, ok());
    assert_eq!((second.await, joined.await), (ok(), ok()));
    assert_eq!(scene.api.says("four").await, ok(), "answers make room");
    assert_eq!(scene.api.says("five").await, ok(), "answers make room");
}

/// Whoever floods an API with tokens that nobody knows keeps out other new ones, and not those who have
/// been let in before and are asked about again each ten seconds.
#[tokio::test]
async fn made_up_tokens_keep_nobody_out_who_was_let_in_before() {
    let scene = Scene::with(|builder| builder.with_max_in_progress(8));
    for token in ["known", "another"] {
        assert_eq!(scene.api.says(token).await, ok());
    }
    scene.pass(10);
    scene.endpoint.hold();
    let mut flood = JoinSet::new();
    for n in 0..8 {
        let client = scene.api.clone();
        flood.spawn(async move { client.says(&format!("junk-{n}")).await });
    }
    // Those that find no place are answered at once.
    for _ in 0..2 {
        assert_eq!(flood.join_next().await.unwrap().unwrap(), unavailable(), "attack 24");
    }
    let [one, two] = [(); 2].map(|()| scene.api.clone());
    let (mut known, mut another) = (Box::pin(one.says("known")), Box::pin(two.says("another")));
    begins(&mut known).await;
    begins(&mut another).await;
    scene.endpoint.release();
    assert_eq!([known.await, another.await], [ok(), ok()], "attack 24: their places are kept");
    assert_eq!(flood.join_all().await.len(), 6);
}

#[tokio::test]
async fn an_earlier_answer_stands_in_where_too_many_questions_are_on_their_way() {
    let scene = Scene::with(|builder| {
        builder.with_max_in_progress(1).with_stale_if_error(Duration::from_secs(300))
    });
    assert_eq!(scene.api.says("known").await, ok());
    scene.pass(10);
    scene.endpoint.hold();
    let one = scene.api.clone();
    let mut first = Box::pin(one.says("one"));
    begins(&mut first).await;
    assert_eq!(scene.api.says("known").await, ok(), "attack 24, attack 26");
    assert!(scene.api.principal().is_stale(), "attack 26");
    assert_eq!(scene.api.says("unknown").await, unavailable(), "attack 24");
    scene.endpoint.release();
    assert_eq!(first.await, ok());
}

#[tokio::test]
async fn whoever_joins_after_the_end_of_the_token_is_refused() {
    let scene = Scene::new();
    scene.answers(json!({ "exp": scene.in_seconds(5) }));
    scene.endpoint.hold();
    let [early, in_time, late] = [(); 3].map(|()| scene.api.clone());
    let mut early = Box::pin(early.says("token"));
    begins(&mut early).await;
    scene.pass(34);
    let mut in_time = Box::pin(in_time.says("token"));
    begins(&mut in_time).await;
    scene.pass(1);
    let mut late = Box::pin(late.says("token"));
    begins(&mut late).await;
    scene.endpoint.release();
    assert_eq!(early.await, ok());
    assert_eq!(in_time.await, ok(), "JWT-33: within the leeway");
    assert_eq!(late.await.0, 401, "attack 23");
    assert_eq!(scene.api.reason(), "expired", "attack 23");
    assert_eq!(scene.endpoint.asked(), 1, "OPAQUE-37");
}

#[tokio::test]
async fn a_fetcher_that_panics_is_an_outage_for_all_who_wait() {
    let scene = Scene::new();
    let (inner, broken) = (fetch(), Arc::new(AtomicBool::new(true)));
    let is_broken = broken.clone();
    let panicking = move |request: FetchRequest| {
        let (inner, is_broken) = (inner.clone(), is_broken.load(Ordering::Relaxed));
        async move {
            tokio::task::yield_now().await;
            assert!(!is_broken, "the application's own code");
            inner.fetch(request).await
        }
    };
    let verifier = IntrospectionVerifier::builder(scene.endpoint.url(), panicking)
        .issuer(ISSUER)
        .audience(API)
        .with_client("reports-api", "s3cret")
        .build()
        .unwrap();
    let api = Api::new(verifier, &scene.clock);
    let said = tokio::join!(api.says("token"), api.says("token"));
    assert_eq!(said, (unavailable(), unavailable()), "attack 26");
    broken.store(false, Ordering::Relaxed);
    assert_eq!(api.says("token").await, ok(), "OPAQUE-36: recovery is seen at once");
}

#[tokio::test]
async fn a_token_that_is_revoked_and_forgotten_is_refused_at_once() {
    let scene = Scene::new();
    assert_eq!(scene.api.says("token").await, ok());
    scene.endpoint.reply(inactive());
    assert_eq!(scene.api.says("token").await, ok(), "OPAQUE-38: the window");
    scene.verifier.tokens().forget_token(&bearer("token"));
    assert_eq!(scene.api.says("token").await, invalid(), "OPAQUE-38");
}

#[tokio::test]
async fn every_token_of_a_user_is_forgotten_at_once() {
    let scene = Scene::new();
    for token in ["one", "two"] {
        assert_eq!(scene.api.says(token).await, ok());
    }
    scene.endpoint.reply(inactive());
    scene.verifier.tokens().forget(|principal| principal.subject() == "user-1");
    for token in ["one", "two"] {
        assert_eq!(scene.api.says(token).await, invalid(), "OPAQUE-38");
    }
}

/// The question was asked before the token was revoked, and its answer comes after.
#[tokio::test]
async fn an_answer_that_is_on_its_way_when_a_token_is_forgotten_is_not_used_again() {
    let scene = Scene::new();
    scene.endpoint.hold();
    let before = scene.api.clone();
    let mut early = Box::pin(before.says("token"));
    tokio::select! {
        _ = &mut early => panic!("the endpoint holds its answer back"),
        () = scene.endpoint.was_asked(1) => {}
    }
    scene.endpoint.reply(inactive());
    scene.verifier.tokens().forget_token(&bearer("token"));
    let after = scene.api.clone();
    let mut late = Box::pin(after.says("token"));
    tokio::select! {
        _ = &mut late => panic!("the endpoint holds its answer back"),
        () = scene.endpoint.was_asked(2) => {}
    }
    scene.endpoint.release();
    assert_eq!(early.await, ok(), "it came before");
    assert_eq!(late.await, invalid(), "OPAQUE-38: it asks for itself");
    assert_eq!(scene.api.says("token").await, invalid(), "OPAQUE-38: the early answer is gone");
}

#[tokio::test]
async fn a_jwt_never_reaches_the_endpoint_when_tokens_are_routed() {
    let scene = Scene::new();
    let verifier = builder(&scene.endpoint.url()).build().unwrap();
    let api = Api::new(RoutedVerifier::new().with_opaque(verifier), &scene.clock);
    assert_eq!(api.says("opaque").await, ok());
    assert_eq!(api.says("a.b.c").await, invalid(), "OPAQUE-5");
    assert_eq!(scene.endpoint.asked(), 1, "OPAQUE-5");
}
