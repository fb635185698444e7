//! `[server.tls]` and `admin.tls`: the files for TLS with callers and operators, read at the start and whenever they may have changed.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::digest::{Context, SHA256};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use secrecy::zeroize::Zeroizing;

use super::certificate;
use super::pem_file::{self, MAX_AUTHORITIES_BYTES, MAX_CERTIFICATE_BYTES, PemError};

/// The files, and their content when the configuration was read.
#[derive(Clone, Debug)]
pub struct ServerTls {
    /// The paths.
    pub files: TlsFiles,
    /// The content.
    pub initial: TlsMaterial,
    /// A digest of the content, to notice a change.
    pub fingerprint: Fingerprint,
}

/// The paths of certificate, key and authorities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate of the server, and its chain.
    pub certificate: PathBuf,
    /// The private key of the certificate.
    pub private_key: PathBuf,
    /// The authorities of callers' certificates; with them, callers must show a certificate.
    pub client_ca: Option<PathBuf>,
}

/// The content of the files: usable and consistent.
#[derive(Clone)]
pub struct TlsMaterial {
    /// Certificate and key.
    pub certified: Arc<CertifiedKey>,
    /// The authorities of callers' certificates; with them, callers must show a certificate.
    pub client_roots: Option<Arc<RootCertStore>>,
    /// The certificates of these authorities.
    pub client_ca: Vec<CertificateDer<'static>>,
    /// The end of the certificate's validity; `None` if unlimited.
    pub end: Option<SystemTime>,
}

/// A digest of the files' content; `None` if a file could not be read.
pub type Fingerprint = Option<[u8; 32]>;

/// A key of `[server.tls]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as in the file")]
pub enum TlsKey {
    Certificate,
    PrivateKey,
    ClientCa,
}

/// A file cannot be used.
#[derive(Debug)]
pub struct TlsFileError {
    /// The key of the file.
    pub key: TlsKey,
    error: PemError,
}

impl TlsFileError {
    /// How to correct the file.
    pub const fn help(&self) -> &'static str {
        match (&self.error, self.key) {
            (PemError::Expired(_), _) => "renew the certificate, and replace both files",
            (PemError::Mismatch { .. }, _) => {
                "`certificate` and `private_key` belong together, and the server's own certificate stands first"
            }
            (_, TlsKey::Certificate) => {
                "`certificate` is a PEM file with the server's certificate first, then its chain"
            }
            (_, TlsKey::PrivateKey) => {
                "`private_key` is a PEM file with the key of `certificate` (PKCS#8, PKCS#1 or SEC1, not encrypted)"
            }
            (_, TlsKey::ClientCa) => {
                "`client_ca` is a PEM file with the authorities that issue the clients' certificates"
            }
        }
    }
}

impl fmt::Display for TlsFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for TlsFileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

impl TlsFiles {
    /// Reads the files, and checks each as far as the others are usable. May block as long as the file system does.
    ///
    /// # Errors
    ///
    /// The errors of all files, at least one.
    pub fn read(&self) -> (Fingerprint, Result<TlsMaterial, Vec<TlsFileError>>) {
        let mut errors = Errors(Vec::new());
        let mut read = |key, path: &Path, max_bytes| errors.note(key, pem_file::read(path, max_bytes));
        let certificate = read(TlsKey::Certificate, &self.certificate, MAX_CERTIFICATE_BYTES);
        let private_key =
            read(TlsKey::PrivateKey, &self.private_key, MAX_CERTIFICATE_BYTES).map(Zeroizing::new);
        let client_ca =
            self.client_ca.as_deref().map(|path| read(TlsKey::ClientCa, path, MAX_AUTHORITIES_BYTES));
        let fingerprint = match (&certificate, &private_key, &client_ca) {
            (Some(certificate), Some(private_key), None) => {
                Some(fingerprint([certificate, private_key, &[]]))
            }
            (Some(certificate), Some(private_key), Some(Some(client_ca))) => {
                Some(fingerprint([certificate, private_key, client_ca]))
            }
            _ => None,
        };
        let chain = certificate.and_then(|content| {
            errors.note(TlsKey::Certificate, pem_file::certificates(&self.certificate, &content))
        });
        let key = private_key.and_then(|content| {
            errors.note(TlsKey::PrivateKey, pem_file::private_key(&self.private_key, &content))
        });
        let end = chain.as_ref().and_then(|chain| chain.first()).and_then(certificate::end);
        let certified = chain.zip(key).and_then(|(chain, key)| {
            errors.note(TlsKey::PrivateKey, pem_file::certified_key(&self.private_key, chain, key))
        });
        if certified.is_some() && end.is_some_and(|end| end <= certificate::now()) {
            errors.0.push(TlsFileError {
                key: TlsKey::Certificate,
                error: PemError::Expired(self.certificate.clone()),
            });
        }
        let authorities =
            self.client_ca.as_deref().zip(client_ca.flatten()).and_then(|(path, content)| {
                errors.note(TlsKey::ClientCa, pem_file::authorities(path, &content))
            });
        let (client_ca, client_roots) = authorities.unzip();
        let material = match certified {
            Some(certified) if errors.0.is_empty() => Ok(TlsMaterial {
                certified: Arc::new(certified),
                client_roots: client_roots.map(Arc::new),
                client_ca: client_ca.unwrap_or_default(),
                end,
            }),
            _ => Err(errors.0),
        };
        (fingerprint, material)
    }
}

/// The errors of files so far.
struct Errors(Vec<TlsFileError>);

impl Errors {
    fn note<T>(&mut self, key: TlsKey, result: Result<T, PemError>) -> Option<T> {
        result.map_err(|error| self.0.push(TlsFileError { key, error })).ok()
    }
}

/// A digest of contents and their lengths.
fn fingerprint(contents: [&[u8]; 3]) -> [u8; 32] {
    let mut digest = Context::new(&SHA256);
    for content in contents {
        digest.update(&content.len().to_le_bytes());
        digest.update(content);
    }
    let digest = digest.finish();
    std::array::from_fn(|at| digest.as_ref()[at])
}

impl TlsMaterial {
    /// Whether the certificate expires so soon that a warning is due.
    pub fn ends_soon(&self) -> bool {
        self.end.is_some_and(|end| end <= certificate::now() + certificate::EXPIRY_WARNING)
    }

    /// The end of the certificate's validity as a date, for messages.
    pub fn end_date(&self) -> String {
        self.end.map_or_else(|| "never".to_owned(), certificate::date)
    }
}

/// Without the key.
impl fmt::Debug for TlsMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsMaterial").field("end", &self.end).finish_non_exhaustive()
    }
}
