//! What every store does.

use std::collections::HashSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tower_gate::Revocation;
use tower_gate::store::memory::MemoryRevocations;
use tower_gate::store::{RevocationStore, RevokeRequest};

use crate::interleaving::under_load_no_request_is_accepted_after_a_revocation;
use crate::node::{ISSUER, Node, PARTNER, issued_at, principals};
use crate::servers::redis::Redis;
use crate::shared::{Shared, database, keys};

/// A test for each behaviour of each store.
macro_rules! contract {
    ($behaviours:tt $($store:ident => $build:expr;)+) => {
        $(contract! { @store $behaviours $store $build })+
    };
    (@store [$($behaviour:ident)+] $store:ident $build:expr) => {
        mod $store {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $behaviour() {
                    super::$behaviour(|| $build).await;
                }
            )+
        }
    };
}

contract! {
    [
        every_kind_of_revocation_refuses_what_it_names_on_all_nodes
        what_is_revoked_twice_in_different_ways_is_revoked_in_both
        a_node_that_starts_later_knows_all
        positions_miss_nothing_that_is_written_at_the_same_time
        more_than_a_page_is_read_whole
        many_in_one_request_are_kept_as_if_each_came_alone
        any_text_can_be_a_name
        nodes_that_are_told_do_not_wait_for_their_poll
        under_load_no_request_is_accepted_after_a_revocation
    ]
    memory => MemoryRevocations::new();
    redis => keys();
    valkey => Redis::start_valkey();
    postgres => database();
}

/// Longer than any news take; less than what would be a defect.
const SOON: Duration = Duration::from_secs(5);

fn in_an_hour() -> SystemTime {
    SystemTime::now() + Duration::from_secs(3600)
}

async fn every_kind_of_revocation_refuses_what_it_names_on_all_nodes<S: Shared>(
    fresh: impl Fn() -> S,
) {
    let at = issued_at();
    let almost = at + Duration::from_nanos(1);
    let second = Duration::from_secs(1);
    let all_of_issuer: &[_] = &[
        "base",
        "subject",
        "client",
        "token",
        "key",
        "young",
        "no-time",
        "no-client",
        "no-id",
        "no-key",
        "opaque",
        "nobodys",
    ];
    let not = |left_out: &[&str]| {
        let rest = all_of_issuer.iter().copied().filter(|name| !left_out.contains(name));
        rest.collect::<Vec<_>>()
    };
    let cases = [
        (Revocation::token(ISSUER, "t-1"), vec!["base"]),
        (Revocation::token(PARTNER, "t-1"), vec!["issuer"]),
        (Revocation::token(ISSUER, ""), vec![]),
        (Revocation::subject(ISSUER, "bob"), vec!["subject"]),
        (Revocation::subject(ISSUER, "ada"), not(&["subject"])),
        // Whole seconds count: the one in which it was issued is revoked (OPAQUE-74).
        (Revocation::subject(ISSUER, "ada").with_issued_until(at), not(&["subject", "young"])),
        (Revocation::subject(ISSUER, "ada").with_issued_until(almost), not(&["subject", "young"])),
        (Revocation::subject(ISSUER, "ada").with_issued_until(at - second), vec!["no-time"]),
        (Revocation::subject(ISSUER, "ada").with_issued_until(at + second * 2), not(&["subject"])),
        // A JWT that names no client may be any client's; an opaque token without one is nobody's.
        (Revocation::client(ISSUER, "app"), vec!["client", "no-client"]),
        (Revocation::client(ISSUER, "app").with_issued_until(at - second), vec![]),
        (Revocation::key(ISSUER, "k-2"), vec!["key", "no-key"]),
        (Revocation::key(PARTNER, "k-2"), vec![]),
        (Revocation::key(ISSUER, "k-1"), not(&["key", "opaque", "nobodys"])),
        (Revocation::issuer(PARTNER), vec!["issuer"]),
        (Revocation::issuer(ISSUER).with_issued_until(at), not(&["young"])),
        (Revocation::all(at - second), vec!["no-time"]),
        (Revocation::all(at + second * 2), [&["issuer"], all_of_issuer].concat()),
    ];
    let mut names: Vec<_> = principals().into_keys().collect();
    names.sort_unstable();
    for (revocation, mut refused) in cases {
        let shared = fresh();
        let one = Node::start(shared.store().await).await;
        let other = Node::start(shared.store().await).await;
        let revocation = revocation.with_end(in_an_hour());
        for name in &names {
            assert!(one.accepts(name).await, "{name} before {revocation:?}");
            assert!(other.accepts(name).await, "{name} before {revocation:?}");
        }
        one.revoke(revocation.clone()).await;
        let mut refused_at_once = Vec::new();
        for name in &names {
            if !one.accepts(name).await {
                refused_at_once.push(name.as_str());
            }
        }
        refused.sort_unstable();
        assert_eq!(refused_at_once, refused, "OPAQUE-70, attack 17, attack 23: {revocation:?}");
        for name in &names {
            if refused.contains(&name.as_str()) {
                other.refuses_within(name, SOON).await;
            } else {
                assert!(other.accepts(name).await, "OPAQUE-70: {name} after {revocation:?}");
            }
        }
    }
}

