//! Revocations through the layers, on nodes that share a store: in memory, in a real Redis and in a
//! real PostgreSQL, which go away and come back; and all that is in an engine, tokens too, while that
//! is away.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails so")]

#[path = "../servers/mod.rs"]
mod servers;

mod contract;
mod cut_off;
mod ends;
mod failover;
mod faults;
mod interleaving;
mod node;
mod opaque;
mod outages;
mod processes;
mod proofs;
mod shared;
mod stale;
