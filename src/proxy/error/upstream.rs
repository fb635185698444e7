//! Why an upstream gave no response: the connection, TLS, the protocol, a time-out, or an open circuit breaker.

use std::time::Duration;

use thiserror::Error;

use crate::http::ProxyStatus;

/// Why there is no response of the upstream.
#[derive(Clone, Debug, Error)]
pub enum ForwardError {
    /// No connection could be made.
    #[error("no connection: {text}")]
    Unreachable {
        /// RFC 9209 §2.3.
        proxy_status: ProxyStatus,
        /// What the system said.
        text: String,
    },
    /// No file descriptor is left for another connection.
    #[error("no file descriptor for another connection")]
    NoDescriptor,
    /// No connection could be made in time.
    #[error("no connection in time")]
    ConnectTimeout,
    /// The proxy on the way there did not lead to it.
    #[error("no connection by way of the proxy: {text}")]
    Proxy {
        /// RFC 9209 §2.3.
        proxy_status: ProxyStatus,
        /// What happened; nothing of the proxy's own words.
        text: String,
    },
    /// The TLS handshake failed: not a valid certificate, or not TLS at all.
    #[error("tls handshake failed: {text}")]
    Tls {
        /// RFC 9209 §2.3.
        proxy_status: ProxyStatus,
        /// What rustls or the system said.
        text: String,
    },
    /// The connection ended before the response's head was complete.
    #[error("connection ended before the response: {0}")]
    Terminated(String),
    /// What came is no HTTP response.
    #[error("not a valid response: {0}")]
    Protocol(String),
    /// No response in time.
    #[error("no response in time")]
    Timeout,
    /// Nothing of the upstream's: all connections that it may have were busy.
    #[error("no connection was free in time")]
    Overloaded,
}

/// No request may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// When it is worth another try.
    pub retry_after: Duration,
}

impl ForwardError {
    /// RFC 9209 §2.3.
    pub const fn proxy_status(&self) -> ProxyStatus {
        match self {
            Self::Unreachable { proxy_status, .. }
            | Self::Proxy { proxy_status, .. }
            | Self::Tls { proxy_status, .. } => *proxy_status,
            Self::NoDescriptor | Self::Overloaded => ProxyStatus::ConnectionLimitReached,
            Self::ConnectTimeout => ProxyStatus::ConnectionTimeout,
            Self::Terminated(_) => ProxyStatus::ConnectionTerminated,
            Self::Protocol(_) => ProxyStatus::HttpProtocolError,
            Self::Timeout => ProxyStatus::HttpResponseTimeout,
        }
    }

    /// A sentence for the caller: no address, no text from outside.
    pub fn detail(&self) -> String {
        match self {
            Self::Unreachable { proxy_status: ProxyStatus::DnsError, .. } => "The upstream's name does not resolve.",
            Self::Unreachable { proxy_status: ProxyStatus::ConnectionRefused, .. } => {
                "The upstream refused the connection."
            }
            Self::Unreachable { proxy_status: ProxyStatus::DestinationIpProhibited, .. } => {
                "The upstream was discovered, and its name leads to a private, loopback or otherwise special address. \
                 If that is meant, write the API's address as `upstream`."
            }
            Self::Unreachable { .. } => "The upstream cannot be reached.",
            Self::Proxy { proxy_status: ProxyStatus::HttpRequestDenied, .. } => {
                "The proxy on the way to the upstream refuses to connect there. Check `proxy` of the route, or \
                 HTTPS_PROXY and NO_PROXY of bearerd's environment."
            }
            Self::Proxy { .. } => {
                "The proxy on the way to the upstream cannot be reached, or does not lead there."
            }
            Self::NoDescriptor => {
                "The proxy has no file descriptor for another connection to an upstream. Try again."
            }
            Self::ConnectTimeout => "The upstream did not accept a connection in time.",
            Self::Tls { .. } => {
                "The upstream's TLS certificate or handshake is not acceptable. Nothing was sent."
            }
            Self::Terminated(_) => "The upstream closed the connection before it answered.",
            Self::Protocol(_) => "The upstream's answer is not valid HTTP.",
            Self::Timeout => "The upstream did not answer in time.",
            Self::Overloaded => {
                "All connections that the upstream may have are busy. Try again, or raise `connections` of the route."
            }
        }
        .to_owned()
    }
}
