//! Where audit events go.
//!
//! [`TracingSink`] makes `tracing` events of them, [`JsonLinesSink`] lines of JSON, [`QueueSink`]
//! puts a bounded queue and a thread before any other sink, and any closure that takes an
//! [`AuditEvent`] is a sink too:
//!
//! ```
//! use std::sync::mpsc;
//! use tower_gate::{AuditEvent, AuditLayer};
//!
//! let (sender, receiver) = mpsc::channel();
//! let layer = AuditLayer::new(move |event: AuditEvent| {
//!     let _ = sender.send(event);
//! });
//! # drop((layer, receiver));
//! ```

mod jsonl;
mod queue;
#[cfg(feature = "tracing")]
mod tracing;

use std::sync::Arc;

use crate::event::AuditEvent;

pub use self::jsonl::JsonLinesSink;
pub use self::queue::QueueSink;
#[cfg(feature = "tracing")]
pub use self::tracing::TracingSink;

/// Takes the event of every request that ends.
///
/// **Contract.** Exactly one call for each request, refused, aborted and panicked ones included,
/// after its response is ready and before it is sent. The order is that of
/// [`sequence`](AuditEvent::sequence) but for requests that end at the same moment.
///
/// **Errors.** A sink has none to return: the request has been answered. A sink that loses an event
/// counts it ([`lost`](Self::lost)) and says so where an operator looks. It must not panic; where it
/// does, the event is lost and that is logged, and the request goes on.
///
/// **Concurrency.** Called from many tasks at once, on the request's own task, so it must not
/// block: a sink that does holds up the request, and with it all others of that thread. Put a
/// [`QueueSink`] before it.
///
/// **Security.** A sink that loses events silently lets an attacker act unseen. Texts in the event
/// come from clients; a sink that is not JSON escapes them as its format asks.
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use tower_gate::{AuditEvent, AuditSink, Outcome};
///
/// /// Counts refusals.
/// #[derive(Default)]
/// struct RefusalCounter(AtomicU64);
///
/// impl AuditSink for RefusalCounter {
///     fn accept(&self, event: AuditEvent) {
///         if event.outcome == Outcome::Refused {
///             self.0.fetch_add(1, Ordering::Relaxed);
///         }
///     }
/// }
/// ```
pub trait AuditSink: Send + Sync + 'static {
    /// Takes one event.
    fn accept(&self, event: AuditEvent);

    /// How many events it has lost. Default: none, of which it knows.
    fn lost(&self) -> u64 {
        0
    }
}

impl<F: Fn(AuditEvent) + Send + Sync + 'static> AuditSink for F {
    fn accept(&self, event: AuditEvent) {
        self(event);
    }
}

impl<S: AuditSink + ?Sized> AuditSink for Arc<S> {
    fn accept(&self, event: AuditEvent) {
        (**self).accept(event);
    }

    fn lost(&self) -> u64 {
        (**self).lost()
    }
}

/// Keeps nothing: the null sink.
#[derive(Clone, Copy, Debug, Default)]
pub struct NullSink;

impl AuditSink for NullSink {
    fn accept(&self, _: AuditEvent) {}
}
