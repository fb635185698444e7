//! Any answer of a token endpoint: its status, two of its fields and its body.

pub fn run(input: &[u8]) {
    bearerd::token::fuzzing::answer(input);
}
