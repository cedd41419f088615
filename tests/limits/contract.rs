//! Memory, Redis, Valkey and a cluster decide as the definition does, for takes of one key and of several.
//!
//! The quotas give back one unit in an hour, so that the answers are those of a clock that stands
//! still, whatever the server's own clock shows.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use tower::Layer;
use tower_gate::rate_limit::Policy;
use tower_gate::store::memory::MemoryStore;
use tower_gate::store::redis::RedisStore;
use tower_gate::store::{RateLimitStore, Settlement, Take, TakeRequest};
use tower_gate::{
    AuthenticateLayer, Clock, FixedVerifier, PartitionKey, Principal, Quota, RateLimitLayer,
    SystemClock,
};

use crate::servers::redis::{Redis, RedisCluster};
use crate::support::{Probe, send, with_token};
use crate::{HOURLY, PATIENCE, ask, connect_to_cluster, in_short, patient, take};

/// The servers that all tests share, whose keys differ.
pub(crate) fn shared_redis() -> &'static Redis {
    static REDIS: OnceLock<Redis> = OnceLock::new();
    REDIS.get_or_init(Redis::start)
}

fn shared_valkey() -> &'static Redis {
    static VALKEY: OnceLock<Redis> = OnceLock::new();
    VALKEY.get_or_init(Redis::start_valkey)
}

pub(crate) fn shared_cluster() -> &'static RedisCluster {
    static CLUSTER: OnceLock<RedisCluster> = OnceLock::new();
    CLUSTER.get_or_init(RedisCluster::start)
}

macro_rules! contract {
    ($behaviours:tt $($adapter:ident => $build:expr;)+) => {
        $(contract! { @adapter $behaviours $adapter $build })+
    };
    (@adapter [$($behaviour:ident)+] $adapter:ident $build:expr) => {
        mod $adapter {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $behaviour() {
                    super::$behaviour(stringify!($behaviour), $build).await;
                }
            )+
        }
    };
}

contract! {
    [
        random_traces_get_the_decisions_of_the_definition
        a_refused_request_takes_nothing_of_any_quota
        takers_at_once_get_the_burst_and_no_more
        takers_of_several_quotas_at_once_get_what_the_least_of_them_has
        what_costs_more_than_the_burst_never_passes
        a_look_takes_nothing
        units_that_are_given_back_can_be_taken_again
        what_is_not_owed_any_more_is_not_given_back
        what_was_taken_on_top_is_owed
        the_own_quotas_of_one_principal_have_a_bound_together
    ]
    memory => MemoryStore::new();
    redis => patient(shared_redis()).await;
    valkey => patient(shared_valkey()).await;
    cluster => RedisStore::new(connect_to_cluster(shared_cluster()).await).with_timeout(PATIENCE);
}

async fn random_traces_get_the_decisions_of_the_definition(name: &str, store: impl RateLimitStore) {
    let quotas = [(1, 1), (1, 7), (3, 4), (7, 40)];
    let quotas = quotas.map(|(units, burst)| Quota::per_hour(units).with_burst(burst));
    let key = |trace: usize, key: usize| PartitionKey::new([format!("{name} {trace} {key}")]);
    // Of one quota, of some of them, or of all, in any order.
    let keys = Just(vec![0, 1, 2, 3]).prop_shuffle();
    let step = (keys, 1..=4usize, prop::array::uniform4(0u32..6));
    let trace = prop::collection::vec(step, 1..40);
    let mut random = TestRunner::deterministic();
    for number in 0..40 {
        let mut tats = [0; 4];
        for (keys, count, costs) in trace.new_tree(&mut random).unwrap().current() {
            let keys = &keys[..count];
            let takes = keys.iter().zip(costs);
            let takes: Vec<_> =
                takes.map(|(&at, cost)| Take::new(key(number, at), quotas[at], cost)).collect();
            let mut own: Vec<_> = keys.iter().map(|&at| tats[at]).collect();
            let expected = Take::decide(&takes, &mut own, 0);
            keys.iter().zip(own).for_each(|(&at, tat)| tats[at] = tat);

            // Not by what is known of an earlier refusal, which says nothing of the other keys.
            let request = TakeRequest::together(takes.iter().copied(), SystemClock.monotonic());
            let decisions = store.take(&request).await.unwrap();
            let place = format!("RL-24, RL-40, RL-66: trace {number}, {takes:?}");
            assert_eq!(in_short(&decisions), in_short(&expected), "{place}");
            for at in 0..4 {
                let key = Take::new(key(number, at), quotas[at], 0);
                let left = quotas[at].decide(tats[at], 0, 0).0.usage().remaining;
                wait_for_units(&store, key, left).await;
            }
        }
    }
}

