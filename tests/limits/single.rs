//! One server: what goes over the wire, what is kept, and what it may say in place of an answer.

use std::error::Error;
use std::time::{Duration, Instant};

use tower::ServiceBuilder;
use tower_gate::rate_limit::{HeaderStyle, Policy};
use tower_gate::store::memory::MemoryStore;
use tower_gate::store::redis::RedisStore;
use tower_gate::store::{FallbackStore, RateLimitStore, Settlement, StoreError};
use tower_gate::{
    AuditLayer, Decision, ManualClock, Partition, PartitionKey, Quota, RateLimitLayer,
};

use crate::lateness::Lateness;
use crate::outage::from;
use crate::servers::redis::Redis;
use crate::servers::wait_for;
use crate::support::{Probe, Trail, send};
use crate::{HOURLY, ask, ask_at, connect, in_short, patient, take};

const HOUR: Duration = Duration::from_secs(3600);
const WIDE: Quota = Quota::per_hour(1).with_burst(100_000);

fn cause(error: &StoreError) -> String {
    error.source().unwrap().to_string()
}

#[tokio::test]
async fn a_decision_is_one_script_call_however_many_quotas_it_is_on() {
    let redis = Redis::start();
    let store = patient(&redis).await;
    assert!(ask(&store, [take("first", WIDE, 1)]).await.unwrap().are_allowed());
    assert_eq!((redis.calls("evalsha"), redis.calls("eval")), (1, 1), "RL-61: loaded once");
    redis.command(&["CONFIG", "RESETSTAT"]);
    for number in 0..50u32 {
        let count = 1 + number % 4;
        let takes = (0..count).map(|part| take(&format!("{number} {part}"), WIDE, 1));
        let cost = number % 3;
        let takes = takes.map(|one| tower_gate::store::Take::new(one.key, one.quota, cost));
        assert!(ask(&store, takes).await.unwrap().are_allowed());
    }
    assert_eq!((redis.calls("evalsha"), redis.calls("eval")), (50, 0), "RL-60");
    let memory = redis.command(&["INFO", "memory"]);
    assert!(memory.contains("number_of_cached_scripts:1\n"), "RL-60: {memory}");
}

#[tokio::test]
async fn a_server_that_forgot_the_script_is_told_it_again() {
    let redis = Redis::start();
    let store = patient(&redis).await;
    for left in (0..5).rev() {
        redis.command(&["SCRIPT", "FLUSH"]);
        let decisions = ask(&store, [take("caller", HOURLY, 1)]).await.unwrap();
        assert_eq!(in_short(&decisions), [(true, true, left)], "RL-61");
    }
}

#[tokio::test]
async fn every_key_has_an_end_and_no_name() {
    let redis = Redis::start();
    let store = patient(&redis).await.with_prefix("shop");
    for name in ["alice@example.org", "203.0.113.7", "{braces}"] {
        let takes = [take(name, HOURLY, 1), take(&format!("{name} again"), WIDE, 3)];
        assert!(ask(&store, takes).await.unwrap().are_allowed());
    }
    let keys = redis.keys();
    assert_eq!(keys.len(), 6, "{keys:?}");
    for key in keys {
        let ttl: u64 = redis.command(&["PTTL", &key]).parse().unwrap();
        assert!(ttl > 3_500_000, "RL-64: {key} ends in {ttl} ms");
        let rest = key.strip_prefix("shop:1:{").unwrap();
        let (home, hash) = rest.split_once("}:").unwrap();
        let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
        assert_eq!((home.len(), hash.len()), (4, 32), "RL-68: {key}");
        assert!(is_hex(home) && is_hex(hash), "RL-68: {key}");
    }
}

#[tokio::test]
async fn the_clock_of_a_node_decides_nothing() {
    let redis = Redis::start();
    let (one, other) = (patient(&redis).await, patient(&redis).await);
    let hour = Duration::from_secs(3600);
    for left in (0..5).rev() {
        let (store, now) = if left % 2 == 0 { (&one, hour * 1000) } else { (&other, hour) };
        let decisions = ask_at(now, store, [take("caller", HOURLY, 1)]).await.unwrap();
        assert_eq!(in_short(&decisions), [(true, true, left)], "RL-62");
    }
    for now in [hour, 2 * hour, 1000 * hour] {
        for store in [&one, &other] {
            let decisions = ask_at(now, store, [take("caller", HOURLY, 1)]).await.unwrap();
            assert_eq!(in_short(&decisions), [(false, true, 0)], "RL-62: at {now:?}");
        }
    }
}

