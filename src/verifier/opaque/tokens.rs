use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use thiserror::Error;
use tokio::time::timeout;

use crate::clock::Clock;
use crate::principal::Principal;
use crate::store::{
    ErasedTokenStore, Replacement, StoreError, Storing, TokenFilter, TokenQuery, TokenRecord,
    TokenStore, whole_millis,
};
use crate::trace;
use crate::verifier::VerifiedTokens;
use crate::verifier::opaque::builder::OpaqueTokensBuilder;
use crate::verifier::opaque::format::{self, Format, FreshToken};
use crate::verifier::opaque::lookup::{OpaqueVerifier, principal_of};
use crate::verifier::opaque::new_token::NewToken;
use crate::verifier::opaque::pepper::Peppers;
use crate::verifier::opaque::unknown::UnknownTokens;
use crate::verifier::opaque::used::LastUsed;
use crate::verifier::revocable::Revocations;

/// The life of opaque tokens, from the issue to the end; see the
/// [module](crate::verifier::opaque). Clones are the same tokens.
#[derive(Clone)]
pub struct OpaqueTokens {
    pub(super) issuer: Arc<str>,
    pub(super) format: Format,
    pub(super) peppers: Peppers,
    pub(super) store: Arc<dyn ErasedTokenStore>,
    pub(super) timeout: Duration,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) used: LastUsed,
    pub(super) unknown: UnknownTokens,
    pub(super) max_age: Duration,
    pub(super) verifier: OpaqueVerifier,
    /// How other nodes are told, where they are.
    pub(super) revocations: Option<Revocations>,
}

/// A token that was just issued: its record, and its text, which is nowhere else.
#[derive(Debug)]
#[non_exhaustive]
pub struct IssuedToken {
    /// The text, to be shown once.
    pub token: FreshToken,
    /// What the store knows of it.
    pub record: TokenRecord,
}

/// A page of records.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TokenPage {
    /// The records, the oldest first.
    pub records: Vec<TokenRecord>,
    /// What the query for the page after this one [comes after](TokenQuery::after); `None` on the
    /// last.
    pub next: Option<String>,
}

/// Why a token was not issued or replaced.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TokenError {
    /// It has expired, or was revoked or disabled.
    #[error("the token is over, and cannot be replaced")]
    Ended,
    /// The issuer, subject or client is empty or longer than 850 bytes, or a text has a NUL in it.
    #[error("a token has a subject, and no name of it is empty, has a NUL or more than 850 bytes")]
    InvalidName,
    /// It would end before it begins, or after the year 9999.
    #[error("the token would end before it begins, or after the year 9999")]
    NeverGood,
    /// The machine has no random bytes.
    #[error("the machine has no random bytes for a token")]
    NoRandomness(#[source] getrandom::Error),
    /// Somebody has replaced it already.
    #[error("the token has been replaced already")]
    Replaced,
    /// The store cannot answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no token with this id.
    #[error("there is no token with this id")]
    Unknown,
}

/// How many records are deleted in one step of the store.
const PURGED_AT_ONCE: usize = 1000;

impl OpaqueTokens {
    /// Starts the tokens of this issuer, whose records are in this store.
    pub fn builder(issuer: &str, store: impl TokenStore, peppers: Peppers) -> OpaqueTokensBuilder {
        OpaqueTokensBuilder::new(issuer, store, peppers)
    }

    /// Who vouches for the subjects of tokens that say nothing else.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The peppers, to add and to retire some.
    #[must_use]
    pub fn peppers(&self) -> &Peppers {
        &self.peppers
    }

    /// The verifier of these tokens, which forgets at once what is revoked here, and where there are
    /// [revocations](OpaqueTokensBuilder::with_revocations), refuses what others have revoked.
    #[must_use]
    pub fn verifier(&self) -> OpaqueVerifier {
        self.verifier.clone()
    }

    /// Issues a token.
    ///
    /// # Errors
    ///
    /// [`TokenError`]; no token is good that was not answered.
    pub async fn issue(&self, new: NewToken) -> Result<IssuedToken, TokenError> {
        let issued = self.make(new)?;
        self.add(&issued.record).await?;
        Ok(issued)
    }

