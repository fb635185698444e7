//! The requests of a worker that wait for a connection to an upstream, in the order of their arrival.
//!
//! Only the first looks for a connection, each time one may have come free. A request that arrives while others wait
//! goes to the end.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::timeout;

use crate::proxy::upstream::connections::Gauges;

/// Requests that may wait besides one for each connection; further requests fail at once. Envoy's default for pending
/// requests.
const MAX_WAITING: usize = 1024;
/// The first request looks again after this time even if nothing came free, because a new connection may be possible.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The waiting requests.
pub(super) struct Queue {
    waiting: Cell<usize>,
    /// Counts the waiting requests of all workers.
    gauges: Arc<Gauges>,
    max_waiting: usize,
    /// One permit, for the first: the semaphore serves in the order of arrival.
    turn: Semaphore,
    /// Notified when the first may find a connection.
    changed: Notify,
}

/// A waiting request; leaves the queue when dropped.
pub(super) struct Waiter<'q>(&'q Queue);

/// The first request in the queue.
pub(super) struct First<'q> {
    changed: &'q Notify,
    _turn: Option<SemaphorePermit<'q>>,
}

impl Queue {
    /// An empty queue for a worker that may have so many connections.
    pub(super) fn new(connections: usize, gauges: Arc<Gauges>) -> Self {
        Self {
            waiting: Cell::new(0),
            gauges,
            max_waiting: connections.saturating_add(MAX_WAITING),
            turn: Semaphore::new(1),
            changed: Notify::new(),
        }
    }

    /// How many requests wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.get()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Joins the end; `None` if too many requests wait.
    pub(super) fn join(&self) -> Option<Waiter<'_>> {
        if self.len() >= self.max_waiting {
            return None;
        }
        self.waiting.set(self.len() + 1);
        self.gauges.waiting.rise();
        Some(Waiter(self))
    }

    /// Lets the first look again.
    pub(super) fn wake(&self) {
        if !self.is_empty() {
            self.changed.notify_one();
        }
    }
}

impl<'q> Waiter<'q> {
    /// Waits to be the first.
    pub(super) async fn turn(&self) -> First<'q> {
        // Never closed.
        First { changed: &self.0.changed, _turn: self.0.turn.acquire().await.ok() }
    }
}

impl First<'_> {
    /// Waits until a connection may have come free.
    pub(super) async fn change(&self) {
        let _ = timeout(LOOK_AGAIN, self.changed.notified()).await;
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.len() - 1);
        self.0.gauges.waiting.fall();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn the_order_of_arrival_holds_and_a_request_that_leaves_is_skipped() {
        let queue = Queue::new(1, Arc::default());
        let all = [queue.join().unwrap(), queue.join().unwrap(), queue.join().unwrap()];
        let [first, second, third] = &all;
        let held = first.turn().now_or_never().expect("nobody is before it");
        let (mut one, mut two) = (Box::pin(second.turn()), Box::pin(third.turn()));
        assert!(one.as_mut().now_or_never().is_none() && two.as_mut().now_or_never().is_none());

        drop(one);
        drop(held);

        assert!(two.now_or_never().is_some());
    }

    #[tokio::test]
    async fn the_queue_is_bounded_and_a_request_that_leaves_makes_room() {
        let queue = Queue::new(3, Arc::default());
        let mut all: Vec<_> = (0..MAX_WAITING + 3).map(|_| queue.join().unwrap()).collect();
        assert!(queue.join().is_none());

        all.pop();

        assert_eq!((queue.len(), queue.gauges.waiting.get()), (MAX_WAITING + 2, MAX_WAITING + 2));
        assert!(queue.join().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_before_the_wait_is_not_lost() {
        let queue = Queue::new(1, Arc::default());
        let waiter = queue.join().unwrap();
        let first = waiter.turn().await;

        queue.wake();

        assert!(first.change().now_or_never().is_some());
        assert!(first.change().now_or_never().is_none());
    }
}
