//! TLS towards callers and operators: TLS 1.2 or later; the protocol is chosen by ALPN.
//!
//! Early data is refused, because an attacker could replay a request and bearerd would add a token to it. Session
//! tickets have keys of one configuration alone, so that no session outlives a change of `client_ca`.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::{self, Ticketer};
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use thiserror::Error;

use super::client::Alpn;
use crate::config::model::server_tls::TlsMaterial;

/// Why the server's TLS configuration cannot be built.
#[derive(Debug, Error)]
pub enum ServerTlsError {
    /// The certificate authorities of callers are unusable.
    #[error("the certificate authorities of client_ca cannot be used")]
    ClientCa(#[from] VerifierBuilderError),
    /// The cryptography library fails.
    #[error("TLS cannot be set up")]
    Protocol(#[from] rustls::Error),
}

/// The configuration with which connections are accepted, for the protocols `alpn`.
///
/// # Errors
///
/// [`ServerTlsError`].
pub fn server_config(material: &TlsMaterial, alpn: Alpn) -> Result<Arc<ServerConfig>, ServerTlsError> {
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
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.ticketer = Ticketer::new()?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::model::server_tls::TlsFiles;
    use crate::tls::client::HTTP_2_OR_1;
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
    fn early_data_is_refused_and_both_protocols_are_offered() {
        let folder = tempfile::tempdir().unwrap();
        let config = server_config(&material(folder.path()), HTTP_2_OR_1).unwrap();

        assert_eq!(config.max_early_data_size, 0);
        assert_eq!(config.alpn_protocols, [&b"h2"[..], b"http/1.1"]);
        assert!(config.ticketer.enabled() && !config.key_log.will_log("CLIENT_RANDOM"));
    }

    #[test]
    fn debug_output_contains_no_private_key() {
        let folder = tempfile::tempdir().unwrap();
        let shown = format!("{:?}", material(folder.path()));

        assert!(shown.starts_with("TlsMaterial") && !shown.contains("key"), "{shown}");
    }
}
