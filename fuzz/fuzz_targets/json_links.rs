//! See `src/json_links.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| bearerd_fuzz::json_links::run(input));
