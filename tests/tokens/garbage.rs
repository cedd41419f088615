//! What is no token, and what nobody knows.

use std::task::{Context, Waker};
use std::time::Duration;

use tower_gate::TokenVerifier;
use tower_gate::store::memory::MemoryTokenStore;
use tower_gate::store::{
    Replacement, StoreError, TokenDigest, TokenFilter, TokenQuery, TokenRecord, TokenStore,
};
use tower_gate::verifier::opaque::{NewToken, OpaqueTokens, Peppers};
use tower_gate::verifier::{CachedVerifier, RoutedVerifier, VerifyErrorKind, VerifyRequest};
use tower_gate::{BearerToken, FixedVerifier};

use crate::scene::{ISSUER, Scene, at, pepper};
use crate::support::Answer;
use crate::watched::Watched;

/// A token of the right form that nobody has issued here.
async fn stranger() -> String {
    let elsewhere = Scene::new(MemoryTokenStore::new());
    elsewhere.issue("user-1").await.token.expose().to_owned()
}

/// All that a client can see.
fn seen(answer: &Answer) -> String {
    format!("{} {:?} {:?}", answer.status, answer.headers, answer.body)
}

/// Numbered garbage: of the right form with a checksum by chance, and whatever else is sent.
fn garbage(n: u32, good: &str) -> String {
    let (start, rest) = good.split_at(10);
    let letters = format!("{:0>49}", n.wrapping_mul(2_654_435_761));
    match n % 5 {
        0 => format!("{start}{letters}"),
        1 => format!("acme_test_{rest}"),
        2 => format!("{good}{n}"),
        3 => format!("eyJ{n}.e30.{rest}"),
        _ => format!("{n}"),
    }
}

/// Of what has the right form, one in four milliards has its checksum; here one in ten thousand has.
#[tokio::test]
async fn of_a_hundred_thousand_pieces_of_garbage_the_store_sees_those_with_their_checksum() {
    let store = Watched::new();
    let scene = Scene::new(store.clone());
    let good = scene.issue("user-1").await;
    let good = good.token.expose();
    assert_eq!(scene.status(good).await, 200);
    assert_eq!(store.finds(), 1);
    let mut lucky = 0;
    for n in 0..100_000 {
        let mut text = garbage(n, good);
        if n % 10_000 == 0 {
            text = with_checksum(&text);
            lucky += 1;
        }
        assert_eq!(scene.status(&text).await, 401, "OPAQUE-4: {text}");
        assert_eq!(store.finds(), 1 + lucky, "OPAQUE-3, attack 24: {text}");
    }
    assert_eq!(lucky, 10);
    assert_eq!(scene.tokens.verifier().tokens().len(), 1, "attack 24: the good one is remembered");
    assert_eq!(scene.status(good).await, 200);
    assert_eq!(store.finds(), 11, "attack 24");
}

/// All that differ in one letter of it, and others: whatever it is that a checksum leaves to chance, it
/// is one of all that six letters can be.
#[tokio::test]
async fn a_token_has_one_checksum() {
    let store = Watched::new();
    let scene = Scene::new(store.clone());
    let good = scene.issue("user-1").await.token;
    let (checked, checksum) = good.expose().split_at(53);
    let letters = (b'0'..=b'z').filter(u8::is_ascii_alphanumeric);
    let near = letters.flat_map(|letter| (0..6).map(move |place| (place, letter)));
    let near = near.map(|(place, letter)| {
        let mut other = checksum.to_owned();
        other.replace_range(place..=place, str::from_utf8(&[letter]).unwrap());
        other
    });
    let any = (0..10_000_u32).map(|n| format!("{:0>6}", n.wrapping_mul(2_654_435_761) % 1_000_000));
    let others: Vec<_> = near.chain(any).filter(|other| other != checksum).collect();
    assert!(others.len() > 10_300, "{}", others.len());
    for other in others {
        assert_eq!(scene.status(&format!("{checked}{other}")).await, 401, "OPAQUE-3: {other}");
    }
    assert_eq!(store.finds(), 0, "OPAQUE-3, attack 24");
    assert_eq!(scene.status(good.expose()).await, 200);
}

