//! What the layers cost, each figure beside that of what it is compared with.
//!
//! ```text
//! cargo bench --all-features --bench layers                       # the whole table
//! cargo bench --all-features --bench layers -- --test             # everything once
//! cargo bench --all-features --bench layers -- --repeat 9999 NAME # for a profiler
//! ```
//!
//! A line at the margin is a baseline; the indented ones below it say what they cost above it. Times
//! are medians of batches that take turns, so that the differences hold on a machine that does
//! other things as well.
#![expect(
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a bench prints, and stops where it cannot go on"
)]

mod harness;
mod loopback;
#[path = "../../tests/servers/mod.rs"]
mod servers;
mod stack;
mod store;
mod tokens;
mod verify;

use std::time::Duration;

use crate::harness::Subject;

/// Made one after the other: some take a while, and some much memory.
const GROUPS: [fn() -> Vec<Subject>; 13] = [
    stack::subjects,
    verify::hs256,
    verify::rs256,
    verify::ps256,
    verify::es256,
    verify::es384,
    verify::eddsa,
    stack::limit_subjects,
    store::subjects,
    tokens::warm,
    tokens::garbage,
    tokens::sqlite,
    tokens::postgres,
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let at = |flag| arguments.iter().position(|argument| argument == flag);
    if let Some(repeat) = at("--repeat") {
        return run_only(&arguments[repeat + 2], arguments[repeat + 1].parse().unwrap());
    }
    let test = at("--test").is_some();
    harness::print_head();
    for mut group in GROUPS.iter().map(|make| make()) {
        harness::compare(if test { 1 } else { 1001 }, &mut group);
    }
    tokens::print_timing(if test { 100 } else { 50_000 });
    println!(
        "\nMemoryStore, bytes a key on the way to 1 M keys, at most: {:.0}",
        store::bytes_a_key()
    );
    println!();
    match test {
        true => loopback::compare(1, Duration::from_millis(10)),
        false => loopback::compare(41, Duration::from_millis(250)),
    }
}

/// Runs one subject so many times.
fn run_only(name: &str, times: u32) {
    let mut subjects = GROUPS.iter().flat_map(|make| make());
    let subject = subjects.find(|subject| subject.name() == name);
    subject.unwrap_or_else(|| panic!("there is no subject {name:?}")).run(times);
}
