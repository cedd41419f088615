use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::store::{ErasedTokenStore, TokenRecord, whole_millis};
use crate::trace;

/// When tokens were used, written down behind the requests that use them. Clones are the same.
#[derive(Clone)]
pub(super) struct LastUsed(Arc<Inner>);

struct Inner {
    store: Arc<dyn ErasedTokenStore>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// In the order of the ids, in which stores lock them: two nodes that write the same ones never
    /// wait for each other in a circle.
    waiting: BTreeMap<String, SystemTime>,
    /// There while something waits, and gone with it.
    writer: Option<JoinHandle<()>>,
}

/// A token is written down at most this often.
const RESOLUTION: Duration = Duration::from_secs(60);
/// How long uses are gathered.
const GATHER: Duration = Duration::from_secs(5);
/// How long writing may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many wait at most. What is more is forgotten: it will be used again, or is not worth knowing.
const MAX_WAITING: usize = 10_000;

impl LastUsed {
    pub(super) fn new(store: Arc<dyn ErasedTokenStore>) -> Self {
        Self(Arc::new(Inner { store, state: Mutex::default() }))
    }

    /// Neither waits nor fails.
    pub(super) fn mark(&self, record: &TokenRecord, now: SystemTime) {
        let is_fresh = |last: SystemTime| last.checked_add(RESOLUTION).is_none_or(|end| now < end);
        if record.last_used.is_some_and(is_fresh) {
            return;
        }
        let mut state = self.0.state();
        if state.waiting.len() >= MAX_WAITING {
            return;
        }
        state.waiting.insert(record.id.clone(), whole_millis(now));
        if state.writer.as_ref().is_none_or(JoinHandle::is_finished)
            && let Ok(runtime) = Handle::try_current()
        {
            let weak = Arc::downgrade(&self.0);
            state.writer = Some(runtime.spawn(async move {
                loop {
                    sleep(GATHER).await;
                    match weak.upgrade() {
                        Some(inner) if inner.write().await => {}
                        _ => break,
                    }
                }
            }));
        }
    }

    pub(super) async fn write(&self) {
        self.0.write().await;
    }
}

impl Inner {
    /// Writes down what waits. Says whether anything did.
    async fn write(&self) -> bool {
        let used: Vec<_> = {
            let mut state = self.state();
            if state.waiting.is_empty() {
                state.writer = None;
                return false;
            }
            std::mem::take(&mut state.waiting).into_iter().collect()
        };
        match timeout(PATIENCE, self.store.touch(&used)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => trace::last_used_lost(used.len(), &error),
            Err(elapsed) => trace::last_used_lost(used.len(), &elapsed),
        }
        true
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(writer) = self.state().writer.take() {
            writer.abort();
        }
    }
}
