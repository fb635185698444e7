//! The limits of the connections to one upstream.
//!
//! Each worker has an equal share of the connections, and its requests never wait for another worker. A worker may always
//! have one connection: with fewer connections than workers, some workers could otherwise reach no upstream.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The random part of a connection's age, as a fraction: connections made together do not all end together.
const AGE_JITTER: f64 = 0.1;

/// The limits of the connections to one upstream.
#[derive(Debug)]
pub struct ConnectionLimits {
    /// Connections of all workers together.
    pub connections: usize,
    /// The number of workers.
    pub workers: usize,
    /// Age up to which a connection takes requests.
    pub max_age: Duration,
    /// How long a connection is kept without requests.
    pub idle_timeout: Duration,
    /// How long a request may wait for a connection.
    pub wait_timeout: Duration,
}

/// The connections and the waiting requests of all workers, for operators. Counted when a connection opens or closes, and
/// when a request finds no free connection.
#[derive(Debug, Default)]
pub struct Gauges {
    /// Connections that are open or being made.
    pub connections: Gauge,
    /// Requests that wait for a connection.
    pub waiting: Gauge,
}

/// A number that rises and falls.
#[derive(Debug, Default)]
pub struct Gauge(AtomicUsize);

impl Gauge {
    /// The number now.
    pub fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Adds one.
    pub fn rise(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes one away.
    pub fn fall(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Divides the connections among the workers.
#[derive(Debug, Default)]
pub struct Shares(AtomicUsize);

impl ConnectionLimits {
    /// The age up to which one connection takes requests: the maximum age or up to 10 % less.
    pub fn age(&self) -> Duration {
        self.max_age.mul_f64(1.0 - AGE_JITTER * fastrand::f64())
    }

    /// The connections that the worker with this number may have.
    fn share(&self, worker: usize) -> usize {
        let remainder = self.connections % self.workers;
        (self.connections / self.workers + usize::from(worker < remainder)).max(1)
    }
}

impl Shares {
    /// The share of one more worker.
    pub fn next(&self, limits: &ConnectionLimits) -> usize {
        limits.share(self.0.fetch_add(1, Ordering::Relaxed) % limits.workers)
    }
}

impl Default for ConnectionLimits {
    /// One worker without a limit, an age of one hour, and the default timeouts.
    fn default() -> Self {
        Self {
            connections: usize::MAX,
            workers: 1,
            max_age: Duration::from_hours(1),
            idle_timeout: Duration::from_secs(30),
            wait_timeout: Duration::from_secs(5),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_add_up_to_all_connections_and_none_is_empty() {
        for (connections, workers, expected) in
            [(256, 8, vec![32; 8]), (10, 4, vec![3, 3, 2, 2]), (4, 4, vec![1; 4]), (1, 3, vec![1; 3])]
        {
            let limits = ConnectionLimits { connections, workers, ..ConnectionLimits::default() };
            let shares = Shares::default();

            let all: Vec<_> = (0..workers).map(|_| shares.next(&limits)).collect();

            assert_eq!(all, expected, "{connections} connections of {workers} workers");
        }
    }

    #[test]
    fn connections_expire_at_different_times_within_the_last_tenth_of_their_age() {
        let limits = ConnectionLimits { max_age: Duration::from_secs(100), ..ConnectionLimits::default() };
        let ages: Vec<_> = (0..100).map(|_| limits.age()).collect();

        assert!(ages.iter().all(|age| (90..=100).contains(&age.as_secs())));
        let middle = Duration::from_secs(95);
        assert!(ages.iter().any(|age| *age <= middle) && ages.iter().any(|age| *age > middle));
    }
}
