//! See `src/jwt.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| bearerd_fuzz::jwt::run(input));
