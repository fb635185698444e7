//! A new connection to an upstream: DNS, TCP, perhaps a proxy, TLS.

pub(in crate::proxy) mod dns;
pub(in crate::proxy) mod http_connect;
pub(in crate::proxy) mod socket;

use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use rustix::io::Errno;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tower_service::Service;

use self::dns::{Resolver, Unresolved};
use self::http_connect::Tunnel;
use self::socket::ReadsDecide;
use crate::causes::causes;
use crate::config::source::schema::HttpVersion;
use crate::config::{Address, Proxy};
use crate::http::ProxyStatus;
use crate::proxy::error::upstream::ForwardError;
use crate::token::api_discovery::Reach;

/// When the system begins to ask whether a silent upstream is still there.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// How HTTP/2 is called in a TLS handshake (RFC 9113 §3.3).
const HTTP_2_NAME: &[u8] = b"h2";

/// An upstream that is to speak HTTP/2 and agrees to something else.
#[derive(Debug, thiserror::Error)]
#[error("the upstream does not offer HTTP/2")]
struct NoHttp2;

/// A byte stream to an upstream, whatever it is made of.
pub trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// A connection that was made, and what is spoken over it.
pub struct Connected {
    /// The bytes.
    pub stream: Box<dyn Stream>,
    /// HTTP/2; else HTTP/1.1.
    pub is_http2: bool,
}

/// A connection being made. Not `Send`: it belongs to the worker that wants it.
pub type Connecting = Pin<Box<dyn Future<Output = Result<Connected, ForwardError>>>>;

/// Makes connections to one upstream.
pub trait Connect: fmt::Debug + Send + Sync {
    /// Starts one, which ends within the time that it has.
    fn connect(&self) -> Connecting;

    /// Whether HTTP/2 may be spoken over one: the others are not shared.
    fn may_speak_http2(&self) -> bool;
}

/// Connects over TCP, by way of a proxy where there is one, and TLS where the scheme is https.
#[derive(Clone, Debug)]
pub struct TcpConnect(Arc<Way>);

struct Way {
    tcp: HttpConnector<Resolver>,
    uri: Uri,
    tunnel: Option<Tunnel>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    http_version: HttpVersion,
    timeout: Duration,
}

/// A connection, and what was seen when it was made.
struct Made {
    stream: Box<dyn Stream>,
    seen: Seen,
}

/// What an upstream shows of itself to whoever connects.
#[derive(Debug)]
pub struct Seen {
    /// Which of its addresses answered, or of its proxy's.
    pub address: SocketAddr,
    /// The proxy on the way, without user and password.
    pub proxy: Option<Uri>,
    /// What TLS came to, where there is any.
    pub tls: Option<SeenTls>,
    /// Whether HTTP/2 is spoken; else HTTP/1.1.
    pub is_http2: bool,
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
    /// For this address; certificates are checked against `tls`, a proxy's own too, which offers what `http_version` has.
    /// A name's addresses share the time, and everything on the way to a connection does. Where it `may_reach` not everything, that holds for the addresses
    /// that are connected to; what a proxy connects to is the proxy's to decide.
    ///
    /// # Errors
    ///
    /// If an address is none, or no name that a certificate could have.
    pub fn new(
        address: &Address,
        tls: Option<Arc<ClientConfig>>,
        proxy: Option<&Proxy>,
        may_reach: Option<Reach>,
        http_version: HttpVersion,
        timeout: Duration,
    ) -> io::Result<Self> {
        let uri = Uri::builder()
            .scheme(address.scheme.clone())
            .authority(address.authority.clone())
            .path_and_query("/")
            .build()
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error.to_string()))?;
        let tunnel = match (proxy, &tls) {
            (Some(proxy), Some(tls)) => Tunnel::new(proxy, &uri, tls)?,
            // Plain http stays on this machine.
            _ => None,
        };
        let tls = match tls {
            None => None,
            Some(config) => Some((TlsConnector::from(config), server_name(address.authority.host())?)),
        };
        let resolver = Resolver::new(may_reach.filter(|_| tunnel.is_none()));
        let mut tcp = HttpConnector::new_with_resolver(resolver);
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(KEEPALIVE));
        tcp.set_connect_timeout(Some(timeout));
        Ok(Self(Arc::new(Way { tcp, uri, tunnel, tls, http_version, timeout })))
    }

    /// Connects as for a request, looks, and closes.
    ///
    /// # Errors
    ///
    /// [`ForwardError`] as for a request.
    pub async fn look(&self) -> Result<Seen, ForwardError> {
        Ok(self.0.make().await?.seen)
    }
}

