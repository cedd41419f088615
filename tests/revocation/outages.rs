//! Real servers that go away, hang, lose connections, and come back.

use std::time::{Duration, Instant};

use sqlx::postgres::PgPoolOptions;
use tokio::time::sleep;
use tower_gate::Revocation;
use tower_gate::store::memory::MemoryRevocations;
use tower_gate::store::postgres::PostgresRevocations;
use tower_gate::store::redis::RedisRevocations;
use tower_gate::verifier::revocable::{Revocations, WhenStale};

use crate::node::{ISSUER, Node, principals};
use crate::servers::redis::{Redis, RedisCluster};
use crate::shared::{Server, database, keys, postgres, redis};

const DOWN: &str = "503 temporarily_unavailable verifier_unavailable";
const LONG: Duration = Duration::from_secs(20);

/// Two seconds of age are enough for a test.
async fn node(server: &impl Server, when_stale: WhenStale) -> Node {
    let builder = Revocations::builder(server.store().await)
        .with_poll_interval(Duration::from_millis(200))
        .with_max_age(Duration::from_secs(2))
        .with_timeout(Duration::from_secs(1))
        .with_when_stale(when_stale);
    let node = Node::of(builder, principals());
    node.revocations.ready().await.unwrap();
    node
}

/// A server that is gone, and one that hangs; each comes back.
async fn requests_are_refused_while_it_is_away_and_served_afterwards(server: &impl Server) {
    let refusing = node(server, WhenStale::Refuse).await;
    let asking = node(server, WhenStale::Ask).await;
    let accepting = node(server, WhenStale::Accept).await;
    let nodes = [&refusing, &asking, &accepting];
    for (n, hangs) in [true, false].into_iter().enumerate() {
        refusing.revoke(Revocation::subject(ISSUER, "bob")).await;
        for node in nodes {
            assert!(node.accepts("base").await);
            node.refuses_within("subject", LONG).await;
        }
        if hangs {
            server.pause()
        } else {
            server.kill()
        }
        let began = Instant::now();
        for node in nodes {
            // A server that hangs or is gone does not slow down what is known well enough.
            let answer = node.get("base").await;
            assert!(answer.text == "200" || began.elapsed() > Duration::from_secs(1));
        }
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        refusing.answers_within("base", DOWN, LONG).await;
        let after = began.elapsed();
        assert!(after > Duration::from_secs(1), "OPAQUE-72: {after:?}");
        assert!(after < Duration::from_secs(4), "OPAQUE-72: cut off for {after:?}");
        sleep(Duration::from_millis(500)).await;
        for _ in 0..5 {
            refusing.get("base").await.is_outage("the store is away");
        }
        asking.get("base").await.is_outage("the store was asked in vain");
        let accepted = accepting.get("base").await;
        assert_eq!((accepted.text.as_str(), &accepted.event["stale"]), ("200", &true.into()));
        for node in nodes {
            let text = node.get("subject").await.text;
            assert_eq!(text, "401 token_revoked revoked", "known is known");
        }
        let (token, id) = [("token", "t-4"), ("key", "t-5")][n];
        let revocation = Revocation::token(ISSUER, id);
        let failed = Instant::now();
        refusing.revocations.revoke(revocation.clone()).await.unwrap_err();
        assert!(failed.elapsed() < Duration::from_secs(2));
        assert!(!refusing.accepts(token).await, "OPAQUE-70: here it is revoked all the same");

        if hangs {
            server.resume()
        } else {
            server.restart()
        }
        for node in nodes {
            node.answers_within("base", "200", LONG).await;
            node.answers_within("subject", "401 token_revoked revoked", LONG).await;
        }
        let tried = Instant::now();
        while let Err(error) = refusing.revocations.revoke(revocation.clone()).await {
            assert!(tried.elapsed() < LONG, "{error}");
            sleep(Duration::from_millis(50)).await;
        }
        for node in nodes {
            node.answers_within(token, "401 token_revoked revoked", LONG).await;
        }
    }
    let late = node(server, WhenStale::Refuse).await;
    for token in ["subject", "token", "key"] {
        assert!(!late.accepts(token).await, "OPAQUE-70: what was kept outlives the server");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_goes_away_and_comes_back() {
    requests_are_refused_while_it_is_away_and_served_afterwards(&redis()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_goes_away_and_comes_back() {
    requests_are_refused_while_it_is_away_and_served_afterwards(&postgres()).await;
}

/// With polls a minute apart, only news can be this fast.
async fn news_come_again_after_their_connection_was_cut(server: &impl Server) {
    let one = Node::told(server.store().await).await;
    let other = Node::told(server.store().await).await;
    for (token, id) in [("base", "t-1"), ("token", "t-4"), ("key", "t-5")] {
        assert!(other.accepts(token).await);
        let revocation = Revocation::token(ISSUER, id);
        // The one that revokes may find its connection broken, too.
        while one.revocations.revoke(revocation.clone()).await.is_err() {}
        let took = other.refuses_within(token, LONG).await;
        assert!(took < Duration::from_secs(10), "{token}: {took:?}");
        server.cut();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_tells_again_after_a_cut() {
    news_come_again_after_their_connection_was_cut(&redis()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_tells_again_after_a_cut() {
    news_come_again_after_their_connection_was_cut(&postgres()).await;
}

/// It was not configured to keep anything, which operators are told to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_lost_everything_does_not_let_revoked_tokens_in_where_they_are_known() {
    let server = Redis::start();
    let (one, other) =
        (node(&server, WhenStale::Refuse).await, node(&server, WhenStale::Refuse).await);
    one.revoke(Revocation::token(ISSUER, "t-1")).await;
    other.refuses_within("base", LONG).await;
    server.restart();
    assert_eq!(server.keys(), [] as [&str; 0]);
    for node in [&one, &other] {
        node.answers_within("token", "200", LONG).await;
        assert!(!node.accepts("base").await);
    }
    // Positions go on where the old server's were, so that what is new is seen.
    let revocation = Revocation::token(ISSUER, "t-4");
    while one.revocations.revoke(revocation.clone()).await.is_err() {}
    other.refuses_within("token", LONG).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_without_a_client_for_news_is_polled() {
    let keys = keys();
    let store = async || {
        let client = redis::Client::open(crate::shared::REDIS.url()).unwrap();
        let connection = client.get_multiplexed_async_connection().await.unwrap();
        RedisRevocations::new(connection).with_prefix(&keys.prefix)
    };
    let (one, other) = (Node::start(store().await).await, Node::start(store().await).await);
    one.revoke(Revocation::token(ISSUER, "t-1")).await;
    let took = other.refuses_within("base", LONG).await;
    assert!(took < Duration::from_secs(2), "OPAQUE-73: {took:?}");
}

/// The connection for news would be the only one, and nobody would learn what is revoked any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgres_with_one_connection_is_polled() {
    let database = database();
    let node = async || {
        let options = PgPoolOptions::new().max_connections(1).acquire_timeout(LONG);
        let store = PostgresRevocations::new(options.connect(database.url()).await.unwrap());
        store.migrate().await.unwrap();
        Node::start(store).await
    };
    let (one, other) = (node().await, node().await);
    assert!(other.accepts("base").await);
    one.revoke(Revocation::token(ISSUER, "t-1")).await;
    other.refuses_within("base", LONG).await;
    assert!(other.accepts("token").await, "it knows that it knows all");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_in_the_store_that_is_no_revocation_is_an_outage() {
    let keys = keys();
    let node = async || {
        let builder = Revocations::builder(crate::shared::Shared::store(&keys).await)
            .with_poll_interval(Duration::from_millis(50))
            .with_max_age(Duration::from_millis(500));
        Node::of(builder, principals())
    };
    let running = node().await;
    running.revocations.ready().await.unwrap();
    assert!(running.accepts("base").await);
    let key = format!("{{{}:revocations}}:positions", keys.prefix);
    let strange = r#"{"target":{"device":{"id":"1"}},"issued_until":null,"ends_at":null}"#;
    crate::shared::REDIS.command(&["ZADD", &key, "99999999999", strange]);
    node().await.revocations.ready().await.unwrap_err();
    running.answers_within("base", "200", LONG).await;
    crate::shared::REDIS.command(&["ZADD", &key, "9007199254740000", strange]);
    running.answers_within("base", DOWN, LONG).await;
    crate::shared::REDIS.command(&["ZREM", &key, strange]);
    running.answers_within("base", "200", LONG).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_keeps_and_tells_across_a_failover() {
    let cluster = RedisCluster::start();
    let store = async |news: usize| {
        let client = redis::cluster::ClusterClient::new(cluster.urls()).unwrap();
        let connection = client.get_async_connection().await.unwrap();
        let news = redis::Client::open(cluster.nodes()[news].url()).unwrap();
        RedisRevocations::new(connection).with_news(news)
    };
    // Whichever node the news are asked of.
    let one = Node::told(store(0).await).await;
    let other = Node::told(store(4).await).await;
    assert!(other.accepts("base").await);
    one.revoke(Revocation::token(ISSUER, "t-1")).await;
    other.refuses_within("base", LONG).await;
    let fresh = Node::start(store(1).await).await;
    assert!(fresh.accepts("token").await);
    cluster.fail_over("{tower-gate:revocations}:positions");
    let revocation = Revocation::token(ISSUER, "t-4");
    let began = Instant::now();
    while let Err(error) = one.revocations.revoke(revocation.clone()).await {
        assert!(began.elapsed() < LONG, "{error}");
        sleep(Duration::from_millis(100)).await;
    }
    fresh.answers_within("token", "401 token_revoked revoked", LONG).await;
    assert!(!Node::start(store(2).await).await.accepts("token").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_make_their_table_at_the_same_time() {
    let database = database();
    let mut nodes = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let url = database.url().to_owned();
        nodes.spawn(async move { drop(crate::shared::postgres_store(&url).await) });
    }
    while let Some(made) = nodes.join_next().await {
        made.unwrap();
    }
    let node = Node::start(crate::shared::postgres_store(database.url()).await).await;
    node.revoke(Revocation::token(ISSUER, "t-1")).await;
    assert!(!node.accepts("base").await);
}

#[tokio::test]
async fn memory_is_always_there() {
    let node = Node::start(MemoryRevocations::new()).await;
    assert!(node.accepts("base").await);
    assert_eq!(node.revocations.failures(), 0);
}
