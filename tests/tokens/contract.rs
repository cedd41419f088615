//! What every store does.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, SystemTime};

use tokio::sync::Barrier;
use tower_gate::ScopeSet;
use tower_gate::store::memory::MemoryTokenStore;
use tower_gate::store::{
    Replacement, TokenDigest, TokenFilter, TokenQuery, TokenRecord, TokenStore,
};

use crate::scene::{ISSUER, at, with_every_store};

with_every_store! {
    a_record_comes_back_as_it_was
    only_the_whole_digest_finds_a_record
    an_id_and_a_digest_are_given_once
    lists_come_in_pages
    of_all_that_replace_one_token_one_does
    what_is_over_or_replaced_is_not_replaced
    a_token_is_revoked_once
    a_token_is_disabled_and_enabled
    a_later_use_stays
    a_change_that_nobody_waits_for_is_made_as_a_whole_or_not_at_all
}

fn digest(n: u32) -> TokenDigest {
    let mut bytes = [0; 32];
    bytes[14..18].copy_from_slice(&n.to_be_bytes());
    TokenDigest::from_bytes(bytes)
}

fn id(n: u32) -> String {
    format!("{n:026}")
}

fn record(n: u32) -> TokenRecord {
    TokenRecord::new(id(n), ("pepper-1", digest(n)), (ISSUER, "user-1"), at(0))
}

/// A replacement by the token of this number, with an hour for both.
async fn replace(store: &impl TokenStore, old: u32, new: u32, now: SystemTime) -> bool {
    store.replace(&replacement(old, new, now)).await.unwrap()
}

fn replacement(old: u32, new: u32, now: SystemTime) -> Replacement {
    Replacement::new(id(old), now + Duration::from_secs(3600), now, record(new))
}

async fn a_record_comes_back_as_it_was(store: impl TokenStore) {
    let plain = record(1);
    let mut full = TokenRecord::new(
        id(2),
        ("pepper \"2\"; DROP TABLE tower_gate_tokens; --", digest(2)),
        ("https://other.example/ü", "o'brien%_\\"),
        at(0) + Duration::from_millis(123),
    );
    full.client = Some("клиент".to_owned());
    full.scopes = ScopeSet::from_text("read:reports write:reports");
    full.roles = ["admin", "with space", "\"quoted\"", "日本"].map(str::to_owned).into();
    full.metadata = r#"{"plan":"pro","deep":{"list":[1,null,"x"]}}"#.to_owned();
    full.not_before = Some(at(1));
    full.expires_at = Some(at(4_000_000_000));
    full.revoked_at = Some(at(3));
    full.enabled = false;
    full.replaced_by = Some(id(9));
    full.last_used = Some(at(4) + Duration::from_millis(999));
    for record in [plain, full] {
        store.insert(&record).await.unwrap();
        let found = store.find(&[record.digest]).await.unwrap();
        assert_eq!(found.as_ref(), Some(&record), "OPAQUE-13");
        let found = store.describe(&record.id).await.unwrap();
        assert_eq!(found, Some(record), "OPAQUE-14");
    }
}

async fn only_the_whole_digest_finds_a_record(store: impl TokenStore) {
    let (one, two) = (record(1), record(2));
    store.insert(&one).await.unwrap();
    store.insert(&two).await.unwrap();
    for index in 0..32 {
        let mut bytes = *one.digest.as_bytes();
        bytes[index] ^= 0x80;
        let found = store.find(&[TokenDigest::from_bytes(bytes)]).await.unwrap();
        assert_eq!(found, None, "OPAQUE-11: byte {index}");
    }
    for (digests, expected) in [
        (vec![], None),
        (vec![digest(8), digest(9)], None),
        (vec![digest(8), two.digest, digest(9)], Some(&two)),
    ] {
        assert_eq!(store.find(&digests).await.unwrap().as_ref(), expected, "{digests:?}");
    }
    for stranger in ["", "%", "_", &"%".repeat(26), &id(3)] {
        assert_eq!(store.describe(stranger).await.unwrap(), None, "OPAQUE-11: {stranger:?}");
    }
}

