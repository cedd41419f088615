//! The stores that nodes share.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use redis::aio::ConnectionManager;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tower_gate::store::RevocationStore;
use tower_gate::store::memory::MemoryRevocations;
use tower_gate::store::postgres::PostgresRevocations;
use tower_gate::store::redis::RedisRevocations;

use crate::servers::postgres::Postgres;
use crate::servers::redis::Redis;

/// Something that keeps revocations, from which each node gets a handle of its own.
pub(crate) trait Shared {
    async fn store(&self) -> impl RevocationStore;
}

/// One that is a server, and can go wrong.
pub(crate) trait Server: Shared {
    fn url(&self) -> String;
    /// A handle that reaches it at this address.
    async fn store_at(&self, url: &str) -> impl RevocationStore;
    fn pause(&self);
    fn resume(&self);
    fn kill(&self);
    fn restart(&self);
    /// Breaks the connections that news come over, or all.
    fn cut(&self);
}

impl Shared for MemoryRevocations {
    async fn store(&self) -> impl RevocationStore {
        self.clone()
    }
}

impl Shared for Redis {
    async fn store(&self) -> impl RevocationStore {
        redis_store(&self.url()).await
    }
}

/// A Redis of its own, which does not lose what it was told.
pub(crate) fn redis() -> Redis {
    Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"])
}

/// Keys of their own in the Redis that most tests share.
pub(crate) struct Keys {
    pub(crate) prefix: String,
}

pub(crate) static REDIS: LazyLock<Redis> = LazyLock::new(Redis::start);

pub(crate) fn keys() -> Keys {
    static MADE: AtomicU32 = AtomicU32::new(0);
    Keys { prefix: format!("test-{}", MADE.fetch_add(1, Ordering::SeqCst)) }
}

impl Shared for Keys {
    async fn store(&self) -> impl RevocationStore {
        redis_store(&REDIS.url()).await.with_prefix(&self.prefix)
    }
}

pub(crate) async fn redis_store(url: &str) -> RedisRevocations<ConnectionManager> {
    let client = redis::Client::open(url).unwrap();
    let connection = client.get_connection_manager().await.unwrap();
    RedisRevocations::new(connection).with_news(client)
}

impl Server for Redis {
    fn url(&self) -> String {
        Redis::url(self)
    }

    async fn store_at(&self, url: &str) -> impl RevocationStore {
        redis_store(url).await
    }

    fn pause(&self) {
        Redis::pause(self);
    }

    fn resume(&self) {
        Redis::resume(self);
    }

    fn kill(&self) {
        Redis::kill(self);
    }

    fn restart(&self) {
        Redis::restart(self);
    }

    fn cut(&self) {
        for kind in ["pubsub", "normal"] {
            self.command(&["CLIENT", "KILL", "TYPE", kind]);
        }
    }
}

/// A database of a server.
pub(crate) struct Database<S> {
    server: S,
    url: String,
}

/// A database of its own on the server that most tests share.
pub(crate) fn database() -> Database<&'static Postgres> {
    static SERVER: LazyLock<Postgres> = LazyLock::new(Postgres::start);
    Database { url: SERVER.fresh_url(), server: &SERVER }
}

/// A server of its own.
pub(crate) fn postgres() -> Database<Postgres> {
    let server = Postgres::start();
    Database { url: server.fresh_url(), server }
}

impl<S> Database<S> {
    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

impl Database<&'static Postgres> {
    /// All that is in it, as text.
    pub(crate) fn dump(&self) -> String {
        self.server.dump(&self.url)
    }
}

impl<S> Shared for Database<S> {
    async fn store(&self) -> impl RevocationStore {
        postgres_store(&self.url).await
    }
}

pub(crate) async fn postgres_store(url: &str) -> PostgresRevocations {
    let store = PostgresRevocations::new(pool(url).await);
    store.migrate().await.unwrap();
    store
}

pub(crate) async fn pool(url: &str) -> PgPool {
    let options = PgPoolOptions::new().max_connections(4).acquire_timeout(Duration::from_secs(5));
    options.connect(url).await.unwrap()
}

impl Server for Database<Postgres> {
    fn url(&self) -> String {
        self.url.clone()
    }

    async fn store_at(&self, url: &str) -> impl RevocationStore {
        postgres_store(url).await
    }

    fn pause(&self) {
        self.server.pause();
    }

    fn resume(&self) {
        self.server.resume();
    }

    fn kill(&self) {
        self.server.kill();
    }

    fn restart(&self) {
        self.server.restart();
    }

    fn cut(&self) {
        self.server.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'",
        );
    }
}
