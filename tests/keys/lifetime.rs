//! How long keys are used, and who keeps them fresh.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, advance, sleep, timeout};
use tower_gate::fetch::{FetchError, FetchRequest};
use tower_gate::verifier::CachedVerifier;
use tower_gate::verifier::jwks::{InvalidJwks, Jwks};

use crate::gate::{Gate, claims, verifier};
use crate::memory::{MemoryIssuer, NAME};
use crate::signer::{Signer, jwks};

#[tokio::test(start_paused = true)]
async fn documents_are_fetched_ahead_of_their_end_within_bounds() {
    for (cache_control, seconds) in [
        ("", 480..=540),
        ("public, max-age=300", 240..=270),
        ("max-age=60", 60..=60),
        ("max-age=70", 60..=63),
        ("max-age=1", 60..=60),
        ("max-age=0", 60..=60),
        ("no-store", 60..=60),
        ("max-age=300, no-cache", 60..=60),
        ("max-age=31536000", 480..=540),
        ("max-age=99999999999999999999", 480..=540),
        ("max-age=soon", 480..=540),
    ] {
        let issuer = MemoryIssuer::new(&jwks(&[&Signer::new("a")]));
        issuer.set_cache_control(cache_control);
        let keys = issuer.jwks().start().unwrap();
        sleep(Duration::from_secs(3600)).await;
        let times = issuer.times();
        for pair in times.windows(2) {
            let gap = (pair[1] - pair[0]).as_secs();
            assert!(seconds.contains(&gap), "JWT-73: {cache_control:?} after {gap} s");
        }
        assert!(times.len() > 6, "JWT-73: without anybody asking");
        assert_eq!(keys.fetches(), times.len() as u64);
        assert!(keys.age().unwrap() <= Duration::from_secs(*seconds.end()));
    }
}

/// A cache between the issuer and the API has had the document for a while (RFC 9111 §4.2.3).
#[tokio::test(start_paused = true)]
async fn the_time_that_a_document_has_spent_in_a_cache_counts() {
    for (age, seconds) in [
        ("200", 80..=90),
        ("300", 60..=60),
        ("400", 60..=60),
        ("0", 240..=270),
        ("-1", 240..=270),
        ("soon", 240..=270),
        ("99999999999999999999", 240..=270),
    ] {
        let issuer = MemoryIssuer::new(&jwks(&[&Signer::new("a")]));
        issuer.set_cache_control("max-age=300");
        issuer.set_age(age);
        let _keys = issuer.jwks().start().unwrap();
        sleep(Duration::from_secs(400)).await;
        let gap = issuer.times()[1].as_secs();
        assert!(seconds.contains(&gap), "JWT-73: {age:?} after {gap} s");
    }
}

#[tokio::test(start_paused = true)]
async fn not_all_refresh_at_the_same_moment() {
    let issuers: Vec<_> = (0..20).map(|_| MemoryIssuer::new(&jwks(&[&Signer::new("a")]))).collect();
    let _keys: Vec<_> = issuers.iter().map(|issuer| issuer.jwks().start().unwrap()).collect();
    sleep(Duration::from_secs(600)).await;
    let mut seconds: Vec<_> = issuers.iter().map(|issuer| issuer.times()[1].as_secs()).collect();
    seconds.sort_unstable();
    seconds.dedup();
    assert!(seconds.len() > 5, "jitter: {seconds:?}");
}

