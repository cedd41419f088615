//! A cluster, whose nodes share the keys out.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use redis::cluster::ClusterClient;
use tower_gate::store::Take;
use tower_gate::store::redis::RedisStore;
use tower_gate::{PartitionKey, Quota};

use crate::contract::shared_cluster;
use crate::servers::redis::{Redis, RedisCluster};
use crate::{HOURLY, PATIENCE, ask, connect_to_cluster, in_short, take};

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
        let decisions = ask(&store, takes(caller)).await.unwrap();
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
    let store = RedisStore::new(connection).with_timeout(Duration::from_millis(200));
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
        if ask(&store, [take("caller", quota, 0)]).await.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let again = admitted().await;
    assert!(again <= 20, "RL-67: {again}");
    let look = ask(&store, [take("caller", quota, 1)]).await.unwrap();
    assert_eq!(in_short(&look), [(false, true, 0)], "RL-67: and then it holds");
}
