//! Keys that change, over HTTP.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tower_gate::verifier::{CachedVerifier, RoutedVerifier};

use crate::gate::{Gate, claims, verifier};
use crate::issuer::{Issuer, JWKS, Reply};
use crate::memory::{MemoryIssuer, NAME};
use crate::signer::{Signer, jwks};

#[tokio::test]
async fn a_new_key_is_fetched_at_once_and_an_old_one_stops_when_it_is_gone() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let issuer = Issuer::with_keys(&jwks(&[&old])).await;
    let name = issuer.name();
    let second = Duration::from_secs(1);
    let keys = issuer.jwks().with_refresh(second * 2, second * 2).start().unwrap();
    let api = Gate::new(CachedVerifier::new(verifier(&name, &keys))).serve().await;
    let [old_token, new_token] = [&old, &new].map(|signer| signer.token(&claims(&name, "user-1")));
    assert_eq!(api.get(&old_token).await.text, "200 user-1", "JWT-70");

    issuer.serve(JWKS, Reply::json(&jwks(&[&old, &new])));
    assert_eq!(api.get(&new_token).await.text, "200 user-1", "JWT-70: the next token");
    assert_eq!(api.get(&old_token).await.text, "200 user-1", "JWT-70: still listed");

    issuer.serve(JWKS, Reply::json(&jwks(&[&new])));
    api.get_until(&old_token, "401 unknown_key").await;
    assert_eq!(api.get(&new_token).await.text, "200 user-1", "JWT-70");
}

#[tokio::test]
async fn all_who_wait_for_a_key_share_one_fetch() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let issuer = Issuer::with_keys(&jwks(&[&old])).await;
    let name = issuer.name();
    let keys = issuer.jwks().start().unwrap();
    keys.ready().await.unwrap();
    let gate = Gate::new(verifier(&name, &keys));

    let release = Arc::new(Semaphore::new(0));
    issuer.serve(JWKS, Reply::json(&jwks(&[&old, &new])).held(&release));
    let token = new.token(&claims(&name, "user-1"));
    let mut waiting = JoinSet::new();
    for _ in 0..200 {
        let (gate, token) = (gate.clone(), token.clone());
        waiting.spawn(async move { gate.get(&token).await.text });
    }
    while issuer.count(JWKS) < 2 {
        sleep(Duration::from_millis(5)).await;
    }
    // One whose client has gone takes nobody's answer with it.
    let mut impatient = tokio::spawn({
        let (gate, token) = (gate.clone(), token.clone());
        async move { gate.get(&token).await.text }
    });
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut impatient).await.is_err());
    impatient.abort();
    release.add_permits(1);
    let answers = waiting.join_all().await;
    assert_eq!(answers, vec!["200 user-1"; 200], "JWT-72");
    assert_eq!(issuer.count(JWKS), 2, "JWT-72: the first, and one for all");
}

/// Many issuers, each of which rotates as often as keys may be fetched for tokens: a key signs as soon
/// as it is published, the one before is still in use, and the one before that is still listed.
///
/// Requests come whether or not those before have been answered, so that many are anywhere in the
/// verifier while new keys arrive.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_good_token_is_refused_while_keys_rotate_under_load() {
    const ISSUERS: usize = 16;
    const ROTATIONS: usize = 5;
    const TOKENS: usize = 25;
    const SECOND: Duration = Duration::from_secs(1);
    /// When a fetch for a token is allowed again.
    const COOL: Duration = Duration::from_millis(1_100);

    /// The tokens of each of its keys.
    struct Rotating {
        issuer: Issuer,
        signers: Vec<Signer>,
        tokens: Vec<Vec<String>>,
        /// The number of its newest key; the greatest number at the end.
        newest: AtomicUsize,
    }

    impl Rotating {
        fn list(&self, keys: RangeInclusive<usize>) {
            let signers: Vec<_> = self.signers[keys].iter().collect();
            self.issuer.serve(JWKS, Reply::json(&jwks(&signers)));
        }

        async fn rotate(&self, gate: &Gate) {
            for n in 1..=ROTATIONS {
                self.list(n.saturating_sub(2)..=n);
                self.newest.store(n, Ordering::SeqCst);
                assert_eq!(gate.get(&self.tokens[n][0]).await.text, "200 user-0", "JWT-70");
                sleep(COOL).await;
                if let Some(gone) = n.checked_sub(3) {
                    let text = gate.get(&self.tokens[gone][0]).await.text;
                    assert_eq!(text, "401 unknown_key", "attack 23: a second after it has gone");
                    sleep(COOL).await;
                }
            }
            self.newest.store(usize::MAX, Ordering::SeqCst);
        }

        /// Sends tokens of the newest key and of the one before.
        async fn load(&self, gate: &Gate, places: &Arc<Semaphore>) -> usize {
            let mut requests = JoinSet::new();
            let mut answered = 0;
            for n in 0.. {
                let newest = self.newest.load(Ordering::SeqCst);
                if newest == usize::MAX {
                    break;
                }
                for key in [newest, newest.saturating_sub(1)] {
                    let place = places.clone().acquire_owned().await.unwrap();
                    let (gate, token) = (gate.clone(), self.tokens[key][n % TOKENS].clone());
                    requests.spawn(async move {
                        let answer = gate.get(&token).await;
                        drop(place);
                        assert_eq!(answer.text, format!("200 user-{}", n % TOKENS), "JWT-70");
                    });
                }
                while let Some(request) = requests.try_join_next() {
                    request.unwrap();
                    answered += 1;
                }
            }
            answered + requests.join_all().await.len()
        }
    }

    let mut routed = RoutedVerifier::new();
    let mut all = Vec::new();
    for n in 0..ISSUERS {
        let signers: Vec<_> = (0..=ROTATIONS).map(|n| Signer::new(&format!("key {n}"))).collect();
        let issuer = Issuer::with_keys(&jwks(&[&signers[0]])).await;
        let name = issuer.name();
        let sign = |signer: &Signer| {
            let subjects = (0..TOKENS).map(|n| format!("user-{n}"));
            subjects.map(|subject| signer.token(&claims(&name, &subject))).collect()
        };
        let tokens = signers.iter().map(sign).collect();
        let keys = issuer.jwks().with_refresh(SECOND, SECOND).with_cooldown(SECOND);
        let verifier = verifier(&name, &keys.start().unwrap());
        // What is remembered shows whether old keys take it with them, and hides what is looked up.
        routed = match n % 2 {
            0 => routed.with_issuer(&name, CachedVerifier::new(verifier)),
            _ => routed.with_issuer(&name, verifier),
        };
        all.push(Arc::new(Rotating { issuer, signers, tokens, newest: AtomicUsize::new(0) }));
    }
    let (gate, places) = (Gate::new(routed), Arc::new(Semaphore::new(512)));
    let began = Instant::now();
    let (mut rotations, mut loads) = (JoinSet::new(), JoinSet::new());
    for rotating in all {
        let (gate, places) = (gate.clone(), places.clone());
        rotations.spawn({
            let (gate, rotating) = (gate.clone(), rotating.clone());
            async move { rotating.rotate(&gate).await }
        });
        loads.spawn(async move { rotating.load(&gate, &places).await });
    }
    rotations.join_all().await;
    let requests: usize = loads.join_all().await.into_iter().sum();
    let rate = requests as u64 / began.elapsed().as_secs();
    let count = ISSUERS * ROTATIONS;
    eprintln!("{rate} requests a second while {count} keys were replaced in {:?}", began.elapsed());
    assert!(rate > 1_000, "{rate} requests a second are no load");
}