#[tokio::test(start_paused = true)]
async fn the_last_good_keys_are_kept_for_a_bounded_time() {
    let signer = Signer::new("a");
    let issuer = MemoryIssuer::new(&jwks(&[&signer]));
    let keys = issuer.jwks().start().unwrap();
    keys.ready().await.unwrap();
    // Remembered tokens must not outlive the keys either.
    let cached = CachedVerifier::new(verifier(NAME, &keys)).with_max_age(Duration::MAX);
    let gate = Gate::new(cached);
    let token = signer.token(&claims(NAME, "user-1"));
    issuer.go_down();
    for _ in 0..69 {
        assert_eq!(gate.get(&token).await.text, "200 user-1", "JWT-74");
        advance(Duration::from_secs(60)).await;
        tokio::task::yield_now().await;
    }
    assert!(keys.failures() > 10, "JWT-74: the operator can see it");
    let fetches = issuer.fetches();
    assert!(fetches < 90, "{fetches} tries in 69 minutes");
    sleep(Duration::from_secs(61)).await;
    gate.get(&token).await.is_outage("JWT-74: ten minutes and an hour are over");

    issuer.publish(&jwks(&[&signer]));
    sleep(Duration::from_secs(60)).await;
    assert_eq!(gate.get(&token).await.text, "200 user-1", "JWT-74");
    assert_eq!(keys.failures(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_is_down_is_asked_again_after_1_2_4_to_60_seconds() {
    let issuer = MemoryIssuer::down();
    let keys = issuer.jwks().start().unwrap();
    let gate = Gate::new(verifier(NAME, &keys));
    let token = Signer::new("a").token(&claims(NAME, "user-1"));
    for _ in 0..300 {
        let answer = gate.get(&token).await;
        answer.is_outage("JWT-74");
        sleep(Duration::from_secs(1)).await;
    }
    let times = issuer.times();
    for (pair, seconds) in times.windows(2).zip([1, 2, 4, 8, 16, 32, 60, 60]) {
        let (gap, most) = (pair[1] - pair[0], Duration::from_secs(seconds));
        assert!(gap <= most && gap >= most * 7 / 10, "JWT-74: {gap:?}, not {most:?}");
    }
}

/// Each waits as long as one fetch may take, all of them for the first one, and no more than 256.
#[tokio::test(start_paused = true)]
async fn requests_that_wait_for_the_first_keys_are_few_and_wait_briefly() {
    let signer = Signer::new("a");
    let issuer = MemoryIssuer::new(&jwks(&[&signer]));
    let held = issuer.hold();
    let keys = issuer.jwks().start().unwrap();
    let gate = Gate::new(verifier(NAME, &keys));
    let token = signer.token(&claims(NAME, "user-1"));
    let answer = async |gate: Gate, token: String| {
        let began = Instant::now();
        let answer = gate.get(&token).await;
        (answer, began.elapsed().as_secs())
    };
    let mut waiting = JoinSet::new();
    for _ in 0..1_000 {
        waiting.spawn(answer(gate.clone(), token.clone()));
    }
    let (at_once, late): (Vec<_>, Vec<_>) =
        waiting.join_all().await.into_iter().partition(|(_, seconds)| *seconds == 0);
    assert_eq!((at_once.len(), late.len()), (744, 256), "JWT-74");
    for (answer, seconds) in at_once.iter().chain(&late) {
        answer.is_outage("JWT-74");
        assert!([0, 5].contains(seconds), "JWT-74: {seconds} seconds");
    }
    // The first fetch has failed by now, and the issuer hangs on: nobody waits for the next.
    for _ in 0..20 {
        let (answer, seconds) = answer(gate.clone(), token.clone()).await;
        answer.is_outage("JWT-74");
        assert_eq!(seconds, 0, "JWT-74: the issuer is known to be down");
        sleep(Duration::from_millis(500)).await;
    }
    held.add_permits(10);
    sleep(Duration::from_secs(10)).await;
    assert_eq!(gate.get(&token).await.text, "200 user-1", "JWT-74");
}

/// Each address of discovery may take its time, of which a request waits for one.
#[tokio::test(start_paused = true)]
async fn a_request_does_not_wait_for_all_addresses_of_an_issuer_that_hangs() {
    let issuer = MemoryIssuer::down();
    let _held = issuer.hold();
    let keys = Jwks::discover(NAME, issuer.fetch()).unwrap().start().unwrap();
    let gate = Gate::new(verifier(NAME, &keys));
    let began = Instant::now();
    let token = Signer::new("a").token(&claims(NAME, "user-1"));
    gate.get(&token).await.is_outage("JWT-74");
    assert_eq!(began.elapsed().as_secs(), 5, "JWT-74");
}

/// Those who wait are let in with the keys, and make room for others.
#[tokio::test(start_paused = true)]
async fn requests_wait_for_keys_that_come_in_time() {
    let signer = Signer::new("a");
    let issuer = MemoryIssuer::new(&jwks(&[&signer]));
    let held = issuer.hold();
    let keys = issuer.jwks().start().unwrap();
    let gate = Gate::new(verifier(NAME, &keys));
    let token = signer.token(&claims(NAME, "user-1"));
    let ask = |gate: Gate, token: String| async move { gate.get(&token).await.text };
    // Each of these clients leaves.
    for _ in 0..300 {
        let left = timeout(Duration::from_millis(1), ask(gate.clone(), token.clone())).await;
        assert!(left.is_err(), "JWT-74: it waits");
    }
    let mut waiting = JoinSet::new();
    for _ in 0..256 {
        waiting.spawn(ask(gate.clone(), token.clone()));
    }
    tokio::task::yield_now().await;
    held.add_permits(1);
    assert_eq!(waiting.join_all().await, vec!["200 user-1"; 256], "JWT-74");
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_logged_when_it_begins_and_when_the_keys_are_too_old() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    let issuer = MemoryIssuer::new(&jwks(&[&Signer::new("a")]));
    let keys = issuer.jwks().start().unwrap();
    keys.ready().await.unwrap();
    assert_eq!(log.lines(), [] as [&str; 0]);
    issuer.go_down();
    sleep(Duration::from_secs(4100)).await;
    let lines = log.lines();
    assert_eq!(lines.len(), 1, "JWT-74, attack 20: {lines:?}");
    assert!(lines[0].contains("WARN") && lines[0].contains("refused"), "{lines:?}");
    sleep(Duration::from_secs(3600)).await;
    let lines = log.lines();
    assert_eq!(lines.len(), 2, "JWT-74: {lines:?}");
    assert!(lines[1].contains("ERROR") && lines[1].contains("too old"), "{lines:?}");
    // The end of the program is no outage.
    drop(keys);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(log.lines().len(), 2);
}

/// A set has the same odd keys for months, and Keycloak's has one for encryption always.
#[tokio::test(start_paused = true)]
async fn a_key_that_is_not_used_is_logged_when_the_set_changes_and_not_at_every_fetch() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG);
    let subscriber = subscriber.with_writer(move || writer.clone()).finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    let levels = || {
        let lines = log.lines().into_iter().filter(|line| line.contains("key of the set"));
        lines.map(|line| line.split_whitespace().nth(1).unwrap().to_owned()).collect::<Vec<_>>()
    };
    let encryption = Signer::rsa("e").jwk_with(&json!({ "use": "enc", "alg": "RSA-OAEP" }));
    let odd = json!({ "kty": "FOO", "kid": "odd" });
    let set = |good: &str| json!({ "keys": [encryption, odd, Signer::new(good).jwk()] });
    let issuer = MemoryIssuer::new(&set("a"));
    let keys = issuer.jwks().start().unwrap();
    keys.ready().await.unwrap();
    assert_eq!(levels(), ["DEBUG", "WARN"], "JWT-51, JWT-52");
    sleep(Duration::from_secs(3600)).await;
    assert!(issuer.fetches() > 5);
    assert_eq!(levels(), ["DEBUG", "WARN"], "JWT-51: known");
    issuer.publish(&set("b"));
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(levels(), ["DEBUG", "WARN", "DEBUG", "WARN"], "JWT-51: another set");
    // What is called otherwise than it should be is a mistake, and nobody's habit.
    issuer.publish(&json!({ "keys": [Signer::new("a").jwk_with(&json!({ "use": "SIG" })), odd] }));
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(levels()[4..], ["WARN", "WARN"], "JWT-52");
}

/// What was logged.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub(crate) fn lines(&self) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `Retry-After` is the time until the next try.
#[tokio::test(start_paused = true)]
async fn clients_are_told_to_come_back_when_the_issuer_is_asked_again() {
    let issuer = MemoryIssuer::down();
    let keys = issuer.jwks().start().unwrap();
    let gate = Gate::new(verifier(NAME, &keys));
    let token = Signer::new("a").token(&claims(NAME, "user-1"));
    // By then the tries are a minute apart.
    sleep(Duration::from_secs(200)).await;
    let fetches = issuer.fetches();
    let wait = gate.get(&token).await.retry_after.unwrap();
    // Timers that end within one millisecond fire in any order.
    sleep(Duration::from_secs(wait) + Duration::from_millis(1)).await;
    assert_eq!(issuer.fetches(), fetches + 1, "JWT-74, RL-21");
}

#[tokio::test(start_paused = true)]
async fn the_task_ends_with_the_last_owner_of_the_keys() {
    let signer = Signer::new("a");
    let issuer = MemoryIssuer::new(&jwks(&[&signer]));
    let keys = issuer.jwks().start().unwrap();
    keys.ready().await.unwrap();
    let clone = keys.clone();
    let gate = Gate::new(verifier(NAME, &keys));
    drop((keys, clone));
    sleep(Duration::from_secs(3600)).await;
    assert!(issuer.fetches() > 6, "a verifier is an owner");
    let token = signer.token(&claims(NAME, "user-1"));
    assert_eq!(gate.get(&token).await.text, "200 user-1");

    // Also in the middle of a fetch.
    let _held = issuer.hold();
    sleep(Duration::from_secs(540)).await;
    drop(gate);
    tokio::task::yield_now().await;
    assert!(issuer.is_forgotten(), "nobody is left who could ask");
}

/// A runtime of its own, which ends too early, leaves keys that nobody would ever replace.
#[test]
fn keys_do_not_outlive_the_runtime_that_keeps_them_fresh() {
    let signer = Signer::new("a");
    let issuer = MemoryIssuer::new(&jwks(&[&signer]));
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let short = runtime();
    let keys = short.block_on(async {
        let keys = issuer.jwks().start().unwrap();
        keys.ready().await.unwrap();
        keys
    });
    let gate = Gate::new(verifier(NAME, &keys));
    let token = signer.token(&claims(NAME, "user-1"));
    let serving = runtime();
    assert_eq!(serving.block_on(gate.get(&token)).text, "200 user-1");
    drop(short);
    serving.block_on(gate.get(&token)).is_outage("a known end, and no wait for it");
    let error = serving.block_on(keys.ready()).unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("runtime"), "{cause}");
}