/// Neither the moment nor the end of one goes over to the other.
async fn what_is_revoked_twice_in_different_ways_is_revoked_in_both<S: Shared>(
    fresh: impl Fn() -> S,
) {
    let at = issued_at();
    let (until_now, for_now) = (
        Revocation::subject(ISSUER, "ada").with_issued_until(at).with_end(in_an_hour()),
        Revocation::subject(ISSUER, "ada").with_end(at),
    );
    for order in [[&until_now, &for_now], [&for_now, &until_now]] {
        let shared = fresh();
        let one = Node::start(shared.store().await).await;
        for revocation in order {
            one.revoke(revocation.clone()).await;
        }
        let other = Node::start(shared.store().await).await;
        for node in [&one, &other] {
            assert!(!node.accepts("base").await, "OPAQUE-70");
            assert!(node.accepts("young").await, "OPAQUE-71: the other one is over");
        }
        one.revoke(Revocation::subject(ISSUER, "ada").with_end(in_an_hour())).await;
        assert!(!one.accepts("young").await, "OPAQUE-70");
        other.refuses_within("young", SOON).await;
    }
}

async fn a_node_that_starts_later_knows_all<S: Shared>(fresh: impl Fn() -> S) {
    let shared = fresh();
    let first = Node::start(shared.store().await).await;
    for (n, revocation) in [
        Revocation::token(ISSUER, "t-1"),
        Revocation::subject(ISSUER, "bob"),
        Revocation::client(ISSUER, "app").with_issued_until(issued_at()),
        Revocation::issuer(PARTNER),
    ]
    .into_iter()
    .enumerate()
    {
        first.revoke(revocation.clone()).await;
        first.revoke(revocation).await;
        assert_eq!(first.revocations.len(), n + 1);
    }
    drop(first);
    let later = Node::start(shared.store().await).await;
    assert_eq!(later.revocations.len(), 4);
    for name in ["base", "subject", "client", "issuer"] {
        assert!(!later.accepts(name).await, "OPAQUE-70: {name}");
    }
    assert!(later.accepts("token").await);
}

/// A reader that follows positions sees every revocation of many writers.
async fn positions_miss_nothing_that_is_written_at_the_same_time<S: Shared>(fresh: impl Fn() -> S) {
    const WRITERS: usize = 4;
    const EACH: usize = 25;
    let shared = fresh();
    let reader = shared.store().await;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let store = shared.store().await;
        writers.spawn(async move {
            for n in 0..EACH {
                let revocation = Revocation::token(ISSUER, &format!("{writer}-{n}"));
                let now = SystemTime::now();
                store.revoke(&RevokeRequest::new(revocation, now)).await.unwrap();
            }
        });
    }
    let (mut position, mut seen) = (0, Vec::new());
    loop {
        let is_over = writers.is_empty();
        let page = reader.revoked_since(position).await.unwrap();
        assert!(page.position >= position, "{} after {position}", page.position);
        position = page.position;
        seen.extend(page.revocations);
        if is_over {
            break;
        }
        while let Some(done) = writers.try_join_next() {
            done.unwrap();
        }
    }
    let mut distinct: Vec<_> = seen.iter().map(|seen| format!("{seen:?}")).collect();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), WRITERS * EACH, "OPAQUE-73");
    assert_eq!(seen.len(), WRITERS * EACH, "each is read once");
}

async fn more_than_a_page_is_read_whole<S: Shared>(fresh: impl Fn() -> S) {
    const MANY: usize = 5001;
    let shared = fresh();
    let (store, now) = (std::sync::Arc::new(shared.store().await), SystemTime::now());
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..4 {
        let store = store.clone();
        writers.spawn(async move {
            for n in (writer..MANY).step_by(4) {
                let revocation = Revocation::token(ISSUER, &format!("id-{n}"));
                store.revoke(&RevokeRequest::new(revocation, now)).await.unwrap();
            }
        });
    }
    writers.join_all().await;
    store.revoke(&RevokeRequest::new(Revocation::subject(ISSUER, "bob"), now)).await.unwrap();
    let node = Node::start(shared.store().await).await;
    assert_eq!(node.revocations.len(), MANY + 1, "OPAQUE-73");
    assert!(!node.accepts("subject").await, "the last of all");
    assert!(node.accepts("base").await);
}

