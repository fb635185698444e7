//! `ca_file`, `system_roots`, `client_certificate` and `client_key`: trusted authorities, and the certificate of the client.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::Spanned;

use super::{Resolver, with_cause};
use crate::config::model::credential::{ClientCertificate, Roots};
use crate::config::model::pem_file::{self, MAX_AUTHORITIES_BYTES, MAX_CERTIFICATE_BYTES, PemError};
use crate::config::source::reader::Key;

impl Resolver<'_> {
    /// The authorities in the file, alone or with those of the system, or else those of the system; none for plain http.
    pub(super) fn roots(&mut self, ca_file: Key<PathBuf>, system_roots: Key<bool>, is_http: bool) -> Roots {
        let system_roots = system_roots.filter(|system_roots| *system_roots.get_ref());
        let Some(ca_file) = ca_file else {
            if let Some(redundant) = system_roots {
                let help = "the system's authorities are trusted where there is no `ca_file`: remove the key, or add `ca_file`";
                self.warning(redundant.span(), "`system_roots` has no effect without `ca_file`", help);
            }
            return if is_http { Roots::Only(Vec::new()) } else { Roots::System };
        };
        let help = "`ca_file` is a PEM file with the certificates of the authorities to trust";
        let read = self.read_pem(&ca_file, MAX_AUTHORITIES_BYTES, help, pem_file::authorities);
        read.map_or(Roots::System, |(roots, _)| match system_roots {
            Some(_) if !is_http => Roots::SystemAnd(roots),
            _ => Roots::Only(roots),
        })
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
                return self.refuse(
                    single.span(),
                    "a client certificate needs its key, and the key its certificate",
                    "write both `client_certificate` and `client_key`, each the path of a PEM file",
                );
            }
        };
        let help = "`client_certificate` is a PEM file with the client's certificate first, then its chain";
        let chain = self.read_pem(certificate, MAX_CERTIFICATE_BYTES, help, pem_file::certificates)?;
        let help = "`client_key` is a PEM file with the private key of `client_certificate`";
        let key = self.read_pem(key, MAX_CERTIFICATE_BYTES, help, |path, content| {
            let key = pem_file::private_key(path, content)?;
            pem_file::certified_key(path, chain.clone(), key.clone_key()).map(|_| key)
        })?;
        Some(ClientCertificate { chain, key: Arc::new(key) })
    }

    fn read_pem<T>(
        &mut self,
        file: &Spanned<PathBuf>,
        max_bytes: u64,
        help: &str,
        parse: impl FnOnce(&Path, &[u8]) -> Result<T, PemError>,
    ) -> Option<T> {
        let path = self.folder.join(file.get_ref());
        let parsed = pem_file::read(&path, max_bytes).and_then(|content| parse(&path, &content));
        parsed.map_err(|error| self.error(file.span(), with_cause(&error), help)).ok()
    }
}
