//! Tables that are made while several nodes start.

use sqlx::Executor;
use tower_gate::store::postgres::PostgresTokenStore;
use tower_gate::store::sqlite::SqliteTokenStore;

use crate::scene::{SERVER, fresh_file, postgres_pool, sqlite_pool};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_start_at_once_on_sqlite_make_one_schema() {
    let path = fresh_file();
    let mut nodes = Vec::new();
    for _ in 0..8 {
        nodes.push(SqliteTokenStore::new(sqlite_pool(&path).await));
    }
    at_once(nodes, |store| async move { store.migrate().await.unwrap() }).await;
    let pool = sqlite_pool(&path).await;
    let versions: Vec<(String, i64)> =
        sqlx::query_as("SELECT room, version FROM tower_gate_schema")
            .fetch_all(&pool)
            .await
            .unwrap();
    assert_eq!(versions, [("tokens".to_owned(), 2)]);

    pool.execute("UPDATE tower_gate_schema SET version = 99").await.unwrap();
    SqliteTokenStore::new(pool.clone()).migrate().await.unwrap();
    let version: i64 =
        sqlx::query_scalar("SELECT version FROM tower_gate_schema").fetch_one(&pool).await.unwrap();
    assert_eq!(version, 99, "a later version is left alone");
    uses_indexes(&sqlite_plan(&pool).await, "USING INDEX sqlite_autoindex_tower_gate_tokens_2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_start_at_once_on_postgres_make_one_schema() {
    let url = tokio::task::spawn_blocking(|| SERVER.fresh_url()).await.unwrap();
    let mut nodes = Vec::new();
    for _ in 0..8 {
        nodes.push(PostgresTokenStore::new(postgres_pool(&url).await));
    }
    at_once(nodes, |store| async move { store.migrate().await.unwrap() }).await;
    let pool = postgres_pool(&url).await;
    let versions: Vec<(String, i64)> =
        sqlx::query_as("SELECT room, version FROM tower_gate_schema")
            .fetch_all(&pool)
            .await
            .unwrap();
    assert_eq!(versions, [("tokens".to_owned(), 2)]);

    pool.execute(WITHOUT_VERSION_2).await.unwrap();
    let beforehand = "CREATE INDEX CONCURRENTLY tower_gate_tokens_expires_at \
        ON tower_gate_tokens (expires_at)";
    pool.execute(beforehand).await.unwrap();
    PostgresTokenStore::new(pool.clone()).migrate().await.unwrap();
    pool.execute(WITHOUT_VERSION_2).await.expect("both are there");

    pool.execute("UPDATE tower_gate_schema SET version = 99").await.unwrap();
    PostgresTokenStore::new(pool.clone()).migrate().await.unwrap();
    let version: i64 =
        sqlx::query_scalar("SELECT version FROM tower_gate_schema").fetch_one(&pool).await.unwrap();
    assert_eq!(version, 99, "a later version is left alone");
    let mut connection = pool.acquire().await.unwrap();
    connection.execute("SET enable_seqscan = off").await.unwrap();
    let plan: Vec<String> =
        sqlx::query_scalar("EXPLAIN SELECT id FROM tower_gate_tokens WHERE digest IN ('x', 'y')")
            .fetch_all(&mut *connection)
            .await
            .unwrap();
    uses_indexes(&plan.join("\n"), "tower_gate_tokens_digest_key");
}

/// Takes away what the second version of the tables has brought.
const WITHOUT_VERSION_2: &str = "
    DROP INDEX tower_gate_tokens_expires_at;
    DROP INDEX tower_gate_tokens_revoked_at;
    UPDATE tower_gate_schema SET version = 1";

async fn sqlite_plan(pool: &sqlx::SqlitePool) -> String {
    let plan: Vec<(i64, i64, i64, String)> = sqlx::query_as(
        "EXPLAIN QUERY PLAN SELECT id FROM tower_gate_tokens WHERE digest IN (x'00', x'01')",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    plan.into_iter().map(|step| step.3).collect()
}

fn uses_indexes(plan: &str, index: &str) {
    assert!(plan.contains(index) && !plan.contains("SCAN"), "OPAQUE-11: {plan}");
}

/// Lets all nodes do this together.
async fn at_once<S, Fut>(nodes: Vec<S>, start: impl Fn(S) -> Fut)
where
    Fut: Future<Output = ()> + Send + 'static,
{
    let tasks: Vec<_> = nodes.into_iter().map(|node| tokio::spawn(start(node))).collect();
    for task in tasks {
        task.await.unwrap();
    }
}
