//! Four processes as four nodes of one API: what they let in together while what they share hangs,
//! dies and comes back, for one caller whom all of them see all the time and for many others.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{env, thread};

use http::{Request, StatusCode};
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::cluster::ClusterClient;
use tower::ServiceBuilder;
use tower_gate::store::memory::MemoryStore;
use tower_gate::store::redis::RedisStore;
use tower_gate::store::{FallbackStore, RateLimitStore};
use tower_gate::{AuditEvent, AuditLayer, PeerAddr, Quota, RateLimitLayer};

use crate::lateness::{Lateness, assert_in_time};
use crate::outage::service;
use crate::servers::redis::{Redis, RedisCluster};
use crate::support::{Probe, TestBody, anonymous, send};
use crate::{PATIENCE, connect_to_cluster};

const NODES: usize = 4;
const BURST: u64 = 20;
const QUOTA: Quota = Quota::per_second(20).with_burst(20);

/// So slow that a burst does not come back while a cluster elects a master.
const SLOW: Quota = Quota::per_second(2).with_burst(20);

/// The caller whom half of all requests are from, and how many others there are.
const HOT: u8 = 1;
const OTHERS: u8 = 40;

/// How long a store waits for its server.
const TIMEOUT: Duration = Duration::from_millis(100);

/// For how long the server hangs: longer than any request may wait.
const HANGS: Duration = Duration::from_millis(2500);

/// For how long a node needs no server to know that a caller is limited, and a little more.
const KNOWN: Duration = Duration::from_millis(1200);

const SERVERS: &str = "TOWER_GATE_TEST_SERVERS";

/// An answer of a node. It was decided on between `sent` and `answered`, since 1970.
#[derive(Clone, Copy, Debug)]
struct Answer {
    caller: u8,
    status: u16,
    is_fallback: bool,
    sent: Duration,
    answered: Duration,
}

impl Answer {
    fn is_admitted(&self) -> bool {
        self.status == StatusCode::OK
    }

    fn is_error(&self) -> bool {
        self.status >= 500
    }

    fn of(event: &AuditEvent) -> String {
        let caller = event.address.unwrap().to_string();
        let caller = caller.rsplit_once('.').unwrap().1;
        let status = event.status.unwrap().as_u16();
        let sent = event.time.duration_since(UNIX_EPOCH).unwrap();
        let times = [sent, sent + event.latency].map(|time| time.as_micros());
        format!("answer {caller} {status} {} {} {}", event.fallback, times[0], times[1])
    }

