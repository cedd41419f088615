//! An attempt to come in that a layer outside watches.

use std::fmt;
use std::sync::Arc;

use http::Extensions;

/// An attempt that a [`FailureLimitLayer`](crate::FailureLimitLayer) holds a place for, because it may
/// fail: an extension of requests.
///
/// An [`AuthenticateLayer`](crate::AuthenticateLayer) gives the place back as soon as a token is good. A
/// handler that judges credentials itself, and takes its time afterwards, says so likewise:
///
/// ```
/// use http::Request;
/// use tower_gate::failure_limit::Attempt;
///
/// fn handle(request: &Request<()>) {
///     let password_is_right = true;
///     if password_is_right && let Some(attempt) = Attempt::of(request.extensions()) {
///         attempt.let_in();
///     }
///     // What takes its time.
/// }
/// # handle(&Request::new(()));
/// ```
#[derive(Clone)]
pub struct Attempt(Arc<dyn Watching>);

/// Wants to know as soon as the caller is let in, which may be long before the response is there.
pub(crate) trait Watching: Send + Sync {
    fn let_in(&self);
}

impl Attempt {
    pub(crate) fn new(watching: Arc<dyn Watching>) -> Self {
        Self(watching)
    }

    /// That of this request, if a layer holds a place for it.
    #[must_use]
    pub fn of(extensions: &Extensions) -> Option<&Self> {
        extensions.get()
    }

    /// What was sent is good, so that another attempt from this address may begin. To say so before it
    /// is known lets as many guesses in at once as are sent.
    pub fn let_in(&self) {
        self.0.let_in();
    }
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt").finish_non_exhaustive()
    }
}
