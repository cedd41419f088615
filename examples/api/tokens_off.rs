//! What `tokens.rs` does, without a database: nothing.

use axum::Router;
use tower_gate::verifier::RoutedVerifier;
use tower_gate::verifier::revocable::Revocations;

use crate::Error;
use crate::flags::Flags;

/// There are none.
#[derive(Clone)]
pub(crate) enum Tokens {}

pub(crate) async fn open(flags: &Flags, _: &Revocations) -> Result<Option<Tokens>, Error> {
    match &flags.tokens {
        None => Ok(None),
        Some(place) if place.starts_with("sqlite:") => {
            Err("--tokens needs the feature sqlite, which is not in this build".into())
        }
        Some(_) => Err("--tokens needs the feature postgres, which is not in this build".into()),
    }
}

impl Tokens {
    pub(crate) fn add_to(&self, _: RoutedVerifier) -> RoutedVerifier {
        match *self {}
    }

    pub(crate) async fn demo(&self) -> Result<String, Error> {
        match *self {}
    }

    pub(crate) fn routes(self) -> Router {
        match self {}
    }

    pub(crate) async fn close(&self) {
        match *self {}
    }
}
