//! What every connection of a pool has: bounds, what it takes of what is bounded, and what becomes of it when it switches
//! to another protocol.

use std::time::Duration;

use bytes::Bytes;

use crate::proxy::limits::slots::Seat;
use crate::proxy::upstream::connect::socket::Stream;
use crate::proxy::upstream::permits::Place;

/// The largest response head, and how much is read ahead of a slow caller over HTTP/1.1 or buffered for an upstream.
pub(super) const MAX_BUFFER: usize = 64 * 1024;
/// Below what servers and load balancers usually allow a connection to lie idle.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// What a connection takes of what there may only be so much of, for as long as it is.
#[derive(Debug)]
pub struct Held {
    /// Among the upstream's connections.
    pub(super) place: Place,
    pub(super) _descriptor: Seat,
}

/// A connection that has switched to another protocol.
pub struct Switched {
    /// The bytes themselves.
    pub stream: Box<dyn Stream>,
    /// What has come already.
    pub first: Bytes,
    /// To be kept as long as the stream.
    pub held: Held,
}
