//! Callers that speak TLS.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::pki::Issued;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Caller, Http2Caller};

/// The certificate authority that callers trust, and the certificate that they show.
#[derive(Clone, Debug)]
#[must_use = "a caller does nothing until it connects"]
pub struct TlsCaller {
    authority: CertificateDer<'static>,
    identity: Option<Issued>,
}

impl TlsCaller {
    /// Callers that trust this authority and show no certificate.
    pub fn trusting(authority: &CertificateDer<'static>) -> Self {
        Self { authority: authority.clone(), identity: None }
    }

    /// The callers show this certificate.
    pub fn showing(self, identity: &Issued) -> Self {
        Self { identity: Some(identity.clone()), ..self }
    }

    /// The client's configuration for TLS 1.2 and 1.3. Connections with the same value resume each other's sessions.
    pub fn config(&self, alpn: &[&[u8]]) -> Arc<ClientConfig> {
        self.config_in(rustls::ALL_VERSIONS, alpn)
    }

    /// The client's configuration for these versions.
    pub fn config_in(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        alpn: &[&[u8]],
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let (chain, key) = identity.der();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Arc::new(config)
    }

    /// Connects and agrees on HTTP/1.1.
    pub async fn connect(&self, address: SocketAddr) -> io::Result<Caller> {
        let stream = connect(address, self.config(&[b"http/1.1"])).await?;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        Ok(Caller::over(stream, &format!("localhost:{}", address.port())))
    }

    /// Connects and agrees on HTTP/2; HTTP/1.1 is offered too.
    pub async fn connect_http2(&self, address: SocketAddr) -> io::Result<Http2Caller> {
        let stream = connect(address, self.config(&[b"http/1.1", b"h2"])).await?;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        Ok(Http2Caller::over(stream, format!("https://localhost:{}", address.port())).await)
    }
}

/// Connects and completes the handshake for the name `localhost`.
pub async fn connect(address: SocketAddr, config: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    TlsConnector::from(config).connect(ServerName::try_from("localhost").unwrap(), stream).await
}