    async fn add(&self, record: &TokenRecord) -> Result<(), StoreError> {
        self.within(self.store.insert(record)).await?;
        self.unknown.count_issued();
        Ok(())
    }

    /// What the store knows of the token with this id.
    ///
    /// # Errors
    ///
    /// When the store cannot answer.
    pub async fn describe(&self, id: &str) -> Result<Option<TokenRecord>, StoreError> {
        if !format::is_id(id) {
            return Ok(None);
        }
        self.within(self.store.describe(id)).await
    }

    /// A page of records, those that are over included.
    ///
    /// # Errors
    ///
    /// When the store cannot answer.
    pub async fn list(&self, query: TokenQuery) -> Result<TokenPage, StoreError> {
        let has_nul = query.after.as_ref().is_some_and(|after| after.contains('\0'));
        if has_nul || query.filter.is_nobodys() {
            return Ok(TokenPage { records: Vec::new(), next: None });
        }
        let wanted = query.limit.min(TokenQuery::MOST);
        let query = TokenQuery { limit: wanted + 1, ..query };
        let mut records = self.within(self.store.list(&query)).await?;
        let more = records.len() > wanted;
        records.truncate(wanted);
        let next = records.last().filter(|_| more).map(|record| record.id.clone());
        Ok(TokenPage { records, next })
    }

    /// Issues a token in the place of another one, for the same holder, with the same rights and as
    /// much time. The old one is good for the overlap, but not beyond its end; without an overlap it
    /// is revoked. Other nodes that cannot be [told](OpaqueTokensBuilder::with_revocations) accept it
    /// until they ask the store again. A token has one successor.
    ///
    /// Whoever drops the future, or whose caller is gone before the answer, may have lost the successor's
    /// text: [`TokenRecord::replaced_by`] names it, and to rotate that one gives another.
    ///
    /// # Errors
    ///
    /// [`TokenError`]: of all that replace one token at once, one gets the successor, the others
    /// [`TokenError::Replaced`]. So does whoever tries again although a token was replaced, because
    /// nobody waited for the answer; other nodes are told then.
    pub async fn rotate(&self, id: &str, overlap: Duration) -> Result<IssuedToken, TokenError> {
        let old = self.describe(id).await?.ok_or(TokenError::Unknown)?;
        let now = self.clock.now();
        if why_not(&old, now).is_none() {
            if self.is_denied(&old, now) {
                return Err(TokenError::Ended);
            }
            if let Some(issued) = self.replace(old, overlap, now).await? {
                return Ok(issued);
            }
        }
        // Whoever has replaced it may not have heard so, and have told nobody.
        self.tell_nodes(TokenFilter::Id(id.to_owned()), now).await?;
        let old = self.describe(id).await?.ok_or(TokenError::Unknown)?;
        Err(why_not(&old, now).unwrap_or(TokenError::Ended))
    }

    /// Whether it is revoked with others, of which its record does not know: a new one would be issued
    /// after that, and good.
    fn is_denied(&self, record: &TokenRecord, now: SystemTime) -> bool {
        let revocations = self.revocations.as_ref();
        revocations.is_some_and(|known| known.cover(&principal_of(record, &self.issuer), now))
    }

    async fn replace(
        &self,
        old: TokenRecord,
        overlap: Duration,
        now: SystemTime,
    ) -> Result<Option<IssuedToken>, TokenError> {
        let issued = self.make(NewToken::like(&old, now))?;
        let until = now.checked_add(overlap).ok_or(TokenError::NeverGood)?;
        let successor = issued.record.clone();
        let replacement = Replacement { id: old.id, until, now, successor };
        let forget = self.forget(TokenFilter::Id(replacement.id.clone()));
        let replaced = match self.within(self.store.replace(&replacement)).await {
            Ok(replaced) => replaced,
            // It may have done so and not come to saying it: the successor is nowhere else, and must
            // not be lost.
            Err(error) => match self.describe(&replacement.id).await {
                Ok(Some(old)) if old.replaced_by.as_ref() == Some(&issued.record.id) => true,
                _ => return Err(error.into()),
            },
        };
        if !replaced {
            return Ok(None);
        }
        let which = forget.which.clone();
        drop(forget);
        self.unknown.count_issued();
        let told = match replacement.revoked_at() {
            Some(_) => self.tell_nodes(which, now).await,
            None => self.doubt_until(&replacement.id, until).await,
        };
        if let Err(error) = told {
            trace::nodes_not_told(&error);
        }
        Ok(Some(issued))
    }