impl Connect for TcpConnect {
    fn connect(&self) -> Connecting {
        let way = Arc::clone(&self.0);
        Box::pin(async move {
            let Made { stream, seen } = way.make().await?;
            Ok(Connected { stream, is_http2: seen.is_http2 })
        })
    }

    fn may_speak_http2(&self) -> bool {
        match self.0.http_version {
            HttpVersion::Http1 => false,
            HttpVersion::Http2 => true,
            // Without TLS there is nobody to ask.
            HttpVersion::Auto => self.0.tls.is_some(),
        }
    }
}

impl Way {
    /// A connection, made within the time that there is.
    async fn make(&self) -> Result<Made, ForwardError> {
        let deadline = Instant::now() + self.timeout;
        let Some(tunnel) = &self.tunnel else {
            let directly = async {
                let (tcp, address) = self.reach(&self.uri).await.map_err(|error| unreachable(&*error))?;
                self.secure(ReadsDecide::new(tcp), address).await.map_err(|error| tls_failed(&error))
            };
            return timeout_at(deadline, directly).await.unwrap_or(Err(ForwardError::ConnectTimeout));
        };
        let leading = async {
            let (tcp, address) =
                self.reach(tunnel.proxy()).await.map_err(|error| http_connect::not_reached(&*error))?;
            Ok((tunnel.open(tcp).await?, address))
        };
        let (stream, address) =
            timeout_at(deadline, leading).await.unwrap_or_else(|_| Err(http_connect::timed_out()))?;
        match timeout_at(deadline, self.secure(stream, address)).await {
            Ok(Ok(made)) => Ok(made),
            Ok(Err(error)) if is_no_tls(&error) => Err(http_connect::leads_nowhere(&error)),
            Ok(Err(error)) => Err(tls_failed(&error)),
            Err(_) => Err(http_connect::silent()),
        }
    }

    async fn reach(&self, uri: &Uri) -> Result<(TcpStream, SocketAddr), Box<dyn Error>> {
        let tcp = self.tcp.clone().call(uri.clone()).await?.into_inner();
        let address = tcp.peer_addr()?;
        Ok((tcp, address))
    }

    /// Does TLS where there is any.
    async fn secure<S: Stream + 'static>(&self, stream: S, address: SocketAddr) -> io::Result<Made> {
        let proxy = self.tunnel.as_ref().map(|tunnel| tunnel.proxy().clone());
        let Some((connector, name)) = self.tls.clone() else {
            let is_http2 = self.http_version == HttpVersion::Http2;
            return Ok(Made { stream: Box::new(stream), seen: Seen { address, proxy, tls: None, is_http2 } });
        };
        let stream = connector.connect(name, stream).await?;
        let session = stream.get_ref().1;
        let is_http2 = session.alpn_protocol() == Some(HTTP_2_NAME);
        if self.http_version == HttpVersion::Http2 && !is_http2 {
            return Err(io::Error::new(io::ErrorKind::Unsupported, NoHttp2));
        }
        let certificate = session.peer_certificates().and_then(<[_]>::first);
        let certificate = certificate.map(|one| one.clone().into_owned());
        let tls = Some(SeenTls { version: session.protocol_version(), certificate });
        Ok(Made { stream: Box::new(stream), seen: Seen { address, proxy, tls, is_http2 } })
    }
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Way").field("uri", &self.uri).field("tunnel", &self.tunnel).finish_non_exhaustive()
    }
}

/// The name that a certificate must have, without the brackets of an IPv6 address.
pub(in crate::proxy) fn server_name(host: &str) -> io::Result<ServerName<'static>> {
    let name = host.trim_matches(['[', ']']).to_owned();
    ServerName::try_from(name).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error.to_string()))
}

