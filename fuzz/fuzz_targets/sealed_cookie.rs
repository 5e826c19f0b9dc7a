#![no_main]

#[allow(dead_code, reason = "the others have programs of their own")]
#[path = "../../tests/mutated_input/targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::sealed_cookie(bytes));
