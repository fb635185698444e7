//! See `src/api_endpoint.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| bearerd_fuzz::api_endpoint::run(input));