#[tokio::test(start_paused = true)]
async fn a_fetcher_that_panics_is_an_issuer_that_is_down() {
    let signer = Signer::new("a");
    let document = jwks(&[&signer]).to_string();
    let tries = std::sync::atomic::AtomicUsize::new(0);
    let fetch = move |_: FetchRequest| {
        let tried = tries.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let document = document.clone();
        async move {
            assert!(tried > 1, "a bug in the fetcher");
            Ok::<_, FetchError>(http::Response::new(document.into()))
        }
    };
    let keys = Jwks::at("https://h/keys", fetch).unwrap().start().unwrap();
    let gate = Gate::new(verifier(NAME, &keys));
    let token = signer.token(&claims(NAME, "user-1"));
    gate.get(&token).await.is_outage("the first fetch panicked");
    sleep(Duration::from_secs(5)).await;
    assert_eq!(gate.get(&token).await.text, "200 user-1", "the third one did not");
}

#[tokio::test]
async fn times_that_cannot_be_kept_are_refused() {
    let second = Duration::from_secs(1);
    let issuer = MemoryIssuer::new(&json!({}));
    for (builder, is_fine) in [
        (issuer.jwks(), true),
        (issuer.jwks().with_refresh(second, second), true),
        (issuer.jwks().with_max_stale(Duration::ZERO), true),
        (issuer.jwks().with_refresh(Duration::ZERO, second), false),
        (issuer.jwks().with_refresh(second * 2, second), false),
        (issuer.jwks().with_refresh(second, Duration::MAX), false),
        (issuer.jwks().with_max_stale(Duration::MAX), false),
        (issuer.jwks().with_cooldown(Duration::ZERO), false),
        (issuer.jwks().with_cooldown(Duration::MAX), false),
        (issuer.jwks().with_timeout(Duration::ZERO), false),
        (issuer.jwks().with_timeout(Duration::MAX), false),
    ] {
        let shown = format!("{builder:?}");
        let refused = builder.start().err();
        assert_eq!(refused, (!is_fine).then_some(InvalidJwks::Times), "{shown}");
    }
}
