//! What `JwtVerifier` accepts and refuses, through the layers, with either implementation of the
//! signatures.
#![cfg(any(feature = "jwt", feature = "rust-crypto"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails so")]

mod claims;
mod fixtures;
mod form;
mod gate;
mod header;
mod keys;
mod object;
mod signature;
mod signer;
