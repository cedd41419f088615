//! What happens at once, or half-way, and must not be lost.

use std::pin::pin;
use std::time::{Duration, Instant};

use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::{Postgres, Transaction};
use tokio::time::{sleep, timeout};
use tower_gate::store::postgres::PostgresTokenStore;
use tower_gate::store::{Replacement, TokenDigest, TokenFilter, TokenRecord, TokenStore};

use crate::scene::{ISSUER, SERVER, at, postgres_pool};
use crate::servers::postgres::Postgres as Server;

fn record(n: u8) -> TokenRecord {
    let digest = TokenDigest::from_bytes([n; 32]);
    TokenRecord::new(format!("{n:026}"), ("pepper-1", digest), (ISSUER, "user-1"), at(0))
}

/// Waits until so many statements of this database wait for a lock.
async fn waiting(pool: &PgPool, number: i64) {
    let began = Instant::now();
    loop {
        let waiting = "SELECT count(*) FROM pg_stat_activity \
            WHERE datname = current_database() AND wait_event_type = 'Lock'";
        if sqlx::query_scalar::<_, i64>(waiting).fetch_one(pool).await.unwrap() == number {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{number} never wait");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Somebody else has the id of a successor, and will give it back: a replacement waits half-way.
async fn taken(pool: &PgPool, id: String) -> Transaction<'static, Postgres> {
    let mut other = pool.begin().await.unwrap();
    let insert = "INSERT INTO tower_gate_tokens (id, digest, pepper, issuer, subject, scopes, \
        roles, metadata, issued_at, enabled) VALUES ($1, 'x', '', '', '', '', '', '', 0, true)";
    sqlx::query(insert).bind(id).execute(&mut *other).await.unwrap();
    other
}

/// All tokens of a subject are revoked while one of them is being replaced, and waits: the store, and
/// how many it says.
async fn revoked_while_replaced(url: &str, overlap: u64) -> (PostgresTokenStore, u64) {
    let pool = postgres_pool(url).await;
    let store = PostgresTokenStore::new(pool.clone());
    store.migrate().await.unwrap();
    store.insert(&record(1)).await.unwrap();
    let other = taken(&pool, record(2).id).await;
    let replacing = tokio::spawn({
        let store = store.clone();
        let replacement = Replacement::new(record(1).id, at(overlap), at(0), record(2));
        async move { store.replace(&replacement).await.unwrap() }
    });
    waiting(&pool, 1).await;
    let revoking = tokio::spawn({
        let store = store.clone();
        async move { store.revoke(&TokenFilter::subject(ISSUER, "user-1"), at(0)).await }
    });
    waiting(&pool, 2).await;
    other.rollback().await.unwrap();
    assert!(replacing.await.unwrap());
    (store, revoking.await.unwrap().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_reaches_the_successor_that_it_cannot_see_yet() {
    for overlap in [3600, 0] {
        let url = tokio::task::spawn_blocking(|| SERVER.fresh_url()).await.unwrap();
        let (store, _) = revoked_while_replaced(&url, overlap).await;
        for n in [1, 2] {
            let found = store.describe(&record(n).id).await.unwrap().unwrap();
            assert_eq!(found.revoked_at, Some(at(0)), "OPAQUE-70: {n}, {overlap} seconds");
        }
    }
}

/// Only one of many has to wait for successors that it cannot see.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_token_is_revoked_while_others_are_being_replaced() {
    let url = tokio::task::spawn_blocking(|| SERVER.fresh_url()).await.unwrap();
    let pool = postgres_pool(&url).await;
    let store = PostgresTokenStore::new(pool.clone());
    store.migrate().await.unwrap();
    store.insert(&record(1)).await.unwrap();
    store.insert(&record(3)).await.unwrap();
    let other = taken(&pool, record(2).id).await;
    let replacing = tokio::spawn({
        let store = store.clone();
        let replacement = Replacement::new(record(1).id, at(3600), at(0), record(2));
        async move { store.replace(&replacement).await.unwrap() }
    });
    waiting(&pool, 1).await;
    assert_eq!(store.revoke(&TokenFilter::Id(record(3).id), at(0)).await.unwrap(), 1);
    assert!(!replacing.is_finished(), "it was not waited for");
    other.rollback().await.unwrap();
    assert!(replacing.await.unwrap());
}

/// An end that somebody gives a token stays, however long the overlap is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replacement_does_not_move_an_end_that_is_given_meanwhile() {
    let url = tokio::task::spawn_blocking(|| SERVER.fresh_url()).await.unwrap();
    let pool = postgres_pool(&url).await;
    let store = PostgresTokenStore::new(pool.clone());
    store.migrate().await.unwrap();
    store.insert(&record(1)).await.unwrap();
    let mut expiring = pool.begin().await.unwrap();
    let sooner = "UPDATE tower_gate_tokens SET expires_at = $1";
    let sooner = sqlx::query(sooner).bind(1_800_000_060_000_i64);
    sooner.execute(&mut *expiring).await.unwrap();
    let replacing = tokio::spawn({
        let store = store.clone();
        let replacement = Replacement::new(record(1).id, at(3600), at(0), record(2));
        async move { store.replace(&replacement).await.unwrap() }
    });
    waiting(&pool, 1).await;
    expiring.commit().await.unwrap();
    assert!(replacing.await.unwrap());
    let old = store.describe(&record(1).id).await.unwrap().unwrap();
    assert_eq!(old.expires_at, Some(at(60)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_nobody_waits_for_takes_no_later_one_with_it() {
    let server = tokio::task::spawn_blocking(Server::start).await.unwrap();
    let options = PgPoolOptions::new().max_connections(1).test_before_acquire(false);
    let pool = options.connect(&server.url("postgres")).await.unwrap();
    let store = PostgresTokenStore::new(pool);
    store.migrate().await.unwrap();
    store.insert(&record(1)).await.unwrap();
    let replacement = Replacement::new(record(3).id, at(0), at(0), record(2));
    server.pause();
    timeout(Duration::from_millis(300), store.replace(&replacement)).await.unwrap_err();
    server.resume();
    assert!(store.set_enabled(&record(1).id, false).await.unwrap());
    let elsewhere = PostgresTokenStore::new(postgres_pool(&server.url("postgres")).await);
    let found = elsewhere.describe(&record(1).id).await.unwrap().unwrap();
    assert!(!found.enabled, "whoever was told that it is disabled relies on it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_a_lock_for_ever() {
    let url = tokio::task::spawn_blocking(|| SERVER.fresh_url()).await.unwrap();
    let pool = postgres_pool(&url).await;
    let store = PostgresTokenStore::new(pool.clone());
    store.migrate().await.unwrap();
    store.insert(&record(1)).await.unwrap();
    let mut other = pool.begin().await.unwrap();
    let lock = "SELECT id FROM tower_gate_tokens FOR UPDATE";
    sqlx::query(lock).execute(&mut *other).await.unwrap();
    let (id, subject) = (record(1).id, TokenFilter::subject(ISSUER, "user-1"));
    let replacement = Replacement::new(id.clone(), at(0), at(0), record(2));
    let refused = timeout(Duration::from_secs(60), async {
        store.replace(&replacement).await.unwrap_err();
        store.revoke(&subject, at(0)).await.unwrap_err();
    });
    refused.await.expect("each gives up");
    other.rollback().await.unwrap();
    assert_eq!(store.describe(&id).await.unwrap(), Some(record(1)), "nothing has changed");
    assert!(store.replace(&replacement).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stands_still_does_not_hold_up_the_others() {
    let url = tokio::task::spawn_blocking(|| SERVER.fresh_url()).await.unwrap();
    let pool = postgres_pool(&url).await;
    let store = PostgresTokenStore::new(pool.clone());
    store.migrate().await.unwrap();
    store.insert(&record(1)).await.unwrap();
    let other = taken(&pool, record(2).id).await;
    let replacement = Replacement::new(record(1).id, at(3600), at(0), record(2));
    let mut replacing = pin!(store.replace(&replacement));
    tokio::select! {
        replaced = &mut replacing => panic!("it has to wait: {replaced:?}"),
        () = waiting(&pool, 1) => {}
    }
    // From here on nobody asks how it goes on: it has its locks, and does not say that it is done.
    other.rollback().await.unwrap();
    let began = Instant::now();
    while store.revoke(&TokenFilter::Id(record(1).id), at(0)).await.is_err() {
        assert!(began.elapsed() < Duration::from_secs(60), "it is waited for for ever");
    }
    replacing.await.unwrap_err();
    assert_eq!(store.describe(&record(2).id).await.unwrap(), None, "it has changed nothing");
    let found = store.describe(&record(1).id).await.unwrap().unwrap();
    assert_eq!((found.revoked_at, found.replaced_by), (Some(at(0)), None));
}

/// Somebody whose other tables ask for it may have set it for the whole database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stricter_isolation_of_the_application_fails_nobody_who_has_waited() {
    for level in ["repeatable read", "serializable"] {
        let url = tokio::task::spawn_blocking(|| SERVER.fresh_url()).await.unwrap();
        let database = url.rsplit('/').next().unwrap();
        let set =
            format!("ALTER DATABASE {database} SET default_transaction_isolation = '{level}'");
        tokio::task::spawn_blocking(move || SERVER.run(&set)).await.unwrap();
        let (_, revoked) = revoked_while_replaced(&url, 3600).await;
        assert_eq!(revoked, 2, "{level}");
    }
}
