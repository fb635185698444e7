//! Certificates and private keys in PEM files.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use thiserror::Error;

use super::small_file;

/// Largest file of a certificate with its chain, or of a key.
pub(in crate::config) const MAX_CERTIFICATE_BYTES: u64 = 256 * 1024;
/// Largest file of certificate authorities: ten times the bundle of an operating system.
pub(in crate::config) const MAX_AUTHORITIES_BYTES: u64 = 4 * 1024 * 1024;

/// A PEM file that the configuration names, as it was when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PemFile {
    /// The file.
    pub path: PathBuf,
    /// A digest of the content that is in use.
    pub digest: [u8; 32],
}

impl PemFile {
    /// The file at this path, with this content.
    pub(in crate::config) fn new(path: &Path, content: &[u8]) -> Self {
        let digest = digest(&SHA256, content);
        Self { path: path.to_owned(), digest: std::array::from_fn(|at| digest.as_ref()[at]) }
    }
}

/// A PEM file cannot be used.
#[derive(Debug, Error)]
pub(crate) enum PemError {
    #[error("cannot read {}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{} is not a PEM file", path.display())]
    NotPem { path: PathBuf, source: pem::Error },
    #[error("{} holds no certificate in PEM form", .0.display())]
    NoCertificate(PathBuf),
    // Without a cause, which could quote a line of the key.
    #[error("{} holds no private key in PEM form", .0.display())]
    NoKey(PathBuf),
    #[error("{} is not the key of the certificate", path.display())]
    Mismatch { path: PathBuf, source: rustls::Error },
    #[error("{} holds an unusable certificate", path.display())]
    Unusable { path: PathBuf, source: rustls::Error },
    #[error("the certificate in {} has expired", .0.display())]
    Expired(PathBuf),
}

/// Reads a file of at most `max_bytes`.
pub(in crate::config) fn read(path: &Path, max_bytes: u64) -> Result<Vec<u8>, PemError> {
    small_file::read(path, max_bytes).map_err(|source| PemError::Unreadable { path: path.to_owned(), source })
}

/// The certificates of the file at `path`, at least one.
pub(in crate::config) fn certificates(
    path: &Path,
    content: &[u8],
) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(content)
        .collect::<Result<_, _>>()
        .map_err(|source| PemError::NotPem { path: path.to_owned(), source })?;
    if certificates.is_empty() { Err(PemError::NoCertificate(path.to_owned())) } else { Ok(certificates) }
}

/// The first certificate of a file.
pub(in crate::config) fn read_certificate(path: &Path) -> Result<CertificateDer<'static>, PemError> {
    let content = read(path, MAX_CERTIFICATE_BYTES)?;
    let mut certificates = certificates(path, &content)?;
    Ok(certificates.swap_remove(0))
}

/// The first private key of the file at `path`.
pub(in crate::config) fn private_key(
    path: &Path,
    content: &[u8],
) -> Result<PrivateKeyDer<'static>, PemError> {
    PrivateKeyDer::from_pem_slice(content).map_err(|_| PemError::NoKey(path.to_owned()))
}

/// The certificate chain with its private key, which is from the file at `path`.
pub(in crate::config) fn certified_key(
    path: &Path,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, PemError> {
    CertifiedKey::from_der(chain, key, &default_provider())
        .map_err(|source| PemError::Mismatch { path: path.to_owned(), source })
}

/// The certificate authorities of the file at `path`, each usable.
pub(in crate::config) fn authorities(
    path: &Path,
    content: &[u8],
) -> Result<(Vec<CertificateDer<'static>>, RootCertStore), PemError> {
    let certificates = certificates(path, content)?;
    let mut store = RootCertStore::empty();
    for certificate in &certificates {
        store
            .add(certificate.clone())
            .map_err(|source| PemError::Unusable { path: path.to_owned(), source })?;
    }
    Ok((certificates, store))
}

/// An error with its cause, in one line.
pub(in crate::config) fn with_cause(error: &impl Error) -> String {
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}
