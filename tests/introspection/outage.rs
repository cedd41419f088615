//! An endpoint that is asked and says nothing: whom it holds up, and for how long.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::Response;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, advance, sleep};
use tower_gate::fetch::{FetchError, FetchRequest};
use tower_gate::verifier::introspection::{IntrospectionBuilder, IntrospectionVerifier};
use tower_gate::verifier::jwks::Jwks;
use tower_gate::{ManualClock, TokenVerifier};

use crate::scene::{API, Api, ISSUER, active, ok, unavailable};

/// What the endpoint does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Answers,
    /// Not about tokens that begin with `slow`, and at once about all others.
    AnswersButSlow,
    /// Something else than an answer, after two seconds.
    Says(u16, &'static str),
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
            let is_slow = question.request.body().starts_with(b"token=slow");
            async move {
                match mode {
                    Mode::Hangs => std::future::pending().await,
                    Mode::AnswersButSlow if is_slow => std::future::pending().await,
                    Mode::Answers | Mode::AnswersButSlow => {}
                    Mode::Says(status, text) => {
                        sleep(Duration::from_secs(2)).await;
                        let answer = Response::builder()
                            .status(status)
                            .header("content-type", "application/json")
                            .body(Bytes::from(text));
                        return answer.map_err(FetchError::new);
                    }
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

    /// Asks about four tokens at once, after which the endpoint is known to be silent.
    async fn falls_silent(&self) {
        self.goes(Mode::Hangs);
        let said = self.say(["silent-0", "silent-1", "silent-2", "silent-3"]).await;
        assert_eq!(said, [(); 4].map(|()| (unavailable(), TIMEOUT)), "attack 26");
    }

    async fn say(&self, tokens: [&str; 4]) -> [((u16, String), u128); 4] {
        let [a, b, c, d] = tokens.map(|token| self.says(token));
        <[_; 4]>::from(tokio::join!(a, b, c, d))
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
        let said = scene.say(["known-0", "known-1", "known-2", "known-3"]).await;
        assert_eq!(said, [(); 4].map(|()| (ok(), wait)), "attack 26: {mode:?}");
        for n in 0..10 {
            assert_eq!(scene.says(&format!("known-{n}")).await, (ok(), 0), "attack 26: {mode:?}");
            assert!(scene.api.principal().is_stale(), "attack 26");
        }
        assert_eq!(scene.asked(), 14, "attack 26: {mode:?}: nobody asks in vain");
    }
}

#[tokio::test(start_paused = true)]
async fn fresh_questions_are_refused_at_once_while_the_endpoint_is_silent() {
    let scene = Scene::new(|builder| builder);
    scene.falls_silent().await;
    // Also the same token again.
    for token in ["one", "two", "silent-0"] {
        assert_eq!(scene.says(token).await, (unavailable(), 0), "attack 26: {token}");
        let answer = scene.api.get(token).await;
        assert_eq!(answer.header("retry-after"), "1", "attack 26: {token}");
    }
    assert_eq!(scene.asked(), 4, "attack 26");
}

/// `load` asks each time, also for what is remembered.
#[tokio::test(start_paused = true)]
async fn what_is_remembered_is_good_in_an_outage_and_does_not_end_it() {
    let scene = Scene::around(|builder| builder, |verifier| verifier.load(async |_| Ok("user")));
    assert_eq!(scene.says("known").await, (ok(), 0));
    scene.falls_silent().await;
    assert_eq!(scene.says("known").await, (ok(), 0), "attack 26: it is remembered");
    // The pause is over: those who ask are not those who need not.
    advance(Duration::from_secs(1)).await;
    assert_eq!(scene.says("known").await, (ok(), 0), "attack 26");
    let said = scene.say(["one", "two", "three", "four"]).await;
    assert_eq!(said, [(); 4].map(|()| (unavailable(), TIMEOUT)), "attack 26: it is still silent");
    assert_eq!(scene.says("five").await, (unavailable(), 0), "attack 26: and known to be");
}

#[tokio::test(start_paused = true)]
async fn four_tokens_at_a_time_find_out_whether_the_endpoint_is_back() {
    let scene = Scene::with_stale_answers().await;
    scene.falls_silent().await;
    for round in 1..=3 {
        advance(Duration::from_secs(1)).await;
        let (tried, again, others) = tokio::join!(
            scene.say(["known-1", "known-2", "known-3", "unknown"]),
            scene.says("known-1"),
            scene.say(["known-4", "another", "known-5", "silent-0"]),
        );
        let waited = [ok(), ok(), ok(), unavailable()].map(|said| (said, TIMEOUT));
        assert_eq!(tried, waited, "attack 26: round {round}");
        assert_eq!(again, (ok(), 0), "attack 26: one request for each token");
        let at_once = [ok(), unavailable(), ok(), unavailable()].map(|said| (said, 0));
        assert_eq!(others, at_once, "attack 26: round {round}");
        assert_eq!(scene.asked(), 14 + 4 * round, "attack 26");
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
async fn clients_that_leave_take_nobody_the_chance_to_find_out() {
    let scene = Scene::new(|builder| builder);
    scene.falls_silent().await;
    advance(Duration::from_secs(1)).await;
    let trials = scene.say(["one", "two", "three", "four"]);
    let left = tokio::time::timeout(Duration::from_secs(1), trials).await;
    assert!(left.is_err(), "they wait for the endpoint");
    scene.goes(Mode::Answers);
    assert_eq!(scene.says("five").await, (ok(), 0), "OPAQUE-37");
}

/// Or else whoever has a token that takes the issuer long would keep everybody out, also of an API
/// that has nothing else to do.
#[tokio::test(start_paused = true)]
async fn a_few_tokens_that_the_endpoint_is_silent_about_keep_nobody_else_out() {
    let scene = Scene::new(|builder| builder);
    scene.goes(Mode::AnswersButSlow);
    for round in 1..=5 {
        let slow = tokio::join!(scene.says("slow-0"), scene.says("slow-1"), scene.says("slow-2"));
        let waited = (unavailable(), TIMEOUT);
        assert_eq!(slow, (waited.clone(), waited.clone(), waited), "attack 26");
        assert_eq!(scene.says("slow-0").await, (unavailable(), 0), "attack 26: nobody waits again");
        let asked = scene.asked();
        assert_eq!(scene.says(&format!("good-{round}")).await, (ok(), 0), "attack 26: {round}");
        assert_eq!(scene.asked(), asked + 1, "attack 26");
    }
}

/// One token that is asked about all the time, and everybody's requests between.
#[tokio::test(start_paused = true)]
async fn the_trial_is_not_always_that_of_one_token() {
    let scene = Scene::new(|builder| builder);
    scene.falls_silent().await;
    scene.goes(Mode::AnswersButSlow);
    advance(Duration::from_secs(1)).await;
    let (slow, others) = tokio::join!(
        async { tokio::join!(scene.says("slow"), scene.says("slow"), scene.says("slow")) },
        async {
            sleep(Duration::from_millis(1)).await;
            [scene.says("one").await, scene.says("two").await]
        },
    );
    let at_once = (unavailable(), 0);
    assert_eq!(slow, ((unavailable(), TIMEOUT), at_once.clone(), at_once), "attack 26");
    assert_eq!(others, [(ok(), 0), (ok(), 0)], "attack 26: two who may try, and end it");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_answers_others_meanwhile_is_not_silent() {
    let scene = Scene::new(|builder| builder);
    scene.goes(Mode::AnswersButSlow);
    let (slow, ()) = tokio::join!(scene.say(["slow-0", "slow-1", "slow-2", "slow-3"]), async {
        sleep(Duration::from_secs(1)).await;
        assert_eq!(scene.says("other").await, (ok(), 0));
    });
    assert_eq!(slow, [(); 4].map(|()| (unavailable(), TIMEOUT)));
    assert_eq!(scene.says("another").await, (ok(), 0), "attack 26");
}

/// It has not refused or lost anybody's token with that, but it is there.
#[tokio::test(start_paused = true)]
async fn an_endpoint_that_says_something_else_is_not_silent() {
    for (status, text) in [(401, ""), (500, ""), (302, ""), (200, "<html>"), (200, "{}")] {
        let scene = Scene::new(|builder| builder);
        scene.goes(Mode::Says(status, text));
        let said = scene.say(["one", "two", "three", "four"]).await;
        assert_eq!(said, [(); 4].map(|()| (unavailable(), 2_000)), "OPAQUE-34");
        scene.goes(Mode::Answers);
        assert_eq!(scene.says("five").await, (ok(), 0), "attack 26: {status} {text:?}");
    }
}

/// The answers come; it is the keys of their signatures that do not.
#[tokio::test(start_paused = true)]
async fn keys_of_signed_answers_that_hang_do_not_make_the_endpoint_silent() {
    let never = |_: FetchRequest| std::future::pending::<Result<Response<Bytes>, FetchError>>();
    let keys = Jwks::at("https://issuer.example/keys", never).unwrap();
    let keys = keys.with_timeout(Duration::from_secs(60)).start().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let fetch = move |_: FetchRequest| {
        count.fetch_add(1, Ordering::Relaxed);
        let header = URL_SAFE_NO_PAD.encode(r#"{"typ":"token-introspection+jwt","alg":"EdDSA"}"#);
        let answer = Response::builder()
            .header("content-type", "application/token-introspection+jwt")
            .body(Bytes::from(format!("{header}.e30.{}", URL_SAFE_NO_PAD.encode([0; 64]))));
        async { answer.map_err(FetchError::new) }
    };
    let verifier = IntrospectionVerifier::builder("https://issuer.example/introspect", fetch)
        .issuer(ISSUER)
        .audience(API)
        .with_client("reports-api", "s3cret")
        .with_signed_answers(&keys, "reports-api")
        .build()
        .unwrap();
    let api = Api::new(verifier, &ManualClock::default());
    for n in 1..=6 {
        assert_eq!(api.says(&format!("token-{n}")).await, unavailable(), "attack 26");
        assert_eq!(asked.load(Ordering::Relaxed), n, "attack 26: the endpoint is asked on");
    }
}

/// All requests with a token wait for one answer, which must not gather them without end.
#[tokio::test(start_paused = true)]
async fn so_many_requests_wait_for_an_answer_and_no_more() {
    let scene = Scene::new(|builder| builder);
    scene.goes(Mode::Hangs);
    let mut waiting = JoinSet::new();
    for _ in 0..16_484 {
        let api = scene.api.clone();
        waiting.spawn(async move {
            let began = Instant::now();
            (api.says("token").await, began.elapsed().as_millis())
        });
    }
    let (at_once, late): (Vec<_>, Vec<_>) =
        waiting.join_all().await.into_iter().partition(|(_, waited)| *waited == 0);
    assert_eq!((at_once.len(), late.len()), (100, 16_384), "attack 26");
    for (said, waited) in at_once.iter().chain(&late) {
        assert_eq!(*said, unavailable(), "attack 26");
        assert!([0, TIMEOUT].contains(waited), "attack 26: {waited} ms");
    }
    assert_eq!(scene.asked(), 1, "OPAQUE-37");
    scene.goes(Mode::Answers);
    assert_eq!(scene.says("other").await, (ok(), 0), "attack 26: there is room again");
}

/// What was asked before the endpoint was known to be silent tells nothing new.
#[tokio::test(start_paused = true)]
async fn a_trial_asks_a_question_of_its_own() {
    let scene = Scene::new(|builder| builder);
    let ((), (early, _)) = tokio::join!(scene.falls_silent(), async {
        sleep(Duration::from_secs(3)).await;
        let early = scene.says("token");
        let trial = async {
            sleep(Duration::from_secs(3)).await;
            scene.goes(Mode::Answers);
            let asked = scene.asked();
            assert_eq!(scene.says("token").await, (ok(), 0), "OPAQUE-36");
            assert_eq!(scene.asked(), asked + 1, "attack 26");
        };
        tokio::join!(early, trial)
    });
    assert_eq!(early, (unavailable(), TIMEOUT));
}

#[tokio::test(start_paused = true)]
async fn failures_that_come_at_once_are_not_remembered() {
    let scene = Scene::new(|builder| builder);
    scene.goes(Mode::FailsIn(Duration::ZERO));
    for asked in 1..=5 {
        let said = scene.says(&format!("token-{asked}")).await;
        assert_eq!(said, (unavailable(), 0), "OPAQUE-36");
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
    let said = scene.say(["one", "two", "three", "four"]).await;
    assert_eq!(said, [(); 4].map(|()| (unavailable(), 200)), "attack 26");
    assert_eq!(scene.says("five").await, (unavailable(), 0), "attack 26");
}
