use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use subtle::ConstantTimeEq;

use crate::scope::ScopeSet;
use crate::store::StoreError;

/// Keeps the records of opaque tokens, never a token.
///
/// **Contract.** A record is found by its digest alone, by equality, through a unique index. Every
/// change is one atomic step and is seen by whoever asks after it has returned; of all that replace
/// one token, exactly one is told `true`. Times are whole milliseconds. Records are only ever
/// judged by the verifier, so `find` also answers with those that are over.
///
/// **Errors.** A [`StoreError`] means that nothing is known: requests are refused with 503, never
/// with 401 and never with a pass. "There is none" is an answer, not an error.
///
/// **Concurrency.** Called from many tasks, and over a shared engine from many nodes. A future may
/// be dropped at any await; its change has then taken place as a whole or not at all.
///
/// **Security.** A record that is answered for another digest lets a stranger in, which the
/// verifier checks once more; one that is answered as it was before it was revoked does so as well,
/// and nobody can check that: do not read from a replica that lags.
///
/// A store over any engine; [`MemoryTokenStore`](crate::store::memory::MemoryTokenStore) is the one
/// to test with, and the null store while it is empty:
///
/// ```
/// use std::sync::Mutex;
/// use std::time::SystemTime;
/// use tower_gate::store::{
///     Replacement, StoreError, TokenDigest, TokenFilter, TokenQuery, TokenRecord, TokenStore,
/// };
///
/// /// A list, looked through from its beginning.
/// struct ListStore {
///     records: Mutex<Vec<TokenRecord>>,
/// }
///
/// impl ListStore {
///     fn with<T>(&self, change: impl FnOnce(&mut Vec<TokenRecord>) -> T) -> Result<T, StoreError> {
///         self.records.lock().map(|mut records| change(&mut records)).map_err(|_| StoreError::new("poisoned"))
///     }
/// }
///
/// impl TokenStore for ListStore {
///     async fn insert(&self, record: &TokenRecord) -> Result<(), StoreError> {
///         self.with(|records| records.push(record.clone()))
///     }
///
///     async fn find(&self, digests: &[TokenDigest]) -> Result<Option<TokenRecord>, StoreError> {
///         self.with(|records| records.iter().find(|record| digests.contains(&record.digest)).cloned())
///     }
///
///     async fn describe(&self, id: &str) -> Result<Option<TokenRecord>, StoreError> {
///         self.with(|records| records.iter().find(|record| record.id == id).cloned())
///     }
///
///     async fn list(&self, query: &TokenQuery) -> Result<Vec<TokenRecord>, StoreError> {
///         self.with(|records| {
///             let mut found: Vec<_> =
///                 records.iter().filter(|record| query.includes(record)).cloned().collect();
///             found.sort_by(|a, b| a.id.cmp(&b.id));
///             found.truncate(query.limit);
///             found
///         })
///     }
///
///     async fn replace(&self, replacement: &Replacement) -> Result<bool, StoreError> {
///         self.with(|records| {
///             let mut old = records.iter_mut().filter(|record| record.id == replacement.id);
///             let replaced = old.next().is_some_and(|old| replacement.apply(old));
///             if replaced {
///                 records.push(replacement.successor.clone());
///             }
///             replaced
///         })
///     }
///
///     async fn revoke(&self, which: &TokenFilter, at: SystemTime) -> Result<u64, StoreError> {
///         self.with(|records| {
///             let live = records.iter_mut().filter(|record| record.revoked_at.is_none());
///             live.filter(|record| which.includes(record)).map(|record| record.revoked_at = Some(at)).count() as u64
///         })
///     }
///
///     async fn set_enabled(&self, id: &str, enabled: bool) -> Result<bool, StoreError> {
///         self.with(|records| {
///             let mut found = records.iter_mut().filter(|record| record.id == id);
///             found.next().map(|record| record.enabled = enabled).is_some()
///         })
///     }
///
///     async fn expire(&self, id: &str, at: SystemTime) -> Result<bool, StoreError> {
///         self.with(|records| {
///             let live = records.iter_mut().filter(|record| record.revoked_at.is_none());
///             let mut found = live.filter(|record| record.id == id);
///             found.next().map(|record| record.expire(at)).is_some()
///         })
///     }
///
///     async fn purge(&self, before: SystemTime, most: usize) -> Result<u64, StoreError> {
///         self.with(|records| {
///             let (len, mut left) = (records.len(), most);
///             records.retain(|record| {
///                 let goes = left > 0 && record.ended_before(before);
///                 left -= usize::from(goes);
///                 !goes
///             });
///             (len - records.len()) as u64
///         })
///     }
///
///     async fn touch(&self, used: &[(String, SystemTime)]) -> Result<(), StoreError> {
///         self.with(|records| {
///             for record in records {
///                 let times = used.iter().filter(|(id, _)| *id == record.id).map(|(_, at)| *at);
///                 record.last_used = times.chain(record.last_used).max();
///             }
///         })
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a `TokenStore`",
    note = "use `MemoryTokenStore`, `SqliteTokenStore` or `PostgresTokenStore`, or implement \
            `TokenStore`"
)]
pub trait TokenStore: Send + Sync + 'static {
    /// Adds a record, whose id and digest are new.
    fn insert(&self, record: &TokenRecord) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// The record with one of these digests, which are those of one token under several peppers.
    fn find(
        &self,
        digests: &[TokenDigest],
    ) -> impl Future<Output = Result<Option<TokenRecord>, StoreError>> + Send;

    /// The record with this id.
    fn describe(
        &self,
        id: &str,
    ) -> impl Future<Output = Result<Option<TokenRecord>, StoreError>> + Send;

    /// The first records that the query [includes](TokenQuery::includes), in the order of their ids,
    /// as many as its limit says.
    fn list(
        &self,
        query: &TokenQuery,
    ) -> impl Future<Output = Result<Vec<TokenRecord>, StoreError>> + Send;

    /// Adds a successor if the token can have one, as [`Replacement::apply`] defines it, and says
    /// whether it did.
    fn replace(
        &self,
        replacement: &Replacement,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Revokes those that are not revoked yet, and says how many they were.
    fn revoke(
        &self,
        which: &TokenFilter,
        at: SystemTime,
    ) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Enables or disables a token, and says whether there is one.
    fn set_enabled(
        &self,
        id: &str,
        enabled: bool,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Lets a token that is not revoked end at this time, as [`TokenRecord::expire`] defines it, and
    /// says whether there is one.
    fn expire(
        &self,
        id: &str,
        at: SystemTime,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Deletes records that have [ended before](TokenRecord::ended_before) this time, so many at
    /// most, and says how many.
    fn purge(
        &self,
        before: SystemTime,
        most: usize,
    ) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Writes down when tokens were used, in the order of their ids; a later time stays. One that
    /// somebody else is changing may be left out.
    fn touch(
        &self,
        used: &[(String, SystemTime)],
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// HMAC-SHA-256 of a token under a pepper, which is all that a store knows of the token.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct TokenDigest([u8; 32]);

impl TokenDigest {
    /// A digest as a store has kept it.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The digest as a store keeps it.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Takes the same time wherever the two differ.
    pub(crate) fn is(&self, other: &Self) -> bool {
        bool::from(self.0.ct_eq(&other.0))
    }
}

/// Shows nothing: whoever has a digest and its pepper can tell a token from another.
impl fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenDigest(..)")
    }
}

/// What a store knows of a token.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct TokenRecord {
    /// The public name of the token, for people and for the audit trail. Ids sort by the time at
    /// which the tokens were made.
    pub id: String,
    /// What the token is found by.
    pub digest: TokenDigest,
    /// The id of the pepper under which the digest was made.
    pub pepper: String,
    /// The authority that vouches for the subject.
    pub issuer: String,
    /// The holder.
    pub subject: String,
    /// The application that the token was given to.
    pub client: Option<String>,
    /// What the token may be used for.
    pub scopes: ScopeSet,
    /// The roles of the holder.
    pub roles: Vec<String>,
    /// What the application adds, as the text of one JSON object.
    pub metadata: String,
    /// When the token was made.
    pub issued_at: SystemTime,
    /// When the token begins, where that is not at once.
    pub not_before: Option<SystemTime>,
    /// When the token ends, where it does.
    pub expires_at: Option<SystemTime>,
    /// When the token was revoked. One that was is over, whatever this time is.
    pub revoked_at: Option<SystemTime>,
    /// Whether the token may be used; one that may not reads as revoked, and can be enabled again.
    pub enabled: bool,
    /// The id of the token that takes this one's place.
    pub replaced_by: Option<String>,
    /// When the token was used, within a minute or so.
    pub last_used: Option<SystemTime>,
}

impl TokenRecord {
    /// A record with what every token has; the rest is empty, and the token enabled.
    #[must_use]
    pub fn new(
        id: impl Into<String>,
        (pepper, digest): (&str, TokenDigest),
        (issuer, subject): (&str, &str),
        issued_at: SystemTime,
    ) -> Self {
        Self {
            id: id.into(),
            digest,
            pepper: pepper.to_owned(),
            issuer: issuer.to_owned(),
            subject: subject.to_owned(),
            client: None,
            scopes: ScopeSet::default(),
            roles: Vec::new(),
            metadata: "{}".to_owned(),
            issued_at: whole_millis(issued_at),
            not_before: None,
            expires_at: None,
            revoked_at: None,
            enabled: true,
            replaced_by: None,
            last_used: None,
        }
    }

    /// Lets the token end at this time, unless it does so before.
    pub fn expire(&mut self, at: SystemTime) {
        self.expires_at = Some(self.expires_at.map_or(at, |end| end.min(at)));
    }

    /// Whether it has expired or was revoked before this time.
    #[must_use]
    pub fn ended_before(&self, time: SystemTime) -> bool {
        [self.expires_at, self.revoked_at].into_iter().flatten().any(|end| end < time)
    }

    /// Whether the token has its end behind it at this time.
    pub(crate) fn is_over(&self, now: SystemTime) -> bool {
        self.is_revoked() || self.has_expired(now)
    }

    pub(crate) fn is_revoked(&self) -> bool {
        self.revoked_at.is_some() || !self.enabled
    }

    pub(crate) fn has_expired(&self, now: SystemTime) -> bool {
        self.expires_at.is_some_and(|end| now >= end)
    }
}

/// A time as stores keep it.
pub(crate) fn whole_millis(time: SystemTime) -> SystemTime {
    let since_1970 = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let millis = u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX);
    UNIX_EPOCH.checked_add(Duration::from_millis(millis)).unwrap_or(UNIX_EPOCH)
}

