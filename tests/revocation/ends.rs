//! When revocations are over, and where they leave.

use std::time::{Duration, SystemTime};

use tokio::time::sleep;
use tower_gate::store::memory::MemoryRevocations;
use tower_gate::store::{RevocationStore, RevokeRequest};
use tower_gate::verifier::revocable::Revocations;
use tower_gate::{Clock, ManualClock, Revocation};

use crate::node::{ISSUER, Node, PARTNER, issued_at, principals};
use crate::shared::{REDIS, Shared, database, keys, pool};

const DAY: Duration = Duration::from_secs(86_400);

/// A node whose clock stands still, on a store in memory.
async fn node(store: &MemoryRevocations) -> (Node, ManualClock) {
    let clock = ManualClock::default();
    let node = Node::at(Revocations::builder(store.clone()), principals(), clock.clone());
    node.revocations.ready().await.unwrap();
    (node, clock)
}

#[tokio::test(start_paused = true)]
async fn a_revocation_is_over_at_its_end_and_then_leaves() {
    let store = MemoryRevocations::new();
    let (node, clock) = node(&store).await;
    let end = clock.now() + Duration::from_secs(60);
    for revocation in [
        Revocation::token(ISSUER, "t-1"),
        Revocation::subject(ISSUER, "bob"),
        Revocation::client(ISSUER, "app"),
        Revocation::key(ISSUER, "k-2"),
        Revocation::issuer(PARTNER).with_issued_until(clock.now()),
    ] {
        node.revoke(revocation.with_end(end)).await;
    }
    let names = ["base", "subject", "client", "key", "issuer", "no-client", "no-key"];
    clock.advance(Duration::from_secs(60) - Duration::from_nanos(1));
    for name in names {
        assert!(!node.accepts(name).await, "OPAQUE-71: {name}");
    }
    assert_eq!(node.revocations.len(), 5);
    // Ends are whole seconds, and no sooner than they were given.
    clock.advance(Duration::from_secs(1));
    node.catches_up().await;
    for name in names {
        assert!(node.accepts(name).await, "OPAQUE-71: {name}");
    }
    sleep(Duration::from_secs(122)).await;
    assert_eq!(node.revocations.len(), 0, "OPAQUE-71");
}

fn by_now() -> [Revocation; 3] {
    [
        Revocation::token(ISSUER, "t-1"),
        Revocation::subject(ISSUER, "ada").with_issued_until(issued_at()),
        Revocation::all(issued_at()),
    ]
}

/// Those that new tokens could be issued to at any time.
fn whole() -> [Revocation; 4] {
    [
        Revocation::subject(ISSUER, "ada"),
        Revocation::client(ISSUER, "web"),
        Revocation::key(ISSUER, "k-1"),
        Revocation::issuer(ISSUER),
    ]
}

