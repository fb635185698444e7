//! `[server.limits]`: bounds on what callers may use.

use std::time::Duration;

/// Bounds on what callers may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Concurrent connections of all callers; `None` for no limit.
    pub connections: Option<usize>,
    /// Concurrent connections from one address; `None` for no limit.
    pub connections_per_address: Option<usize>,
    /// Longest use of a connection; `None` for no limit.
    pub connection_age: Option<Duration>,
    /// Largest request head, in bytes.
    pub header_bytes: usize,
    /// Time from accept to the end of the TLS handshake.
    pub tls_timeout: Duration,
    /// Time from accept, or from a later request's first byte, to the end of the request head.
    pub header_timeout: Duration,
    /// Time between two requests of a connection.
    pub idle_timeout: Duration,
    /// Time between two pieces of a request body, until the response head is sent.
    pub body_timeout: Duration,
    /// Slowest request body in bytes per second, averaged over the time spent waiting for the body; 0 for no bound.
    pub body_rate: u64,
    /// Time in which a caller must read something of its response.
    pub write_timeout: Duration,
    /// Concurrent HTTP/2 streams of a connection.
    pub streams: u32,
    /// Largest request body, in bytes; `None` for no limit.
    pub body_bytes: Option<u64>,
    /// Bytes of one request body that are kept for a replay.
    pub replay_body: usize,
    /// Bytes of all request bodies together that are kept for replays.
    pub replay_total: usize,
    /// Time that a request may wait for a usable token.
    pub token_wait: Duration,
    /// Requests that may wait for a token at once.
    pub token_waiters: usize,
}