/// Which tokens.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TokenFilter {
    /// All that were given to this client.
    Client(String),
    /// The one with this id.
    Id(String),
    /// All of this subject, which is the issuer's.
    Subject {
        /// The authority that vouches for the subject.
        issuer: String,
        /// The holder.
        subject: String,
    },
}

impl TokenFilter {
    /// All of this subject.
    #[must_use]
    pub fn subject(issuer: &str, subject: &str) -> Self {
        Self::Subject { issuer: issuer.to_owned(), subject: subject.to_owned() }
    }

    /// All that were given to this client.
    #[must_use]
    pub fn client(client: &str) -> Self {
        Self::Client(client.to_owned())
    }

    /// Whether no token can be one of them: none is issued with a NUL in a name, and not every engine
    /// can be asked about one.
    pub(crate) fn is_nobodys(&self) -> bool {
        match self {
            Self::Client(name) | Self::Id(name) => name.contains('\0'),
            Self::Subject { issuer, subject } => issuer.contains('\0') || subject.contains('\0'),
        }
    }

    /// Whether a token is one of them.
    #[must_use]
    pub fn includes(&self, record: &TokenRecord) -> bool {
        match self {
            Self::Client(client) => record.client.as_ref() == Some(client),
            Self::Id(id) => record.id == *id,
            Self::Subject { issuer, subject } => {
                record.issuer == *issuer && record.subject == *subject
            }
        }
    }
}

