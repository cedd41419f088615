//! Telling other nodes, which may remember a token as good, that it was revoked.

use std::time::{Duration, SystemTime};

use crate::revocation::Revocation;
use crate::store::{StoreError, TokenFilter, TokenQuery, TokenRecord};
use crate::verifier::opaque::OpaqueTokens;

/// How far apart the clocks of nodes may be, and for how long somebody may go on trying to revoke.
const APART: Duration = Duration::from_secs(600);

/// How far a node's clock may be ahead, and its look-up behind.
const MARGIN: Duration = Duration::from_secs(5);

impl OpaqueTokens {
    /// Tells of the tokens that have just been revoked, and of those that were before somebody tried
    /// again. Each by its id: the subject's signed tokens, where there are some, are not meant. It
    /// ends when no node remembers any more that the token was good: from then on each asks the store.
    pub(super) async fn tell_nodes(
        &self,
        which: TokenFilter,
        now: SystemTime,
    ) -> Result<(), StoreError> {
        let Some(revocations) = &self.revocations else {
            return Ok(());
        };
        // The same for whoever tries again, so that a store keeps it once.
        let told = |record: &TokenRecord| {
            let end = record.revoked_at?.checked_add(self.max_age.saturating_add(APART));
            let told = Revocation::token(&record.issuer, &record.id);
            match end {
                Some(end) => (now < end).then(|| told.with_end(end)),
                None => Some(told),
            }
        };
        let mut query = Some(TokenQuery::new(which).limit(1000));
        while let Some(wanted) = query.take() {
            let page = self.list(wanted.clone()).await?;
            for revocation in page.records.iter().filter_map(told) {
                revocations.revoke(revocation).await?;
            }
            query = page.next.map(|last| wanted.after(last));
        }
        Ok(())
    }

    /// Has all nodes refuse a token until none remembers any more that it was good, and each asks the
    /// store: what is told cannot be taken back, so that it has an end.
    pub(super) async fn hold_back(&self, id: &str) -> Result<(), StoreError> {
        let (Some(revocations), Some(record)) = (&self.revocations, self.describe(id).await?)
        else {
            return Ok(());
        };
        let told = Revocation::token(&record.issuer, id);
        let told = match self.clock.now().checked_add(self.max_age.saturating_add(MARGIN)) {
            Some(end) => told.with_end(end),
            None => told,
        };
        revocations.revoke(told).await
    }
}
