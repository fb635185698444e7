//! Failures to get a response from an upstream.

use thiserror::Error;

use crate::http::ProxyStatus;
use crate::tls::diagnosis;

/// Why an upstream gave no response; errors of several kinds contain their error type of RFC 9209 §2.3.
#[derive(Clone, Debug, Error)]
pub enum ForwardError {
    /// No connection to the upstream could be made; the text is the system's.
    #[error("no connection: {1}")]
    Unreachable(ProxyStatus, String),
    /// The process has no file descriptor left for another connection.
    #[error("no file descriptor for another connection")]
    NoDescriptor,
    /// No connection could be made in time.
    #[error("no connection in time")]
    ConnectTimeout,
    /// The forward proxy opened no tunnel to the upstream; the text contains nothing that the proxy sent.
    #[error("no connection by way of the proxy: {1}")]
    Proxy(ProxyStatus, String),
    /// The TLS handshake failed; the text is that of rustls or of the system.
    #[error("tls handshake failed: {1}")]
    Tls(ProxyStatus, String),
    /// The upstream refused the client certificate, or its absence, after the handshake; the text is that of rustls.
    #[error("the upstream refused the connection: {0}")]
    ClientRefused(String),
    /// The connection ended before the response head was complete.
    #[error("connection ended before the response: {0}")]
    Terminated(String),
    /// The upstream did not send an HTTP response.
    #[error("not a valid response: {0}")]
    Protocol(String),
    /// The upstream refuses the request over HTTP/2 (`HTTP_1_1_REQUIRED`, RFC 9113 §7).
    #[error("the upstream requires HTTP/1.1 for this request")]
    Http1Required,
    /// The response head did not arrive in time.
    #[error("no response in time")]
    Timeout,
    /// All connections that the upstream may have were busy.
    #[error("no connection was free in time")]
    Overloaded,
}

impl ForwardError {
    /// The error type of RFC 9209 §2.3.
    pub const fn proxy_status(&self) -> ProxyStatus {
        match self {
            Self::Unreachable(status, _) | Self::Proxy(status, _) | Self::Tls(status, _) => *status,
            Self::ClientRefused(_) => ProxyStatus::TlsAlertReceived,
            Self::NoDescriptor | Self::Overloaded => ProxyStatus::ConnectionLimitReached,
            Self::ConnectTimeout => ProxyStatus::ConnectionTimeout,
            Self::Terminated(_) => ProxyStatus::ConnectionTerminated,
            Self::Protocol(_) | Self::Http1Required => ProxyStatus::HttpProtocolError,
            Self::Timeout => ProxyStatus::HttpResponseTimeout,
        }
    }

    /// The cause and a remedy, for a person; contains no address and no text of a peer.
    pub fn detail(&self) -> &'static str {
        use ProxyStatus::{ConnectionRefused, DestinationIpProhibited, DnsError, HttpRequestDenied};
        match self {
            Self::Unreachable(DnsError, _) => "The upstream's name does not resolve.",
            Self::Unreachable(ConnectionRefused, _) => "The upstream refused the connection.",
            Self::Unreachable(DestinationIpProhibited, _) => {
                "The upstream was discovered, and its name resolves to a private, loopback or otherwise special \
                 address. To allow that, set `upstream` to the API's address."
            }
            Self::Unreachable(..) => "The proxy cannot reach the upstream.",
            Self::Proxy(HttpRequestDenied, _) => {
                "The proxy on the way to the upstream refuses the connection. Check `proxy` of the route, or \
                 HTTPS_PROXY and NO_PROXY in the environment of bearerd."
            }
            Self::Proxy(..) => {
                "The proxy on the way to the upstream is unreachable, or opens no connection to the upstream."
            }
            Self::NoDescriptor => {
                "The proxy has no file descriptor for another upstream connection. Try again."
            }
            Self::ConnectTimeout => "The upstream did not accept a connection in time.",
            Self::Tls(_, text) => diagnosis::advice_in(text).map_or(
                "The upstream's TLS certificate or handshake is not acceptable. The proxy did not send the request.",
                |advice| advice.sentence,
            ),
            Self::ClientRefused(_) => {
                "The upstream demands a client certificate, or refuses the one that the proxy presents. Set \
                 `client_certificate` and `client_key` of the route."
            }
            Self::Terminated(_) => "The upstream closed the connection before it answered.",
            Self::Protocol(_) => "The upstream's answer is not valid HTTP.",
            Self::Http1Required => {
                "The upstream requires HTTP/1.1 for this request. Set http_version = \"1.1\" on the route."
            }
            Self::Timeout => "The upstream did not answer in time.",
            Self::Overloaded => {
                "All connections that the upstream may have are busy. Try again, or raise `connections` of the route."
            }
        }
    }
}
