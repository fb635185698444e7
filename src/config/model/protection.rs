//! What protects an upstream from its callers, and callers from an upstream that does not answer.

use std::time::Duration;

/// How an upstream is spared. Routes that differ in it have connections, and a breaker, of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protection {
    /// The most connections at once, of all workers together.
    pub connections: usize,
    /// How long one is used for new requests.
    pub connection_age: Duration,
    /// When no request is sent; `None` is never.
    pub breaker: Option<Breaker>,
}

/// When an upstream is taken to be down, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breaker {
    /// At least so many failures within the window.
    pub failures: u32,
    /// And at least so many of a hundred answers.
    pub percent: u8,
    /// The time over which both are counted.
    pub window: Duration,
    /// The first pause; it doubles.
    pub open: Duration,
    /// The longest.
    pub open_max: Duration,
}

/// What is done about a 429; by default nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retry429 {
    /// How often a request may be sent again; 0 is never.
    pub attempts: u32,
    /// How long it may wait for that, in all.
    pub max_wait: Duration,
}
