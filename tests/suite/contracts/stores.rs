//! `RateLimitStore`.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use tower_gate::store::memory::MemoryStore;
use tower_gate::store::{
    FallbackStore, RateLimitStore, Settlement, StoreError, Take, TakeRequest, UnlimitedStore,
};
use tower_gate::{Decision, Decisions, PartitionKey, Quota};

use crate::contracts::{block_on, contract};

contract! {
    [
        the_vectors_of_rl_41_hold
        random_traces_are_decided_as_they_are_defined
        a_look_takes_nothing
        what_costs_more_than_the_burst_never_passes_and_takes_nothing
        keys_share_nothing
        takers_at_once_get_the_burst_and_no_more
        what_is_owed_under_a_greater_quota_is_owed_under_a_smaller_one
        an_answer_that_nobody_waits_for_harms_nothing
        takes_together_pass_together_or_take_nothing
        random_traces_of_several_quotas_are_decided_as_they_are_defined
        takers_of_several_at_once_wait_for_nobody_and_leave_nothing_half_taken
        what_is_settled_is_given_back_or_owed
    ]
    memory => MemoryStore::new();
    before_a_fallback => FallbackStore::new(MemoryStore::new(), UnlimitedStore);
    shared => Arc::new(MemoryStore::new());
    waiting => Waiting(MemoryStore::new());
}

/// Memory that takes its time, as a store behind a network does.
struct Waiting(MemoryStore);

impl RateLimitStore for Waiting {
    async fn take(&self, request: &TakeRequest) -> Result<Decisions, StoreError> {
        tokio::task::yield_now().await;
        let answer = self.0.take(request).await;
        tokio::task::yield_now().await;
        answer
    }

    fn settle(&self, settlement: &Settlement) {
        self.0.settle(settlement);
    }
}

/// Asks as the layer does, at this nanosecond.
async fn ask(
    store: &impl RateLimitStore,
    key: &str,
    quota: Quota,
    now: u64,
    cost: u32,
) -> Decision {
    ask_together(store, &[(key, quota, cost)], now).await[0]
}

/// Asks for all of these, as key, quota and cost.
async fn ask_together(
    store: &impl RateLimitStore,
    takes: &[(&str, Quota, u32)],
    now: u64,
) -> Decisions {
    let takes =
        takes.iter().map(|&(key, quota, cost)| Take::new(PartitionKey::new([key]), quota, cost));
    let request = TakeRequest::together(takes, Duration::from_nanos(now));
    let decisions = match store.try_take(&request) {
        Some(answer) => answer.unwrap(),
        None => store.take(&request).await.unwrap(),
    };
    assert_eq!(decisions.len(), request.takes().len(), "one for each, in order");
    decisions
}

/// A decision in nanoseconds.
#[derive(Debug, Eq, PartialEq)]
struct Step {
    allowed: bool,
    remaining: u128,
    next_unit: u128,
    reset_after: u128,
    /// `None` for what is allowed, and for what never will be.
    retry_after: Option<u128>,
}

impl Step {
    fn of(decision: Decision) -> Self {
        let usage = decision.usage();
        let retry_after = match &decision {
            Decision::Allowed(_) => None,
            Decision::Limited { retry_after, .. } => retry_after.map(|wait| wait.as_nanos()),
        };
        Self {
            allowed: matches!(decision, Decision::Allowed(_)),
            remaining: usage.remaining.into(),
            next_unit: usage.next_unit.as_nanos(),
            reset_after: usage.reset_after.as_nanos(),
            retry_after,
        }
    }
}

/// One key of GCRA as section D of RL defines it, without bounds on its numbers.
struct Reference {
    emission_interval: u128,
    burst: u128,
    arrival: Option<u128>,
}

impl Reference {
    fn new(units: u32, period: Duration, burst: u32) -> Self {
        let emission_interval = period.as_nanos().div_ceil(units.into());
        Self { emission_interval, burst: burst.into(), arrival: None }
    }

    fn take(&mut self, t: u64, n: u32) -> Step {
        let (t, n) = (u128::from(t), u128::from(n));
        let tau = self.burst * self.emission_interval;
        let base = self.arrival.unwrap_or(t).max(t);
        let new_arrival = base + n * self.emission_interval;
        let allowed = n <= self.burst && new_arrival <= t + tau;
        if allowed && n > 0 {
            self.arrival = Some(new_arrival);
        }
        let used = if allowed { new_arrival - t } else { base - t };
        let remaining = (tau - used) / self.emission_interval;
        Step {
            allowed,
            remaining,
            next_unit: if remaining == self.burst {
                0
            } else {
                used - (self.burst - remaining - 1) * self.emission_interval
            },
            reset_after: used,
            retry_after: (!allowed && n <= self.burst).then(|| new_arrival - tau - t),
        }
    }
}

