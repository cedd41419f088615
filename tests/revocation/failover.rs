//! Servers in whose place others come, which know less and count from less; and clients that hang.

use std::time::{Duration, Instant};

use tower_gate::Revocation;
use tower_gate::verifier::revocable::Revocations;

use crate::node::{ISSUER, Node};
use crate::servers::front::Front;
use crate::servers::postgres::Postgres;
use crate::shared::{REDIS, Shared, database, keys, pool, postgres_store};

/// Far below the minute after which all is loaded anew in any case.
const SOON: Duration = Duration::from_secs(10);

/// Nodes asked it for what is behind the position that they had from the old server, and saw nothing
/// of what was revoked afterwards for a minute.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgres_that_takes_over_and_counts_from_less_hides_nothing() {
    let (old, new) = (Postgres::start(), Postgres::start());
    let ahead = "SET position = position + 3600000000";
    let between = "SET position = position - 10000000 WHERE revocation LIKE '%t-1%'";
    for (case, at_old, at_new) in [
        // All that is new has lower positions than what was lost.
        ("behind", ahead, "SET position = position"),
        // What is new has lower positions, and also higher ones.
        ("between", "SET position = position", between),
    ] {
        let url = |server: &Postgres| {
            server.run(&format!("CREATE DATABASE {case}"));
            server.url(case)
        };
        let (old, new) = (url(&old), url(&new));
        let change = async |url: &str, change: &str| {
            let statement = format!("UPDATE tower_gate_revocations {change}");
            sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&pool(url).await).await.unwrap();
        };
        let (before, after) = (node_of(&old).await, node_of(&new).await);
        before.revoke(Revocation::token(ISSUER, "t-9")).await;
        change(&old, at_old).await;
        let front = Front::before(&old).await;
        let node = Node::start(postgres_store(&front.url(&old)).await).await;
        assert!(!node.accepts("no-key").await && node.accepts("base").await);
        after.revoke(Revocation::token(ISSUER, "t-1")).await;
        after.revoke(Revocation::token(ISSUER, "t-4")).await;
        change(&new, at_new).await;
        front.lead_to(&new);
        let took = node.refuses_within("base", SOON).await;
        assert!(took < SOON, "OPAQUE-73: {case}: {took:?}");
        node.refuses_within("token", SOON).await;
        assert!(!node.accepts("no-key").await, "what was lost is enforced by those who know it");
    }
}

/// A node that always reaches this server.
async fn node_of(url: &str) -> Node {
    Node::start(postgres_store(url).await).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_takes_over_and_counts_from_less_hides_nothing() {
    for (case, lost, found) in [
        ("behind", 3_600_000_000_i64, [-20_000_000, -10_000_000]),
        ("between", 0, [-10_000_000, 1]),
    ] {
        let shared = keys();
        let key = format!("{{{}:revocations}}:positions", shared.prefix);
        let first = Node::start(shared.store().await).await;
        first.revoke(Revocation::token(ISSUER, "t-9")).await;
        let text = |id| serde_json::to_string(&Revocation::token(ISSUER, id)).unwrap();
        REDIS.command(&["ZINCRBY", &key, &lost.to_string(), &text("t-9")]);
        let position: f64 = REDIS.command(&["ZSCORE", &key, &text("t-9")]).parse().unwrap();
        drop(first);
        let node = Node::start(shared.store().await).await;
        assert!(!node.accepts("no-key").await && node.accepts("base").await);
        // In one step, as a server takes over: no poll comes in between.
        let script = "redis.call('DEL', KEYS[1]) redis.call('ZADD', KEYS[1], unpack(ARGV))";
        let [one, other] = found.map(|found| format!("{:.0}", position + found as f64));
        let (base, token) = (text("t-1"), text("t-4"));
        let answer = REDIS.command(&["EVAL", script, "1", &key, &one, &base, &other, &token]);
        assert_eq!(answer, "", "{case}");
        if case == "between" {
            // Nothing else tells that there is more than what has higher positions.
            REDIS.command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        }
        node.refuses_within("base", SOON).await;
        node.refuses_within("token", SOON).await;
        assert!(!node.accepts("no-key").await, "what was lost is enforced by those who know it");
    }
}

/// It kept the lock under which positions are given out for as long as its connection lasted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_hangs_while_it_revokes_does_not_keep_others_from_it() {
    let shared = database();
    let node = Node::start(shared.store().await).await;
    let front = Front::until(shared.url(), Some("INSERT INTO tower_gate_revocations")).await;
    let hanging = Revocations::builder(postgres_store(&front.url(shared.url())).await);
    let hanging = hanging.start().unwrap();
    hanging.revoke(Revocation::token(ISSUER, "t-1")).await.unwrap_err();
    let began = Instant::now();
    while let Err(error) = node.revocations.revoke(Revocation::token(ISSUER, "t-4")).await {
        assert!(began.elapsed() < SOON, "OPAQUE-70: {error}");
    }
}
