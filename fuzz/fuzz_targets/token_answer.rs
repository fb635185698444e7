//! Any answer of a token endpoint: its status, two of its fields and its body.
#![no_main]

libfuzzer_sys::fuzz_target!(|answer: &[u8]| bearerd::token::fuzzing::answer(answer));
