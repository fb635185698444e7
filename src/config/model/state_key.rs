//! Keys that encrypt state files: 32 random bytes, written in base64.
//!
//! The current key encrypts; previous keys only decrypt. To replace a key, configure a new current key and the old one
//! as a previous key: the next write uses the new key. A key is wiped when dropped and never printed.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, RandomizedNonceKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret, ExposeSecretMut, SecretBox, SecretString};
use thiserror::Error;

use super::secret::Secret;

const KEY_BYTES: usize = 32;
/// Length of a key in base64.
const TEXT_BYTES: usize = 44;
/// Length of the identifier of a key.
pub(crate) const KEY_ID_BYTES: usize = 8;
const KEY_ID_LABEL: &[u8] = b"bearerd: which state key";
const FINGERPRINT_LABEL: &[u8] = b"bearerd: token fingerprints";

/// A key for AES-256-GCM.
///
/// Each write takes a random nonce, which limits a key to 2^32 writes: more than any credential makes.
pub struct StateKey(SecretBox<[u8; KEY_BYTES]>);

/// The text is not a key. Messages contain only its length.
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
    /// [`IllegalKey`] if the text is not 32 bytes in base64.
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

    /// The key in a secret of a configuration, which has been checked to be one.
    ///
    /// # Panics
    ///
    /// If the secret is no key.
    pub fn checked(secret: &Secret) -> Self {
        Self::parse(secret.initial()).expect("a key is checked with the configuration")
    }

    /// Generates a key, in base64.
    ///
    /// # Panics
    ///
    /// If the operating system gives no random bytes.
    pub fn generate() -> SecretString {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        aws_lc_rs::rand::fill(key.as_mut()).expect("the operating system gives random bytes");
        let mut text = Zeroizing::new([0; TEXT_BYTES]);
        let length = STANDARD.encode_slice(key.as_ref(), text.as_mut()).unwrap_or_default();
        SecretString::from(std::str::from_utf8(&text[..length]).unwrap_or_default())
    }

    /// The cipher, for one read or write.
    pub(crate) fn cipher(&self) -> RandomizedNonceKey {
        RandomizedNonceKey::new(&AES_256_GCM, self.0.expose_secret()).expect("a key has 32 bytes")
    }

    /// The identifier of the key: a keyed hash, which reveals nothing about the key.
    pub(crate) fn id(&self) -> [u8; KEY_ID_BYTES] {
        let tag = self.tag(KEY_ID_LABEL);
        std::array::from_fn(|at| tag.as_ref()[at])
    }

    /// The key of token fingerprints, which is the same wherever this key is in use.
    pub(crate) fn fingerprint_key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, self.tag(FINGERPRINT_LABEL).as_ref())
    }

    /// Another key, which is derived from this one for one purpose and subject (HKDF, RFC 5869).
    pub(crate) fn derived(&self, purpose: &[u8], subject: &[u8]) -> Self {
        let mut key = SecretBox::<[u8; KEY_BYTES]>::default();
        key.expose_secret_mut().copy_from_slice(&*self.derive(purpose, subject));
        Self(key)
    }

    /// 32 bytes that are derived from the key for one purpose and subject (HKDF, RFC 5869).
    pub(crate) fn derive(&self, purpose: &[u8], subject: &[u8]) -> Zeroizing<[u8; KEY_BYTES]> {
        let mut derived = Zeroizing::new([0; KEY_BYTES]);
        let secret = Salt::new(HKDF_SHA256, purpose).extract(self.0.expose_secret());
        secret
            .expand(&[subject], HKDF_SHA256)
            .and_then(|output| output.fill(derived.as_mut()))
            .expect("the hash has 32 bytes");
        derived
    }

    /// A value that is derived from the key for one purpose.
    fn tag(&self, label: &[u8]) -> hmac::Tag {
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, self.0.expose_secret()), label)
    }
}

impl fmt::Debug for StateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateKey").finish_non_exhaustive()
    }
}

/// The keys of one state file: none, or a current key and previous keys.
#[derive(Debug, Default)]
pub struct StateKeys {
    current: Option<StateKey>,
    old: Vec<StateKey>,
}

impl StateKeys {
    /// No key: the state file holds no tokens.
    pub fn none() -> Self {
        Self::default()
    }

    /// A current key, and previous keys.
    pub fn new(current: StateKey, old: Vec<StateKey>) -> Self {
        Self { current: Some(current), old }
    }

    /// The current key.
    pub(crate) fn current(&self) -> Option<&StateKey> {
        self.current.as_ref()
    }

    /// The key with this identifier, and whether it is a previous key.
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
    fn generated_keys_are_valid_and_differ() {
        let (one, other) = (StateKey::generate(), StateKey::generate());

        assert_eq!(one.expose_secret().len(), TEXT_BYTES);
        assert_ne!(StateKey::parse(&one).unwrap().id(), StateKey::parse(&other).unwrap().id());
    }

    #[test]
    fn a_key_is_exactly_32_bytes_in_base64() {
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
    fn debug_output_does_not_contain_the_key() {
        let text = STANDARD.encode([b'k'; 32]);
        let keys = StateKeys::new(parse(&text).unwrap(), vec![parse(&text).unwrap()]);

        let shown = format!("{keys:?}");
        assert!(!shown.contains("kkk") && !shown.contains("107") && !shown.contains(&text), "{shown}");
    }
}