pub(in crate::proxy) fn unreachable(error: &(dyn Error + 'static)) -> ForwardError {
    let unresolved = causes(error).find_map(|error| error.downcast_ref::<Unresolved>());
    let cause = causes(error).filter_map(|error| error.downcast_ref::<io::Error>()).last();
    let errno = cause.and_then(io::Error::raw_os_error).map(Errno::from_raw_os_error);
    if matches!(errno, Some(Errno::MFILE | Errno::NFILE)) {
        return ForwardError::NoDescriptor;
    }
    let proxy_status = match (unresolved, cause.map(io::Error::kind)) {
        (Some(Unresolved::Prohibited), _) => ProxyStatus::DestinationIpProhibited,
        (Some(Unresolved::Failed(_)), _) => ProxyStatus::DnsError,
        (None, Some(io::ErrorKind::ConnectionRefused)) => ProxyStatus::ConnectionRefused,
        (None, Some(io::ErrorKind::TimedOut)) => ProxyStatus::ConnectionTimeout,
        (None, Some(io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable)) => {
            ProxyStatus::DestinationIpUnroutable
        }
        (None, _) => ProxyStatus::DestinationUnavailable,
    };
    let text = match (cause, unresolved) {
        (Some(cause), _) => format!("{error}: {cause}"),
        (None, Some(unresolved)) => format!("{error}: {unresolved}"),
        (None, None) => error.to_string(),
    };
    ForwardError::Unreachable { proxy_status, text }
}

/// A handshake that failed, or a connection that broke off in it.
pub(in crate::proxy) fn tls_failed(error: &io::Error) -> ForwardError {
    let said = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    let proxy_status = match said {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
            ProxyStatus::TlsCertificateError
        }
        Some(rustls::Error::AlertReceived(_)) => ProxyStatus::TlsAlertReceived,
        _ => ProxyStatus::TlsProtocolError,
    };
    ForwardError::Tls { proxy_status, text: error.to_string() }
}

/// Whether a handshake failed because there was no TLS at the other end, or soon nobody.
fn is_no_tls(error: &io::Error) -> bool {
    if error.kind() == io::ErrorKind::Unsupported {
        // There was, and no HTTP/2 in it.
        return false;
    }
    let said = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    matches!(said, None | Some(rustls::Error::InvalidMessage(_)))
}

#[cfg(test)]
mod tests {
    use http::uri::{Authority, Scheme};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn descriptors_that_the_system_has_no_more_of_are_no_fault_of_the_upstream() {
        for errno in [Errno::MFILE, Errno::NFILE] {
            assert!(matches!(unreachable(&io::Error::from(errno)), ForwardError::NoDescriptor), "{errno}");
        }
        let refused = unreachable(&io::Error::from(Errno::CONNREFUSED));
        assert_eq!(refused.proxy_status(), ProxyStatus::ConnectionRefused);
    }

    #[tokio::test]
    async fn a_name_that_leads_where_it_must_not_is_not_connected_to() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let look = async |may_reach| {
            let authority = Authority::try_from(format!("localhost:{port}")).unwrap();
            let address = Address { scheme: Scheme::HTTP, authority, path: String::new() };
            let connect =
                TcpConnect::new(&address, None, None, may_reach, HttpVersion::Auto, Duration::from_secs(5))
                    .unwrap();
            connect.look().await
        };

        let refused = look(Some(Reach::Public)).await.unwrap_err();
        assert_eq!(refused.proxy_status(), ProxyStatus::DestinationIpProhibited);
        assert!(refused.to_string().contains("private, loopback or otherwise special"), "{refused}");
        assert!(refused.detail().contains("was discovered"), "{refused:?}");
        let accepted = tokio::time::timeout(Duration::from_millis(100), listener.accept()).await;
        assert!(accepted.is_err(), "it was connected to");

        for reach in [None, Some(Reach::Loopback)] {
            assert_eq!(look(reach).await.unwrap().address.port(), port);
        }
    }
}
