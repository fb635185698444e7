//! See `src/answer_head.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| bearerd_fuzz::answer_head::run(input));
