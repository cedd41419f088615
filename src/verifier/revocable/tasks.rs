//! The three tasks that keep a node's revocations fresh.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::panics::caught;
use crate::random::random_word;
use crate::store::StoreError;
use crate::trace;
use crate::verifier::revocable::shared::Shared;

/// The waits between two tries after a failure.
const SHORTEST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// How often all is loaded anew and what has ended is forgotten: a store whose server was replaced
/// may not have counted on where the old one was.
const FULL_LOAD: Duration = Duration::from_secs(60);

/// Loads what is new for ever: regularly, and whenever there are news.
pub(super) async fn keep_fresh(shared: Arc<Shared>) {
    loop {
        shared.refresh().await;
        let poll = shared.times.poll;
        let wait = match shared.failures() {
            0 => poll,
            // What is new may be waiting behind a connection that has just broken.
            failures => (SHORTEST_WAIT * 2_u32.saturating_pow(failures - 1).min(1024)).min(poll),
        };
        // Whichever comes first.
        let _ = timeout(jittered(wait), shared.news.next()).await;
    }
}

/// Loads all anew for ever, beside what is new, which does not wait for it. What it finds more than
/// that was hidden from it.
pub(super) async fn keep_whole(shared: Arc<Shared>) {
    let mut wait = FULL_LOAD;
    loop {
        // Whichever comes first.
        let _ = timeout(wait, shared.news.anew()).await;
        // Why not, the loads of what is new say.
        wait = if shared.load_anew().await.is_ok() { FULL_LOAD } else { LONGEST_WAIT };
    }
}

/// Watches for ever. It is of no consequence to what is revoked, only to how soon it is known.
pub(super) async fn watch(shared: Arc<Shared>) {
    let mut wait = SHORTEST_WAIT;
    loop {
        let began = Instant::now();
        let watched = caught(shared.store.watch(shared.news.clone())).await;
        let watched = watched.unwrap_or_else(|| Err(StoreError::new("the store panicked")));
        if let Err(error) = watched
            && wait == SHORTEST_WAIT
        {
            trace::revocations_unwatched(&error);
        }
        shared.news.broke();
        if began.elapsed() > LONGEST_WAIT {
            wait = SHORTEST_WAIT;
        }
        sleep(jittered(wait)).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// Between a half and all of a time, so that not all nodes do everything at once.
fn jittered(time: Duration) -> Duration {
    let half = time / 2;
    let nanos = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX).max(1);
    half + Duration::from_nanos(random_word() % nanos)
}
