//! A comparison that stops at the first difference tells how far a guess was right.

use tower_gate::BearerToken;

fn main() {
    let token = BearerToken::parse("the-token").unwrap();
    let _ = token == BearerToken::parse("another").unwrap();
}
