use std::fmt;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::event::AuditEvent;
use crate::sink::AuditSink;
use crate::trace;

/// A sink that writes one JSON object a line.
///
/// Each line is one `write_all`, so several processes can append to one file. Whatever a client
/// puts into a path or a header is escaped by the JSON encoder and cannot begin a line of its own.
/// A write that fails loses that line: [`lost`](Self::lost) counts it, and the first of a row of
/// failures is logged. Writing blocks, and so does whoever reads a pipe or a terminal and has
/// stopped: put a [`QueueSink`](crate::sink::QueueSink) before it, as here.
///
/// ```
/// use tower_gate::AuditLayer;
/// use tower_gate::sink::{JsonLinesSink, QueueSink};
///
/// let layer = AuditLayer::new(QueueSink::new(JsonLinesSink::new(std::io::stdout()), 8192)?);
/// # let _ = layer;
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct JsonLinesSink<W> {
    writer: Mutex<Writer<W>>,
    lost: AtomicU64,
}

struct Writer<W> {
    to: W,
    failing: bool,
}

impl<W: Write + Send + 'static> JsonLinesSink<W> {
    /// Writes to a file that was opened for appending, a pipe or standard output.
    pub fn new(writer: W) -> Self {
        let writer = Mutex::new(Writer { to: writer, failing: false });
        Self { writer, lost: AtomicU64::new(0) }
    }

    /// How many events could not be written.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl<W: Write + Send + 'static> AuditSink for JsonLinesSink<W> {
    fn accept(&self, event: AuditEvent) {
        // Long enough for most, so that it need not grow.
        let mut line = Vec::with_capacity(1024);
        let made = serde_json::to_writer(&mut line, &event);
        // With its end in one write, so that the lines of two processes cannot mix.
        line.push(b'\n');
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let written = made.map_err(Into::into).and_then(|()| {
            writer.to.write_all(&line)?;
            writer.to.flush()
        });
        if let Err(error) = &written {
            self.lost.fetch_add(1, Ordering::Relaxed);
            if !writer.failing {
                trace::audit_lost(error);
            }
        }
        writer.failing = written.is_err();
    }

    fn lost(&self) -> u64 {
        Self::lost(self)
    }
}

impl<W> fmt::Debug for JsonLinesSink<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JsonLinesSink").field("lost", &self.lost).finish_non_exhaustive()
    }
}
