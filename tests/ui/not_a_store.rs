//! A store decides in one step, which a map cannot.

use std::collections::HashMap;

use tower_gate::{Quota, RateLimitLayer};

fn main() {
    let store: HashMap<String, u64> = HashMap::new();
    let _ = RateLimitLayer::new(store, Quota::per_minute(60));
}
