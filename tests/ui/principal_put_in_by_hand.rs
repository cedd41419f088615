//! Only the layer says that a request was authenticated.

use http::Request;
use tower_gate::principal::Authenticated;
use tower_gate::Principal;

fn main() {
    let principal = Principal::builder("https://issuer.example", "root").build();
    let mut request = Request::new(());
    request.extensions_mut().insert(Authenticated { principal: Some(principal) });
}
