//! A new connection to an upstream: DNS, TCP, TLS.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use http::uri::{Authority, Scheme};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tower_service::Service;

use super::forward::ForwardError;
use super::socket::ReadsDecide;
use crate::causes::causes;

/// When the system begins to ask whether a silent upstream is still there.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// A byte stream to an upstream, whatever it is made of.
pub trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// A connection being made. Not `Send`: it belongs to the worker that wants it.
pub type Connecting = Pin<Box<dyn Future<Output = Result<Box<dyn Stream>, ForwardError>>>>;

/// Makes connections to one upstream.
pub trait Connect: fmt::Debug + Send + Sync {
    /// Starts one.
    fn connect(&self) -> Connecting;
}

/// Connects over TCP, and TLS where the scheme is https.
pub struct TcpConnect {
    tcp: HttpConnector,
    uri: Uri,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl TcpConnect {
    /// For this address; certificates are checked against `tls`. A name's addresses share the time.
    ///
    /// # Errors
    ///
    /// If the authority is no address, or no name that a certificate could have.
    pub fn new(
        scheme: &Scheme,
        authority: &Authority,
        tls: Option<Arc<ClientConfig>>,
        timeout: Duration,
    ) -> io::Result<Self> {
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidInput, error);
        let uri = Uri::builder()
            .scheme(scheme.clone())
            .authority(authority.clone())
            .path_and_query("/")
            .build()
            .map_err(|error| invalid(error.to_string()))?;
        let tls = match tls {
            None => None,
            Some(config) => {
                let name = authority.host().trim_matches(['[', ']']).to_owned();
                let name = ServerName::try_from(name).map_err(|error| invalid(error.to_string()))?;
                Some((TlsConnector::from(config), name))
            }
        };
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(KEEPALIVE));
        tcp.set_connect_timeout(Some(timeout));
        Ok(Self { tcp, uri, tls })
    }
}

/// What an upstream shows of itself to whoever connects.
#[derive(Debug)]
pub struct Seen {
    /// Which of its addresses answered.
    pub address: SocketAddr,
    /// What TLS came to, where there is any.
    pub tls: Option<SeenTls>,
}

/// A TLS connection that was accepted.
#[derive(Debug)]
pub struct SeenTls {
    /// What was agreed on.
    pub version: Option<ProtocolVersion>,
    /// The upstream's own certificate.
    pub certificate: Option<CertificateDer<'static>>,
}

impl TcpConnect {
    /// Connects as for a request, looks, and closes.
    ///
    /// # Errors
    ///
    /// [`ForwardError`] as for a request, its time-out aside.
    pub async fn look(&self) -> Result<Seen, ForwardError> {
        let tcp = self.tcp.clone().call(self.uri.clone()).await.map_err(|error| unreachable(&error))?;
        let tcp = tcp.into_inner();
        let address = tcp.peer_addr().map_err(|error| unreachable(&error))?;
        let Some((connector, name)) = self.tls.clone() else {
            return Ok(Seen { address, tls: None });
        };
        let stream = connector.connect(name, tcp).await.map_err(|error| tls_failed(&error))?;
        let session = stream.get_ref().1;
        let certificate = session.peer_certificates().and_then(<[_]>::first);
        let certificate = certificate.map(|one| one.clone().into_owned());
        Ok(Seen { address, tls: Some(SeenTls { version: session.protocol_version(), certificate }) })
    }
}

impl Connect for TcpConnect {
    fn connect(&self) -> Connecting {
        let tcp = self.tcp.clone().call(self.uri.clone());
        let tls = self.tls.clone();
        Box::pin(async move {
            let tcp = tcp.await.map_err(|error| unreachable(&error))?;
            let socket = ReadsDecide::new(tcp.into_inner());
            let Some((connector, name)) = tls else {
                return Ok(Box::new(socket) as Box<dyn Stream>);
            };
            let stream = connector.connect(name, socket).await.map_err(|error| tls_failed(&error))?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }
}

impl fmt::Debug for TcpConnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpConnect").field("uri", &self.uri).finish_non_exhaustive()
    }
}

fn unreachable(error: &(dyn Error + 'static)) -> ForwardError {
    let is_dns = error.to_string().starts_with("dns");
    let cause = causes(error).filter_map(|error| error.downcast_ref::<io::Error>()).last();
    let proxy_status = match cause.map(io::Error::kind) {
        _ if is_dns => "dns_error",
        Some(io::ErrorKind::ConnectionRefused) => "connection_refused",
        Some(io::ErrorKind::TimedOut) => "connection_timeout",
        Some(io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable) => {
            "destination_ip_unroutable"
        }
        _ => "destination_unavailable",
    };
    let text = cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"));
    ForwardError::Unreachable { proxy_status, text }
}

/// A handshake that failed, or a connection that broke off in it.
fn tls_failed(error: &io::Error) -> ForwardError {
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
