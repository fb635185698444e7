//! TLS with an upstream or with a proxy: the handshake, its result, and its errors.

use std::error::Error;
use std::io;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ProtocolVersion};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::socket::Stream;
use crate::http::ProxyStatus;
use crate::proxy::error::upstream::ForwardError;
use crate::tls::diagnosis;

/// The ALPN protocol ID of HTTP/2 over TLS (RFC 9113 §3.2).
pub(super) const ALPN_HTTP_2: &[u8] = b"h2";

/// The ALPN protocol ID of HTTP/1.1 (RFC 7301 §6).
pub(super) const ALPN_HTTP_1: &[u8] = b"http/1.1";

/// A TLS client for one server name.
pub(super) struct TlsClient {
    connector: TlsConnector,
    server_name: ServerName<'static>,
}

/// The properties of a TLS session.
#[derive(Debug)]
pub struct TlsDetails {
    /// The negotiated version.
    pub version: Option<ProtocolVersion>,
    /// The end-entity certificate of the upstream.
    pub certificate: Option<CertificateDer<'static>>,
}

impl TlsClient {
    /// Verifies that the peer's certificate is valid for `host`, which must be a DNS name or an IP address.
    pub(super) fn new(config: Arc<ClientConfig>, host: &str) -> io::Result<Self> {
        // A certificate names an IPv6 address without brackets.
        let server_name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error.to_string()))?;
        Ok(Self::named(config, server_name))
    }

    /// Verifies that the peer's certificate has this name.
    pub(super) fn named(config: Arc<ClientConfig>, server_name: ServerName<'static>) -> Self {
        Self { connector: TlsConnector::from(config), server_name }
    }

    /// Performs the handshake. Fails with an error of the stream, or with an error that contains a [`rustls::Error`].
    pub(super) async fn handshake<S: Stream>(&self, stream: S) -> io::Result<TlsStream<S>> {
        self.connector.connect(self.server_name.clone(), stream).await
    }
}

/// The error of a handshake that failed, or of a connection that ended during the handshake.
pub(super) fn tls_error(error: &io::Error) -> ForwardError {
    let proxy_status = match rustls_error(error) {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
            ProxyStatus::TlsCertificateError
        }
        Some(rustls::Error::AlertReceived(_)) => ProxyStatus::TlsAlertReceived,
        _ => ProxyStatus::TlsProtocolError,
    };
    ForwardError::Tls(proxy_status, diagnosis::described(error).unwrap_or_else(|| error.to_string()))
}

/// The refusal of the client certificate, or of its absence, among the causes of an error. In TLS 1.3, a server refuses after
/// the client has completed its handshake (RFC 8446 §4.4.2.4), so that the first read reports it.
pub fn refusal(error: &(dyn Error + 'static)) -> Option<ForwardError> {
    diagnosis::of_client_certificate(error).map(ForwardError::ClientRefused)
}

/// Whether a handshake failed because the peer sent something other than TLS, or ended the connection.
pub(super) fn is_no_tls(error: &io::Error) -> bool {
    let lacks_http2 = error.kind() == io::ErrorKind::Unsupported;
    !lacks_http2 && matches!(rustls_error(error), None | Some(rustls::Error::InvalidMessage(_)))
}

fn rustls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}
