//! A cluster, whose nodes share the keys out.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use redis::aio::{ConnectionLike, ConnectionManager};
use redis::cluster::ClusterClient;
use redis::{Arg, Cmd, Pipeline, RedisFuture, Value};
use tower_gate::store::memory::MemoryStore;
use tower_gate::store::redis::RedisStore;
use tower_gate::store::{FallbackStore, RateLimitStore, Take, TakeRequest};
use tower_gate::{Clock, PartitionKey, Quota, SystemClock};

use crate::contract::shared_cluster;
use crate::servers::redis::{Redis, RedisCluster};
use crate::{HOURLY, PATIENCE, ask, connect, connect_to_cluster, in_short, take};

#[tokio::test]
async fn a_global_quota_is_one_counter_beside_those_of_callers_on_other_nodes() {
    let store = RedisStore::new(connect_to_cluster(shared_cluster()).await).with_timeout(PATIENCE);
    let caller = Quota::per_hour(1).with_burst(10);
    let global = Quota::per_hour(1).with_burst(60);
    let takes =
        |number: u32| [take(&format!("caller {number}"), caller, 1), take("everybody", global, 1)];
    // Every node has some of the callers.
    for passed in 0..60 {
        let decisions = ask(&store, takes(passed % 30)).await.unwrap();
        assert_eq!(in_short(&decisions)[1], (true, true, 59 - passed), "RL-65: no CROSSSLOT");
    }
    for caller in 0..30 {
        // Not by what is known of the refusal before, which says nothing of other callers.
        let request = TakeRequest::together(takes(caller), SystemClock.monotonic());
        let decisions = store.take(&request).await.unwrap();
        assert_eq!(in_short(&decisions)[1], (false, true, 0), "caller {caller}");
        assert_eq!(in_short(&decisions)[0], (true, true, 8), "RL-24: caller {caller}");
    }
    for number in 0..30 {
        let look = take(&format!("caller {number}"), caller, 0);
        for _ in 0..1000 {
            if in_short(&ask(&store, [look]).await.unwrap()) == [(true, true, 8)] {
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let left = in_short(&ask(&store, [look]).await.unwrap());
        assert_eq!(left, [(true, true, 8)], "RL-24: what caller {number} took was given back");
    }
}

/// The layer gives all keys of a caller the low bits that the store shares keys out by.
#[tokio::test]
async fn the_quotas_of_one_partition_are_one_call_on_one_node() {
    let cluster = RedisCluster::start();
    let store = RedisStore::new(connect_to_cluster(&cluster).await).with_timeout(PATIENCE);
    let low = |key: PartitionKey| key.to_u128() & 0xffff;
    let first = PartitionKey::new(["0"]);
    let names = (1u32..).map(|number| PartitionKey::new([number.to_string()]));
    let together = names.filter(|&key| low(key) == low(first)).take(2);
    let keys: Vec<_> = [first].into_iter().chain(together).collect();
    let takes = || keys.iter().map(|&key| Take::new(key, HOURLY, 1));
    // Whoever takes from two nodes finds out that it is a cluster.
    let elsewhere = [take("one", HOURLY, 1), take("other", HOURLY, 1), take("third", HOURLY, 1)];
    assert!(ask(&store, elsewhere).await.unwrap().are_allowed());
    assert!(ask(&store, takes()).await.unwrap().are_allowed());
    cluster.nodes().iter().for_each(|node| drop(node.command(&["CONFIG", "RESETSTAT"])));
    for left in (0..4).rev() {
        let decisions = ask(&store, takes()).await.unwrap();
        assert_eq!(in_short(&decisions), [(true, true, left); 3]);
    }
    let calls: Vec<_> = cluster.nodes().iter().map(|node| node.calls("evalsha")).collect();
    assert_eq!((calls.iter().sum::<u64>(), calls.iter().max()), (4, Some(&4)), "RL-60: {calls:?}");
}

/// Each node had the whole time for itself.
#[tokio::test]
async fn all_nodes_together_have_the_time_of_one() {
    let cluster = RedisCluster::start();
    let patient = RedisStore::new(connect_to_cluster(&cluster).await).with_timeout(PATIENCE);
    let mut masters: Vec<(String, &Redis)> = Vec::new();
    for name in (0..).map(|number: u32| number.to_string()) {
        let keys = || cluster.nodes().iter().flat_map(Redis::keys).collect::<HashSet<_>>();
        let before = keys();
        assert!(ask(&patient, [take(&name, HOURLY, 1)]).await.unwrap().are_allowed());
        let key = keys().difference(&before).next().unwrap().clone();
        let master = cluster.master_of(&key);
        if masters.iter().all(|(_, other)| other.port() != master.port()) {
            masters.push((name, master));
        }
        if masters.len() == 2 {
            break;
        }
    }
    let takes = || masters.iter().map(|(name, _)| take(name, HOURLY, 1));
    // It finds out that it is a cluster.
    assert!(ask(&patient, takes()).await.unwrap().are_allowed());
    let timeout = Duration::from_millis(600);
    let store = patient.with_timeout(timeout);
    masters.iter().for_each(|(_, master)| master.pause());
    let start = Instant::now();
    // The first answers late, and the second not at all.
    let late = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        masters[0].1.resume();
    };
    let (answer, ()) = tokio::join!(ask(&store, takes()), late);
    let took = start.elapsed();
    masters[1].1.resume();
    assert!(answer.is_err() && took >= timeout, "RL-70: {took:?}");
    assert!(took < Duration::from_millis(1050), "RL-70: {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_gives_a_key_its_burst_again_at_most() {
    let cluster = RedisCluster::start();
    let client = ClusterClient::builder(cluster.urls()).retries(2).build().unwrap();
    let connection = client.get_async_connection().await.unwrap();
    let store = RedisStore::new(connection).with_timeout(PATIENCE);
    let hasty = store.clone().with_timeout(Duration::from_millis(200));
    let quota = Quota::per_hour(1).with_burst(20);
    let admitted = || async {
        let mut admitted = 0;
        for _ in 0..25 {
            if ask(&store, [take("caller", quota, 1)]).await.unwrap().are_allowed() {
                admitted += 1;
            }
        }
        admitted
    };
    assert_eq!(admitted().await, 20);
    let keys = cluster.nodes().iter().map(|node| node.keys()).find(|keys| !keys.is_empty());
    let key = keys.unwrap().remove(0);
    cluster.fail_over(&key);
    // The client has to learn of the new master.
    for _ in 0..200 {
        if ask(&hasty, [take("caller", quota, 0)]).await.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let again = admitted().await;
    assert!(again <= 20, "RL-67: {again}");
    let look = ask(&store, [take("caller", quota, 1)]).await.unwrap();
    assert_eq!(in_short(&look), [(false, true, 0)], "RL-67: and then it holds");
}

/// What became of a request: whether the other store has decided, and how long that took.
type Fallback = (bool, Duration);

/// Asks again and again for so long, but once at least; for all callers at the same time.
async fn load<S>(store: &S, callers: &[Take], length: Duration) -> Vec<Vec<Fallback>>
where
    S: RateLimitStore + Clone,
{
    let tasks = callers.iter().map(|&caller| {
        let store = store.clone();
        tokio::spawn(async move {
            let (start, mut answers) = (Instant::now(), Vec::new());
            while answers.is_empty() || start.elapsed() < length {
                let asked = Instant::now();
                let decisions = ask(&store, [caller]).await.unwrap();
                answers.push((decisions.are_fallback(), asked.elapsed()));
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            answers
        })
    });
    let mut answers = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        answers.push(task.await.unwrap());
    }
    answers
}

/// A client of a cluster whose nodes keep their slots: it sends each call to one, and looks for no
/// other. That of the crate `redis` may fall silent for good when it loses a master under load.
#[derive(Clone)]
struct Fixed(Vec<ConnectionManager>);

impl Fixed {
    async fn connect(cluster: &RedisCluster) -> Self {
        let mut masters = Vec::new();
        for master in &cluster.nodes()[..3] {
            masters.push(connect(master).await);
        }
        Self(masters)
    }
}

impl ConnectionLike for Fixed {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        // After the script and how many keys there are.
        let Some(Arg::Simple(key)) = command.args_iter().nth(3) else { panic!("{command:?}") };
        let tag = key.split(|byte| b"{}".contains(byte)).nth(1).unwrap();
        let slot = crc16(tag) % 16_384;
        let master = [5461, 10_923].iter().filter(|&&first| slot >= first).count();
        self.0[master].req_packed_command(command)
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        _: &'a Pipeline,
        _: usize,
        _: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        panic!("every decision is one command")
    }

    fn get_db(&self) -> i64 {
        0
    }
}

/// XMODEM, a bit at a time.
fn crc16(bytes: &[u8]) -> u16 {
    let bits = bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1 == 1));
    bits.fold(0, |crc: u16, bit| {
        let shifted = crc << 1;
        if (crc >> 15 == 1) == bit { shifted } else { shifted ^ 0x1021 }
    })
}

