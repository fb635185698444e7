//! The keys a state is encrypted with: 32 random bytes, written in base64.
//!
//! New states are sealed with the current key. Old keys only read, so that a key is replaced by making it an old one
//! beside its successor: the next write is sealed with that. A key is wiped when dropped and never printed.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, RandomizedNonceKey};
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret, ExposeSecretMut, SecretBox, SecretString};
use thiserror::Error;

const KEY_BYTES: usize = 32;
/// 32 bytes in base64.
const TEXT_BYTES: usize = 44;
/// How a key is told from others without being shown.
pub(crate) const KEY_ID_BYTES: usize = 8;
const KEY_ID_LABEL: &[u8] = b"bearerd: which state key";

/// A key for AES-256-GCM.
///
/// Each write takes a random nonce; a key is good for far more writes (2^32) than a credential makes.
pub struct StateKey(SecretBox<[u8; KEY_BYTES]>);

/// Why a text is no key. Says nothing of the text but its length.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum IllegalKey {
    /// Not base64.
    #[error("the state key is not base64; `bearerd keygen` makes one")]
    NotBase64,
    /// Not 32 bytes.
    #[error("the state key has {0} bytes instead of 32; `bearerd keygen` makes one")]
    Length(usize),
}

impl StateKey {
    /// Reads a key in base64 (RFC 4648 §4).
    ///
    /// # Errors
    ///
    /// [`IllegalKey`] if it is anything but 32 bytes.
    pub fn parse(text: &SecretString) -> Result<Self, IllegalKey> {
        let text = text.expose_secret().as_bytes();
        let mut bytes = Zeroizing::new(vec![0; base64::decoded_len_estimate(text.len())]);
        let length = STANDARD.decode_slice(text, &mut bytes).map_err(|_| IllegalKey::NotBase64)?;
        if length != KEY_BYTES {
            return Err(IllegalKey::Length(length));
        }
        let mut key = SecretBox::<[u8; KEY_BYTES]>::default();
        key.expose_secret_mut().copy_from_slice(&bytes[..KEY_BYTES]);
        Ok(Self(key))
    }

    /// A new key, in base64.
    ///
    /// # Panics
    ///
    /// If the operating system has no randomness.
    pub fn generate() -> SecretString {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        aws_lc_rs::rand::fill(key.as_mut()).expect("the operating system gives random bytes");
        let mut text = Zeroizing::new([0; TEXT_BYTES]);
        let length = STANDARD.encode_slice(key.as_ref(), text.as_mut()).unwrap_or_default();
        SecretString::from(std::str::from_utf8(&text[..length]).unwrap_or_default())
    }

    /// What the key does; lives no longer than one reading or writing.
    pub(crate) fn cipher(&self) -> RandomizedNonceKey {
        RandomizedNonceKey::new(&AES_256_GCM, self.0.expose_secret()).expect("a key has 32 bytes")
    }

    /// Tells this key from others. A keyed hash, so nothing of the key is in it.
    pub(crate) fn id(&self) -> [u8; KEY_ID_BYTES] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.0.expose_secret());
        let tag = hmac::sign(&key, KEY_ID_LABEL);
        std::array::from_fn(|at| tag.as_ref()[at])
    }
}

impl fmt::Debug for StateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateKey").finish_non_exhaustive()
    }
}

/// The keys of one state: none, or one that reads and writes and others that only read.
#[derive(Debug, Default)]
pub struct StateKeys {
    current: Option<StateKey>,
    old: Vec<StateKey>,
}

impl StateKeys {
    /// No key: no token is written, only when one may be asked for again.
    pub fn none() -> Self {
        Self::default()
    }

    /// A key for reading and writing, and older ones for reading.
    pub fn new(current: StateKey, old: Vec<StateKey>) -> Self {
        Self { current: Some(current), old }
    }

    /// The key that writes.
    pub(crate) fn current(&self) -> Option<&StateKey> {
        self.current.as_ref()
    }

    /// The key with this id, and whether it is an old one.
    pub(crate) fn find(&self, id: [u8; KEY_ID_BYTES]) -> Option<(&StateKey, bool)> {
        let current = self.current.iter().map(|key| (key, false));
        current.chain(self.old.iter().map(|key| (key, true))).find(|(key, _)| key.id() == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<StateKey, IllegalKey> {
        StateKey::parse(&SecretString::from(text))
    }

    #[test]
    fn a_generated_key_is_one_and_never_the_same() {
        let (one, other) = (StateKey::generate(), StateKey::generate());

        assert_eq!(one.expose_secret().len(), TEXT_BYTES);
        assert_ne!(StateKey::parse(&one).unwrap().id(), StateKey::parse(&other).unwrap().id());
    }

    #[test]
    fn a_key_is_32_bytes_in_base64_and_nothing_else() {
        for bytes in [0, 1, 16, 31, 33, 48, 64] {
            assert_eq!(parse(&STANDARD.encode(vec![7; bytes])).unwrap_err(), IllegalKey::Length(bytes));
        }
        let key = STANDARD.encode([0xfb; 32]);
        for wrong in ["no base64!", key.trim_end_matches('='), &format!(" {key}"), &key.replace('+', "-")] {
            assert_eq!(parse(wrong).unwrap_err(), IllegalKey::NotBase64, "{wrong}");
        }
        assert!(parse(&key).is_ok());
    }

    #[test]
    fn a_key_is_not_shown() {
        let text = STANDARD.encode([b'k'; 32]);
        let keys = StateKeys::new(parse(&text).unwrap(), vec![parse(&text).unwrap()]);

        let shown = format!("{keys:?}");
        assert!(!shown.contains("kkk") && !shown.contains("107") && !shown.contains(&text), "{shown}");
    }
}
