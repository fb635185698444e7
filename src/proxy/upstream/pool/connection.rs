//! Place, lifetime and guard of the connections of a pool, in both versions of HTTP.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::queue::Queue;
use crate::proxy::limits::slots::Reservation;
use crate::proxy::upstream::connect::socket::Stream;
use crate::proxy::upstream::connections::{ConnectionLimits, Gauges};

/// The largest response head, and the largest buffer of a connection in each direction, in bytes.
pub(super) const MAX_BUFFER: usize = 64 * 1024;
/// The time in which a new connection is expected to be open without a check.
const JUST_MADE: Duration = Duration::from_millis(500);

/// The connections that a worker may have to an upstream.
pub(super) struct Places {
    share: usize,
    taken: Cell<usize>,
    queue: Rc<Queue>,
    /// Counts the connections of all workers.
    gauges: Arc<Gauges>,
}

/// The place of one connection, from before the attempt to connect; free again when dropped.
pub(super) struct Place(Rc<Places>);

/// The place and the file descriptor of a connection; must be kept until the connection has ended.
pub struct ConnectionGuard {
    pub(super) place: Place,
    pub(super) descriptor: Reservation,
}

/// The destination of a connection, and how long the connection is used.
pub(super) struct Lifetime {
    /// The revision of the destination.
    pub(super) revision: u32,
    expires_at: Instant,
    idle_timeout: Cell<Duration>,
    /// When the last request ended; before the first request, when the connection was made.
    pub(super) idle_since: Cell<Instant>,
    is_used: Cell<bool>,
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

impl Places {
    pub(super) fn new(share: usize, queue: Rc<Queue>, gauges: Arc<Gauges>) -> Rc<Self> {
        Rc::new(Self { share, taken: Cell::new(0), queue, gauges })
    }

    /// Whether there are connections, or attempts to connect.
    pub(super) fn are_any_taken(&self) -> bool {
        self.taken.get() > 0
    }

    /// A place, if one is free.
    pub(super) fn take(self: &Rc<Self>) -> Option<Place> {
        let taken = self.taken.get();
        (taken < self.share).then(|| {
            self.taken.set(taken + 1);
            self.gauges.connections.rise();
            Place(Rc::clone(self))
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.set(self.0.taken.get() - 1);
        self.0.gauges.connections.fall();
        self.0.queue.wake();
    }
}

impl Lifetime {
    /// The lifetime of a new connection to this revision of the destination.
    pub(super) fn new(limits: &ConnectionLimits, revision: u32) -> Self {
        let now = Instant::now();
        Self {
            revision,
            expires_at: now + limits.age(),
            idle_timeout: Cell::new(limits.idle_timeout),
            idle_since: Cell::new(now),
            is_used: Cell::new(false),
        }
    }

    /// Whether the connection may take another request for this revision of the destination.
    pub(super) fn allows(&self, revision: u32, now: Instant) -> bool {
        self.revision == revision && now < self.expires_at
    }

    /// Whether the connection, which carries no request, has exceeded the idle timeout.
    pub(super) fn is_idle_too_long(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.idle_since.get()) >= self.idle_timeout.get()
    }

    /// Shortens the idle timeout.
    pub(super) fn limit_idle_time(&self, timeout: Duration) {
        self.idle_timeout.set(timeout.min(self.idle_timeout.get()));
    }

    /// Whether the connection was made a moment ago and carried no request. Such a connection is not checked before its
    /// first request, which reports its failure: an upstream that closes new connections would otherwise be connected to
    /// without end.
    pub(super) fn is_just_made(&self, now: Instant) -> bool {
        !self.is_used.get() && now.saturating_duration_since(self.idle_since.get()) <= JUST_MADE
    }

    /// Notes a request; returns whether another one was before.
    pub(super) fn begin_use(&self) -> bool {
        self.is_used.replace(true)
    }
}
