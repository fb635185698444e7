//! Any document that an issuer may answer with.

pub fn run(input: &[u8]) {
    bearerd::token::fuzzing::metadata(input);
}