async fn a_refused_request_takes_nothing_of_any_quota(name: &str, store: impl RateLimitStore) {
    let wide = Quota::per_hour(1).with_burst(50);
    let keys = ["first", "narrow", "last"].map(|part| format!("{name} {part}"));
    let all = || [take(&keys[0], wide, 1), take(&keys[1], HOURLY, 1), take(&keys[2], wide, 1)];
    for left in (0..5).rev() {
        let decisions = ask(&store, all()).await.unwrap();
        let expected = [(true, true, 45 + left), (true, true, left), (true, true, 45 + left)];
        assert_eq!(in_short(&decisions), expected, "RL-66");
    }
    for asked in 0..20 {
        let refused = ask(&store, all()).await.unwrap();
        assert_eq!(in_short(&refused)[1], (false, true, 0), "RL-24: try {asked}");
    }
    for key in [&keys[0], &keys[2]] {
        wait_for_units(&store, take(key, wide, 0), 45).await;
    }
}

async fn takers_at_once_get_the_burst_and_no_more(name: &str, store: impl RateLimitStore) {
    let quota = Quota::per_hour(1).with_burst(100);
    let names = [name.to_owned()];
    assert_eq!(units_of_many(store, &names, &[quota]).await, 100, "RL-46, attack 41");
}

async fn takers_of_several_quotas_at_once_get_what_the_least_of_them_has(
    name: &str,
    store: impl RateLimitStore,
) {
    // The narrow one first, so that nobody who is refused touches the other.
    let quotas = [100, 150].map(|burst| Quota::per_hour(1).with_burst(burst));
    let names = [format!("{name} one"), format!("{name} other")];
    assert_eq!(units_of_many(store, &names, &quotas).await, 100, "RL-66, attack 41");
}