#[tokio::test]
async fn whoever_is_limited_and_comes_again_costs_no_round_trip() {
    let redis = Redis::start();
    let store = patient(&redis).await;
    let spent = ask_at(Duration::ZERO, &store, [take("caller", HOURLY, 4)]).await.unwrap();
    assert!(spent.are_allowed());
    let at = |millis, cost| {
        ask_at(Duration::from_millis(millis), &store, [take("caller", HOURLY, cost)])
    };
    let Decision::Limited { retry_after: first, .. } = at(0, 2).await.unwrap()[0] else { panic!() };
    redis.command(&["CONFIG", "RESETSTAT"]);
    for millis in 0..1000 {
        let decision = at(millis, 2).await.unwrap()[0];
        let Decision::Limited { retry_after, .. } = decision else { panic!() };
        assert_eq!(retry_after, first.map(|first| first - Duration::from_millis(millis)));
    }
    assert_eq!(redis.calls("evalsha"), 0);
    assert_eq!(in_short(&at(1000, 2).await.unwrap()), [(false, true, 1)]);
    assert_eq!(redis.calls("evalsha"), 1, "nothing is known for longer than a second");
    assert_eq!(in_short(&at(1000, 1).await.unwrap()), [(true, true, 0)], "what is left is given");
    assert_eq!(redis.calls("evalsha"), 2);
}

/// As one key is enough to refuse by, a flood of callers costs a server nothing once what they share is
/// used up.
#[tokio::test]
async fn a_used_up_quota_of_everybody_refuses_callers_never_seen_without_a_round_trip() {
    let redis = Redis::start();
    let store = patient(&redis).await;
    let clock = ManualClock::default();
    let all = Policy::new("all", HOURLY).with_partition(Partition::global());
    let shadow = Policy::new("shadow", Quota::per_hour(1)).with_partition(Partition::global());
    let own = Policy::new("own", Quota::per_hour(1).with_burst(100));
    let trail = Trail::default();
    let layer = |policies: Vec<Policy>, headers| {
        let limit = RateLimitLayer::of(store.clone(), policies)
            .with_partition(Partition::address())
            .with_headers(headers)
            .with_clock(clock.clone());
        let layers = ServiceBuilder::new().layer(AuditLayer::new(trail.clone())).layer(limit);
        layers.service(Probe::default())
    };
    let policies = vec![own.clone(), all, shadow.in_shadow()];
    let [draft_10, draft_06] = [HeaderStyle::Draft10, HeaderStyle::Draft06]
        .map(|headers| layer(policies.clone(), headers));
    for _ in 0..5 {
        assert_eq!(send(&draft_10, from(1)).await.status, 200, "a shadow refuses nobody");
    }
    let first = send(&draft_10, from(1)).await;
    let wait = first.header("retry-after");
    assert_eq!(first.header("ratelimit"), format!("\"own\";r=95;t={wait}, \"all\";r=0;t={wait}"));
    redis.command(&["CONFIG", "RESETSTAT"]);
    for host in 2..100 {
        let answer = send(&draft_10, from(host)).await;
        assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (429, wait), "RL-5");
        assert_eq!(answer.json()["violated-policies"], serde_json::json!(["all"]), "RL-9");
        let policies = "\"own\";q=100;w=360000, \"all\";q=5;w=18000";
        assert_eq!(answer.header("ratelimit-policy"), policies, "RL-2");
        let known = format!("\"all\";r=0;t={wait}");
        assert_eq!(answer.header("ratelimit"), known, "of the other nobody knows");
        let event = trail.events().pop().unwrap();
        assert_eq!((event.policy.as_deref(), event.remaining), (Some("all"), Some(0)));
        assert!(event.would_limit.is_empty(), "a shadow is asked about whoever is let in");
    }
    let answer = send(&draft_06, from(100)).await;
    assert_eq!(answer.header("ratelimit-limit"), "5", "the only one that is known");
    assert_eq!(redis.calls("evalsha"), 0);
    // A caller of its own knows no more of others than before.
    let alone = layer(vec![own.clone()], HeaderStyle::Draft10);
    assert_eq!(send(&alone, from(101)).await.status, 200);
    // What could never pass is for the server to say.
    let costly = layer(vec![own.with_cost(|_| 101), policies[1].clone()], HeaderStyle::Draft10);
    assert_eq!(send(&costly, from(102)).await.header("retry-after"), "", "RL-22");
    assert_eq!(redis.calls("evalsha"), 2);
    clock.advance(Duration::from_secs(1));
    assert_eq!(send(&draft_10, from(103)).await.status, 429);
    assert_eq!(redis.calls("evalsha"), 3, "nothing is known for longer than a second");
}

/// A unit comes back every 40 ms by the server's clock, in which time the server is not asked.
#[tokio::test]
async fn nobody_is_refused_for_longer_than_the_server_said() {
    let redis = Redis::start();
    let store = patient(&redis).await;
    let quota = Quota::per_second(25).with_burst(1);
    let start = Instant::now();
    let mut passed = Vec::new();
    while passed.len() < 5 {
        let now = start.elapsed();
        if ask_at(now, &store, [take("caller", quota, 1)]).await.unwrap().are_allowed() {
            passed.push(start.elapsed());
        }
    }
    let waits = passed.windows(2).map(|pair| pair[1] - pair[0]);
    for wait in waits {
        assert!(wait < Duration::from_secs(1), "{wait:?} for 40 ms");
    }
    assert!(passed[4] - passed[0] > Duration::from_millis(150), "{passed:?}");
}

