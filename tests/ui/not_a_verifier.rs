//! A verifier is more than a secret.

use tower_gate::AuthenticateLayer;

struct Secret;

fn main() {
    let _ = AuthenticateLayer::new(Secret);
}
