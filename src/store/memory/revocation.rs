use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::watch;

use crate::revocation::Revocation;
use crate::store::{News, RevocationPage, RevocationStore, RevokeRequest, StoreError};

/// Revocations in memory, for a service that runs as one process.
///
/// Clones share what they keep, and tell each other at once. It ends with the process: after a
/// restart, revoked tokens are good again until they end by themselves.
///
/// ```
/// use tower_gate::FixedVerifier;
/// use tower_gate::store::memory::MemoryRevocations;
/// use tower_gate::verifier::revocable::{RevocableVerifier, Revocations};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let revocations = Revocations::builder(MemoryRevocations::new()).start()?;
/// let verifier = RevocableVerifier::new(FixedVerifier::new(), &revocations);
/// # let _ = verifier;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct MemoryRevocations(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    kept: Mutex<Kept>,
    last: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Kept {
    /// The lowest position first.
    revocations: Vec<(u64, Revocation)>,
    last: u64,
    /// How many there may be before those that have ended are looked for.
    room: usize,
}

impl MemoryRevocations {
    /// Nothing is revoked.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn add(&mut self, revocation: Revocation, now: SystemTime) {
        if self.revocations.len() >= self.room {
            self.revocations.retain(|(_, kept)| kept.end().is_none_or(|end| now < end));
            // At least as many again, so that each is looked at a few times at most.
            self.room = self.revocations.len() * 2 + 16;
        }
        self.last += 1;
        self.revocations.push((self.last, revocation));
    }

    fn since(&self, position: u64) -> RevocationPage {
        let known = self.revocations.partition_point(|(at, _)| *at <= position);
        let new = self.revocations[known..].iter().map(|(_, revocation)| revocation.clone());
        RevocationPage::new(new.collect(), self.last, true)
    }
}

impl RevocationStore for MemoryRevocations {
    async fn revoke(&self, request: &RevokeRequest) -> Result<(), StoreError> {
        let last = {
            let mut kept = self.kept();
            for revocation in &request.revocations {
                kept.add(revocation.clone(), request.now);
            }
            kept.last
        };
        self.0.last.send_replace(last);
        Ok(())
    }

    async fn revoked_since(&self, position: u64) -> Result<RevocationPage, StoreError> {
        Ok(self.kept().since(position))
    }

    async fn watch(&self, news: News) -> Result<(), StoreError> {
        let mut last = self.0.last.subscribe();
        loop {
            news.arrived();
            last.changed().await.map_err(StoreError::new)?;
        }
    }
}
