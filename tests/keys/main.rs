//! Keys that issuers publish, and the verifiers around the one for JWTs: through the layers, with an
//! issuer that serves over HTTP and can go wrong in every way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails so")]

mod attacks;
mod cached;
mod discovery;
mod documents;
mod faults;
mod flood;
mod gate;
mod issuer;
mod lifetime;
mod loaded;
mod memory;
mod presets;
mod rotation;
mod routed;
mod signer;
