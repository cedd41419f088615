//! Four processes that fall back to their memory, and many callers: what happens to those when the
//! server, or a node of a cluster, is gone.
#![expect(clippy::print_stdout, reason = "the processes say what came of it")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::ops::RangeInclusive;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, io, thread};

use http::StatusCode;
use redis::cluster::ClusterClient;
use tower_gate::store::memory::MemoryStore;
use tower_gate::store::redis::RedisStore;
use tower_gate::store::{FallbackStore, RateLimitStore};

use crate::connect_to;
use crate::outage::{BURST, QUOTA, Service, TIMEOUT, from, service};
use crate::servers::redis::{Redis, RedisCluster};
use crate::support::send;

const PROCESSES: u32 = 4;

/// What a machine adds to a wait that runs all of these at once.
const SLACK: Duration = Duration::from_secs(2);

const URLS: &str = "TOWER_GATE_TEST_FLEET";

/// What each of the processes runs: it is told a line at a time what to do, and says what came of it.
#[test]
#[ignore = "the other tests of this file start it"]
fn node() {
    let urls = env::var(URLS).unwrap();
    let urls: Vec<_> = urls.split(' ').map(str::to_owned).collect();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(2).enable_all().build().unwrap().block_on(async {
        if let [url] = &*urls {
            obey(RedisStore::new(connect_to(url).await)).await;
        } else {
            let client = ClusterClient::builder(urls).retries(2).build().unwrap();
            obey(RedisStore::new(client.get_async_connection().await.unwrap())).await;
        }
    });
}

async fn obey(store: impl RateLimitStore) {
    let store = FallbackStore::new(store, MemoryStore::new());
    let (service, _) = service(store.clone(), QUOTA);
    for line in io::stdin().lines() {
        let line = line.unwrap();
        let mut words = line.split(' ').map(|word| word.parse::<u32>().unwrap());
        let mut next = || words.next().unwrap();
        let (requests, first, last) = (next(), u8::try_from(next()).unwrap(), next());
        let hosts = first..=u8::try_from(last).unwrap();
        if requests > 0 {
            let before = store.fallbacks();
            load(&service, hosts, requests).await;
            println!("fallbacks {}", store.fallbacks() - before);
        } else {
            let start = Instant::now();
            while store.is_out() {
                assert!(start.elapsed() < Duration::from_secs(30), "RL-70: it does not recover");
                load(&service, hosts.clone(), 1).await;
            }
        }
        println!("done");
    }
}