/// Nobody stands in for it, and the nodes that are left are asked as before, where the cluster lets
/// them answer: without `cluster-require-full-coverage no`, none of them does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_is_gone_with_its_replica_costs_the_callers_of_others_nothing() {
    const TIMEOUT: Duration = Duration::from_secs(1);
    const GONE: Duration = Duration::from_secs(8);
    let cluster = RedisCluster::start_with(&["--cluster-require-full-coverage", "no"]);
    let redis = RedisStore::new(Fixed::connect(&cluster).await).with_timeout(TIMEOUT);
    let store = FallbackStore::new(redis, MemoryStore::new());
    let wide = Quota::per_hour(1).with_burst(100_000);
    let callers: Vec<_> = (0..60).map(|caller: u32| take(&caller.to_string(), wide, 1)).collect();
    let before = load(&store, &callers, Duration::ZERO).await;
    assert!(before.iter().flatten().all(|&(is_fallback, _)| !is_fallback));
    let name = |caller: &Take| {
        let key = caller.key.to_u128();
        format!("tower-gate:1:{{{:04x}}}:{key:032x}", key & 0xffff)
    };
    let master = cluster.master_of(&name(&callers[0]));
    let keys = master.keys();
    let (lost, kept): (Vec<_>, Vec<_>) =
        callers.into_iter().partition(|caller| keys.contains(&name(caller)));
    assert!(lost.len() > 5 && kept.len() > 20, "{} and {}", lost.len(), kept.len());

    let replica = cluster.replica_of(master);
    replica.kill();
    master.kill();
    let (of_lost, of_kept) = tokio::join!(load(&store, &lost, GONE), load(&store, &kept, GONE));
    for answers in of_kept {
        assert!(answers.len() > 50, "RL-70: {answers:?}");
        let is_decided_in_time = |&(is_fallback, took): &Fallback| !is_fallback && took < TIMEOUT;
        assert!(answers.iter().all(is_decided_in_time), "RL-70: {answers:?}");
    }
    for answers in of_lost {
        assert!(answers.len() > 50, "RL-70: {answers:?}");
        assert!(answers.iter().all(|&(is_fallback, _)| is_fallback), "RL-70");
        let longest = answers.iter().map(|&(_, took)| took).max().unwrap();
        assert!(longest < TIMEOUT * 3, "RL-70: {longest:?}");
        // Three until it is known, and then, after longer and longer pauses, who asks for all.
        let slow = answers.iter().filter(|&&(_, took)| took > TIMEOUT / 2).count();
        assert!(slow < 10, "RL-70: {slow}");
    }

    master.restart();
    replica.restart();
    let back = Instant::now();
    while store.is_out() {
        assert!(back.elapsed() < Duration::from_secs(30), "RL-70: it does not recover");
        load(&store, &lost, Duration::ZERO).await;
    }
    let after = load(&store, &lost, Duration::ZERO).await;
    assert!(after.iter().flatten().all(|&(is_fallback, _)| !is_fallback), "RL-70");
}
