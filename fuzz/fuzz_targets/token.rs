#![no_main]

use libfuzzer_sys::fuzz_target;
use tower_gate_fuzz::only_the_originals_are_accepted;

fuzz_target!(|token: &str| only_the_originals_are_accepted(token));
