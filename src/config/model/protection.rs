//! Protection of an upstream against overload: connection limits, circuit breaker, retry of a 429.

use std::time::Duration;

use http::Method;

/// Connection limits and circuit breaker. Routes with different settings share neither connections nor breaker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protection {
    /// Most concurrent connections, over all workers.
    pub connections: usize,
    /// Age up to which a connection takes new requests.
    pub connection_age: Duration,
    /// How long a connection is kept without requests.
    pub idle_timeout: Duration,
    /// The circuit breaker; `None` for none.
    pub breaker: Option<Breaker>,
}

/// When a circuit breaker opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breaker {
    /// Least number of failures within the window.
    pub failures: u32,
    /// Least share of failures among the responses in the window, in percent.
    pub percent: u8,
    /// The time over which failures are counted.
    pub window: Duration,
    /// The first pause. Each further pause doubles.
    pub open: Duration,
    /// The longest pause.
    pub open_max: Duration,
}

/// Retries after a 429; by default none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retry429 {
    /// Most retries of a request; 0 for none.
    pub attempts: u32,
    /// Longest total wait of a request.
    pub max_wait: Duration,
    /// The methods that are retried.
    pub methods: Vec<Method>,
}
