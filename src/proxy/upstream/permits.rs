//! The limit on the connections to one upstream, which all workers share.
//!
//! A connection holds a [`ConnectionPermit`] from before the attempt to connect until its end, also while idle.
//! Requests that find no permit wait in the order of their arrival, each at most for the connect timeout.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Requests that may wait for one upstream; further requests fail at once. Envoy's default for pending requests.
const MAX_WAITERS: usize = 1024;
/// The random part of a connection's age, as a fraction: connections made together do not all end together.
const AGE_JITTER: f64 = 0.1;

/// The permits for connections to one upstream.
#[derive(Debug)]
pub struct Permits {
    semaphore: Arc<Semaphore>,
    waiters: AtomicUsize,
    /// Notified when a request joins the queue.
    pub waiter_joined: Notify,
    /// How long a request may wait for a connection.
    pub wait_timeout: Duration,
    max_age: Duration,
}

/// The right to have one connection; returned when dropped.
#[derive(Debug)]
pub struct ConnectionPermit {
    _permit: OwnedSemaphorePermit,
    /// From when on the connection takes no further requests.
    pub expires_at: Instant,
}

/// A request in the queue for a permit; dropping it leaves the queue.
#[derive(Debug)]
pub struct Waiter<'p>(&'p Permits);

impl Permits {
    /// Allows `connections` at once. A connection takes requests for `max_age` or up to 10 % less; a request waits for
    /// `wait_timeout`.
    pub fn new(connections: usize, max_age: Duration, wait_timeout: Duration) -> Self {
        Self {
            semaphore: Arc::new(Semaphore::new(connections.min(Semaphore::MAX_PERMITS))),
            waiters: AtomicUsize::new(0),
            waiter_joined: Notify::new(),
            wait_timeout,
            max_age,
        }
    }

    /// A permit, if one is free and no request waits for a permit.
    pub fn try_acquire(&self) -> Option<ConnectionPermit> {
        Arc::clone(&self.semaphore).try_acquire_owned().ok().map(|permit| self.connection_permit(permit))
    }

    /// Joins the queue; `None` if 1024 requests are in the queue.
    pub fn join_queue(&self) -> Option<Waiter<'_>> {
        let one_more = |waiters| (waiters < MAX_WAITERS).then_some(waiters + 1);
        self.waiters.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more).ok()?;
        let waiter = Waiter(self);
        self.waiter_joined.notify_waiters();
        Some(waiter)
    }

    /// The number of requests in the queue, from all workers.
    pub fn waiters(&self) -> usize {
        self.waiters.load(Ordering::SeqCst)
    }

    fn connection_permit(&self, permit: OwnedSemaphorePermit) -> ConnectionPermit {
        let age = self.max_age.mul_f64(1.0 - AGE_JITTER * fastrand::f64());
        ConnectionPermit { _permit: permit, expires_at: Instant::now() + age }
    }
}

impl Waiter<'_> {
    /// The next permit, in the order of arrival. Dropping the future gives up the position in the queue.
    pub async fn acquire(&self) -> ConnectionPermit {
        match Arc::clone(&self.0.semaphore).acquire_owned().await {
            Ok(permit) => self.0.connection_permit(permit),
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.waiters.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Default for Permits {
    /// No limit, an age of one hour, a wait of five seconds.
    fn default() -> Self {
        Self::new(usize::MAX, Duration::from_hours(1), Duration::from_secs(5))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn permits_are_granted_in_the_order_of_arrival() {
        let permits = Permits::new(1, Duration::from_secs(10), Duration::from_secs(1));
        let held = permits.try_acquire().unwrap();
        assert!(permits.try_acquire().is_none());
        let (first, second, third) =
            (permits.join_queue().unwrap(), permits.join_queue().unwrap(), permits.join_queue().unwrap());
        let mut waits = [Box::pin(first.acquire()), Box::pin(second.acquire()), Box::pin(third.acquire())];
        assert!(waits.iter_mut().all(|wait| wait.now_or_never().is_none()));
        let [first, second, mut third] = waits;
        drop(second);
        drop(held);

        assert!(permits.try_acquire().is_none(), "a new request does not overtake the queue");
        assert!(third.as_mut().now_or_never().is_none());
        drop(first.await);
        assert!(third.now_or_never().is_some(), "a request that left the queue gets no permit");
    }

    #[tokio::test]
    async fn the_queue_is_bounded_and_a_request_that_leaves_it_makes_room() {
        let permits = Permits::new(1, Duration::from_secs(10), Duration::from_secs(1));
        let mut all: Vec<_> = (0..MAX_WAITERS).map(|_| permits.join_queue().unwrap()).collect();
        assert!(permits.join_queue().is_none());

        all.pop();

        assert_eq!(permits.waiters(), MAX_WAITERS - 1);
        assert!(permits.join_queue().is_some());
    }

    #[tokio::test]
    async fn connections_expire_at_different_times_within_the_last_tenth_of_their_age() {
        let permits = Permits::new(100, Duration::from_secs(100), Duration::from_secs(1));
        let before = Instant::now();
        let permits: Vec<_> = (0..100).map(|_| permits.try_acquire().unwrap()).collect();
        let after = Instant::now();

        assert!(permits.iter().all(|permit| permit.expires_at > before + Duration::from_secs(90)));
        assert!(permits.iter().all(|permit| permit.expires_at <= after + Duration::from_secs(100)));
        let middle = after + Duration::from_secs(95);
        assert!(permits.iter().any(|permit| permit.expires_at <= middle));
        assert!(permits.iter().any(|permit| permit.expires_at > middle));
    }
}
