//! What the layers do to requests, through the layers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails so")]

mod mended;
mod support;
