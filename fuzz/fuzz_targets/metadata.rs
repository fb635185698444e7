//! Any document that an issuer may answer with.
#![no_main]

libfuzzer_sys::fuzz_target!(|json: &[u8]| bearerd::token::fuzzing::metadata(json));
