//! Tokens of any issuer would do.

use tower_gate::verifier::jwt::JwtVerifier;

fn main() {
    let _ = JwtVerifier::builder().audience("https://api.example");
}
