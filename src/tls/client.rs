//! TLS towards authorization servers and APIs: TLS 1.2 or later.
//!
//! Certificates are always verified, against the certificate authorities of the system, those of a file, or both.
//! Verification cannot be disabled.

use std::sync::{Arc, OnceLock};

use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::Verifier;
use thiserror::Error;

use super::pinned::Pinned;
use crate::config::{ClientCertificate, Roots};

/// ALPN names (RFC 7301), in order of preference.
pub type Alpn = &'static [&'static [u8]];

/// HTTP/2 or HTTP/1.1.
pub const HTTP_2_OR_1: Alpn = &[b"h2", b"http/1.1"];
/// HTTP/2 only.
pub const HTTP_2: Alpn = &[b"h2"];
/// HTTP/1.1 only.
pub const HTTP_1: Alpn = &[b"http/1.1"];

/// Builds TLS configurations. The system's certificate authorities are read once, when first needed.
#[derive(Debug, Default)]
pub struct Trust {
    system: OnceLock<Arc<Verifier>>,
}

/// Why a TLS configuration cannot be built.
#[derive(Debug, Error)]
pub enum TrustError {
    /// The system's certificate authorities cannot be read.
    #[error("the system's certificate authorities cannot be used (install them, or set ca_file)")]
    System(#[source] rustls::Error),
    /// A certificate authority of a file is unusable.
    #[error("a certificate authority cannot be used")]
    Root(#[source] rustls::Error),
    /// The client certificate or its key is unusable.
    #[error("the client certificate cannot be used")]
    ClientCertificate(#[source] rustls::Error),
    /// The cryptography library supports none of the allowed protocol versions.
    #[error("TLS cannot be set up")]
    Protocol(#[source] rustls::Error),
}

impl Trust {
    /// A configuration that trusts `roots`, offers `alpn`, and presents `certificate` to a server that requests one.
    ///
    /// # Errors
    ///
    /// [`TrustError`].
    pub fn client_config(
        &self,
        certificate: Option<&ClientCertificate>,
        roots: &Roots,
        alpn: Alpn,
    ) -> Result<ClientConfig, TrustError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(TrustError::Protocol)?;
        let builder = match roots {
            Roots::System => builder.dangerous().with_custom_certificate_verifier(self.system(provider)?),
            Roots::SystemAnd(certificates) => {
                let verifier = Verifier::new_with_extra_roots(certificates.clone(), provider);
                let verifier = Arc::new(verifier.map_err(TrustError::Root)?);
                builder.dangerous().with_custom_certificate_verifier(verifier)
            }
            Roots::Only(certificates) => {
                let mut store = RootCertStore::empty();
                for certificate in certificates {
                    store.add(certificate.clone()).map_err(TrustError::Root)?;
                }
                builder.with_root_certificates(store)
            }
        };
        let mut config = match certificate {
            Some(ClientCertificate { chain, key, .. }) => builder
                .with_client_auth_cert(chain.clone(), key.clone_key())
                .map_err(TrustError::ClientCertificate)?,
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Ok(config)
    }

    /// A configuration that trusts the server with the certificate `pinned`, by whatever name, and all that the system
    /// trusts, and presents `certificate` to a server that requests one. Offers HTTP/1.1.
    ///
    /// # Errors
    ///
    /// [`TrustError`].
    pub fn pinning(
        &self,
        pinned: Option<CertificateDer<'static>>,
        certificate: Option<&ClientCertificate>,
    ) -> Result<ClientConfig, TrustError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(TrustError::Protocol)?;
        let algorithms = provider.signature_verification_algorithms;
        let system = self.system(provider);
        let verifier: Arc<dyn ServerCertVerifier> = match pinned {
            Some(certificate) => Arc::new(Pinned { certificate, system: system.ok(), algorithms }),
            None => system?,
        };
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let mut config = match certificate {
            Some(ClientCertificate { chain, key, .. }) => builder
                .with_client_auth_cert(chain.clone(), key.clone_key())
                .map_err(TrustError::ClientCertificate)?,
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = HTTP_1.iter().map(|name| name.to_vec()).collect();
        Ok(config)
    }

    fn system(&self, provider: Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>, TrustError> {
        if let Some(verifier) = self.system.get() {
            return Ok(Arc::<Verifier>::clone(verifier));
        }
        let verifier = Arc::new(Verifier::new(provider).map_err(TrustError::System)?);
        Ok(Arc::<Verifier>::clone(self.system.get_or_init(|| verifier)))
    }
}
