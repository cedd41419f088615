//! An endpoint that is asked and says nothing: whom it holds up, and for how long.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use serde_json::json;
use tokio::time::{Instant, advance, sleep};
use tower_gate::fetch::{FetchError, FetchRequest};
use tower_gate::verifier::introspection::{IntrospectionBuilder, IntrospectionVerifier};
use tower_gate::{ManualClock, TokenVerifier};

use crate::scene::{API, Api, ISSUER, active, ok, unavailable};

/// What the endpoint does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Answers,
    /// Not about the token `slow`, and at once about all others.
    AnswersButOne,
    Hangs,
    /// As where nobody can be connected to.
    FailsIn(Duration),
}

/// An API, and an endpoint without a network: on a clock that is paused, whoever does not have to
/// wait waits for no time at all.
struct Scene {
    api: Api,
    clock: ManualClock,
    mode: Arc<Mutex<Mode>>,
    asked: Arc<AtomicUsize>,
}

impl Scene {
    fn new(configure: impl FnOnce(IntrospectionBuilder) -> IntrospectionBuilder) -> Self {
        Self::around(configure, |verifier| verifier)
    }

    fn around<V: TokenVerifier>(
        configure: impl FnOnce(IntrospectionBuilder) -> IntrospectionBuilder,
        wrap: impl FnOnce(IntrospectionVerifier) -> V,
    ) -> Self {
        let clock = ManualClock::default();
        let (mode, asked) = (Arc::new(Mutex::new(Mode::Answers)), Arc::new(AtomicUsize::new(0)));
        let answer = active(&clock, json!({})).to_string();
        let (its_mode, count) = (mode.clone(), asked.clone());
        let fetch = move |question: FetchRequest| {
            count.fetch_add(1, Ordering::Relaxed);
            let (mode, answer) = (*its_mode.lock().unwrap(), answer.clone());
            let is_slow = question.request.body().starts_with(b"token=slow&");
            async move {
                match mode {
                    Mode::Hangs => std::future::pending().await,
                    Mode::AnswersButOne if is_slow => std::future::pending().await,
                    Mode::Answers | Mode::AnswersButOne => {}
                    Mode::FailsIn(time) => {
                        sleep(time).await;
                        return Err(FetchError::new("nobody is there"));
                    }
                }
                let answer = Response::builder()
                    .header("content-type", "application/json")
                    .body(Bytes::from(answer));
                answer.map_err(FetchError::new)
            }
        };
        let builder = IntrospectionVerifier::builder("https://issuer.example/introspect", fetch)
            .issuer(ISSUER)
            .audience(API)
            .with_client("reports-api", "s3cret");
        let api = Api::new(wrap(configure(builder).build().unwrap()), &clock);
        Self { api, clock, mode, asked }
    }

    /// Good answers about the tokens `known-0` to `known-9`, which are too old by now.
    async fn with_stale_answers() -> Self {
        let scene = Self::new(|builder| builder.with_stale_if_error(Duration::from_secs(3600)));
        for n in 0..10 {
            assert_eq!(scene.says(&format!("known-{n}")).await, (ok(), 0));
        }
        scene.clock.advance(Duration::from_secs(10));
        scene
    }