/// By the time that the thread was given, in one of some rounds, and without the optimisations of a
/// release.
#[tokio::test]
async fn a_hundred_thousand_pieces_of_garbage_are_refused_in_a_second() {
    let store = Watched::new();
    let scene = Scene::new(store.clone());
    let good = scene.issue("user-1").await.token;
    let request = |n| {
        let text = garbage(n, good.expose());
        VerifyRequest::new(BearerToken::parse(&text).unwrap(), at(0))
    };
    let requests: Vec<_> = (0..100_000).map(request).collect();
    let verifier = scene.tokens.verifier();
    let round = |_| {
        let began = processor_time();
        for request in &requests {
            let refused = verifier.try_verify(request).expect("it is refused at once").unwrap_err();
            assert_eq!(refused.kind(), VerifyErrorKind::Malformed, "OPAQUE-3");
        }
        processor_time() - began
    };
    let mut rounds = (0..20).map(round);
    assert!(rounds.any(|took| took < Duration::from_secs(1)), "attack 24");
    assert_eq!(store.finds(), 0, "OPAQUE-3, attack 24");
}

/// What this thread has had of a processor, as Linux counts it.
fn processor_time() -> Duration {
    let counted = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(counted.split(' ').next().unwrap().parse().unwrap())
}

/// A text with the checksum that belongs to what stands before its last six letters.
fn with_checksum(text: &str) -> String {
    const BASE62: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let checked = &text[..text.len() - 6];
    let mut crc = !0_u32;
    for byte in checked.bytes() {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { 0xEDB8_8320 ^ (crc >> 1) } else { crc >> 1 };
        }
    }
    let mut rest = !crc as usize;
    let mut digits = [0; 6];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[rest % 62];
        rest /= 62;
    }
    format!("{checked}{}", str::from_utf8(&digits).unwrap())
}

#[tokio::test]
async fn a_guess_that_is_nearly_right_takes_the_path_of_one_that_is_not() {
    let store = Watched::new();
    let scene = Scene::with(store.clone(), |builder| builder.with_max_age(Duration::ZERO));
    let issued = scene.issue("user-1").await;
    let good = issued.token.expose();
    assert_eq!(with_checksum(good), good);
    let expected = seen(&scene.ask(&stranger().await).await);
    let end = good.len() - 6;
    let mut finds = store.finds();
    // The first letter, one in the middle, and the last one that is random.
    for place in [10, 30, end - 1] {
        let other = if &good[place..=place] == "a" { "b" } else { "a" };
        let guess = with_checksum(&format!("{}{other}{}", &good[..place], &good[place + 1..]));
        assert_eq!(seen(&scene.ask(&guess).await), expected, "attack 37: {place}");
        assert_eq!(scene.trail.events().pop().unwrap().reason, Some("unknown_token"));
        finds += 1;
        assert_eq!(store.finds(), finds, "attack 37: one question, as for any other");
    }
    assert_eq!(scene.status(good).await, 200);
    assert_eq!(store.finds(), finds + 1, "attack 37");
}