/// A page of a list.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TokenQuery {
    /// Which tokens.
    pub filter: TokenFilter,
    /// The id of the last token of the page before.
    pub after: Option<String>,
    /// How many at most.
    pub limit: usize,
}

impl TokenQuery {
    /// How many are listed at once at most.
    pub(crate) const MOST: usize = 1000;

    /// The first hundred.
    #[must_use]
    pub fn new(filter: TokenFilter) -> Self {
        Self { filter, after: None, limit: 100 }
    }

    /// The page after the one that ended with this id.
    #[must_use]
    pub fn after(mut self, id: impl Into<Option<String>>) -> Self {
        self.after = id.into();
        self
    }

    /// How many at most. Default: 100; more than 1000 are never listed at once.
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = limit.min(Self::MOST);
        self
    }

    /// Whether a token is on this page or on a later one.
    #[must_use]
    pub fn includes(&self, record: &TokenRecord) -> bool {
        let comes_after = self.after.as_ref().is_none_or(|after| record.id > *after);
        comes_after && self.filter.includes(record)
    }
}

/// A token and the one that takes its place.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Replacement {
    /// The token that is replaced.
    pub id: String,
    /// Until when it is good beside its successor.
    pub until: SystemTime,
    /// The time.
    pub now: SystemTime,
    /// The one that takes its place.
    pub successor: TokenRecord,
}

impl Replacement {
    /// This token by that one.
    #[must_use]
    pub fn new(
        id: impl Into<String>,
        until: SystemTime,
        now: SystemTime,
        successor: TokenRecord,
    ) -> Self {
        Self { id: id.into(), until, now, successor }
    }

    /// Ends a token that can be replaced: one that is not over and has no successor. Says whether
    /// it could.
    pub fn apply(&self, old: &mut TokenRecord) -> bool {
        let replaceable = old.replaced_by.is_none() && !old.is_over(self.now);
        if replaceable {
            old.replaced_by = Some(self.successor.id.clone());
            old.expire(self.until);
            old.revoked_at = self.revoked_at();
        }
        replaceable
    }

