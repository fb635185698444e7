//! `[server.tls]`: what callers are shown, and whom they have to be known by.

use std::path::PathBuf;

use toml::Spanned;

use super::Resolver;
use crate::config::ServerTls;
use crate::config::diagnostics::Problem;
use crate::config::file::Tls;
use crate::config::server_tls::{TlsFileError, TlsFiles, TlsKey};

impl Resolver<'_> {
    /// The files, if they can be used as they are now.
    pub(super) fn server_tls(&mut self, tls: Option<Spanned<Tls>>) -> Option<ServerTls> {
        let has = |key: &str| self.unusable.contains(&format!("server.tls.{key}"));
        self.asks_for_certificates =
            has("client_ca") || tls.as_ref().is_some_and(|tls| tls.get_ref().client_ca.is_some());
        let tls = tls?;
        let place = tls.span();
        let Tls { certificate, private_key, client_ca } = tls.into_inner();
        for (key, is_there) in
            [("certificate", certificate.is_some()), ("private_key", private_key.is_some())]
        {
            if !is_there {
                let help = "[server.tls] needs `certificate` and `private_key`, each the path of a PEM file";
                self.missing(&format!("server.tls.{key}"), &place, help);
            }
        }
        let (certificate, private_key) = (certificate?, private_key?);
        let resolved = |path: &Spanned<PathBuf>| self.folder.join(path.get_ref());
        let files = TlsFiles {
            certificate: resolved(&certificate),
            private_key: resolved(&private_key),
            client_ca: client_ca.as_ref().map(resolved),
        };
        let place_of = |key| match key {
            TlsKey::Certificate => certificate.span(),
            TlsKey::PrivateKey => private_key.span(),
            TlsKey::ClientCa => client_ca.as_ref().map_or(place, Spanned::span),
        };
        let (fingerprint, outcome) = files.read();
        match outcome {
            Ok(initial) => {
                if initial.is_early() {
                    self.problems.push(
                        Problem::warning(certificate.span(), "the certificate is not valid yet")
                            .help("callers refuse it until then: check the clock of this machine"),
                    );
                } else if initial.ends_soon() {
                    let title = format!("the certificate ends on {}", initial.end_date());
                    self.problems.push(
                        Problem::warning(certificate.span(), title)
                            .help("have it renewed: a file that changes is taken up while the daemon runs"),
                    );
                }
                Some(ServerTls { files, initial, fingerprint })
            }
            Err(error) => {
                self.problems
                    .push(Problem::error(place_of(error.key()), in_one_line(&error)).help(error.help()));
                None
            }
        }
    }
}

fn in_one_line(error: &TlsFileError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
