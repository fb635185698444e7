//! New connections to an upstream: DNS, TCP, optionally a proxy, and TLS for `https`.

mod dns;
mod http_connect;
pub mod socket;
pub mod tls;

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
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tower_service::Service;

use self::dns::{Resolver, Unresolved};
use self::http_connect::{Tunnel, proxy_error, tls_error_in_tunnel};
use self::socket::{DeferredWriteErrors, Stream};
use self::tls::{ALPN_HTTP_1, ALPN_HTTP_2, TlsClient, TlsDetails, tls_error};
use crate::causes::causes;
use crate::config::{Address, HttpVersion, Proxy};
use crate::http::ProxyStatus;
use crate::proxy::error::upstream::ForwardError;
use crate::token::api_discovery::Reach;

/// Idle time after which the system sends the first TCP keep-alive probe.
const TCP_KEEPALIVE_TIME: Duration = Duration::from_secs(30);

/// A new connection and its protocol.
pub struct Connected {
    /// The byte stream, inside TLS where there is TLS.
    pub stream: Box<dyn Stream>,
    /// Whether the protocol is HTTP/2; HTTP/1.1 otherwise.
    pub is_http2: bool,
}

/// A connection attempt. Not `Send`: an attempt stays on the worker that started it.
pub type Connecting<'c> = Pin<Box<dyn Future<Output = Result<Connected, ForwardError>> + 'c>>;

/// Makes connections to one destination.
pub trait Connect: fmt::Debug + Send + Sync {
    /// Starts a connection attempt, which ends within the connect timeout.
    fn connect(&self) -> Connecting<'_>;

    /// Whether a connection may turn out to be HTTP/2, which requests share.
    fn may_speak_http2(&self) -> bool;

    /// Makes connections that are HTTP/1.1; `None` if all are, or none may be.
    fn over_http1(&self) -> Option<&dyn Connect> {
        None
    }
}

/// Connects over TCP, through a proxy if one is configured, and with TLS if the scheme is `https`.
pub struct TcpConnect {
    tcp: HttpConnector<Resolver>,
    uri: Uri,
    tunnel: Option<Tunnel>,
    tls: Option<TlsClient>,
    http_version: HttpVersion,
    timeout: Duration,
    /// The same over HTTP/1.1, where ALPN negotiates the version.
    over_http1: Option<Box<Self>>,
}

/// TLS with an upstream, and with an `https` proxy in front of it.
#[derive(Clone)]
pub struct Tls {
    /// Verifies the certificate of the upstream, and presents the one of the route.
    pub of_upstream: Arc<ClientConfig>,
    /// Verifies the certificate of the proxy, and presents none.
    pub of_proxy: Arc<ClientConfig>,
    /// The name of the upstream in SNI and in its certificate, if it is not the host of its address.
    pub server_name: Option<ServerName<'static>>,
}

impl Tls {
    /// The same with HTTP/1.1 alone in ALPN.
    fn over_http1(&self) -> Self {
        let mut of_upstream = ClientConfig::clone(&self.of_upstream);
        of_upstream.alpn_protocols = vec![ALPN_HTTP_1.to_vec()];
        Self { of_upstream: Arc::new(of_upstream), ..self.clone() }
    }
}

/// The stream and the properties of a new connection.
type Established = (Box<dyn Stream>, ConnectionDetails);

/// The properties of a new connection.
#[derive(Debug)]
pub struct ConnectionDetails {
    /// The address that accepted the connection: the proxy's if there is one.
    pub address: SocketAddr,
    /// The proxy, without user and password.
    pub proxy: Option<Uri>,
    /// The TLS session, for `https`.
    pub tls: Option<TlsDetails>,
    /// Whether the protocol is HTTP/2; HTTP/1.1 otherwise.
    pub is_http2: bool,
}

