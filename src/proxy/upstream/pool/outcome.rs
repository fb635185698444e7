//! Failures of a request on a connection.

use http::request::Parts;
use thiserror::Error;

use super::request::Outgoing;

/// A request that brought no response head.
#[derive(Debug)]
pub enum SendError<B> {
    /// Nothing was sent; the request is unchanged.
    Unsent(Outgoing<B>, ExchangeError),
    /// The upstream states that it has not processed the request, whose head this is (RFC 9113 §8.7).
    Refused(Box<Parts>, ExchangeError),
    /// The request was sent, at least in part.
    Sent(ExchangeError),
}

/// A connection or a stream that ended before the response was complete.
#[derive(Debug, Error)]
pub enum ExchangeError {
    /// HTTP/1.1.
    #[error("the connection broke off")]
    Http1(#[source] hyper::Error),
    /// HTTP/2. Not an [`h2::Error`]: hyper would send the reason of such an error on to the caller.
    #[error("the stream broke off: {0}")]
    Http2(StreamError),
}

/// Why an HTTP/2 stream ended.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum StreamError {
    /// The upstream reset the stream.
    #[error("reset by the upstream: {0}")]
    Reset(h2::Reason),
    /// The upstream sent GOAWAY.
    #[error("connection ended by the upstream: {0}")]
    GoneAway(h2::Reason),
    /// The upstream violated the protocol.
    #[error("protocol error: {0}")]
    Protocol(h2::Reason),
    /// The TCP connection ended.
    #[error("connection closed")]
    Closed,
    /// The body is shorter than its `Content-Length`.
    #[error("the body is shorter than its length")]
    Short,
}

impl From<h2::Error> for StreamError {
    fn from(error: h2::Error) -> Self {
        let reason = error.reason().unwrap_or(h2::Reason::INTERNAL_ERROR);
        match (error.is_remote(), error.is_reset()) {
            _ if error.is_io() => Self::Closed,
            (true, true) => Self::Reset(reason),
            (true, false) => Self::GoneAway(reason),
            _ => Self::Protocol(reason),
        }
    }
}
