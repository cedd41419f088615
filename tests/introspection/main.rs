//! Introspection against a real endpoint that misbehaves, through the layers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails so")]

mod answers;
mod connection;
mod endpoint;
mod memory;
mod outage;
mod question;
mod scene;
mod signed;
#[allow(dead_code, reason = "the other suite uses more of it")]
#[path = "../suite/support.rs"]
mod support;
