//! Bounds, lifetime and guard of the connections of a pool, in both versions of HTTP.

use std::cell::Cell;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::proxy::limits::slots::Reservation;
use crate::proxy::upstream::connect::socket::Stream;
use crate::proxy::upstream::permits::ConnectionPermit;

/// The largest response head, and the largest buffer of a connection in each direction, in bytes.
pub(super) const MAX_BUFFER: usize = 64 * 1024;
/// The idle timeout of a connection: shorter than those of most servers and load balancers.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Requests that a connection may carry for its own worker while requests wait on other workers. With a smaller number,
/// almost every request would need a new connection.
const MAX_CONTENDED_REQUESTS: u32 = 16;

/// The permit and the file descriptor of a connection; must be kept until the connection has ended.
#[derive(Debug)]
pub struct ConnectionGuard {
    permit: ConnectionPermit,
    _descriptor: Reservation,
}

/// The destination of a connection, and how long the connection is used.
#[derive(Debug)]
pub(super) struct Lifetime {
    /// The revision of the destination.
    pub(super) revision: u32,
    expires_at: Instant,
    contended_requests: Cell<u32>,
    /// When the last request ended; before the first request, when the connection was made.
    pub(super) idle_since: Cell<Instant>,
}

/// The byte stream of a connection that has switched to another protocol (RFC 9110 §7.8).
pub struct Upgraded {
    /// The stream.
    pub stream: Box<dyn Stream>,
    /// Bytes of the new protocol that were already read.
    pub read_ahead: Bytes,
    /// Must be kept as long as the stream.
    pub guard: ConnectionGuard,
}

impl ConnectionGuard {
    pub(super) const fn new(permit: ConnectionPermit, descriptor: Reservation) -> Self {
        Self { permit, _descriptor: descriptor }
    }

    /// The lifetime of the connection, which leads to this revision of the destination.
    pub(super) fn lifetime(&self, revision: u32) -> Lifetime {
        let (contended_requests, idle_since) = (Cell::new(0), Cell::new(Instant::now()));
        Lifetime { revision, expires_at: self.permit.expires_at, contended_requests, idle_since }
    }
}

impl Lifetime {
    /// Whether the connection may take another request for this revision of the destination.
    pub(super) fn allows(&self, revision: u32, now: Instant) -> bool {
        self.revision == revision && now < self.expires_at
    }

    /// Whether the connection, which carries no request, has exceeded the idle timeout.
    pub(super) fn is_idle_too_long(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.idle_since.get()) >= IDLE_TIMEOUT
    }

    /// Counts a request that the connection carries while requests wait on other workers; whether it may carry another.
    pub(super) fn count_contended_request(&self) -> bool {
        let count = self.contended_requests.get() + 1;
        self.contended_requests.set(count);
        count < MAX_CONTENDED_REQUESTS
    }
}
