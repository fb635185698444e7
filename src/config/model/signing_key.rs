//! Private keys that sign JWTs (RFC 7518 §3.3 to §3.5).
//!
//! Keys are read from PEM: PKCS#8, PKCS#1 (RSA) or SEC1 (elliptic curves).

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;

/// The algorithm of a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SigningAlgorithm {
    /// RSA, PKCS#1 v1.5, SHA-256.
    Rs256,
    /// RSA, PSS, SHA-256.
    Ps256,
    /// ECDSA on P-256, SHA-256.
    Es256,
    /// ECDSA on P-384, SHA-384.
    Es384,
}

/// What an algorithm needs.
enum Kind {
    Rsa(&'static dyn RsaEncoding),
    Ecdsa(&'static EcdsaSigningAlgorithm),
}

impl SigningAlgorithm {
    const ALL: [Self; 4] = [Self::Rs256, Self::Ps256, Self::Es256, Self::Es384];

    /// The name (RFC 7518 §3.1).
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Ps256 => "PS256",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
        }
    }

    /// The needed key, for messages.
    const fn key(self) -> &'static str {
        match self {
            Self::Rs256 | Self::Ps256 => "an RSA key of at least 2048 bits",
            Self::Es256 => "a key on the curve P-256",
            Self::Es384 => "a key on the curve P-384",
        }
    }

    fn kind(self) -> Kind {
        match self {
            Self::Rs256 => Kind::Rsa(&RSA_PKCS1_SHA256),
            Self::Ps256 => Kind::Rsa(&RSA_PSS_SHA256),
            Self::Es256 => Kind::Ecdsa(&ECDSA_P256_SHA256_FIXED_SIGNING),
            Self::Es384 => Kind::Ecdsa(&ECDSA_P384_SHA384_FIXED_SIGNING),
        }
    }
}

/// A private key for one of the algorithms.
pub enum SigningKey {
    /// An RSA key, with the padding of its signatures.
    Rsa(KeyPair, &'static dyn RsaEncoding),
    /// A key on an elliptic curve.
    Ecdsa(EcdsaKeyPair),
}

/// The text is not a usable key.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum KeyError {
    /// There is no PEM key, or the key is encrypted.
    #[error("no private key in PEM form (PKCS#8, PKCS#1 or SEC1, not encrypted)")]
    NotPem,
    /// The key is not for the algorithm.
    #[error("not {}, which {} needs{}", .needed.key(), .needed.name(), hint(*.fitting))]
    Unfit {
        /// The algorithm.
        needed: SigningAlgorithm,
        /// An algorithm that the key fits, if there is one.
        fitting: Option<SigningAlgorithm>,
    },
    /// There is no certificate beside the key.
    #[error("no certificate in PEM form beside the private key, which `x5t` needs")]
    NoCertificate,
    /// The certificate beside the key is of another key.
    #[error("the certificate belongs to another private key")]
    OtherCertificate,
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
        Self::from_der(&key, algorithm).ok_or_else(|| KeyError::Unfit {
            needed: algorithm,
            fitting: SigningAlgorithm::ALL.into_iter().find(|other| Self::from_der(&key, *other).is_some()),
        })
    }

    /// The key, if it is for the algorithm.
    fn from_der(key: &PrivateKeyDer<'_>, algorithm: SigningAlgorithm) -> Option<Self> {
        match (algorithm.kind(), key) {
            (Kind::Rsa(padding), PrivateKeyDer::Pkcs8(key)) => {
                KeyPair::from_pkcs8(key.secret_pkcs8_der()).ok().map(|key| Self::Rsa(key, padding))
            }
            (Kind::Rsa(padding), PrivateKeyDer::Pkcs1(key)) => {
                KeyPair::from_der(key.secret_pkcs1_der()).ok().map(|key| Self::Rsa(key, padding))
            }
            (Kind::Rsa(_), _) => None,
            (Kind::Ecdsa(curve), key) => {
                EcdsaKeyPair::from_private_key_der(curve, key.secret_der()).ok().map(Self::Ecdsa)
            }
        }
    }

    /// Signs a message in the form of JWS (RFC 7518 §3.3 to §3.5).
    ///
    /// # Errors
    ///
    /// [`KeyError::CannotSign`].
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let random = SystemRandom::new();
        let signed = match self {
            Self::Rsa(key, padding) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(*padding, &random, message, &mut signature).map(|()| signature)
            }
            Self::Ecdsa(key) => key.sign(&random, message).map(|signature| signature.as_ref().to_vec()),
        };
        signed.map_err(|_| KeyError::CannotSign)
    }
}

/// The thumbprint of the first certificate of a PEM text (`x5t#S256`, RFC 7515 §4.1.8), which is of the first private key.
///
/// # Errors
///
/// [`KeyError`] if there is no key, no certificate, or the certificate is of another key.
pub fn thumbprint(pem: &SecretString) -> Result<String, KeyError> {
    let pem = pem.expose_secret().as_bytes();
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(|_| KeyError::NotPem)?;
    let certificate = CertificateDer::from_pem_slice(pem).map_err(|_| KeyError::NoCertificate)?;
    let thumbprint = URL_SAFE_NO_PAD.encode(digest(&SHA256, &certificate));
    CertifiedKey::from_der(vec![certificate], key, &default_provider())
        .map(|_| thumbprint)
        .map_err(|_| KeyError::OtherCertificate)
}

fn hint(fitting: Option<SigningAlgorithm>) -> String {
    fitting.map(|algorithm| format!(" (the key fits {})", algorithm.name())).unwrap_or_default()
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").finish_non_exhaustive()
    }
}
