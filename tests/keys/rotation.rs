//! Keys that change, over HTTP.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tower_gate::verifier::CachedVerifier;

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

/// An issuer rotates every few seconds; each key signs as soon as it is published, and stays listed
/// for one more rotation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_good_token_is_refused_while_keys_rotate_under_load() {
    const ROTATIONS: usize = 3;
    const TOKENS: usize = 500;
    let signers: Vec<_> = (0..=ROTATIONS).map(|n| Signer::new(&format!("key {n}"))).collect();
    let issuer = Issuer::with_keys(&jwks(&[&signers[0]])).await;
    let name = issuer.name();
    let second = Duration::from_secs(1);
    let keys = issuer.jwks().with_refresh(second, second).with_cooldown(second);
    let keys = keys.start().unwrap();
    let api = Gate::new(CachedVerifier::new(verifier(&name, &keys))).serve().await;

    // Many tokens for each key, so that the cache does not answer them all.
    let tokens: Vec<Vec<String>> = signers
        .iter()
        .map(|signer| {
            let subjects = (0..TOKENS).map(|n| format!("user-{n}"));
            subjects.map(|subject| signer.token(&claims(&name, &subject))).collect()
        })
        .collect();
    let tokens = Arc::new(tokens);
    let (current, _) = watch::channel(0_usize);
    let requests = Arc::new(AtomicUsize::new(0));
    let mut clients = JoinSet::new();
    for client in 0..16 {
        let (tokens, requests) = (tokens.clone(), requests.clone());
        let (mut connection, current) = (api.connect().await, current.subscribe());
        clients.spawn(async move {
            for n in client.. {
                let key = *current.borrow();
                if key == usize::MAX {
                    break;
                }
                let answer = connection.get(&tokens[key][n % TOKENS]).await;
                let expected = format!("200 user-{}", n % TOKENS);
                assert_eq!(answer.text, expected, "JWT-70: key {key}");
                requests.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let began = Instant::now();
    for n in 1..=ROTATIONS {
        sleep(Duration::from_millis(2500)).await;
        issuer.serve(JWKS, Reply::json(&jwks(&[&signers[n - 1], &signers[n]])));
        current.send(n).unwrap();
        if n >= 2 {
            let gone = Instant::now();
            api.get_until(&tokens[n - 2][0], "401 unknown_key").await;
            let elapsed = gone.elapsed();
            // A refresh is due after nine tenths of a second at the latest.
            assert!(elapsed < second * 3, "attack 23: gone for {elapsed:?}");
        }
    }
    sleep(second).await;
    current.send(usize::MAX).unwrap();
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    let rate = requests.load(Ordering::Relaxed) as u64 / began.elapsed().as_secs();
    eprintln!("{rate} requests a second while {ROTATIONS} keys were replaced");
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
