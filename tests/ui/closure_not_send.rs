//! A verifier is asked from many tasks at once.

use std::rc::Rc;

use tower_gate::verifier::{VerifyErrorKind, VerifyRequest};
use tower_gate::{AuthenticateLayer, Principal};

fn main() {
    let known = Rc::new("the-token");
    let _ = AuthenticateLayer::new(move |request: VerifyRequest| {
        let same = request.token.as_str() == *known;
        let principal = same.then(|| Principal::builder("https://tools.example", "deploy").build());
        async move { principal.ok_or(VerifyErrorKind::UnknownToken.into()) }
    });
}