    fn parse(line: &str) -> Option<Self> {
        let words: Vec<_> = line.split_once("answer ")?.1.split(' ').collect();
        let [caller, status, is_fallback, sent, answered] = words[..] else { return None };
        let time = |micros: &str| micros.parse().map(Duration::from_micros).ok();
        Some(Self {
            caller: caller.parse().ok()?,
            status: status.parse().ok()?,
            is_fallback: is_fallback.parse().ok()?,
            sent: time(sent)?,
            answered: time(answered)?,
        })
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

fn from(caller: u8) -> Request<TestBody> {
    let mut request = anonymous();
    let address = SocketAddr::new(Ipv4Addr::new(203, 0, 113, caller).into(), 4711);
    request.extensions_mut().insert(PeerAddr(address));
    request
}

// ---- a node ----

/// What each of the processes runs, until its input ends.
#[test]
#[ignore = "the other tests of this file start it"]
fn node() {
    let servers = env::var(SERVERS).unwrap();
    let servers: Vec<_> = servers.split(' ').map(str::to_owned).collect();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(2).enable_all().build().unwrap().block_on(async {
        if let [server] = &*servers {
            let client = redis::Client::open(server.as_str()).unwrap();
            // The store's own timeout is what bounds a wait.
            let config = ConnectionManagerConfig::new()
                .set_response_timeout(None)
                .set_min_delay(Duration::from_millis(5))
                .set_max_delay(Duration::from_millis(50));
            let connection = ConnectionManager::new_with_config(client, config).await.unwrap();
            let store = FallbackStore::new(RedisStore::new(connection), MemoryStore::new());
            serve(store, QUOTA).await;
        } else {
            let client = ClusterClient::builder(servers).retries(2).build().unwrap();
            let connection = client.get_async_connection().await.unwrap();
            serve(RedisStore::new(connection).with_timeout(2 * TIMEOUT), SLOW).await;
        }
    });
}

#[expect(clippy::print_stdout, reason = "the test that has started it reads it")]
async fn serve(store: impl RateLimitStore, quota: Quota) {
    let is_over = Arc::new(AtomicBool::new(false));
    let over = is_over.clone();
    thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        over.store(true, Ordering::Relaxed);
    });
    let service = ServiceBuilder::new()
        .layer(AuditLayer::new(|event: AuditEvent| println!("{}", Answer::of(&event))))
        .layer(RateLimitLayer::by_address(store, quota).with_partition_secret([7; 16]))
        .service(Probe::default());
    let lateness = Lateness::start();
    let tasks = (0..8u8).map(|task| {
        let (service, is_over) = (service.clone(), is_over.clone());
        tokio::spawn(async move {
            let mut turn = task;
            while !is_over.load(Ordering::Relaxed) {
                turn = (turn + 1) % OTHERS;
                let caller = if task % 2 == 0 { HOT } else { HOT + 1 + turn };
                send(&service, from(caller)).await;
                tokio::time::sleep(Duration::from_millis(4)).await;
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    println!("late {}", lateness.worst().as_micros());
}

struct Node {
    process: Child,
    answers: Arc<Mutex<Vec<Answer>>>,
    /// Answers how late its machine was.
    reader: thread::JoinHandle<Duration>,
}

impl Node {
    fn start(servers: &str) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["nodes::node", "--exact", "--ignored", "--nocapture"]).env(SERVERS, servers);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let answers = Arc::<Mutex<Vec<_>>>::default();
        let seen = answers.clone();
        let reader = thread::spawn(move || {
            let mut late = Duration::ZERO;
            for line in output.lines() {
                let line = line.unwrap();
                seen.lock().unwrap().extend(Answer::parse(&line));
                if let Some((_, micros)) = line.split_once("late ") {
                    late = Duration::from_micros(micros.parse().unwrap());
                }
            }
            late
        });
        Self { process, answers, reader }
    }

    /// Its answers, none of which has taken longer than this.
    fn stop(mut self, timeout: Duration) -> Vec<Answer> {
        drop(self.process.stdin.take());
        let late = self.reader.join().unwrap();
        assert!(self.process.wait().unwrap().success());
        let answers = std::mem::take(&mut *self.answers.lock().unwrap());
        let longest = answers.iter().map(|answer| answer.answered - answer.sent).max().unwrap();
        assert_in_time(longest, timeout, late);
        answers
    }
}

/// Waits until each node has given so many answers of a kind.
fn wait_until_each(nodes: &[Node], count: usize, what: &str, is_one: impl Fn(&Answer) -> bool) {
    let start = Instant::now();
    let has_given = |node: &Node| {
        node.answers.lock().unwrap().iter().filter(|&answer| is_one(answer)).count() >= count
    };
    while !nodes.iter().all(has_given) {
        assert!(start.elapsed() < Duration::from_secs(60), "a node has not given {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

// ---- what they let in ----

/// The admissions of each caller among these answers.
fn by_caller<'a>(
    answers: impl IntoIterator<Item = &'a Answer>,
) -> impl Iterator<Item = (u8, Vec<Answer>)> {
    let mut callers = BTreeMap::<u8, Vec<Answer>>::new();
    for answer in answers.into_iter().filter(|answer| answer.is_admitted()) {
        callers.entry(answer.caller).or_default().push(*answer);
    }
    callers.into_iter()
}

/// By how many requests the worst window of one caller exceeds what its length gives back: a burst
/// at most, where one bucket decides on all of them.
fn most_at_once(mut admissions: Vec<Answer>, quota: Quota) -> u64 {
    admissions.sort_by_key(|admission| admission.answered);
    let mut most = 0;
    for first in &admissions {
        let mut within = 0u64;
        // Windows from the moment in which one was sent to that in which one was answered.
        for last in admissions.iter().filter(|one| one.sent >= first.sent) {
            within += 1;
            let window = last.answered - first.sent;
            let back = u64::try_from(window.as_micros() / quota.interval().as_micros()).unwrap();
            most = most.max(within.saturating_sub(back));
        }
    }
    most
}

/// The worst of all callers.
fn worst<'a>(answers: impl IntoIterator<Item = &'a Answer>, quota: Quota) -> u64 {
    by_caller(answers).map(|(_, admissions)| most_at_once(admissions, quota)).max().unwrap_or(0)
}

/// How much of what it may have the hot caller has got, where it asks for more.
fn used_by_hot<'a>(answers: impl IntoIterator<Item = &'a Answer>) -> f64 {
    let hot: Vec<_> = answers.into_iter().filter(|answer| answer.caller == HOT).collect();
    let start = hot.iter().map(|answer| answer.sent).min().unwrap();
    let end = hot.iter().map(|answer| answer.answered).max().unwrap();
    let admitted = hot.iter().filter(|answer| answer.is_admitted()).count();
    f64::from(u32::try_from(admitted).unwrap()) * QUOTA.interval().as_secs_f64()
        / (end - start).as_secs_f64()
}

#[test]
fn nodes_whose_redis_hangs_and_dies_limit_by_themselves_and_together_again_when_it_is_back() {
    let redis = Redis::start();
    let nodes: Vec<_> = (0..NODES).map(|_| Node::start(&redis.url())).collect();
    wait_until_each(&nodes, 300, "answers of Redis", |answer| !answer.is_fallback);
    redis.pause();
    let hangs = Instant::now();
    wait_until_each(&nodes, 300, "answers without Redis", |answer| answer.is_fallback);
    thread::sleep(HANGS.saturating_sub(hangs.elapsed()));
    redis.kill();
    let killed = now();
    thread::sleep(Duration::from_millis(500));
    redis.restart();
    wait_until_each(&nodes, 1, "an answer of the new Redis", |answer| {
        !answer.is_fallback && answer.sent > killed && answer.is_admitted()
    });
    thread::sleep(Duration::from_secs(2));
    let nodes: Vec<_> = nodes.into_iter().map(|node| node.stop(TIMEOUT)).collect();

    let all = || nodes.iter().flatten();
    let errors = all().filter(|answer| answer.is_error()).count();
    let alone = |node: &Vec<Answer>| worst(node.iter().filter(|answer| answer.is_fallback), QUOTA);
    let alone: Vec<_> = nodes.iter().map(alone).collect();
    // What was sent before it died was decided on before: no request waits for as long as that.
    let shared = |is_after| {
        all().filter(move |answer| !answer.is_fallback && (answer.sent > killed) == is_after)
    };
    let (before, after) = (worst(shared(false), QUOTA), worst(shared(true), QUOTA));
    let fallen_back = all().filter(|answer| answer.is_fallback);
    let recovered = fallen_back.map(|answer| answer.answered).max().unwrap();
    let used = used_by_hot(all().filter(|answer| answer.sent > recovered));
    let exact = worst(all().filter(|answer| answer.sent > recovered), QUOTA);
    println!(
        "{} answers, {errors} errors; at once at most {before} before, \
         {alone:?} by each node alone, {after} after, {exact} once all are back, where the hot \
         caller used {used:.2} of its rate",
        all().count(),
    );
    assert_eq!(errors, 0, "RL-70: no answer is lost with the server");
    assert!(before <= BURST, "RL-42: one bucket before, not {before}");
    assert!(after <= BURST, "RL-42: one bucket after, not {after}");
    assert!(exact <= BURST, "RL-42: exact again, not {exact}");
    for alone in alone {
        assert!(alone <= BURST, "RL-70: a node by itself gives the quota, not {alone}");
        assert!(alone > BURST / 2, "RL-70: a node by itself lets callers in: {alone}");
    }
    assert!(used > 0.5, "the limit of the hot caller was not met: {used}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_under_the_load_of_nodes_gives_a_burst_again_at_most() {
    let cluster = RedisCluster::start();
    let key = {
        let connection = connect_to_cluster(&cluster).await;
        let (service, _) = service(RedisStore::new(connection).with_timeout(PATIENCE), SLOW);
        for _ in 0..4 {
            send(&service, from(HOT)).await;
        }
        cluster.nodes().iter().find_map(|node| node.keys().pop()).unwrap()
    };
    let servers = cluster.urls().join(" ");
    let nodes: Vec<_> = (0..NODES).map(|_| Node::start(&servers)).collect();
    wait_until_each(&nodes, 300, "answers of the cluster", |answer| !answer.is_error());
    cluster.master_of(&key).kill();
    let killed = now();
    wait_until_each(&nodes, 20, "answers of the new master", |answer| {
        answer.caller == HOT && !answer.is_error() && answer.sent > killed + KNOWN
    });
    thread::sleep(Duration::from_secs(2));
    let nodes: Vec<_> = nodes.into_iter().map(|node| node.stop(2 * TIMEOUT)).collect();

    let all = || nodes.iter().flatten();
    let errors = all().filter(|answer| answer.is_error()).count();
    let decided = |is_after| all().filter(move |answer| (answer.sent > killed) == is_after);
    let (before, after) = (worst(decided(false), SLOW), worst(decided(true), SLOW));
    let across = worst(all(), SLOW);
    let back = decided(true).filter(|answer| answer.caller == HOT && answer.is_admitted());
    let silent = back.map(|answer| answer.answered).min().unwrap() - killed;
    println!(
        "{} answers, {errors} errors, {silent:?} until the hot caller was \
         let in again; at once at most {before} before, {after} after, {across} across the failover",
        all().count(),
    );
    assert!(all().all(|answer| !answer.is_fallback));
    assert!(before <= BURST, "RL-42: {before} before");
    assert!(after <= BURST, "RL-42, RL-67: {after} by the new master");
    assert!(across <= 2 * BURST, "RL-67: {across}: what a replica had not seen is a burst at most");
    assert!(before > BURST / 2, "the hot caller had used most of its burst: {before}");
    assert!(after > 0, "nobody was let in by the new master");
}
