//! Private keys that sign JWTs (RFC 7518 §3.3 and §3.4).
//!
//! Keys are read from PEM: PKCS#8, PKCS#1 (RSA) or SEC1 (elliptic curves).

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, RSA_PKCS1_SHA256};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;

/// The algorithm of a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SigningAlgorithm {
    /// RSA, PKCS#1 v1.5, SHA-256.
    Rs256,
    /// ECDSA on P-256, SHA-256.
    Es256,
}

/// A private key for one of the algorithms.
pub enum SigningKey {
    /// For RS256.
    Rsa(KeyPair),
    /// For ES256.
    Ecdsa(EcdsaKeyPair),
}

/// The text is not a usable key.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum KeyError {
    /// There is no PEM key, or the key is encrypted.
    #[error("no private key in PEM form (PKCS#8, PKCS#1 or SEC1, not encrypted)")]
    NotPem,
    /// The key is not for RS256.
    #[error("not an RSA key of at least 2048 bits, which RS256 needs")]
    NotRsa,
    /// The key is not for ES256.
    #[error("not a key on the curve P-256, which ES256 needs")]
    NotP256,
    /// The cryptography library refused the key.
    #[error("signing failed")]
    CannotSign,
}

impl SigningKey {
    /// Reads the first private key of a PEM text.
    ///
    /// # Errors
    ///
    /// [`KeyError`] if there is no key, or the key is not for the algorithm.
    pub fn from_pem(pem: &SecretString, algorithm: SigningAlgorithm) -> Result<Self, KeyError> {
        let key = PrivateKeyDer::from_pem_slice(pem.expose_secret().as_bytes());
        let key = key.map_err(|_| KeyError::NotPem)?;
        match (algorithm, &key) {
            (SigningAlgorithm::Rs256, PrivateKeyDer::Pkcs8(key)) => {
                KeyPair::from_pkcs8(key.secret_pkcs8_der()).map(Self::Rsa).map_err(|_| KeyError::NotRsa)
            }
            (SigningAlgorithm::Rs256, PrivateKeyDer::Pkcs1(key)) => {
                KeyPair::from_der(key.secret_pkcs1_der()).map(Self::Rsa).map_err(|_| KeyError::NotRsa)
            }
            (SigningAlgorithm::Rs256, _) => Err(KeyError::NotRsa),
            (SigningAlgorithm::Es256, key) => {
                EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, key.secret_der())
                    .map(Self::Ecdsa)
                    .map_err(|_| KeyError::NotP256)
            }
        }
    }

    /// Signs a message in the form of JWS (RFC 7518 §3.3, §3.4).
    ///
    /// # Errors
    ///
    /// [`KeyError::CannotSign`].
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let random = SystemRandom::new();
        let signed = match self {
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).map(|()| signature)
            }
            Self::Ecdsa(key) => key.sign(&random, message).map(|signature| signature.as_ref().to_vec()),
        };
        signed.map_err(|_| KeyError::CannotSign)
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").finish_non_exhaustive()
    }
}
