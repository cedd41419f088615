//! Keys that issuers publish, and the verifiers around the one for JWTs: through the layers, with an
//! issuer that serves over HTTP and can go wrong in every way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails so")]

mod cached;
mod gate;
mod loaded;
mod memory;
mod routed;
mod signer;