/// The checksum is no secret, so that anybody can make texts that look like tokens.
#[tokio::test]
async fn a_flood_of_well_formed_garbage_asks_the_store_so_much_at_once() {
    let store = Watched::new();
    let scene = Scene::with(store.clone(), |builder| builder.with_max_lookups(3));
    let good = scene.issue("user-1").await;
    let mut texts = vec![good.token.expose().to_owned()];
    for _ in 0..20 {
        texts.push(stranger().await);
    }
    store.hold();
    let verifier = scene.tokens.verifier();
    let mut asking: Vec<_> = texts
        .iter()
        .map(|text| {
            let request = VerifyRequest::new(BearerToken::parse(text).unwrap(), at(0));
            let verifier = verifier.clone();
            Box::pin(async move { verifier.verify(&request).await })
        })
        .collect();
    for question in &mut asking {
        assert!(question.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    assert_eq!(store.finds(), 3, "attack 24");
    store.release();
    let mut answers = Vec::new();
    for question in asking {
        answers.push(question.await);
    }
    assert!(answers[0].is_ok());
    let kinds = answers[1..].iter().map(|answer| answer.as_ref().unwrap_err().kind());
    assert!(kinds.clone().all(|kind| kind == VerifyErrorKind::UnknownToken), "all had their turn");
    assert_eq!(store.finds(), 21);
}

/// As when one that everybody uses is not remembered any more.
#[tokio::test]
async fn a_crowd_with_one_token_asks_the_store_as_often_as_there_are_turns() {
    let store = Watched::new();
    let scene = Scene::with(store.clone(), |builder| builder.with_max_lookups(3));
    let texts = [scene.issue("user-1").await.token.expose().to_owned(), stranger().await];
    let verifier = scene.tokens.verifier();
    for (text, is_good) in texts.iter().zip([true, false]) {
        let before = store.finds();
        store.hold();
        let request = VerifyRequest::new(BearerToken::parse(text).unwrap(), at(0));
        let mut asking: Vec<_> = (0..20).map(|_| Box::pin(verifier.verify(&request))).collect();
        for question in &mut asking {
            assert!(question.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        store.release();
        for question in asking {
            assert_eq!(question.await.is_ok(), is_good);
        }
        assert_eq!(store.finds(), before + 3, "attack 24: good {is_good}");
    }
}

#[tokio::test]
async fn nobody_can_tell_an_unknown_token_from_a_broken_one() {
    let store = Watched::new();
    let scene = Scene::new(store.clone());
    let issued = scene.issue("user-1").await;
    let unknown = stranger().await;
    let expected = scene.ask(&unknown).await;
    assert_eq!((expected.status.as_u16(), expected.error()), (401, "invalid_token".to_owned()));
    assert_eq!(scene.trail.events()[0].reason, Some("unknown_token"));
    assert!(scene.trail.events()[0].principal.is_none());
    assert_eq!(store.finds(), 1);
    let good = issued.token.expose();
    let typo = good.replace(&good[20..22], if &good[20..22] == "ab" { "ba" } else { "ab" });
    let other_prefix = unknown.replace("acme_live", "acme_test");
    let part = &good[..good.len() - 1];
    for broken in [&*typo, &other_prefix, part, &good.to_lowercase(), "a.b.c", "x"] {
        let answer = scene.ask(broken).await;
        assert_eq!(seen(&answer), seen(&expected), "OPAQUE-4, attack 37: {broken}");
        assert_eq!(scene.trail.events().pop().unwrap().reason, Some("malformed_token"));
    }
    assert_eq!(store.finds(), 1, "OPAQUE-3");
}

#[tokio::test]
async fn an_unknown_token_that_is_repeated_costs_one_question() {
    let store = Watched::new();
    let scene = Scene::new(store.clone());
    let unknown = stranger().await;
    let refused = (401, "invalid_token".to_owned(), "unknown_token".to_owned());
    for (millis, finds) in [(0, 1), (1, 1), (999, 1), (1000, 2), (1001, 2)] {
        scene.clock.set_now(at(0) + Duration::from_millis(millis));
        assert_eq!(scene.outcome(&unknown).await, refused, "attack 24: at {millis} ms");
        assert_eq!(store.finds(), finds, "attack 24: at {millis} ms");
    }
    // An outage is no answer, and what was unknown before is asked about again.
    scene.clock.set_now(at(2));
    store.set_broken(true);
    assert_eq!(scene.status(&unknown).await, 503);
    store.set_broken(false);
    assert_eq!(scene.outcome(&unknown).await, refused);
}

#[tokio::test]
async fn a_pepper_that_is_added_finds_its_tokens_at_once() {
    let store = MemoryTokenStore::new();
    let scene = Scene::new(store.clone());
    let peppers = Peppers::new(pepper(2));
    let elsewhere = OpaqueTokens::builder(ISSUER, store, peppers).with_prefix("acme_live");
    let elsewhere = elsewhere.with_clock(scene.clock.clone()).build().unwrap();
    let issued = elsewhere.issue(NewToken::new("user-1")).await.unwrap();
    assert_eq!(scene.status(issued.token.expose()).await, 401);
    scene.tokens.peppers().accept(pepper(2)).unwrap();
    assert_eq!(scene.status(issued.token.expose()).await, 200, "OPAQUE-10");
}

/// Answers with the one record that it has, whatever it is asked for.
struct Careless(TokenRecord);

impl TokenStore for Careless {
    async fn find(&self, _: &[TokenDigest]) -> Result<Option<TokenRecord>, StoreError> {
        Ok(Some(self.0.clone()))
    }

    async fn insert(&self, _: &TokenRecord) -> Result<(), StoreError> {
        Err(StoreError::new("it only finds"))
    }

    async fn describe(&self, _: &str) -> Result<Option<TokenRecord>, StoreError> {
        Err(StoreError::new("it only finds"))
    }

    async fn list(&self, _: &TokenQuery) -> Result<Vec<TokenRecord>, StoreError> {
        Err(StoreError::new("it only finds"))
    }

    async fn replace(&self, _: &Replacement) -> Result<bool, StoreError> {
        Err(StoreError::new("it only finds"))
    }

    async fn revoke(&self, _: &TokenFilter, _: std::time::SystemTime) -> Result<u64, StoreError> {
        Err(StoreError::new("it only finds"))
    }

    async fn set_enabled(&self, _: &str, _: bool) -> Result<bool, StoreError> {
        Err(StoreError::new("it only finds"))
    }

    async fn expire(&self, _: &str, _: std::time::SystemTime) -> Result<bool, StoreError> {
        Err(StoreError::new("it only finds"))
    }

    async fn purge(&self, _: std::time::SystemTime, _: usize) -> Result<u64, StoreError> {
        Err(StoreError::new("it only finds"))
    }

    async fn touch(&self, _: &[(String, std::time::SystemTime)]) -> Result<(), StoreError> {
        Ok(())
    }
}

#[tokio::test]
async fn a_store_that_answers_with_another_record_lets_nobody_in() {
    let known = Scene::new(MemoryTokenStore::new()).issue("user-1").await;
    let scene = Scene::new(Careless(known.record.clone()));
    assert_eq!(scene.status(known.token.expose()).await, 200);
    let unknown = (401, "invalid_token".to_owned(), "unknown_token".to_owned());
    assert_eq!(scene.outcome(&stranger().await).await, unknown, "OPAQUE-11, attack 22");
    let mut renamed = known.record;
    renamed.pepper = "another".to_owned();
    let scene = Scene::new(Careless(renamed));
    assert_eq!(scene.outcome(known.token.expose()).await, unknown);
}

#[tokio::test]
async fn tokens_of_two_prefixes_share_a_table_and_nothing_else() {
    let store = MemoryTokenStore::new();
    let [live, test] = ["acme_live", "acme_test"].map(|prefix| {
        let builder = OpaqueTokens::builder(ISSUER, store.clone(), Peppers::new(pepper(1)));
        builder.with_prefix(prefix).build().unwrap()
    });
    let new = || NewToken::new("user-1");
    let (of_live, of_test) = (live.issue(new()).await.unwrap(), test.issue(new()).await.unwrap());
    let kind = async |tokens: &OpaqueTokens, token: &str| {
        let request = VerifyRequest::new(
            BearerToken::parse(token).unwrap(),
            std::time::SystemTime::now() + Duration::from_secs(1),
        );
        let answer = tokens.verifier().verify(&request).await;
        answer.err().map(|error| error.kind().as_str())
    };
    assert_eq!(kind(&live, of_live.token.expose()).await, None);
    assert_eq!(kind(&test, of_test.token.expose()).await, None);
    assert_eq!(kind(&live, of_test.token.expose()).await, Some("malformed_token"), "OPAQUE-5");
    assert_eq!(kind(&test, of_live.token.expose()).await, Some("malformed_token"), "OPAQUE-5");
}

#[tokio::test]
async fn what_looks_like_a_jwt_never_reaches_the_store() {
    let store = Watched::new();
    let scene = Scene::new(store.clone());
    let issued = scene.issue("user-1").await;
    let verifier = CachedVerifier::new(
        RoutedVerifier::new()
            .with_prefix("acme_live_", scene.tokens.verifier())
            .with_jwts(FixedVerifier::new()),
    );
    let ask = async |token: &str| {
        let request = VerifyRequest::new(BearerToken::parse(token).unwrap(), at(0));
        verifier.verify(&request).await.map_err(|error| error.kind().as_str())
    };
    for token in ["e30.e30.x", &format!("a.b.{}", issued.token.expose()), "tg_x", "garbage"] {
        assert_eq!(ask(token).await.unwrap_err(), "unknown_token", "OPAQUE-5: {token}");
    }
    assert_eq!(store.finds(), 0, "OPAQUE-5");
    assert_eq!(ask(issued.token.expose()).await.unwrap().subject(), "user-1");
    assert_eq!(store.finds(), 1);
}
