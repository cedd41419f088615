//! Tokens that are meant for another API would do.

use tower_gate::verifier::jwt::JwtVerifier;

fn main() {
    let _ = JwtVerifier::builder().issuer("https://issuer.example").build();
}
