//! Opaque tokens: one that is remembered, and those that the store is asked about, beside the bare
//! query through the same pool.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool};
use tokio::runtime::{Builder, Runtime};
use tower_gate::store::TokenStore;
use tower_gate::store::memory::MemoryTokenStore;
use tower_gate::store::postgres::PostgresTokenStore;
use tower_gate::store::sqlite::SqliteTokenStore;
use tower_gate::verifier::VerifyRequest;
use tower_gate::verifier::opaque::{NewToken, OpaqueTokens, OpaqueVerifier, Pepper, Peppers};
use tower_gate::{BearerToken, TokenVerifier};

use crate::harness::Subject;
use crate::servers::postgres::Postgres;

/// How many tokens there are.
const TOKENS: usize = 1000;

/// All columns of one record, as the store asks for them.
const QUERY: &str = "SELECT id, digest, pepper, issuer, subject, client, scopes, roles, metadata, \
    issued_at, not_before, expires_at, revoked_at, enabled, replaced_by, last_used \
    FROM tower_gate_tokens WHERE digest IN ($1)";

/// Tokens, and their digests as the database has them.
struct Issued {
    verifier: OpaqueVerifier,
    questions: Vec<VerifyRequest>,
    digests: Vec<Vec<u8>>,
}

async fn issue(store: impl TokenStore, max_age: Duration) -> Issued {
    let peppers = Peppers::new(Pepper::new("1", &[7; 32]).unwrap());
    let tokens = OpaqueTokens::builder("https://api.example", store, peppers)
        .with_max_age(max_age)
        .build()
        .unwrap();
    let (mut questions, mut digests) = (Vec::new(), Vec::new());
    let now = std::time::SystemTime::now() + Duration::from_secs(1);
    for n in 0..TOKENS {
        let new = NewToken::new(&n.to_string()).client("bench").scopes("read:reports");
        let issued = tokens.issue(new).await.unwrap();
        let token = BearerToken::parse(issued.token.expose()).unwrap();
        questions.push(VerifyRequest::new(token, now));
        digests.push(issued.record.digest.as_bytes().to_vec());
    }
    let issued = Issued { verifier: tokens.verifier(), questions, digests };
    // What is written behind is written before anything is measured.
    for question in &issued.questions {
        issued.verifier.verify(question).await.unwrap();
    }
    tokens.write_last_used().await;
    issued
}

pub(crate) fn warm() -> Vec<Subject> {
    let runtime = runtime();
    let Issued { verifier, questions, .. } =
        runtime.block_on(issue(MemoryTokenStore::new(), Duration::from_secs(86_400)));
    let mut next = 0;
    vec![Subject::new("OpaqueVerifier, remembered", move || {
        next = (next + 1) % TOKENS;
        let _alive = &runtime;
        verifier.try_verify(&questions[next]).unwrap().unwrap()
    })]
}

pub(crate) fn sqlite() -> Vec<Subject> {
    let runtime = runtime();
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-tokens.db");
    for ending in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{ending}", path.display()));
    }
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal);
    let pool = runtime.block_on(SqlitePool::connect_with(options)).unwrap();
    let store = SqliteTokenStore::new(pool.clone());
    runtime.block_on(store.migrate()).unwrap();
    let issued = Arc::new(runtime.block_on(issue(store, Duration::ZERO)));
    let (bare, mut next) = (issued.clone(), 0);
    let on = runtime.clone();
    let query = Subject::new("a query of SQLite through sqlx", move || {
        next = (next + 1) % TOKENS;
        let query = sqlx::query(QUERY).bind(&bare.digests[next]);
        on.block_on(query.fetch_optional(&pool)).unwrap().unwrap()
    });
    vec![query, look_up("OpaqueVerifier over SQLite", runtime, issued)]
}

pub(crate) fn postgres() -> Vec<Subject> {
    let (runtime, server) = (runtime(), Postgres::start());
    let options = PgPoolOptions::new().max_connections(1);
    let pool: PgPool = runtime.block_on(options.connect(&server.url("postgres"))).unwrap();
    let store = PostgresTokenStore::new(pool.clone());
    runtime.block_on(store.migrate()).unwrap();
    let issued = Arc::new(runtime.block_on(issue(store, Duration::ZERO)));
    let (bare, mut next) = (issued.clone(), 0);
    let on = runtime.clone();
    let query = Subject::new("a query of PostgreSQL through sqlx", move || {
        let _alive = &server;
        next = (next + 1) % TOKENS;
        let query = sqlx::query(QUERY).bind(&bare.digests[next]);
        on.block_on(query.fetch_optional(&pool)).unwrap().unwrap()
    });
    vec![query, look_up("OpaqueVerifier over PostgreSQL", runtime, issued)]
}

fn look_up(name: &str, runtime: Arc<Runtime>, issued: Arc<Issued>) -> Subject {
    let mut next = 0;
    Subject::new(name, move || {
        next = (next + 1) % TOKENS;
        runtime.block_on(issued.verifier.verify(&issued.questions[next])).unwrap()
    })
}

fn runtime() -> Arc<Runtime> {
    Arc::new(Builder::new_current_thread().enable_all().build().unwrap())
}
