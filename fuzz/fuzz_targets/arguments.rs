#![no_main]

#[path = "../../crates/cloakroom-cli/tests/mutated_input/targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::arguments(bytes));
