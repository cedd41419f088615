//! The script that is shipped, with the time as an argument in place of the server's clock, decides
//! as the definition does, and writes down what that says.

use std::time::Duration;

use proptest::prelude::*;
use tower_gate::store::Take;
use tower_gate::{PartitionKey, Quota};

use crate::contract::shared_redis;

/// It asks the clock in one place.
fn script() -> String {
    let (text, clock) = (include_str!("../../src/store/redis/take.lua"), "redis.call('TIME')");
    assert_eq!(text.matches(clock).count(), 1);
    text.replace(clock, "{0, ARGV[#ARGV]}")
}

/// Microseconds since 1970, of which none is a round number.
const START: u64 = 1_764_033_421_987_653;

/// A key must not be forgotten by the real clock while the test's stands still, nor is it while its
/// TTL is a minute and more: the unit of time in these tests.
const MINUTE: u64 = 60_000_000;

struct Keys {
    connection: redis::Connection,
    names: Vec<String>,
    quotas: Vec<Quota>,
}

impl Keys {
    fn new(prefix: &str, quotas: Vec<Quota>) -> Self {
        let client = redis::Client::open(shared_redis().url()).unwrap();
        let names = (0..quotas.len()).map(|key| format!("{{{prefix}}}:{key}")).collect();
        Self { connection: client.get_connection().unwrap(), names, quotas }
    }

    /// Whether it passed, and what was owed before.
    fn run(&mut self, mode: u8, units: &[(usize, i64)], now: u64) -> (bool, Vec<u64>) {
        let mut command = redis::cmd("EVAL");
        command.arg(script()).arg(units.len());
        units.iter().for_each(|&(key, _)| {
            command.arg(&self.names[key]);
        });
        command.arg(mode);
        for &(key, units) in units {
            let micros = |time: Duration| i64::try_from(time.as_micros()).unwrap();
            let quota = &self.quotas[key];
            command.arg(micros(quota.refill_time())).arg(micros(quota.interval()) * units);
        }
        let reply: Vec<u64> = command.arg(now).query(&mut self.connection).unwrap();
        (reply[0] == 1, reply[1..].to_vec())
    }

    fn tat(&mut self, key: usize) -> Option<u64> {
        let kept = redis::cmd("GET").arg(&self.names[key]).query(&mut self.connection);
        let kept: Option<Vec<u8>> = kept.unwrap();
        let tat = |kept: Vec<u8>| f64::from_le_bytes(*kept.first_chunk().unwrap());
        // A whole number.
        kept.map(|kept| tat(kept).to_string().parse().unwrap())
    }
}

fn minutes(minutes: u64, burst: u32) -> Quota {
    Quota::new(1, Duration::from_secs(60 * minutes), burst).unwrap()
}

#[test]
fn random_traces_with_corrections_leave_what_the_definition_leaves() {
    let quota = (1u64..8, 1u32..9).prop_map(|(interval, burst)| minutes(interval, burst));
    let quotas = prop::collection::vec(quota, 3);
    let units = prop::array::uniform3(-4i64..8);
    let keys = Just(vec![0, 1, 2]).prop_shuffle();
    let step = (0u64..12, any::<bool>(), keys, 1..=3usize, units);
    let trace = prop::collection::vec(step, 1..60);
    let config = ProptestConfig { cases: 100, failure_persistence: None, ..Default::default() };
    proptest!(config, |((quotas, trace) in (quotas, trace), case in any::<u64>())| {
        let mut keys = Keys::new(&format!("trace {case}"), quotas.clone());
        let (mut tats, mut now) = ([0u64; 3], START);
        for (pause, corrects, order, count, units) in trace {
            now += pause * MINUTE;
            let order = &order[..count];
            // What is decided on costs nothing or more.
            let least = if corrects { -4 } else { 0 };
            let units: Vec<_> = order.iter().map(|&key| (key, units[key].max(least))).collect();
            let owed: Vec<_> =
                order.iter().map(|&key| tats[key].saturating_sub(now * 1000) / 1000).collect();
            let passes = if corrects {
                for &(key, units) in &units {
                    tats[key] = quotas[key].settle(tats[key], now * 1000, units, u64::MAX);
                }
                true
            } else {
                let take = |&(key, units): &(usize, i64)| {
                    let cost = u32::try_from(units).unwrap();
                    Take::new(PartitionKey::new(["any"]), quotas[key], cost)
                };
                let takes: Vec<_> = units.iter().map(take).collect();
                let mut own: Vec<_> = order.iter().map(|&key| tats[key]).collect();
                let decisions = Take::decide(&takes, &mut own, now * 1000);
                order.iter().zip(own).for_each(|(&key, tat)| tats[key] = tat);
                decisions.are_allowed()
            };
            let reply = keys.run(corrects.into(), &units, now);
            prop_assert_eq!(reply, (passes, owed), "RL-40, RL-66");
            for (key, &tat) in tats.iter().enumerate() {
                let kept = keys.tat(key).filter(|&tat| tat > now);
                let expected = Some(tat / 1000).filter(|&tat| tat > now);
                prop_assert_eq!(kept, expected, "RL-63: to the microsecond");
            }
        }
    });
}

