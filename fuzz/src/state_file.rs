//! Any bytes in the place of a state file, and any content in one that is sealed well.

pub fn run(input: &[u8]) {
    bearerd::token::fuzzing::state_file(input);
}
