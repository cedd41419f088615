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

/// A smaller quota has forgiven what was owed under a greater one: with every change of numbers that
/// reaches nodes one after the other, callers had their burst again.
#[test]
fn what_is_owed_under_a_greater_quota_is_owed_under_a_smaller_one() {
    let (large, small) = (Key::new(100, 90).quota, Key::new(100, 5).quota);
    let (_, tat) = large.decide(0, 0, 90);
    assert_eq!(tat, 9000);
    let (decision, kept) = small.decide(tat, 0, 1);
    assert_eq!(step(decision), Step::Deny { retry: 8600, remaining: 0 }, "the wait is the truth");
    assert_eq!(kept, tat, "RL-42: and nothing is forgiven");
    assert_eq!(small.settle(tat, 0, 3, 0), tat, "RL-42: late, under the old numbers");
    assert_eq!(small.settle(tat, 0, -3, 500), 8700);
    assert_eq!(step(small.decide(tat, 8600, 1).0), Step::Allow { remaining: 0, reset: 500 });
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
fn a_settlement_gives_back_or_takes_within_bounds() {
    // The quota has 5 units of 100 each. TAT, time, units and what is owed of those that were taken;
    // the TAT that is kept.
    let quota = Key::new(100, 5).quota;
    for (tat, now, units, owed, expected) in [
        (0, 0, 0, 0, 0),
        (300, 0, -1, 300, 200),
        (300, 0, -3, 300, 0),
        (300, 0, -4, u64::MAX, 0),
        (300, 250, -1, 50, 250),
        (900, 500, -3, 200, 700),
        (900, 500, -3, 0, 900),
        (300, 0, i64::MIN, u64::MAX, 0),
        (0, 1000, 2, 0, 1200),
        (1300, 1000, 2, 0, 1500),
        (1300, 1000, 7, 500, 2000),
        (1300, 1000, 8, 500, 2000),
        (0, 1000, i64::MAX, 0, 2000),
        (2000, 1000, 1, 0, 2000),
        (2001, 1000, 1, 0, 2001),
    ] {
        let settled = quota.settle(tat, now, units, owed);
        assert_eq!(settled, expected, "{tat} at {now}: {units} of {owed}");
    }
}

/// Whoever gives the soonest back and takes it again has all that is open come back last, and lets
/// time bring back what it stands for in the meantime.
#[test]
fn giving_back_and_taking_again_saves_no_bursts_up() {
    const BURST: u32 = 5;
    let mut key = Key::new(1000, BURST);
    // When each was taken, and what its key owed then.
    let mut open: Vec<(u64, u64)> = Vec::new();
    let take = |key: &mut Key, now| match key.take(now, 1) {
        Decision::Allowed(usage) => Some((now, nanos(usage.reset_after))),
        Decision::Limited { .. } => None,
    };
    let give_back = |key: &mut Key, now: u64, (at, reset_after): (u64, u64)| {
        let [reset_after, elapsed] = [reset_after, now - at].map(Duration::from_nanos);
        let owed = nanos(key.quota.still_owed(1, reset_after, elapsed));
        key.tat = key.quota.settle(key.tat, now, -1, owed);
    };
    let mut now = 0;
    for _ in 0..10 {
        for _ in 0..200 {
            open.extend(std::iter::from_fn(|| take(&mut key, now)));
            let soonest = (0..open.len()).min_by_key(|&at| open[at].0 + open[at].1).unwrap();
            give_back(&mut key, now, open.remove(soonest));
        }
        now += 4 * 1000;
    }
    let mut at_once = 0;
    loop {
        at_once += std::iter::from_fn(|| take(&mut key, now)).count();
        match open.pop() {
            Some(taken) => give_back(&mut key, now, taken),
            None => break,
        }
    }
    assert!(at_once <= 2 * BURST as usize, "RL-42: {at_once} at once");
}

#[test]
fn a_debt_is_paid_back_before_anything_passes() {
    let mut key = Key::new(100, 5);
    key.tat = key.quota.settle(0, 0, 7, 0);
    for (now, cost, expected) in [
        (0, 0, Step::Deny { retry: 200, remaining: 0 }),
        (0, 5, Step::Deny { retry: 700, remaining: 0 }),
        (200, 0, Step::Allow { remaining: 0, reset: 500 }),
        (299, 1, Step::Deny { retry: 1, remaining: 0 }),
        (300, 1, Step::Allow { remaining: 0, reset: 500 }),
    ] {
        assert_eq!(step(key.take(now, cost)), expected, "{cost} at {now}");
    }
    let (decision, _) = key.quota.decide(900, 200, 1);
    let usage = decision.usage();
    assert_eq!((nanos(usage.next_unit), nanos(usage.reset_after)), (300, 700), "RL-2");
}

#[test]
fn what_is_asked_together_is_taken_together() {
    let take = |burst, cost| Take::new(PartitionKey::new([""]), Key::new(100, burst).quota, cost);
    // The bursts and costs of two takes, their TATs, and the TATs that are kept at 1000.
    for (takes, tats, expected) in [
        ([(5, 1), (2, 1)], [0, 0], [1100, 1100]),
        ([(5, 1), (2, 1)], [1400, 1200], [1400, 1200]),
        ([(5, 1), (2, 1)], [1500, 1100], [1500, 1100]),
        ([(5, 1), (2, 3)], [0, 0], [0, 0]),
        ([(5, 0), (2, 0)], [1300, 0], [1300, 1000]),
        // What a greater quota has left is kept.
        ([(5, 1), (2, 3)], [9999, 9999], [9999, 9999]),
    ] {
        let mut kept = tats;
        let takes = takes.map(|(burst, cost)| take(burst, cost));
        let decisions = Take::decide(&takes, &mut kept, 1000);
        assert_eq!(kept, expected, "RL-24, 66: {tats:?}");
        for (n, decision) in decisions.iter().enumerate() {
            let looked = takes[n].quota.decide(kept[n], 1000, 0).0;
            assert_eq!(decision.usage(), looked.usage(), "RL-66: each says where it stands");
        }
    }
    assert!(Take::decide(&[], &mut [], 0).are_allowed(), "nothing is refused by nobody");
}

/// None, some units of a hundred, and more than the largest burst takes to come back.
fn pauses() -> impl Strategy<Value = u64> {
    prop_oneof![4 => Just(0), 3 => (0..8u64).prop_map(|units| units * 100), 1 => 0..2000u64]
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

    /// RL-42 with corrections: in any interval, what is taken in all, less what is given back, is
    /// at most burst + W / interval and one burst of debt.
    #[test]
    fn no_interval_takes_more_than_the_bound_and_a_debt(
        interval in 1..300u64, burst in 1..20u32,
        trace in vec((0..500u64, 0..4u32, -30..30i64), 1..100),
    ) {
        let mut key = Key::new(interval, burst);
        let mut now = 0;
        // Times, and the units by which the TAT moved, which a bound may have cut.
        let mut moves: Vec<(u64, i64)> = Vec::new();
        for (pause, cost, units) in trace {
            now += pause;
            if let Decision::Allowed(_) = key.take(now, cost) {
                moves.push((now, cost.into()));
            }
            let before = key.tat.max(now);
            key.tat = key.quota.settle(key.tat, now, units, u64::MAX);
            let moved = i128::from(key.tat.max(now)) - i128::from(before);
            moves.push((now, i64::try_from(moved.div_euclid(i128::from(interval))).unwrap()));
            prop_assert!(key.tat <= now + 2 * interval * u64::from(burst), "a burst is owed at most");
        }
        for (first, &(from, _)) in moves.iter().enumerate() {
            let mut units = 0;
            for &(at, moved) in &moves[first..] {
                units += moved;
                let bound = 2 * u64::from(burst) + (at - from) / interval;
                prop_assert!(units <= i64::try_from(bound).unwrap(), "RL-42");
            }
        }
    }

    /// RL-42 with failures: in any interval, those that have not failed. Of requests that run at the
    /// same time, one that outlives others may get back what moved up when those failed: a burst at
    /// most, once.
    #[test]
    fn requests_that_fail_late_save_no_burst_up(
        burst in 1..8u32,
        trace in vec((pauses(), any::<bool>(), prop::option::of(pauses())), 1..120),
    ) {
        let interval = 100;
        let mut key = Key::new(interval, burst);
        let mut now = 0;
        // When each fails, and when all that was taken until then is there again.
        let mut running: Vec<(u64, u64)> = Vec::new();
        let mut admitted = Vec::new();
        for (pause, all, fails_after) in trace {
            now += pause;
            running.sort_by_key(|&(fails, _)| Reverse(fails));
            while let Some((fails, reset)) = running.pop_if(|&mut (fails, _)| fails <= now) {
                key.tat = key.quota.settle(key.tat, fails, -1, reset.saturating_sub(fails));
                // Others are waiting for it.
                if let Decision::Allowed(_) = key.take(fails, 1) {
                    admitted.push((fails, 1));
                }
            }
            for _ in 0..if all { burst } else { 1 } {
                if let Decision::Allowed(usage) = key.take(now, 1) {
                    match fails_after {
                        Some(after) => running.push((now + after, now + nanos(usage.reset_after))),
                        None => admitted.push((now, 1)),
                    }
                }
            }
        }
        for (first, &(from, _)) in admitted.iter().enumerate() {
            let mut units = 0;
            for &(at, cost) in &admitted[first..] {
                units += cost;
                let most = 2 * u64::from(burst) + (at - from) / interval;
                prop_assert!(units <= most, "RL-42: {} in {}", units, at - from);
            }
        }
    }

    /// RL-24: several quotas decide as each would alone, and none takes unless all do.
    #[test]
    fn several_quotas_take_as_each_alone_or_not_at_all(
        quotas in vec((1..300u64, 1..20u32), 1..5),
        trace in vec((0..500u64, vec(0..4u32, 5)), 1..60),
    ) {
        let quotas: Vec<Key> =
            quotas.into_iter().map(|(interval, burst)| Key::new(interval, burst)).collect();
        let mut tats = vec![0; quotas.len()];
        let mut now = 0;
        for (pause, costs) in trace {
            now += pause;
            let takes: Vec<Take> = quotas.iter().zip(&costs)
                .map(|(key, &cost)| Take::new(PartitionKey::new([""]), key.quota, cost)).collect();
            let alone: Vec<_> = takes.iter().zip(&tats)
                .map(|(take, &tat)| take.quota.decide(tat, now, take.cost)).collect();
            let before = tats.clone();
            let decisions = Take::decide(&takes, &mut tats, now);
            let passes = alone.iter().all(|(decision, _)| matches!(decision, Decision::Allowed(_)));
            prop_assert_eq!(decisions.are_allowed(), passes);
            for (n, (decision, tat)) in alone.into_iter().enumerate() {
                let is_limited = matches!(decision, Decision::Limited { .. });
                if passes || is_limited {
                    prop_assert_eq!(decisions[n], decision);
                }
                prop_assert_eq!(tats[n], if passes { tat } else { before[n] });
            }
        }
    }

    /// RL-46: no input overflows.
    #[test]
    fn any_state_and_any_time_decide_without_overflow(
        tat: u64, now in 0..u64::MAX / 2, cost: u32, rate in 1..u32::MAX, burst in 1..u32::MAX,
        units: i64, owed: u64,
    ) {
        let Ok(quota) = Quota::new(rate, Duration::from_secs(3600), burst) else {
            return Ok(());
        };
        let (decision, _) = quota.decide(tat, now, cost);
        prop_assert!(decision.usage().remaining <= burst);
        let settled = quota.settle(tat, now, units, owed);
        prop_assert!(settled <= tat.max(now.saturating_add(2 * nanos(quota.refill_time()))));
    }
}