/// One unit every 100 ns, five at once.
fn hundred() -> Quota {
    Quota::new(1, Duration::from_nanos(100), 5).unwrap()
}

fn the_vectors_of_rl_41_hold<S: RateLimitStore>(store: impl Fn() -> S) {
    let store = store();
    block_on(async {
        // Time and cost; whether it is allowed, what is left, and the time until all is back or the
        // wait.
        for (now, cost, allowed, remaining, wait) in [
            (0, 1, true, 4, Some(100)),
            (0, 1, true, 3, Some(200)),
            (0, 1, true, 2, Some(300)),
            (0, 1, true, 1, Some(400)),
            (0, 1, true, 0, Some(500)),
            (0, 1, false, 0, Some(100)),
            (99, 1, false, 0, Some(1)),
            (100, 1, true, 0, Some(500)),
            (250, 2, false, 1, Some(50)),
            (300, 2, true, 0, Some(500)),
            (350, 1, false, 0, Some(50)),
            (1000, 5, true, 0, Some(500)),
            (1000, 1, false, 0, Some(100)),
            (1000, 6, false, 0, None),
            (1_000_000, 6, false, 5, None),
        ] {
            let step = Step::of(ask(&store, "key", hundred(), now, cost).await);
            let wait_of_step = if allowed { Some(step.reset_after) } else { step.retry_after };
            let found = (step.allowed, step.remaining, wait_of_step);
            assert_eq!(found, (allowed, remaining, wait), "RL-40, 41: {cost} at {now}");
        }
    });
}

fn random_traces_are_decided_as_they_are_defined<S: RateLimitStore>(store: impl Fn() -> S) {
    // Requests as a pause before it, a key and a cost.
    let request = (prop_oneof![Just(0), 0..50u64, 0..2_000_000u64], 0..3usize, 0..6u32);
    proptest!(|(
        units in 1..1_000u32,
        period in 1_000..1_000_000u64,
        burst in 1..20u32,
        start in 0..u64::MAX / 4,
        trace in vec(request, 1..60),
    )| {
        let (store, period) = (store(), Duration::from_nanos(period));
        let quota = Quota::new(units, period, burst).unwrap();
        let mut references = [(); 3].map(|()| Reference::new(units, period, burst));
        let mut now = start;
        let result: Result<(), TestCaseError> = block_on(async {
            for (pause, key, cost) in trace {
                now += pause;
                let step = Step::of(ask(&store, &key.to_string(), quota, now, cost).await);
                prop_assert_eq!(step, references[key].take(now, cost), "RL-40 to 46");
            }
            Ok(())
        });
        result?;
    });
}

fn a_look_takes_nothing<S: RateLimitStore>(store: impl Fn() -> S) {
    let store = store();
    block_on(async {
        let untouched = Step::of(ask(&store, "key", hundred(), 7, 0).await);
        assert_eq!((untouched.allowed, untouched.remaining, untouched.next_unit), (true, 5, 0));
        let _ = ask(&store, "key", hundred(), 10, 2).await;
        for _ in 0..10 {
            let step = Step::of(ask(&store, "key", hundred(), 60, 0).await);
            assert_eq!((step.allowed, step.remaining, step.next_unit), (true, 3, 50), "RL-40");
        }
    });
}

fn what_costs_more_than_the_burst_never_passes_and_takes_nothing<S: RateLimitStore>(
    store: impl Fn() -> S,
) {
    let store = store();
    block_on(async {
        for cost in [6, 7, 1_000_000, u32::MAX] {
            let step = Step::of(ask(&store, "key", hundred(), 10, cost).await);
            assert_eq!((step.allowed, step.retry_after, step.remaining), (false, None, 5), "RL-22");
        }
        const CENTURY: u64 = 100 * 365 * 86_400 * 1_000_000_000;
        let slowest = Quota::new(1, Duration::from_nanos(CENTURY), 1).unwrap();
        for (now, allowed) in [(0, true), (0, false), (CENTURY - 1, false), (CENTURY, true)] {
            let step = Step::of(ask(&store, "slow", slowest, now, 1).await);
            assert_eq!(step.allowed, allowed, "RL-46: no overflow at {now}");
        }
    });
}

fn keys_share_nothing<S: RateLimitStore>(store: impl Fn() -> S) {
    let store = store();
    block_on(async {
        for key in 0..1000 {
            let step = Step::of(ask(&store, &key.to_string(), hundred(), 0, 5).await);
            assert!(step.allowed, "{key}");
        }
        for key in 0..1000 {
            let step = Step::of(ask(&store, &key.to_string(), hundred(), 0, 1).await);
            assert!(!step.allowed, "{key}");
        }
    });
}

