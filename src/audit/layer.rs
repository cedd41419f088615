use std::fmt;
use std::sync::Arc;

use http::Extensions;
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

type Route = dyn for<'a> Fn(&'a Extensions) -> Option<&'a str> + Send + Sync;

/// What every request's audit needs.
#[derive(Clone)]
pub(super) struct Config {
    pub(super) sink: Arc<dyn AuditSink>,
    pub(super) client_ip: ClientIp,
    /// `None` knows of no routes.
    pub(super) route: Option<Arc<Route>>,
    pub(super) clock: Arc<dyn Clock>,
}

impl AuditLayer {
    /// Gives every request's event to this sink.
    pub fn new(sink: impl AuditSink) -> Self {
        let clock = Arc::new(SystemClock);
        let (sink, client_ip) = (Arc::new(sink), ClientIp::default());
        Self { config: Arc::new(Config { sink, client_ip, route: None, clock }) }
    }

    /// How the client's address is learned. Default: the [`PeerAddr`](crate::PeerAddr) extension.
    pub fn with_client_ip(mut self, client_ip: ClientIp) -> Self {
        Arc::make_mut(&mut self.config).client_ip = client_ip;
        self
    }

    /// How the template of the route is found in the request's extensions, such as `/reports/{id}`.
    /// Default: it is not.
    pub fn with_route<F>(mut self, find: F) -> Self
    where
        F: for<'a> Fn(&'a Extensions) -> Option<&'a str> + Send + Sync + 'static,
    {
        Arc::make_mut(&mut self.config).route = Some(Arc::new(find));
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
