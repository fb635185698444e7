//! See `src/token_answer.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| bearerd_fuzz::token_answer::run(input));
