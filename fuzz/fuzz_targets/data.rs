#![no_main]

#[allow(dead_code, reason = "the other targets have their own programs")]
#[path = "../../tests/mutated_input/targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::data(bytes));
