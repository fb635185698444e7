//! What becomes of a request that brings no response.

use http::request::Parts;
use thiserror::Error;

use super::request::Outgoing;

/// A request that brought no response.
#[derive(Debug)]
pub struct SendError<B> {
    /// What went wrong.
    pub error: Break,
    /// Whether the upstream has seen anything of it.
    pub fate: Fate<B>,
}

/// What has become of a request that brought no response.
#[derive(Debug)]
pub enum Fate<B> {
    /// Nothing of it was sent: the request, untouched.
    Unsent(Outgoing<B>),
    /// The upstream says that it has not been processed (RFC 9113 §8.7): its head.
    Refused(Box<Parts>),
    /// It was sent.
    Sent,
}

/// A connection or a stream that ended too early, by the word of its protocol.
#[derive(Debug, Error)]
pub enum Break {
    /// HTTP/1.1.
    #[error("the connection broke off")]
    Http1(#[source] hyper::Error),
    /// HTTP/2, in our words: a caller's connection must not take over the upstream's reason for its own.
    #[error("the stream broke off: {0}")]
    Http2(Broken),
}

/// Why an HTTP/2 stream ended.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Broken {
    /// The upstream reset it.
    #[error("reset by the upstream: {0}")]
    Reset(h2::Reason),
    /// The upstream ended the connection.
    #[error("connection ended by the upstream: {0}")]
    GoneAway(h2::Reason),
    /// The upstream broke the protocol.
    #[error("protocol error: {0}")]
    Protocol(h2::Reason),
    /// The socket ended.
    #[error("connection closed")]
    Closed,
    /// The body has ended short of its length.
    #[error("the body is shorter than its length")]
    Short,
}

impl From<h2::Error> for Broken {
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
