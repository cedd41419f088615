//! Stores, tokens and the layers around them.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool};
use tower::Layer;
use tower_gate::audit::Audit;
use tower_gate::authenticate::Authenticate;
use tower_gate::store::TokenStore;
use tower_gate::store::postgres::PostgresTokenStore;
use tower_gate::store::sqlite::SqliteTokenStore;
use tower_gate::verifier::opaque::{
    IssuedToken, NewToken, OpaqueTokens, OpaqueTokensBuilder, Pepper, Peppers,
};
use tower_gate::{AuditLayer, AuthenticateLayer, ManualClock};

use crate::servers::postgres::Postgres;
use crate::support::{Answer, Probe, Trail, send, with_token};

pub(crate) const ISSUER: &str = "https://api.example";

/// Whole milliseconds, as stores keep them.
pub(crate) fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
}

/// The server that the tests share; those that break theirs have one of their own.
pub(crate) static SERVER: LazyLock<Postgres> = LazyLock::new(Postgres::start);

/// A path for a database that is not there.
pub(crate) fn fresh_file() -> PathBuf {
    static MADE: AtomicU32 = AtomicU32::new(0);
    let name = format!("tokens-{}.db", MADE.fetch_add(1, Ordering::SeqCst));
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    for ending in ["", "-wal", "-shm", "-journal"] {
        let _ = std::fs::remove_file(format!("{}{ending}", path.display()));
    }
    path
}

pub(crate) async fn sqlite_pool(path: &Path) -> SqlitePool {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal);
    SqlitePool::connect_with(options).await.unwrap()
}

pub(crate) async fn postgres_pool(url: &str) -> PgPool {
    let options = PgPoolOptions::new().max_connections(5).acquire_timeout(Duration::from_secs(20));
    options.connect(url).await.unwrap()
}

pub(crate) async fn sqlite() -> SqliteTokenStore {
    let store = SqliteTokenStore::new(sqlite_pool(&fresh_file()).await);
    store.migrate().await.unwrap();
    store
}

pub(crate) async fn postgres() -> PostgresTokenStore {
    let url = tokio::task::spawn_blocking(|| SERVER.fresh_url()).await.unwrap();
    let store = PostgresTokenStore::new(postgres_pool(&url).await);
    store.migrate().await.unwrap();
    store
}

/// A test of each behaviour with each store. A behaviour is an async function of a fresh store.
macro_rules! with_every_store {
    ($($behaviour:ident)+) => {
        $crate::scene::with_every_store! {
            @stores [$($behaviour)+]
            memory: tower_gate::store::memory::MemoryTokenStore::new();
            sqlite: $crate::scene::sqlite().await;
            postgres: $crate::scene::postgres().await;
        }
    };
    (@stores $behaviours:tt $($store:ident: $build:expr;)+) => {
        $($crate::scene::with_every_store! { @store $behaviours $store $build })+
    };
    (@store [$($behaviour:ident)+] $store:ident $build:expr) => {
        mod $store {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $behaviour() {
                    super::$behaviour($build).await;
                }
            )+
        }
    };
}
pub(crate) use with_every_store;

pub(crate) fn pepper(byte: u8) -> Pepper {
    Pepper::new(&format!("pepper-{byte}"), &[byte; 32]).unwrap()
}

/// An API with opaque tokens, at a time of the test's own.
pub(crate) struct Scene {
    pub(crate) tokens: OpaqueTokens,
    pub(crate) clock: ManualClock,
    pub(crate) trail: Trail,
    service: Audit<Authenticate<Probe>>,
}

impl Scene {
    pub(crate) fn new(store: impl TokenStore) -> Self {
        Self::with(store, |builder| builder)
    }

    pub(crate) fn with(
        store: impl TokenStore,
        change: impl FnOnce(OpaqueTokensBuilder) -> OpaqueTokensBuilder,
    ) -> Self {
        let (clock, trail) = (ManualClock::new(at(0)), Trail::default());
        // A store of several engines under load may take a while on a busy machine.
        let builder = OpaqueTokens::builder(ISSUER, store, Peppers::new(pepper(1)))
            .with_prefix("acme_live")
            .with_timeout(Duration::from_secs(30))
            .with_clock(clock.clone());
        let tokens = change(builder).build().unwrap();
        let authenticate = AuthenticateLayer::new(tokens.verifier()).with_clock(clock.clone());
        let service = AuditLayer::new(trail.clone()).layer(authenticate.layer(Probe::default()));
        Self { tokens, clock, trail, service }
    }

    pub(crate) async fn issue(&self, subject: &str) -> IssuedToken {
        self.tokens.issue(NewToken::new(subject)).await.unwrap()
    }

    pub(crate) async fn ask(&self, token: &str) -> Answer {
        send(&self.service, with_token(token)).await
    }

    /// The status and the word of a refusal, and what the audit trail says of it: why, whose token,
    /// and which.
    pub(crate) async fn outcome(&self, token: &str) -> (u16, String, String) {
        let answer = self.ask(token).await;
        let event = self.trail.events().pop().unwrap();
        assert_eq!(event.status, Some(answer.status));
        let principal = event.principal.as_ref();
        let id = principal.and_then(|principal| principal.token_id()).unwrap_or_default();
        let word = if answer.status == 200 { String::new() } else { answer.error() };
        let trail = format!("{} {id}", event.reason.unwrap_or_default());
        (answer.status.as_u16(), word, trail.trim().to_owned())
    }

    /// The status alone.
    pub(crate) async fn status(&self, token: &str) -> u16 {
        self.ask(token).await.status.as_u16()
    }
}
