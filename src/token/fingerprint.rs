//! A token's fingerprint, which identifies a token in the log without showing it.
//!
//! A fingerprint is a keyed hash (HMAC-SHA256, RFC 2104) cut to 64 bits. The key is random and ends with the process:
//! fingerprints can be compared within one run only.

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;

/// Makes fingerprints that can be compared with each other.
#[derive(Debug)]
pub(super) struct Fingerprints(hmac::Key);

impl Fingerprints {
    /// A new random key.
    ///
    /// # Panics
    ///
    /// If the operating system provides no random numbers.
    pub(super) fn new() -> Self {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        Self(key.expect("the operating system gives random bytes"))
    }

    /// The fingerprint of a token: sixteen hexadecimal digits.
    pub(super) fn of(&self, token: &str) -> String {
        let tag = hmac::sign(&self.0, token.as_bytes());
        let short = tag.as_ref().iter().take(8).fold(0, |all, byte| (all << 8) | u64::from(*byte));
        format!("{short:016x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_token_has_the_same_fingerprint_under_one_key_only() {
        let prints = Fingerprints::new();

        assert_eq!(prints.of("a"), prints.of("a"));
        assert_ne!(prints.of("a"), prints.of("b"));
        assert_ne!(prints.of("a"), Fingerprints::new().of("a"));
        assert_eq!(prints.of("a").len(), 16);
    }
}
