//! Peppers that change while requests go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tower_gate::store::TokenStore;
use tower_gate::store::memory::MemoryTokenStore;

use crate::scene::{Scene, at, pepper, with_every_store};

with_every_store! {
    no_good_token_is_refused_while_the_pepper_changes
}

async fn no_good_token_is_refused_while_the_pepper_changes(store: impl TokenStore) {
    // Nothing is remembered: each request finds its token under whatever peppers there are.
    let scene = Arc::new(Scene::with(store, |builder| builder.with_max_age(Duration::ZERO)));
    let mut tokens = vec![scene.issue("user-1").await];
    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let first = tokens[0].token.expose().to_owned();
    let load: Vec<_> = (0..4)
        .map(|_| {
            let (scene, first) = (scene.clone(), first.clone());
            let (stop, asked) = (stop.clone(), asked.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    assert_eq!(scene.status(&first).await, 200);
                    asked.fetch_add(1, Ordering::SeqCst);
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    let peppers = scene.tokens.peppers().clone();
    for n in 2..7 {
        let before = asked.load(Ordering::SeqCst);
        peppers.accept(pepper(n)).unwrap();
        peppers.add(pepper(n)).unwrap();
        let issued = scene.issue("user-1").await;
        assert_eq!(issued.record.pepper, format!("pepper-{n}"), "new tokens are under the newest");
        tokens.push(issued);
        while asked.load(Ordering::SeqCst) < before + 8 {
            tokio::task::yield_now().await;
        }
    }
    stop.store(true, Ordering::SeqCst);
    for task in load {
        task.await.unwrap();
    }
    for issued in &tokens {
        assert_eq!(scene.status(issued.token.expose()).await, 200, "{}", issued.record.pepper);
    }
    // One after the other ends with its pepper, and no other does.
    for (n, issued) in (1..).zip(&tokens[..5]) {
        assert_eq!(scene.status(issued.token.expose()).await, 200);
        peppers.retire(&format!("pepper-{n}")).unwrap();
        let outcome = scene.outcome(issued.token.expose()).await;
        let expected = (401, "invalid_token".to_owned(), "unknown_token".to_owned());
        assert_eq!(outcome, expected, "OPAQUE-10: pepper {n}");
    }
    assert_eq!(scene.status(tokens[5].token.expose()).await, 200);
}

#[tokio::test]
async fn a_retired_pepper_ends_what_is_remembered_too() {
    let scene = Scene::with(MemoryTokenStore::new(), |builder| {
        builder.with_max_age(Duration::from_secs(86_400))
    });
    let old = scene.issue("user-1").await;
    assert_eq!(scene.status(old.token.expose()).await, 200);
    scene.tokens.peppers().add(pepper(2)).unwrap();
    let new = scene.tokens.rotate(&old.record.id, Duration::from_secs(3600)).await.unwrap();
    assert_eq!(new.record.pepper, "pepper-2", "a successor is under the newest");
    assert_eq!(scene.status(old.token.expose()).await, 200);
    scene.tokens.peppers().retire("pepper-1").unwrap();
    assert_eq!(scene.outcome(old.token.expose()).await.1, "invalid_token", "attack 23");
    assert_eq!(scene.status(new.token.expose()).await, 200);
    scene.clock.set_now(at(1));
    assert!(scene.tokens.revoke(&old.record.id).await.unwrap(), "its record is there still");
}

/// Two nodes that are told one after the other, in the order that the documentation asks for.
#[tokio::test]
async fn nodes_learn_of_a_pepper_one_after_the_other() {
    let store = MemoryTokenStore::new();
    let nodes = [Scene::new(store.clone()), Scene::new(store)];
    let mut tokens = Vec::new();
    let issue_and_ask = async |tokens: &mut Vec<String>| {
        for node in &nodes {
            tokens.push(node.issue("user-1").await.token.expose().to_owned());
        }
        for (node, token) in nodes.iter().flat_map(|node| tokens.iter().map(move |t| (node, t))) {
            assert_eq!(node.status(token).await, 200);
        }
    };
    for node in &nodes {
        node.tokens.peppers().accept(pepper(2)).unwrap();
        issue_and_ask(&mut tokens).await;
    }
    for node in &nodes {
        node.tokens.peppers().add(pepper(2)).unwrap();
        issue_and_ask(&mut tokens).await;
    }
}
