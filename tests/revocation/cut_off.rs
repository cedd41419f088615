//! One node of several that does not reach the store any more, while the others do.

use std::time::{Duration, Instant};

use tokio::time::sleep;
use tower_gate::Revocation;
use tower_gate::store::RevocationStore;
use tower_gate::verifier::revocable::Revocations;

use crate::node::{ISSUER, Node, principals};
use crate::servers::front::Front;
use crate::shared::{Server, postgres, redis};

const MAX_AGE: Duration = Duration::from_secs(3);

/// For what takes a moment, on a busy machine.
const LONG: Duration = Duration::from_secs(30);

/// How long it takes at most until a connection is known to be broken, on a busy machine.
const A_MOMENT: Duration = Duration::from_millis(250);

const REVOKED: &str = "401 token_revoked revoked";

async fn node(store: impl RevocationStore) -> Node {
    let builder = Revocations::builder(store)
        .with_poll_interval(Duration::from_millis(200))
        .with_timeout(Duration::from_millis(500))
        .with_max_age(MAX_AGE);
    let node = Node::of(builder, principals());
    node.revocations.ready().await.unwrap();
    node
}

async fn only_the_node_that_is_cut_off_refuses_and_only_then(server: &impl Server) {
    let url = server.url();
    let front = Front::before(&url).await;
    let cut_off = node(server.store_at(&front.url(&url)).await).await;
    let others = [node(server.store().await).await, node(server.store().await).await];
    for (is_silent, [(early, early_id), (late, late_id)]) in [
        (false, [("token", "t-4"), ("key", "t-5")]),
        (true, [("subject", "t-2"), ("client", "t-3")]),
    ] {
        for token in ["base", early, late] {
            for node in [&cut_off, &others[0], &others[1]] {
                assert!(node.accepts(token).await, "{token}");
            }
        }
        if is_silent {
            front.silence(true);
        } else {
            front.close();
        }
        let began = Instant::now();
        others[0].revoke(Revocation::token(ISSUER, early_id)).await;
        others[1].refuses_within(early, LONG).await;
        let mut accepted = 0;
        loop {
            for other in &others {
                assert!(other.accepts("base").await, "it is not this one that is cut off");
            }
            let (asked, before) = (began.elapsed(), cut_off.revocations.age().unwrap());
            let answer = cut_off.get("base").await;
            let after = cut_off.revocations.age().unwrap();
            if answer.text != "200" {
                answer.is_outage("cut off");
                assert!(after > MAX_AGE, "OPAQUE-72: refused at an age of {after:?}");
                break;
            }
            assert!(before <= MAX_AGE, "OPAQUE-72: accepted at an age of {before:?}");
            assert!(asked <= MAX_AGE + A_MOMENT, "OPAQUE-72: cut off for {asked:?}");
            accepted += 1;
            sleep(Duration::from_millis(5)).await;
        }
        // By the clock on the wall: all that it had loaded was less than half an age old.
        assert!(began.elapsed() > MAX_AGE / 2, "OPAQUE-72: {:?}", began.elapsed());
        assert!(accepted > 0, "it goes on for as long as it may: {accepted}");

        others[1].revoke(Revocation::token(ISSUER, late_id)).await;
        others[0].refuses_within(late, LONG).await;
        for _ in 0..10 {
            for token in ["base", early, late] {
                cut_off.get(token).await.is_outage("cut off, however long");
            }
            for other in &others {
                assert!(other.accepts("base").await && !other.accepts(early).await);
            }
        }

        if is_silent {
            front.silence(false);
        } else {
            front.lead_to(&url);
        }
        let began = Instant::now();
        loop {
            let answer = cut_off.get("base").await;
            if answer.text == "200" {
                break;
            }
            answer.is_outage("not back yet");
            assert!(began.elapsed() < LONG, "it does not come back");
        }
        for token in [early, late] {
            let text = cut_off.get(token).await.text;
            assert_eq!(text, REVOKED, "OPAQUE-73: whoever serves again knows all: {token}");
        }
        for other in &others {
            assert!(other.accepts("base").await);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_cut_off_from_redis_refuses_alone() {
    only_the_node_that_is_cut_off_refuses_and_only_then(&redis()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_cut_off_from_postgres_refuses_alone() {
    only_the_node_that_is_cut_off_refuses_and_only_then(&postgres()).await;
}