async fn many_in_one_request_are_kept_as_if_each_came_alone<S: Shared>(fresh: impl Fn() -> S) {
    let shared = fresh();
    let (store, now) = (shared.store().await, SystemTime::now());
    let known = store.revoked_since(0).await.unwrap().position;
    let mut many: Vec<_> =
        (0..998).map(|n| Revocation::token(ISSUER, &format!("id-{n}"))).collect();
    many.push(Revocation::subject(ISSUER, "bob").with_end(in_an_hour()));
    many.push(many[0].clone());
    store.revoke(&RevokeRequest::of(many.clone(), now)).await.unwrap();
    let page = store.revoked_since(known).await.unwrap();
    let seen: HashSet<_> = page.revocations.into_iter().collect();
    assert_eq!(seen, many.into_iter().collect(), "OPAQUE-73: one was said twice");
    let last = vec![Revocation::client(ISSUER, "app"), Revocation::issuer(PARTNER)];
    store.revoke(&RevokeRequest::of(last.clone(), now)).await.unwrap();
    let page = store.revoked_since(page.position).await.unwrap();
    let seen: HashSet<_> = page.revocations.into_iter().collect();
    assert_eq!(seen, last.into_iter().collect(), "OPAQUE-73");
    let node = Node::start(shared.store().await).await;
    assert_eq!(node.revocations.len(), 1001);
    for name in ["subject", "client", "issuer"] {
        assert!(!node.accepts(name).await, "OPAQUE-70: {name}");
    }
    assert!(node.accepts("base").await);
}

async fn any_text_can_be_a_name<S: Shared>(fresh: impl Fn() -> S) {
    let shared = fresh();
    let names = [
        String::new(),
        " ".to_owned(),
        "a\0b".to_owned(),
        "\"quoted\" 'and' \\".to_owned(),
        "line\nbreak\r\n".to_owned(),
        "{braces}:*".to_owned(),
        "\u{1f600}\u{202e}".to_owned(),
        "x".repeat(20_000),
    ];
    let principals = names.iter().enumerate().map(|(n, name)| {
        let principal = tower_gate::Principal::builder(ISSUER, name).build();
        (format!("token-{n}"), principal)
    });
    let principals: std::collections::HashMap<_, _> = principals.collect();
    let node = async || {
        let builder = tower_gate::verifier::revocable::Revocations::builder(shared.store().await);
        let node = Node::of(builder, principals.clone());
        node.revocations.ready().await.unwrap();
        node
    };
    let (one, other) = (node().await, node().await);
    for (n, name) in names.iter().enumerate() {
        let token = format!("token-{n}");
        assert!(other.accepts(&token).await, "{name:.20?}");
        one.revoke(Revocation::subject(ISSUER, name)).await;
        other.refuses_within(&token, SOON).await;
    }
    assert_eq!(node().await.revocations.len(), names.len());
}

async fn nodes_that_are_told_do_not_wait_for_their_poll<S: Shared>(fresh: impl Fn() -> S) {
    let shared = fresh();
    let one = Node::told(shared.store().await).await;
    let other = Node::told(shared.store().await).await;
    for name in ["base", "subject", "client"] {
        assert!(other.accepts(name).await);
    }
    // The first load may have come before the watch; the others prove that it goes on.
    for (name, revocation) in [
        ("base", Revocation::token(ISSUER, "t-1")),
        ("subject", Revocation::subject(ISSUER, "bob")),
        ("client", Revocation::client(ISSUER, "app")),
    ] {
        one.revoke(revocation).await;
        other.refuses_within(name, SOON).await;
        assert!(other.revocations.age().unwrap() < SOON);
    }
}

#[test]
fn the_form_that_stores_keep_is_stable() {
    let at = UNIX_EPOCH + Duration::from_millis(1_700_000_000_900);
    for (revocation, form) in [
        (
            Revocation::token("i", "t"),
            r#"{"target":{"token":{"issuer":"i","token_id":"t"}},"issued_until":null,"ends_at":null}"#,
        ),
        (
            Revocation::subject("i", "s").with_issued_until(at),
            r#"{"target":{"subject":{"issuer":"i","subject":"s"}},"issued_until":1700000000,"ends_at":null}"#,
        ),
        (
            // It is not over before the moment that was given.
            Revocation::client("i", "c").with_end(at),
            r#"{"target":{"client":{"issuer":"i","client":"c"}},"issued_until":null,"ends_at":1700000001}"#,
        ),
        (
            Revocation::key("i", "k"),
            r#"{"target":{"key":{"issuer":"i","key_id":"k"}},"issued_until":null,"ends_at":null}"#,
        ),
        (
            Revocation::issuer("i"),
            r#"{"target":{"issuer":{"issuer":"i"}},"issued_until":null,"ends_at":null}"#,
        ),
        (Revocation::all(at), r#"{"target":"all","issued_until":1700000000,"ends_at":null}"#),
    ] {
        assert_eq!(serde_json::to_string(&revocation).unwrap(), form);
        assert_eq!(serde_json::from_str::<Revocation>(form).unwrap(), revocation);
    }
    for unknown in [r#"{"target":{"family":{}}}"#, r#"{"target":"all","issued_until":1,"x":1}"#] {
        assert!(serde_json::from_str::<Revocation>(unknown).is_err(), "never left out: {unknown}");
    }
}
