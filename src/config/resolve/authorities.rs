//! `ca_file`: which certificate authorities a peer is checked against.

use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use toml::Spanned;

use super::Resolver;
use crate::config::diagnostics::Problem;
use crate::config::{Roots, small_file};

/// Ten times what an operating system brings along.
const MAX_CA_BYTES: u64 = 4 * 1024 * 1024;

impl Resolver<'_> {
    /// Which certificate authorities count: those in the file, or the system's; none for plain http.
    pub(super) fn roots(&mut self, ca_file: Option<Spanned<PathBuf>>, is_http: bool) -> Roots {
        let Some(ca_file) = ca_file else {
            return if is_http { Roots::Only(Vec::new()) } else { Roots::System };
        };
        let path = self.folder.join(ca_file.get_ref());
        match read_certificates(&path) {
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
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = small_file::read(path, MAX_CA_BYTES)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => {
            Err(format!("{} holds no certificate in PEM form", path.display()))
        }
        Ok(certificates) => {
            let mut store = rustls::RootCertStore::empty();
            match certificates.iter().find_map(|one| store.add(one.clone()).err()) {
                Some(error) => Err(format!("{} holds an unusable certificate: {error}", path.display())),
                None => Ok(certificates),
            }
        }
        Err(error) => Err(format!("{} is no PEM file: {error}", path.display())),
    }
}
