//! Stores that are down or slow. Those of real engines that are away as a whole are in the tests of
//! revocations, beside all others.

use std::time::{Duration, Instant};

use tokio::time::timeout;
use tower_gate::store::memory::MemoryRevocations;
use tower_gate::store::postgres::PostgresTokenStore;
use tower_gate::store::sqlite::SqliteTokenStore;
use tower_gate::store::{RevocationStore, TokenStore};
use tower_gate::verifier::opaque::TokenError;
use tower_gate::verifier::revocable::Revocations;

use crate::scene::{SERVER, Scene, at, fresh_file, postgres_pool, sqlite_pool};
use crate::support::Answer;
use crate::watched::Watched;

/// Asked each time, and not waited for long.
fn scene(store: impl TokenStore) -> Scene {
    Scene::with(store, |builder| {
        let short = Duration::from_millis(500);
        builder.with_max_age(Duration::ZERO).with_timeout(short).with_admin_timeout(short)
    })
}

fn is_unavailable(answer: &Answer) {
    let seen = (answer.status.as_u16(), answer.error());
    assert_eq!(seen, (503, "temporarily_unavailable".to_owned()), "OPAQUE-15");
    assert_eq!(answer.header("retry-after"), "5", "OPAQUE-15");
    assert_eq!(answer.header("www-authenticate"), "", "OPAQUE-15: no challenge");
}

/// A token that is good, and one that nobody knows.
async fn are_unavailable(scene: &Scene, tokens: [&str; 2]) {
    for token in tokens {
        let began = Instant::now();
        is_unavailable(&scene.ask(token).await);
        assert!(began.elapsed() < Duration::from_secs(10), "it took {:?}", began.elapsed());
        let event = scene.trail.events().pop().unwrap();
        assert_eq!(event.reason, Some("verifier_unavailable"), "OPAQUE-15");
        assert!(event.principal.is_none());
    }
}

