//! One request on one connection to the upstream, and the head of its response.
//!
//! The clock for the response starts when the upstream has the whole request, and again with each piece of the
//! body on the way: a long upload is not a slow upstream. A request that finds its connection closed before
//! anything was sent comes back for another connection, and so does one of which an HTTP/2 upstream says that it has not
//! processed it; after that nothing is sent twice.

use std::pin::{Pin, pin};
use std::time::Duration;

use http::header::UPGRADE;
use http::{Response, StatusCode};
use hyper::body::{Body, Incoming};
use thiserror::Error;
use tokio::time::Instant;

use super::pool::body::UpstreamBody;
use super::pool::outgoing::Outgoing;
use super::pool::{Break, Broken, Fate, Lease, SendError};
use super::replay::{Attempt, Fault, Payload};
use crate::causes::in_one_line;
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

/// A request without a response, and whose fault that is.
#[derive(Debug)]
pub enum Failure {
    /// Nobody's: the connection had been used before and was closed meanwhile. The request is as it was.
    Unsent(Outgoing<Attempt<Incoming>>),
    /// The upstream's, which says that it has not processed it: the request once more from its beginning.
    Refused(Outgoing<Attempt<Incoming>>, ForwardError),
    /// The upstream's.
    Upstream(ForwardError),
    /// The caller's: its body.
    Caller(Fault),
}

/// A response's head, with the connection that its body comes from.
pub struct Answered<B: Body + 'static> {
    /// The head, and the body as it arrives.
    pub response: Response<UpstreamBody>,
    /// To be given back when the body has been read, dropped when it will not be.
    pub lease: Lease<B>,
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

/// Sends a request on a connection, which is the answer's from then on.
///
/// # Errors
///
/// [`Failure`]; the connection has ended.
pub async fn forward(
    mut lease: Lease<Attempt<Incoming>>,
    request: Outgoing<Attempt<Incoming>>,
    payload: &Payload<Incoming>,
    timeout: Duration,
) -> Result<Answered<Attempt<Incoming>>, Failure> {
    let may_switch = request.head.headers.contains_key(UPGRADE);
    let outcome = in_time(pin!(lease.send(request)), payload, timeout).await?;
    match outcome {
        // Nobody asked for it: what follows is no HTTP.
        Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS && !may_switch => {
            Err(Failure::Upstream(ForwardError::Protocol("an unexpected 101".to_owned())))
        }
        Ok(response) => Ok(Answered { response, lease }),
        Err(SendError { fate: Fate::Unsent(unsent), .. }) if lease.is_reused => Err(Failure::Unsent(unsent)),
        Err(SendError { fate: Fate::Refused(head), error }) => {
            match (failure(&error, payload), payload.again()) {
                (Failure::Upstream(error), Some(body)) => {
                    Err(Failure::Refused(Outgoing { head, body }, error))
                }
                (failure, _) => Err(failure),
            }
        }
        Err(SendError { error, .. }) => Err(failure(&error, payload)),
    }
}

/// Waits for the outcome as long as the body gets on or the upstream has time left to answer.
async fn in_time<T>(
    mut outcome: Pin<&mut impl Future<Output = T>>,
    payload: &Payload<Incoming>,
    timeout: Duration,
) -> Result<T, Failure> {
    let mut deadline = Instant::now() + timeout;
    loop {
        if let Ok(outcome) = tokio::time::timeout_at(deadline, outcome.as_mut()).await {
            return Ok(outcome);
        }
        match payload.progress().map(|progress| progress + timeout) {
            Some(later) if later > deadline => deadline = later,
            // Its own time-out watches over a caller that stopped sending.
            _ if payload.waits_for_caller() => deadline = Instant::now() + timeout,
            _ => return Err(Failure::Upstream(ForwardError::Timeout)),
        }
    }
}

/// Whose fault it is that a connection broke off, and what it is called.
fn failure(error: &Break, payload: &Payload<Incoming>) -> Failure {
    if let Some(fault) = payload.fault() {
        return Failure::Caller(fault);
    }
    let (is_no_http, text) = match error {
        Break::Http1(error) => {
            (error.is_parse() || error.is_parse_too_large() || error.is_parse_status(), in_one_line(error))
        }
        Break::Http2(broken) => (matches!(broken, Broken::Protocol(_)), broken.to_string()),
    };
    Failure::Upstream(if is_no_http { ForwardError::Protocol(text) } else { ForwardError::Terminated(text) })
}
