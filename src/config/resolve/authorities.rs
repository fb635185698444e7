//! `ca_file`, `client_certificate` and `client_key`: whom TLS trusts, and whom it shows.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use toml::Spanned;

use super::Resolver;
use crate::config::model::credential::{ClientCertificate, Roots};
use crate::config::model::small_file;
use crate::config::source::diagnostics::Problem;
use crate::config::source::reader::Key;

/// Ten times what an operating system brings along.
const MAX_CA_BYTES: u64 = 4 * 1024 * 1024;
/// More than any certificate with its chain, or its key.
const MAX_KEY_BYTES: u64 = 256 * 1024;

impl Resolver<'_> {
    /// Which certificate authorities count: those in the file, or the system's; none for plain http.
    pub(super) fn roots(&mut self, ca_file: Key<PathBuf>, is_http: bool) -> Roots {
        let Some(ca_file) = ca_file else {
            return if is_http { Roots::Only(Vec::new()) } else { Roots::System };
        };
        let path = self.folder.join(ca_file.get_ref());
        match read_authorities(&path) {
            Ok(certificates) => Roots::Only(certificates),
            Err(error) => {
                self.problems.push(
                    Problem::error(ca_file.span(), error)
                        .help("`ca_file` is a PEM file with the certificates of the authorities to trust"),
                );
                Roots::System
            }
        }
    }

    /// The certificate to show to the token endpoint, and its key: both or neither.
    pub(super) fn client_certificate(
        &mut self,
        certificate: Option<&Spanned<PathBuf>>,
        key: Option<&Spanned<PathBuf>>,
    ) -> Option<ClientCertificate> {
        let (certificate, key) = match (certificate, key) {
            (Some(certificate), Some(key)) => (certificate, key),
            (None, None) => return None,
            (Some(lonely), None) | (None, Some(lonely)) => {
                self.problems.push(
                    Problem::error(lonely.span(), "a client certificate and its key come together").help(
                        "write both `client_certificate` and `client_key`, each the path of a PEM file",
                    ),
                );
                return None;
            }
        };
        let certificate_path = self.folder.join(certificate.get_ref());
        let chain =
            match read_certificates(&certificate_path, MAX_KEY_BYTES) {
                Ok(chain) => chain,
                Err(error) => {
                    self.problems.push(Problem::error(certificate.span(), error).help(
                        "`client_certificate` is a PEM file with the certificate to show, its own first",
                    ));
                    return None;
                }
            };
        match read_client_key(&self.folder.join(key.get_ref()), &chain) {
            Ok(key) => Some(ClientCertificate { chain, key: Arc::new(key) }),
            Err(error) => {
                self.problems.push(
                    Problem::error(key.span(), error)
                        .help("`client_key` is a PEM file with the private key of `client_certificate`"),
                );
                None
            }
        }
    }
}

fn read_client_key(path: &Path, chain: &[CertificateDer<'static>]) -> Result<PrivateKeyDer<'static>, String> {
    let pem = small_file::read(path, MAX_KEY_BYTES)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let key = PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|_| format!("{} holds no private key in PEM form", path.display()))?;
    match CertifiedKey::from_der(chain.to_vec(), key.clone_key(), &aws_lc_rs::default_provider()) {
        Ok(_) => Ok(key),
        Err(error) => Err(format!("{} is not the key of the certificate: {error}", path.display())),
    }
}

/// The authorities of a file, each of them usable.
fn read_authorities(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates = read_certificates(path, MAX_CA_BYTES)?;
    let mut store = rustls::RootCertStore::empty();
    match certificates.iter().find_map(|one| store.add(one.clone()).err()) {
        Some(error) => Err(format!("{} holds an unusable certificate: {error}", path.display())),
        None => Ok(certificates),
    }
}

/// All certificates of a PEM file, of which there is one at least.
fn read_certificates(path: &Path, max_bytes: u64) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = small_file::read(path, max_bytes)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => {
            Err(format!("{} holds no certificate in PEM form", path.display()))
        }
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(format!("{} is no PEM file: {error}", path.display())),
    }
}