/// An opaque token that lives for ever, or 90 days, came back after one day.
#[tokio::test(start_paused = true)]
async fn without_an_end_it_lasts_for_ever() {
    for revocation in [&by_now()[..], &whole()].concat() {
        let (node, clock) = node(&MemoryRevocations::new()).await;
        let began = clock.now();
        node.revoke(revocation.clone()).await;
        for days in [2, 91, 3650] {
            clock.set_now(began + DAY * days);
            sleep(Duration::from_secs(122)).await;
            assert!(!node.accepts("base").await, "OPAQUE-71: {revocation:?} after {days} days");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn where_tokens_are_known_to_end_it_lasts_until_they_have() {
    let life = DAY + Duration::from_secs(300);
    for (revocations, ends) in [(&by_now()[..], true), (&whole()[..], false)] {
        for revocation in revocations {
            let clock = ManualClock::default();
            let builder = Revocations::builder(MemoryRevocations::new()).with_longest_life(life);
            let node = Node::at(builder, principals(), clock.clone());
            node.revocations.ready().await.unwrap();
            let began = clock.now();
            node.revoke(revocation.clone()).await;
            clock.set_now(began + life);
            assert!(!node.accepts("base").await, "OPAQUE-71: {revocation:?}");
            clock.set_now(began + life + Duration::from_secs(3));
            node.catches_up().await;
            assert_eq!(node.accepts("base").await, ends, "OPAQUE-71: {revocation:?}");
            clock.set_now(began + DAY * 3650);
            node.catches_up().await;
            assert_eq!(node.accepts("base").await, ends, "OPAQUE-71: {revocation:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn tokens_that_live_longer_are_revoked_for_longer() {
    let clock = ManualClock::default();
    let builder = Revocations::builder(MemoryRevocations::new()).with_longest_life(DAY * 30);
    let node = Node::at(builder, principals(), clock.clone());
    node.revocations.ready().await.unwrap();
    node.revoke(Revocation::token(ISSUER, "t-1")).await;
    // From the moment up to which tokens are revoked, where that is still to come.
    let later = clock.now() + DAY;
    node.revoke(Revocation::subject(ISSUER, "bob").with_issued_until(later)).await;
    clock.advance(DAY * 30);
    assert!(!node.accepts("base").await, "OPAQUE-71");
    clock.advance(Duration::from_secs(3));
    node.catches_up().await;
    assert!(node.accepts("base").await, "OPAQUE-71");
    assert!(!node.accepts("subject").await, "OPAQUE-71");
    clock.advance(DAY);
    node.catches_up().await;
    assert!(node.accepts("subject").await, "OPAQUE-71");
}

/// Those that never end stay, those that have ended do not pile up.
#[tokio::test(start_paused = true)]
async fn a_store_in_memory_is_bounded_by_what_has_not_ended() {
    let store = MemoryRevocations::new();
    let start = SystemTime::now();
    for n in 0..10_000_u64 {
        let now = start + Duration::from_secs(n);
        let revocation = Revocation::token(ISSUER, &format!("id-{n}"));
        let revocation = revocation.with_end(now + Duration::from_secs(100));
        store.revoke(&RevokeRequest::new(revocation, now)).await.unwrap();
    }
    let kept = store.revoked_since(0).await.unwrap().revocations.len();
    assert!((100..=220).contains(&kept), "OPAQUE-71: {kept}");
}

/// By the server's clock: a node whose clock is ahead takes nothing from the others.
#[tokio::test]
async fn servers_forget_what_has_ended() {
    let (redis, postgres) = (keys(), database());
    let (in_redis, in_postgres) = (redis.store().await, postgres.store().await);
    let now = SystemTime::now();
    let (soon, far_ahead) = (now + Duration::from_secs(2), now + DAY * 3650);
    let request = |id: &str, end: Option<SystemTime>, now| {
        let revocation = Revocation::token(ISSUER, id);
        let revocation = match end {
            Some(end) => revocation.with_end(end),
            None => revocation,
        };
        RevokeRequest::new(revocation, now)
    };
    let steps = [
        request("soon", Some(soon), now),
        request("later", Some(now + DAY), now),
        request("never", None, now),
        request("ahead", Some(now + DAY), far_ahead),
    ];
    let pool = pool(postgres.url()).await;
    let counts = async || {
        let key = format!("{{{}:revocations}}", redis.prefix);
        let count = |key: String| REDIS.command(&["ZCARD", &key]).parse::<i64>().unwrap();
        let rows = sqlx::query_scalar("SELECT count(*) FROM tower_gate_revocations");
        let rows: i64 = rows.fetch_one(&pool).await.unwrap();
        [count(format!("{key}:positions")), count(format!("{key}:ends")), rows]
    };
    for step in &steps {
        in_redis.revoke(step).await.unwrap();
        in_postgres.revoke(step).await.unwrap();
    }
    assert_eq!(counts().await, [4; 3], "OPAQUE-71");
    sleep(Duration::from_secs(4)).await;
    in_redis.revoke(&steps[1]).await.unwrap();
    in_postgres.revoke(&steps[1]).await.unwrap();
    assert_eq!(counts().await, [3; 3], "OPAQUE-71: one has ended, and one was said twice");
}

/// All at once took longer than a node waits, after which nothing could be revoked any more.
#[tokio::test]
async fn servers_forget_a_bounded_number_with_each_revocation() {
    const ENDED: i64 = 5000;
    let (redis, postgres) = (keys(), database());
    let (in_redis, in_postgres) = (redis.store().await, postgres.store().await);
    let now = SystemTime::now();
    let ended = r#"'{"target":"all","issued_until":1,"ends_at":' || n || '}'"#;
    let insert = format!(
        "INSERT INTO tower_gate_revocations (id, revocation, position, ends_at) \
         SELECT sha256(n::text::bytea), {ended}, n, n FROM generate_series(1, $1) n"
    );
    let pool = pool(postgres.url()).await;
    let insert = sqlx::query(sqlx::AssertSqlSafe(insert)).bind(ENDED);
    insert.execute(&pool).await.unwrap();
    let key = |name| format!("{{{}:revocations}}:{name}", redis.prefix);
    let script = "for n = 1, ARGV[1] do \
         redis.call('ZADD', KEYS[1], n, n) redis.call('ZADD', KEYS[2], n, n) end";
    let (positions, ends) = (key("positions"), key("ends"));
    REDIS.command(&["EVAL", script, "2", &positions, &ends, &ENDED.to_string()]);
    for n in 1..=6 {
        let revocation = Revocation::token(ISSUER, &format!("t-{n}")).with_end(now + DAY);
        let request = RevokeRequest::new(revocation, now);
        in_redis.revoke(&request).await.unwrap();
        in_postgres.revoke(&request).await.unwrap();
        let left = (ENDED - 1000 * n).max(0) + n;
        let rows = sqlx::query_scalar("SELECT count(*) FROM tower_gate_revocations");
        let rows: i64 = rows.fetch_one(&pool).await.unwrap();
        let counts = [&positions, &ends].map(|key| REDIS.command(&["ZCARD", key]));
        assert_eq!((rows, counts), (left, [left.to_string(), left.to_string()]), "OPAQUE-71");
    }
}

/// Also where the clock of the server goes back, and what came before has ended.
#[tokio::test]
async fn positions_never_go_back() {
    let (redis, postgres) = (keys(), database());
    let (in_redis, in_postgres) = (redis.store().await, postgres.store().await);
    let now = SystemTime::now();
    let ahead = (now + DAY).duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros();
    let request =
        |id: &str, end| RevokeRequest::new(Revocation::token(ISSUER, id).with_end(end), now);
    let ended = serde_json::to_string(&Revocation::token(ISSUER, "ended")).unwrap();
    let pool = pool(postgres.url()).await;
    let insert = "INSERT INTO tower_gate_revocations (id, revocation, position, ends_at) \
        VALUES ('x', $1, $2, 1)";
    let insert = sqlx::query(insert).bind(&ended).bind(i64::try_from(ahead).unwrap());
    insert.execute(&pool).await.unwrap();
    let key = |name| format!("{{{}:revocations}}:{name}", redis.prefix);
    REDIS.command(&["ZADD", &key("positions"), &ahead.to_string(), &ended]);
    REDIS.command(&["ZADD", &key("ends"), "1", &ended]);

    async fn grow(store: &impl RevocationStore, over: &RevokeRequest, new: &RevokeRequest) {
        let read = store.revoked_since(0).await.unwrap().position;
        store.revoke(over).await.unwrap();
        store.revoke(new).await.unwrap();
        let page = store.revoked_since(read).await.unwrap();
        assert!(page.revocations.contains(&new.revocations[0]), "OPAQUE-73: {page:?}");
        assert!(page.position > read, "OPAQUE-73: {page:?}");
    }
    let (over, new) = (request("over", now - DAY), request("new", now + DAY));
    grow(&in_redis, &over, &new).await;
    grow(&in_postgres, &over, &new).await;
}
