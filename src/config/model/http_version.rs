//! The HTTP version spoken with a server.

use serde::Deserialize;

/// Which HTTP is spoken with a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum HttpVersion {
    /// HTTP/2 where the peer has it (by ALPN), else HTTP/1.1.
    #[serde(rename = "auto")]
    Auto,
    /// HTTP/1.1 alone.
    #[serde(rename = "1.1")]
    Http1,
    /// HTTP/2 alone.
    #[serde(rename = "2")]
    Http2,
}
