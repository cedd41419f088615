//! The guide: how the parts are put together, and kept running.
//!
//! - [`ordering`]: which layer goes where, and what happens when one is missing;
//! - [`from_phoenix`]: what takes the place of plugs, pipelines, Guardian and Hammer;
//! - [`operating`]: several nodes, what to watch, outages, rotation, start and stop.
#![cfg_attr(
    not(feature = "full"),
    allow(rustdoc::broken_intra_doc_links, reason = "it speaks of all features")
)]

#[doc = include_str!("from_phoenix.md")]
pub mod from_phoenix {}
#[doc = include_str!("operating.md")]
pub mod operating {}
#[doc = include_str!("ordering.md")]
pub mod ordering {}
