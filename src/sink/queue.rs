use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::event::AuditEvent;
use crate::sink::AuditSink;
use crate::trace;

/// A bounded queue and a thread before a sink that blocks.
///
/// A full queue drops the newest event, so that a stuck sink never holds up a request (AUDIT-40).
/// [`lost`](Self::lost) counts what was dropped, and what the sink could not write; the first of a
/// row of losses is logged, and how many they were once the queue is empty again. Keep an `Arc` of
/// the queue to read the counter, and to [`flush`](Self::flush) it before the program ends:
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
/// use tower_gate::AuditLayer;
/// use tower_gate::sink::{JsonLinesSink, QueueSink};
///
/// let trail = Arc::new(QueueSink::new(JsonLinesSink::new(std::io::stdout()), 8192)?);
/// let layer = AuditLayer::new(trail.clone());
/// // Serve, until somebody says stop.
/// # let _ = layer;
/// if !trail.flush(Duration::from_secs(5)) || trail.lost() > 0 {
///     eprintln!("the audit trail is not complete: {} events were lost", trail.lost());
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// Dropping the queue flushes it too, and waits at most five seconds: a sink that is stuck does not
/// keep the program from ending.
pub struct QueueSink {
    /// `None` only while the queue is dropped.
    events: Option<SyncSender<AuditEvent>>,
    worker: Option<JoinHandle<()>>,
    sent: AtomicU64,
    shared: Arc<Shared>,
    sink: Arc<dyn AuditSink>,
}

/// What the queue and its worker tell each other.
#[derive(Default)]
struct Shared {
    progress: Mutex<Progress>,
    advanced: Condvar,
    lost: AtomicU64,
    lost_in_a_row: AtomicU64,
}

#[derive(Default)]
struct Progress {
    taken: u64,
    ended: bool,
}

/// How long a drop waits for what is queued.
const PATIENCE: Duration = Duration::from_secs(5);

impl QueueSink {
    /// Holds at most `capacity` events for the sink.
    ///
    /// # Errors
    ///
    /// When the thread cannot be started, or the queue could hold nothing.
    pub fn new(sink: impl AuditSink, capacity: usize) -> io::Result<Self> {
        if capacity == 0 {
            let message = "an audit queue must hold at least one event";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let (events, queue) = sync_channel(capacity);
        let shared = Arc::<Shared>::default();
        let sink: Arc<dyn AuditSink> = Arc::new(sink);
        let worker = std::thread::Builder::new().name("tower-gate-audit".to_owned()).spawn({
            let (shared, sink) = (shared.clone(), sink.clone());
            move || {
                shared.drain(&queue, &sink);
                shared.advance(|progress| progress.ended = true);
            }
        })?;
        let (events, worker) = (Some(events), Some(worker));
        Ok(Self { events, worker, sent: AtomicU64::new(0), shared, sink })
    }

    /// How many events found the queue full, or made the sink panic, or were lost by the sink, as on a
    /// full disk.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed) + self.sink.lost()
    }

    /// Waits until the sink has taken every event that has been queued by now, and says whether it
    /// did so within this time. It blocks the thread.
    #[must_use = "a trail that is not complete should be reported"]
    pub fn flush(&self, timeout: Duration) -> bool {
        let due = self.sent.load(Ordering::Acquire);
        self.shared.wait(timeout, |progress| progress.taken >= due).taken >= due
    }
}

impl AuditSink for QueueSink {
    fn accept(&self, event: AuditEvent) {
        let Some(events) = &self.events else {
            return;
        };
        match events.try_send(event) {
            Ok(()) => {
                self.sent.fetch_add(1, Ordering::Release);
            }
            // The worker ends only after this end of the queue.
            Err(_) => self.shared.lose("the queue is full"),
        }
    }

    fn lost(&self) -> u64 {
        Self::lost(self)
    }
}

impl Shared {
    fn drain(&self, queue: &Receiver<AuditEvent>, sink: &impl AuditSink) {
        loop {
            let event = match queue.try_recv() {
                Err(TryRecvError::Empty) => {
                    // Only an empty queue has recovered: a full one has room again at every event.
                    self.report_recovery();
                    queue.recv().ok()
                }
                received => received.ok(),
            };
            let Some(event) = event else {
                return self.report_recovery();
            };
            // A sink that panics must not take the events after this one along.
            if catch_unwind(AssertUnwindSafe(|| sink.accept(event))).is_err() {
                self.lose("the sink panicked");
            }
            self.advance(|progress| progress.taken += 1);
        }
    }

    fn advance(&self, step: impl FnOnce(&mut Progress)) {
        step(&mut self.progress.lock().unwrap_or_else(PoisonError::into_inner));
        self.advanced.notify_all();
    }

    fn lose(&self, why: &str) {
        self.lost.fetch_add(1, Ordering::Relaxed);
        if self.lost_in_a_row.fetch_add(1, Ordering::Relaxed) == 0 {
            trace::audit_lost(why);
        }
    }

    fn report_recovery(&self) {
        let lost = self.lost_in_a_row.swap(0, Ordering::Relaxed);
        if lost > 0 {
            trace::audit_recovered(lost);
        }
    }

    /// Waits until this is so, the worker has ended, or the time is over.
    fn wait(&self, timeout: Duration, until: impl Fn(&Progress) -> bool) -> Progress {
        let progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let goes_on = |progress: &mut Progress| !progress.ended && !until(progress);
        let waited = self.advanced.wait_timeout_while(progress, timeout, goes_on);
        let (progress, _) = waited.unwrap_or_else(PoisonError::into_inner);
        Progress { ..*progress }
    }
}

impl Drop for QueueSink {
    fn drop(&mut self) {
        drop(self.events.take());
        let has_ended = self.shared.wait(PATIENCE, |_| false).ended;
        if let Some(worker) = self.worker.take().filter(|_| has_ended) {
            // Its panics are caught.
            let _ = worker.join();
        }
    }
}

impl fmt::Debug for QueueSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueSink").field("lost", &self.lost()).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[cfg(feature = "tracing")]
mod tests {
    use std::io::Write;

    use tracing_subscriber::util::SubscriberInitExt;

    use super::*;
    use crate::sink::NullSink;

    /// Keeps what is logged.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn each_row_of_losses_is_logged_once_and_counted_when_it_ends() {
        let log = Log::default();
        let writer = log.clone();
        let logging = tracing_subscriber::fmt().with_ansi(false).without_time().with_target(false);
        let _default = logging.with_writer(move || writer.clone()).finish().set_default();
        let shared = Shared::default();
        for losses in [3, 2] {
            for _ in 0..losses {
                shared.lose("the queue is full");
            }
            let (_, queue) = sync_channel(1);
            shared.drain(&queue, &NullSink);
        }
        let row = |lost| {
            format!(
                " WARN audit events are being lost error=the queue is full\n \
                 WARN audit events were lost; no more are lost={lost}\n"
            )
        };
        let logged = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert_eq!(logged, format!("{}{}", row(3), row(2)), "AUDIT-40");
        assert_eq!(shared.lost.into_inner(), 5, "AUDIT-40");
    }
}
