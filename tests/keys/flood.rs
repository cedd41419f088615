//! Tokens that name keys which nobody has.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{advance, sleep};

use crate::gate::{Answer, Gate, claims, verifier};
use crate::issuer::{Issuer, JWKS, Reply};
use crate::lifetime::Log;
use crate::memory::{MemoryIssuer, NAME};
use crate::signer::{Signer, jwks};

fn stray(n: usize) -> String {
    stray_of(NAME, n)
}

/// A token for a good signature of which nobody would have the key.
fn stray_of(issuer: &str, n: usize) -> String {
    use crate::signer::base64url;
    let header = json!({ "alg": "EdDSA", "typ": "at+jwt", "kid": format!("random {n}") });
    let claims = claims(issuer, "user-1").to_string();
    format!("{}.{}.{}", base64url(header.to_string()), base64url(claims), base64url([0; 64]))
}

#[tokio::test(start_paused = true)]
async fn random_key_names_cause_two_fetches_a_minute_and_hide_no_rotation() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let issuer = MemoryIssuer::new(&jwks(&[&old]));
    let keys = issuer.jwks().start().unwrap();
    keys.ready().await.unwrap();
    let gate = Gate::new(verifier(NAME, &keys));
    let good = old.token(&claims(NAME, "user-1"));
    let rotated = new.token(&claims(NAME, "user-2"));

    let (mut waited, mut missing) = (None, 0);
    for n in 0..10_000 {
        // 10 000 in five minutes.
        sleep(Duration::from_millis(30)).await;
        missing += usize::from(is_missing(&gate.get(&stray(n)).await));
        if n % 100 == 0 {
            assert_eq!(gate.get(&good).await.text, "200 user-1", "attack 18");
        }
        if n == 5_003 {
            issuer.publish(&jwks(&[&old, &new]));
            waited = Some(Duration::ZERO);
        }
        if let Some(time) = &mut waited {
            let answer = gate.get(&rotated).await;
            if answer.text == "200 user-2" {
                assert!(*time <= Duration::from_secs(31), "attack 19: {time:?}");
                waited = None;
            } else {
                answer.is_outage("attack 19: the strays have used up its fetch, and it is good");
                *time += Duration::from_millis(30);
            }
        }
    }
    assert_eq!(waited, None, "attack 19: the rotation was never seen");
    // The first one, one at once, and one each 30 seconds.
    let fetches = issuer.fetches();
    assert!((10..=12).contains(&fetches), "attack 18: {fetches} fetches in five minutes");
    assert!(missing < fetches, "attack 18: {missing} names were looked for, in {fetches} fetches");
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_random_key_names_does_not_fill_the_log() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    let issuer = MemoryIssuer::new(&jwks(&[&Signer::new("a")]));
    let keys = issuer.jwks().start().unwrap();
    keys.ready().await.unwrap();
    let gate = Gate::new(verifier(NAME, &keys));
    for lines in 1..=2 {
        for n in 0..1_000 {
            gate.get(&stray(n)).await;
        }
        assert_eq!(log.lines().len(), lines, "attack 18");
        gate.clock.advance(Duration::from_secs(10));
    }
}

/// Whether a stray key name was looked for: the others are not known to be wrong.
#[track_caller]
fn is_missing(answer: &Answer) -> bool {
    if answer.text == "401 unknown_key" {
        return true;
    }
    answer.is_outage("attack 18: it was not looked for");
    false
}

