//! A token's fingerprint, which identifies a token in the log without showing it.
//!
//! A fingerprint is a keyed hash (HMAC-SHA256, RFC 2104) cut to 64 bits. The key is random and ends with the process:
//! fingerprints can be compared within one run only.

use std::fmt;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;

use super::access_token::AccessToken;

/// Makes fingerprints that can be compared with each other.
pub(super) struct Fingerprints(hmac::Key);

/// A token in the log: sixteen hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint(u64);

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

    /// The fingerprint of a token.
    pub(super) fn of(&self, token: &AccessToken) -> Fingerprint {
        let tag = hmac::sign(&self.0, token.as_bytes());
        let short = tag.as_ref().iter().take(8).fold(0, |all, byte| (all << 8) | u64::from(*byte));
        Fingerprint(short)
    }
}

impl fmt::Debug for Fingerprints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fingerprints").finish_non_exhaustive()
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Moment;
    use crate::token::Generation;

    #[test]
    fn the_same_token_has_the_same_fingerprint_under_one_key_only() {
        let token = |text| {
            AccessToken::new(text, Generation::NONE, Moment::default(), Duration::ZERO, Vec::new()).unwrap()
        };
        let prints = Fingerprints::new();

        assert_eq!(prints.of(&token("a")), prints.of(&token("a")));
        assert_ne!(prints.of(&token("a")), prints.of(&token("b")));
        assert_ne!(prints.of(&token("a")), Fingerprints::new().of(&token("a")));
        assert_eq!(prints.of(&token("a")).to_string().len(), 16);
    }
}
