//! A database of an older version that is brought up to date while a node serves from it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sqlx::Executor;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tower_gate::store::postgres::PostgresTokenStore;
use tower_gate::store::sqlite::SqliteTokenStore;
use tower_gate::store::{TokenFilter, TokenQuery, TokenRecord, TokenStore};
use tower_gate::verifier::opaque::IssuedToken;

use crate::scene::{ISSUER, SERVER, Scene, at, fresh_file, postgres_pool, sqlite_pool};

/// A token that a node of the first version has issued, and its row.
const OLD_TOKEN: &str = "acme_live_4f9QzLr0WmXc2TbVnE7hYgKs8DpAuJo5RiCxNwPqMy33vzDo4";
const OLD_DIGEST: &str = "cdb14e7b0569b814195136cb065355453760c1fd3ea3117ca0c3c690cd8d2424";

/// The tables of the first version as they are in databases that have them: they never change.
const SQLITE_1: &str = "
    CREATE TABLE tower_gate_schema (room TEXT PRIMARY KEY, version BIGINT NOT NULL);
    INSERT INTO tower_gate_schema (room, version) VALUES ('tokens', 1);
    CREATE TABLE tower_gate_tokens (
        id TEXT PRIMARY KEY NOT NULL,
        digest BLOB NOT NULL UNIQUE,
        pepper TEXT NOT NULL,
        issuer TEXT NOT NULL,
        subject TEXT NOT NULL,
        client TEXT,
        scopes TEXT NOT NULL,
        roles TEXT NOT NULL,
        metadata TEXT NOT NULL,
        issued_at INTEGER NOT NULL,
        not_before INTEGER,
        expires_at INTEGER,
        revoked_at INTEGER,
        enabled BOOLEAN NOT NULL,
        replaced_by TEXT,
        last_used INTEGER
    ) WITHOUT ROWID;
    CREATE INDEX tower_gate_tokens_subject ON tower_gate_tokens (issuer, subject, id);
    CREATE INDEX tower_gate_tokens_client ON tower_gate_tokens (client, id);";

const POSTGRES_1: &str = r#"
    CREATE TABLE tower_gate_schema (room TEXT PRIMARY KEY, version BIGINT NOT NULL);
    INSERT INTO tower_gate_schema (room, version) VALUES ('tokens', 1);
    CREATE TABLE tower_gate_tokens (
        id TEXT COLLATE "C" PRIMARY KEY,
        digest BYTEA NOT NULL UNIQUE,
        pepper TEXT NOT NULL,
        issuer TEXT NOT NULL,
        subject TEXT NOT NULL,
        client TEXT,
        scopes TEXT NOT NULL,
        roles TEXT NOT NULL,
        metadata TEXT NOT NULL,
        issued_at BIGINT NOT NULL,
        not_before BIGINT,
        expires_at BIGINT,
        revoked_at BIGINT,
        enabled BOOLEAN NOT NULL,
        replaced_by TEXT,
        last_used BIGINT
    );
    CREATE INDEX tower_gate_tokens_subject ON tower_gate_tokens (issuer, subject, id);
    CREATE INDEX tower_gate_tokens_client ON tower_gate_tokens (client, id);"#;