/// The same in real time, with the API and its issuer behind sockets and a cooldown of a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_in_a_flood_over_http_is_seen_within_the_cooldown() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let issuer = Issuer::with_keys(&jwks(&[&old])).await;
    let name = issuer.name();
    let (second, day) = (Duration::from_secs(1), Duration::from_secs(86_400));
    let keys = issuer.jwks().with_refresh(day, day).with_cooldown(second).start().unwrap();
    keys.ready().await.unwrap();
    let api = Gate::new(verifier(&name, &keys)).serve().await;
    let [good, rotated] = [&old, &new].map(|signer| signer.token(&claims(&name, "user-1")));

    let began = Instant::now();
    let (mut published, mut seen) = (None, None);
    for n in 0.. {
        is_missing(&api.get(&stray_of(&name, n)).await);
        if n == 5_000 {
            issuer.serve(JWKS, Reply::json(&jwks(&[&old, &new])));
            published = Some(Instant::now());
        }
        if n % 100 == 0 {
            assert_eq!(api.get(&good).await.text, "200 user-1", "attack 18: {n}");
            if let Some(published) = published
                && seen.is_none()
            {
                let answer = api.get(&rotated).await;
                if answer.text == "200 user-1" {
                    seen = Some(published.elapsed());
                } else {
                    answer.is_outage("attack 19: it is good");
                }
            }
        }
        if n >= 10_000 && seen.is_some() {
            break;
        }
        assert!(began.elapsed() < second * 60, "attack 19: the rotation was not seen");
    }
    assert!(seen.unwrap() < second * 5, "attack 19: {seen:?}");
    let most = 3 + began.elapsed().as_secs();
    let fetches = issuer.count(JWKS) as u64;
    assert!(fetches <= most, "attack 18: {fetches} fetches in {:?}", began.elapsed());
}

#[tokio::test]
async fn concurrent_strays_cause_one_fetch() {
    let signer = Signer::new("a");
    let issuer = MemoryIssuer::new(&jwks(&[&signer]));
    let keys = issuer.jwks().start().unwrap();
    keys.ready().await.unwrap();
    let gate = Gate::new(verifier(NAME, &keys));
    let mut strays = JoinSet::new();
    for n in 0..1_000 {
        let gate = gate.clone();
        strays.spawn(async move { gate.get(&stray(n)).await.text });
    }
    let answers = strays.join_all().await;
    let waited = answers.iter().filter(|answer| *answer == "401 unknown_key").count();
    let others = answers.iter().filter(|answer| *answer == "503 verifier_unavailable").count();
    assert_eq!(
        (waited, others),
        (256, 744),
        "JWT-71, attack 18: as many names as may be waited for"
    );
    assert_eq!(issuer.fetches(), 2, "JWT-71, JWT-72: the first, and one more");
}

/// A regular refresh is under way, and does not end until it has leave.
async fn hanging() -> (MemoryIssuer, Gate, Signer, Arc<Semaphore>) {
    let signer = Signer::new("a");
    let issuer = MemoryIssuer::new(&jwks(&[&signer]));
    let keys = issuer.jwks().start().unwrap();
    keys.ready().await.unwrap();
    let gate = Gate::new(verifier(NAME, &keys));
    let held = issuer.hold();
    while issuer.fetches() < 2 {
        sleep(Duration::from_secs(1)).await;
    }
    (issuer, gate, signer, held)
}

/// Sends it, and says what came of it and after how many milliseconds.
async fn timed(gate: Gate, token: String) -> (Answer, u128) {
    let began = tokio::time::Instant::now();
    let answer = gate.get(&token).await;
    (answer, began.elapsed().as_millis())
}

