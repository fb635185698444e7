//! Any path of `fields`, and any answer of a token endpoint that is read by it.

pub fn run(input: &[u8]) {
    bearerd::token::fuzzing::member_path(input);
}
