//! A certificate authority that lives as long as the process, and a certificate for loopback.

use std::sync::Arc;
use std::time::SystemTime;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use thiserror::Error;

/// An authority with one server certificate.
#[derive(Debug)]
pub struct Pki {
    authority: CertificateDer<'static>,
    authority_pem: String,
    certificate: CertificateDer<'static>,
    key: PrivatePkcs8KeyDer<'static>,
}

/// Why no certificate could be made.
#[derive(Debug, Error)]
pub enum PkiError {
    /// It could not be made.
    #[error("a certificate could not be made")]
    Certificate(#[from] rcgen::Error),
    /// TLS would not take it.
    #[error("TLS cannot be set up with the certificate")]
    Tls(#[from] rustls::Error),
    /// Clients' certificates cannot be checked.
    #[error("clients' certificates cannot be checked")]
    Clients(#[from] VerifierBuilderError),
}

impl Pki {
    /// An authority, and a certificate for these names and addresses.
    pub fn new(names: &[&str]) -> Result<Self, PkiError> {
        Self::with(names, None)
    }

    /// The same with a certificate that ends then.
    pub fn ending(names: &[&str], end: SystemTime) -> Result<Self, PkiError> {
        Self::with(names, Some(end))
    }

    fn with(names: &[&str], end: Option<SystemTime>) -> Result<Self, PkiError> {
        let authority_key = KeyPair::generate()?;
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.distinguished_name.push(DnType::CommonName, "bearerd demo authority");
        let authority_certificate = authority.self_signed(&authority_key)?;

        let key = KeyPair::generate()?;
        let mut server =
            CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?;
        server.distinguished_name.push(DnType::CommonName, "bearerd demo server");
        if let Some(end) = end {
            server.not_after = end.into();
        }
        let certificate = server.signed_by(&key, &Issuer::new(authority, authority_key))?;
        Ok(Self {
            authority: authority_certificate.der().clone(),
            authority_pem: authority_certificate.pem(),
            certificate: certificate.der().clone(),
            key: PrivatePkcs8KeyDer::from(key.serialize_der()),
        })
    }

    /// The authority's certificate, to be trusted.
    pub const fn authority(&self) -> &CertificateDer<'static> {
        &self.authority
    }

    /// The same as a file's content.
    pub fn authority_pem(&self) -> &str {
        &self.authority_pem
    }

    /// What a server with the certificate needs, offering these protocols (ALPN).
    pub fn server_config(&self, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, PkiError> {
        self.server_config_for(alpn, None)
    }

    /// The same for clients that show a certificate of this authority, and no others.
    pub fn server_config_for(
        &self,
        alpn: &[&[u8]],
        clients: Option<&CertificateDer<'static>>,
    ) -> Result<Arc<ServerConfig>, PkiError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = match clients {
            None => WebPkiClientVerifier::no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(authority.clone())?;
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build()?
            }
        };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![self.certificate.clone()], PrivateKeyDer::Pkcs8(self.key.clone_key()))?;
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Ok(Arc::new(config))
    }
}