fn takers_at_once_get_the_burst_and_no_more<S: RateLimitStore>(store: impl Fn() -> S) {
    let (store, quota) = (Arc::new(store()), Quota::per_hour(100));
    let (barrier, units) = (Arc::new(tokio::sync::Barrier::new(64)), Arc::new(AtomicU32::new(0)));
    block_on(async {
        let mut tasks = Vec::new();
        for task in 0..64 {
            let (store, barrier, units) = (store.clone(), barrier.clone(), units.clone());
            tasks.push(tokio::spawn(async move {
                barrier.wait().await;
                for _ in 0..20 {
                    // Some ask for one unit, some for two.
                    let cost = 1 + task % 2;
                    if let Decision::Allowed(_) = ask(&*store, "key", quota, 5, cost).await {
                        units.fetch_add(cost, Ordering::SeqCst);
                    }
                }
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
    });
    assert_eq!(units.load(Ordering::SeqCst), 100, "RL-46, attack 41");
}

fn what_is_owed_under_a_greater_quota_is_owed_under_a_smaller_one<S: RateLimitStore>(
    store: impl Fn() -> S,
) {
    let (store, greater) = (store(), hundred().with_burst(90));
    block_on(async {
        assert!(Step::of(ask(&store, "key", greater, 0, 90).await).allowed);
        let small = Step::of(ask(&store, "key", hundred(), 0, 1).await);
        assert_eq!((small.allowed, small.retry_after), (false, Some(8600)), "RL-42");
        let key = PartitionKey::new(["key"]);
        store.settle(&Settlement::new(key, hundred(), 2, Duration::ZERO));
        let refused = Step::of(ask(&store, "key", greater, 0, 1).await);
        assert_eq!((refused.allowed, refused.retry_after), (false, Some(100)), "RL-42");
        assert!(Step::of(ask(&store, "key", hundred(), 8600, 1).await).allowed);
    });
}

fn an_answer_that_nobody_waits_for_harms_nothing<S: RateLimitStore>(store: impl Fn() -> S) {
    let store = store();
    let request = TakeRequest::new(PartitionKey::new(["key"]), hundred(), 1, Duration::ZERO);
    block_on(async {
        for _ in 0..2 {
            let mut future = pin!(store.take(&request));
            let _ = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        }
        // The two units may be taken or not.
        let mut allowed = 0;
        for _ in 0..10 {
            allowed += u32::from(Step::of(ask(&store, "key", hundred(), 0, 1).await).allowed);
        }
        assert!((3..=5).contains(&allowed), "{allowed}");
    });
}

fn takes_together_pass_together_or_take_nothing<S: RateLimitStore>(store: impl Fn() -> S) {
    let store = store();
    let small = Quota::new(1, Duration::from_nanos(100), 2).unwrap();
    block_on(async {
        // The time, and what it leaves of the large and of the small quota.
        for (now, allowed, remaining, retry_after) in [
            (0, true, [4, 1], [None, None]),
            (0, true, [3, 0], [None, None]),
            (0, false, [3, 0], [None, Some(100)]),
            (99, false, [3, 0], [None, Some(1)]),
            (100, true, [3, 0], [None, None]),
        ] {
            let both = [("large", hundred(), 1), ("small", small, 1)];
            let decisions = ask_together(&store, &both, now).await;
            let steps: Vec<Step> = decisions.iter().map(|&decision| Step::of(decision)).collect();
            assert_eq!(decisions.are_allowed(), allowed, "RL-24, 66: at {now}");
            assert_eq!([steps[0].remaining, steps[1].remaining], remaining, "RL-24: at {now}");
            assert_eq!([steps[0].retry_after, steps[1].retry_after], retry_after, "at {now}");
        }
        let alone = Step::of(ask(&store, "large", hundred(), 100, 0).await);
        assert_eq!((alone.remaining, alone.reset_after), (3, 200), "RL-66: nothing was taken");
        // What can never pass takes nothing either, in whatever order it is asked for.
        let never = [("small", small, 3), ("large", hundred(), 1)];
        let decisions = ask_together(&store, &never, 10_000).await;
        assert!(matches!(decisions[0], Decision::Limited { retry_after: None, .. }), "RL-22");
        assert_eq!(Step::of(decisions[1]).remaining, 5, "RL-24");
    });
}

fn random_traces_of_several_quotas_are_decided_as_they_are_defined<S: RateLimitStore>(
    store: impl Fn() -> S,
) {
    let quotas = [(1, 100, 5), (3, 1_000, 4), (7, 10_000, 11)]
        .map(|(units, nanos, burst)| (units, Duration::from_nanos(nanos), burst));
    // A pause, and the cost of each of three quotas, of which one that is not asked has none.
    let cost = || proptest::option::of(0..6u32);
    let request = (0..300u64, [cost(), cost(), cost()]);
    proptest!(|(trace in vec(request, 1..60))| {
        let store = store();
        let mut references = quotas.map(|(units, period, burst)| Reference::new(units, period, burst));
        let mut now = 0;
        let result: Result<(), TestCaseError> = block_on(async {
            for (pause, costs) in trace {
                now += pause;
                let asked: Vec<(usize, u32)> =
                    costs.iter().enumerate().filter_map(|(n, cost)| Some((n, (*cost)?))).collect();
                let takes: Vec<_> = asked.iter().map(|&(n, cost)| {
                    let (units, period, burst) = quotas[n];
                    (["a", "b", "c"][n], Quota::new(units, period, burst).unwrap(), cost)
                }).collect();
                let before: Vec<_> = references.iter().map(|each| each.arrival).collect();
                let mut expected: Vec<Step> =
                    asked.iter().map(|&(n, cost)| references[n].take(now, cost)).collect();
                if !expected.iter().all(|step| step.allowed) {
                    for (n, arrival) in before.into_iter().enumerate() {
                        references[n].arrival = arrival;
                    }
                    for (step, &(n, _)) in expected.iter_mut().zip(&asked) {
                        if step.allowed {
                            *step = references[n].take(now, 0);
                        }
                    }
                }
                let decisions = ask_together(&store, &takes, now).await;
                let found: Vec<Step> = decisions.iter().map(|&decision| Step::of(decision)).collect();
                prop_assert_eq!(found, expected, "RL-24, 40 to 46, 66");
            }
            Ok(())
        });
        result?;
    });
}

fn takers_of_several_at_once_wait_for_nobody_and_leave_nothing_half_taken<S: RateLimitStore>(
    store: impl Fn() -> S,
) {
    let (store, quota) = (Arc::new(store()), Quota::per_hour(100));
    let (barrier, taken) = (Arc::new(tokio::sync::Barrier::new(64)), Arc::new(AtomicU32::new(0)));
    let names: Vec<String> = (0..8).map(|n| n.to_string()).collect();
    block_on(async {
        let mut tasks = Vec::new();
        for task in 0..64 {
            let (store, barrier, taken) = (store.clone(), barrier.clone(), taken.clone());
            let mut names = names.clone();
            names.rotate_left(task % 8);
            if task % 2 == 0 {
                names.reverse();
            }
            tasks.push(tokio::spawn(async move {
                barrier.wait().await;
                for _ in 0..20 {
                    let takes: Vec<_> = names.iter().map(|name| (&**name, quota, 1)).collect();
                    let decisions = ask_together(&*store, &takes, 5).await;
                    taken.fetch_add(decisions.are_allowed().into(), Ordering::SeqCst);
                }
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(taken.load(Ordering::SeqCst), 100, "RL-46, attack 41");
        for name in names {
            let step = Step::of(ask(&*store, &name, quota, 5, 0).await);
            assert_eq!(step.remaining, 0, "RL-24, attack 41: {name}");
        }
    });
}

fn what_is_settled_is_given_back_or_owed<S: RateLimitStore>(store: impl Fn() -> S) {
    let store = store();
    let settle = |units, now| {
        let key = PartitionKey::new(["key"]);
        let settlement = Settlement::new(key, hundred(), units, Duration::from_nanos(now));
        store.settle(&settlement.with_owed(Duration::MAX));
    };
    block_on(async {
        assert!(Step::of(ask(&store, "key", hundred(), 0, 5).await).allowed);
        settle(-2, 0);
        assert_eq!(Step::of(ask(&store, "key", hundred(), 0, 0).await).remaining, 2, "given back");
        settle(-1000, 0);
        assert_eq!(Step::of(ask(&store, "key", hundred(), 0, 0).await).remaining, 5, "no more");
        settle(7, 0);
        for (now, cost, retry_after) in [(0, 0, 200), (0, 1, 300), (199, 0, 1)] {
            let step = Step::of(ask(&store, "key", hundred(), now, cost).await);
            let found = (step.allowed, step.remaining, step.retry_after);
            assert_eq!(found, (false, 0, Some(retry_after)), "owed: {cost} at {now}");
        }
        settle(i64::MAX, 200);
        let step = Step::of(ask(&store, "key", hundred(), 200, 1).await);
        assert_eq!(step.retry_after, Some(600), "no more is owed than a burst");
        assert_eq!((step.next_unit, step.reset_after), (600, 1000), "RL-2");
        assert!(Step::of(ask(&store, "key", hundred(), 800, 1).await).allowed, "paid back");
    });
}

#[test]
fn the_null_store_has_units_for_everybody() {
    block_on(async {
        for cost in [0, 1, 5, 6, u32::MAX] {
            for _ in 0..10 {
                let step = Step::of(ask(&UnlimitedStore, "key", hundred(), 0, cost).await);
                let full = (step.allowed, step.remaining, step.next_unit, step.reset_after);
                assert_eq!(full, (true, 5, 0, 0), "{cost}");
            }
        }
    });
}
