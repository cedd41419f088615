//! Telling other nodes, which may remember a token as good, that it was revoked.

use std::time::{Duration, SystemTime};

use crate::revocation::Revocation;
use crate::store::{StoreError, TokenFilter, TokenQuery, TokenRecord};
use crate::verifier::opaque::OpaqueTokens;

/// What was revoked longer ago no node remembers as good, and needs not be told again.
const RECENT: Duration = Duration::from_secs(3600);

/// How far a node's clock may be ahead, and its look-up behind.
const MARGIN: Duration = Duration::from_secs(5);

impl OpaqueTokens {
    /// Tells of the tokens that have just been revoked, and of those that were before somebody tried
    /// again. Each by its id: the subject's signed tokens, where there are some, are not meant.
    pub(super) async fn tell_nodes(
        &self,
        which: TokenFilter,
        now: SystemTime,
    ) -> Result<(), StoreError> {
        let Some(revocations) = &self.revocations else {
            return Ok(());
        };
        let is_recent = |record: &&TokenRecord| {
            let until = record.revoked_at.and_then(|at| at.checked_add(RECENT));
            until.is_some_and(|until| now < until)
        };
        let mut query = Some(TokenQuery::new(which).limit(1000));
        while let Some(wanted) = query.take() {
            let page = self.list(wanted.clone()).await?;
            for record in page.records.iter().filter(is_recent) {
                revocations.revoke(Revocation::token(&record.issuer, &record.id)).await?;
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
