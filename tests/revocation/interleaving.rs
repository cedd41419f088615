//! Once `revoke` has returned, nobody comes in with what it named: whatever runs at the same time.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use tokio::sync::watch;
use tower_gate::verifier::revocable::{RevocableVerifier, Revocations};
use tower_gate::verifier::{CachedVerifier, VerifyRequest};
use tower_gate::{Principal, Revocation, SystemClock, TokenVerifier};

use crate::node::{ISSUER, Node};
use crate::shared::Shared;
use crate::stale::{Mood, Moody};

const SUBJECTS: usize = 4;

/// Tokens are numbers of subjects. A verification waits while the door is closed.
fn verifier(door: watch::Receiver<bool>) -> impl TokenVerifier {
    move |request: VerifyRequest| {
        let mut door = door.clone();
        async move {
            // The sender lives as long as the test.
            let _ = door.wait_for(|is_open| *is_open).await;
            Ok(Principal::builder(ISSUER, request.token.as_str()).token_id("t").build())
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A request that is answered at once, or waits for its verification.
    Ask(usize),
    /// Verifications that wait go on, and those that begin do not wait.
    Open,
    Close,
    /// The requests that wait are polled once.
    Poll,
    Revoke(usize),
    /// A revocation that the store does not answer: here it is in force from its beginning.
    RevokeInVain(usize),
    /// Time for the tasks in the background.
    Rest,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0..SUBJECTS).prop_map(Step::Ask),
        1 => Just(Step::Open),
        1 => Just(Step::Close),
        3 => Just(Step::Poll),
        1 => (0..SUBJECTS).prop_map(Step::Revoke),
        1 => (0..SUBJECTS).prop_map(Step::RevokeInVain),
        2 => Just(Step::Rest),
    ]
}

type Asking<'a> = Pin<Box<dyn Future<Output = bool> + 'a>>;

/// A request under way, and whose it is.
struct Waiting<'a> {
    subject: usize,
    answer: Asking<'a>,
}

impl Waiting<'_> {
    fn poll(&mut self) -> Option<bool> {
        match self.answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(accepted) => Some(accepted),
            Poll::Pending => None,
        }
    }
}

async fn run(steps: Vec<Step>) -> Result<usize, TestCaseError> {
    let store = Moody::default();
    let (door, closed) = watch::channel(true);
    let revocations = Revocations::builder(store.clone()).start().unwrap();
    revocations.ready().await.unwrap();
    let inner = CachedVerifier::new(verifier(closed));
    let inner = RevocableVerifier::new(inner, &revocations);
    let node = Node::behind(revocations, inner, SystemClock);
    let mut revoked = [false; SUBJECTS];
    let mut waiting: Vec<Waiting<'_>> = Vec::new();
    let mut accepted = 0;
    for step in steps {
        match step {
            Step::Ask(subject) => {
                let node = &node;
                let answer = Box::pin(async move { node.accepts(&subject.to_string()).await });
                waiting.push(Waiting { subject, answer });
            }
            Step::Open => drop(door.send_replace(true)),
            Step::Close => drop(door.send_replace(false)),
            Step::Poll => {}
            Step::Revoke(subject) => {
                store.is(Mood::Good);
                node.revoke(Revocation::subject(ISSUER, &subject.to_string())).await;
                revoked[subject] = true;
            }
            Step::RevokeInVain(subject) => {
                store.is(Mood::Hanging);
                let revocation = Revocation::subject(ISSUER, &subject.to_string());
                let mut revoking = Box::pin(node.revocations.revoke(revocation));
                let polled = revoking.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                prop_assert!(polled.is_pending());
                revoked[subject] = true;
            }
            Step::Rest => tokio::task::yield_now().await,
        }
        let mut failed = false;
        waiting.retain_mut(|request| match request.poll() {
            None => true,
            Some(is_accepted) => {
                accepted += usize::from(is_accepted);
                failed |= is_accepted == revoked[request.subject];
                false
            }
        });
        prop_assert!(!failed, "OPAQUE-70, attack 23: after {step:?} with {revoked:?}");
    }
    Ok(accepted)
}

#[test]
fn after_a_revocation_no_request_is_accepted_whatever_the_order() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let accepted = AtomicUsize::new(0);
    proptest!(ProptestConfig { cases: 512, ..ProptestConfig::default() },
        |(steps in vec(step(), 1..60))| {
            accepted.fetch_add(runtime.block_on(run(steps))?, Ordering::Relaxed);
        }
    );
    assert!(accepted.into_inner() > 1000, "most of the time, somebody comes in");
}

/// Each task looks whether a revocation has returned before it asks.
pub(crate) async fn under_load_no_request_is_accepted_after_a_revocation<S: Shared>(
    fresh: impl Fn() -> S,
) {
    const ASKING: usize = 6;
    const TOKENS: usize = 300;
    let revoked: Arc<Vec<AtomicBool>> =
        Arc::new((0..TOKENS).map(|_| AtomicBool::new(false)).collect());
    let inner = |request: VerifyRequest| async move {
        // Some take a while, so that a revocation often comes in the middle.
        for _ in 0..request.token.as_str().len() {
            tokio::task::yield_now().await;
        }
        Ok(Principal::builder(ISSUER, request.token.as_str()).build())
    };
    let shared = fresh();
    let revocations = Revocations::builder(shared.store().await).start().unwrap();
    revocations.ready().await.unwrap();
    let cached = CachedVerifier::new(inner).with_max_age(Duration::from_millis(2));
    let verifier = RevocableVerifier::new(cached, &revocations);
    let node = Node::behind(revocations, verifier, SystemClock);
    let stop = Arc::new(AtomicBool::new(false));
    let counts = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
    let wrong = Arc::<Mutex<Vec<usize>>>::default();
    let mut asking = tokio::task::JoinSet::new();
    for n in 0..ASKING {
        let (node, revoked, stop) = (node.clone(), revoked.clone(), stop.clone());
        let (counts, wrong) = (counts.clone(), wrong.clone());
        asking.spawn(async move {
            let mut token = n;
            while !stop.load(Ordering::Relaxed) {
                token = (token + 7) % TOKENS;
                let was_revoked = revoked[token].load(Ordering::SeqCst);
                let is_accepted = node.accepts(&format!("token-{token}")).await;
                counts[usize::from(is_accepted)].fetch_add(1, Ordering::Relaxed);
                if was_revoked && is_accepted {
                    wrong.lock().unwrap().push(token);
                }
                tokio::task::yield_now().await;
            }
        });
    }
    for token in 0..TOKENS {
        tokio::time::sleep(Duration::from_millis(3)).await;
        node.revoke(Revocation::subject(ISSUER, &format!("token-{token}"))).await;
        revoked[token].store(true, Ordering::SeqCst);
    }
    stop.store(true, Ordering::Relaxed);
    asking.join_all().await;
    assert_eq!(*wrong.lock().unwrap(), [] as [usize; 0], "OPAQUE-70, attack 23");
    let [refused, accepted] = [&counts[0], &counts[1]].map(|count| count.load(Ordering::Relaxed));
    assert!(refused > 1000 && accepted > 1000, "{accepted} accepted, {refused} refused");
}
