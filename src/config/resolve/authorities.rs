//! `ca_file`, `system_roots`, `client_certificate`, `client_key` and `server_name`: trusted authorities, and the names of
//! client and server.

use std::ops::Range;
use std::path::PathBuf;

use rustls::pki_types::{CertificateDer, ServerName};
use secrecy::zeroize::Zeroizing;
use toml::Spanned;

use super::{Resolver, with_cause};
use crate::config::model::certificate;
use crate::config::model::certificate_files::client_certificate;
use crate::config::model::credential::{ClientCertificate, Roots};
use crate::config::model::pem_file::{self, MAX_AUTHORITIES_BYTES, MAX_CERTIFICATE_BYTES, PemFile};
use crate::config::source::key::Key;
use crate::config::source::schema;

impl Resolver<'_> {
    /// The authorities in the file, alone or with those of the system, and the file; or else the authorities of the system;
    /// none for plain http.
    pub(super) fn roots(
        &mut self,
        ca_file: &Key<PathBuf>,
        system_roots: &Key<bool>,
        is_http: bool,
    ) -> (Roots, Option<PemFile>) {
        let system_roots = system_roots.usable().filter(|system_roots| *system_roots.get_ref());
        let is_absent = ca_file.is_absent();
        let Some(ca_file) = ca_file.usable() else {
            if let Some(redundant) = system_roots.filter(|_| is_absent) {
                let help = "the system's authorities are trusted where there is no `ca_file`: remove the key, or add `ca_file`";
                self.warning(redundant.span(), "`system_roots` has no effect without `ca_file`", help);
            }
            return (if is_http { Roots::Only(Vec::new()) } else { Roots::System }, None);
        };
        let help = "`ca_file` is a PEM file with the certificates of the authorities to trust";
        let path = self.folder.join(ca_file.get_ref());
        let read = pem_file::read(&path, MAX_AUTHORITIES_BYTES).and_then(|content| {
            let (authorities, _) = pem_file::authorities(&path, &content)?;
            Ok((authorities, PemFile::new(&path, &content)))
        });
        match read {
            Ok((authorities, file)) => {
                self.warn_of_validity(ca_file.span(), "ca_file", &authorities);
                let roots = match system_roots {
                    Some(_) if !is_http => Roots::SystemAnd(authorities),
                    _ => Roots::Only(authorities),
                };
                (roots, Some(file))
            }
            Err(error) => {
                self.error(ca_file.span(), with_cause(&error), help);
                (Roots::System, None)
            }
        }
    }

    /// The certificate that a route shows to its API, and the name of the API in TLS if it is not the host of `upstream`.
    pub(super) fn identities(
        &mut self,
        route: &schema::Route,
        is_http: bool,
    ) -> (Option<ClientCertificate>, Option<ServerName<'static>>) {
        let (certificate, key, name) = (&route.client_certificate, &route.client_key, &route.server_name);
        let first = certificate.place().or_else(|| key.place()).or_else(|| name.place());
        if let Some(place) = first.filter(|_| is_http) {
            let help =
                "remove `client_certificate`, `client_key` and `server_name`, or write an https:// upstream";
            self.error(place, "an http:// upstream has no TLS", help);
        }
        let name = name.usable().and_then(|name| self.server_name(name));
        (self.client_certificate(certificate, key), name)
    }

    fn server_name(&mut self, name: &Spanned<String>) -> Option<ServerName<'static>> {
        let help = "write a DNS name or an address, without port, such as \"api.example.com\"";
        let text = name.get_ref().to_ascii_lowercase();
        ServerName::try_from(text)
            .ok()
            .or_else(|| self.refuse(name.span(), "not a name in a certificate", help))
    }

    /// The certificate that authenticates the client to the token endpoint or to an API.
    pub(super) fn client_certificate(
        &mut self,
        certificate: &Key<PathBuf>,
        key: &Key<PathBuf>,
    ) -> Option<ClientCertificate> {
        if let (Key::Written(single), Key::Absent) | (Key::Absent, Key::Written(single)) = (certificate, key)
        {
            return self.refuse(
                single.span(),
                "a client certificate needs its key, and the key its certificate",
                "write both `client_certificate` and `client_key`, each the path of a PEM file",
            );
        }
        let (certificate, key) = (certificate.usable()?, key.usable()?);
        let [certificate_path, key_path] = [certificate, key].map(|file| self.folder.join(file.get_ref()));
        let content = pem_file::read(&certificate_path, MAX_CERTIFICATE_BYTES).and_then(|content| {
            pem_file::certificates(&certificate_path, &content)?;
            Ok(content)
        });
        let private =
            pem_file::read(&key_path, MAX_CERTIFICATE_BYTES).map(Zeroizing::new).and_then(|private| {
                pem_file::private_key(&key_path, &private)?;
                Ok(private)
            });
        let help = "`client_certificate` is a PEM file with the client's certificate first, then its chain";
        let content = content.map_err(|error| self.error(certificate.span(), with_cause(&error), help)).ok();
        let help = "`client_key` is a PEM file with the private key of `client_certificate`";
        let private = private.map_err(|error| self.error(key.span(), with_cause(&error), help)).ok();
        let (content, private) = (content?, private?);
        match client_certificate((&certificate_path, &content), (&key_path, &private)) {
            Ok(pair) => {
                self.warn_of_validity(certificate.span(), "client_certificate", &pair.chain);
                Some(pair)
            }
            Err(error) => self.refuse(key.span(), with_cause(&error), help),
        }
    }

    /// Warns of certificates that have ended, end soon, or are not valid yet.
    pub(super) fn warn_of_validity(
        &mut self,
        place: Range<usize>,
        key: &str,
        certificates: &[CertificateDer<'_>],
    ) {
        if let Some(warning) = certificate::validity(certificates) {
            let help = "replace the file: the daemon reads it again within seconds. If the dates are right, check \
                        the clock of this machine";
            self.warning(place, format!("`{key}`: {warning}"), help);
        }
    }
}