async fn an_id_and_a_digest_are_given_once(store: impl TokenStore) {
    store.insert(&record(1)).await.unwrap();
    let (mut same_id, mut same_digest) = (record(2), record(3));
    same_id.id = id(1);
    same_digest.digest = digest(1);
    for double in [same_id, same_digest] {
        assert!(store.insert(&double).await.is_err(), "{double:?}");
        let replacement = Replacement::new(id(1), at(60), at(0), double);
        assert!(store.replace(&replacement).await.is_err(), "{replacement:?}");
    }
    assert_eq!(store.describe(&id(1)).await.unwrap(), Some(record(1)), "nothing has changed");
    assert_eq!(store.find(&[digest(2), digest(3)]).await.unwrap(), None);
}

async fn lists_come_in_pages(store: impl TokenStore) {
    // In no order, and mixed with others'.
    for n in (0..25).rev() {
        let mut ours = record(2 * n);
        ours.client = Some("web".to_owned());
        store.insert(&ours).await.unwrap();
        let mut theirs = record(2 * n + 1);
        *(if n % 2 == 0 { &mut theirs.issuer } else { &mut theirs.subject }) = "other".to_owned();
        store.insert(&theirs).await.unwrap();
    }
    let expected: Vec<String> = (0..25).map(|n| id(2 * n)).collect();
    for filter in [TokenFilter::subject(ISSUER, "user-1"), TokenFilter::client("web")] {
        let (mut listed, mut after) = (Vec::new(), None);
        loop {
            let query = TokenQuery::new(filter.clone()).limit(7).after(after.clone());
            let page = store.list(&query).await.unwrap();
            assert!(page.len() <= 7);
            listed.extend(page.iter().map(|record| record.id.clone()));
            match page.last() {
                Some(last) => after = Some(last.id.clone()),
                None => break,
            }
        }
        assert_eq!(listed, expected, "{filter:?}");
    }
    for filter in [TokenFilter::subject(ISSUER, "web"), TokenFilter::client("user-1")] {
        assert_eq!(store.list(&TokenQuery::new(filter)).await.unwrap(), []);
    }
}

async fn of_all_that_replace_one_token_one_does(store: impl TokenStore) {
    store.insert(&record(0)).await.unwrap();
    let (store, barrier) = (Arc::new(store), Arc::new(Barrier::new(16)));
    let tasks: Vec<_> = (1..=16)
        .map(|n| {
            let (store, barrier) = (store.clone(), barrier.clone());
            tokio::spawn(async move {
                barrier.wait().await;
                replace(&*store, 0, n, at(0)).await.then_some(n)
            })
        })
        .collect();
    let mut winners = Vec::new();
    for task in tasks {
        winners.extend(task.await.unwrap());
    }
    let [winner] = *winners else { panic!("{winners:?}") };
    let old = store.describe(&id(0)).await.unwrap().unwrap();
    assert_eq!((old.replaced_by, old.revoked_at), (Some(id(winner)), None));
    let all = TokenQuery::new(TokenFilter::subject(ISSUER, "user-1"));
    let ids: BTreeSet<_> =
        store.list(&all).await.unwrap().into_iter().map(|record| record.id).collect();
    assert_eq!(ids, BTreeSet::from([id(0), id(winner)]), "only one successor is there");
}

async fn what_is_over_or_replaced_is_not_replaced(store: impl TokenStore) {
    let now = at(100);
    // What a token is like, whether it can be replaced, and when it ends then.
    type Change = fn(&mut TokenRecord);
    let cases: [(Change, bool, u64); 7] = [
        (|_| {}, true, 3700),
        (|record| record.expires_at = Some(at(9999)), true, 3700),
        (|record| record.expires_at = Some(at(101)), true, 101),
        (|record| record.expires_at = Some(at(100)), false, 100),
        (|record| record.revoked_at = Some(at(50)), false, 0),
        (|record| record.enabled = false, false, 0),
        (|record| record.replaced_by = Some(id(99)), false, 0),
    ];
    for (n, (change, replaced, end)) in (0..).zip(cases) {
        let mut old = record(n);
        change(&mut old);
        store.insert(&old).await.unwrap();
        assert_eq!(replace(&store, n, 100 + n, now).await, replaced, "case {n}");
        let mut expected = old.clone();
        if replaced {
            expected.replaced_by = Some(id(100 + n));
            expected.expires_at = Some(at(end));
        }
        assert_eq!(store.describe(&old.id).await.unwrap(), Some(expected), "case {n}");
        let successor = store.describe(&id(100 + n)).await.unwrap();
        assert_eq!(successor, replaced.then(|| record(100 + n)), "case {n}");
    }
    assert!(!replace(&store, 50, 150, now).await, "there is none");
    assert_eq!(store.describe(&id(150)).await.unwrap(), None);

    store.insert(&record(60)).await.unwrap();
    let at_once = Replacement::new(id(60), now, now, record(160));
    assert!(store.replace(&at_once).await.unwrap());
    let old = store.describe(&id(60)).await.unwrap().unwrap();
    assert_eq!((old.revoked_at, old.expires_at), (Some(now), Some(now)), "without an overlap");
}