    /// Without an overlap the old token is over at once, for nodes whose clocks are behind too.
    pub(crate) fn revoked_at(&self) -> Option<SystemTime> {
        (self.until <= self.now).then_some(self.now)
    }
}

impl<S: TokenStore + ?Sized> TokenStore for Arc<S> {
    async fn insert(&self, record: &TokenRecord) -> Result<(), StoreError> {
        (**self).insert(record).await
    }

    async fn find(&self, digests: &[TokenDigest]) -> Result<Option<TokenRecord>, StoreError> {
        (**self).find(digests).await
    }

    async fn describe(&self, id: &str) -> Result<Option<TokenRecord>, StoreError> {
        (**self).describe(id).await
    }

    async fn list(&self, query: &TokenQuery) -> Result<Vec<TokenRecord>, StoreError> {
        (**self).list(query).await
    }

    async fn replace(&self, replacement: &Replacement) -> Result<bool, StoreError> {
        (**self).replace(replacement).await
    }

    async fn revoke(&self, which: &TokenFilter, at: SystemTime) -> Result<u64, StoreError> {
        (**self).revoke(which, at).await
    }

    async fn set_enabled(&self, id: &str, enabled: bool) -> Result<bool, StoreError> {
        (**self).set_enabled(id, enabled).await
    }

    async fn expire(&self, id: &str, at: SystemTime) -> Result<bool, StoreError> {
        (**self).expire(id, at).await
    }

    async fn purge(&self, before: SystemTime, most: usize) -> Result<u64, StoreError> {
        (**self).purge(before, most).await
    }

    async fn touch(&self, used: &[(String, SystemTime)]) -> Result<(), StoreError> {
        (**self).touch(used).await
    }
}

/// What a store that has to wait will say.
pub(crate) type Storing<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// A store without its type, so that what works on it has no type parameter.
pub(crate) trait ErasedTokenStore: Send + Sync {
    fn insert<'a>(&'a self, record: &'a TokenRecord) -> Storing<'a, ()>;
    fn find<'a>(&'a self, digests: &'a [TokenDigest]) -> Storing<'a, Option<TokenRecord>>;
    fn describe<'a>(&'a self, id: &'a str) -> Storing<'a, Option<TokenRecord>>;
    fn list<'a>(&'a self, query: &'a TokenQuery) -> Storing<'a, Vec<TokenRecord>>;
    fn replace<'a>(&'a self, replacement: &'a Replacement) -> Storing<'a, bool>;
    fn revoke<'a>(&'a self, which: &'a TokenFilter, at: SystemTime) -> Storing<'a, u64>;
    fn set_enabled<'a>(&'a self, id: &'a str, enabled: bool) -> Storing<'a, bool>;
    fn expire<'a>(&'a self, id: &'a str, at: SystemTime) -> Storing<'a, bool>;
    fn purge(&self, before: SystemTime, most: usize) -> Storing<'_, u64>;
    fn touch<'a>(&'a self, used: &'a [(String, SystemTime)]) -> Storing<'a, ()>;
}

impl<S: TokenStore> ErasedTokenStore for S {
    fn insert<'a>(&'a self, record: &'a TokenRecord) -> Storing<'a, ()> {
        Box::pin(TokenStore::insert(self, record))
    }

    fn find<'a>(&'a self, digests: &'a [TokenDigest]) -> Storing<'a, Option<TokenRecord>> {
        Box::pin(TokenStore::find(self, digests))
    }

    fn describe<'a>(&'a self, id: &'a str) -> Storing<'a, Option<TokenRecord>> {
        Box::pin(TokenStore::describe(self, id))
    }

    fn list<'a>(&'a self, query: &'a TokenQuery) -> Storing<'a, Vec<TokenRecord>> {
        Box::pin(TokenStore::list(self, query))
    }

    fn replace<'a>(&'a self, replacement: &'a Replacement) -> Storing<'a, bool> {
        Box::pin(TokenStore::replace(self, replacement))
    }

    fn revoke<'a>(&'a self, which: &'a TokenFilter, at: SystemTime) -> Storing<'a, u64> {
        Box::pin(TokenStore::revoke(self, which, at))
    }

    fn set_enabled<'a>(&'a self, id: &'a str, enabled: bool) -> Storing<'a, bool> {
        Box::pin(TokenStore::set_enabled(self, id, enabled))
    }

    fn expire<'a>(&'a self, id: &'a str, at: SystemTime) -> Storing<'a, bool> {
        Box::pin(TokenStore::expire(self, id, at))
    }

    fn purge(&self, before: SystemTime, most: usize) -> Storing<'_, u64> {
        Box::pin(TokenStore::purge(self, before, most))
    }

    fn touch<'a>(&'a self, used: &'a [(String, SystemTime)]) -> Storing<'a, ()> {
        Box::pin(TokenStore::touch(self, used))
    }
}
