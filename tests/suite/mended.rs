//! What was wrong once.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use http::Request;
use tower::Layer;
use tower_gate::store::memory::MemoryStore;
use tower_gate::{ManualClock, PeerAddr, Quota, RateLimitLayer};

use crate::support::{Probe, TestBody, anonymous, send};

/// A GET of `/` without credentials, from one address.
fn from_an_address() -> Request<TestBody> {
    let mut request = anonymous();
    request.extensions_mut().insert(PeerAddr(SocketAddr::from((Ipv4Addr::LOCALHOST, 1))));
    request
}

/// A caller that was in debt to a slow quota stayed locked out of a fast one for as long as it kept
/// asking.
#[tokio::test]
async fn a_key_that_moves_to_a_fast_quota_waits_no_longer_than_that_asks() {
    let (store, clock) = (MemoryStore::new(), ManualClock::default());
    let limited = |quota| {
        RateLimitLayer::by_address(store.clone(), quota)
            .with_clock(clock.clone())
            .layer(Probe::default())
    };
    let slow = limited(Quota::per_hour(1));
    assert_eq!(send(&slow, from_an_address()).await.status, 200);
    let fast = limited(Quota::per_second(1));
    for _ in 0..2 {
        let answer = send(&fast, from_an_address()).await;
        assert_eq!(answer.status, 429);
        assert_eq!(answer.header("retry-after"), "1", "RL-45");
        clock.advance(Duration::from_millis(500));
    }
    assert_eq!(send(&fast, from_an_address()).await.status, 200, "RL-45: the wait was the truth");
}