async fn a_token_is_revoked_once(store: impl TokenStore) {
    for n in 0..6 {
        let mut token = record(n);
        token.subject = format!("user-{}", n % 2);
        token.client = (n >= 4).then(|| "web".to_owned());
        store.insert(&token).await.unwrap();
    }
    let one = TokenFilter::Id(id(0));
    for (filter, when, revoked) in [
        (&one, 10, 1),
        (&one, 20, 0),
        (&TokenFilter::Id(id(9)), 30, 0),
        (&TokenFilter::subject("https://other.example", "user-0"), 40, 0),
        (&TokenFilter::subject(ISSUER, "user-0"), 50, 2),
        (&TokenFilter::client("web"), 60, 1),
    ] {
        assert_eq!(store.revoke(filter, at(when)).await.unwrap(), revoked, "{filter:?}");
    }
    let mut times = Vec::new();
    for n in 0..6 {
        times.push(store.describe(&id(n)).await.unwrap().unwrap().revoked_at);
    }
    let [first, all, client] = [10, 50, 60].map(|seconds| Some(at(seconds)));
    assert_eq!(times, [first, None, all, None, all, client]);
}

async fn a_token_is_disabled_and_enabled(store: impl TokenStore) {
    store.insert(&record(1)).await.unwrap();
    store.insert(&record(2)).await.unwrap();
    for enabled in [false, false, true, true, false] {
        assert!(store.set_enabled(&id(1), enabled).await.unwrap());
        assert_eq!(store.describe(&id(1)).await.unwrap().unwrap().enabled, enabled);
        assert!(store.describe(&id(2)).await.unwrap().unwrap().enabled);
    }
    assert!(!store.set_enabled(&id(3), true).await.unwrap());
}

async fn a_later_use_stays(store: impl TokenStore) {
    store.insert(&record(1)).await.unwrap();
    store.insert(&record(2)).await.unwrap();
    for (seconds, expected) in [(50, 50), (40, 50), (60, 60)] {
        store.touch(&[(id(1), at(seconds)), (id(9), at(0))]).await.unwrap();
        let used = store.describe(&id(1)).await.unwrap().unwrap().last_used;
        assert_eq!(used, Some(at(expected)), "at {seconds}");
    }
    store.touch(&[]).await.unwrap();
    assert_eq!(store.describe(&id(2)).await.unwrap().unwrap().last_used, None);
}

async fn a_change_that_nobody_waits_for_is_made_as_a_whole_or_not_at_all(store: impl TokenStore) {
    for polls in 1..12 {
        let (old, new) = (polls, 100 + polls);
        store.insert(&record(old)).await.unwrap();
        {
            let replacement = replacement(old, new, at(0));
            let mut replacing = pin!(store.replace(&replacement));
            for _ in 0..polls {
                if replacing.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
        }
        // Whatever was dropped half-way, the next one finds the old token as it was, or replaced.
        let again = replace(&store, old, 200 + old, at(0)).await;
        let old = store.describe(&id(old)).await.unwrap().unwrap();
        let first = store.describe(&id(new)).await.unwrap();
        let second = store.describe(&id(200 + polls)).await.unwrap();
        assert_eq!((first.is_some(), second.is_some()), (!again, again), "{polls} polls");
        let successor = if again { 200 + polls } else { new };
        assert_eq!(old.replaced_by, Some(id(successor)), "{polls} polls");
    }
}

#[tokio::test]
async fn clones_of_a_store_in_memory_share_it() {
    let store = MemoryTokenStore::new();
    store.clone().insert(&record(1)).await.unwrap();
    assert_eq!(format!("{store:?}"), "MemoryTokenStore { tokens: 1 }");
}
