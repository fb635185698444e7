//! A token's fingerprint, which identifies a token in the log without showing it.
//!
//! A fingerprint is a keyed hash (HMAC-SHA256, RFC 2104) cut to 64 bits. Where the credential has a `state_key`, the key of
//! the hash is derived from that: a token has the same fingerprint after a restart, and wherever the same `state_key` is in
//! use. Without one the key is random and ends with the process.

use std::fmt;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;

use crate::config::Credential;
use crate::config::model::state_key::StateKey;

/// A token's fingerprint, shown as sixteen hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(u64);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Makes fingerprints that can be compared with each other.
#[derive(Debug)]
pub(super) struct Fingerprints(hmac::Key);

impl Fingerprints {
    /// Those of a credential.
    pub(super) fn of_credential(credential: &Credential) -> Self {
        let key = credential.state.as_ref().and_then(|place| place.key.as_ref());
        let key = key.map(StateKey::checked);
        Self::new(key.map(|key| key.fingerprint_key()))
    }

    /// Those with this key.
    pub(super) const fn keyed(key: hmac::Key) -> Self {
        Self(key)
    }

    /// With this key, or with a new random one.
    ///
    /// # Panics
    ///
    /// If the operating system provides no random numbers.
    fn new(key: Option<hmac::Key>) -> Self {
        let random = || hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        Self(key.unwrap_or_else(|| random().expect("the operating system gives random bytes")))
    }

    /// The fingerprint of a token.
    pub(super) fn of(&self, token: &str) -> Fingerprint {
        let tag = hmac::sign(&self.0, token.as_bytes());
        Fingerprint(tag.as_ref().iter().take(8).fold(0, |all, byte| (all << 8) | u64::from(*byte)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_token_has_the_same_fingerprint_under_one_key_only() {
        let prints = Fingerprints::new(None);

        assert_eq!(prints.of("a"), prints.of("a"));
        assert_ne!(prints.of("a"), prints.of("b"));
        assert_ne!(prints.of("a"), Fingerprints::new(None).of("a"));
        assert_eq!(prints.of("a").to_string().len(), 16);
    }

    #[test]
    fn a_given_key_gives_the_same_fingerprints_again() {
        let key = |byte| Some(hmac::Key::new(hmac::HMAC_SHA256, &[byte; 32]));

        assert_eq!(Fingerprints::new(key(1)).of("a"), Fingerprints::new(key(1)).of("a"));
        assert_ne!(Fingerprints::new(key(1)).of("a"), Fingerprints::new(key(2)).of("a"));
        assert_eq!(Fingerprint(0xab).to_string(), "00000000000000ab");
    }
}
