//! Four processes, one Redis, one caller: whatever happens to the server, no window has more
//! admissions than the quota gives.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{env, thread};

use http::StatusCode;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use tower_gate::Quota;
use tower_gate::store::redis::RedisStore;

use crate::outage::{from, service};
use crate::servers::redis::Redis;
use crate::support::send;

const PROCESSES: u64 = 4;
const TASKS: u64 = 8;
const REQUESTS_EACH: u64 = 1250;
const BURST: u32 = 200;

/// A unit a millisecond.
const QUOTA: Quota = Quota::per_second(1000).with_burst(BURST);
const INTERVAL_MICROS: u64 = 1000;

const URL: &str = "TOWER_GATE_TEST_REDIS";

/// When an admitted request was sent and when it was answered, in microseconds since 1970. It was
/// decided on between the two.
#[derive(Clone, Copy, Debug)]
struct Admission {
    sent: u64,
    answered: u64,
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros().try_into().unwrap()
}

/// What each of the processes runs.
#[test]
#[ignore = "the other tests of this file start it"]
fn taker() {
    let url = env::var(URL).unwrap();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(2).enable_all().build().unwrap().block_on(async {
        let client = redis::Client::open(url).unwrap();
        let config = ConnectionManagerConfig::new()
            .set_min_delay(Duration::from_millis(5))
            .set_max_delay(Duration::from_millis(50));
        let connection = ConnectionManager::new_with_config(client, config).await.unwrap();
        let (service, _) = service(RedisStore::new(connection), QUOTA);
        let mut tasks = Vec::new();
        for _ in 0..TASKS {
            let service = service.clone();
            tasks.push(tokio::spawn(async move {
                for _ in 0..REQUESTS_EACH {
                    let sent = now();
                    if send(&service, from(1)).await.status == StatusCode::OK {
                        println!("admitted {sent} {}", now());
                    } else {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
    });
}

fn start(redis: &Redis) -> Child {
    let arguments = ["processes::taker", "--exact", "--ignored", "--nocapture"];
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(arguments).env(URL, redis.url());
    command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

/// All admissions, while this happens to the server, in the order of their answers.
fn admissions(redis: &Redis, happens: impl FnOnce()) -> Vec<Admission> {
    let processes: Vec<_> = (0..PROCESSES).map(|_| start(redis)).collect();
    let readers: Vec<_> = processes
        .into_iter()
        .map(|process| thread::spawn(|| process.wait_with_output().unwrap()))
        .collect();
    happens();
    let mut admissions = Vec::new();
    for reader in readers {
        let output = reader.join().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        let times = text.lines().filter_map(|line| line.split_once("admitted ")?.1.split_once(' '));
        admissions.extend(times.map(|(sent, answered)| Admission {
            sent: sent.parse().unwrap(),
            answered: answered.parse().unwrap(),
        }));
    }
    admissions.sort_by_key(|admission| admission.answered);
    admissions
}

/// In no window are more requests both sent and answered than it has room for, where a server that
/// forgets gives the burst again.
fn assert_within(admissions: &[Admission], bursts: u64) {
    let total = admissions.len() as u64;
    assert!(total > u64::from(BURST) + 200, "only {total} were admitted: too few to say anything");
    for first in admissions {
        let mut within = 0;
        // Windows from the moment in which one was sent to that in which one was answered.
        for last in admissions.iter().filter(|one| one.sent >= first.sent) {
            within += 1;
            let window = last.answered - first.sent;
            let most = bursts * u64::from(BURST) + window / INTERVAL_MICROS;
            assert!(within <= most, "RL-42, attack 41: {within} in {window} µs, at most {most}");
        }
    }
}

#[test]
fn no_window_has_more_than_the_quota() {
    let redis = Redis::start();
    assert_within(&admissions(&redis, || ()), 1);
}

#[test]
fn a_server_that_forgets_its_scripts_forgets_no_units() {
    let redis = Redis::start();
    let flush = || {
        for _ in 0..30 {
            redis.command(&["SCRIPT", "FLUSH"]);
            thread::sleep(Duration::from_millis(50));
        }
    };
    assert_within(&admissions(&redis, flush), 1);
}

#[test]
fn a_server_that_stops_and_goes_on_forgets_no_units() {
    let redis = Redis::start();
    let pause = || {
        for _ in 0..4 {
            thread::sleep(Duration::from_millis(300));
            redis.pause();
            thread::sleep(Duration::from_millis(250));
            redis.resume();
        }
    };
    assert_within(&admissions(&redis, pause), 1);
}

#[test]
fn a_server_that_starts_anew_gives_one_burst_again() {
    let redis = Redis::start();
    let restart = || {
        thread::sleep(Duration::from_millis(600));
        redis.kill();
        thread::sleep(Duration::from_millis(100));
        redis.restart();
    };
    assert_within(&admissions(&redis, restart), 2);
}