/// So many requests of each caller, all callers at once; says how often each was let in, and how long
/// the longest has waited.
async fn load(service: &Service, hosts: RangeInclusive<u8>, requests: u32) {
    let callers: Vec<_> = hosts
        .map(|host| {
            let service = service.clone();
            tokio::spawn(async move {
                let (mut admitted, mut longest) = (0, Duration::ZERO);
                for _ in 0..requests {
                    let start = Instant::now();
                    let status = send(&service, from(host)).await.status;
                    assert!(!status.is_server_error(), "RL-70: {status}");
                    longest = longest.max(start.elapsed());
                    admitted += u32::from(status == StatusCode::OK);
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                println!("admitted {host} {admitted} {}", longest.as_millis());
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
}

struct Fleet(Vec<(Child, ChildStdin, BufReader<ChildStdout>)>);

/// What all processes together have let in of each caller, and decided by themselves.
#[derive(Default)]
struct Totals {
    admitted: BTreeMap<u8, u32>,
    fallbacks: u64,
}

impl Fleet {
    fn start(urls: &[String]) -> Self {
        let start = |_| {
            let arguments = ["fleet::node", "--exact", "--ignored", "--nocapture"];
            let mut command = Command::new(env::current_exe().unwrap());
            command.args(arguments).env(URLS, urls.join(" "));
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
            (child, input, BufReader::new(output))
        };
        let mut fleet = Self((0..PROCESSES).map(start).collect());
        // All of them are connected.
        fleet.run(1, 250..=250, || ());
        fleet
    }

    /// Sends so many requests of each caller from each process, while this happens.
    fn run(&mut self, requests: u32, hosts: RangeInclusive<u8>, happens: impl FnOnce()) -> Totals {
        for (_, input, _) in &mut self.0 {
            writeln!(input, "{requests} {} {}", hosts.start(), hosts.end()).unwrap();
        }
        happens();
        let mut totals = Totals::default();
        for (_, _, output) in &mut self.0 {
            for line in output.lines() {
                let line = line.unwrap();
                let words: Vec<_> = line.split(' ').collect();
                match &*words {
                    ["done"] => break,
                    ["fallbacks", count] => totals.fallbacks += count.parse::<u64>().unwrap(),
                    [.., "admitted", host, admitted, longest] => {
                        let longest = Duration::from_millis(longest.parse().unwrap());
                        assert!(longest < TIMEOUT + SLACK, "RL-70: {longest:?}");
                        let host = host.parse().unwrap();
                        *totals.admitted.entry(host).or_default() +=
                            admitted.parse::<u32>().unwrap();
                    }
                    _ => {}
                }
            }
        }
        totals
    }

    /// Until every process asks the server again, for these callers.
    fn recover(&mut self, hosts: RangeInclusive<u8>) {
        self.run(0, hosts, || ());
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for (mut child, input, _) in self.0.drain(..) {
            drop(input);
            let ended = child.wait().unwrap();
            assert!(ended.success() || thread::panicking(), "a process has failed");
        }
    }
}

#[test]
fn a_server_that_is_killed_under_load_costs_a_quota_for_each_process_and_nobody_an_answer() {
    let redis = Redis::start();
    let mut fleet = Fleet::start(&[redis.url()]);
    let exact = fleet.run(100, 1..=8, || ());
    assert!(exact.admitted.values().all(|&admitted| admitted == BURST), "{:?}", exact.admitted);
    assert_eq!((exact.admitted.len(), exact.fallbacks), (8, 0));

    // What the server has said of whoever is limited is known for a second.
    let killed = fleet.run(1500, 11..=26, || {
        thread::sleep(Duration::from_millis(100));
        redis.kill();
    });
    assert!(killed.fallbacks > 0);
    for (host, admitted) in killed.admitted {
        // By the server, and by the memory of each.
        assert!(
            (BURST..=(1 + PROCESSES) * BURST).contains(&admitted),
            "attack 44: {host} {admitted}"
        );
    }
    let alone = fleet.run(100, 31..=46, || ());
    let each_its_own = alone.admitted.values().all(|&admitted| admitted == PROCESSES * BURST);
    assert!(each_its_own && alone.admitted.len() == 16, "attack 44: {:?}", alone.admitted);

    let back = fleet.run(1500, 51..=66, || {
        thread::sleep(Duration::from_millis(100));
        redis.restart();
    });
    for (host, admitted) in back.admitted {
        assert!(
            (BURST..=(1 + PROCESSES) * BURST).contains(&admitted),
            "attack 44: {host} {admitted}"
        );
    }
    fleet.recover(51..=66);
    let exact = fleet.run(100, 71..=86, || ());
    assert!(exact.admitted.values().all(|&admitted| admitted == BURST), "{:?}", exact.admitted);
    assert_eq!((exact.admitted.len(), exact.fallbacks), (16, 0), "exact again");
}

#[test]
fn a_master_that_is_killed_under_load_costs_its_callers_a_quota_for_each_process_and_no_answer() {
    let cluster = RedisCluster::start();
    let mut fleet = Fleet::start(&cluster.urls());
    let exact = fleet.run(100, 1..=24, || ());
    assert!(exact.admitted.values().all(|&admitted| admitted == BURST), "{:?}", exact.admitted);
    let of_a_master = cluster.nodes().iter().map(Redis::keys).find(|keys| !keys.is_empty());
    let key = of_a_master.unwrap().remove(0);

    let killed = fleet.run(1000, 31..=54, || {
        thread::sleep(Duration::from_millis(200));
        cluster.fail_over(&key);
    });
    for (host, admitted) in killed.admitted {
        // By the master, by the memory of each, and by a replica that may have missed what was last.
        assert!((BURST..=(2 + PROCESSES) * BURST).contains(&admitted), "RL-67: {host} {admitted}");
    }
    fleet.recover(31..=54);
    let exact = fleet.run(100, 61..=84, || ());
    assert!(exact.admitted.values().all(|&admitted| admitted == BURST), "{:?}", exact.admitted);
    assert_eq!((exact.admitted.len(), exact.fallbacks), (24, 0), "exact again");
}
