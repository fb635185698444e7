//! How many connections an upstream may have, of all workers together, and until when each is used.
//!
//! A connection holds its [`Place`] from before it is made until it has ended, idle or not. Who finds all places taken
//! waits, as long as a connection may take to be made: the pool hands on what comes free on the same worker, and this
//! gives the place of what has ended anywhere to whoever has waited longest.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::futures::Notified;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Requests that wait for one upstream; more are turned away at once. As many as Envoy lets wait.
const MOST_WAITING: usize = 1024;
/// How many requests in a row a connection carries on its worker while others wait on another. Then its place goes to
/// whoever has waited longest; sooner would make a new connection of every request.
const TURNS: u32 = 16;
/// Of a connection's age, at random: not all of them end at the same moment.
const JITTER: f64 = 0.1;

/// The places of one upstream's connections.
#[derive(Debug)]
pub struct Permits {
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
    /// Told when somebody begins to wait.
    wanted: Notify,
    wait: Duration,
    age: Duration,
}

/// A connection's place.
#[derive(Debug)]
pub struct Place {
    _permit: OwnedSemaphorePermit,
    /// When it is given no more requests.
    ends: Instant,
    turns: Turns,
}

/// Requests that a connection has carried while somebody waited elsewhere.
#[derive(Debug, Default)]
pub struct Turns(Cell<u32>);

/// Somebody waits; dropped when they no longer do.
#[derive(Debug)]
pub struct Waiting<'p>(&'p Permits);

impl Permits {
    /// For so many connections, each used for `age` at the most; who finds none waits for `wait`.
    pub fn new(connections: usize, age: Duration, wait: Duration) -> Self {
        Self {
            places: Arc::new(Semaphore::new(connections.min(Semaphore::MAX_PERMITS))),
            waiting: AtomicUsize::new(0),
            wanted: Notify::new(),
            wait,
            age,
        }
    }

    /// A place that nobody has, if there is one.
    pub fn place(&self) -> Option<Place> {
        Arc::clone(&self.places).try_acquire_owned().ok().map(|permit| self.of(permit))
    }

    /// Begins to wait, unless too many do.
    pub fn queue_up(&self) -> Option<Waiting<'_>> {
        let one_more = |waiting| (waiting < MOST_WAITING).then_some(waiting + 1);
        self.waiting.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more).ok()?;
        let waiting = Waiting(self);
        self.wanted.notify_waiters();
        Some(waiting)
    }

    /// How many wait, on all workers.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Resolves when somebody begins to wait.
    pub fn wanted(&self) -> Notified<'_> {
        self.wanted.notified()
    }

    /// How long a request may wait.
    pub const fn wait(&self) -> Duration {
        self.wait
    }

    fn of(&self, permit: OwnedSemaphorePermit) -> Place {
        let age = self.age.mul_f64(1.0 - JITTER * fastrand::f64());
        Place { _permit: permit, ends: Instant::now() + age, turns: Turns::default() }
    }
}

impl Waiting<'_> {
    /// The next place, in the order of those who wait for one; never, if there will be none.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the queue.
    pub async fn place(&self) -> Place {
        match Arc::clone(&self.0.places).acquire_owned().await {
            Ok(permit) => self.0.of(permit),
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Place {
    /// Whether the connection is too old for another request.
    pub fn is_over(&self, now: Instant) -> bool {
        now >= self.ends
    }

    /// When the connection is given no more requests.
    pub const fn ends(&self) -> Instant {
        self.ends
    }

    /// Whether the connection may serve another of its own worker's requests while somebody waits elsewhere.
    pub fn take_turn(&self) -> bool {
        self.turns.take()
    }
}

impl Turns {
    /// One more; whether there may be another.
    pub fn take(&self) -> bool {
        self.0.set(self.0.get() + 1);
        self.0.get() < TURNS
    }
}

impl Default for Permits {
    /// As many as anyone wants, for as long.
    fn default() -> Self {
        Self::new(usize::MAX, Duration::from_hours(1), Duration::from_secs(5))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn places_are_given_in_the_order_of_those_who_wait() {
        let permits = Permits::new(1, Duration::from_secs(10), Duration::from_secs(1));
        let held = permits.place().unwrap();
        assert!(permits.place().is_none());
        let (first, second, third) =
            (permits.queue_up().unwrap(), permits.queue_up().unwrap(), permits.queue_up().unwrap());
        let mut waits = [Box::pin(first.place()), Box::pin(second.place()), Box::pin(third.place())];
        assert!(waits.iter_mut().all(|wait| wait.now_or_never().is_none()));
        let [first, second, mut third] = waits;
        drop(second);
        drop(held);

        assert!(permits.place().is_none(), "nobody comes before those who wait");
        assert!(third.as_mut().now_or_never().is_none());
        drop(first.await);
        assert!(third.now_or_never().is_some(), "who left is not waited for");
    }

    #[tokio::test]
    async fn no_more_wait_than_may_and_whoever_leaves_makes_room() {
        let permits = Permits::new(1, Duration::from_secs(10), Duration::from_secs(1));
        let mut all: Vec<_> = (0..MOST_WAITING).map(|_| permits.queue_up().unwrap()).collect();
        assert!(permits.queue_up().is_none());

        all.pop();

        assert_eq!(permits.waiting(), MOST_WAITING - 1);
        assert!(permits.queue_up().is_some());
    }

    #[tokio::test]
    async fn connections_end_at_their_age_or_up_to_a_tenth_earlier_and_not_all_at_once() {
        let permits = Permits::new(100, Duration::from_secs(100), Duration::from_secs(1));
        let before = Instant::now();
        let places: Vec<_> = (0..100).map(|_| permits.place().unwrap()).collect();
        let after = Instant::now();

        assert!(places.iter().all(|place| !place.is_over(before + Duration::from_secs(90))));
        assert!(places.iter().all(|place| place.is_over(after + Duration::from_secs(100))));
        let middle = after + Duration::from_secs(95);
        assert!(places.iter().any(|place| place.is_over(middle)));
        assert!(places.iter().any(|place| !place.is_over(middle)));
    }
}
