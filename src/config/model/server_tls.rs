//! What the server shows to callers over TLS, and by which authorities it knows theirs: files that are read at the
//! start, and again whenever they may have changed.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{Context, SHA256};
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use secrecy::zeroize::Zeroizing;
use thiserror::Error;

use super::{certificate, small_file};

/// More than any certificate with its chain, or its key.
const MAX_KEY_BYTES: u64 = 256 * 1024;
/// Ten times what an operating system brings along.
const MAX_CA_BYTES: u64 = 4 * 1024 * 1024;
/// How long before its end a certificate is worth a warning.
const SOON: Duration = Duration::from_hours(14 * 24);

/// `[server.tls]`: three files, and what was in them when the configuration was read.
#[derive(Clone, Debug)]
pub struct ServerTls {
    /// Where the files are.
    pub files: TlsFiles,
    /// What was in them.
    pub initial: TlsMaterial,
    /// By which a change is noticed.
    pub fingerprint: Fingerprint,
}

/// Where certificate, key and the callers' authorities are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate and those that lead from it to its authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub private_key: PathBuf,
    /// The authorities of callers' certificates, if they must show one.
    pub client_ca: Option<PathBuf>,
}

/// What was in the files: usable, and belonging together.
#[derive(Clone)]
pub struct TlsMaterial {
    /// Certificate and key.
    pub certified: Arc<CertifiedKey>,
    /// The authorities of callers' certificates, if they must show one.
    pub client_roots: Option<Arc<RootCertStore>>,
    /// When the certificate ends; `None` if it never does.
    pub end: Option<SystemTime>,
}

/// A digest of the files' content; `None` if one of them could not be read.
pub type Fingerprint = Option<[u8; 32]>;

/// The three files as bytes.
struct Contents {
    certificate: Vec<u8>,
    private_key: Zeroizing<Vec<u8>>,
    client_ca: Option<Vec<u8>>,
}

/// Which of the keys of `[server.tls]` is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as in the file")]
pub enum TlsKey {
    Certificate,
    PrivateKey,
    ClientCa,
}

/// Why the files cannot be used.
#[derive(Debug, Error)]
pub enum TlsFileError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// Which it is.
        key: TlsKey,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file has no PEM form.
    #[error("{} is no PEM file", path.display())]
    NotPem {
        /// Which it is.
        key: TlsKey,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: pem::Error,
    },
    /// A file has none of what it should have.
    #[error("{} holds no {what} in PEM form", path.display())]
    Missing {
        /// Which it is.
        key: TlsKey,
        /// The file.
        path: PathBuf,
        /// A certificate, or a private key.
        what: &'static str,
    },
    /// The key is another certificate's.
    #[error("{} is not the key of the certificate", path.display())]
    Mismatch {
        /// The key's file.
        path: PathBuf,
        /// What TLS says.
        source: rustls::Error,
    },
    /// An authority's certificate cannot be used.
    #[error("{} holds an unusable certificate", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: rustls::Error,
    },
    /// The certificate has ended.
    #[error("the certificate in {} has ended", .0.display())]
    Ended(PathBuf),
}

impl TlsFileError {
    /// The key of the configuration to look at.
    pub const fn key(&self) -> TlsKey {
        match self {
            Self::Unreadable { key, .. } | Self::NotPem { key, .. } | Self::Missing { key, .. } => *key,
            Self::Mismatch { .. } => TlsKey::PrivateKey,
            Self::Authority { .. } => TlsKey::ClientCa,
            Self::Ended(_) => TlsKey::Certificate,
        }
    }

    /// What would mend it.
    pub const fn help(&self) -> &'static str {
        match self {
            Self::Ended(_) => "have it renewed, and put the new one there with its key",
            Self::Mismatch { .. } => {
                "`certificate` and `private_key` belong together, and the server's own certificate stands first"
            }
            _ => match self.key() {
                TlsKey::Certificate => {
                    "`certificate` is a PEM file with the server's certificate first, then those between it and its \
                     authority"
                }
                TlsKey::PrivateKey => {
                    "`private_key` is a PEM file with the key of `certificate` (PKCS#8, PKCS#1 or SEC1, not encrypted)"
                }
                TlsKey::ClientCa => {
                    "`client_ca` is a PEM file with the authorities that issue the callers' certificates"
                }
            },
        }
    }
}