/// The row of the old token, and so many others that an index over them takes a while.
fn rows(digest: &str, others: &str) -> String {
    format!(
        "INSERT INTO tower_gate_tokens VALUES ('00000000000000000000000old', {digest}, 'pepper-1', \
            '{ISSUER}', 'old', 'web', 'read:reports write:reports', '[\"admin\"]', '{{\"plan\":\"pro\"}}', \
            1700000000123, 1700000001000, 4000000000000, NULL, true, NULL, 1700000002000);
        INSERT INTO tower_gate_tokens SELECT n, {others}, 'pepper-1', '{ISSUER}', \
            CASE WHEN n % 1000 = 0 THEN 'kept' ELSE 'other' END, NULL, '', '[]', '', \
            1700000000000, NULL, 1900000000000 + n, \
            CASE WHEN n % 7 = 0 THEN 1700000000000 + n END, n % 5 > 0, NULL, NULL "
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_in_sqlite_stay_good_while_their_table_is_brought_up_to_date() {
    let path = fresh_file();
    let pool = sqlite_pool(&path).await;
    pool.execute(SQLITE_1).await.unwrap();
    let numbers = "FROM (WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL \
        SELECT n + 1 FROM numbers WHERE n < 100000) SELECT n FROM numbers)";
    let rows = rows(&format!("x'{OLD_DIGEST}'"), "CAST(printf('%032d', n) AS BLOB)") + numbers;
    pool.execute(sqlx::AssertSqlSafe(rows)).await.unwrap();
    let load = Load::on(SqliteTokenStore::new(pool.clone())).await;
    let before = load.served();
    // Another node's.
    SqliteTokenStore::new(sqlite_pool(&path).await).migrate().await.unwrap();
    let served = load.served() - before;
    assert!(served > 0, "it served meanwhile");
    load.ends_well().await;
    let indexes = "SELECT name FROM sqlite_master WHERE type = 'index' ORDER BY name";
    is_up_to_date(&sqlx::query_scalar(indexes).fetch_all(&pool).await.unwrap());
    let version = sqlx::query_scalar("SELECT version FROM tower_gate_schema");
    assert_eq!(version.fetch_one(&pool).await.ok(), Some(2_i64));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_in_postgres_stay_good_while_their_table_is_brought_up_to_date() {
    let url = tokio::task::spawn_blocking(|| SERVER.fresh_url()).await.unwrap();
    let pool = postgres_pool(&url).await;
    pool.execute(POSTGRES_1).await.unwrap();
    let rows = rows(&format!("'\\x{OLD_DIGEST}'"), "convert_to(lpad(n::text, 32, '0'), 'UTF8')")
        + "FROM generate_series(1, 100000) AS numbers (n)";
    pool.execute(sqlx::AssertSqlSafe(rows)).await.unwrap();
    let load = Load::on(PostgresTokenStore::new(pool.clone())).await;
    // Somebody who writes lets nobody make an index until he has ended.
    let elsewhere = postgres_pool(&url).await;
    let mut writing = elsewhere.begin().await.unwrap();
    writing.execute("UPDATE tower_gate_tokens SET last_used = 1 WHERE id = '3'").await.unwrap();
    let mut starting = JoinSet::new();
    for _ in 0..4 {
        let store = PostgresTokenStore::new(postgres_pool(&url).await);
        starting.spawn(async move { store.migrate().await.unwrap() });
    }
    let half_way = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
        AND wait_event_type = 'Lock' AND query LIKE '%CREATE INDEX%'";
    until(async || sqlx::query_scalar::<_, i64>(half_way).fetch_one(&elsewhere).await.unwrap() > 0)
        .await;
    let before = load.served();
    until(async || load.served() > before + 10).await;
    writing.commit().await.unwrap();
    starting.join_all().await;
    load.ends_well().await;
    let indexes = "SELECT indexname FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1";
    is_up_to_date(&sqlx::query_scalar(indexes).fetch_all(&pool).await.unwrap());
    let version = sqlx::query_scalar("SELECT version FROM tower_gate_schema");
    assert_eq!(version.fetch_one(&pool).await.ok(), Some(2_i64));
}

fn is_up_to_date(indexes: &[String]) {
    for index in ["client", "expires_at", "revoked_at", "subject"] {
        let index = format!("tower_gate_tokens_{index}");
        assert!(indexes.contains(&index), "{index} is not among {indexes:?}");
    }
}

async fn until(is_so: impl AsyncFn() -> bool) {
    let began = Instant::now();
    while !is_so().await {
        assert!(began.elapsed() < Duration::from_secs(60), "it is never so");
        sleep(Duration::from_millis(2)).await;
    }
}

/// A node that everybody uses in every way.
struct Load {
    scene: Arc<Scene>,
    state: Arc<State>,
    tasks: JoinSet<()>,
    kept: Vec<TokenRecord>,
}

#[derive(Default)]
struct State {
    stop: AtomicBool,
    /// Requests that have come in with a token from before.
    served: AtomicUsize,
    /// How often each of the others has done what it does.
    done: [AtomicUsize; 4],
}

impl State {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::SeqCst)
    }
}

async fn kept(scene: &Scene) -> Vec<TokenRecord> {
    let query = TokenQuery::new(TokenFilter::subject(ISSUER, "kept")).limit(1000);
    scene.tokens.list(query).await.unwrap().records
}

impl Load {
    /// Returns once everybody has done something.
    async fn on(store: impl TokenStore + Clone) -> Self {
        // Nothing is remembered: every request asks the table.
        let scene = Scene::with(store.clone(), |builder| builder.with_max_age(Duration::ZERO));
        let (scene, state) = (Arc::new(scene), Arc::new(State::default()));
        let kept = kept(&scene).await;
        assert_eq!(kept.len(), 100);
        let mut tasks = JoinSet::new();
        let good = Arc::new([scene.issue("a").await, scene.issue("b").await]);
        for n in 0..3 {
            let (scene, state, good) = (scene.clone(), state.clone(), good.clone());
            tasks.spawn(async move {
                let tokens = [OLD_TOKEN, good[0].token.expose(), good[1].token.expose()];
                for token in tokens.iter().cycle().skip(n).take_while(|_| state.goes_on()) {
                    assert_eq!(scene.status(token).await, 200, "a good token is refused");
                    state.served.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        let mut each = |n: usize, work: Work| {
            let (scene, state) = (scene.clone(), state.clone());
            let store = store.clone();
            tasks.spawn(async move {
                while state.goes_on() {
                    work.once(&scene, &store, state.done[n].load(Ordering::SeqCst) as u64).await;
                    state.done[n].fetch_add(1, Ordering::SeqCst);
                }
            });
        };
        for (n, work) in
            [Work::Issue, Work::Revoke, Work::Replace, Work::Use].into_iter().enumerate()
        {
            each(n, work);
        }
        let load = Self { scene, state, tasks, kept };
        load.all_go_on().await;
        load
    }

    fn served(&self) -> usize {
        self.state.served.load(Ordering::SeqCst)
    }

    fn done(&self) -> [usize; 5] {
        let [issued, revoked, replaced, used] = &self.state.done;
        [&self.state.served, issued, revoked, replaced, used]
            .map(|count| count.load(Ordering::SeqCst))
    }

    async fn all_go_on(&self) {
        let before = self.done();
        until(async || self.done().iter().zip(before).all(|(now, before)| *now > before + 1)).await;
    }

    /// Everybody goes on in the new table, in which all is that was in the old one.
    async fn ends_well(mut self) {
        self.all_go_on().await;
        self.state.stop.store(true, Ordering::SeqCst);
        while let Some(task) = self.tasks.join_next().await {
            task.unwrap();
        }
        assert_eq!(kept(&self.scene).await, self.kept);
        assert_eq!(self.scene.status(OLD_TOKEN).await, 200);
        let old = self.scene.tokens.describe("00000000000000000000000old").await.unwrap().unwrap();
        assert_eq!(
            (old.client.as_deref(), old.scopes.as_str()),
            (Some("web"), "read:reports write:reports")
        );
        assert_eq!(
            (old.roles, old.metadata.as_str()),
            (vec!["admin".to_owned()], r#"{"plan":"pro"}"#)
        );
    }
}

#[derive(Clone, Copy)]
enum Work {
    Issue,
    Revoke,
    Replace,
    Use,
}

impl Work {
    async fn once<S: TokenStore>(self, scene: &Scene, store: &S, n: u64) {
        let status = |issued: &IssuedToken| {
            let token = issued.token.expose().to_owned();
            async move { scene.status(&token).await }
        };
        match self {
            Self::Issue => assert_eq!(status(&scene.issue("new").await).await, 200),
            Self::Revoke => {
                let issued = scene.issue("revoked").await;
                assert!(scene.tokens.revoke(&issued.record.id).await.unwrap());
                assert_eq!(status(&issued).await, 401, "OPAQUE-70");
            }
            Self::Replace => {
                let issued = scene.issue("replaced").await;
                let hour = Duration::from_secs(3600);
                let next = scene.tokens.rotate(&issued.record.id, hour).await.unwrap();
                assert_eq!((status(&issued).await, status(&next).await), (200, 200));
            }
            Self::Use => {
                let issued = scene.issue("used").await;
                let used = at(n);
                store.touch(&[(issued.record.id.clone(), used)]).await.unwrap();
                let found = store.describe(&issued.record.id).await.unwrap().unwrap();
                assert_eq!(found.last_used, Some(used));
            }
        }
    }
}
