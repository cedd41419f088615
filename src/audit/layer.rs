use std::fmt;
use std::sync::Arc;

use tower_layer::Layer;

use crate::audit::Audit;
use crate::client_ip::ClientIp;
use crate::clock::{Clock, SystemClock};
use crate::sink::AuditSink;

/// Layer that applies [`Audit`]; see the [module](crate::audit).
#[derive(Clone)]
#[must_use = "a layer does nothing until it is applied"]
pub struct AuditLayer {
    config: Arc<Config>,
}

/// What every request's audit needs.
#[derive(Clone)]
pub(super) struct Config {
    pub(super) sink: Arc<dyn AuditSink>,
    pub(super) client_ip: ClientIp,
    pub(super) clock: Arc<dyn Clock>,
}

impl AuditLayer {
    /// Gives every request's event to this sink.
    pub fn new(sink: impl AuditSink) -> Self {
        let clock = Arc::new(SystemClock);
        let (sink, client_ip) = (Arc::new(sink), ClientIp::default());
        Self { config: Arc::new(Config { sink, client_ip, clock }) }
    }

    /// How the client's address is learned. Default: the [`PeerAddr`](crate::PeerAddr) extension.
    pub fn with_client_ip(mut self, client_ip: ClientIp) -> Self {
        Arc::make_mut(&mut self.config).client_ip = client_ip;
        self
    }

    /// Where the time comes from. Default: [`SystemClock`].
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        Arc::make_mut(&mut self.config).clock = Arc::new(clock);
        self
    }
}

impl<S> Layer<S> for AuditLayer {
    type Service = Audit<S>;

    fn layer(&self, inner: S) -> Audit<S> {
        Audit::new(inner, self.config.clone())
    }
}

impl fmt::Debug for AuditLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditLayer").finish_non_exhaustive()
    }
}
