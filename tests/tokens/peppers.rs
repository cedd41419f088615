//! Peppers that change while requests go on.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
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
    let good = Arc::new(Mutex::new(vec![tokens[0].token.expose().to_owned()]));
    let asked = Arc::<[AtomicUsize; 4]>::default();
    let load: Vec<_> = (0..asked.len())
        .map(|task| {
            let (scene, good, asked) = (scene.clone(), good.clone(), asked.clone());
            tokio::spawn(async move {
                for turn in task.. {
                    let token = {
                        let good = good.lock().unwrap();
                        good[turn % good.len()].clone()
                    };
                    assert_eq!(scene.status(&token).await, 200);
                    asked[task].fetch_add(1, Ordering::SeqCst);
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    // Until nobody is left who has taken a token before.
    let go_on = async || {
        let before = asked.each_ref().map(|asked| asked.load(Ordering::SeqCst));
        for (asked, before) in asked.iter().zip(before) {
            while asked.load(Ordering::SeqCst) < before + 8 {
                assert!(!load.iter().any(tokio::task::JoinHandle::is_finished), "OPAQUE-10");
                tokio::task::yield_now().await;
            }
        }
    };
    let peppers = scene.tokens.peppers().clone();
    for n in 2..7 {
        peppers.accept(pepper(n)).unwrap();
        peppers.add(pepper(n)).unwrap();
        let issued = scene.issue("user-1").await;
        assert_eq!(issued.record.pepper, format!("pepper-{n}"), "new tokens are under the newest");
        good.lock().unwrap().push(issued.token.expose().to_owned());
        tokens.push(issued);
        go_on().await;
    }
    // One after the other ends with its pepper, and no other does.
    for (n, issued) in (1..).zip(&tokens[..5]) {
        good.lock().unwrap().remove(0);
        go_on().await;
        assert_eq!(scene.status(issued.token.expose()).await, 200);
        peppers.retire(&format!("pepper-{n}")).unwrap();
        assert_eq!(scene.status(issued.token.expose()).await, 401, "OPAQUE-10: pepper {n}");
        go_on().await;
    }
    for task in &load {
        assert!(!task.is_finished(), "OPAQUE-10: a good token was refused");
        task.abort();
    }
    for task in load {
        assert!(task.await.unwrap_err().is_cancelled());
    }
    for issued in &tokens[..5] {
        let outcome = scene.outcome(issued.token.expose()).await;
        let expected = (401, "invalid_token".to_owned(), "unknown_token".to_owned());
        assert_eq!(outcome, expected, "OPAQUE-10");
    }
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
