//! Private keys of the recipes, and their certificate.

use std::path::Path;
use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{Certificate, CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256};

/// The keys of every recipe.
pub(super) static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    let rsa = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
    let certificate = CertificateParams::new(vec!["bearerd".to_owned()]).unwrap().self_signed(&rsa).unwrap();
    Keys { rsa, ec: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(), certificate }
});

#[derive(Debug)]
pub(super) struct Keys {
    pub rsa: KeyPair,
    pub ec: KeyPair,
    /// Of `rsa`.
    certificate: Certificate,
}

impl Keys {
    /// The SHA-256 thumbprint of the certificate (RFC 7515 §4.1.8).
    pub(super) fn thumbprint(&self) -> String {
        URL_SAFE_NO_PAD.encode(digest(&SHA256, self.certificate.der()))
    }
}

/// Writes the file of the private key that a recipe names.
pub(crate) fn write_key(recipe: &str, folder: &Path) {
    for line in recipe.lines().filter(|line| line.starts_with("assertion = ")) {
        let name = line.split('"').nth(1).unwrap();
        let pem = if line.contains("ES256") { KEYS.ec.serialize_pem() } else { KEYS.rsa.serialize_pem() };
        let certificate = if line.contains("x5t = true") { KEYS.certificate.pem() } else { String::new() };
        std::fs::write(folder.join(name), pem + &certificate).unwrap();
    }
}
