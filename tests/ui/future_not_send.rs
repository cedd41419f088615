//! The answer of a verifier may be awaited on another thread.

use std::rc::Rc;

use tower_gate::verifier::{VerifyError, VerifyErrorKind, VerifyRequest};
use tower_gate::{AuthenticateLayer, Principal};

async fn verify(request: VerifyRequest) -> Result<Principal, VerifyError> {
    let token = Rc::new(request.token);
    std::future::ready(()).await;
    drop(token);
    Err(VerifyErrorKind::UnknownToken.into())
}

fn main() {
    let _ = AuthenticateLayer::new(verify);
}