/// How many units 64 takers get that ask for more of them than there are.
async fn units_of_many(store: impl RateLimitStore, names: &[String], quotas: &[Quota]) -> u32 {
    let (store, units) = (Arc::new(store), Arc::new(AtomicU32::new(0)));
    let mut tasks = Vec::new();
    for task in 0..64 {
        let (store, units) = (store.clone(), units.clone());
        let cost = 1 + task % 2;
        let takes = names.iter().zip(quotas).map(move |(name, &quota)| take(name, quota, cost));
        let takes: Vec<_> = takes.collect();
        tasks.push(tokio::spawn(async move {
            for _ in 0..8 {
                let decisions = ask(&store, takes.iter().copied()).await.unwrap();
                if decisions.are_allowed() {
                    units.fetch_add(cost, Ordering::SeqCst);
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    units.load(Ordering::SeqCst)
}

async fn what_costs_more_than_the_burst_never_passes(name: &str, store: impl RateLimitStore) {
    for cost in [6, 7, 1_000_000, u32::MAX] {
        let decisions = ask(&store, [take(name, HOURLY, cost)]).await.unwrap();
        assert_eq!(in_short(&decisions), [(false, false, 5)], "RL-22, RL-46: {cost}");
    }
    let century = Duration::from_secs(100 * 365 * 86_400);
    let slowest = Quota::new(1, century, 1).unwrap();
    for (cost, expected) in [(u32::MAX, (false, false, 1)), (1, (true, true, 0))] {
        let slow = take(&format!("{name} slow"), slowest, cost);
        let decisions = ask(&store, [slow]).await.unwrap();
        assert_eq!(in_short(&decisions), [expected], "RL-46, RL-63: {cost}");
    }
}

async fn a_look_takes_nothing(name: &str, store: impl RateLimitStore) {
    for (cost, left) in [(0, 5), (0, 5), (2, 3), (0, 3), (0, 3), (3, 0), (0, 0)] {
        let decisions = ask(&store, [take(name, HOURLY, cost)]).await.unwrap();
        assert_eq!(in_short(&decisions), [(true, true, left)], "RL-40");
    }
}

async fn units_that_are_given_back_can_be_taken_again(name: &str, store: impl RateLimitStore) {
    let spent = ask(&store, [take(name, HOURLY, 5)]).await.unwrap();
    assert!(spent.are_allowed());
    let refused = ask(&store, [take(name, HOURLY, 1)]).await.unwrap();
    assert_eq!(in_short(&refused), [(false, true, 0)]);
    settle(&store, name, -2);
    wait_for_units(&store, take(name, HOURLY, 0), 2).await;
    let taken = ask(&store, [take(name, HOURLY, 2)]).await.unwrap();
    assert_eq!(in_short(&taken), [(true, true, 0)]);
    // Nobody gets back more than there is.
    settle(&store, name, -1_000_000);
    wait_for_units(&store, take(name, HOURLY, 0), 5).await;
}

async fn what_is_not_owed_any_more_is_not_given_back(name: &str, store: impl RateLimitStore) {
    let spent = ask(&store, [take(name, HOURLY, 5)]).await.unwrap();
    assert!(spent.are_allowed());
    let key = PartitionKey::new([name]);
    let settlement = Settlement::new(key, HOURLY, -4, Duration::ZERO);
    store.settle(&settlement);
    store.settle(&settlement.with_owed(HOURLY.interval() * 2));
    wait_for_units(&store, take(name, HOURLY, 0), 2).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    wait_for_units(&store, take(name, HOURLY, 0), 2).await;
}

async fn what_was_taken_on_top_is_owed(name: &str, store: impl RateLimitStore) {
    let taken = ask(&store, [take(name, HOURLY, 1)]).await.unwrap();
    assert_eq!(in_short(&taken), [(true, true, 4)]);
    settle(&store, name, i64::MAX);
    wait_for_units(&store, take(name, HOURLY, 0), 0).await;
    let owing = ask(&store, [take(name, HOURLY, 0)]).await.unwrap();
    assert_eq!(in_short(&owing), [(false, true, 0)], "a key that owes is limited at any cost");
    let reset = owing[0].usage().reset_after;
    let burst = HOURLY.refill_time();
    assert!(reset <= 2 * burst && reset > 2 * burst - Duration::from_secs(60), "{reset:?}");
    // What is owed goes first.
    settle(&store, name, -7);
    wait_for_units(&store, take(name, HOURLY, 0), 2).await;
}

/// Ten tokens that name ten quotas had 945 units between them, where a hundred were the most.
async fn the_own_quotas_of_one_principal_have_a_bound_together(
    name: &str,
    store: impl RateLimitStore,
) {
    let most = Quota::per_hour(1).with_burst(100);
    let policy = Policy::new(name, Quota::per_hour(1))
        .with_override(most, |principal| principal.get::<Quota>().copied());
    let verifier = (90..=99).fold(FixedVerifier::new(), |verifier, burst| {
        let quota = Quota::per_hour(1).with_burst(burst);
        let ada = Principal::builder("https://issuer.example", "ada").value(quota).build();
        verifier.with(&format!("token-{burst}"), ada).unwrap()
    });
    let limit = RateLimitLayer::of(store, [policy]).with_partition_secret([7; 16]);
    let api = AuthenticateLayer::new(verifier).layer(limit.with_name(name).layer(Probe::default()));
    let mut passed = Vec::new();
    for burst in 90..=99 {
        let token = with_token(&format!("token-{burst}"));
        while send(&api, token.clone()).await.status == 200 {
            passed.push(burst);
        }
    }
    let of = |burst: u32| passed.iter().filter(|&&one| one == burst).count();
    assert_eq!((of(90), of(91), passed.len()), (90, 10, 100), "RL-42");
}

fn settle(store: &impl RateLimitStore, name: &str, units: i64) {
    let key = PartitionKey::new([name]);
    let settlement = Settlement::new(key, HOURLY, units, Duration::ZERO);
    store.settle(&settlement.with_owed(Duration::MAX));
}

/// Corrections reach a server a moment later, and so does what a cluster gives back of a request that
/// was refused.
async fn wait_for_units(store: &impl RateLimitStore, look: Take, expected: u32) {
    let mut left = u32::MAX;
    for _ in 0..1000 {
        left = ask(store, [look]).await.unwrap()[0].usage().remaining;
        if left == expected {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("RL-24: {left} units are left in place of {expected}");
}