impl TlsFiles {
    /// Reads the files as they are now. May hang where a file system does.
    pub fn read(&self) -> (Fingerprint, Result<TlsMaterial, TlsFileError>) {
        match self.contents() {
            Ok(contents) => (Some(contents.fingerprint()), self.material(&contents)),
            Err(error) => (None, Err(error)),
        }
    }

    fn contents(&self) -> Result<Contents, TlsFileError> {
        let read = |key, path: &Path, max_bytes| {
            small_file::read(path, max_bytes).map_err(|source| TlsFileError::Unreadable {
                key,
                path: path.to_owned(),
                source,
            })
        };
        Ok(Contents {
            certificate: read(TlsKey::Certificate, &self.certificate, MAX_KEY_BYTES)?,
            private_key: read(TlsKey::PrivateKey, &self.private_key, MAX_KEY_BYTES)?.into(),
            client_ca: match &self.client_ca {
                Some(path) => Some(read(TlsKey::ClientCa, path, MAX_CA_BYTES)?),
                None => None,
            },
        })
    }

    fn material(&self, contents: &Contents) -> Result<TlsMaterial, TlsFileError> {
        let chain = certificates(TlsKey::Certificate, &self.certificate, &contents.certificate)?;
        let end = chain.first().and_then(certificate::end);
        let path = || self.private_key.clone();
        // Without the cause, which may quote a line of the key.
        let key = PrivateKeyDer::from_pem_slice(&contents.private_key).map_err(|_| {
            TlsFileError::Missing { key: TlsKey::PrivateKey, path: path(), what: "private key" }
        })?;
        let certified = CertifiedKey::from_der(chain, key, &default_provider())
            .map_err(|source| TlsFileError::Mismatch { path: path(), source })?;
        if end.is_some_and(|end| end <= certificate::now()) {
            return Err(TlsFileError::Ended(self.certificate.clone()));
        }
        let client_roots = match (&self.client_ca, &contents.client_ca) {
            (Some(path), Some(content)) => Some(Arc::new(authorities(path, content)?)),
            _ => None,
        };
        Ok(TlsMaterial { certified: Arc::new(certified), client_roots, end })
    }
}

impl Contents {
    fn fingerprint(&self) -> [u8; 32] {
        let mut digest = Context::new(&SHA256);
        for content in [Some(&self.certificate), Some(&self.private_key), self.client_ca.as_ref()] {
            let content = content.map_or(&[][..], Vec::as_slice);
            digest.update(&content.len().to_le_bytes());
            digest.update(content);
        }
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(digest.finish().as_ref());
        fingerprint
    }
}

impl TlsMaterial {
    /// Whether the certificate ends so soon that someone should be told.
    pub fn ends_soon(&self) -> bool {
        self.end.is_some_and(|end| end <= certificate::now() + SOON)
    }

    /// Whether the certificate's time has not come yet.
    pub fn is_early(&self) -> bool {
        let begin = self.certified.cert.first().and_then(certificate::begin);
        begin.is_some_and(|begin| begin > certificate::now())
    }

    /// The certificate's end as a date, for a person.
    pub fn end_date(&self) -> String {
        let end = self.end.and_then(|end| jiff::Timestamp::try_from(end).ok());
        end.map_or_else(|| "never".to_owned(), |end| end.to_string())
    }
}

/// Without the key.
impl fmt::Debug for TlsMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsMaterial").field("end", &self.end).finish_non_exhaustive()
    }
}

fn certificates(
    key: TlsKey,
    path: &Path,
    content: &[u8],
) -> Result<Vec<CertificateDer<'static>>, TlsFileError> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(content)
        .collect::<Result<_, _>>()
        .map_err(|source| TlsFileError::NotPem { key, path: path.to_owned(), source })?;
    if certificates.is_empty() {
        return Err(TlsFileError::Missing { key, path: path.to_owned(), what: "certificate" });
    }
    Ok(certificates)
}

fn authorities(path: &Path, content: &[u8]) -> Result<RootCertStore, TlsFileError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(TlsKey::ClientCa, path, content)? {
        store.add(certificate).map_err(|source| TlsFileError::Authority { path: path.to_owned(), source })?;
    }
    Ok(store)
}
