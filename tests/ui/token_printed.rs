//! A token that reaches a log is a token that somebody else can use.

use tower_gate::BearerToken;

fn main() {
    let token = BearerToken::parse("the-token").unwrap();
    println!("{token}");
}
