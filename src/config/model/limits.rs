//! `[server.limits]`: bounds on what callers may use.

use std::time::Duration;

/// Bounds on what a caller may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections of callers at once; `None` is no limit but the system's.
    pub connections: Option<usize>,
    /// The same for one address; `None` is no limit.
    pub connections_per_address: Option<usize>,
    /// How long a connection is used; `None` is without end.
    pub connection_age: Option<Duration>,
    /// Largest request head, in bytes.
    pub header_bytes: usize,
    /// From accept to the end of the TLS handshake.
    pub tls_timeout: Duration,
    /// From accept, later from a request's first byte, to the end of its head.
    pub header_timeout: Duration,
    /// Between two requests of a connection.
    pub idle_timeout: Duration,
    /// Between two pieces of a request body, until the response head is sent.
    pub body_timeout: Duration,
    /// Least bytes a second of a request body, averaged over the time that it is waited for; 0 is no bound.
    pub body_rate: u64,
    /// How long a caller may take nothing of what there is for it.
    pub write_timeout: Duration,
    /// Concurrent HTTP/2 streams of a connection.
    pub streams: u32,
    /// Largest request body, in bytes; `None` is no limit.
    pub body_bytes: Option<u64>,
    /// Largest part of one request body that is kept for a replay, in bytes.
    pub replay_body: usize,
    /// The same for all requests together.
    pub replay_total: usize,
    /// How long a request may wait for a usable token.
    pub token_wait: Duration,
    /// How many requests may do so at once.
    pub token_waiters: usize,
}
