use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::SystemTime;

use crate::store::{
    Replacement, StoreError, TokenDigest, TokenFilter, TokenQuery, TokenRecord, TokenStore,
};

/// Records of tokens in memory, for tests and for tokens that end with the process.
///
/// Clones share their records. There is no bound on their number: only who may issue tokens adds
/// any.
///
/// ```
/// use tower_gate::store::memory::MemoryTokenStore;
/// use tower_gate::verifier::opaque::{OpaqueTokens, Pepper, Peppers};
///
/// # let secret = [7; 32];
/// let peppers = Peppers::new(Pepper::new("2026-01", &secret)?);
/// let store = MemoryTokenStore::new();
/// let tokens = OpaqueTokens::builder("https://api.example", store, peppers).build()?;
/// # let _ = tokens;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Default)]
pub struct MemoryTokenStore(Arc<RwLock<Records>>);

#[derive(Default)]
struct Records {
    by_id: BTreeMap<String, TokenRecord>,
    ids: HashMap<TokenDigest, String>,
}

impl MemoryTokenStore {
    /// A store without records.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn read(&self) -> RwLockReadGuard<'_, Records> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Records> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Records {
    fn insert(&mut self, record: &TokenRecord) -> Result<(), StoreError> {
        if self.by_id.contains_key(&record.id) || self.ids.contains_key(&record.digest) {
            return Err(StoreError::new("a token has this id or this digest already"));
        }
        self.ids.insert(record.digest, record.id.clone());
        self.by_id.insert(record.id.clone(), record.clone());
        Ok(())
    }
}

impl TokenStore for MemoryTokenStore {
    async fn insert(&self, record: &TokenRecord) -> Result<(), StoreError> {
        self.write().insert(record)
    }

    async fn find(&self, digests: &[TokenDigest]) -> Result<Option<TokenRecord>, StoreError> {
        let records = self.read();
        let id = digests.iter().find_map(|digest| records.ids.get(digest));
        Ok(id.and_then(|id| records.by_id.get(id)).cloned())
    }

    async fn describe(&self, id: &str) -> Result<Option<TokenRecord>, StoreError> {
        Ok(self.read().by_id.get(id).cloned())
    }

    async fn list(&self, query: &TokenQuery) -> Result<Vec<TokenRecord>, StoreError> {
        let records = self.read();
        let found = records.by_id.values().filter(|record| query.includes(record));
        Ok(found.take(query.limit).cloned().collect())
    }

    async fn replace(&self, replacement: &Replacement) -> Result<bool, StoreError> {
        let mut records = self.write();
        let Some(mut old) = records.by_id.get(&replacement.id).cloned() else {
            return Ok(false);
        };
        if !replacement.apply(&mut old) {
            return Ok(false);
        }
        records.insert(&replacement.successor)?;
        records.by_id.insert(old.id.clone(), old);
        Ok(true)
    }

    async fn revoke(&self, which: &TokenFilter, at: SystemTime) -> Result<u64, StoreError> {
        let mut revoked = 0;
        for record in self.write().by_id.values_mut() {
            if record.revoked_at.is_none() && which.includes(record) {
                record.revoked_at = Some(at);
                revoked += 1;
            }
        }
        Ok(revoked)
    }

    async fn set_enabled(&self, id: &str, enabled: bool) -> Result<bool, StoreError> {
        let mut records = self.write();
        let found = records.by_id.get_mut(id);
        Ok(found.map(|record| record.enabled = enabled).is_some())
    }

    async fn expire(&self, id: &str, at: SystemTime) -> Result<bool, StoreError> {
        let mut records = self.write();
        let found = records.by_id.get_mut(id).filter(|record| record.revoked_at.is_none());
        Ok(found.map(|record| record.expire(at)).is_some())
    }

    async fn purge(&self, before: SystemTime, most: usize) -> Result<u64, StoreError> {
        let mut records = self.write();
        let ended = records.by_id.values().filter(|record| record.ended_before(before));
        let ended: Vec<_> =
            ended.take(most).map(|record| (record.id.clone(), record.digest)).collect();
        for (id, digest) in &ended {
            records.by_id.remove(id);
            records.ids.remove(digest);
        }
        Ok(ended.len() as u64)
    }

    async fn touch(&self, used: &[(String, SystemTime)]) -> Result<(), StoreError> {
        let mut records = self.write();
        for (id, at) in used {
            if let Some(record) = records.by_id.get_mut(id) {
                record.last_used = record.last_used.max(Some(*at));
            }
        }
        Ok(())
    }
}

impl fmt::Debug for MemoryTokenStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryTokenStore").field("tokens", &self.read().by_id.len()).finish()
    }
}
