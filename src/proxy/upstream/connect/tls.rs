//! TLS to an upstream or to a proxy: the handshake, what it shows, and why it failed.

use std::io;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ProtocolVersion};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::socket::Stream;
use crate::proxy::error::upstream::ForwardError;

/// How HTTP/2 is called in a TLS handshake (RFC 9113 §3.3).
pub(super) const HTTP_2_NAME: &[u8] = b"h2";

/// An upstream that is to speak HTTP/2 and agrees to something else.
#[derive(Debug, thiserror::Error)]
#[error("the upstream does not offer HTTP/2")]
pub(super) struct NoHttp2;

/// Does TLS with one peer.
#[derive(Clone)]
pub(super) struct TlsPeer {
    connector: TlsConnector,
    name: ServerName<'static>,
}

/// A TLS connection that was accepted.
#[derive(Debug)]
pub struct SeenTls {
    /// What was agreed on.
    pub version: Option<ProtocolVersion>,
    /// The upstream's own certificate.
    pub certificate: Option<CertificateDer<'static>>,
}

impl TlsPeer {
    /// For the host of this name.
    ///
    /// # Errors
    ///
    /// If no certificate could have this name.
    pub fn new(config: Arc<ClientConfig>, host: &str) -> io::Result<Self> {
        // An IPv6 address has no brackets in a certificate.
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error.to_string()))?;
        Ok(Self { connector: TlsConnector::from(config), name })
    }

    /// Does the handshake.
    ///
    /// # Errors
    ///
    /// What [`tls_failed`] names.
    pub async fn handshake<S: Stream>(&self, stream: S) -> io::Result<TlsStream<S>> {
        self.connector.connect(self.name.clone(), stream).await
    }
}

/// A handshake that failed, or a connection that broke off in it.
pub(super) fn tls_failed(error: &io::Error) -> ForwardError {
    let said = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    let proxy_status = match said {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
            "tls_certificate_error"
        }
        Some(rustls::Error::AlertReceived(_)) => "tls_alert_received",
        _ => "tls_protocol_error",
    };
    ForwardError::Tls { proxy_status, text: error.to_string() }
}

/// Whether a handshake failed because there was no TLS at the other end, or soon nobody.
pub(super) fn is_no_tls(error: &io::Error) -> bool {
    if error.kind() == io::ErrorKind::Unsupported {
        // There was, and no HTTP/2 in it.
        return false;
    }
    let said = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    matches!(said, None | Some(rustls::Error::InvalidMessage(_)))
}