    /// Ends a token. Once this returns, the [verifier](Self::verifier) accepts it no more; those of
    /// other nodes do until they have to [ask the store
    /// again](OpaqueTokensBuilder::with_max_age), or are
    /// [told](OpaqueTokensBuilder::with_revocations). Says whether there was one that was not
    /// revoked yet.
    ///
    /// # Errors
    ///
    /// When the store cannot answer. The token may then be revoked or not; it is safe to try again.
    pub async fn revoke(&self, id: &str) -> Result<bool, StoreError> {
        if !format::is_id(id) {
            return Ok(false);
        }
        Ok(self.revoke_all(TokenFilter::Id(id.to_owned())).await? > 0)
    }

    /// Ends all tokens of a subject or a client, as [`revoke`](Self::revoke) does with one, and says
    /// how many were not revoked yet. One that is issued meanwhile may be good.
    ///
    /// # Errors
    ///
    /// When the store cannot answer.
    pub async fn revoke_all(&self, which: TokenFilter) -> Result<u64, StoreError> {
        if which.is_nobodys() {
            return Ok(0);
        }
        let (forget, now) = (self.forget(which), self.clock.now());
        let revoked = self.within(self.store.revoke(&forget.which, now)).await?;
        let which = forget.which.clone();
        drop(forget);
        self.tell_nodes(which, now).await?;
        Ok(revoked)
    }

    /// Lets a token end at this moment, unless it does so before. On this node it is so once this
    /// returns; others may accept it for longer, until they have to [ask the store
    /// again](OpaqueTokensBuilder::with_max_age) or are
    /// [told](OpaqueTokensBuilder::with_revocations). Says whether there is one that is not revoked.
    ///
    /// A token that [replaces](Self::rotate) this one lasts from its issue to then: whoever is to hold
    /// none after that moment must not be able to replace it.
    ///
    /// # Errors
    ///
    /// When the store cannot answer. The token may then end or not; it is safe to try again.
    pub async fn expire(&self, id: &str, at: SystemTime) -> Result<bool, StoreError> {
        if !format::is_id(id) {
            return Ok(false);
        }
        let forget = self.forget(TokenFilter::Id(id.to_owned()));
        let found = self.within(self.store.expire(id, whole_millis(at))).await?;
        drop(forget);
        if found && at <= self.clock.now() {
            self.tell_expired(id).await?;
        } else if found {
            self.doubt_until(id, at).await?;
        }
        Ok(found)
    }

    /// Deletes the records of tokens that have expired or were revoked before this moment, a thousand
    /// at once, and says how many. Such a token is unknown afterwards. Keep them for as long as
    /// somebody may ask what became of one.
    ///
    /// # Errors
    ///
    /// When the store cannot answer; some may be gone by then.
    pub async fn purge(&self, ended_before: SystemTime) -> Result<u64, StoreError> {
        // What ends later is good.
        let ended_before = ended_before.min(self.clock.now());
        let mut purged = 0;
        loop {
            let some = self.within(self.store.purge(ended_before, PURGED_AT_ONCE)).await?;
            purged += some;
            if some < PURGED_AT_ONCE as u64 {
                return Ok(purged);
            }
        }
    }

    /// Makes a token unusable, which reads as revoked, until it is [enabled](Self::enable) again.
    /// Takes effect as [`revoke`](Self::revoke) does, on other nodes too. Says whether there is one.
    ///
    /// # Errors
    ///
    /// When the store cannot answer. The token may then be disabled or not; it is safe to try again.
    pub async fn disable(&self, id: &str) -> Result<bool, StoreError> {
        self.set_enabled(id, false).await
    }