/// A key that is replaced under its name, or has none, is not missing: only its signatures tell.
#[tokio::test(start_paused = true)]
async fn a_key_that_is_replaced_under_its_name_is_seen_within_the_shortest_refresh() {
    let (old, new) = (Signer::new("a"), Signer::new("a"));
    let issuer = MemoryIssuer::new(&jwks(&[&old]));
    let keys = issuer.jwks().start().unwrap();
    keys.ready().await.unwrap();
    let gate = Gate::new(verifier(NAME, &keys));
    let [old, fresh] = [&old, &new].map(|signer| signer.token(&claims(NAME, "user-1")));
    assert_eq!(gate.get(&old).await.text, "200 user-1");

    issuer.publish(&jwks(&[&new]));
    for _ in 0..1_000 {
        assert_eq!(gate.get(&fresh).await.text, "401 bad_signature");
    }
    assert_eq!(issuer.fetches(), 1, "attack 18: bad signatures cause no fetch at once");
    sleep(Duration::from_secs(61)).await;
    assert_eq!(gate.get(&fresh).await.text, "200 user-1", "JWT-70");
    assert_eq!(gate.get(&old).await.text, "401 bad_signature", "attack 23");
    assert_eq!(issuer.fetches(), 2, "attack 18");
}

/// The new key is for another algorithm, which no key at hand checks.
#[tokio::test(start_paused = true)]
async fn a_key_that_is_replaced_by_one_for_another_algorithm_is_seen_as_soon() {
    for kid in [Some("a"), None] {
        let (old, new) = (Signer::new("a"), Signer::ec("a"));
        let document = |signer: &Signer| {
            let mut document = jwks(&[signer]);
            document["keys"][0]["kid"] = kid.into();
            document
        };
        let header = match kid {
            Some(kid) => json!({ "alg": "ES256", "typ": "at+jwt", "kid": kid }),
            None => json!({ "alg": "ES256", "typ": "at+jwt" }),
        };
        let token = new.sign_bytes(header.to_string(), claims(NAME, "user-1").to_string());
        let issuer = MemoryIssuer::new(&document(&old));
        let keys = issuer.jwks().start().unwrap();
        keys.ready().await.unwrap();
        let gate = Gate::new(verifier(NAME, &keys));
        issuer.publish(&document(&new));
        for _ in 0..1_000 {
            assert_eq!(gate.get(&token).await.text, "401 unsupported_algorithm");
        }
        assert_eq!(issuer.fetches(), 1, "attack 18: they cause no fetch at once");
        sleep(Duration::from_secs(61)).await;
        assert_eq!(gate.get(&token).await.text, "200 user-1", "JWT-70: {kid:?}");
        assert_eq!(issuer.fetches(), 2, "attack 18");
    }
}

/// A key without a name could have signed it, and has not.
#[tokio::test(start_paused = true)]
async fn a_new_key_beside_one_without_a_name_is_fetched_at_once() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let mut unnamed = jwks(&[&old]);
    unnamed["keys"][0].as_object_mut().unwrap().remove("kid");
    let issuer = MemoryIssuer::new(&unnamed);
    let keys = issuer.jwks().start().unwrap();
    keys.ready().await.unwrap();
    let gate = Gate::new(verifier(NAME, &keys));
    let mut both = jwks(&[&old, &new]);
    both["keys"][0].as_object_mut().unwrap().remove("kid");
    issuer.publish(&both);
    let token = new.token(&claims(NAME, "user-1"));
    assert_eq!(gate.get(&token).await.text, "200 user-1", "JWT-70");
}
