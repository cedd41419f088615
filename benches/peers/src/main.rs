//! Verifies the same tokens with this crate and with others, in one run.
//!
//! ```text
//! cargo run --release --manifest-path benches/peers/Cargo.toml
//! cargo run --release --manifest-path benches/peers/Cargo.toml -- 9999 RS256 NAME # for a profiler
//! ```
//!
//! Lines of layers say what a request takes above a service that does nothing; the others what a call
//! takes. Figures are medians of batches that take turns. The peers get their keys as they ask for
//! them, so that none goes through a network.

mod harness;
mod limits;
mod peers;
mod tokens;

use crate::harness::Times;
use crate::peers::{COLD, COLD_LAYER, EMPTY, EMPTY_WARM, PEERS, RAW, WARM_LAYER, subjects};

/// How often each subject has its turn.
const TURNS: usize = 1001;

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [times, algorithm, name] = &arguments[..] {
        let mut all = tokens::all().into_iter();
        let tokens = all.find(|tokens| tokens.algorithm == algorithm).expect("an algorithm");
        let mut subjects = runtime.block_on(subjects(tokens)).into_iter();
        let mut subject = subjects.find(|subject| subject.name() == name).expect("a subject");
        return subject.run(times.parse().expect("a number"));
    }
    let mut columns = Vec::new();
    for tokens in tokens::all() {
        let (algorithm, len) = (tokens.algorithm, tokens.texts[0].len());
        let times = Times::measure(TURNS, runtime.block_on(subjects(tokens)));
        columns.push((format!("{algorithm}, {len} bytes"), times));
    }

    let warm = |times: &Times| times.above(WARM_LAYER, EMPTY_WARM);
    let row = |name: &str, figure: &dyn Fn(&Times) -> String| {
        print!("{name:<44}");
        columns.iter().for_each(|(_, times)| print!("{:>18}", figure(times)));
        println!();
    };
    let micros = |nanos: f64| format!("{:.2} µs", nanos / 1e3);
    print!("{:<44}", "");
    columns.iter().for_each(|(head, _)| print!("{head:>18}"));
    println!();
    for name in [RAW, COLD] {
        row(name, &|times| micros(times.median(name)));
    }
    println!("layers, above an empty service");
    for name in [COLD_LAYER].into_iter().chain(PEERS) {
        row(name, &|times| micros(times.above(name, EMPTY)));
    }
    row(WARM_LAYER, &|times| micros(warm(times)));
    println!("bars");
    row("JwtVerifier above the signature", &|times| micros(times.above(COLD, RAW)));
    row("token seen before, above an empty service", &|times| format!("{:.0} ns", warm(times)));
    row("best peer / token seen before", &|times| {
        let best = PEERS.map(|peer| times.above(peer, EMPTY)).into_iter().fold(f64::MAX, f64::min);
        format!("{:.0} ×", best / warm(times))
    });
    // axum-governor starts a task.
    let _runtime = runtime.enter();
    limits::print(TURNS);
}
