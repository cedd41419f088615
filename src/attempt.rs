//! An attempt to come in that a layer outside watches.

use std::sync::Arc;

use http::Extensions;

/// Who waits for the answer, as a request extension.
#[derive(Clone)]
pub(crate) struct Attempt(pub(crate) Arc<dyn Watching>);

/// Wants to know as soon as the caller is let in, which may be long before the response is there.
pub(crate) trait Watching: Send + Sync {
    fn let_in(&self);
}

impl Attempt {
    /// The caller's token is good.
    pub(crate) fn let_in(extensions: &Extensions) {
        if let Some(Self(watching)) = extensions.get() {
            watching.let_in();
        }
    }
}
