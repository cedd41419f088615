//! What the layers do to requests, through the layers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails so")]

mod addresses;
mod audit;
mod concurrency;
mod contracts;
mod every_refusal;
mod extraction;
mod extractors;
mod failures;
mod fallback;
mod grpc;
mod leaks;
mod limits;
mod mended;
mod policies;
mod recording;
mod refusals;
mod scopes;
mod stacking;
mod support;
mod wire;
