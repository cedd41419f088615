//! A cluster, whose nodes share the keys out.

use std::time::Duration;

use redis::cluster::ClusterClient;
use tower_gate::Quota;
use tower_gate::store::redis::RedisStore;

use crate::contract::shared_cluster;
use crate::servers::redis::RedisCluster;
use crate::{PATIENCE, ask, connect_to_cluster, in_short, take};

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
