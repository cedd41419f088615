//! Opaque tokens: every store does the same, with real SQLite files and a real PostgreSQL, and what
//! is issued is accepted through the layers until its end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails so")]

mod contract;
mod garbage;
mod leaks;
mod life;
mod migration;
mod outage;
mod peppers;
mod races;
#[path = "../suite/recording.rs"]
#[expect(dead_code, reason = "the suite looks at spans and events too")]
mod recording;
mod scene;
mod schema;
#[path = "../servers/mod.rs"]
mod servers;
#[path = "../suite/support.rs"]
#[expect(dead_code, reason = "the suite makes other requests too")]
mod support;
mod watched;
