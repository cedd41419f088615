use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use crate::event::AuditEvent;
use crate::sink::AuditSink;
use crate::trace;

/// A bounded queue and a thread before a sink that blocks.
///
/// A full queue drops the newest event, so that a stuck sink never holds up a request;
/// [`lost`](Self::lost) counts what was dropped (AUDIT-40). Dropping the queue waits until every
/// event in it has been accepted: drop it as the last thing before the program ends.
///
/// ```
/// use tower_gate::AuditLayer;
/// use tower_gate::sink::{JsonLinesSink, QueueSink};
///
/// let sink = QueueSink::new(JsonLinesSink::new(std::io::sink()), 8192)?;
/// let layer = AuditLayer::new(sink);
/// # let _ = layer;
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct QueueSink {
    /// `None` only while the queue is dropped.
    events: Option<SyncSender<AuditEvent>>,
    worker: Option<JoinHandle<()>>,
    lost: AtomicU64,
}

impl QueueSink {
    /// Holds at most `capacity` events for the sink.
    ///
    /// # Errors
    ///
    /// When the thread cannot be started.
    pub fn new(sink: impl AuditSink, capacity: usize) -> std::io::Result<Self> {
        let (events, queue) = sync_channel(capacity);
        let worker = std::thread::Builder::new()
            .name("tower-gate-audit".to_owned())
            .spawn(move || drain(&queue, &sink))?;
        Ok(Self { events: Some(events), worker: Some(worker), lost: AtomicU64::new(0) })
    }

    /// How many events found the queue full.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl AuditSink for QueueSink {
    fn accept(&self, event: AuditEvent) {
        let sent = match &self.events {
            Some(events) => events.try_send(event).is_ok(),
            None => false,
        };
        if !sent && self.lost.fetch_add(1, Ordering::Relaxed) == 0 {
            trace::audit_lost(&"the queue is full");
        }
    }
}

fn drain(queue: &Receiver<AuditEvent>, sink: &impl AuditSink) {
    while let Ok(event) = queue.recv() {
        sink.accept(event);
    }
}

impl Drop for QueueSink {
    fn drop(&mut self) {
        drop(self.events.take());
        if let Some(worker) = self.worker.take() {
            // A sink that panicked has nothing left to wait for.
            let _ = worker.join();
        }
    }
}

impl fmt::Debug for QueueSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueSink").field("lost", &self.lost).finish_non_exhaustive()
    }
}
