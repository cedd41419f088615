use std::fmt;
use std::sync::Arc;

use tower_layer::Layer;

use crate::clock::{Clock, SystemClock};
use crate::require_scope::RequireScope;
use crate::requirement::Requirement;

/// Layer that applies [`RequireScope`]; see the [module](crate::require_scope).
#[derive(Clone)]
#[must_use = "a layer does nothing until it is applied"]
pub struct RequireScopeLayer {
    config: Arc<Config>,
}

/// What every request is asked.
#[derive(Clone)]
pub(super) struct Config {
    pub(super) requirement: Requirement,
    pub(super) clock: Arc<dyn Clock>,
}

impl RequireScopeLayer {
    /// Lets in callers that meet the requirement.
    pub fn new(requirement: Requirement) -> Self {
        Self { config: Arc::new(Config { requirement, clock: Arc::new(SystemClock) }) }
    }

    /// Lets in callers whose token grants this scope.
    ///
    /// # Panics
    ///
    /// When the text is not a scope; see [`Requirement::scope`].
    pub fn scope(scope: &str) -> Self {
        Self::new(Requirement::scope(scope))
    }

    /// Lets in callers whose token grants every one of these scopes.
    ///
    /// # Panics
    ///
    /// When a text is not a scope; see [`Requirement::scope`].
    pub fn all_scopes<'a>(scopes: impl IntoIterator<Item = &'a str>) -> Self {
        Self::new(Requirement::scopes(scopes))
    }

    /// Where the time comes from. Default: [`SystemClock`].
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        Arc::make_mut(&mut self.config).clock = Arc::new(clock);
        self
    }
}

impl<S> Layer<S> for RequireScopeLayer {
    type Service = RequireScope<S>;

    fn layer(&self, inner: S) -> RequireScope<S> {
        RequireScope::new(inner, self.config.clone())
    }
}

impl fmt::Debug for RequireScopeLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequireScopeLayer")
            .field("requirement", &self.config.requirement)
            .finish_non_exhaustive()
    }
}
