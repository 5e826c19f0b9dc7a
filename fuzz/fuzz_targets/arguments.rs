#![no_main]

#[path = "../../crates/cloakroom-cli/tests/hostile/targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::arguments(bytes));
