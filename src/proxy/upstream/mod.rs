//! An upstream that requests can be sent to: where it is, for good or for now.
//!
//! One that is written in the configuration stays where it is. One that is discovered is somewhere once the discovery
//! has found it, and may move: what publishes the address puts a new [`Destination`] in the place of the old one, and
//! a request reads it once, without a lock, and keeps to it.

pub mod breaker;
pub mod connect;
pub mod forward;
pub mod permits;
pub mod pool;
pub mod reconnect;

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use http::HeaderValue;

use self::breaker::Breaker;
use self::connect::Connect;
use self::permits::Permits;
use super::limits::slots::Slots;
use crate::token::api_discovery::DiscoverySource;

/// An upstream: shared by all workers, each with a pool of its own.
#[derive(Debug)]
pub struct Upstream {
    /// No other of its table has it; a worker finds its pool by it.
    pub index: usize,
    /// File descriptors that connections to all upstreams may take.
    pub descriptors: Arc<Slots>,
    /// Whether it is worth a request.
    pub breaker: Breaker,
    /// What connections it may have.
    pub permits: Permits,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Written(Destination),
    Discovered { current: ArcSwapOption<Destination>, source: DiscoverySource },
}

/// A place that requests go to.
pub struct Destination {
    /// Its scheme and authority, as in `https://api.example.com`.
    pub origin: String,
    /// `Host` for it.
    pub host: HeaderValue,
    /// What the discovery says is in front of each path; empty or `/…` without a slash at its end.
    pub path_in_front: String,
    /// Makes connections to it.
    pub connect: Box<dyn Connect>,
    /// Which of the upstream's places this is: connections to another are of no use.
    pub number: u32,
}

/// Where an upstream is as a request sees it; holds it in memory as long as it lives.
#[derive(Debug)]
pub enum Current<'a> {
    /// For good.
    Written(&'a Destination),
    /// For now.
    Discovered(Arc<Destination>),
}

impl Upstream {
    /// One that stays where it is.
    pub fn written(index: usize, destination: Destination, descriptors: Arc<Slots>) -> Self {
        Self::at(index, Place::Written(destination), descriptors)
    }

    /// One that is nowhere yet.
    pub fn discovered(index: usize, source: DiscoverySource, descriptors: Arc<Slots>) -> Self {
        Self::at(index, Place::Discovered { current: ArcSwapOption::empty(), source }, descriptors)
    }

    fn at(index: usize, place: Place, descriptors: Arc<Slots>) -> Self {
        Self { index, breaker: Breaker::default(), permits: Permits::default(), descriptors, place }
    }

    /// The same, spared by these.
    #[must_use]
    pub fn protected(self, breaker: Breaker, permits: Permits) -> Self {
        Self { breaker, permits, ..self }
    }

    /// Where it is, if that is known.
    pub fn current(&self) -> Option<Current<'_>> {
        match &self.place {
            Place::Written(destination) => Some(Current::Written(destination)),
            Place::Discovered { current, .. } => current.load_full().map(Current::Discovered),
        }
    }

    /// The number of its place; 0 while there is none.
    pub fn number(&self) -> u32 {
        match &self.place {
            Place::Written(destination) => destination.number,
            Place::Discovered { current, .. } => current.load().as_ref().map_or(0, |current| current.number),
        }
    }

    /// What says where it is, where that is discovered.
    pub const fn discovery(&self) -> Option<&DiscoverySource> {
        match &self.place {
            Place::Written(_) => None,
            Place::Discovered { source, .. } => Some(source),
        }
    }

    /// Sends new requests there from now on, if it is one that moves. Those under way end where they are.
    pub fn lead_to(&self, destination: Destination) {
        if let Place::Discovered { current, .. } = &self.place {
            let number = self.number().wrapping_add(1);
            current.store(Some(Arc::new(Destination { number, ..destination })));
            self.breaker.reset();
        }
    }
}

impl Deref for Current<'_> {
    type Target = Destination;

    fn deref(&self) -> &Destination {
        match self {
            Self::Written(destination) => destination,
            Self::Discovered(destination) => destination,
        }
    }
}

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Destination")
            .field("origin", &self.origin)
            .field("number", &self.number)
            .field("connect", &self.connect)
            .finish_non_exhaustive()
    }
}
