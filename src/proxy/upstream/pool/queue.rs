//! The requests of a worker that wait for a connection to an upstream, in the order of their arrival.
//!
//! Whatever comes free calls the first request that is not called yet, and a called request looks for a connection. Each
//! request is called for itself: if one request called the next, a long queue would take as many turns of the runtime.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::timeout;

use crate::proxy::upstream::connections::Gauges;

/// Requests that may wait besides one for each connection; further requests fail at once. Envoy's default for pending
/// requests.
const MAX_WAITING: usize = 1024;
/// The first request looks again after this time even if nothing came free, because a new connection may be possible.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The waiting requests.
pub(super) struct Queue {
    /// By the order of arrival.
    waiting: RefCell<BTreeMap<u64, Ticket>>,
    /// The number of the next request.
    next: Cell<u64>,
    /// Requests with smaller numbers are called, and some of the others may be.
    uncalled: Cell<u64>,
    /// Counts the waiting requests of all workers.
    gauges: Arc<Gauges>,
    max_waiting: usize,
}

#[derive(Default)]
struct Ticket {
    is_called: bool,
    waker: Option<Waker>,
}

/// A waiting request; leaves the queue when dropped.
pub(super) struct Waiter<'q> {
    queue: &'q Queue,
    number: u64,
}

impl Queue {
    /// An empty queue for a worker that may have so many connections.
    pub(super) fn new(connections: usize, gauges: Arc<Gauges>) -> Self {
        Self {
            waiting: RefCell::default(),
            next: Cell::default(),
            uncalled: Cell::default(),
            gauges,
            max_waiting: connections.saturating_add(MAX_WAITING),
        }
    }

    /// How many requests wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.borrow().len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Joins the end; `None` if too many requests wait.
    pub(super) fn join(&self) -> Option<Waiter<'_>> {
        if self.len() >= self.max_waiting {
            return None;
        }
        let number = self.next.replace(self.next.get() + 1);
        self.waiting.borrow_mut().insert(number, Ticket::default());
        self.gauges.waiting.rise();
        Some(Waiter { queue: self, number })
    }

    /// Calls the first request that is not called yet.
    pub(super) fn wake(&self) {
        self.call_next();
    }

    /// Calls all requests.
    pub(super) fn wake_all(&self) {
        while self.call_next() {}
    }

    /// Whether there was a request to call.
    fn call_next(&self) -> bool {
        let mut waiting = self.waiting.borrow_mut();
        let mut uncalled = waiting.range_mut(self.uncalled.get()..).filter(|(_, ticket)| !ticket.is_called);
        let Some((number, ticket)) = uncalled.next() else { return false };
        self.uncalled.set(number + 1);
        ticket.is_called = true;
        if let Some(waker) = ticket.waker.take() {
            waker.wake();
        }
        true
    }
}

impl Waiter<'_> {
    /// Whether no other request has waited for longer.
    pub(super) fn is_first(&self) -> bool {
        self.queue.waiting.borrow().first_key_value().is_some_and(|(number, _)| *number == self.number)
    }

    /// Waits to be called, because a connection may have come free.
    pub(super) async fn call(&self) {
        while timeout(LOOK_AGAIN, poll_fn(|cx| self.poll_call(cx))).await.is_err() && !self.is_first() {}
    }

    fn poll_call(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut waiting = self.queue.waiting.borrow_mut();
        let Some(ticket) = waiting.get_mut(&self.number) else { return Poll::Ready(()) };
        if !mem::take(&mut ticket.is_called) {
            ticket.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        // If it finds nothing, it is the first to be called again.
        self.queue.uncalled.set(self.queue.uncalled.get().min(self.number));
        Poll::Ready(())
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let ticket = self.queue.waiting.borrow_mut().remove(&self.number);
        self.queue.gauges.waiting.fall();
        // What the call was about is left to another request.
        if ticket.is_some_and(|ticket| ticket.is_called) {
            self.queue.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn queue(connections: usize) -> Queue {
        Queue::new(connections, Arc::default())
    }

    /// Which of the requests are called, and look.
    fn called(all: &[Waiter<'_>]) -> Vec<bool> {
        all.iter().map(|waiter| waiter.call().now_or_never().is_some()).collect()
    }

    #[tokio::test]
    async fn each_wake_calls_one_request_in_the_order_of_arrival() {
        let queue = queue(1);
        let all: Vec<_> = (0..4).map(|_| queue.join().unwrap()).collect();
        assert_eq!(called(&all), [false; 4]);

        queue.wake();
        queue.wake();
        assert_eq!(called(&all), [true, true, false, false]);

        // They have found nothing, and are called first again.
        queue.wake();
        assert_eq!(called(&all), [true, false, false, false]);

        queue.wake_all();
        assert_eq!(called(&all), [true; 4]);
        assert_eq!(called(&all), [false; 4]);
    }

    #[tokio::test]
    async fn a_request_that_is_called_already_takes_no_call_from_another() {
        let queue = queue(1);
        let all: Vec<_> = (0..3).map(|_| queue.join().unwrap()).collect();
        queue.wake();
        queue.wake();
        // The first looks in vain, while the second has not run yet.
        assert!(all[0].call().now_or_never().is_some());

        queue.wake();
        queue.wake();

        assert_eq!(called(&all), [true; 3]);
    }

    #[tokio::test]
    async fn the_call_of_a_request_that_leaves_goes_to_the_next() {
        let queue = queue(1);
        let mut all: Vec<_> = (0..3).map(|_| queue.join().unwrap()).collect();
        assert!(all[0].is_first() && !all[1].is_first());
        queue.wake();

        drop(all.remove(0));

        assert!(all[0].is_first());
        assert_eq!(called(&all), [true, false]);
        drop(all.remove(0));
        assert_eq!(called(&all), [false]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_wakes_the_request_that_waits_for_it() {
        let queue = queue(1);
        let (first, second) = (queue.join().unwrap(), queue.join().unwrap());
        let wakes = async {
            tokio::task::yield_now().await;
            queue.wake_all();
        };

        let began = tokio::time::Instant::now();
        tokio::join!(first.call(), second.call(), wakes);

        assert!(began.elapsed() < LOOK_AGAIN);
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_first_looks_again_when_nothing_came_free() {
        let queue = queue(1);
        let (first, second) = (queue.join().unwrap(), queue.join().unwrap());

        tokio::select! {
            biased;
            () = second.call() => panic!("the second is not called"),
            () = first.call() => {}
        }
        drop(first);

        assert!(timeout(2 * LOOK_AGAIN, second.call()).await.is_ok());
    }

    #[tokio::test]
    async fn the_queue_is_bounded_and_a_request_that_leaves_makes_room() {
        let queue = queue(3);
        let mut all: Vec<_> = (0..MAX_WAITING + 3).map(|_| queue.join().unwrap()).collect();
        assert!(queue.join().is_none());

        all.pop();

        assert_eq!((queue.len(), queue.gauges.waiting.get()), (MAX_WAITING + 2, MAX_WAITING + 2));
        assert!(queue.join().is_some());
    }
}