/// The status once the store answers again, and how long that took.
async fn recovers(scene: &Scene, token: &str) {
    let began = Instant::now();
    while scene.status(token).await != 200 {
        assert!(began.elapsed() < Duration::from_secs(60), "it does not recover");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_use_does_not_wait_for_whoever_changes_the_token() {
    let url = SERVER.fresh_url();
    let pool = postgres_pool(&url).await;
    let store = PostgresTokenStore::new(pool.clone());
    store.migrate().await.unwrap();
    let scene = Scene::new(store.clone());
    let records = [scene.issue("a").await.record, scene.issue("b").await.record];
    let mut revoking = pool.begin().await.unwrap();
    let lock = "SELECT id FROM tower_gate_tokens WHERE subject = 'b' FOR UPDATE";
    sqlx::query(lock).execute(&mut *revoking).await.unwrap();
    // It neither waits nor keeps the other from locking both, and writes down what it can.
    let used = records.map(|record| (record.id, at(5)));
    store.touch(&used).await.unwrap();
    let last_used = async |n: usize| store.describe(&used[n].0).await.unwrap().unwrap().last_used;
    assert_eq!((last_used(0).await, last_used(1).await), (Some(at(5)), None));
    let both = "UPDATE tower_gate_tokens SET revoked_at = 0";
    let revoked = sqlx::query(both).execute(&mut *revoking).await.unwrap();
    assert_eq!(revoked.rows_affected(), 2);
    revoking.commit().await.unwrap();
    store.touch(&used).await.unwrap();
    assert_eq!(last_used(1).await, Some(at(5)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_may_be_locked_and_broken() {
    let path = fresh_file();
    let pool = sqlite_pool(&path).await;
    let store = SqliteTokenStore::new(pool.clone());
    store.migrate().await.unwrap();
    let scene = scene(store);
    let good = scene.issue("user-1").await.token;
    let good = good.expose();
    let stranger = Scene::new(Watched::new()).issue("user-1").await.token;
    assert_eq!(scene.status(good).await, 200);

    // Somebody writes, which readers do not wait for.
    let mut writer = pool.acquire().await.unwrap();
    sqlx::query("BEGIN EXCLUSIVE").execute(&mut *writer).await.unwrap();
    assert_eq!(scene.status(good).await, 200);
    sqlx::query("ROLLBACK").execute(&mut *writer).await.unwrap();

    sqlx::query("ALTER TABLE tower_gate_tokens RENAME TO gone")
        .execute(&mut *writer)
        .await
        .unwrap();
    are_unavailable(&scene, [good, stranger.expose()]).await;
    sqlx::query("ALTER TABLE gone RENAME TO tower_gate_tokens")
        .execute(&mut *writer)
        .await
        .unwrap();
    recovers(&scene, good).await;

    // What is in the record and makes no sense is no reason to let anybody in, or to say no.
    sqlx::query("UPDATE tower_gate_tokens SET roles = 'x'").execute(&mut *writer).await.unwrap();
    is_unavailable(&scene.ask(good).await);
}

#[tokio::test(start_paused = true)]
async fn a_slow_answer_is_not_waited_for() {
    let store = Watched::new();
    let scene = scene(store.clone());
    let good = scene.issue("user-1").await.token;
    store.hold();
    let began = tokio::time::Instant::now();
    is_unavailable(&scene.ask(good.expose()).await);
    assert_eq!(began.elapsed().as_millis(), 500, "the timeout of the verifier");
    store.release();
    assert_eq!(scene.status(good.expose()).await, 200);
}

/// What another one has said of tokens, and what other nodes are told.
fn telling(store: &Watched) -> (Scene, MemoryRevocations) {
    let kept = MemoryRevocations::new();
    let revocations = Revocations::builder(kept.clone()).start().unwrap();
    let scene = Scene::with(store.clone(), |builder| builder.with_revocations(&revocations));
    (scene, kept)
}

async fn told(kept: &MemoryRevocations) -> usize {
    kept.revoked_since(0).await.unwrap().revocations.len()
}

/// Whoever does not hear that a token was replaced tries again.
#[tokio::test(start_paused = true)]
async fn a_replacement_that_nobody_waited_for_is_told_to_other_nodes_by_the_next_try() {
    let store = Watched::new();
    let (scene, kept) = telling(&store);
    let id = scene.issue("user-1").await.record.id;
    store.hold();
    let second = Duration::from_secs(1);
    timeout(second, scene.tokens.rotate(&id, Duration::ZERO)).await.unwrap_err();
    store.release();
    assert_eq!(told(&kept).await, 0);
    let again = scene.tokens.rotate(&id, Duration::ZERO).await.unwrap_err();
    assert!(matches!(again, TokenError::Replaced), "{again}");
    assert_eq!(told(&kept).await, 1, "OPAQUE-70");
}

/// Its holder would have none: the old one is over, and nobody has seen the new one.
#[tokio::test(start_paused = true)]
async fn a_successor_is_not_lost_with_the_answer_of_the_store() {
    let store = Watched::new();
    let (scene, kept) = telling(&store);
    let id = scene.issue("user-1").await.record.id;
    store.hold();
    let next = scene.tokens.rotate(&id, Duration::ZERO).await.unwrap();
    store.release();
    assert_eq!(scene.status(next.token.expose()).await, 200);
    assert_eq!(told(&kept).await, 1, "OPAQUE-70");

    store.set_broken(true);
    let refused = scene.tokens.rotate(&next.record.id, Duration::ZERO).await.unwrap_err();
    assert!(matches!(refused, TokenError::Store(_)), "{refused}");
    store.set_broken(false);
    assert_eq!(scene.status(next.token.expose()).await, 200);
}

#[tokio::test]
async fn what_is_remembered_is_good_during_an_outage_and_no_longer() {
    let store = Watched::new();
    let scene = Scene::new(store.clone());
    let (good, revoked) = (scene.issue("user-1").await, scene.issue("user-2").await);
    for issued in [&good, &revoked] {
        assert_eq!(scene.status(issued.token.expose()).await, 200);
    }
    store.set_broken(true);
    assert_eq!(scene.status(good.token.expose()).await, 200);
    // Nobody knows whether it was revoked: it is asked about again, to no avail.
    scene.tokens.revoke(&revoked.record.id).await.unwrap_err();
    is_unavailable(&scene.ask(revoked.token.expose()).await);
    scene.clock.advance(Duration::from_secs(10));
    is_unavailable(&scene.ask(good.token.expose()).await);
    store.set_broken(false);
    assert_eq!(scene.status(good.token.expose()).await, 200, "an outage is not remembered");
}
