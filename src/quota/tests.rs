use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// One key of one quota.
struct Key {
    quota: Quota,
    tat: u64,
}

impl Key {
    fn new(interval: u64, burst: u32) -> Self {
        let quota = Quota::new(1, Duration::from_nanos(interval), burst).unwrap();
        Self { quota, tat: 0 }
    }

    fn take(&mut self, now: u64, cost: u32) -> Decision {
        let (decision, tat) = self.quota.decide(self.tat, now, cost);
        self.tat = tat;
        decision
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap()
}

/// What the vectors of RL-41 say of one step.
#[derive(Debug, PartialEq)]
enum Step {
    Allow { remaining: u32, reset: u64 },
    Deny { retry: u64, remaining: u32 },
    Never,
}

fn step(decision: Decision) -> Step {
    match decision {
        Decision::Allowed(usage) => {
            Step::Allow { remaining: usage.remaining, reset: nanos(usage.reset_after) }
        }
        Decision::Limited { usage, retry_after: Some(wait) } => {
            Step::Deny { retry: nanos(wait), remaining: usage.remaining }
        }
        Decision::Limited { retry_after: None, .. } => Step::Never,
    }
}

#[test]
fn the_vectors_of_rl_41_hold() {
    let mut key = Key::new(100, 5);
    for (remaining, reset) in [(4, 100), (3, 200), (2, 300), (1, 400), (0, 500)] {
        assert_eq!(step(key.take(0, 1)), Step::Allow { remaining, reset });
    }
    let vectors = [
        (0, 1, Step::Deny { retry: 100, remaining: 0 }),
        (99, 1, Step::Deny { retry: 1, remaining: 0 }),
        (100, 1, Step::Allow { remaining: 0, reset: 500 }),
        (250, 2, Step::Deny { retry: 50, remaining: 1 }),
        (300, 2, Step::Allow { remaining: 0, reset: 500 }),
        (350, 1, Step::Deny { retry: 50, remaining: 0 }),
        (1000, 5, Step::Allow { remaining: 0, reset: 500 }),
        (1000, 1, Step::Deny { retry: 100, remaining: 0 }),
        (1000, 6, Step::Never),
        (1_000_000, 6, Step::Never),
    ];
    for (now, cost, expected) in vectors {
        assert_eq!(step(key.take(now, cost)), expected, "RL-40, 41: {cost} at {now}");
    }
    assert_eq!(key.tat, 1500, "RL-40: what is refused takes nothing");
}

#[test]
fn a_peek_takes_nothing() {
    let mut key = Key::new(100, 5);
    let _ = key.take(0, 2);
    for _ in 0..10 {
        assert_eq!(step(key.take(50, 0)), Step::Allow { remaining: 3, reset: 150 }, "RL-40");
    }
}

#[test]
fn the_next_unit_comes_before_all_of_them() {
    let mut key = Key::new(100, 5);
    let _ = key.take(0, 3);
    let next = |decision: Decision| nanos(decision.usage().next_unit);
    assert_eq!(next(key.take(0, 0)), 100);
    assert_eq!(next(key.take(30, 0)), 70);
    assert_eq!(next(key.take(100, 0)), 100);
    assert_eq!(next(key.take(300, 0)), 0);
}

#[test]
fn a_clock_that_goes_back_costs_at_most_a_full_bucket() {
    let mut key = Key::new(100, 5);
    let _ = key.take(1_000_000, 5);
    assert_eq!(step(key.take(0, 1)), Step::Deny { retry: 100, remaining: 0 }, "RL-45");
    assert_eq!(step(key.take(99, 1)), Step::Deny { retry: 1, remaining: 0 }, "RL-45");
    assert_eq!(step(key.take(100, 1)), Step::Allow { remaining: 0, reset: 500 }, "RL-45");
}

#[test]
fn numbers_that_limit_nobody_or_everybody_are_refused() {
    let second = Duration::from_secs(1);
    for (units, period, burst) in [(0, second, 1), (1, second, 0), (1, Duration::ZERO, 1)] {
        assert_eq!(Quota::new(units, period, burst), Err(InvalidQuota::Zero), "RL-46");
    }
    let fast = Quota::new(1001, Duration::from_micros(1), 1);
    assert_eq!(fast, Err(InvalidQuota::TooFast), "RL-46");
    let slow = Quota::new(1, Duration::from_secs(86_400), u32::MAX);
    assert_eq!(slow, Err(InvalidQuota::TooSlow), "RL-46");
    assert_eq!(Quota::new(1, Duration::MAX, 1), Err(InvalidQuota::TooSlow), "RL-46");
}

#[test]
#[should_panic(expected = "more than one unit a nanosecond: lengthen the period")]
fn a_quota_that_is_too_fast_says_so() {
    let _ = Quota::per_second(2_000_000_000);
}

#[test]
fn keys_of_different_parts_differ() {
    let key = |parts: &[&str]| PartitionKey::new(parts);
    assert_eq!(key(&["a", "b"]), key(&["a", "b"]));
    for other in [&["a", "c"][..], &["ab"], &["a", "b", ""], &["", "ab"], &["b", "a"]] {
        assert_ne!(key(&["a", "b"]), key(other), "{other:?}");
    }
}

#[test]
fn the_key_under_a_secret_is_the_same_on_every_node_and_release() {
    let key = |secret: &[u8; 16]| PartitionHasher::new(secret).key(["a", "b"]);
    assert_eq!(
        key(b"0123456789abcdef").to_u128(),
        270_061_198_547_494_134_083_740_139_581_912_105_932,
        "stores keep these keys"
    );
    assert_ne!(key(b"0123456789abcdef"), key(b"0123456789abcdeg"), "the last byte counts");
    assert_ne!(key(b"0123456789abcdef"), PartitionKey::new(["a", "b"]), "RL-68");
}

/// Requests as (pause before it, cost).
fn traces() -> impl Strategy<Value = Vec<(u64, u32)>> {
    vec((prop_oneof![Just(0), 0..50u64, 0..2_000u64], 0..4u32), 1..200)
}

proptest! {
    /// RL-42: in any interval of length W, at most burst + W / interval units.
    #[test]
    fn no_interval_admits_more_than_the_bound(
        interval in 1..300u64, burst in 1..20u32, trace in traces(),
    ) {
        let mut key = Key::new(interval, burst);
        let mut now = 0;
        let mut admitted = Vec::new();
        for (pause, cost) in trace {
            now += pause;
            if let Decision::Allowed(_) = key.take(now, cost) {
                admitted.push((now, u64::from(cost)));
            }
        }
        for (first, &(from, _)) in admitted.iter().enumerate() {
            let mut units = 0;
            for &(at, cost) in &admitted[first..] {
                units += cost;
                prop_assert!(units <= u64::from(burst) + (at - from) / interval);
            }
        }
    }

    /// RL-43: a token bucket in exact fractions decides the same, and counts the same tokens.
    #[test]
    fn a_token_bucket_in_fractions_agrees(
        interval in 1..300u64, burst in 1..20u32, trace in traces(),
    ) {
        let mut key = Key::new(interval, burst);
        // Tokens as the fraction numerator / interval.
        let full = u128::from(burst) * u128::from(interval);
        let mut numerator = full;
        let mut now = 0;
        for (pause, cost) in trace {
            now += pause;
            numerator = full.min(numerator + u128::from(pause));
            let price = u128::from(cost) * u128::from(interval);
            let decision = key.take(now, cost);
            let passes = price <= numerator;
            if passes {
                numerator -= price;
            }
            prop_assert_eq!(matches!(decision, Decision::Allowed(_)), passes);
            let tokens = u32::try_from(numerator / u128::from(interval)).unwrap();
            prop_assert_eq!(decision.usage().remaining, tokens);
            if let Decision::Limited { retry_after: Some(wait), .. } = decision {
                prop_assert_eq!(u128::from(nanos(wait)), price - numerator, "the exact wait");
            }
        }
    }

    /// RL-46: no input overflows.
    #[test]
    fn any_state_and_any_time_decide_without_overflow(
        tat: u64, now in 0..u64::MAX / 2, cost: u32, units in 1..u32::MAX, burst in 1..u32::MAX,
    ) {
        let Ok(quota) = Quota::new(units, Duration::from_secs(3600), burst) else {
            return Ok(());
        };
        let (decision, _) = quota.decide(tat, now, cost);
        prop_assert!(decision.usage().remaining <= burst);
    }
}
