//! TLS towards callers.
//!
//! TLS 1.2 and later, HTTP/2 or HTTP/1.1 by ALPN, no early data: what can be played again must not wield a token.
//! Sessions are resumed by tickets under keys of this configuration alone, so that none outlives a change of the
//! callers' authorities.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::{self, Ticketer};
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use thiserror::Error;

use super::client::HTTP_2_OR_1;
use crate::config::server_tls::TlsMaterial;

/// Why callers cannot be served over TLS.
#[derive(Debug, Error)]
pub enum ServerTlsError {
    /// The authorities of callers' certificates cannot be used.
    #[error("the authorities of client_ca cannot be used")]
    ClientCa(#[from] VerifierBuilderError),
    /// The cryptography library fails.
    #[error("TLS cannot be set up")]
    Protocol(#[from] rustls::Error),
}

/// What connections are accepted with.
///
/// # Errors
///
/// [`ServerTlsError`].
pub fn server_config(material: &TlsMaterial) -> Result<Arc<ServerConfig>, ServerTlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = match &material.client_roots {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(roots) => {
            WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(&provider)).build()?
        }
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&material.certified))));
    config.alpn_protocols = HTTP_2_OR_1.iter().map(|name| name.to_vec()).collect();
    config.ticketer = Ticketer::new()?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::server_tls::TlsFiles;
    use testkit::pki::Pki;

    fn material(folder: &Path) -> TlsMaterial {
        let pki = Pki::new(&["localhost"]).unwrap();
        let write = |name: &str, content: &str| {
            std::fs::write(folder.join(name), content).unwrap();
            folder.join(name)
        };
        let files = TlsFiles {
            certificate: write("server.pem", &pki.server().certificate),
            private_key: write("server-key.pem", &pki.server().key),
            client_ca: Some(write("ca.pem", pki.authority_pem())),
        };
        files.read().1.unwrap()
    }

    #[test]
    fn no_early_data_is_taken_and_both_protocols_are_offered() {
        let folder = tempfile::tempdir().unwrap();
        let config = server_config(&material(folder.path())).unwrap();

        assert_eq!(config.max_early_data_size, 0);
        assert_eq!(config.alpn_protocols, [&b"h2"[..], b"http/1.1"]);
        assert!(config.ticketer.enabled() && !config.key_log.will_log("CLIENT_RANDOM"));
    }

    #[test]
    fn a_private_key_is_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let shown = format!("{:?}", material(folder.path()));

        assert!(shown.starts_with("TlsMaterial") && !shown.contains("key"), "{shown}");
    }
}