/// On a clock that is paused, this is over when everybody waits.
async fn settled() {
    sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_hangs_gathers_few_requests_with_random_key_names_for_one_timeout() {
    let (_issuer, gate, signer, _held) = hanging().await;
    let mut strays = JoinSet::new();
    for n in 0..10_000 {
        strays.spawn(timed(gate.clone(), stray(n)));
    }
    settled().await;
    let good = timed(gate.clone(), signer.token(&claims(NAME, "user-1"))).await;
    assert_eq!(
        (&*good.0.text, good.1),
        ("200 user-1", 0),
        "attack 18: a good token waits for nothing"
    );
    let answers = strays.join_all().await;
    for (answer, waited) in &answers {
        answer.is_outage("attack 18: it may be a key of today");
        assert!(*waited <= 5_000, "attack 18, JWT-72: {waited} ms");
    }
    let waited = answers.iter().filter(|(_, waited)| *waited > 0).count();
    assert_eq!(waited, 256, "attack 18");
    // Their places are free again, and so are those of clients that left.
    for round in 0..3 {
        let mut strays = JoinSet::new();
        for n in 0..256 {
            strays.spawn(timed(gate.clone(), stray(20_000 + 256 * round + n)));
        }
        settled().await;
        let (answer, waited) = timed(gate.clone(), stray(0)).await;
        answer.is_outage("attack 18");
        assert_eq!(waited, 0, "attack 18: round {round}");
        strays.shutdown().await;
    }
}

/// An issuer rotates, and takes its time: all tokens name the same new key.
#[tokio::test(start_paused = true)]
async fn as_many_as_a_busy_api_has_may_wait_for_one_new_key() {
    let (issuer, gate, signer, held) = hanging().await;
    let new = Signer::new("new");
    issuer.publish(&jwks(&[&signer, &new]));
    let token = new.token(&claims(NAME, "user-1"));
    let mut waiting = JoinSet::new();
    for _ in 0..16_384 {
        waiting.spawn(timed(gate.clone(), token.clone()));
    }
    settled().await;
    let (answer, waited) = timed(gate.clone(), token.clone()).await;
    answer.is_outage("attack 18: the bound");
    assert_eq!(waited, 0, "attack 18: whatever is more does not wait");
    held.add_permits(2);
    for (answer, _) in waiting.join_all().await {
        assert_eq!(answer.text, "200 user-1", "JWT-70, JWT-72");
    }
    assert_eq!(issuer.fetches(), 3, "JWT-72");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_on_with_a_withdrawn_key_is_looked_up_ever_more_rarely() {
    let (withdrawn, signer) = (Signer::new("withdrawn"), Signer::new("a"));
    let issuer = MemoryIssuer::new(&jwks(&[&signer]));
    let longest = Duration::from_secs(86_400);
    let keys = issuer.jwks().with_refresh(longest, longest).start().unwrap();
    keys.ready().await.unwrap();
    let gate = Gate::new(verifier(NAME, &keys));
    let token = withdrawn.token(&claims(NAME, "user-1"));
    for _ in 0..600 {
        assert_eq!(gate.get(&token).await.text, "401 unknown_key");
        sleep(Duration::from_secs(1)).await;
    }
    let times: Vec<_> = issuer.times().iter().map(Duration::as_secs).collect();
    assert_eq!(times, [0, 0, 30, 90, 210, 330, 450, 570], "JWT-71");
}

#[tokio::test(start_paused = true)]
async fn a_key_that_signs_before_it_is_published_is_found_half_a_minute_later() {
    let (early, signer) = (Signer::new("early"), Signer::new("a"));
    let issuer = MemoryIssuer::new(&jwks(&[&signer]));
    let keys = issuer.jwks().start().unwrap();
    keys.ready().await.unwrap();
    let gate = Gate::new(verifier(NAME, &keys));
    let token = early.token(&claims(NAME, "user-1"));
    assert_eq!(gate.get(&token).await.text, "401 unknown_key");
    issuer.publish(&jwks(&[&signer, &early]));
    advance(Duration::from_secs(29)).await;
    assert_eq!(gate.get(&token).await.text, "401 unknown_key", "JWT-71: the cooldown");
    advance(Duration::from_secs(1)).await;
    assert_eq!(gate.get(&token).await.text, "200 user-1", "attack 19");
}

/// The fetch for the last of them must not wait for another token, and the token is good all the
/// while: a client that reads 401 throws it away, and an address that sends many is banned.
#[tokio::test(start_paused = true)]
async fn a_name_met_within_the_cooldown_is_fetched_for_when_it_is_over() {
    let (new, signer) = (Signer::new("new"), Signer::new("a"));
    let issuer = MemoryIssuer::new(&jwks(&[&signer]));
    let keys = issuer.jwks().start().unwrap();
    keys.ready().await.unwrap();
    let gate = Gate::new(verifier(NAME, &keys));
    assert_eq!(gate.get(&stray(0)).await.text, "401 unknown_key");
    let token = new.token(&claims(NAME, "user-1"));
    for seconds in (1..=30).rev() {
        let (answer, waited) = timed(gate.clone(), token.clone()).await;
        answer.is_outage("JWT-71: it may be a key of today");
        assert_eq!(answer.retry_after, Some(seconds), "JWT-71: when it may be fetched for");
        assert_eq!(waited, 0, "attack 18: nobody waits for a cooldown");
        assert_eq!(issuer.fetches(), 2, "JWT-71");
        advance(Duration::from_secs(1)).await;
    }
    issuer.publish(&jwks(&[&signer, &new]));
    sleep(Duration::from_secs(1)).await;
    assert_eq!(issuer.fetches(), 3, "attack 19: without anybody asking");
    assert_eq!(gate.get(&token).await.text, "200 user-1", "attack 19");
}

/// It is not for ever that a name is not known to be missing.
#[tokio::test(start_paused = true)]
async fn a_name_met_within_the_cooldown_is_missing_once_a_fetch_has_not_found_it() {
    let (withdrawn, signer) = (Signer::new("withdrawn"), Signer::new("a"));
    let issuer = MemoryIssuer::new(&jwks(&[&signer]));
    let longest = Duration::from_secs(86_400);
    let keys = issuer.jwks().with_refresh(longest, longest).start().unwrap();
    keys.ready().await.unwrap();
    let gate = Gate::new(verifier(NAME, &keys));
    assert_eq!(gate.get(&stray(0)).await.text, "401 unknown_key");
    let token = withdrawn.token(&claims(NAME, "user-1"));
    for second in 0..60 {
        let answer = gate.get(&token).await;
        if second < 30 {
            answer.is_outage("JWT-71: nobody has looked");
        } else {
            assert_eq!(answer.text, "401 unknown_key", "JWT-71: {second}");
        }
        sleep(Duration::from_secs(1)).await;
    }
    let times: Vec<_> = issuer.times().iter().map(Duration::as_secs).collect();
    assert_eq!(times, [0, 0, 30], "JWT-71");
}

/// However many ask for it at once, it counts as missing for the shortest time.
#[tokio::test(start_paused = true)]
async fn a_name_that_many_ask_for_is_missing_for_no_longer_than_for_one() {
    let (early, signer) = (Signer::new("early"), Signer::new("a"));
    let issuer = MemoryIssuer::new(&jwks(&[&signer]));
    let keys = issuer.jwks().start().unwrap();
    keys.ready().await.unwrap();
    let gate = Gate::new(verifier(NAME, &keys));
    let token = early.token(&claims(NAME, "user-1"));
    let mut waiting = JoinSet::new();
    for _ in 0..100 {
        waiting.spawn(timed(gate.clone(), token.clone()));
    }
    for (answer, _) in waiting.join_all().await {
        assert_eq!(answer.text, "401 unknown_key", "JWT-72");
    }
    issuer.publish(&jwks(&[&signer, &early]));
    advance(Duration::from_secs(30)).await;
    assert_eq!(gate.get(&token).await.text, "200 user-1", "JWT-71, attack 19");
}

/// What was on its way when the token came may have been written before its key was published.
#[tokio::test(start_paused = true)]
async fn an_answer_that_is_older_than_the_token_is_not_the_last_word() {
    let new = Signer::new("new");
    let (issuer, gate, old, held) = hanging().await;
    issuer.publish(&jwks(&[&old, &new]));
    let asked = tokio::spawn({
        let (gate, token) = (gate.clone(), new.token(&claims(NAME, "user-1")));
        async move { gate.get(&token).await.text }
    });
    sleep(Duration::from_millis(10)).await;
    held.add_permits(2);
    assert_eq!(asked.await.unwrap(), "200 user-1", "JWT-70");
    assert_eq!(issuer.fetches(), 3, "JWT-72");
}

/// Nor is it where it brings the first keys.
#[tokio::test(start_paused = true)]
async fn first_keys_that_are_older_than_the_token_are_not_the_last_word() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let issuer = MemoryIssuer::new(&jwks(&[&old]));
    let held = issuer.hold();
    let keys = issuer.jwks().start().unwrap();
    let gate = Gate::new(verifier(NAME, &keys));
    let asked = tokio::spawn(timed(gate, new.token(&claims(NAME, "user-1"))));
    settled().await;
    issuer.publish(&jwks(&[&old, &new]));
    held.add_permits(2);
    assert_eq!(asked.await.unwrap().0.text, "200 user-1", "JWT-70");
    assert_eq!(issuer.fetches(), 2, "JWT-72");
}

#[tokio::test(start_paused = true)]
async fn while_the_issuer_is_down_an_unknown_key_is_no_bad_token() {
    let (new, signer) = (Signer::new("new"), Signer::new("a"));
    let issuer = MemoryIssuer::new(&jwks(&[&signer]));
    let keys = issuer.jwks().start().unwrap();
    keys.ready().await.unwrap();
    let gate = Gate::new(verifier(NAME, &keys));
    issuer.go_down();
    let token = new.token(&claims(NAME, "user-1"));
    for _ in 0..120 {
        gate.get(&token).await.is_outage("JWT-74: it may be a key of today");
        sleep(Duration::from_secs(1)).await;
    }
    issuer.publish(&jwks(&[&signer, &new]));
    sleep(Duration::from_secs(61)).await;
    assert_eq!(gate.get(&token).await.text, "200 user-1", "JWT-74");
}

/// Good tokens from one thread, strays from four tasks on another as fast as it can, and an issuer
/// behind a socket. What is compared is the median of good tokens in a quarter of a second with the flood and in the one
/// before without, so that whatever else the machine does strikes both alike; and the median of many
/// such pairs.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_flood_costs_good_tokens_nothing() {
    const ROUNDS: usize = 15;
    let signer = Signer::new("a");
    let issuer = Issuer::with_keys(&jwks(&[&signer])).await;
    let name = issuer.name();
    let (second, day) = (Duration::from_secs(1), Duration::from_secs(86_400));
    let keys = issuer.jwks().with_refresh(day, day).with_cooldown(second).start().unwrap();
    keys.ready().await.unwrap();
    let gate = Gate::new(verifier(&name, &keys));
    let good = signer.token(&claims(&name, "user-1"));

    let (flood, flooding) = watch::channel(false);
    let sent = Arc::new(AtomicUsize::new(0));
    let mut clients = JoinSet::new();
    for _ in 0..4 {
        let (gate, name, sent) = (gate.clone(), name.clone(), sent.clone());
        let mut flooding = flooding.clone();
        clients.spawn(async move {
            while flooding.wait_for(|flooding| *flooding).await.is_ok() {
                let n = sent.fetch_add(1, Ordering::Relaxed);
                is_missing(&gate.get(&stray_of(&name, n)).await);
                // The issuer and the others have their turn.
                tokio::task::yield_now().await;
            }
        });
    }
    let (began, strays) = (Instant::now(), sent.clone());
    let measured = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let median_while = |flooding: bool| {
            flood.send(flooding).unwrap();
            let (began, mut times) = (Instant::now(), Vec::new());
            while began.elapsed() < second / 4 {
                let began = Instant::now();
                let answer = runtime.block_on(gate.get(&good));
                times.push(began.elapsed());
                assert_eq!(answer.text, "200 user-1", "attack 18");
            }
            median(times)
        };
        let mut pairs = Vec::new();
        while pairs.len() < ROUNDS || strays.load(Ordering::Relaxed) < 10_000 {
            pairs.push((median_while(false), median_while(true)));
            assert!(pairs.len() < 10 * ROUNDS, "attack 18: this is no flood");
        }
        flood.send(false).unwrap();
        pairs
    });
    let pairs = measured.await.unwrap();
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    let ratios = pairs.iter().map(|(alone, flooded)| flooded.as_secs_f64() / alone.as_secs_f64());
    let ratio = {
        let mut ratios: Vec<_> = ratios.collect();
        ratios.sort_unstable_by(f64::total_cmp);
        ratios[ratios.len() / 2]
    };
    let (sent, fetches) = (sent.load(Ordering::Relaxed), issuer.count(JWKS) as u64);
    eprintln!(
        "{ratio:.2} times the latency in a flood of {sent}, with {fetches} fetches: {pairs:?}"
    );
    let most = 3 + began.elapsed().as_secs();
    assert!((3..=most).contains(&fetches), "attack 18: {fetches} fetches, and not {most}");
    assert!(ratio < 1.25, "attack 18: {ratio:.2} times the latency in a flood: {pairs:?}");
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