#[test]
fn the_vectors_of_the_specification_hold() {
    let mut keys = Keys::new("vectors", vec![minutes(100, 5)]);
    for (at, cost, passes, owed) in [
        (0, 1, true, 0),
        (0, 1, true, 100),
        (0, 1, true, 200),
        (0, 1, true, 300),
        (0, 1, true, 400),
        (0, 1, false, 500),
        (99, 1, false, 401),
        (100, 1, true, 400),
        (250, 2, false, 350),
        (300, 2, true, 300),
        (350, 1, false, 450),
        (1000, 5, true, 0),
        (1000, 1, false, 500),
        (5000, 6, false, 0),
    ] {
        let reply = keys.run(0, &[(0, cost)], START + at * MINUTE);
        assert_eq!(reply, (passes, vec![owed * MINUTE]), "RL-41: {cost} at {at}");
    }
}

/// Nodes of different numbers, as in the middle of a change. The smaller ones forgave what was owed
/// under the greater, and the burst was there again.
#[test]
fn what_is_owed_under_a_greater_quota_is_owed_under_a_smaller_one() {
    let mut keys = Keys::new("change", vec![minutes(1, 90), minutes(1, 5)]);
    keys.names[1] = keys.names[0].clone();
    assert!(keys.run(0, &[(0, 90)], START).0);
    for (mode, key, units) in [(0, 1, 1), (1, 1, 3), (1, 1, 1), (0, 1, 0), (0, 0, 1)] {
        let (_, owed) = keys.run(mode, &[(key, units)], START);
        assert_eq!(owed, [90 * MINUTE], "RL-42: {mode} {key} {units}");
        assert_eq!(keys.tat(0), Some(START + 90 * MINUTE), "RL-42: {mode} {key} {units}");
    }
    assert!(keys.run(0, &[(1, 1)], START + 86 * MINUTE).0, "the wait was the truth");
    // The clock goes back: what is owed is a burst of the greater at most.
    assert_eq!(keys.run(0, &[(1, 1)], START - 1000 * MINUTE), (false, vec![90 * MINUTE]), "RL-45");
}

#[test]
fn a_clock_that_goes_back_costs_a_burst_at_most() {
    let mut keys = Keys::new("clock", vec![minutes(1, 5)]);
    assert!(keys.run(0, &[(0, 5)], START).0);
    let back = START - 60 * MINUTE;
    for (at, passes) in [(0, false), (1, true), (1, false), (2, true)] {
        assert_eq!(keys.run(0, &[(0, 1)], back + at * MINUTE).0, passes, "RL-45: {at}");
    }
}

#[test]
fn a_key_is_kept_for_as_long_as_it_owes() {
    let mut keys = Keys::new("ttl", vec![minutes(1, 5)]);
    assert!(keys.run(0, &[(0, 2)], START).0);
    let name = keys.names[0].clone();
    let ttl: u64 = redis::cmd("PTTL").arg(name).query(&mut keys.connection).unwrap();
    assert!((100_000..=120_000).contains(&ttl), "RL-64: {ttl}");
    assert!(keys.run(1, &[(0, -2)], START).0);
    assert_eq!(keys.tat(0), None, "a key that owes nothing is not kept");
}