    fn goes(&self, mode: Mode) {
        *self.mode.lock().unwrap() = mode;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    /// The answer, and the milliseconds until it came.
    async fn says(&self, token: &str) -> ((u16, String), u128) {
        let began = Instant::now();
        let said = self.api.says(token).await;
        (said, began.elapsed().as_millis())
    }
}

const TIMEOUT: u128 = 5_000;

#[tokio::test(start_paused = true)]
async fn stale_answers_do_not_wait_for_an_endpoint_that_is_silent() {
    for (mode, wait) in [(Mode::Hangs, TIMEOUT), (Mode::FailsIn(Duration::from_secs(2)), 2_000)] {
        let scene = Scene::with_stale_answers().await;
        scene.goes(mode);
        assert_eq!(scene.says("known-0").await, (ok(), wait), "attack 26: {mode:?}");
        for n in 0..10 {
            assert_eq!(scene.says(&format!("known-{n}")).await, (ok(), 0), "attack 26: {mode:?}");
            assert!(scene.api.principal().is_stale(), "attack 26");
        }
        assert_eq!(scene.asked(), 11, "attack 26: {mode:?}: nobody asks in vain");
    }
}

#[tokio::test(start_paused = true)]
async fn fresh_questions_are_refused_at_once_while_the_endpoint_is_silent() {
    let scene = Scene::new(|builder| builder);
    scene.goes(Mode::Hangs);
    assert_eq!(scene.says("one").await, (unavailable(), TIMEOUT), "attack 26");
    // Also the same token again.
    for token in ["two", "three", "one"] {
        assert_eq!(scene.says(token).await, (unavailable(), 0), "attack 26: {token}");
        let answer = scene.api.get(token).await;
        assert_eq!(answer.header("retry-after"), "1", "attack 26: {token}");
    }
    assert_eq!(scene.asked(), 1, "attack 26");
}

/// `load` asks each time, also for what is remembered.
#[tokio::test(start_paused = true)]
async fn what_is_remembered_is_good_in_an_outage_and_does_not_end_it() {
    let scene = Scene::around(|builder| builder, |verifier| verifier.load(async |_| Ok("user")));
    assert_eq!(scene.says("known").await, (ok(), 0));
    scene.goes(Mode::Hangs);
    assert_eq!(scene.says("one").await, (unavailable(), TIMEOUT), "attack 26");
    assert_eq!(scene.says("known").await, (ok(), 0), "attack 26: it is remembered");
    // The pause is over: the one who asks is not one who need not.
    advance(Duration::from_secs(1)).await;
    assert_eq!(scene.says("known").await, (ok(), 0), "attack 26");
    assert_eq!(scene.says("two").await, (unavailable(), TIMEOUT), "attack 26: it is still silent");
    assert_eq!(scene.says("three").await, (unavailable(), 0), "attack 26: and known to be");
}

#[tokio::test(start_paused = true)]
async fn one_request_at_a_time_finds_out_whether_the_endpoint_is_back() {
    let scene = Scene::with_stale_answers().await;
    scene.goes(Mode::Hangs);
    scene.says("known-0").await;
    for round in 1..=3 {
        advance(Duration::from_secs(1)).await;
        let all = tokio::join!(
            scene.says("known-1"),
            scene.says("known-1"),
            scene.says("known-2"),
            scene.says("unknown"),
        );
        let expected = ((ok(), TIMEOUT), (ok(), 0), (ok(), 0), (unavailable(), 0));
        assert_eq!(all, expected, "attack 26: round {round}");
        assert_eq!(scene.asked(), 11 + round, "attack 26");
    }
    scene.goes(Mode::Answers);
    assert_eq!(scene.says("unknown").await, (unavailable(), 0), "attack 26: for a second");
    advance(Duration::from_secs(1)).await;
    for token in ["unknown", "known-1", "known-2"] {
        assert_eq!(scene.says(token).await, (ok(), 0), "OPAQUE-36: it is back");
        assert!(!scene.api.principal().is_stale(), "OPAQUE-36");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_takes_nobody_the_chance_to_find_out() {
    let scene = Scene::new(|builder| builder);
    scene.goes(Mode::Hangs);
    scene.says("one").await;
    advance(Duration::from_secs(1)).await;
    let left = tokio::time::timeout(Duration::from_secs(1), scene.api.says("two")).await;
    assert!(left.is_err(), "it waits for the endpoint");
    scene.goes(Mode::Answers);
    assert_eq!(scene.says("three").await, (ok(), 0), "OPAQUE-37");
}

/// Or else whoever has a token that takes the issuer long would keep everybody out.
#[tokio::test(start_paused = true)]
async fn an_endpoint_that_answers_others_meanwhile_is_not_silent() {
    let scene = Scene::new(|builder| builder);
    scene.goes(Mode::AnswersButOne);
    let (slow, _) = tokio::join!(scene.says("slow"), async {
        sleep(Duration::from_secs(1)).await;
        assert_eq!(scene.says("other").await, (ok(), 0));
    });
    assert_eq!(slow, (unavailable(), TIMEOUT));
    assert_eq!(scene.says("another").await, (ok(), 0), "attack 26");
}

#[tokio::test(start_paused = true)]
async fn failures_that_come_at_once_are_not_remembered() {
    let scene = Scene::new(|builder| builder);
    scene.goes(Mode::FailsIn(Duration::ZERO));
    for asked in 1..=5 {
        assert_eq!(scene.says("token").await, (unavailable(), 0), "OPAQUE-36");
        assert_eq!(scene.asked(), asked, "OPAQUE-36: it is asked each time");
    }
    scene.goes(Mode::Answers);
    assert_eq!(scene.says("token").await, (ok(), 0), "OPAQUE-36: recovery is seen at once");
}

/// With a timeout that is shorter than the pause.
#[tokio::test(start_paused = true)]
async fn a_short_timeout_is_worth_a_pause_too() {
    let scene = Scene::new(|builder| builder.with_timeout(Duration::from_millis(200)));
    scene.goes(Mode::Hangs);
    assert_eq!(scene.says("one").await, (unavailable(), 200), "attack 26");
    assert_eq!(scene.says("two").await, (unavailable(), 0), "attack 26");
}
