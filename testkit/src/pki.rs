//! A certificate authority that exists as long as the process, and the certificates that it issues.

use std::sync::Arc;
use std::time::SystemTime;

use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, SanType};
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
    issuer: Issuer<'static, KeyPair>,
    server: Issued,
}

/// A certificate with its private key.
#[derive(Clone)]
pub struct Issued {
    /// PEM.
    pub certificate: String,
    /// PEM, PKCS#8.
    pub key: String,
    certificate_der: CertificateDer<'static>,
    key_der: Arc<PrivatePkcs8KeyDer<'static>>,
}

/// Without the key.
impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

impl Issued {
    /// The certificate chain and the key, DER.
    pub fn der(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        (vec![self.certificate_der.clone()], PrivateKeyDer::Pkcs8(self.key_der.clone_key()))
    }
}

/// Why a certificate could not be made.
#[derive(Debug, Error)]
pub enum PkiError {
    /// Making the certificate failed.
    #[error("a certificate could not be made")]
    Certificate(#[from] rcgen::Error),
    /// TLS refused the certificate.
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

    /// An authority, and a certificate that expires at this time.
    pub fn ending(names: &[&str], end: SystemTime) -> Result<Self, PkiError> {
        Self::with(names, Some(end))
    }

    fn with(names: &[&str], end: Option<SystemTime>) -> Result<Self, PkiError> {
        let authority_key = KeyPair::generate()?;
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.distinguished_name.push(DnType::CommonName, "bearerd demo authority");
        let authority_certificate = authority.self_signed(&authority_key)?;

        let issuer = Issuer::new(authority, authority_key);
        let server = issue(&issuer, server_params(names)?, end)?;
        Ok(Self {
            authority: authority_certificate.der().clone(),
            authority_pem: authority_certificate.pem(),
            issuer,
            server,
        })
    }

    /// The server's certificate.
    pub const fn server(&self) -> &Issued {
        &self.server
    }

    /// Issues another certificate for a server of these names.
    pub fn another_server(&self, names: &[&str], end: Option<SystemTime>) -> Result<Issued, PkiError> {
        issue(&self.issuer, server_params(names)?, end)
    }

    /// Issues a client's certificate with a common name and URIs.
    pub fn client(&self, name: &str, uris: &[&str], end: Option<SystemTime>) -> Result<Issued, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        for uri in uris {
            params.subject_alt_names.push(SanType::URI((*uri).try_into()?));
        }
        issue(&self.issuer, params, end)
    }

    /// The authority's certificate, DER.
    pub const fn authority(&self) -> &CertificateDer<'static> {
        &self.authority
    }

    /// The authority's certificate, PEM.
    pub fn authority_pem(&self) -> &str {
        &self.authority_pem
    }

    /// The configuration of a TLS server that offers these protocols (ALPN).
    pub fn server_config(&self, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, PkiError> {
        self.server_config_for(alpn, None)
    }

    /// The configuration of a TLS server that requires a client certificate of this authority, if there is one.
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
        let (chain, key) = self.server.der();
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)?;
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Ok(Arc::new(config))
    }
}

fn server_params(names: &[&str]) -> Result<CertificateParams, PkiError> {
    let names = names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, "bearerd demo server");
    Ok(params)
}

fn issue(
    issuer: &Issuer<'static, KeyPair>,
    mut params: CertificateParams,
    end: Option<SystemTime>,
) -> Result<Issued, PkiError> {
    if let Some(end) = end {
        params.not_after = end.into();
    }
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, issuer)?;
    Ok(Issued {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
        certificate_der: certificate.der().clone(),
        key_der: Arc::new(PrivatePkcs8KeyDer::from(key.serialize_der())),
    })
}