    /// Makes a token that was disabled usable again, at once and on every node. Says whether there is
    /// one.
    ///
    /// # Errors
    ///
    /// When the store cannot answer.
    pub async fn enable(&self, id: &str) -> Result<bool, StoreError> {
        self.set_enabled(id, true).await
    }

    /// Writes down when tokens were used, which happens by itself a few seconds after they were:
    /// for the end of a program.
    pub async fn write_last_used(&self) {
        self.used.write().await;
    }

    async fn set_enabled(&self, id: &str, enabled: bool) -> Result<bool, StoreError> {
        if !format::is_id(id) {
            return Ok(false);
        }
        let forget = self.forget(TokenFilter::Id(id.to_owned()));
        let found = self.within(self.store.set_enabled(id, enabled)).await?;
        drop(forget);
        if found && !enabled {
            self.doubt(id).await?;
        }
        Ok(found)
    }

    async fn within<T>(&self, storing: Storing<'_, T>) -> Result<T, StoreError> {
        timeout(self.timeout, storing).await.map_err(StoreError::new)?
    }

    fn make(&self, new: NewToken) -> Result<IssuedToken, TokenError> {
        let now = self.clock.now();
        let id = format::fresh_id(now).map_err(TokenError::NoRandomness)?;
        let token = self.format.fresh().map_err(TokenError::NoRandomness)?;
        let peppers = self.peppers.now();
        let newest = &peppers[0];
        let digest = newest.digest(token.expose());
        let who = (new.issuer_or(&self.issuer), new.subject());
        let mut record = TokenRecord::new(id, (newest.id(), digest), who, now);
        new.fill(&mut record, now)?;
        Ok(IssuedToken { token, record })
    }

    fn forget(&self, which: TokenFilter) -> Forget {
        Forget { remembered: self.verifier.tokens(), which }
    }
}

/// Why a token can have no successor.
fn why_not(old: &TokenRecord, now: SystemTime) -> Option<TokenError> {
    if old.replaced_by.is_some() {
        Some(TokenError::Replaced)
    } else {
        old.is_over(now).then_some(TokenError::Ended)
    }
}

/// Forgets tokens when it is dropped: after the store was told, also where nobody waits for its
/// answer any more. A verification that has begun before is not remembered either.
struct Forget {
    remembered: VerifiedTokens,
    which: TokenFilter,
}

impl Forget {
    fn is_of(&self, principal: &Principal) -> bool {
        match &self.which {
            TokenFilter::Client(client) => principal.client() == Some(client),
            TokenFilter::Id(id) => principal.token_id() == Some(id),
            TokenFilter::Subject { issuer, subject } => {
                principal.issuer() == issuer && principal.subject() == subject
            }
        }
    }
}

impl Drop for Forget {
    fn drop(&mut self) {
        self.remembered.forget(|principal| self.is_of(principal));
    }
}

impl fmt::Debug for OpaqueTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpaqueTokens")
            .field("issuer", &self.issuer)
            .field("format", &self.format)
            .field("peppers", &self.peppers)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryTokenStore;
    use crate::token::BearerToken;
    use crate::verifier::opaque::Pepper;
    use crate::verifier::{TokenVerifier, VerifyErrorKind, VerifyRequest};

    #[tokio::test]
    async fn a_token_is_good_at_once_that_was_asked_about_before_its_issue() {
        let peppers = Peppers::new(Pepper::new("1", &[7; 32]).unwrap());
        let builder = OpaqueTokens::builder("issuer", MemoryTokenStore::new(), peppers);
        let tokens = builder.build().unwrap();
        let issued = tokens.make(NewToken::new("user-1")).unwrap();
        let token = BearerToken::parse(issued.token.expose()).unwrap();
        let (verifier, request) = (tokens.verifier(), VerifyRequest::new(token, SystemTime::now()));
        let error = verifier.verify(&request).await.unwrap_err();
        assert_eq!(error.kind(), VerifyErrorKind::UnknownToken);
        assert!(verifier.try_verify(&request).unwrap().is_err(), "it is remembered as unknown");
        tokens.add(&issued.record).await.unwrap();
        assert_eq!(verifier.verify(&request).await.unwrap().subject(), "user-1");
    }
}