#[tokio::test]
async fn a_server_that_cannot_write_is_an_error_and_takes_nothing() {
    let redis = Redis::start();
    let store = patient(&redis).await;
    assert!(ask(&store, [take("caller", HOURLY, 1)]).await.unwrap().are_allowed());
    for (spoil, mend, word) in [
        (["CONFIG SET maxmemory 1"], ["CONFIG SET maxmemory 0"], "OOM"),
        (["REPLICAOF 127.0.0.1 1"], ["REPLICAOF NO ONE"], "read"),
    ] {
        let run = |words: [&str; 1]| redis.command(&words[0].split(' ').collect::<Vec<_>>());
        assert_eq!(run(spoil), "OK");
        let error = ask(&store, [take("caller", HOURLY, 1)]).await.unwrap_err();
        assert!(
            cause(&error).to_lowercase().contains(&word.to_lowercase()),
            "RL-65, RL-69: {error:?}"
        );
        assert_eq!(run(mend), "OK");
    }
    let decisions = ask(&store, [take("caller", HOURLY, 1)]).await.unwrap();
    assert_eq!(in_short(&decisions), [(true, true, 3)], "RL-69");
}

#[tokio::test]
async fn a_key_that_somebody_else_wrote_is_an_error() {
    let redis = Redis::start();
    let store = patient(&redis).await;
    assert!(ask(&store, [take("caller", HOURLY, 1)]).await.unwrap().are_allowed());
    let key = redis.keys().remove(0);
    redis.command(&["SET", &key, "a text"]);
    assert!(ask(&store, [take("caller", HOURLY, 1)]).await.is_err());
}

#[tokio::test]
async fn a_server_that_is_silent_is_an_error_in_time_and_is_not_asked_twice() {
    let redis = Redis::start();
    let store = RedisStore::new(connect(&redis).await);
    let patient = patient(&redis).await;
    assert!(ask(&patient, [take("caller", HOURLY, 1)]).await.unwrap().are_allowed());
    redis.pause();
    let (start, lateness) = (Instant::now(), Lateness::start());
    let error = ask(&store, [take("caller", HOURLY, 1)]).await.unwrap_err();
    let waited = start.elapsed();
    assert!(waited >= Duration::from_millis(100), "RL-70: {waited:?}, {}", cause(&error));
    lateness.assert_no_longer(waited, Duration::from_millis(100));
    redis.resume();
    // The call that nobody waits for is done all the same, once.
    wait_for("the call", || (redis.calls("evalsha") == 2).then_some(()));
    let decisions = ask(&patient, [take("caller", HOURLY, 1)]).await.unwrap();
    assert_eq!(in_short(&decisions), [(true, true, 2)], "RL-70: not repeated");
}

#[tokio::test]
async fn corrections_that_find_no_server_are_counted() {
    let redis = Redis::start();
    let store = RedisStore::new(connect(&redis).await);
    let settle = || {
        let key = PartitionKey::new(["caller"]);
        store.settle(&Settlement::new(key, HOURLY, -1, Duration::ZERO).with_owed(HOUR));
    };
    assert!(ask(&store, [take("caller", HOURLY, 1)]).await.unwrap().are_allowed());
    redis.pause();
    (0..5000).for_each(|_| settle());
    let lost = store.lost();
    assert_eq!(lost, 5000 - 4096, "the queue is bounded, and the task has not run");
    redis.kill();
    for _ in 0..2000 {
        if store.lost() == 5000 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{} corrections are lost of 5000", store.lost());
}

#[tokio::test]
async fn the_task_that_settles_ends_with_the_store() {
    let redis = Redis::start();
    let store = patient(&redis).await;
    assert!(ask(&store, [take("caller", HOURLY, 3)]).await.unwrap().are_allowed());
    let key = PartitionKey::new(["caller"]);
    store.settle(&Settlement::new(key, HOURLY, -2, Duration::ZERO).with_owed(3 * HOUR));
    let clients = || redis.command(&["CLIENT", "LIST"]).lines().count();
    // The other one is that of the command itself.
    assert_eq!(clients(), 2);
    drop(store);
    for _ in 0..1000 {
        if clients() == 1 {
            let left = ask(&patient(&redis).await, [take("caller", HOURLY, 0)]).await.unwrap();
            assert_eq!(in_short(&left), [(true, true, 4)], "what was queued was done");
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("somebody still holds the connection");
}

#[tokio::test]
async fn a_server_out_of_memory_costs_nobody_an_answer() {
    let redis = Redis::start();
    let store = FallbackStore::new(patient(&redis).await, MemoryStore::new());
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]);
    for left in (0..5).rev() {
        let decisions = ask(&store, [take("caller", HOURLY, 1)]).await.unwrap();
        assert_eq!(in_short(&decisions), [(true, true, left)], "RL-69");
        assert!(decisions.are_fallback());
    }
    assert_eq!((store.errors(), store.fallbacks(), store.outages()), (3, 5, 1));
}
