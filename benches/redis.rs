//! What a decision in Redis costs beside a bare GET over the same connection.
//!
//! ```text
//! cargo bench --all-features --bench redis            # the table
//! cargo bench --all-features --bench redis -- --test  # everything once
//! ```
//!
//! It starts a server of its own. Questions take turns, so that a machine that is slow for a while
//! is slow for all of them.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a bench prints, and stops")]

#[path = "../tests/servers/mod.rs"]
mod servers;

use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use tower_gate::store::redis::RedisStore;
use tower_gate::store::{RateLimitStore, Take, TakeRequest};
use tower_gate::{PartitionKey, Quota};

use crate::servers::redis::Redis;

/// Nobody is limited.
const QUOTA: Quota = Quota::per_second(1_000_000);

const NAMES: [&str; 4] = ["GET", "decision, 1 quota", "decision, 2 quotas", "decision, 4 quotas"];

struct Server {
    connection: MultiplexedConnection,
    store: RedisStore<MultiplexedConnection>,
}

impl Server {
    /// The question of this place in [`NAMES`].
    async fn ask(&self, question: usize) {
        let quotas = match question {
            0 => return self.get().await,
            1 => 1,
            2 => 2,
            _ => 4u32,
        };
        let take = |number: u32| Take::new(PartitionKey::new([number.to_le_bytes()]), QUOTA, 1);
        let request = TakeRequest::together((0..quotas).map(take), Duration::ZERO);
        assert!(self.store.take(&request).await.unwrap().are_allowed());
    }

    async fn get(&self) {
        let mut connection = self.connection.clone();
        let mut get = redis::cmd("GET");
        let name = "tower-gate:1:{0123}:0123456789abcdef0123456789abcdef";
        let value: Option<u64> = get.arg(name).query_async(&mut connection).await.unwrap();
        assert_eq!(value, Some(1_764_033_421_987_653));
    }

    /// Microseconds for each of so many questions, with so many of them under way at once.
    async fn time(&self, question: usize, rounds: u32, at_once: u32) -> f64 {
        let start = Instant::now();
        for _ in 0..rounds {
            let questions = (0..at_once).map(|_| self.ask(question));
            futures_util::future::join_all(questions).await;
        }
        start.elapsed().as_secs_f64() * 1e6 / f64::from(rounds * at_once)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let is_test = std::env::args().any(|argument| argument == "--test");
    let (turns, rounds) = if is_test { (1, 1) } else { (201, 50) };
    let redis = Redis::start();
    let client = redis::Client::open(redis.url()).unwrap();
    let connection = client.get_multiplexed_async_connection().await.unwrap();
    let store = RedisStore::new(connection.clone()).with_timeout(Duration::from_secs(5));
    redis.command(&[
        "SET",
        "tower-gate:1:{0123}:0123456789abcdef0123456789abcdef",
        "1764033421987653",
    ]);
    let server = Server { connection, store };
    println!("{:<34}{:>8}{:>10}", "", "µs", "to GET");
    for at_once in [1, 64] {
        println!("\n{at_once} at once");
        let mut times = NAMES.map(|_| Vec::new());
        for turn in 0..turns {
            for place in 0..NAMES.len() {
                let question = (place + turn) % NAMES.len();
                let rounds = u32::max(rounds / at_once, 1);
                times[question].push(server.time(question, rounds, at_once).await);
            }
        }
        let medians = times.map(|mut times| {
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        });
        for (name, median) in NAMES.iter().zip(medians) {
            println!("  {name:<32}{median:>8.1}{:>10.2}", median / medians[0]);
        }
    }
}