impl TcpConnect {
    /// Connects to `address`.
    ///
    /// The ALPN list of `tls` must match `http_version`. `reach` restricts the addresses of connections without a proxy. `timeout` bounds a whole
    /// attempt: all addresses of the name, the proxy and TLS.
    ///
    /// # Errors
    ///
    /// If the address of the upstream or of the proxy is invalid, or no certificate can contain its host.
    pub fn new(
        address: &Address,
        tls: Option<Tls>,
        proxy: Option<&Proxy>,
        reach: Option<Reach>,
        http_version: HttpVersion,
        timeout: Duration,
    ) -> io::Result<Self> {
        let over_http1 = match (&tls, http_version) {
            (Some(tls), HttpVersion::Auto) => {
                let (tls, version) = (tls.over_http1(), HttpVersion::Http1);
                Some(Box::new(Self::new(address, Some(tls), proxy, reach, version, timeout)?))
            }
            _ => None,
        };
        let uri = Uri::try_from(address.origin());
        let uri = uri.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let tunnel = match (proxy, &tls) {
            (Some(proxy), Some(tls)) => Tunnel::new(proxy, &uri, &tls.of_proxy)?,
            // Plain http is allowed on this machine only, without a proxy.
            _ => None,
        };
        let tls = tls.map(|Tls { of_upstream, server_name, .. }| match server_name {
            Some(name) => Ok(TlsClient::named(of_upstream, name)),
            None => TlsClient::new(of_upstream, address.authority.host()),
        });
        let tls = tls.transpose()?;
        let resolver = Resolver::new(reach.filter(|_| tunnel.is_none()));
        let mut tcp = HttpConnector::new_with_resolver(resolver);
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(TCP_KEEPALIVE_TIME));
        tcp.set_connect_timeout(Some(timeout));
        Ok(Self { tcp, uri, tunnel, tls, http_version, timeout, over_http1 })
    }

    /// Connects as for a request, closes the connection, and returns its properties.
    pub async fn inspect(&self) -> Result<ConnectionDetails, ForwardError> {
        Ok(self.establish().await?.1)
    }

    /// Connects within the timeout.
    async fn establish(&self) -> Result<Established, ForwardError> {
        let deadline = Instant::now() + self.timeout;
        let Some(tunnel) = &self.tunnel else {
            let attempt = async {
                let (tcp, address) = self.dial(&self.uri).await.map_err(|error| unreachable(&*error))?;
                self.secure(DeferredWriteErrors::new(tcp), address).await.map_err(|error| tls_error(&error))
            };
            return timeout_at(deadline, attempt).await.unwrap_or(Err(ForwardError::ConnectTimeout));
        };
        let late = |text| http_connect::failed(ProxyStatus::ConnectionTimeout, text);
        let attempt = async {
            let dialled = self.dial(&tunnel.proxy).await;
            let (tcp, address) = dialled.map_err(|error| proxy_error(unreachable(&*error)))?;
            Ok((tunnel.open(tcp).await?, address))
        };
        let (stream, address) =
            timeout_at(deadline, attempt).await.unwrap_or_else(|_| Err(late("no tunnel in time")))?;
        let secured = timeout_at(deadline, self.secure(stream, address)).await;
        let secured = secured.map_err(|_| late("no tls through its tunnel in time"))?;
        secured.map_err(|error| tls_error_in_tunnel(&error))
    }

    async fn dial(&self, uri: &Uri) -> Result<(TcpStream, SocketAddr), Box<dyn Error>> {
        let tcp = self.tcp.clone().call(uri.clone()).await?.into_inner();
        let address = tcp.peer_addr()?;
        Ok((tcp, address))
    }

    /// Performs the TLS handshake, for `https`.
    async fn secure<S: Stream + 'static>(&self, stream: S, address: SocketAddr) -> io::Result<Established> {
        let proxy = self.tunnel.as_ref().map(|tunnel| tunnel.proxy.clone());
        let requires_http2 = self.http_version == HttpVersion::Http2;
        let Some(tls) = &self.tls else {
            let details = ConnectionDetails { address, proxy, tls: None, is_http2: requires_http2 };
            return Ok((Box::new(stream), details));
        };
        let stream = tls.handshake(stream).await?;
        let session = stream.get_ref().1;
        let is_http2 = session.alpn_protocol() == Some(ALPN_HTTP_2);
        if requires_http2 && !is_http2 {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the upstream does not offer HTTP/2"));
        }
        let certificate = session.peer_certificates().and_then(<[_]>::first).cloned();
        let tls = Some(TlsDetails { version: session.protocol_version(), certificate });
        let details = ConnectionDetails { address, proxy, tls, is_http2 };
        Ok((Box::new(stream), details))
    }
}

impl Connect for TcpConnect {
    fn connect(&self) -> Connecting<'_> {
        Box::pin(async {
            let (stream, details) = self.establish().await?;
            Ok(Connected { stream, is_http2: details.is_http2 })
        })
    }

    fn over_http1(&self) -> Option<&dyn Connect> {
        self.over_http1.as_deref().map(|connect| connect as &dyn Connect)
    }

    fn may_speak_http2(&self) -> bool {
        match self.http_version {
            HttpVersion::Http1 => false,
            HttpVersion::Http2 => true,
            // Only ALPN negotiates a version.
            HttpVersion::Auto => self.tls.is_some(),
        }
    }
}

impl fmt::Debug for TcpConnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpConnect")
            .field("uri", &self.uri)
            .field("tunnel", &self.tunnel)
            .finish_non_exhaustive()
    }
}

/// The error of a TCP connection that was not made, or of a name that was not resolved.
fn unreachable(error: &(dyn Error + 'static)) -> ForwardError {
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
    ForwardError::Unreachable(proxy_status, text)
}

#[cfg(test)]
mod tests {
    use http::uri::{Authority, Scheme};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn running_out_of_file_descriptors_is_not_reported_as_an_unreachable_upstream() {
        for errno in [Errno::MFILE, Errno::NFILE] {
            assert!(matches!(unreachable(&io::Error::from(errno)), ForwardError::NoDescriptor), "{errno}");
        }
        let refused = unreachable(&io::Error::from(Errno::CONNREFUSED));
        assert_eq!(refused.proxy_status(), ProxyStatus::ConnectionRefused);
    }

    #[tokio::test]
    async fn a_name_that_resolves_to_a_prohibited_address_is_not_connected_to() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let inspect = async |reach| {
            let authority = Authority::try_from(format!("localhost:{port}")).unwrap();
            let address = Address { scheme: Scheme::HTTP, authority, path: String::new() };
            let connect =
                TcpConnect::new(&address, None, None, reach, HttpVersion::Auto, Duration::from_secs(5))
                    .unwrap();
            connect.inspect().await
        };

        let refused = inspect(Some(Reach::Public)).await.unwrap_err();
        assert_eq!(refused.proxy_status(), ProxyStatus::DestinationIpProhibited);
        assert!(refused.to_string().contains("private, loopback or otherwise special"), "{refused}");
        assert!(refused.detail().contains("was discovered"), "{refused:?}");
        let accepted = tokio::time::timeout(Duration::from_millis(100), listener.accept()).await;
        assert!(accepted.is_err(), "a connection was made");

        for reach in [None, Some(Reach::Loopback)] {
            assert_eq!(inspect(reach).await.unwrap().address.port(), port);
        }
    }
}
