//! Telling other nodes, which may remember a token as good, that it has ended.

use std::time::{Duration, SystemTime};

use crate::revocation::Revocation;
use crate::store::{StoreError, TokenFilter, TokenQuery, TokenRecord};
use crate::verifier::opaque::OpaqueTokens;

/// How far apart the clocks of the nodes and of the store may be, and how much longer than this node
/// another one may remember tokens, together: so none remembers them for longer than this.
pub(super) const APART: Duration = Duration::from_secs(300);

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
        let told = |record: &TokenRecord| {
            // The same for whoever tries again, so that a store keeps it once. The store may have
            // taken all its time until nobody could read the token as good any more.
            let told = Revocation::token(&record.issuer, &record.id);
            let told = self.ending(told, record.revoked_at?.checked_add(self.timeout));
            told.end().is_none_or(|end| now < end).then_some(told)
        };
        let mut query = Some(TokenQuery::new(which).limit(TokenQuery::MOST));
        while let Some(wanted) = query.take() {
            let page = self.list(wanted.clone()).await?;
            revocations.revoke_all(page.records.iter().filter_map(told).collect()).await?;
            query = page.next.map(|last| wanted.after(last));
        }
        Ok(())
    }

    /// Has all nodes refuse a token that has just expired: by the clocks of some it has not yet.
    pub(super) async fn tell_expired(&self, id: &str) -> Result<(), StoreError> {
        self.tell(id, Revocation::token).await
    }

    /// Has all nodes ask the store about a token that was disabled, for as long as one of them may
    /// remember that it was good: it may be enabled meanwhile.
    pub(super) async fn doubt(&self, id: &str) -> Result<(), StoreError> {
        self.tell(id, Revocation::remembered).await
    }

    /// The same of a token that ends at this moment, if that is before all nodes have forgotten it.
    pub(super) async fn doubt_until(&self, id: &str, end: SystemTime) -> Result<(), StoreError> {
        let forgotten = self.clock.now().checked_add(self.max_age.saturating_add(APART));
        if forgotten.is_none_or(|forgotten| end < forgotten) {
            self.doubt(id).await
        } else {
            Ok(())
        }
    }

    async fn tell(
        &self,
        id: &str,
        what: impl FnOnce(&str, &str) -> Revocation,
    ) -> Result<(), StoreError> {
        let (Some(revocations), Some(record)) = (&self.revocations, self.describe(id).await?)
        else {
            return Ok(());
        };
        let told = what(&record.issuer, &record.id);
        revocations.revoke(self.ending(told, Some(self.clock.now()))).await
    }

    /// It ends when no node remembers any more that the token was good, which it was at this time at
    /// the latest: from then on each asks the store. What is told cannot be taken back.
    fn ending(&self, told: Revocation, last_good: Option<SystemTime>) -> Revocation {
        let remembered = self.max_age.saturating_add(APART);
        match last_good.and_then(|last_good| last_good.checked_add(remembered)) {
            Some(end) => told.with_end(end),
            None => told,
        }
    }
}
