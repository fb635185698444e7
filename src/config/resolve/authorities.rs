//! `ca_file`, `client_certificate` and `client_key`: trusted authorities, and the certificate of the client.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use toml::Spanned;

use super::{Resolver, with_cause};
use crate::config::model::credential::{ClientCertificate, Roots};
use crate::config::model::pem_file::{self, MAX_AUTHORITIES_BYTES, MAX_CERTIFICATE_BYTES, PemError};
use crate::config::source::reader::Key;

impl Resolver<'_> {
    /// The authorities in the file, or else those of the system; none for plain http.
    pub(super) fn roots(&mut self, ca_file: Key<PathBuf>, is_http: bool) -> Roots {
        let Some(ca_file) = ca_file else {
            return if is_http { Roots::Only(Vec::new()) } else { Roots::System };
        };
        let path = self.folder.join(ca_file.get_ref());
        let read = pem_file::read(&path, MAX_AUTHORITIES_BYTES)
            .and_then(|content| pem_file::authorities(&path, &content));
        let help = "`ca_file` is a PEM file with the certificates of the authorities to trust";
        self.usable(read, ca_file.span(), help).map_or(Roots::System, |(roots, _)| Roots::Only(roots))
    }

    /// The certificate that authenticates the client to the token endpoint.
    pub(super) fn client_certificate(
        &mut self,
        certificate: Option<&Spanned<PathBuf>>,
        key: Option<&Spanned<PathBuf>>,
    ) -> Option<ClientCertificate> {
        let (certificate, key) = match (certificate, key) {
            (Some(certificate), Some(key)) => (certificate, key),
            (None, None) => return None,
            (Some(single), None) | (None, Some(single)) => {
                self.error(
                    single.span(),
                    "a client certificate needs its key, and the key its certificate",
                    "write both `client_certificate` and `client_key`, each the path of a PEM file",
                );
                return None;
            }
        };
        let path = self.folder.join(certificate.get_ref());
        let chain = pem_file::read(&path, MAX_CERTIFICATE_BYTES)
            .and_then(|content| pem_file::certificates(&path, &content));
        let help = "`client_certificate` is a PEM file with the client's certificate first, then its chain";
        let chain = self.usable(chain, certificate.span(), help)?;
        let path = self.folder.join(key.get_ref());
        let read = pem_file::read(&path, MAX_CERTIFICATE_BYTES)
            .and_then(|content| pem_file::private_key(&path, &content))
            .and_then(|key| pem_file::certified_key(&path, chain.clone(), key.clone_key()).map(|_| key));
        let help = "`client_key` is a PEM file with the private key of `client_certificate`";
        let key = self.usable(read, key.span(), help)?;
        Some(ClientCertificate { chain, key: Arc::new(key) })
    }

    fn usable<T>(&mut self, read: Result<T, PemError>, place: Range<usize>, help: &str) -> Option<T> {
        read.map_err(|error| self.error(place, with_cause(&error), help)).ok()
    }
}
