//! An upstream and its current destination.
//!
//! A destination from the configuration never changes. A discovered upstream has no destination before the first
//! discovery, and each discovery may replace the [`Destination`] as a whole. A request reads the destination once,
//! without a lock, and keeps that destination to its end.

use std::ops::Deref;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use http::HeaderValue;

use super::breaker::Breaker;
use super::connect::Connect;
use super::connections::{ConnectionLimits, Gauges, Shares};
use crate::proxy::limits::slots::Slots;
use crate::token::api_discovery::DiscoverySource;

/// An upstream. All workers share it; each worker has a connection pool of its own for it.
#[derive(Debug)]
pub struct Upstream {
    /// Unique among the upstreams of a route table; a worker's pools are indexed by it.
    pub index: usize,
    /// The file descriptors that connections to all upstreams may use.
    pub descriptors: Arc<Slots>,
    /// The circuit breaker.
    pub breaker: Breaker,
    /// The connection limits.
    pub limits: ConnectionLimits,
    /// The shares of the workers in the connections.
    pub shares: Shares,
    /// The connections and the waiting requests.
    pub gauges: Arc<Gauges>,
    destination: Source,
}

#[derive(Debug)]
enum Source {
    Written(Destination),
    Discovered { current: ArcSwapOption<Destination>, source: DiscoverySource },
}

/// Where requests are sent.
#[derive(Debug)]
pub struct Destination {
    /// Scheme and authority, for example `https://api.example.com`.
    pub origin: String,
    /// The `Host` field value.
    pub host: HeaderValue,
    /// The base path from discovery: empty, or a path that begins with `/` and does not end with one.
    pub base_path: String,
    /// Makes connections.
    pub connect: Box<dyn Connect>,
    /// Incremented with each new destination of the upstream; connections to an earlier one are not reused.
    pub revision: u32,
}

/// The destination of one request; keeps a discovered destination in memory.
#[derive(Debug)]
pub enum CurrentDestination<'a> {
    /// From the configuration.
    Written(&'a Destination),
    /// From discovery.
    Discovered(Arc<Destination>),
}

impl Upstream {
    /// An upstream with a destination from the configuration, without breaker and connection limit.
    pub fn written(index: usize, destination: Destination, descriptors: Arc<Slots>) -> Self {
        Self::new(index, Source::Written(destination), descriptors)
    }

    /// An upstream whose destination is not discovered yet, without breaker and connection limit.
    pub fn discovered(index: usize, source: DiscoverySource, descriptors: Arc<Slots>) -> Self {
        Self::new(index, Source::Discovered { current: ArcSwapOption::empty(), source }, descriptors)
    }

    fn new(index: usize, destination: Source, descriptors: Arc<Slots>) -> Self {
        Self {
            index,
            breaker: Breaker::default(),
            limits: ConnectionLimits::default(),
            shares: Shares::default(),
            gauges: Arc::default(),
            descriptors,
            destination,
        }
    }

    /// Sets the breaker and the connection limits.
    #[must_use]
    pub fn with_limits(self, breaker: Breaker, limits: ConnectionLimits) -> Self {
        Self { breaker, limits, ..self }
    }

    /// The current destination; `None` before the first discovery.
    pub fn current(&self) -> Option<CurrentDestination<'_>> {
        match &self.destination {
            Source::Written(destination) => Some(CurrentDestination::Written(destination)),
            Source::Discovered { current, .. } => current.load_full().map(CurrentDestination::Discovered),
        }
    }

    /// The revision of the current destination; 0 before the first discovery.
    pub fn revision(&self) -> u32 {
        match &self.destination {
            Source::Written(destination) => destination.revision,
            Source::Discovered { current, .. } => current.load().as_ref().map_or(0, |known| known.revision),
        }
    }

    /// The discovery that sets the destination; `None` if the destination is from the configuration.
    pub const fn discovery(&self) -> Option<&DiscoverySource> {
        match &self.destination {
            Source::Written(_) => None,
            Source::Discovered { source, .. } => Some(source),
        }
    }

    /// Replaces the destination of a discovered upstream and resets the breaker; requests in progress keep the earlier
    /// destination. Has no effect if the destination is from the configuration.
    pub fn set_destination(&self, destination: Destination) {
        if let Source::Discovered { current, .. } = &self.destination {
            let revision = self.revision().wrapping_add(1);
            current.store(Some(Arc::new(Destination { revision, ..destination })));
            self.breaker.reset();
        }
    }
}

impl Destination {
    /// A first destination, without a base path.
    pub const fn new(origin: String, host: HeaderValue, connect: Box<dyn Connect>) -> Self {
        Self { origin, host, base_path: String::new(), connect, revision: 0 }
    }
}

impl Deref for CurrentDestination<'_> {
    type Target = Destination;

    fn deref(&self) -> &Destination {
        match self {
            Self::Written(destination) => destination,
            Self::Discovered(destination) => destination,
        }
    }
}
